//! Committed offsets: commit, fetch, delete, expire.
//!
//! A commit takes effect when it is durable, so a fetch never shows what a crash could take back. What is on its way is
//! found in the effects' continuations where it matters (deleting).

use std::collections::BTreeSet;
use std::sync::Arc;

use kacrab_protocol::KafkaString;
use kacrab_protocol::generated::offset_commit_request::OffsetCommitRequestData;
use kacrab_protocol::generated::offset_commit_response::{
    OffsetCommitResponseData, OffsetCommitResponsePartition, OffsetCommitResponseTopic,
};
use kacrab_protocol::generated::offset_delete_request::OffsetDeleteRequestData;
use kacrab_protocol::generated::offset_delete_response::{
    OffsetDeleteResponseData, OffsetDeleteResponsePartition, OffsetDeleteResponseTopic,
};
use kacrab_protocol::generated::offset_fetch_request::OffsetFetchRequestGroup;
use kacrab_protocol::generated::offset_fetch_response::{
    OffsetFetchResponseGroup, OffsetFetchResponsePartitions, OffsetFetchResponseTopics,
};

use super::classic::{reschedule_session, string};
use super::codec::CommittedOffset;
use super::effects::{Effects, PersistError, Then, Token};
use super::group::{Group, State};
use super::{Client, GroupReply, error};

/// First version of OffsetCommit that knows GROUP_ID_NOT_FOUND.
const COMMIT_GROUP_ID_NOT_FOUND: i16 = 9;
const NO_OFFSET: i64 = -1;

/// Commits on behalf of a group that does not exist: only a consumer outside of any generation brings one to life.
pub(super) fn check_unknown_group(
    client: &Client,
    request: &OffsetCommitRequestData,
) -> Result<(), i16> {
    if request.generation_id_or_member_epoch < 0 {
        Ok(())
    } else if client.api_version >= COMMIT_GROUP_ID_NOT_FOUND {
        Err(error::GROUP_ID_NOT_FOUND)
    } else {
        Err(error::ILLEGAL_GENERATION)
    }
}

/// Whether the committer may commit for the group now.
fn check_commit(group: &Group, request: &OffsetCommitRequestData) -> Result<(), i16> {
    let generation = request.generation_id_or_member_epoch;
    let instance = request.group_instance_id.as_ref().map(KafkaString::as_str);
    if generation < 0 && group.state == State::Empty {
        return Ok(());
    }
    if generation < 0 && request.member_id.is_empty() && instance.is_none() {
        // A simple consumer, but the group has members.
        return Err(error::UNKNOWN_MEMBER_ID);
    }
    group.check_member(request.member_id.as_str(), instance)?;
    if generation != group.generation {
        return Err(error::ILLEGAL_GENERATION);
    }
    if group.state == State::CompletingRebalance {
        // The member knows the new generation but not its partitions: it cannot have processed anything.
        return Err(error::REBALANCE_IN_PROGRESS);
    }
    Ok(())
}

/// The same error for every partition.
pub(super) fn commit_error(request: &OffsetCommitRequestData, error_code: i16) -> GroupReply {
    GroupReply::Commit(commit_reply(request, |_| error_code))
}

fn commit_reply(
    request: &OffsetCommitRequestData,
    mut code: impl FnMut(Option<&KafkaString>) -> i16,
) -> OffsetCommitResponseData {
    let topics = request
        .topics
        .iter()
        .map(|topic| OffsetCommitResponseTopic {
            name: string(topic.name.as_str()),
            topic_id: topic.topic_id,
            partitions: topic
                .partitions
                .iter()
                .map(|p| OffsetCommitResponsePartition {
                    partition_index: p.partition_index,
                    error_code: code(p.committed_metadata.as_ref()),
                    ..Default::default()
                })
                .collect(),
            ..Default::default()
        });
    OffsetCommitResponseData {
        topics: topics.collect(),
        ..Default::default()
    }
}

