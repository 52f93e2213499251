//! Metadata: the broker, the topics, their partitions.

use kacrab_protocol::generated::*;

use crate::dispatch::{self, Answer, Api, Call, Order};

pub const API: Api = Api {
    key: 3,
    name: "Metadata",
    min: 0,
    max: 13,
    flexible: 9,
    order: Order::Serial,
    start: |request| dispatch::typed(request, handle),
};

async fn handle(_call: Call, _request: MetadataRequestData) -> Answer<MetadataResponseData> {
    Ok(MetadataResponseData::default())
}
