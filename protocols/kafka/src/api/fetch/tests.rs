//! The hand-written codec against a generated one of other authors, over all versions.

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic, ForgottenTopic};
use kafka_protocol::messages::{BrokerId, FetchRequest, FetchResponse, TopicName};
use kafka_protocol::protocol::{Decodable, Encodable, StrBytes};
use proptest::prelude::*;

use super::response::encode_frame;
use super::*;

type Asked = (i32, i32, i64, i32, i32);

#[derive(Clone, Debug)]
struct Topic {
    name: String,
    id: u128,
    partitions: Vec<Asked>,
    forgotten: Vec<i32>,
}

fn topics() -> impl Strategy<Value = Vec<Topic>> {
    let asked = (
        any::<i32>(),
        any::<i32>(),
        any::<i64>(),
        any::<i32>(),
        any::<i32>(),
    );
    let topic = (
        "[a-z]{1,20}",
        any::<u128>(),
        proptest::collection::vec(asked, 0..4),
        proptest::collection::vec(any::<i32>(), 0..3),
    );
    let topic = topic.prop_map(|(name, id, partitions, forgotten)| Topic {
        name,
        id,
        partitions,
        forgotten,
    });
    proptest::collection::vec(topic, 0..4)
}

fn name(name: &str) -> TopicName {
    TopicName(StrBytes::from_string(name.to_owned()))
}

fn key(topic: &Topic, version: i16) -> TopicKey {
    match version >= FIRST_WITH_TOPIC_IDS {
        true => TopicKey::Id(topic.id.to_be_bytes()),
        false => TopicKey::Name(topic.name.as_str().into()),
    }
}