pub(super) fn commit(
    group: &mut Group,
    fx: &mut Effects,
    token: Token,
    request: &OffsetCommitRequestData,
) {
    if let Err(code) = check_commit(group, request) {
        return fx.reply(token, commit_error(request, code));
    }
    if matches!(group.state, State::Stable | State::PreparingRebalance) {
        reschedule_session(group, fx, request.member_id.as_str());
    }
    let unix_ms = fx.now.unix_ms;
    // Versions 2 to 4 may say how long the offsets are to be kept; -1 stands for the broker's retention.
    let expire_unix_ms = Some(request.retention_time_ms)
        .filter(|&ms| ms >= 0)
        .map(|ms| unix_ms.saturating_add(ms));
    let max = fx.config.offset_metadata_max_bytes;
    let fits = |metadata: Option<&KafkaString>| metadata.is_none_or(|m| m.len() <= max);
    let reply = commit_reply(request, |m| {
        if fits(m) {
            error::NONE
        } else {
            error::OFFSET_METADATA_TOO_LARGE
        }
    });
    let mut offsets = Vec::new();
    for topic in &request.topics {
        let name = topic_name(group, topic.name.as_str());
        for partition in &topic.partitions {
            if !fits(partition.committed_metadata.as_ref()) {
                continue;
            }
            let value = CommittedOffset {
                offset: partition.committed_offset,
                leader_epoch: partition.committed_leader_epoch,
                commit_unix_ms: unix_ms,
                expire_unix_ms,
                metadata: partition
                    .committed_metadata
                    .as_ref()
                    .filter(|m| !m.is_empty())
                    .map(|m| m.as_str().into()),
            };
            let mutation =
                fx.encoder
                    .put_offset(&group.id, &name, partition.partition_index, &value);
            fx.mutate(mutation);
            offsets.push((name.clone(), partition.partition_index, value));
        }
    }
    let reply = GroupReply::Commit(reply);
    if offsets.is_empty() {
        return fx.reply(token, reply);
    }
    group.pending_writes += 1;
    fx.then(Then::Commit {
        token,
        group: group.id.clone(),
        offsets,
        reply,
    });
}

/// The name as the group already holds it, so that a commit to a known topic allocates none.
fn topic_name(group: &Group, name: &str) -> Arc<str> {
    match group.offsets.get_key_value(name) {
        Some((name, _)) => name.clone(),
        None => name.into(),
    }
}

/// A commit is durable, or could not be made so. `group` is None when it was deleted meanwhile: then the deletion stands
/// behind the commit in the log.
pub(super) fn committed(
    group: Option<&mut Group>,
    fx: &mut Effects,
    token: Token,
    offsets: Vec<(Arc<str>, i32, CommittedOffset)>,
    mut reply: GroupReply,
    result: Result<(), PersistError>,
) {
    match result {
        Ok(()) => {
            if let Some(group) = group {
                for (topic, partition, value) in offsets {
                    group
                        .offsets
                        .entry(topic)
                        .or_default()
                        .insert(partition, value);
                }
            }
        }
        Err(cause) => {
            let code = super::classic::persist_error(cause);
            if let GroupReply::Commit(reply) = &mut reply {
                for partition in reply.topics.iter_mut().flat_map(|t| &mut t.partitions) {
                    if partition.error_code == error::NONE {
                        partition.error_code = code;
                    }
                }
            }
        }
    }
    fx.reply(token, reply);
}

/// Durable offsets of the partitions asked for, or of all. `group` is None for one that does not exist: no error in Kafka
/// either, there just are no offsets.
pub(super) fn fetch(
    group: Option<&Group>,
    request: &OffsetFetchRequestGroup,
) -> OffsetFetchResponseGroup {
    let answer =
        |partition_index: i32, value: Option<&CommittedOffset>| OffsetFetchResponsePartitions {
            partition_index,
            committed_offset: value.map_or(NO_OFFSET, |v| v.offset),
            committed_leader_epoch: value.map_or(-1, |v| v.leader_epoch),
            metadata: Some(string(
                value.and_then(|v| v.metadata.as_deref()).unwrap_or(""),
            )),
            ..Default::default()
        };
    let topics = match &request.topics {
        Some(topics) => topics
            .iter()
            .map(|topic| {
                let known = group.and_then(|g| g.offsets.get(topic.name.as_str()));
                let partitions = topic
                    .partition_indexes
                    .iter()
                    .map(|&p| answer(p, known.and_then(|k| k.get(&p))));
                OffsetFetchResponseTopics {
                    name: string(topic.name.as_str()),
                    topic_id: topic.topic_id,
                    partitions: partitions.collect(),
                    ..Default::default()
                }
            })
            .collect(),
        None => group
            .into_iter()
            .flat_map(|group| &group.offsets)
            .map(|(name, partitions)| OffsetFetchResponseTopics {
                name: string(name),
                partitions: partitions
                    .iter()
                    .map(|(&p, value)| answer(p, Some(value)))
                    .collect(),
                ..Default::default()
            })
            .collect(),
    };
    OffsetFetchResponseGroup {
        group_id: string(request.group_id.as_str()),
        topics,
        ..Default::default()
    }
}

pub(super) fn delete_error(error_code: i16) -> GroupReply {
    GroupReply::DeleteOffsets(OffsetDeleteResponseData {
        error_code,
        ..Default::default()
    })
}

