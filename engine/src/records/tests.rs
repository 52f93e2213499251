//! Records there and back, against the kafka-protocol crate as a second opinion, and against damage.

use bytes::{Bytes, BytesMut};
use kafka_protocol::indexmap::IndexMap;
use kafka_protocol::protocol::StrBytes;
use kafka_protocol::records as theirs;
use proptest::prelude::*;

use super::*;
use crate::batch::{Limits, TimestampType, assign, set_log_append_time, validate};

const CODECS: [Codec; 5] = [
    Codec::None,
    Codec::Gzip,
    Codec::Snappy,
    Codec::Lz4,
    Codec::Zstd,
];

#[derive(Clone, Debug, PartialEq, Eq)]
struct Owned {
    timestamp_ms: i64,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: Vec<(String, Option<Vec<u8>>)>,
}

fn any_field(bytes_max: usize) -> impl Strategy<Value = Option<Vec<u8>>> {
    // Repetitive, so that codecs have something to do, and across snappy's and LZ4's block sizes.
    let field = (any::<u8>(), 0..bytes_max, 1usize..50).prop_map(|(seed, length, period)| {
        (0..length)
            .map(|at| (at % period) as u8 ^ seed ^ (at / 977) as u8)
            .collect()
    });
    prop::option::weighted(0.9, field)
}

fn any_record() -> impl Strategy<Value = Owned> {
    let headers = prop::collection::btree_map("[a-z]{0,5}", any_field(20), 0..4);
    let times = prop_oneof![4 => 1_700_000_000_000i64..1_700_000_100_000, 1 => any::<i64>()];
    (
        times,
        any_field(40),
        prop_oneof![20 => any_field(200), 1 => any_field(100_000)],
        headers,
    )
        .prop_map(|(timestamp_ms, key, value, headers)| Owned {
            timestamp_ms,
            key,
            value,
            headers: headers.into_iter().collect(),
        })
}

fn any_codec() -> impl Strategy<Value = Codec> {
    prop::sample::select(CODECS.to_vec())
}

fn build(codec: Codec, producer: Option<Producer>, records: &[Owned]) -> Vec<u8> {
    let mut builder = BatchBuilder::new(codec);
    if let Some(producer) = producer {
        builder = builder.producer(producer);
    }
    for record in records {
        let headers: Vec<(&[u8], Option<&[u8]>)> = record
            .headers
            .iter()
            .map(|(name, value)| (name.as_bytes(), value.as_deref()))
            .collect();
        builder.push(&NewRecord {
            timestamp_ms: record.timestamp_ms,
            key: record.key.as_deref(),
            value: record.value.as_deref(),
            headers: &headers,
        });
    }
    assert_eq!(builder.len(), records.len());
    builder.finish()
}

fn read(batch: &[u8]) -> Result<Vec<Owned>, RecordError> {
    let records = Records::open(batch, &RecordLimits::default())?;
    let base = records.header().base_offset();
    let mut all = Vec::new();
    for (at, record) in records.iter().enumerate() {
        let record = record?;
        assert_eq!(record.offset, base + at as i64);
        assert_eq!(record.headers.len(), record.headers.clone().count());
        all.push(Owned {
            timestamp_ms: record.timestamp_ms,
            key: record.key.map(<[u8]>::to_vec),
            value: record.value.map(<[u8]>::to_vec),
            headers: record
                .headers
                .map(|(name, value)| {
                    (
                        String::from_utf8(name.to_vec()).unwrap(),
                        value.map(<[u8]>::to_vec),
                    )
                })
                .collect(),
        });
    }
    Ok(all)
}

fn one(value: &[u8]) -> Owned {
    Owned {
        timestamp_ms: 7,
        key: None,
        value: Some(value.to_vec()),
        headers: vec![],
    }
}

/// An uncompressed batch whose one record's bytes are given, with right length and CRC.
fn raw_batch(codec: Codec, count: i32, body: &[u8]) -> Vec<u8> {
    let mut batch = build(Codec::None, None, &[one(b"")]);
    batch.truncate(crate::batch::HEADER_BYTES);
    batch.extend_from_slice(body);
    let length = batch.len() as i32 - 12;
    batch[8..12].copy_from_slice(&length.to_be_bytes());
    batch[22] = codec.id();
    batch[23..27].copy_from_slice(&(count - 1).to_be_bytes());
    batch[57..61].copy_from_slice(&count.to_be_bytes());
    let crc = crate::crc::crc32c(0, &batch[21..]);
    batch[17..21].copy_from_slice(&crc.to_be_bytes());
    batch
}

