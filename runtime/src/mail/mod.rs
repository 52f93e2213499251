//! Mail between the cores of a node: bounded, without locks, one wake per turn and target.
//!
//! A message goes into the queue of its pair of cores at once; at the end of the sender's turn each target's doorbell is
//! rung once, and only a sleeping target is woken.

mod link;
mod owned;
mod port;
mod ring;
mod room;
mod service;

pub use port::{Port, mesh};
pub(crate) use room::MailRoom;
pub use service::{Call, Service, service};

/// Messages that may be under way from one core to another, in one mesh or service. A power of two.
pub const MAIL_CREDITS: usize = 1024;
