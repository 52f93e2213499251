//! OffsetDelete: forgets committed offsets of topics that the group does not read any more.

use kacrab_protocol::generated::offset_delete_response::{
    OffsetDeleteResponsePartition, OffsetDeleteResponseTopic,
};
use kacrab_protocol::generated::*;

use crate::dispatch::{self, Answer, Api, Call, Order};
use crate::groups::{GroupReply, GroupRequest};

pub const API: Api = Api {
    key: 47,
    name: "OffsetDelete",
    min: 0,
    max: 0,
    flexible: dispatch::NEVER_FLEXIBLE,
    order: Order::Serial,
    start: |request| dispatch::typed(request, handle),
};

async fn handle(
    call: Call,
    mut request: OffsetDeleteRequestData,
) -> Answer<OffsetDeleteResponseData> {
    let mut unknown = Vec::new();
    {
        let image = call.door.metadata.image();
        for topic in &mut request.topics {
            let partitions = image
                .topic(topic.name.as_str())
                .map_or(0, |known| known.partitions.len());
            let (known, missing) =
                std::mem::take(&mut topic.partitions)
                    .into_iter()
                    .partition(|p| {
                        usize::try_from(p.partition_index).is_ok_and(|index| index < partitions)
                    });
            topic.partitions = known;
            let missing: Vec<offset_delete_request::OffsetDeleteRequestPartition> = missing;
            if !missing.is_empty() {
                let error_code = ErrorCode::UnknownTopicOrPartition.code();
                let answer = |partition_index| OffsetDeleteResponsePartition {
                    partition_index,
                    error_code,
                    ..Default::default()
                };
                unknown.push(OffsetDeleteResponseTopic {
                    name: topic.name.clone(),
                    partitions: missing.iter().map(|p| answer(p.partition_index)).collect(),
                    ..Default::default()
                });
            }
        }
        request.topics.retain(|topic| !topic.partitions.is_empty());
    }
    let reply = call
        .door
        .groups
        .ask(GroupRequest::DeleteOffsets(request))
        .await;
    let GroupReply::DeleteOffsets(mut response) = reply else {
        unreachable!("OffsetDelete answered with {reply:?}")
    };
    if response.error_code == 0 {
        for topic in unknown {
            match response.topics.iter_mut().find(|t| t.name == topic.name) {
                Some(known) => known.partitions.extend(topic.partitions),
                None => response.topics.push(topic),
            }
        }
    }
    Ok(response)
}
