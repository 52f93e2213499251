//! Heartbeat: keeps a member's session alive and tells it of rebalances.

use kacrab_protocol::generated::*;

use crate::dispatch::{self, Answer, Api, Call, Order};
use crate::groups::{GroupReply, GroupRequest};

pub const API: Api = Api {
    key: 12,
    name: "Heartbeat",
    min: 0,
    max: 4,
    flexible: 4,
    order: Order::Serial,
    start: |request| dispatch::typed(request, handle),
};

async fn handle(call: Call, request: HeartbeatRequestData) -> Answer<HeartbeatResponseData> {
    match call.door.groups.ask(GroupRequest::Heartbeat(request)).await {
        GroupReply::Heartbeat(error_code) => Ok(HeartbeatResponseData {
            error_code,
            ..Default::default()
        }),
        other => unreachable!("Heartbeat answered with {other:?}"),
    }
}
