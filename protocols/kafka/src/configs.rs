//! Configuration as Kafka names it: every topic config of Kafka 4.3, the broker configs that mean something here, and what they make of
//! a partition. Pure.
//!
//! A topic config is accepted, checked, kept and described whether it has an effect yet or not ([`topic::TopicConfig::effect`]).
//! Refused is only what would break a promise: a cleanup policy with `compact`, a compression type other than `producer`, remote
//! storage.
//!
//! **Durability** is spelled `flush.messages`, since Kafka's tools let no name of our own through: `1`, the default, acknowledges what
//! is on disk; anything larger acknowledges what is in memory and on its way to the disk (*relaxed*). The server's default is the
//! broker config `log.flush.interval.messages`.

pub mod broker;
pub mod partition;
pub mod topic;
pub mod value;

use std::collections::BTreeMap;

use trireme_replication::Topic;

pub use partition::to_partition_config;

/// Configuration as it is kept: name and value as they were sent, trimmed.
pub type Values = BTreeMap<String, String>;

/// Whether a topic asks for more in-sync replicas than one node has.
pub fn needs_more_replicas(topic: &Topic) -> bool {
    !topic.configs.is_empty()
        && topic
            .configs
            .get("min.insync.replicas")
            .is_some_and(|value| value != "1")
}