fn compressed(codec: Codec, bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    compress::compress(codec, bytes, &mut out);
    out
}

#[test]
fn known_bytes_of_a_record() {
    let mut builder = BatchBuilder::new(Codec::None);
    builder.push(&NewRecord {
        timestamp_ms: 1000,
        key: Some(b"k"),
        value: None,
        headers: &[(b"h", Some(b"v")), (b"", None)],
    });
    builder.push(&NewRecord {
        timestamp_ms: 999,
        key: None,
        value: Some(b"xy"),
        headers: &[],
    });
    assert_eq!(builder.batch_bytes(), 61 + 14 + 9);
    let batch = builder.finish();
    let header = BatchHeader::view(&batch).unwrap();
    assert_eq!(
        (header.base_timestamp(), header.max_timestamp()),
        (1000, 1000)
    );
    assert_eq!(
        (
            header.base_offset(),
            header.last_offset_delta(),
            header.records_count()
        ),
        (0, 1, 2)
    );
    let first = [26, 0, 0, 0, 2, b'k', 1, 4, 2, b'h', 2, b'v', 0, 1];
    let second = [16, 0, 1, 2, 1, 4, b'x', b'y', 0];
    assert_eq!(batch[61..75], first);
    assert_eq!(batch[75..], second);
}

#[test]
fn log_append_time_is_every_records_time() {
    for codec in CODECS {
        let mut batch = build(codec, None, &[one(b"a"), one(b"b")]);
        assign(&mut batch, 40, 3);
        set_log_append_time(&mut batch, 5000);
        let valid = validate(&batch, &Limits::log(1 << 20)).unwrap();
        assert_eq!(
            valid.header().timestamp_type(),
            TimestampType::LogAppendTime
        );
        let records = Records::open(&batch, &RecordLimits::default()).unwrap();
        let all: Vec<_> = records
            .iter()
            .map(|r| r.unwrap())
            .map(|r| (r.offset, r.timestamp_ms))
            .collect();
        assert_eq!(all, [(40, 5000), (41, 5000)]);
    }
}

#[test]
fn raw_snappy_and_concatenated_frames() {
    let plain = build(Codec::None, None, &[one(b"hello hello hello hello")]);
    let body = &plain[61..];
    let raw = snap::raw::Encoder::new().compress_vec(body).unwrap();
    assert_eq!(read(&raw_batch(Codec::Snappy, 1, &raw)), read(&plain));
    let (a, b) = body.split_at(5);
    let joined = [compressed(Codec::Snappy, a), compressed(Codec::Snappy, b)].concat();
    assert_eq!(read(&raw_batch(Codec::Snappy, 1, &joined)), read(&plain));
    let joined = [compressed(Codec::Gzip, a), compressed(Codec::Gzip, b)].concat();
    assert_eq!(read(&raw_batch(Codec::Gzip, 1, &joined)), read(&plain));
}

/// A batch of a few KiB that would become 1 GiB: refused at the limit, with about the limit's memory.
#[test]
fn bombs_stop_at_the_limit() {
    let max = 1 << 20;
    let zeros = vec![0u8; 8 << 20];
    for codec in &CODECS[1..] {
        let batch = raw_batch(*codec, 1, &compressed(*codec, &zeros));
        let result = Records::open(
            &batch,
            &RecordLimits {
                decompressed_bytes_max: max,
            },
        );
        assert_eq!(
            result.err(),
            Some(RecordError::TooLarge { max }),
            "{codec:?}"
        );
        let exactly = raw_batch(*codec, 1, &compressed(*codec, &zeros[..max]));
        assert!(
            Records::open(
                &exactly,
                &RecordLimits {
                    decompressed_bytes_max: max
                }
            )
            .is_ok(),
            "{codec:?}"
        );
    }
    // A snappy block that claims 2^32 − 1 bytes and has none.
    for lie in [&[0xFF, 0xFF, 0xFF, 0xFF, 0x0F][..], &[0xFF, 0xFF, 0x7F, 0]] {
        let result =
            Records::open(&raw_batch(Codec::Snappy, 1, lie), &RecordLimits::default()).err();
        assert_eq!(result, Some(RecordError::Decompress(Codec::Snappy)));
    }
}