pub(super) fn delete(
    group: &mut Group,
    fx: &mut Effects,
    token: Token,
    request: &OffsetDeleteRequestData,
) {
    if group.state != State::Empty && !group.uses_consumer_protocol() {
        return fx.reply(token, delete_error(error::NON_EMPTY_GROUP));
    }
    let mut forgotten = Vec::new();
    let mut topics = Vec::with_capacity(request.topics.len());
    for topic in &request.topics {
        let name = topic_name(group, topic.name.as_str());
        let subscribed = group.is_subscribed(&name);
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        for partition in &topic.partitions {
            let partition_index = partition.partition_index;
            if !subscribed && has_offset(group, fx, &name, partition_index) {
                let mutation = fx.encoder.delete_offset(&group.id, &name, partition_index);
                fx.mutate(mutation);
                forgotten.push((name.clone(), partition_index));
            }
            let error_code = if subscribed {
                error::GROUP_SUBSCRIBED_TO_TOPIC
            } else {
                error::NONE
            };
            partitions.push(OffsetDeleteResponsePartition {
                partition_index,
                error_code,
                ..Default::default()
            });
        }
        topics.push(OffsetDeleteResponseTopic {
            name: string(&name),
            partitions,
            ..Default::default()
        });
    }
    let reply = GroupReply::DeleteOffsets(OffsetDeleteResponseData {
        topics,
        ..Default::default()
    });
    if forgotten.is_empty() {
        return fx.reply(token, reply);
    }
    group.pending_writes += 1;
    fx.then(Then::Forget {
        group: group.id.clone(),
        offsets: forgotten,
        reply: Some((token, reply)),
    });
}

/// Durable or on its way.
fn has_offset(group: &Group, fx: &Effects, topic: &str, partition: i32) -> bool {
    group
        .offsets
        .get(topic)
        .is_some_and(|partitions| partitions.contains_key(&partition))
        || (group.pending_writes > 0
            && pending_offsets(group, fx)
                .any(|(name, index)| **name == *topic && index == partition))
}

fn pending_offsets<'a>(
    group: &'a Group,
    fx: &'a Effects,
) -> impl Iterator<Item = (&'a Arc<str>, i32)> {
    fx.pending()
        .filter_map(|then| match then {
            Then::Commit {
                group: id, offsets, ..
            } if *id == group.id => Some(offsets),
            _ => None,
        })
        .flatten()
        .map(|(topic, partition, _)| (topic, *partition))
}

/// Every topic partition that has an offset, durable or on its way, of `topic` or of all.
pub(super) fn all_offsets(
    group: &Group,
    fx: &Effects,
    topic: Option<&str>,
) -> BTreeSet<(Arc<str>, i32)> {
    let wanted = |name: &Arc<str>| topic.is_none_or(|topic| **name == *topic);
    let durable = group
        .offsets
        .iter()
        .flat_map(|(name, partitions)| partitions.keys().map(move |&p| (name, p)));
    let mut all: BTreeSet<_> = durable
        .filter(|(name, _)| wanted(name))
        .map(|(name, p)| (name.clone(), p))
        .collect();
    if group.pending_writes > 0 {
        all.extend(
            pending_offsets(group, fx)
                .filter(|(name, _)| wanted(name))
                .map(|(name, p)| (name.clone(), p)),
        );
    }
    all
}

/// Deletions are durable.
pub(super) fn forgotten(group: &mut Group, offsets: &[(Arc<str>, i32)]) {
    for (topic, partition) in offsets {
        if let Some(partitions) = group.offsets.get_mut(topic) {
            partitions.remove(partition);
            if partitions.is_empty() {
                group.offsets.remove(topic);
            }
        }
    }
}

/// The offsets whose time is over, and whether the group has no others.
///
/// As in Kafka: without members, the retention counts from when the group became empty; with members of the consumer
/// protocol, topics that nobody subscribes to any more expire by the time of their last commit; a simple consumer's
/// offsets always do. Otherwise nothing expires.
pub(super) fn expired(
    group: &Group,
    unix_ms: i64,
    retention_ms: i64,
) -> (Vec<(Arc<str>, i32)>, bool) {
    let since: fn(&Group, &CommittedOffset) -> i64 = match (&group.protocol_type, group.state) {
        (None, _) => |_, value| value.commit_unix_ms,
        (Some(_), State::Empty) => {
            |group, value| group.state_since_unix_ms.unwrap_or(value.commit_unix_ms)
        }
        (Some(_), State::Stable)
            if group.uses_consumer_protocol() && group.subscribed.is_some() =>
        {
            |_, value| value.commit_unix_ms
        }
        _ => return (Vec::new(), group.offsets.is_empty()),
    };
    let mut expired = Vec::new();
    let mut all = true;
    for (topic, partitions) in &group.offsets {
        if group.is_subscribed(topic) {
            all = false;
            continue;
        }
        for (&partition, value) in partitions {
            let over = match value.expire_unix_ms {
                Some(expire_unix_ms) => unix_ms >= expire_unix_ms,
                None => unix_ms.saturating_sub(since(group, value)) >= retention_ms,
            };
            if over {
                expired.push((topic.clone(), partition));
            } else {
                all = false;
            }
        }
    }
    (expired, all)
}
