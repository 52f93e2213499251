//! TxnOffsetCommit: there are no transactions yet. Not advertised; who asks nevertheless hears so at once.

use kacrab_protocol::generated::txn_offset_commit_request::TxnOffsetCommitRequestTopic;
use kacrab_protocol::generated::txn_offset_commit_response::{
    TxnOffsetCommitResponsePartition, TxnOffsetCommitResponseTopic,
};
use kacrab_protocol::generated::*;

use crate::dispatch::{self, Answer, Api, Call, Order};

pub const API: Api = Api {
    key: 28,
    name: "TxnOffsetCommit",
    min: 0,
    max: 5,
    flexible: 3,
    order: Order::Serial,
    start: |request| dispatch::typed(request, handle),
};

async fn handle(
    _: Call,
    request: TxnOffsetCommitRequestData,
) -> Answer<TxnOffsetCommitResponseData> {
    let error_code = ErrorCode::UnsupportedVersion.code();
    let topic = |topic: TxnOffsetCommitRequestTopic| {
        let indices = topic.partitions.iter().map(|p| p.partition_index);
        let partition = |partition_index| TxnOffsetCommitResponsePartition {
            partition_index,
            error_code,
            ..Default::default()
        };
        TxnOffsetCommitResponseTopic {
            partitions: indices.map(partition).collect(),
            name: topic.name,
            ..Default::default()
        }
    };
    Ok(TxnOffsetCommitResponseData {
        topics: request.topics.into_iter().map(topic).collect(),
        ..Default::default()
    })
}
