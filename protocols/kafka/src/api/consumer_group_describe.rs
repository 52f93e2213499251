//! ConsumerGroupDescribe: groups of the new consumer protocol. There are none, and tools that hear so go on to ask for
//! classic groups.

use kacrab_protocol::generated::consumer_group_describe_response::DescribedGroup;
use kacrab_protocol::generated::*;

use crate::dispatch::{self, Answer, Api, Call, Order};
use crate::groups::{GroupReply, GroupRequest};

pub const API: Api = Api {
    key: 69,
    name: "ConsumerGroupDescribe",
    min: 0,
    max: 1,
    flexible: 0,
    order: Order::Serial,
    start: |request| dispatch::typed(request, handle),
};

async fn handle(
    call: Call,
    request: ConsumerGroupDescribeRequestData,
) -> Answer<ConsumerGroupDescribeResponseData> {
    let asks: Vec<_> = request
        .group_ids
        .into_iter()
        .map(|id| call.door.groups.ask(GroupRequest::Describe(id)))
        .collect();
    let mut groups = Vec::with_capacity(asks.len());
    for ask in asks {
        let reply = ask.await;
        let GroupReply::Describe(group) = reply else {
            unreachable!("DescribeGroups answered with {reply:?}")
        };
        let message = match group.error_code {
            0 => format!("Group {} is not a consumer group.", group.group_id),
            _ => format!("Group {} not found.", group.group_id),
        };
        groups.push(DescribedGroup {
            error_code: ErrorCode::GroupIdNotFound.code(),
            error_message: Some(message.into()),
            group_id: group.group_id,
            ..Default::default()
        });
    }
    Ok(ConsumerGroupDescribeResponseData {
        groups,
        ..Default::default()
    })
}
