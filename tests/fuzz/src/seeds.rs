//! Inputs from the encoders of the code itself.

use std::collections::BTreeMap;

use kafka_protocol::messages::create_topics_request::CreatableTopic;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::*;
use kafka_protocol::protocol::StrBytes;
use trireme_engine::batch::Codec;
use trireme_engine::records::{BatchBuilder, NewRecord, Producer};
use trireme_engine::{PartitionId, PartitionRef, TopicId};
use trireme_replication::{Record, Topic};

use crate::mutate::Random;

pub const CODECS: [Codec; 5] = [
    Codec::None,
    Codec::Gzip,
    Codec::Snappy,
    Codec::Lz4,
    Codec::Zstd,
];

/// The first batch of an idempotent producer.
pub fn batch(codec: Codec, records: usize, value_bytes: usize) -> Vec<u8> {
    batch_from(codec, 0, records, value_bytes)
}

/// The batch of an idempotent producer that begins with this sequence.
pub fn batch_from(codec: Codec, base_sequence: i32, records: usize, value_bytes: usize) -> Vec<u8> {
    let mut random = Random::new(base_sequence as u64);
    let mut builder = BatchBuilder::new(codec).producer(Producer {
        id: 7,
        epoch: 1,
        base_sequence,
    });
    for index in 0..records {
        let value: Vec<u8> = (0..value_bytes).map(|_| random.number() as u8).collect();
        builder.push(&NewRecord {
            timestamp_ms: 1_700_000_000_000 + index as i64,
            key: (index % 2 == 0).then_some(&b"key"[..]),
            value: Some(&value),
            headers: &[(b"h", Some(&b"v"[..]))],
        });
    }
    builder.finish()
}

/// Batches of the metadata table.
pub fn metadata() -> Vec<u8> {
    let id = TopicId([9; 16]);
    let partitions = (0..3)
        .map(|index| PartitionRef {
            id: PartitionId { topic: id, index },
            shard: index as u16,
        })
        .collect();
    let configs = BTreeMap::from([("retention.ms".to_owned(), "1000".to_owned())]);
    let records = [
        Record::Cluster {
            cluster_id: "cluster".to_owned(),
            node_id: 1,
        },
        Record::Topic(Topic {
            id,
            name: "orders".into(),
            partitions,
            configs: configs.clone(),
        }),
        Record::BrokerConfigs(configs),
        Record::NextProducerId(1000),
        Record::GroupHomes(vec![0, 1, 2]),
    ];
    let mut bytes = Vec::new();
    for record in &records {
        let (key, value) = record.encode();
        let mut builder = BatchBuilder::new(Codec::None);
        builder.push(&NewRecord {
            timestamp_ms: 1,
            key: Some(&key),
            value: Some(&value),
            headers: &[],
        });
        bytes.extend_from_slice(&builder.finish());
    }
    bytes
}

fn topic() -> TopicName {
    TopicName(StrBytes::from_static_str("t"))
}

fn group() -> GroupId {
    GroupId(StrBytes::from_static_str("g"))
}

/// Requests of an API: the smallest one, and one with something in it.
pub fn requests(key: i16) -> Vec<RequestKind> {
    macro_rules! smallest {
        ($($name:ident $request:ident),* $(,)?) => {
            match ApiKey::try_from(key) {
                $(Ok(ApiKey::$name) => Some(RequestKind::$name($request::default())),)*
                _ => None,
            }
        };
    }
    let smallest = smallest!(
        Produce ProduceRequest, Fetch FetchRequest, ListOffsets ListOffsetsRequest, Metadata MetadataRequest,
        ApiVersions ApiVersionsRequest, CreateTopics CreateTopicsRequest, DeleteTopics DeleteTopicsRequest,
        DeleteRecords DeleteRecordsRequest, OffsetForLeaderEpoch OffsetForLeaderEpochRequest,
        DescribeAcls DescribeAclsRequest, CreateAcls CreateAclsRequest, DeleteAcls DeleteAclsRequest,
        DescribeConfigs DescribeConfigsRequest, AlterConfigs AlterConfigsRequest,
        DescribeLogDirs DescribeLogDirsRequest, CreatePartitions CreatePartitionsRequest,
        ElectLeaders ElectLeadersRequest, IncrementalAlterConfigs IncrementalAlterConfigsRequest,
        ListPartitionReassignments ListPartitionReassignmentsRequest,
        DescribeClientQuotas DescribeClientQuotasRequest,
        DescribeUserScramCredentials DescribeUserScramCredentialsRequest, DescribeCluster DescribeClusterRequest,
        DescribeProducers DescribeProducersRequest, DescribeQuorum DescribeQuorumRequest,
        AlterPartitionReassignments AlterPartitionReassignmentsRequest,
        AlterReplicaLogDirs AlterReplicaLogDirsRequest, ListConfigResources ListConfigResourcesRequest,
        DescribeTopicPartitions DescribeTopicPartitionsRequest, OffsetCommit OffsetCommitRequest,
        OffsetFetch OffsetFetchRequest, FindCoordinator FindCoordinatorRequest, Heartbeat HeartbeatRequest,
        LeaveGroup LeaveGroupRequest, SyncGroup SyncGroupRequest, DescribeGroups DescribeGroupsRequest,
        ListGroups ListGroupsRequest, InitProducerId InitProducerIdRequest, DeleteGroups DeleteGroupsRequest,
        OffsetDelete OffsetDeleteRequest, ConsumerGroupDescribe ConsumerGroupDescribeRequest,
        JoinGroup JoinGroupRequest,
    );
    smallest.into_iter().chain(filled(key)).collect()
}

