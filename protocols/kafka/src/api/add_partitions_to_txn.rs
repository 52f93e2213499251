//! AddPartitionsToTxn: there are no transactions yet. Not advertised; who asks nevertheless hears so at once.

use kacrab_protocol::generated::add_partitions_to_txn_request::AddPartitionsToTxnTopic;
use kacrab_protocol::generated::add_partitions_to_txn_response::{
    AddPartitionsToTxnPartitionResult, AddPartitionsToTxnResult, AddPartitionsToTxnTopicResult,
};
use kacrab_protocol::generated::*;

use crate::dispatch::{self, Answer, Api, Call, Order};

pub const API: Api = Api {
    key: 24,
    name: "AddPartitionsToTxn",
    min: 0,
    max: 5,
    flexible: 3,
    order: Order::Serial,
    start: |request| dispatch::typed(request, handle),
};

const FIRST_WITH_TRANSACTIONS: i16 = 4;

async fn handle(
    call: Call,
    request: AddPartitionsToTxnRequestData,
) -> Answer<AddPartitionsToTxnResponseData> {
    let code = ErrorCode::UnsupportedVersion.code();
    if call.version() >= FIRST_WITH_TRANSACTIONS {
        let results =
            request
                .transactions
                .into_iter()
                .map(|transaction| AddPartitionsToTxnResult {
                    transactional_id: transaction.transactional_id,
                    topic_results: refuse(transaction.topics, code),
                    ..Default::default()
                });
        return Ok(AddPartitionsToTxnResponseData {
            error_code: code,
            results_by_transaction: results.collect(),
            ..Default::default()
        });
    }
    Ok(AddPartitionsToTxnResponseData {
        results_by_topic_v3_and_below: refuse(request.v3_and_below_topics, code),
        ..Default::default()
    })
}

fn refuse(topics: Vec<AddPartitionsToTxnTopic>, code: i16) -> Vec<AddPartitionsToTxnTopicResult> {
    let partition = |partition_index| AddPartitionsToTxnPartitionResult {
        partition_index,
        partition_error_code: code,
        ..Default::default()
    };
    let topic = |topic: AddPartitionsToTxnTopic| AddPartitionsToTxnTopicResult {
        name: topic.name,
        results_by_partition: topic.partitions.into_iter().map(partition).collect(),
        ..Default::default()
    };
    topics.into_iter().map(topic).collect()
}
