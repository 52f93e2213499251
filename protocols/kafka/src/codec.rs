//! The message types of the generated codec that the door uses, under two traits.

use bytes::{Bytes, BytesMut};
use kacrab_protocol::generated as message;

/// A request body that can be read. Allocation is bounded by the bytes given, never by a length in them.
pub trait RequestBody: Sized {
    fn read(body: &mut Bytes, version: i16) -> kacrab_protocol::Result<Self>;
}

/// A response body that can be written.
pub trait ResponseBody {
    fn encoded_len(&self, version: i16) -> kacrab_protocol::Result<usize>;
    fn write(&self, frame: &mut BytesMut, version: i16) -> kacrab_protocol::Result<()>;
}

macro_rules! requests {
    ($($name:ident),* $(,)?) => {$(
        impl RequestBody for message::$name {
            fn read(body: &mut Bytes, version: i16) -> kacrab_protocol::Result<Self> {
                message::$name::read(body, version)
            }
        }
    )*};
}

macro_rules! responses {
    ($($name:ident),* $(,)?) => {$(
        impl ResponseBody for message::$name {
            fn encoded_len(&self, version: i16) -> kacrab_protocol::Result<usize> {
                message::$name::encoded_len(self, version)
            }
            fn write(&self, frame: &mut BytesMut, version: i16) -> kacrab_protocol::Result<()> {
                message::$name::write(self, frame, version)
            }
        }
    )*};
}

requests! {
    AlterConfigsRequestData,
    AlterPartitionReassignmentsRequestData,
    AlterReplicaLogDirsRequestData,
    ApiVersionsRequestData,
    CreateAclsRequestData,
    CreatePartitionsRequestData,
    CreateTopicsRequestData,
    DeleteAclsRequestData,
    DeleteRecordsRequestData,
    DeleteTopicsRequestData,
    DescribeAclsRequestData,
    DescribeClientQuotasRequestData,
    DescribeClusterRequestData,
    DescribeConfigsRequestData,
    DescribeLogDirsRequestData,
    DescribeProducersRequestData,
    DescribeQuorumRequestData,
    DescribeTopicPartitionsRequestData,
    DescribeUserScramCredentialsRequestData,
    ElectLeadersRequestData,
    IncrementalAlterConfigsRequestData,
    ListConfigResourcesRequestData,
    ListOffsetsRequestData,
    ListPartitionReassignmentsRequestData,
    MetadataRequestData,
    OffsetForLeaderEpochRequestData,
}

responses! {
    AlterConfigsResponseData,
    AlterPartitionReassignmentsResponseData,
    AlterReplicaLogDirsResponseData,
    ApiVersionsResponseData,
    CreateAclsResponseData,
    CreatePartitionsResponseData,
    CreateTopicsResponseData,
    DeleteAclsResponseData,
    DeleteRecordsResponseData,
    DeleteTopicsResponseData,
    DescribeAclsResponseData,
    DescribeClientQuotasResponseData,
    DescribeClusterResponseData,
    DescribeConfigsResponseData,
    DescribeLogDirsResponseData,
    DescribeProducersResponseData,
    DescribeQuorumResponseData,
    DescribeTopicPartitionsResponseData,
    DescribeUserScramCredentialsResponseData,
    ElectLeadersResponseData,
    IncrementalAlterConfigsResponseData,
    ListConfigResourcesResponseData,
    ListOffsetsResponseData,
    ListPartitionReassignmentsResponseData,
    MetadataResponseData,
    OffsetForLeaderEpochResponseData,
}

// Groups, producer ids and what is refused around them.
requests! {
    AddOffsetsToTxnRequestData,
    AddPartitionsToTxnRequestData,
    ConsumerGroupDescribeRequestData,
    ConsumerGroupHeartbeatRequestData,
    DeleteGroupsRequestData,
    DescribeGroupsRequestData,
    EndTxnRequestData,
    FindCoordinatorRequestData,
    HeartbeatRequestData,
    InitProducerIdRequestData,
    JoinGroupRequestData,
    LeaveGroupRequestData,
    ListGroupsRequestData,
    OffsetCommitRequestData,
    OffsetDeleteRequestData,
    OffsetFetchRequestData,
    SyncGroupRequestData,
    TxnOffsetCommitRequestData,
}

