//! Sockets as the doors see them: a listener on every core, connections with frames, and the limits that keep a peer from
//! costing more than it has sent.
//!
//! Every core binds a [`Door`] and gets a [`Connection`] per accepted socket, on the core that accepted it. A protocol takes
//! frames with [`FrameReader::read_frame`] and answers with [`Writer::write`]; the two halves are for two tasks.
#![forbid(unsafe_code)]

mod connection;
mod counters;
mod error;
mod frame;
pub mod limits;
mod listen;
mod memory;
mod segment;
mod sweep;

pub use connection::{ByteReader, Connection, FrameReader, Writer};
pub use counters::{Counter, DoorCounters};
pub use error::{CloseReason, FrameError, WriteError};
pub use frame::{Direct, FrameAssembler};
pub use listen::{ConnectionLimit, Door, DoorConfig, Timeouts};
pub use memory::ReceiveMemory;
pub use segment::{FileRange, Segment};
