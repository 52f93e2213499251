//! The hand-written codec against a generated one of other authors, over all versions.

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::{ProduceRequest, ProduceResponse, TopicName, TransactionalId};
use kafka_protocol::protocol::{Decodable, Encodable, StrBytes};
use proptest::prelude::*;

use super::*;

type Partitions = Vec<(i32, Option<Vec<u8>>)>;

#[derive(Default, Debug, PartialEq)]
struct Seen {
    head: Option<(Option<String>, i16, i32)>,
    topics: Vec<(String, Partitions)>,
    announced: Vec<usize>,
}

impl<'a> Visitor<'a> for Seen {
    fn topics(&mut self, head: Head<'a>, count: usize) {
        self.head = Some((
            head.transactional_id.map(str::to_owned),
            head.acks,
            head.timeout_ms,
        ));
        self.announced.push(count);
    }
    fn topic(&mut self, topic: TopicKey<'a>, partitions: usize) {
        let name = match topic {
            TopicKey::Name(name) => name.to_owned(),
            TopicKey::Id(id) => uuid(id).to_string(),
        };
        self.topics.push((name, Vec::new()));
        self.announced.push(partitions);
    }
    fn partition(&mut self, index: i32, records: Option<&'a [u8]>) {
        let topic = self
            .topics
            .last_mut()
            .expect("a partition stands in a topic");
        topic.1.push((index, records.map(<[u8]>::to_vec)));
    }
    fn topic_end(&mut self) {}
}

fn uuid(id: [u8; 16]) -> u128 {
    u128::from_be_bytes(id)
}

type Request = (Option<String>, i16, i32, Vec<(String, u128, Partitions)>);

fn request() -> impl Strategy<Value = Request> {
    let records = proptest::option::of(proptest::collection::vec(any::<u8>(), 0..200));
    let partitions = proptest::collection::vec((any::<i32>(), records), 0..4);
    let topics = proptest::collection::vec(("[a-z]{1,20}", any::<u128>(), partitions), 0..4);
    (
        proptest::option::of("[a-z]{0,9}"),
        any::<i16>(),
        any::<i32>(),
        topics,
    )
}

proptest! {
    #[test]
    fn reads_what_others_write((transactional, acks, timeout, topics) in request(), version in 3i16..=13) {
        let with_ids = version >= FIRST_WITH_TOPIC_IDS;
        let data = topics.iter().map(|(name, id, partitions)| {
            let partitions = partitions.iter().map(|(index, records)| {
                PartitionProduceData::default().with_index(*index).with_records(records.clone().map(Bytes::from))
            }).collect();
            let topic = TopicProduceData::default().with_partition_data(partitions);
            match with_ids {
                true => topic.with_topic_id(uuid::Uuid::from_u128(*id)),
                false => topic.with_name(TopicName(StrBytes::from_string(name.clone()))),
            }
        }).collect();
        let written = ProduceRequest::default()
            .with_transactional_id(transactional.clone().map(|id| TransactionalId(StrBytes::from_string(id))))
            .with_acks(acks)
            .with_timeout_ms(timeout)
            .with_topic_data(data);
        let mut bytes = BytesMut::new();
        written.encode(&mut bytes, version).unwrap();

        let mut seen = Seen::default();
        let mut reader = Reader::new(&bytes, version >= API.flexible);
        walk(&mut reader, version, &mut seen).unwrap();
        prop_assert_eq!(reader.remaining(), 0);
        prop_assert_eq!(seen.head, Some((transactional, acks, timeout)));
        let expected: Vec<_> = topics.into_iter().map(|(name, id, partitions)| {
            (if with_ids { id.to_string() } else { name }, partitions)
        }).collect();
        prop_assert_eq!(&seen.topics, &expected);

        // Cut anywhere it is malformed, never anything else.
        for end in 0..bytes.len() {
            prop_assert!(walk(&mut Reader::new(&bytes[..end], version >= API.flexible), version, &mut Seen::default()).is_err());
        }
    }

    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), version in 0i16..=13) {
        let _ = walk(&mut Reader::new(&bytes, version >= API.flexible), version, &mut Seen::default());
    }

    #[test]
    fn others_read_what_is_written(
        answers in proptest::collection::vec((any::<i64>(), any::<i64>(), any::<i64>(), any::<bool>(), any::<bool>()), 1..5),
        version in 3i16..=13,
    ) {
        let flexible = version >= API.flexible;
        let mut out = Writer::new(0, flexible);
        out.array_length(1);
        match version >= FIRST_WITH_TOPIC_IDS {
            true => out.raw(&[7; 16]),
            false => out.string("topic"),
        }
        out.array_length(answers.len());
        let answers: Vec<_> = answers.into_iter().map(|(base_offset, log_append_time_ms, log_start, failed, record)| {
            match failed {
                true => {
                    let error = PartitionAnswer::error(ErrorCode::InvalidTimestamp, "why");
                    PartitionAnswer { record: record.then_some(3), ..error }
                }
                false => PartitionAnswer {
                    error: ErrorCode::None, base_offset, log_append_time_ms, log_start, record: None, message: None,
                },
            }
        }).collect();
        // As `start` does it: gaps first, filled from the last to the first.
        let mut gaps = Vec::new();
        for index in 0..answers.len() {
            out.i32(index as i32);
            gaps.push(out.len());
            let gap = gap_bytes(version, flexible);
            out.bytes.resize(out.len() + gap, 0);
        }
        out.no_tagged_fields();
        out.i32(0);
        out.no_tagged_fields();
        for (&gap, answer) in gaps.iter().zip(&answers).rev() {
            fill(&mut out, gap, answer, version, flexible);
        }

        let mut bytes = Bytes::from(out.bytes);
        let read = ProduceResponse::decode(&mut bytes, version).unwrap();
        prop_assert!(bytes.is_empty());
        let topic = &read.responses[0];
        prop_assert_eq!(topic.partition_responses.len(), answers.len());
        for (index, (read, answer)) in topic.partition_responses.iter().zip(&answers).enumerate() {
            prop_assert_eq!(read.index, index as i32);
            prop_assert_eq!(read.error_code, answer.error.code());
            prop_assert_eq!(read.base_offset, answer.base_offset);
            prop_assert_eq!(read.log_append_time_ms, answer.log_append_time_ms);
            if version >= 5 {
                prop_assert_eq!(read.log_start_offset, answer.log_start);
            }
            if version >= 8 {
                prop_assert_eq!(read.error_message.as_ref().map(|m| m.to_string()), answer.message.map(str::to_owned));
                let record = read.record_errors.first().map(|record| record.batch_index);
                prop_assert_eq!(record, answer.record);
            }
        }
    }
}

#[test]
fn a_gap_is_as_long_as_a_good_answer() {
    for version in 0..=13 {
        let flexible = version >= API.flexible;
        let mut out = Writer::new(0, flexible);
        let good = PartitionAnswer {
            error: ErrorCode::None,
            base_offset: 1,
            log_append_time_ms: -1,
            log_start: 0,
            record: None,
            message: None,
        };
        good.write(&mut out, version);
        assert_eq!(out.len(), gap_bytes(version, flexible), "version {version}");
    }
}
