//! The Kafka door: bytes of the Kafka protocol on one side, calls on the engine on the other.
//!
//! The way of a request: [`connection`] reads a frame, [`header`] tells API, version and correlation id, [`dispatch`] finds the
//! entry of the [`api`] table and starts it, the file of that API below `api/` decodes the body, asks engine, metadata or groups, and
//! encodes the answer; the connection writes answers in the order of the requests.
//!
//! Produce and Fetch are read and written by hand over borrowed bytes; every other API goes through the generated codec
//! (`kacrab-protocol`), which never allocates for a length that the peer merely announces.

#![forbid(unsafe_code)]

pub mod api;
pub mod cluster;
pub mod codec;
pub mod configs;
pub mod connection;
pub mod dispatch;
pub mod door;
pub mod fetch_session;
pub mod groups;
pub mod header;
pub mod metrics;
pub mod reply;
pub mod wire;

pub use door::{Door, DoorConfig};

#[cfg(test)]
mod tests;
