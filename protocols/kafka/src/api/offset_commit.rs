//! OffsetCommit: remembers how far a group has come. Answered when that is durable.

use std::future::Future;

use kacrab_protocol::generated::offset_commit_response::{
    OffsetCommitResponsePartition, OffsetCommitResponseTopic,
};
use kacrab_protocol::generated::*;

use crate::cluster;
use crate::dispatch::{self, Answer, Api, Call, Order};
use crate::groups::{GroupReply, GroupRequest};

pub const API: Api = Api {
    key: 8,
    name: "OffsetCommit",
    min: 2,
    max: 10,
    flexible: 8,
    order: Order::Pipelined,
    start: |request| dispatch::pipelined(request, begin),
};

const FIRST_WITH_TOPIC_IDS: i16 = 10;

/// Asks the coordinator for what exists, and answers for the rest itself.
fn begin(
    call: Call,
    mut request: OffsetCommitRequestData,
) -> impl Future<Output = Answer<OffsetCommitResponseData>> + 'static {
    let by_id = call.version() >= FIRST_WITH_TOPIC_IDS;
    let mut unknown = Vec::new();
    {
        let image = call.door.metadata.image();
        for topic in &mut request.topics {
            let known = if by_id {
                image.topic_by_id(&cluster::from_uuid(topic.topic_id))
            } else {
                image.topic(topic.name.as_str())
            };
            if let (true, Some(known)) = (by_id, known) {
                topic.name = known.name.to_string().into();
            }
            let count = known.map_or(0, |known| known.partitions.len());
            let exists = |index: i32| usize::try_from(index).is_ok_and(|index| index < count);
            if topic.partitions.iter().all(|p| exists(p.partition_index)) {
                continue;
            }
            let code = if by_id && known.is_none() {
                ErrorCode::UnknownTopicId
            } else {
                ErrorCode::UnknownTopicOrPartition
            };
            let error_code = code.code();
            let missing = topic
                .partitions
                .iter()
                .filter(|p| !exists(p.partition_index));
            let answer = |partition_index| OffsetCommitResponsePartition {
                partition_index,
                error_code,
                ..Default::default()
            };
            unknown.push(OffsetCommitResponseTopic {
                name: topic.name.clone(),
                topic_id: topic.topic_id,
                partitions: missing.map(|p| answer(p.partition_index)).collect(),
                ..Default::default()
            });
            topic.partitions.retain(|p| exists(p.partition_index));
        }
        request.topics.retain(|topic| !topic.partitions.is_empty());
    }
    let all_unknown = request.topics.is_empty() && !unknown.is_empty();
    let ask = (!all_unknown).then(|| {
        call.door
            .groups
            .ask(GroupRequest::Commit(call.group_client(), request))
    });
    async move {
        let mut response = match ask {
            None => OffsetCommitResponseData::default(),
            Some(ask) => match ask.await {
                GroupReply::Commit(response) => response,
                other => unreachable!("OffsetCommit answered with {other:?}"),
            },
        };
        for topic in unknown {
            let same = |t: &&mut OffsetCommitResponseTopic| {
                t.name == topic.name && t.topic_id == topic.topic_id
            };
            match response.topics.iter_mut().find(same) {
                Some(known) => known.partitions.extend(topic.partitions),
                None => response.topics.push(topic),
            }
        }
        Ok(response)
    }
}