#[test]
fn malformed_records_are_named() {
    let problem = |count, body: &[u8]| match read(&raw_batch(Codec::None, count, body)) {
        Err(RecordError::Record { index, problem }) => (index, problem),
        other => panic!("{other:?}"),
    };
    let good = [14, 0, 0, 0, 1, 2, b'v', 0];
    assert_eq!(read(&raw_batch(Codec::None, 1, &good)).unwrap().len(), 1);
    assert_eq!(problem(1, &[]), (0, "its length is cut off or malformed"));
    assert_eq!(problem(1, &[1]), (0, "its length is negative"));
    assert_eq!(problem(1, &good[..7]), (0, "it reaches beyond the batch"));
    assert_eq!(problem(1, &[0]), (0, "it is empty"));
    assert_eq!(
        problem(1, &[14, 0, 0, 2, 1, 2, b'v', 0]),
        (0, "its offset lies outside the batch")
    );
    assert_eq!(
        problem(1, &[14, 0, 0, 0, 3, 2, b'v', 0]),
        (0, "malformed key")
    );
    assert_eq!(
        problem(1, &[14, 0, 0, 0, 1, 4, b'v', 0]),
        (0, "malformed header count")
    );
    assert_eq!(
        problem(1, &[14, 0, 0, 0, 1, 2, b'v', 1]),
        (0, "its header count is negative")
    );
    assert_eq!(
        problem(1, &[14, 0, 0, 0, 1, 2, b'v', 2]),
        (0, "malformed header name")
    );
    assert_eq!(
        problem(1, &[18, 0, 0, 0, 1, 2, b'v', 2, 1, 1]),
        (0, "header without a name")
    );
    assert_eq!(
        problem(1, &[16, 0, 0, 0, 1, 2, b'v', 0, 0]),
        (0, "its length is larger than its fields")
    );
    let huge_headers = [20, 0, 0, 0, 1, 1, 0xFE, 0xFF, 0xFF, 0xFF, 0x0F];
    assert_eq!(problem(1, &huge_headers).1, "malformed header name");
    assert_eq!(problem(2, &good), (1, "its length is cut off or malformed"));
    assert_eq!(
        problem(1, &[good, good].concat()),
        (1, "bytes behind the last record")
    );
}

#[test]
fn a_hundred_thousand_records() {
    for codec in CODECS {
        let records: Vec<Owned> = (0..100_000u32).map(|at| one(&at.to_le_bytes())).collect();
        let batch = build(codec, None, &records);
        validate(&batch, &Limits::client(batch.len())).unwrap();
        assert_eq!(read(&batch).unwrap(), records);
    }
}

