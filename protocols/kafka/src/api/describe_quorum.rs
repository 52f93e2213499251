//! DescribeQuorum: this node is the metadata quorum.

use kacrab_protocol::generated::describe_quorum_response::{
    Listener, Node, PartitionData, ReplicaState, TopicData,
};
use kacrab_protocol::generated::{
    DescribeQuorumRequestData, DescribeQuorumResponseData, ErrorCode,
};

use crate::cluster::text;
use crate::dispatch::{self, Answer, Api, Call, Order};

pub const API: Api = Api {
    key: 55,
    name: "DescribeQuorum",
    min: 0,
    max: 2,
    flexible: 0,
    order: Order::Serial,
    start: |request| dispatch::typed(request, handle),
};

/// What Kafka calls the log of its metadata.
const METADATA_TOPIC: &str = "__cluster_metadata";

async fn handle(
    call: Call,
    request: DescribeQuorumRequestData,
) -> Answer<DescribeQuorumResponseData> {
    let image = call.door.metadata.image();
    let changes = image.version as i64;
    let now_ms = trireme_runtime::unix_ms();
    let mut topics = Vec::with_capacity(request.topics.len());
    for topic in &request.topics {
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        for asked in &topic.partitions {
            let mut partition =
                PartitionData::default().with_partition_index(asked.partition_index);
            if topic.topic_name.as_str() == METADATA_TOPIC && asked.partition_index == 0 {
                let mut voter = ReplicaState::default()
                    .with_replica_id(image.node_id)
                    .with_log_end_offset(changes);
                if call.version() >= 1 {
                    voter.last_fetch_timestamp = now_ms;
                    voter.last_caught_up_timestamp = now_ms;
                }
                partition.leader_id = image.node_id;
                partition.leader_epoch = 1;
                partition.high_watermark = changes;
                partition.current_voters = vec![voter];
            } else {
                partition.error_code = ErrorCode::UnknownTopicOrPartition.code();
            }
            partitions.push(partition);
        }
        topics.push(
            TopicData::default()
                .with_topic_name(topic.topic_name.clone())
                .with_partitions(partitions),
        );
    }
    let mut response = DescribeQuorumResponseData::default().with_topics(topics);
    if call.version() >= 2 {
        let listener = Listener::default()
            .with_name(text("PLAINTEXT"))
            .with_host(text(&*call.door.config.advertised_host))
            .with_port(call.door.config.advertised_port);
        response.nodes = vec![
            Node::default()
                .with_node_id(image.node_id)
                .with_listeners(vec![listener]),
        ];
    }
    Ok(response)
}
