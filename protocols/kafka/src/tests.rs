//! A whole door on one core, asked over all versions of all APIs by a codec of other authors.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;

use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::messages::create_topics_request::CreatableTopic;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::*;
use kafka_protocol::protocol::StrBytes;
use kafka_protocol::records::{
    Compression, Record, RecordBatchEncoder, RecordEncodeOptions, TimestampType,
};
use trireme_engine::{Engine, EngineConfig};
use trireme_net::Segment;
use trireme_replication::{Metadata, MetadataOptions};
use trireme_runtime::service;

use crate::api::APIS;
use crate::connection::Peer;
use crate::dispatch::{self, Api, Started};
use crate::groups::GroupConfig;
use crate::groups::service::Groups;
use crate::reply::Reply;
use crate::{Door, DoorConfig};

async fn open(directory: &std::path::Path) -> Rc<Door> {
    let config = EngineConfig::new(directory);
    Engine::prepare(&config).await.unwrap();
    let engine = Engine::open(config, 0, 1, service(1).pop().unwrap())
        .await
        .unwrap();
    let options = MetadataOptions {
        node_id: 1,
        broker_defaults: BTreeMap::new(),
        to_partition_config: crate::configs::to_partition_config,
        shards: 1,
    };
    let metadata = Metadata::open(engine.clone(), 0, 1, service(1).pop().unwrap(), options)
        .await
        .unwrap();
    let mail = service(1).pop().unwrap();
    let groups = Groups::open(
        engine.clone(),
        metadata.clone(),
        mail,
        0,
        1,
        GroupConfig::default(),
    );
    let config = DoorConfig {
        data_dir: directory.display().to_string(),
        ..Default::default()
    };
    Door::new(config, engine, metadata, groups)
}

/// A request frame without its length.
fn frame(api: &Api, version: i16, request: &RequestKind) -> Option<Bytes> {
    let mut frame = BytesMut::new();
    frame.put_i16(api.key);
    frame.put_i16(version);
    frame.put_i32(4711);
    frame.put_i16(2);
    frame.put_slice(b"me");
    if version >= api.flexible {
        frame.put_u8(0);
    }
    request.encode(&mut frame, version).ok()?;
    Some(frame.freeze())
}

async fn ask(door: &Rc<Door>, frame: Bytes) -> Option<Bytes> {
    let peer = Rc::new(Peer::unconnected());
    let (_, _, started) = dispatch::start(door, &peer, frame);
    let reply = match started {
        Started::Done(reply) => reply,
        Started::Pending(future) => future.await,
    };
    let Reply::Send(segments, _) = reply else {
        return None;
    };
    let mut bytes = BytesMut::new();
    for segment in segments {
        match segment {
            Segment::Memory(part) => bytes.put_slice(&part),
            Segment::File(_) => panic!("so little is not sent from a file"),
        }
    }
    let mut bytes = bytes.freeze();
    let length = i32::from_be_bytes(bytes.split_to(4).as_ref().try_into().unwrap());
    assert_eq!(length as usize, bytes.len());
    Some(bytes)
}

/// Asks and reads the whole answer.
async fn exchange(door: &Rc<Door>, key: i16, version: i16, request: RequestKind) -> ResponseKind {
    let api = crate::api::find(key).unwrap();
    let frame = frame(api, version, &request).expect("a request of this version");
    let mut answer = ask(door, frame)
        .await
        .unwrap_or_else(|| panic!("{} v{version}: no answer", api.name));
    assert_eq!(answer.split_to(4).as_ref(), &4711i32.to_be_bytes());
    if version >= api.flexible && api.key != 18 {
        assert_eq!(
            answer.split_to(1).as_ref(),
            &[0],
            "{} v{version}: no tagged fields in the header",
            api.name
        );
    }
    let key = ApiKey::try_from(key).unwrap();
    let response = ResponseKind::decode(key, &mut answer, version)
        .unwrap_or_else(|e| panic!("{} v{version}: {e}", api.name));
    assert!(
        answer.is_empty(),
        "{} v{version}: {} bytes left",
        api.name,
        answer.len()
    );
    response
}

