//! What the tests of the live engine share: a directory, batches, and running an engine on a core.

use std::future::Future;

use bytes::Bytes;
use trireme_runtime::{NodeConfig, block_on_with, service};

use crate::Engine;
use crate::api::*;
use crate::batch::{BatchHeader, Batches, Codec, Limits, validate};
use crate::data_dir::DataDir;
use crate::records::{BatchBuilder, NewRecord, Producer, RecordLimits, Records};

/// A life that takes longer says what it waits for.
const STALLED_AFTER: std::time::Duration = std::time::Duration::from_secs(90);

pub fn partition(index: u32) -> PartitionRef {
    PartitionRef {
        id: PartitionId {
            topic: TopicId([9; 16]),
            index,
        },
        shard: 0,
    }
}

/// A small engine, so that tests meet every bound.
pub fn config(dir: &std::path::Path) -> EngineConfig {
    EngineConfig {
        shards: 1,
        tail_memory_bytes: 64 << 20,
        unflushed_max_bytes: 32 << 20,
        wal_file_bytes: 4 << 20,
        reserve_bytes: 0,
        ..EngineConfig::new(dir)
    }
}

/// Runs `body` with an engine on `config`. Whatever is not awaited in it is dropped with the core: a crash, as far as a
/// process can have one without taking the test along.
pub fn with_engine<T, Fut: Future<Output = T>>(
    config: &EngineConfig,
    body: impl FnOnce(Engine) -> Fut,
) -> T {
    try_with_engine(config, body).expect("the engine opens")
}

pub fn try_with_engine<T, Fut: Future<Output = T>>(
    config: &EngineConfig,
    body: impl FnOnce(Engine) -> Fut,
) -> Result<T, OpenError> {
    let config = config.clone();
    block_on_with(
        NodeConfig {
            cores: 1,
            pin: false,
            ..NodeConfig::default()
        },
        async move {
            let dir = DataDir::open(&config).await?;
            let mail = service(1).pop().expect("one");
            let engine = Engine::open(
                EngineConfig {
                    shards: dir.shards,
                    ..config
                },
                0,
                1,
                mail,
            )
            .await?;
            let stalled = {
                let engine = engine.clone();
                trireme_runtime::spawn(async move {
                    trireme_runtime::sleep(STALLED_AFTER).await;
                    eprintln!("still running after {STALLED_AFTER:?}: {}", engine.state());
                })
            };
            let result = body(engine).await;
            drop((dir, stalled));
            Ok(result)
        },
    )
    .expect("a core")
}

/// A batch of `count` records whose values begin with `tag`.
pub fn batch(tag: u64, count: usize, value_bytes: usize) -> Bytes {
    build(tag, count, value_bytes, None, Codec::None)
}

pub fn build(
    tag: u64,
    count: usize,
    value_bytes: usize,
    producer: Option<Producer>,
    codec: Codec,
) -> Bytes {
    let mut builder = BatchBuilder::new(codec);
    if let Some(producer) = producer {
        builder = builder.producer(producer);
    }
    for index in 0..count {
        let mut value =
            vec![(tag as u8).wrapping_mul(31).wrapping_add(index as u8); value_bytes.max(16)];
        value[..8].copy_from_slice(&tag.to_le_bytes());
        value[8..16].copy_from_slice(&(index as u64).to_le_bytes());
        builder.push(&NewRecord {
            timestamp_ms: 1_700_000_000_000 + tag as i64,
            key: None,
            value: Some(&value),
            headers: &[],
        });
    }
    let bytes = builder.finish();
    validate(&bytes, &Limits::client(usize::MAX)).expect("a valid batch");
    bytes.into()
}

pub fn append_of(partition: PartitionRef, batches: Bytes) -> Append {
    Append {
        partition,
        batches,
        ack: Ack::Committed,
        may_use_reserve: false,
    }
}

pub async fn append(
    engine: &Engine,
    partition: PartitionRef,
    batches: Bytes,
) -> Result<Appended, AppendError> {
    engine
        .append(vec![append_of(partition, batches)])
        .await
        .pop()
        .expect("one answer")
}

/// The tags of all records of a partition, with their offsets checked to be without gaps from `from` on.
pub async fn read_tags(
    engine: &Engine,
    partition: PartitionRef,
    from: Offset,
    max_bytes: u32,
) -> Vec<u64> {
    let mut tags = Vec::new();
    let mut offset = from;
    loop {
        let request = ReadRequest {
            partition,
            offset,
            max_bytes,
            at_least_one: true,
            isolation: Isolation::HighWatermark,
            leader_epoch: None,
        };
        let result = engine
            .read(vec![request])
            .await
            .pop()
            .expect("one answer")
            .expect("readable");
        if result.bytes == 0 {
            assert_eq!(offset, result.high_watermark);
            return tags;
        }
        let next_offset = result.next_offset;
        let bytes = collect(result).await;
        for raw in Batches::new(&bytes) {
            let raw = raw.expect("whole batches");
            validate(raw.bytes(), &Limits::log(usize::MAX)).expect("right CRC");
            let header: &BatchHeader = raw.header();
            let records = Records::open(raw.bytes(), &RecordLimits::default()).expect("records");
            for record in records.iter() {
                let record = record.expect("a record");
                if record.offset < offset {
                    continue;
                }
                assert_eq!(record.offset, offset, "no gaps");
                let value = record.value.expect("a value");
                tags.push(u64::from_le_bytes(value[..8].try_into().expect("8")));
                offset += 1;
            }
            assert_eq!(header.next_offset(), offset);
        }
        assert_eq!(next_offset, offset);
    }
}

pub async fn collect(result: ReadResult) -> Vec<u8> {
    let mut bytes = Vec::new();
    for part in result.parts {
        match part {
            ReadPart::Memory(memory) => bytes.extend_from_slice(&memory),
            ReadPart::File(range) => {
                let file = trireme_runtime::fs::File::from_shared(range.file);
                let (result, read) = file
                    .read_exact_at(
                        Vec::with_capacity(range.len as usize),
                        range.position,
                        range.len as usize,
                    )
                    .await;
                result.expect("a range that was handed out can be read");
                bytes.extend_from_slice(&read);
            }
        }
    }
    assert_eq!(bytes.len(), result.bytes as usize);
    bytes
}
