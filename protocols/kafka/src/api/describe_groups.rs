//! DescribeGroups: state, protocol, members and assignments of groups.

use kacrab_protocol::generated::*;

use crate::dispatch::{self, Answer, Api, Call, Order};
use crate::groups::{GroupReply, GroupRequest};

pub const API: Api = Api {
    key: 15,
    name: "DescribeGroups",
    min: 0,
    max: 6,
    flexible: 5,
    order: Order::Serial,
    start: |request| dispatch::typed(request, handle),
};

/// First version that has an error for groups that do not exist; older ones show them as dead.
const FIRST_WITH_NOT_FOUND: i16 = 6;

/// Bits of the operations on a group that Kafka names when nobody is refused any: read, delete, describe, describe and
/// alter its configuration.
const ALL_GROUP_OPERATIONS: i32 = 1 << 3 | 1 << 6 | 1 << 8 | 1 << 10 | 1 << 11;

async fn handle(
    call: Call,
    request: DescribeGroupsRequestData,
) -> Answer<DescribeGroupsResponseData> {
    let asks: Vec<_> = request
        .groups
        .into_iter()
        .map(|id| call.door.groups.ask(GroupRequest::Describe(id)))
        .collect();
    let mut groups = Vec::with_capacity(asks.len());
    for ask in asks {
        let reply = ask.await;
        let GroupReply::Describe(mut group) = reply else {
            unreachable!("DescribeGroups answered with {reply:?}")
        };
        if call.version() < FIRST_WITH_NOT_FOUND {
            group.error_message = None;
            if group.error_code == ErrorCode::GroupIdNotFound.code() {
                group.error_code = 0;
            }
        }
        if request.include_authorized_operations && group.error_code == 0 {
            group.authorized_operations = ALL_GROUP_OPERATIONS;
        }
        groups.push(group);
    }
    Ok(DescribeGroupsResponseData {
        groups,
        ..Default::default()
    })
}
