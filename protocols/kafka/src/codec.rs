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
    ApiVersionsRequestData,
    CreateAclsRequestData,
    CreatePartitionsRequestData,
    CreateTopicsRequestData,
    DeleteAclsRequestData,
    DeleteRecordsRequestData,
    DeleteTopicsRequestData,
    DescribeAclsRequestData,
    DescribeClusterRequestData,
    DescribeConfigsRequestData,
    DescribeLogDirsRequestData,
    DescribeTopicPartitionsRequestData,
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
    ApiVersionsResponseData,
    CreateAclsResponseData,
    CreatePartitionsResponseData,
    CreateTopicsResponseData,
    DeleteAclsResponseData,
    DeleteRecordsResponseData,
    DeleteTopicsResponseData,
    DescribeAclsResponseData,
    DescribeClusterResponseData,
    DescribeConfigsResponseData,
    DescribeLogDirsResponseData,
    DescribeTopicPartitionsResponseData,
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
