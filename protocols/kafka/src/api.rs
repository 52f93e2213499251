//! The table of APIs: what is advertised, one file each.

use crate::dispatch::Api;

pub mod api_versions;
pub mod fetch;
pub mod metadata;
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

/// Every API that is served, by key. Versions are those that Apache Kafka 4.3 advertises.
pub const APIS: &[&Api] = &[
    &produce::API,
    &fetch::API,
    &metadata::API,
    &api_versions::API,
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

/// The API of a key. The table is sorted by nothing but habit; a linear look costs less than the cache line of a hash.
pub fn find(key: i16) -> Option<&'static Api> {
    APIS.iter().chain(REFUSED).copied().find(|api| api.key == key)
}
