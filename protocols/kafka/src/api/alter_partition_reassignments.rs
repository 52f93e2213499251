//! AlterPartitionReassignments: a partition can be assigned to where it is, and nowhere else, as there is one node.

use kacrab_protocol::generated::alter_partition_reassignments_response::*;
use kacrab_protocol::generated::{AlterPartitionReassignmentsRequestData, ErrorCode};

use crate::cluster::{self, text};
use crate::dispatch::{self, Answer, Api, Call, Order};

pub const API: Api = Api {
    key: 45,
    name: "AlterPartitionReassignments",
    min: 0,
    max: 1,
    flexible: 0,
    order: Order::Serial,
    start: |request| dispatch::typed(request, handle),
};

async fn handle(
    call: Call,
    request: AlterPartitionReassignmentsRequestData,
) -> Answer<AlterPartitionReassignmentsResponseData> {
    let image = call.door.metadata.image();
    let mut responses = Vec::with_capacity(request.topics.len());
    for topic in &request.topics {
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        for asked in &topic.partitions {
            let known = cluster::find_readable(&image, topic.name.as_str(), asked.partition_index)
                .is_some();
            let refusal = match &asked.replicas {
                _ if !known => Some((
                    ErrorCode::UnknownTopicOrPartition,
                    "This server does not host this topic-partition.",
                )),
                None => Some((
                    ErrorCode::NoReassignmentInProgress,
                    "No partition reassignment is in progress.",
                )),
                Some(replicas) if *replicas != [image.node_id] => Some((
                    ErrorCode::InvalidReplicaAssignment,
                    "There is no other broker to have a replica.",
                )),
                Some(_) => None,
            };
            let mut answer = ReassignablePartitionResponse::default()
                .with_partition_index(asked.partition_index);
            if let Some((code, message)) = refusal {
                answer.error_code = code.code();
                answer.error_message = Some(text(message));
            }
            partitions.push(answer);
        }
        responses.push(
            ReassignableTopicResponse::default()
                .with_name(topic.name.clone())
                .with_partitions(partitions),
        );
    }
    let mut response = AlterPartitionReassignmentsResponseData::default().with_responses(responses);
    if call.version() >= 1 {
        response.allow_replication_factor_change = request.allow_replication_factor_change;
    }
    Ok(response)
}
