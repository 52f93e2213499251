//! The log engine: partitions of Kafka RecordBatch v2, the commit log, segments, indexes, recovery, and the state that
//! belongs to a partition. Knows bytes, offsets and the batch layout; no protocol, no socket, no cluster.

mod ack;
mod admin;
pub mod api;
mod append;
pub mod batch;
mod checkpoint;
mod commit_log;
mod committer;
pub mod crc;
mod data_dir;
mod direct;
mod engine;
pub mod epochs;
mod files;
mod flush;
mod head_load;
pub mod ids;
pub mod layout;
mod lookup;
pub mod mutations;
mod node;
mod pace;
mod partition;
mod place;
pub mod producer;
mod read;
mod read_view;
pub mod records;
mod recovery;
pub mod recovery_scan;
mod replay;
mod retention;
mod scrub;
mod segment;
mod shard;
mod store;
pub mod table;
pub mod table_store;
mod tail;

pub use api::*;
pub use data_dir::DataDir;
pub use engine::Engine;

#[cfg(test)]
mod tests;
