//! LeaveGroup: one member leaves (up to version 2), or any number of them.

use kacrab_protocol::generated::leave_group_request::MemberIdentity;
use kacrab_protocol::generated::*;

use crate::dispatch::{self, Answer, Api, Call, Order};
use crate::groups::{GroupReply, GroupRequest};

pub const API: Api = Api {
    key: 13,
    name: "LeaveGroup",
    min: 0,
    max: 5,
    flexible: 4,
    order: Order::Serial,
    start: |request| dispatch::typed(request, handle),
};

const FIRST_WITH_MEMBERS: i16 = 3;

async fn handle(call: Call, mut request: LeaveGroupRequestData) -> Answer<LeaveGroupResponseData> {
    let single = call.version() < FIRST_WITH_MEMBERS;
    if single {
        let member_id = std::mem::take(&mut request.member_id);
        request.members = vec![MemberIdentity {
            member_id,
            ..Default::default()
        }];
    }
    let reply = call.door.groups.ask(GroupRequest::Leave(request)).await;
    let GroupReply::Leave(mut response) = reply else {
        unreachable!("LeaveGroup answered with {reply:?}")
    };
    if single && let Some(member) = response.members.pop() {
        response.error_code = member.error_code;
        response.members.clear();
    }
    Ok(response)
}