/// The smallest request of an API.
fn smallest(key: i16) -> Option<RequestKind> {
    macro_rules! of {
        ($($name:ident $request:ident),* $(,)?) => {
            match ApiKey::try_from(key).ok()? {
                $(ApiKey::$name => Some(RequestKind::$name($request::default())),)*
                _ => None,
            }
        };
    }
    of!(
        Produce ProduceRequest, Fetch FetchRequest, ListOffsets ListOffsetsRequest, Metadata MetadataRequest,
        ApiVersions ApiVersionsRequest, CreateTopics CreateTopicsRequest, DeleteTopics DeleteTopicsRequest,
        DeleteRecords DeleteRecordsRequest, OffsetForLeaderEpoch OffsetForLeaderEpochRequest, DescribeAcls DescribeAclsRequest,
        CreateAcls CreateAclsRequest, DeleteAcls DeleteAclsRequest, DescribeConfigs DescribeConfigsRequest,
        AlterConfigs AlterConfigsRequest, DescribeLogDirs DescribeLogDirsRequest, CreatePartitions CreatePartitionsRequest,
        ElectLeaders ElectLeadersRequest, IncrementalAlterConfigs IncrementalAlterConfigsRequest,
        ListPartitionReassignments ListPartitionReassignmentsRequest, DescribeClientQuotas DescribeClientQuotasRequest,
        DescribeUserScramCredentials DescribeUserScramCredentialsRequest, DescribeCluster DescribeClusterRequest,
        DescribeProducers DescribeProducersRequest, DescribeQuorum DescribeQuorumRequest,
        AlterPartitionReassignments AlterPartitionReassignmentsRequest, AlterReplicaLogDirs AlterReplicaLogDirsRequest, ListConfigResources ListConfigResourcesRequest,
        DescribeTopicPartitions DescribeTopicPartitionsRequest, OffsetCommit OffsetCommitRequest, OffsetFetch OffsetFetchRequest,
        FindCoordinator FindCoordinatorRequest, Heartbeat HeartbeatRequest, LeaveGroup LeaveGroupRequest,
        SyncGroup SyncGroupRequest, DescribeGroups DescribeGroupsRequest, ListGroups ListGroupsRequest,
        InitProducerId InitProducerIdRequest, DeleteGroups DeleteGroupsRequest, OffsetDelete OffsetDeleteRequest,
        ConsumerGroupDescribe ConsumerGroupDescribeRequest, JoinGroup JoinGroupRequest,
    )
}

#[test]
fn every_version_of_every_api_is_answered_in_its_own_shape() {
    let directory = tempfile::tempdir().unwrap();
    let asked = trireme_runtime::block_on(async {
        let door = open(directory.path()).await;
        let asked = RefCell::new(0);
        for api in APIS {
            for version in api.min..=api.max {
                let Some(mut request) = smallest(api.key) else {
                    continue;
                };
                if let RequestKind::Produce(request) = &mut request {
                    request.acks = -1;
                }
                // The other codec is a version older than ours.
                if frame(api, version, &request).is_none() {
                    assert!(version == api.max || version < 3, "{} v{version}", api.name);
                    continue;
                }
                let api_versions = matches!(request, RequestKind::ApiVersions(_));
                if api_versions && version >= 3 {
                    request = RequestKind::ApiVersions(
                        ApiVersionsRequest::default()
                            .with_client_software_name(StrBytes::from_static_str("me"))
                            .with_client_software_version(StrBytes::from_static_str("1")),
                    );
                }
                exchange(&door, api.key, version, request).await;
                *asked.borrow_mut() += 1;
            }
        }
        asked.into_inner()
    });
    assert!(asked > 150, "only {asked} versions were asked for");
}

#[test]
fn what_is_not_served_is_answered_as_kafka_does() {
    let directory = tempfile::tempdir().unwrap();
    trireme_runtime::block_on(async {
        let door = open(directory.path()).await;
        // ApiVersions of a later broker: error 35 in a version 0 body, with the ranges.
        let mut answer = ask(
            &door,
            Bytes::from_static(b"\0\x12\0\x63\0\0\0\x07\xff\xffwhatever"),
        )
        .await
        .unwrap();
        assert_eq!(answer.split_to(6).as_ref(), [0, 0, 0, 7, 0, 35]);
        assert_eq!(answer.len(), 4 + 6 * APIS.len());
        // An unknown API, an unknown version, half a header.
        assert!(
            ask(&door, Bytes::from_static(b"\x03\xe7\0\0\0\0\0\x07\xff\xff"))
                .await
                .is_none()
        );
        assert!(
            ask(&door, Bytes::from_static(b"\0\x03\0\x63\0\0\0\x07\xff\xff"))
                .await
                .is_none()
        );
        assert!(
            ask(&door, Bytes::from_static(b"\0\x03\0\x00\0\0"))
                .await
                .is_none()
        );
        // Produce before version 3 exists only to be refused.
        let body = b"\0\0\0\x02\0\0\0\x07\xff\xff\xff\xff\0\0\x10\0\0\0\0\x01\0\x01t\0\0\0\x01\0\0\0\0\0\0\0\0";
        let answer = ask(&door, Bytes::from_static(body)).await.unwrap();
        let expected = b"\0\0\0\x07\0\0\0\x01\0\x01t\0\0\0\x01\0\0\0\0\0\x23\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\0\0\0\0";
        assert_eq!(&answer[..], &expected[..]);
    });
}

