//! The table of APIs: what is advertised, one file each.

use kacrab_protocol::generated::ErrorCode;
use trireme_engine::ReadError;

use crate::dispatch::Api;

pub mod acls;
pub mod alter_configs;
pub mod alter_partition_reassignments;
pub mod alter_replica_log_dirs;
pub mod api_versions;
pub mod create_partitions;
pub mod create_topics;
pub mod delete_records;
pub mod delete_topics;
pub mod describe_client_quotas;
pub mod describe_cluster;
pub mod describe_configs;
pub mod describe_log_dirs;
pub mod describe_producers;
pub mod describe_quorum;
pub mod describe_topic_partitions;
pub mod describe_user_scram_credentials;
pub mod elect_leaders;
pub mod fetch;
pub mod incremental_alter_configs;
pub mod list_config_resources;
pub mod list_offsets;
pub mod list_partition_reassignments;
pub mod metadata;
pub mod offset_for_leader_epoch;
pub mod produce;

pub mod add_offsets_to_txn;
pub mod add_partitions_to_txn;
pub mod consumer_group_describe;
pub mod consumer_group_heartbeat;
pub mod delete_groups;
pub mod describe_groups;
pub mod end_txn;
pub mod find_coordinator;
pub mod heartbeat;
pub mod init_producer_id;
pub mod join_group;
pub mod leave_group;
pub mod list_groups;
pub mod offset_commit;
pub mod offset_delete;
pub mod offset_fetch;
pub mod sync_group;
pub mod txn_offset_commit;

/// Every API that is served, the hot ones first. Versions are those that Apache Kafka 4.3 advertises.
pub const APIS: &[&Api] = &[
    &produce::API,
    &fetch::API,
    &list_offsets::API,
    &metadata::API,
    &api_versions::API,
    &create_topics::API,
    &delete_topics::API,
    &delete_records::API,
    &offset_for_leader_epoch::API,
    &acls::DESCRIBE,
    &acls::CREATE,
    &acls::DELETE,
    &describe_configs::API,
    &alter_configs::API,
    &alter_replica_log_dirs::API,
    &describe_log_dirs::API,
    &create_partitions::API,
    &elect_leaders::API,
    &incremental_alter_configs::API,
    &alter_partition_reassignments::API,
    &list_partition_reassignments::API,
    &describe_client_quotas::API,
    &describe_quorum::API,
    &describe_user_scram_credentials::API,
    &describe_cluster::API,
    &describe_producers::API,
    &list_config_resources::API,
    &describe_topic_partitions::API,
    // Groups and producers.
    &offset_commit::API,
    &offset_fetch::API,
    &find_coordinator::API,
    &join_group::API,
    &heartbeat::API,
    &leave_group::API,
    &sync_group::API,
    &describe_groups::API,
    &list_groups::API,
    &init_producer_id::API,
    &delete_groups::API,
    &offset_delete::API,
    &consumer_group_describe::API,
];

/// What is not built yet and not advertised, but has an answer of its own for whoever asks nevertheless.
const REFUSED: &[&Api] = &[
    &add_partitions_to_txn::API,
    &add_offsets_to_txn::API,
    &end_txn::API,
    &txn_offset_commit::API,
    &consumer_group_heartbeat::API,
];

/// The API of a key.
pub fn find(key: i16) -> Option<&'static Api> {
    APIS.iter()
        .chain(REFUSED)
        .copied()
        .find(|api| api.key == key)
}

/// The protocol's code for a partition that cannot be read.
pub fn read_error(error: &ReadError) -> ErrorCode {
    match error {
        ReadError::UnknownPartition => ErrorCode::UnknownTopicOrPartition,
        ReadError::OffsetOutOfRange { .. } => ErrorCode::OffsetOutOfRange,
        ReadError::FencedLeaderEpoch { .. } => ErrorCode::FencedLeaderEpoch,
        ReadError::UnknownLeaderEpoch { .. } => ErrorCode::UnknownLeaderEpoch,
        ReadError::Damaged { .. } => ErrorCode::KafkaStorageError,
        ReadError::ShuttingDown => ErrorCode::NotLeaderOrFollower,
    }
}
