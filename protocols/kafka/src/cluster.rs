//! What several APIs say of the cluster: the broker, topics, partitions, and why a change was refused.

use std::collections::BTreeMap;
use std::sync::Arc;

use kacrab_protocol::generated::ErrorCode;
use kacrab_protocol::{KafkaString, KafkaUuid};
use trireme_engine::{PartitionRef, TopicId};
use trireme_replication::{MetadataError, MetadataImage, Topic};

use crate::door::Door;
use crate::groups::InUse;

/// Bit sets of the operations that everybody may do while there are no ACLs: bit n is Kafka's AclOperation n.
pub const ALL_TOPIC_OPERATIONS: i32 = bits(&[3, 4, 5, 6, 7, 8, 10, 11]);
pub const ALL_CLUSTER_OPERATIONS: i32 = bits(&[5, 7, 8, 9, 10, 11, 12]);
/// The same field when it was not asked for.
pub const OPERATIONS_OMITTED: i32 = i32::MIN;

const fn bits(operations: &[u8]) -> i32 {
    let (mut set, mut i) = (0, 0);
    while i < operations.len() {
        set |= 1 << operations[i];
        i += 1;
    }
    set
}

/// The name under which the partitions of the groups can be seen, as in Kafka: described and read like a topic's (their records have a
/// form of our own), never written, configured or deleted.
pub const OFFSETS_TOPIC: &str = "__consumer_offsets";

/// Topics that Kafka keeps for itself. Asking for one does not create it.
pub const INTERNAL_TOPICS: [&str; 3] =
    [OFFSETS_TOPIC, "__transaction_state", "__share_group_state"];

/// A string of the codec.
pub fn text(value: impl Into<String>) -> KafkaString {
    KafkaString::from(value.into())
}

pub fn to_uuid(id: TopicId) -> KafkaUuid {
    let bits = u128::from_be_bytes(id.0);
    KafkaUuid::from_parts((bits >> 64) as u64, bits as u64)
}

pub fn from_uuid(id: KafkaUuid) -> TopicId {
    TopicId(id.to_bytes())
}

/// A partition by its index as the protocol has it.
pub fn partition(topic: &Topic, index: i32) -> Option<PartitionRef> {
    topic.partitions.get(usize::try_from(index).ok()?).copied()
}

/// The partitions of the groups as a topic.
fn offsets_topic(image: &MetadataImage) -> Option<Arc<Topic>> {
    let first = image.group_partitions.first()?;
    Some(Arc::new(Topic {
        id: first.id.topic,
        name: OFFSETS_TOPIC.into(),
        partitions: image.group_partitions.clone(),
        configs: Default::default(),
    }))
}

/// A topic that can be read and described, internal ones included.
pub fn readable(image: &MetadataImage, name: &str) -> Option<Arc<Topic>> {
    match name {
        OFFSETS_TOPIC => offsets_topic(image),
        _ => image.topic(name).cloned(),
    }
}

pub fn readable_by_id(image: &MetadataImage, id: &TopicId) -> Option<Arc<Topic>> {
    match image.topic_by_id(id) {
        Some(topic) => Some(topic.clone()),
        None => offsets_topic(image).filter(|topic| topic.id == *id),
    }
}

/// All topics that can be read and described; the groups' only once there is use for it.
pub fn readable_topics(image: &MetadataImage, groups: &InUse) -> impl Iterator<Item = Arc<Topic>> {
    offsets_topic(image)
        .filter(|_| groups.get())
        .into_iter()
        .chain(image.topics.values().cloned())
}

pub fn is_internal(name: &str) -> bool {
    INTERNAL_TOPICS.contains(&name)
}

/// What a change to an internal topic is refused with.
pub fn refuse_internal(name: &str) -> Result<(), (ErrorCode, String)> {
    match is_internal(name) {
        true => Err((
            ErrorCode::InvalidRequest,
            format!("{name} is internal and cannot be changed."),
        )),
        false => Ok(()),
    }
}

/// A partition that can be read and described, by topic and index.
pub fn find_readable(image: &MetadataImage, topic: &str, index: i32) -> Option<PartitionRef> {
    partition(&*readable(image, topic)?, index)
}

/// A topic's partition by name and index; internal ones are not found.
pub fn find(image: &MetadataImage, topic: &str, index: i32) -> Option<PartitionRef> {
    partition(image.topic(topic)?, index)
}

/// Leader epochs of topics, as far as somebody asked. An epoch does not change while the process lives.
#[derive(Default)]
pub struct LeaderEpochs {
    topics: BTreeMap<TopicId, Arc<[i32]>>,
}

impl Door {
    /// The leader epochs of these topics' partitions, in their order.
    pub async fn leader_epochs(&self, topics: &[Arc<Topic>]) -> Vec<Arc<[i32]>> {
        let known = |topic: &Topic| {
            let epochs = self.leader_epochs.borrow();
            epochs
                .topics
                .get(&topic.id)
                .filter(|epochs| epochs.len() == topic.partitions.len())
                .cloned()
        };
        let missing: Vec<_> = topics
            .iter()
            .filter(|topic| known(topic).is_none())
            .cloned()
            .collect();
        if !missing.is_empty() {
            let partitions = missing
                .iter()
                .flat_map(|topic| topic.partitions.iter().copied())
                .collect();
            let mut described = self.engine.describe(partitions).await.into_iter();
            let mut epochs = self.leader_epochs.borrow_mut();
            for topic in &missing {
                let of_topic: Vec<_> = described.by_ref().take(topic.partitions.len()).collect();
                if of_topic.iter().all(Result::is_ok) {
                    let of_topic = of_topic
                        .into_iter()
                        .flatten()
                        .map(|info| info.leader_epoch)
                        .collect();
                    epochs.topics.insert(topic.id, of_topic);
                }
            }
            let image = self.metadata.image();
            if epochs.topics.len() > 2 * image.by_id.len() {
                epochs.topics.retain(|id, _| image.by_id.contains_key(id));
            }
        }
        // A partition that is going away has none.
        topics
            .iter()
            .map(|topic| known(topic).unwrap_or_else(|| vec![-1; topic.partitions.len()].into()))
            .collect()
    }

    /// Compares a client's idea of the leader epoch (-1: none) with the one that holds.
    pub fn check_epoch(current: i32, asked: i32) -> Result<(), ErrorCode> {
        match asked {
            _ if asked < 0 || current < 0 || asked == current => Ok(()),
            _ if asked < current => Err(ErrorCode::FencedLeaderEpoch),
            _ => Err(ErrorCode::UnknownLeaderEpoch),
        }
    }
}

/// The protocol's code and words for a change that metadata refused.
pub fn refused(error: &MetadataError) -> (ErrorCode, String) {
    let code = match error {
        MetadataError::TopicExists(_) => ErrorCode::TopicAlreadyExists,
        MetadataError::Collision { .. } | MetadataError::InvalidName(_) => {
            ErrorCode::InvalidTopicException
        }
        MetadataError::UnknownTopic => ErrorCode::UnknownTopicOrPartition,
        MetadataError::InvalidPartitions { .. }
        | MetadataError::NotMorePartitions { .. }
        | MetadataError::TooManyPartitions { .. } => ErrorCode::InvalidPartitions,
        MetadataError::Storage(_) => ErrorCode::KafkaStorageError,
    };
    (code, error.to_string())
}