fn filled(key: i16) -> Option<RequestKind> {
    Some(match ApiKey::try_from(key).ok()? {
        ApiKey::Produce => {
            let partition =
                PartitionProduceData::default().with_records(Some(batch(Codec::Lz4, 2, 20).into()));
            let topic = TopicProduceData::default()
                .with_name(topic())
                .with_partition_data(vec![partition]);
            RequestKind::Produce(
                ProduceRequest::default()
                    .with_acks(-1)
                    .with_timeout_ms(1000)
                    .with_topic_data(vec![topic]),
            )
        }
        ApiKey::Fetch => {
            let partition = FetchPartition::default()
                .with_current_leader_epoch(-1)
                .with_partition_max_bytes(1 << 20);
            let topic = FetchTopic::default()
                .with_topic(topic())
                .with_partitions(vec![partition]);
            RequestKind::Fetch(
                FetchRequest::default()
                    .with_max_wait_ms(10)
                    .with_min_bytes(1)
                    .with_max_bytes(1 << 20)
                    .with_topics(vec![topic]),
            )
        }
        ApiKey::ListOffsets => {
            let partition = ListOffsetsPartition::default().with_timestamp(-1);
            let topic = ListOffsetsTopic::default()
                .with_name(topic())
                .with_partitions(vec![partition]);
            RequestKind::ListOffsets(ListOffsetsRequest::default().with_topics(vec![topic]))
        }
        ApiKey::Metadata => {
            let topic = MetadataRequestTopic::default().with_name(Some(topic()));
            RequestKind::Metadata(
                MetadataRequest::default()
                    .with_topics(Some(vec![topic]))
                    .with_allow_auto_topic_creation(true),
            )
        }
        ApiKey::CreateTopics => {
            let topic = CreatableTopic::default()
                .with_name(topic())
                .with_num_partitions(2)
                .with_replication_factor(1);
            RequestKind::CreateTopics(CreateTopicsRequest::default().with_topics(vec![topic]))
        }
        ApiKey::OffsetCommit => {
            let partition = OffsetCommitRequestPartition::default().with_committed_offset(5);
            let topic = OffsetCommitRequestTopic::default()
                .with_name(topic())
                .with_partitions(vec![partition]);
            RequestKind::OffsetCommit(
                OffsetCommitRequest::default()
                    .with_group_id(group())
                    .with_generation_id_or_member_epoch(-1)
                    .with_topics(vec![topic]),
            )
        }
        ApiKey::JoinGroup => {
            let protocol = JoinGroupRequestProtocol::default()
                .with_name(StrBytes::from_static_str("range"))
                .with_metadata(bytes::Bytes::from_static(b"\0\0\0\0\0\x01\0\x01t\0\0\0\0"));
            RequestKind::JoinGroup(
                JoinGroupRequest::default()
                    .with_group_id(group())
                    .with_session_timeout_ms(10_000)
                    .with_rebalance_timeout_ms(1000)
                    .with_protocol_type(StrBytes::from_static_str("consumer"))
                    .with_protocols(vec![protocol]),
            )
        }
        ApiKey::FindCoordinator => RequestKind::FindCoordinator(
            FindCoordinatorRequest::default().with_key(StrBytes::from_static_str("g")),
        ),
        _ => return None,
    })
}
