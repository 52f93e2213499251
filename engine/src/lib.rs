//! The log engine: partitions of Kafka RecordBatch v2, the commit log, segments, indexes, recovery, and the state that
//! belongs to a partition. Knows bytes, offsets and the batch layout; no protocol, no socket, no cluster.

pub mod api;
mod engine;
pub mod ids;

pub use api::*;
pub use engine::Engine;
