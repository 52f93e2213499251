//! JoinGroup: becomes a member of a group; answered when the next generation begins.

use kacrab_protocol::generated::*;

use crate::dispatch::{self, Answer, Api, Call, Order};
use crate::groups::{GroupReply, GroupRequest};

pub const API: Api = Api {
    key: 11,
    name: "JoinGroup",
    min: 0,
    max: 9,
    flexible: 6,
    order: Order::Serial,
    start: |request| dispatch::typed(request, handle),
};

async fn handle(call: Call, request: JoinGroupRequestData) -> Answer<JoinGroupResponseData> {
    // The wait may be long: the request, and with it the frame, is gone by then.
    let reply = call
        .door
        .groups
        .ask(GroupRequest::Join(call.group_client(), request))
        .await;
    let GroupReply::Join(mut response) = reply else {
        unreachable!("JoinGroup answered with {reply:?}")
    };
    if call.version() < 9 {
        response.skip_assignment = false;
    }
    Ok(response)
}