fn to_theirs(codec: Codec) -> theirs::Compression {
    match codec {
        Codec::None => theirs::Compression::None,
        Codec::Gzip => theirs::Compression::Gzip,
        Codec::Snappy => theirs::Compression::Snappy,
        Codec::Lz4 => theirs::Compression::Lz4,
        Codec::Zstd => theirs::Compression::Zstd,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn there_and_back(
        records in prop::collection::vec(any_record(), 1..20), codec in any_codec(),
        producer in prop::option::of((0..i64::MAX, 0..i16::MAX, 0..i32::MAX)),
    ) {
        let producer = producer.map(|(id, epoch, base_sequence)| Producer { id, epoch, base_sequence });
        let batch = build(codec, producer, &records);
        let valid = validate(&batch, &Limits::client(1 << 24));
        // A client may not send every timestamp that can be written down.
        let valid = match valid {
            Err(crate::batch::BatchError::Timestamps { .. }) => validate(&batch, &Limits::log(1 << 24)),
            result => result,
        };
        let header = valid.expect("valid").header();
        prop_assert_eq!(header.codec(), Some(codec));
        prop_assert_eq!(header.max_timestamp(), records.iter().map(|record| record.timestamp_ms).max().unwrap());
        if let Some(producer) = producer {
            let found = (header.producer_id(), header.producer_epoch(), header.base_sequence());
            prop_assert_eq!(found, (producer.id, producer.epoch, producer.base_sequence));
        }
        prop_assert_eq!(read(&batch).unwrap(), records);
    }

    #[test]
    fn theirs_reads_ours(records in prop::collection::vec(any_record(), 1..20), codec in any_codec()) {
        let producer = Producer { id: 9, epoch: 2, base_sequence: 17 };
        // Their decoder adds timestamps without wrapping.
        let base_time = records[0].timestamp_ms;
        prop_assume!(records.iter().all(|record| record.timestamp_ms.checked_sub(base_time).is_some()));
        let mut batch = build(codec, Some(producer), &records);
        assign(&mut batch, 1000, 6);
        let decoded = theirs::RecordBatchDecoder::decode(&mut Bytes::from(batch)).unwrap();
        prop_assert_eq!(decoded.compression, to_theirs(codec));
        prop_assert_eq!(decoded.records.len(), records.len());
        for (at, (their, our)) in decoded.records.iter().zip(&records).enumerate() {
            prop_assert_eq!(their.offset, 1000 + at as i64);
            prop_assert_eq!(their.sequence, 17 + at as i32);
            prop_assert_eq!((their.producer_id, their.producer_epoch, their.partition_leader_epoch), (9, 2, 6));
            prop_assert_eq!(their.timestamp, our.timestamp_ms);
            prop_assert_eq!(their.key.as_deref(), our.key.as_deref());
            prop_assert_eq!(their.value.as_deref(), our.value.as_deref());
            let headers: Vec<_> = their
                .headers.iter().map(|(name, value)| (name.to_string(), value.as_deref().map(<[u8]>::to_vec))).collect();
            prop_assert_eq!(&headers, &our.headers);
        }
    }

    #[test]
    fn ours_reads_theirs(records in prop::collection::vec(any_record(), 1..20), codec in any_codec()) {
        let base_time = records.iter().map(|record| record.timestamp_ms).min().unwrap();
        let their_records: Vec<theirs::Record> = records.iter().enumerate().map(|(at, record)| theirs::Record {
            transactional: false,
            control: false,
            delete_horizon: false,
            partition_leader_epoch: 4,
            producer_id: 3,
            producer_epoch: 1,
            timestamp_type: theirs::TimestampType::Creation,
            offset: at as i64,
            sequence: at as i32,
            timestamp: record.timestamp_ms,
            key: record.key.clone().map(Bytes::from),
            value: record.value.clone().map(Bytes::from),
            headers: record
                .headers.iter()
                .map(|(name, value)| (StrBytes::from_string(name.clone()), value.clone().map(Bytes::from)))
                .collect::<IndexMap<_, _>>(),
        }).collect();
        let mut encoded = BytesMut::new();
        let options = theirs::RecordEncodeOptions { version: 2, compression: to_theirs(codec) };
        // Their encoder subtracts timestamps without wrapping.
        prop_assume!(records.iter().all(|record| record.timestamp_ms.checked_sub(base_time).is_some()));
        theirs::RecordBatchEncoder::encode(&mut encoded, &their_records, &options).unwrap();
        let header = validate(&encoded, &Limits::client(1 << 24)).unwrap().header();
        prop_assert_eq!((header.producer_id(), header.producer_epoch(), header.base_sequence()), (3, 1, 0));
        prop_assert_eq!((header.leader_epoch(), header.codec()), (4, Some(codec)));
        prop_assert_eq!(read(&encoded).unwrap(), records);
    }

    /// Bytes bent behind the CRC's back: an error or other records, never a panic or more than the limit.
    #[test]
    fn damage_is_survived(
        records in prop::collection::vec(any_record(), 1..5), codec in any_codec(),
        bends in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let mut batch = build(codec, None, &records);
        for (at, byte) in bends {
            // Not the length, or there is nothing to read.
            let at = 12 + at.index(batch.len() - 12);
            batch[at] = byte;
        }
        let limits = RecordLimits { decompressed_bytes_max: 1 << 20 };
        if let Ok(records) = Records::open(&batch, &limits) {
            prop_assert!(records.encoded().len() <= batch.len().max(1 << 20));
            let errors = records.iter().filter(|record| record.is_err()).count();
            prop_assert!(errors <= 1);
            let _ = records.iter().flatten().map(|record| record.headers.count()).sum::<usize>();
        }
    }

    #[test]
    fn noise_is_survived(codec in any_codec(), count in 1i32..1000, noise in prop::collection::vec(any::<u8>(), 0..300)) {
        let limits = RecordLimits { decompressed_bytes_max: 1 << 16 };
        for body in [noise.clone(), compressed(codec, &noise), [&decompress::XERIAL_MAGIC[..], &noise].concat()] {
            if let Ok(records) = Records::open(&raw_batch(codec, count, &body), &limits) {
                prop_assert!(records.iter().count() <= noise.len() + 1 + (1 << 16));
            }
        }
    }
}
