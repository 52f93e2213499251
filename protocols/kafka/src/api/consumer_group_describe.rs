//! ConsumerGroupDescribe: groups of the new consumer protocol. There are none, and tools that hear so go on to ask for
//! classic groups.

use kacrab_protocol::KafkaString;
use kacrab_protocol::generated::consumer_group_describe_response::DescribedGroup;
use kacrab_protocol::generated::*;

use crate::dispatch::{self, Answer, Api, Call, Order};

pub const API: Api = Api {
    key: 69,
    name: "ConsumerGroupDescribe",
    min: 0,
    max: 1,
    flexible: 0,
    order: Order::Serial,
    start: |request| dispatch::typed(request, handle),
};

async fn handle(_: Call, request: ConsumerGroupDescribeRequestData) -> Answer<ConsumerGroupDescribeResponseData> {
    let groups = request.group_ids.into_iter().map(|group_id| DescribedGroup {
        error_code: ErrorCode::GroupIdNotFound.code(),
        error_message: Some(KafkaString::from(format!("Group {group_id} is not a consumer group."))),
        group_id,
        ..Default::default()
    });
    Ok(ConsumerGroupDescribeResponseData { groups: groups.collect(), ..Default::default() })
}
