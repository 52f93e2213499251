//! OffsetFetch: how far groups have come.

use kacrab_protocol::KafkaUuid;
use kacrab_protocol::generated::offset_fetch_request::{
    OffsetFetchRequestGroup, OffsetFetchRequestTopics,
};
use kacrab_protocol::generated::offset_fetch_response::{
    OffsetFetchResponseGroup, OffsetFetchResponsePartition, OffsetFetchResponsePartitions,
    OffsetFetchResponseTopic, OffsetFetchResponseTopics,
};
use kacrab_protocol::generated::*;

use crate::cluster;
use crate::dispatch::{self, Answer, Api, Call, Order};
use crate::groups::{GroupReply, GroupRequest};

pub const API: Api = Api {
    key: 9,
    name: "OffsetFetch",
    min: 1,
    max: 10,
    flexible: 6,
    order: Order::Serial,
    start: |request| dispatch::typed(request, handle),
};

const FIRST_WITH_GROUP_ERROR: i16 = 2;
const FIRST_WITH_GROUPS: i16 = 8;
const FIRST_WITH_TOPIC_IDS: i16 = 10;

async fn handle(call: Call, request: OffsetFetchRequestData) -> Answer<OffsetFetchResponseData> {
    let version = call.version();
    let require_stable = request.require_stable;
    let groups = if version >= FIRST_WITH_GROUPS {
        request.groups
    } else {
        vec![single(request)]
    };
    let mut answers = Vec::with_capacity(groups.len());
    for mut group in groups {
        let unknown = if version >= FIRST_WITH_TOPIC_IDS {
            name_topics(&call, &mut group)
        } else {
            Vec::new()
        };
        // Begun here, in order; the answers are gathered below.
        answers.push((
            call.door.groups.ask(GroupRequest::Fetch {
                group,
                require_stable,
            }),
            unknown,
        ));
    }
    let mut groups = Vec::with_capacity(answers.len());
    for (answer, unknown) in answers {
        let reply = answer.await;
        let GroupReply::Fetch(mut group) = reply else {
            unreachable!("OffsetFetch answered with {reply:?}")
        };
        if version >= FIRST_WITH_TOPIC_IDS && group.error_code == 0 {
            identify_topics(&call, &mut group);
            group.topics.extend(unknown);
        }
        groups.push(group);
    }
    if version >= FIRST_WITH_GROUPS {
        return Ok(OffsetFetchResponseData {
            groups,
            ..Default::default()
        });
    }
    Ok(flat(version, groups.pop().unwrap_or_default()))
}

/// The one group of an older request, in the form of the newer ones.
fn single(request: OffsetFetchRequestData) -> OffsetFetchRequestGroup {
    let topics = request.topics.map(|topics| {
        let topic = |t: offset_fetch_request::OffsetFetchRequestTopic| OffsetFetchRequestTopics {
            name: t.name,
            partition_indexes: t.partition_indexes,
            ..Default::default()
        };
        topics.into_iter().map(topic).collect()
    });
    OffsetFetchRequestGroup {
        group_id: request.group_id,
        topics,
        ..Default::default()
    }
}

/// The one group of an answer in the older form. Version 1 has no place for a group's error but its partitions.
fn flat(version: i16, group: OffsetFetchResponseGroup) -> OffsetFetchResponseData {
    let partition_error = if version < FIRST_WITH_GROUP_ERROR {
        group.error_code
    } else {
        0
    };
    let partition = |p: OffsetFetchResponsePartitions| OffsetFetchResponsePartition {
        partition_index: p.partition_index,
        committed_offset: p.committed_offset,
        committed_leader_epoch: p.committed_leader_epoch,
        metadata: p.metadata,
        error_code: if partition_error == 0 {
            p.error_code
        } else {
            partition_error
        },
        ..Default::default()
    };
    let topic = |t: OffsetFetchResponseTopics| OffsetFetchResponseTopic {
        name: t.name,
        partitions: t.partitions.into_iter().map(partition).collect(),
        ..Default::default()
    };
    OffsetFetchResponseData {
        topics: group.topics.into_iter().map(topic).collect(),
        error_code: group.error_code,
        ..Default::default()
    }
}

/// Names the topics that were asked for by id; those that do not exist are taken out and answered here.
fn name_topics(call: &Call, group: &mut OffsetFetchRequestGroup) -> Vec<OffsetFetchResponseTopics> {
    let Some(topics) = &mut group.topics else {
        return Vec::new();
    };
    let image = call.door.metadata.image();
    let mut unknown = Vec::new();
    topics.retain_mut(
        |topic| match image.topic_by_id(&cluster::from_uuid(topic.topic_id)) {
            Some(known) => {
                topic.name = known.name.to_string().into();
                true
            }
            None => {
                let partitions = topic.partition_indexes.iter().map(|&partition_index| {
                    OffsetFetchResponsePartitions {
                        partition_index,
                        committed_offset: -1,
                        metadata: Some("".to_owned().into()),
                        error_code: ErrorCode::UnknownTopicId.code(),
                        ..Default::default()
                    }
                });
                let topic_id = topic.topic_id;
                unknown.push(OffsetFetchResponseTopics {
                    topic_id,
                    partitions: partitions.collect(),
                    ..Default::default()
                });
                false
            }
        },
    );
    unknown
}

/// Puts in the ids of topics that were found by name; what has no id any more is left out.
fn identify_topics(call: &Call, group: &mut OffsetFetchResponseGroup) {
    let image = call.door.metadata.image();
    group.topics.retain_mut(|topic| {
        if topic.topic_id == KafkaUuid::ZERO
            && let Some(known) = image.topic(topic.name.as_str())
        {
            topic.topic_id = cluster::to_uuid(known.id);
        }
        topic.topic_id != KafkaUuid::ZERO
    });
}