fn batch(values: &[&str]) -> Bytes {
    let record = |(index, value): (usize, &&str)| Record {
        transactional: false,
        control: false,
        delete_horizon: false,
        partition_leader_epoch: -1,
        producer_id: -1,
        producer_epoch: -1,
        timestamp_type: TimestampType::Creation,
        offset: index as i64,
        // The encoder makes one batch only of records whose sequences follow each other.
        sequence: index as i32,
        timestamp: trireme_runtime::unix_ms(),
        key: None,
        value: Some(Bytes::copy_from_slice(value.as_bytes())),
        headers: Default::default(),
    };
    let records: Vec<Record> = values.iter().enumerate().map(record).collect();
    let mut bytes = BytesMut::new();
    let options = RecordEncodeOptions {
        version: 2,
        compression: Compression::None,
    };
    RecordBatchEncoder::encode(&mut bytes, &records, &options).unwrap();
    bytes.freeze()
}

fn topic_name(name: &str) -> TopicName {
    TopicName(StrBytes::from_string(name.to_owned()))
}

#[test]
fn what_is_produced_is_fetched_in_every_version() {
    let directory = tempfile::tempdir().unwrap();
    trireme_runtime::block_on(async {
        let door = open(directory.path()).await;
        let create = CreateTopicsRequest::default().with_topics(vec![
            CreatableTopic::default()
                .with_name(topic_name("t"))
                .with_num_partitions(2)
                .with_replication_factor(1),
        ]);
        let ResponseKind::CreateTopics(created) =
            exchange(&door, 19, 7, RequestKind::CreateTopics(create)).await
        else {
            panic!("another response")
        };
        assert_eq!(created.topics[0].error_code, 0);
        let id = created.topics[0].topic_id;

        let mut end = 0;
        for version in 3..=13 {
            let topic = TopicProduceData::default().with_partition_data(vec![
                PartitionProduceData::default()
                    .with_index(1)
                    .with_records(Some(batch(&["a", "b"]))),
                PartitionProduceData::default()
                    .with_index(7)
                    .with_records(Some(batch(&["c"]))),
            ]);
            let topic = if version >= 13 {
                topic.with_topic_id(id)
            } else {
                topic.with_name(topic_name("t"))
            };
            let request = ProduceRequest::default()
                .with_acks(-1)
                .with_timeout_ms(1000)
                .with_topic_data(vec![topic]);
            let ResponseKind::Produce(answer) =
                exchange(&door, 0, version, RequestKind::Produce(request)).await
            else {
                panic!("another response")
            };
            let partitions = &answer.responses[0].partition_responses;
            assert_eq!(
                (partitions[0].error_code, partitions[0].base_offset),
                (0, end),
                "version {version}"
            );
            assert_eq!(
                (partitions[1].error_code, partitions[1].base_offset),
                (3, -1),
                "version {version}"
            );
            end += 2;
        }

        for version in 4..=18 {
            let partition = FetchPartition::default()
                .with_partition(1)
                .with_fetch_offset(0)
                .with_current_leader_epoch(-1)
                .with_partition_max_bytes(1 << 20);
            let topic = FetchTopic::default().with_partitions(vec![partition]);
            let topic = if version >= 13 {
                topic.with_topic_id(id)
            } else {
                topic.with_topic(topic_name("t"))
            };
            let request = FetchRequest::default()
                .with_max_wait_ms(1000)
                .with_min_bytes(1)
                .with_max_bytes(1 << 20)
                .with_topics(vec![topic]);
            let ResponseKind::Fetch(answer) =
                exchange(&door, 1, version, RequestKind::Fetch(request)).await
            else {
                panic!("another response")
            };
            let partition = &answer.responses[0].partitions[0];
            assert_eq!(
                (partition.error_code, partition.high_watermark),
                (0, end),
                "version {version}"
            );
            assert_eq!(
                partition.records.as_ref().map_or(0, Bytes::len),
                11 * batch(&["a", "b"]).len()
            );
        }
    });
}

