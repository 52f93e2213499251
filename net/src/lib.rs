//! Sockets as the doors see them: a listener on every core, connections with frames, and the limits that keep a peer from
//! costing more than it has sent.
//!
//! A door calls [`listen`] on every core and gets a [`Connection`] per accepted socket, on the core that accepted it. It takes
//! frames with [`FrameReader::read_frame`] and answers with [`Writer::write`]; the two halves are for two tasks.
#![forbid(unsafe_code)]

mod connection;
mod counters;
mod error;
mod frame;
mod listen;
mod segment;

pub use connection::{Connection, FrameReader, Writer};
pub use counters::DoorCounters;
pub use error::{CloseReason, FrameError, WriteError};
pub use frame::FrameAssembler;
pub use listen::{ConnectionLimit, ListenConfig, listen};
pub use segment::{FileRange, Segment};