responses! {
    AddOffsetsToTxnResponseData,
    AddPartitionsToTxnResponseData,
    ConsumerGroupDescribeResponseData,
    ConsumerGroupHeartbeatResponseData,
    DeleteGroupsResponseData,
    DescribeGroupsResponseData,
    EndTxnResponseData,
    FindCoordinatorResponseData,
    HeartbeatResponseData,
    InitProducerIdResponseData,
    JoinGroupResponseData,
    LeaveGroupResponseData,
    ListGroupsResponseData,
    OffsetCommitResponseData,
    OffsetDeleteResponseData,
    OffsetFetchResponseData,
    SyncGroupResponseData,
    TxnOffsetCommitResponseData,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::APIS;
    use kacrab_protocol::generated::{ApiKey, client_api_info};

    /// Reads a body of every request type in every version that the codec knows; says how many were well-formed.
    fn read_all(body: &[u8]) -> usize {
        fn read<Q: RequestBody>(body: &[u8]) -> usize {
            let version =
                |version: &i16| Q::read(&mut Bytes::copy_from_slice(body), *version).is_ok();
            (0..=13).filter(version).count()
        }
        read::<message::AlterConfigsRequestData>(body)
            + read::<message::CreateTopicsRequestData>(body)
            + read::<message::CreatePartitionsRequestData>(body)
            + read::<message::DeleteRecordsRequestData>(body)
            + read::<message::DeleteTopicsRequestData>(body)
            + read::<message::DescribeConfigsRequestData>(body)
            + read::<message::DescribeLogDirsRequestData>(body)
            + read::<message::DescribeTopicPartitionsRequestData>(body)
            + read::<message::ElectLeadersRequestData>(body)
            + read::<message::IncrementalAlterConfigsRequestData>(body)
            + read::<message::ListOffsetsRequestData>(body)
            + read::<message::MetadataRequestData>(body)
            + read::<message::OffsetForLeaderEpochRequestData>(body)
            + read::<message::OffsetCommitRequestData>(body)
            + read::<message::OffsetFetchRequestData>(body)
            + read::<message::JoinGroupRequestData>(body)
            + read::<message::SyncGroupRequestData>(body)
            + read::<message::LeaveGroupRequestData>(body)
            + read::<message::DescribeGroupsRequestData>(body)
            + read::<message::DeleteGroupsRequestData>(body)
    }

    /// Huge announced lengths must end in an error at once: no allocation of that size, no loop over nothing.
    #[test]
    fn announced_lengths_are_not_believed() {
        let huge_varint = [0xff, 0xff, 0xff, 0xff, 0x07];
        let huge_int = [0x7f, 0xff, 0xff, 0xff];
        for prefix in 0..40 {
            for fill in [0x00, 0x01, 0x02, 0x7f, 0xff] {
                for huge in [&huge_varint[..], &huge_int[..]] {
                    let mut body = vec![fill; prefix];
                    body.extend_from_slice(huge);
                    body.extend_from_slice(&[fill; 24]);
                    let _ = read_all(&body);
                }
            }
        }
    }

    #[test]
    fn header_versions_agree_with_the_schemas() {
        for api in APIS {
            let key = ApiKey::from_i16(api.key).expect("a key of the protocol");
            let schema = client_api_info(key);
            assert!(api.max <= schema.max_version, "{}", api.name);
            if schema.flexible_versions_start <= api.max || api.flexible <= api.max {
                assert_eq!(api.flexible, schema.flexible_versions_start, "{}", api.name);
            }
        }
        let mut keys: Vec<_> = APIS.iter().map(|api| api.key).collect();
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), APIS.len(), "each API is named once");
    }
}
