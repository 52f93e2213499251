//! Cluster metadata of a group of one: which topics exist, where their partitions live, how they are configured.
//!
//! The metadata is a [table](trireme_engine::table_store) in an internal partition of the engine, owned by core 0 (the
//! *controller*). Every core holds an immutable [`MetadataImage`] of it; a change is durable and visible on every core
//! before it is answered. Later this room also holds leaders, followers and in-sync sets; today every partition has this
//! node as its only replica, so that the high watermark is the durable offset.
//!
//! Invariants:
//! - A topic that was acknowledged has all its partitions in the engine and its record in the table, both durable.
//! - A partition of the engine that no topic names is removed at start; one that a topic names and the engine lacks is made.
//! - A topic id and a producer id are never given twice.

mod codec;
mod controller;
mod image;
mod metadata;
mod names;

pub use codec::{CodecError, Record};
pub use controller::{ControllerReply, ControllerRequest};
pub use image::{
    GROUP_PARTITIONS, MetadataImage, Topic, group_partition_id, metadata_partition_id,
};
pub use metadata::{
    ConfigChanges, ConfigTarget, Metadata, MetadataError, MetadataOptions, NewTopic,
    ToPartitionConfig,
};
pub use names::{MAX_TOPIC_NAME_BYTES, NameError, check_topic_name, names_collide};
