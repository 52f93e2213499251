//! The log engine: partitions of Kafka RecordBatch v2, the commit log, segments, indexes, recovery, and the state that
//! belongs to a partition. Knows bytes, offsets and the batch layout; no protocol, no socket, no cluster.

pub mod api;
pub mod batch;
pub mod crc;
mod engine;
pub mod epochs;
pub mod ids;
pub mod layout;
pub mod producer;
pub mod records;
pub mod recovery_scan;
pub mod table;
pub mod table_store;
pub mod time_index;

pub use api::*;
pub use engine::Engine;
