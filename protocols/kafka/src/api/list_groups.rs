//! ListGroups: every group of the node, by state and type.

use kacrab_protocol::generated::*;

use crate::dispatch::{self, Answer, Api, Call, Order};

pub const API: Api = Api {
    key: 16,
    name: "ListGroups",
    min: 0,
    max: 5,
    flexible: 3,
    order: Order::Serial,
    start: |request| dispatch::typed(request, handle),
};

async fn handle(call: Call, request: ListGroupsRequestData) -> Answer<ListGroupsResponseData> {
    Ok(call
        .door
        .groups
        .list(request.states_filter, request.types_filter)
        .await)
}
