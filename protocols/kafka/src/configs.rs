//! Topic configuration.

use trireme_replication::Topic;

/// Whether a topic asks for more in-sync replicas than one node has.
pub fn needs_more_replicas(topic: &Topic) -> bool {
    topic.configs.get("min.insync.replicas").is_some_and(|value| value.trim() != "1")
}