proptest! {
    #[test]
    fn reads_what_others_write(
        topics in topics(),
        (wait, min, max, isolation, session, epoch, replica) in any::<(i32, i32, i32, i8, i32, i32, i32)>(),
        version in 4i16..=18,
    ) {
        let with_ids = version >= FIRST_WITH_TOPIC_IDS;
        let asked = topics.iter().map(|topic| {
            let partitions = topic.partitions.iter().map(|&(index, leader_epoch, offset, last_fetched, max_bytes)| {
                let partition = FetchPartition::default()
                    .with_partition(index)
                    .with_current_leader_epoch(leader_epoch)
                    .with_fetch_offset(offset)
                    .with_partition_max_bytes(max_bytes);
                if version >= 12 { partition.with_last_fetched_epoch(last_fetched) } else { partition }
            }).collect();
            let asked = FetchTopic::default().with_partitions(partitions);
            if with_ids { asked.with_topic_id(uuid::Uuid::from_u128(topic.id)) } else { asked.with_topic(name(&topic.name)) }
        }).collect();
        let mut written = FetchRequest::default()
            .with_max_wait_ms(wait)
            .with_min_bytes(min)
            .with_max_bytes(max)
            .with_isolation_level(isolation)
            .with_topics(asked);
        if version <= 14 {
            written.replica_id = BrokerId(replica);
        } else {
            written.replica_state.replica_id = BrokerId(replica);
        }
        if version >= FIRST_WITH_SESSIONS {
            written.session_id = session;
            written.session_epoch = epoch;
            written.forgotten_topics_data = topics.iter().map(|topic| {
                let forgotten = ForgottenTopic::default().with_partitions(topic.forgotten.clone());
                match with_ids {
                    true => forgotten.with_topic_id(uuid::Uuid::from_u128(topic.id)),
                    false => forgotten.with_topic(name(&topic.name)),
                }
            }).collect();
        }
        let mut bytes = BytesMut::new();
        written.encode(&mut bytes, version).unwrap();

        let image = MetadataImage::default();
        let read = parse(&bytes, version, &image).unwrap();
        prop_assert_eq!((read.max_wait_ms, read.min_bytes, read.max_bytes, read.isolation), (wait, min, max, isolation));
        prop_assert_eq!(read.replica_id, replica);
        if version >= FIRST_WITH_SESSIONS {
            prop_assert_eq!((read.session_id, read.session_epoch), (session, epoch));
            let forgotten: Vec<_> = topics.iter()
                .flat_map(|topic| topic.forgotten.iter().map(|&index| (key(topic, version), index)))
                .collect();
            prop_assert_eq!(&read.forgotten, &forgotten);
        } else {
            prop_assert_eq!((read.session_id, read.session_epoch), (0, -1));
        }
        let partitions: Vec<_> = topics.iter().flat_map(|topic| topic.partitions.iter().map(|&(index, leader_epoch, offset, last, max_bytes)| {
            let parameters = FetchParameters {
                leader_epoch: if version >= 9 { leader_epoch } else { -1 },
                offset,
                last_fetched_epoch: if version >= 12 { last } else { -1 },
                max_bytes,
            };
            (key(topic, version), index, parameters)
        })).collect();
        prop_assert_eq!(&read.partitions, &partitions);

        for end in 0..bytes.len() {
            prop_assert!(parse(&bytes[..end], version, &image).is_err());
        }
    }

    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), version in 4i16..=18) {
        let _ = parse(&bytes, version, &MetadataImage::default());
    }

    #[test]
    fn others_read_what_is_written(
        topics in proptest::collection::vec(proptest::collection::vec((any::<i64>(), any::<i64>(), any::<bool>(),
            proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..50), 0..3)), 1..4), 0..4),
        session in any::<i32>(),
        version in 4i16..=18,
    ) {
        let mut partitions = Vec::new();
        let mut expected = Vec::new();
        for (t, of_topic) in topics.iter().enumerate() {
            for (index, (high_watermark, log_start, failed, parts)) in of_topic.iter().enumerate() {
                let key = match version >= FIRST_WITH_TOPIC_IDS {
                    true => TopicKey::Id([t as u8; 16]),
                    false => TopicKey::Name(format!("t{t}").as_str().into()),
                };
                let answer = if *failed {
                    PartitionData::error(index as i32, ErrorCode::OffsetOutOfRange)
                } else {
                    PartitionData {
                        index: index as i32,
                        error: ErrorCode::None,
                        high_watermark: *high_watermark,
                        last_stable_offset: *high_watermark,
                        log_start: *log_start,
                        no_aborted_transactions: index % 2 == 0,
                        bytes: parts.iter().map(|part| part.len() as u32).sum(),
                        parts: parts.iter().map(|part| Segment::Memory(Bytes::from(part.clone()))).collect(),
                    }
                };
                expected.push((t, answer.index, answer.error, answer.high_watermark, answer.log_start, parts.concat(), *failed));
                partitions.push((key, answer));
            }
        }
        let flexible = version >= API.flexible;
        let segments = encode_frame(77, version, flexible, ErrorCode::None, session, partitions);
        let mut bytes = BytesMut::new();
        for segment in segments {
            match segment {
                Segment::Memory(part) => bytes.extend_from_slice(&part),
                Segment::File(_) => unreachable!("only memory was given"),
            }
        }
        let mut bytes = bytes.freeze();
        prop_assert_eq!(i32::from_be_bytes(bytes[..4].try_into().unwrap()) as usize, bytes.len() - 4);
        prop_assert_eq!(i32::from_be_bytes(bytes[4..8].try_into().unwrap()), 77);
        let header = if flexible { 9 } else { 8 };
        let _ = bytes.split_to(header);
        let read = FetchResponse::decode(&mut bytes, version).unwrap();
        prop_assert!(bytes.is_empty());
        if version >= FIRST_WITH_SESSIONS {
            prop_assert_eq!(read.session_id, session);
        }
        prop_assert_eq!(read.responses.len(), topics.len());
        let found: Vec<_> = read.responses.iter().enumerate()
            .flat_map(|(t, topic)| topic.partitions.iter().map(move |partition| (t, partition)))
            .collect();
        prop_assert_eq!(found.len(), expected.len());
        for ((t, read), (topic, index, error, high_watermark, log_start, records, failed)) in found.into_iter().zip(expected) {
            prop_assert_eq!((t, read.partition_index, read.error_code), (topic, index, error.code()));
            prop_assert_eq!(read.high_watermark, high_watermark);
            if version >= 5 {
                prop_assert_eq!(read.log_start_offset, log_start);
            }
            let expected_records = if failed { Vec::new() } else { records };
            prop_assert_eq!(read.records.as_deref().unwrap_or_default(), &expected_records[..]);
            let empty_list = !failed && index % 2 == 0;
            prop_assert_eq!(read.aborted_transactions.is_some(), empty_list);
        }
    }
}

#[test]
fn a_response_without_partitions_is_one_piece() {
    let segments = encode_frame(
        1,
        12,
        true,
        ErrorCode::FetchSessionIdNotFound,
        0,
        Vec::new(),
    );
    assert_eq!(segments.len(), 1);
}