/// Flips, cuts and grows well-formed frames. Each ends in an answer or a close: never a panic, never a wait for what was announced.
#[test]
fn mutilated_frames_are_answered_or_closed() {
    let directory = tempfile::tempdir().unwrap();
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut random = move |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below as u64) as usize
    };
    trireme_runtime::block_on(async {
        let door = open(directory.path()).await;
        let peer = Rc::new(Peer::unconnected());
        // Long polls end at once.
        peer.gone.cancel();
        for api in APIS {
            // These wait for other members of their group.
            if [11, 14].contains(&api.key) {
                continue;
            }
            for version in api.min..=api.max {
                let Some(request) = smallest(api.key) else {
                    continue;
                };
                let Some(frame) = frame(api, version, &request) else {
                    continue;
                };
                for _ in 0..60 {
                    let mut bytes = frame.to_vec();
                    for _ in 0..=random(3) {
                        let place = random(bytes.len());
                        match random(4) {
                            0 => bytes[place] = random(256) as u8,
                            1 => bytes.truncate(place.max(1)),
                            2 => bytes.insert(place, [0xff, 0x7f, 0x00, 0x01][random(4)]),
                            _ => bytes[place] ^= 1 << random(8),
                        }
                    }
                    let (_, _, started) = dispatch::start(&door, &peer, bytes.into());
                    match started {
                        Started::Done(_) => {}
                        Started::Pending(future) => run_for_a_while(future).await,
                    }
                }
            }
        }
    });
}

/// Polls until it ends, or for some turns: a flip in the key can make a request wait for a group.
async fn run_for_a_while(mut future: Pin<Box<dyn Future<Output = Reply>>>) {
    for _ in 0..100 {
        let polled = poll_fn(|context| Poll::Ready(future.as_mut().poll(context).is_ready())).await;
        if polled {
            return;
        }
        trireme_runtime::yield_now().await;
    }
}

#[test]
fn the_groups_partitions_are_seen_as_the_internal_topic() {
    let directory = tempfile::tempdir().unwrap();
    trireme_runtime::block_on(async {
        let door = open(directory.path()).await;
        let all = || RequestKind::Metadata(MetadataRequest::default().with_topics(None));
        let ResponseKind::Metadata(fresh) = exchange(&door, 3, 9, all()).await else {
            panic!("another response")
        };
        assert!(fresh.topics.is_empty(), "nobody has used a group yet");
        let find = FindCoordinatorRequest::default().with_key("a-group".into());
        exchange(&door, 10, 3, RequestKind::FindCoordinator(find)).await;
        for topics in [
            None,
            Some(vec![
                metadata_request::MetadataRequestTopic::default()
                    .with_name(Some(topic_name("__consumer_offsets"))),
            ]),
        ] {
            let request = MetadataRequest::default().with_topics(topics);
            let ResponseKind::Metadata(answer) =
                exchange(&door, 3, 9, RequestKind::Metadata(request)).await
            else {
                panic!("another response")
            };
            assert_eq!(answer.topics.len(), 1);
            assert!(answer.topics[0].is_internal);
            assert_eq!(
                (
                    answer.topics[0].error_code,
                    answer.topics[0].partitions.len()
                ),
                (0, 8)
            );
        }
        let create = CreateTopicsRequest::default().with_topics(vec![
            CreatableTopic::default()
                .with_name(topic_name("__consumer_offsets"))
                .with_num_partitions(2)
                .with_replication_factor(1),
        ]);
        let ResponseKind::CreateTopics(created) =
            exchange(&door, 19, 7, RequestKind::CreateTopics(create)).await
        else {
            panic!("another response")
        };
        assert_eq!(created.topics[0].error_code, 36);
        let delete =
            DeleteTopicsRequest::default().with_topic_names(vec![topic_name("__consumer_offsets")]);
        let ResponseKind::DeleteTopics(deleted) =
            exchange(&door, 20, 4, RequestKind::DeleteTopics(delete)).await
        else {
            panic!("another response")
        };
        assert_eq!(deleted.responses[0].error_code, 42);
    });
}
