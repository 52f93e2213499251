//! DeleteGroups: forgets empty groups and their offsets.

use std::collections::BTreeSet;

use kacrab_protocol::generated::*;

use crate::dispatch::{self, Answer, Api, Call, Order};
use crate::groups::{GroupReply, GroupRequest};

pub const API: Api = Api {
    key: 42,
    name: "DeleteGroups",
    min: 0,
    max: 2,
    flexible: 2,
    order: Order::Serial,
    start: |request| dispatch::typed(request, handle),
};

async fn handle(call: Call, request: DeleteGroupsRequestData) -> Answer<DeleteGroupsResponseData> {
    let mut seen = BTreeSet::new();
    let once = request
        .groups_names
        .into_iter()
        .filter(|id| seen.insert(id.as_str().to_owned()));
    let asks: Vec<_> = once
        .map(|id| call.door.groups.ask(GroupRequest::Delete(id)))
        .collect();
    let mut results = Vec::with_capacity(asks.len());
    for ask in asks {
        match ask.await {
            GroupReply::Delete(result) => results.push(result),
            other => unreachable!("DeleteGroups answered with {other:?}"),
        }
    }
    Ok(DeleteGroupsResponseData {
        results,
        ..Default::default()
    })
}
