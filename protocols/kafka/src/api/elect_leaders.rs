//! ElectLeaders: never needed, the only replica leads.

use std::collections::BTreeMap;

use kacrab_protocol::generated::elect_leaders_response::{PartitionResult, ReplicaElectionResult};
use kacrab_protocol::generated::{ElectLeadersRequestData, ElectLeadersResponseData, ErrorCode};

use crate::cluster::{self, text};
use crate::dispatch::{self, Answer, Api, Call, Order};

pub const API: Api = Api {
    key: 43,
    name: "ElectLeaders",
    min: 0,
    max: 2,
    flexible: 2,
    order: Order::Serial,
    start: |request| dispatch::typed(request, handle),
};

async fn handle(call: Call, request: ElectLeadersRequestData) -> Answer<ElectLeadersResponseData> {
    let image = call.door.metadata.image();
    // Asked for all partitions, Kafka names only those that had an election.
    let mut results: BTreeMap<String, Vec<PartitionResult>> = BTreeMap::new();
    for topic in request.topic_partitions.iter().flatten() {
        for &index in &topic.partitions {
            let (code, message) = match cluster::find_readable(&image, topic.topic.as_str(), index)
            {
                Some(_) => (
                    ErrorCode::ElectionNotNeeded,
                    "Leader election not needed for topic partition.",
                ),
                None => (
                    ErrorCode::UnknownTopicOrPartition,
                    "This server does not host this topic-partition.",
                ),
            };
            let result = PartitionResult::default()
                .with_partition_id(index)
                .with_error_code(code.code())
                .with_error_message(Some(text(message)));
            results
                .entry(topic.topic.as_str().to_owned())
                .or_default()
                .push(result);
        }
    }
    let results = results
        .into_iter()
        .map(|(topic, partitions)| {
            ReplicaElectionResult::default()
                .with_topic(text(topic))
                .with_partition_result(partitions)
        })
        .collect();
    Ok(ElectLeadersResponseData::default().with_replica_election_results(results))
}
