//! ListPartitionReassignments: none, as there is one node.

use kacrab_protocol::generated::{
    ListPartitionReassignmentsRequestData, ListPartitionReassignmentsResponseData,
};

use crate::dispatch::{self, Answer, Api, Call, Order};

pub const API: Api = Api {
    key: 46,
    name: "ListPartitionReassignments",
    min: 0,
    max: 0,
    flexible: 0,
    order: Order::Serial,
    start: |request| dispatch::typed(request, handle),
};

async fn handle(
    _call: Call,
    _request: ListPartitionReassignmentsRequestData,
) -> Answer<ListPartitionReassignmentsResponseData> {
    Ok(ListPartitionReassignmentsResponseData::default())
}
