//! SyncGroup: the leader brings the assignment of a generation, every member gets its part.

use kacrab_protocol::generated::*;

use crate::dispatch::{self, Answer, Api, Call, Order};
use crate::groups::{GroupReply, GroupRequest};

pub const API: Api = Api {
    key: 14,
    name: "SyncGroup",
    min: 0,
    max: 5,
    flexible: 4,
    order: Order::Serial,
    start: |request| dispatch::typed(request, handle),
};

/// First version in which a member must say which protocol it believes in.
const NAMES_PROTOCOL: i16 = 5;

async fn handle(call: Call, request: SyncGroupRequestData) -> Answer<SyncGroupResponseData> {
    if call.version() >= NAMES_PROTOCOL
        && (request.protocol_type.is_none() || request.protocol_name.is_none())
    {
        let error_code = ErrorCode::InconsistentGroupProtocol.code();
        return Ok(SyncGroupResponseData {
            error_code,
            ..Default::default()
        });
    }
    match call.door.groups.ask(GroupRequest::Sync(request)).await {
        GroupReply::Sync(response) => Ok(response),
        other => unreachable!("SyncGroup answered with {other:?}"),
    }
}
