//! The immutable view of the cluster that every core holds.

use std::collections::BTreeMap;
use std::sync::Arc;

use trireme_engine::api::{PartitionId, PartitionRef, TopicId};

/// Internal partitions that hold consumer groups and their offsets. Fixed: a group's home is `hash(group) % GROUP_PARTITIONS`.
pub const GROUP_PARTITIONS: u32 = 8;

/// Topic ids of internal partitions. Random (version 4) ids never begin like this.
const METADATA_TOPIC: TopicId = TopicId(*b"\0\0trireme/meta\0\0");
const GROUP_TOPIC: TopicId = TopicId(*b"\0\0trireme/group\0");

/// The partition that holds the metadata table; always on shard 0.
pub fn metadata_partition_id() -> PartitionId {
    PartitionId {
        topic: METADATA_TOPIC,
        index: 0,
    }
}

/// The `index`-th partition of groups and offsets.
pub fn group_partition_id(index: u32) -> PartitionId {
    PartitionId {
        topic: GROUP_TOPIC,
        index,
    }
}

/// One topic. Its partitions are numbered without gaps from 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topic {
    pub id: TopicId,
    pub name: Arc<str>,
    pub partitions: Vec<PartitionRef>,
    /// What was set on the topic itself; defaults are the broker's.
    pub configs: BTreeMap<String, String>,
}

/// Everything a door needs to route a request, at one version.
#[derive(Debug, Clone, Default)]
pub struct MetadataImage {
    pub cluster_id: String,
    pub node_id: i32,
    pub topics: BTreeMap<Arc<str>, Arc<Topic>>,
    pub by_id: BTreeMap<TopicId, Arc<Topic>>,
    /// Dynamic broker configuration, set by a client.
    pub broker_configs: BTreeMap<String, String>,
    /// Homes of the group partitions, by index.
    pub group_partitions: Vec<PartitionRef>,
    /// Rises by one with each change.
    pub version: u64,
}

impl MetadataImage {
    pub fn topic(&self, name: &str) -> Option<&Arc<Topic>> {
        self.topics.get(name)
    }

    pub fn topic_by_id(&self, id: &TopicId) -> Option<&Arc<Topic>> {
        self.by_id.get(id)
    }

    pub(crate) fn insert(&mut self, topic: Topic) {
        let topic = Arc::new(topic);
        if let Some(old) = self.by_id.insert(topic.id, topic.clone()) {
            self.topics.remove(&old.name);
        }
        self.topics.insert(topic.name.clone(), topic);
    }

    pub(crate) fn remove(&mut self, id: &TopicId) -> Option<Arc<Topic>> {
        let topic = self.by_id.remove(id)?;
        self.topics.remove(&topic.name);
        Some(topic)
    }

    /// Number of partitions of all topics, for placing new ones evenly.
    pub fn partition_count(&self) -> usize {
        self.topics.values().map(|t| t.partitions.len()).sum()
    }
}
