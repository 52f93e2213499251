//! Directories of the real engine, and what it serves from them.

#![allow(dead_code)]

use std::collections::BTreeMap;
use std::future::Future;
use std::path::Path;

use bytes::Bytes;
use trireme_engine::batch::{Batches, Codec};
use trireme_engine::records::{BatchBuilder, NewRecord, Producer};
use trireme_engine::{
    Ack, Append, DataDir, Engine, EngineConfig, Isolation, OffsetQuery, PartitionConfig,
    PartitionId, PartitionRef, ReadPart, ReadRequest, TopicId,
};
use trireme_runtime::fs::File;
use trireme_runtime::{NodeConfig, block_on_with, service};

const CODECS: [Codec; 5] = [
    Codec::None,
    Codec::Gzip,
    Codec::Snappy,
    Codec::Lz4,
    Codec::Zstd,
];

pub fn config(dir: &Path, shards: u16) -> EngineConfig {
    EngineConfig {
        shards,
        tail_memory_bytes: 64 << 20,
        unflushed_max_bytes: 16 << 20,
        wal_file_bytes: 2 << 20,
        first_wal_file_bytes: 256 << 10,
        direct_min_bytes: 128 << 10,
        reserve_bytes: 0,
        ..EngineConfig::new(dir)
    }
}

/// Runs `body` with an engine on the directory, which must open.
pub fn with_engine<T, Fut: Future<Output = T>>(
    config: &EngineConfig,
    body: impl FnOnce(Engine) -> Fut,
) -> T {
    let config = config.clone();
    let node = NodeConfig {
        cores: 1,
        pin: false,
        ..NodeConfig::default()
    };
    block_on_with(node, async move {
        let dir = DataDir::open(&config).await.expect("a data directory");
        let mail = service(1).pop().expect("one core");
        let engine = Engine::open(
            EngineConfig {
                shards: dir.shards,
                ..config
            },
            0,
            1,
            mail,
        );
        body(engine.await.expect("the engine opens")).await
    })
    .expect("a core")
}

/// Partition `index` lives in shard `index` modulo 2, if there are two.
pub fn partition(index: u32, shards: u16) -> PartitionRef {
    let topic = TopicId([7; 16]);
    PartitionRef {
        id: PartitionId { topic, index },
        shard: index as u16 % shards,
    }
}

pub fn batch(seed: u64, records: usize, value_bytes: usize, producer: Option<Producer>) -> Bytes {
    let mut builder = BatchBuilder::new(CODECS[seed as usize % 5]);
    if let Some(producer) = producer {
        builder = builder.producer(producer);
    }
    for index in 0..records {
        let mut random = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ index as u64;
        let value: Vec<u8> = (0..value_bytes)
            .map(|_| {
                random = random
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                (random >> 33) as u8
            })
            .collect();
        builder.push(&NewRecord {
            timestamp_ms: 1_700_000_000_000 + seed as i64,
            key: Some(&seed.to_le_bytes()),
            value: Some(&value),
            headers: &[],
        });
    }
    builder.finish().into()
}

pub async fn append(engine: &Engine, to: PartitionRef, batches: Bytes) {
    let append = Append {
        partition: to,
        batches,
        ack: Ack::Committed,
        may_use_reserve: false,
    };
    engine
        .append(vec![append])
        .await
        .pop()
        .expect("one answer")
        .expect("appended");
}

/// What a partition serves: its log start, its end, and each batch's CRC-covered bytes by base offset.
pub type Served = (i64, i64, BTreeMap<i64, Vec<u8>>);

/// Everything the engine serves.
pub async fn served(engine: &Engine) -> BTreeMap<PartitionRef, Served> {
    let mut all = BTreeMap::new();
    for partition in engine.list().await {
        let mut ends = Vec::new();
        for query in [OffsetQuery::Earliest, OffsetQuery::Latest] {
            let query = (partition, query, Isolation::HighWatermark);
            ends.push(
                engine.offsets(vec![query]).await[0]
                    .clone()
                    .expect("an offset")
                    .offset,
            );
        }
        let (mut offset, mut batches) = (ends[0], BTreeMap::new());
        loop {
            let request = ReadRequest {
                partition,
                offset,
                max_bytes: 100_000,
                at_least_one: true,
                isolation: Isolation::HighWatermark,
                leader_epoch: None,
            };
            let result = engine
                .read(vec![request])
                .await
                .pop()
                .expect("one")
                .expect("readable");
            if result.bytes == 0 {
                break;
            }
            let mut bytes = Vec::new();
            for part in result.parts {
                match part {
                    ReadPart::Memory(part) => bytes.extend_from_slice(&part),
                    ReadPart::File(range) => {
                        let file = File::from_shared(range.file);
                        let room = Vec::with_capacity(range.len as usize);
                        let (read, part) = file
                            .read_exact_at(room, range.position, range.len as usize)
                            .await;
                        read.expect("readable");
                        bytes.extend_from_slice(&part);
                    }
                }
            }
            for batch in Batches::new(&bytes) {
                let batch = batch.expect("whole batches");
                batches.insert(batch.header().base_offset(), batch.bytes().to_vec());
            }
            assert!(result.next_offset > offset, "a read that does not go on");
            offset = result.next_offset;
        }
        all.insert(partition, (ends[0], ends[1], batches));
    }
    all
}

/// Sealed segments, every codec, an idempotent producer, an empty partition, a deleted one, deleted records, direct runs.
pub async fn fill(engine: &Engine, shards: u16, batches: u64, value_bytes: usize) {
    let small = PartitionConfig {
        segment_bytes: 64 << 10,
        ..PartitionConfig::default()
    };
    let all = (0..5).map(|index| (partition(index, shards), small.clone()));
    engine.create(all.collect()).await;
    fill_more(engine, shards, 0, batches, value_bytes).await;
    append(engine, partition(3, shards), batch(1, 1, 100, None)).await;
    engine.delete(vec![partition(3, shards)]).await;
    engine.delete_records(vec![(partition(1, shards), 3)]).await;
}

/// The same again, from another seed on.
pub async fn fill_more(engine: &Engine, shards: u16, from: u64, batches: u64, value_bytes: usize) {
    for seed in from..from + batches {
        let producer = Producer {
            id: 77,
            epoch: 1,
            base_sequence: seed as i32 * 2,
        };
        let bytes = batch(seed, 2, value_bytes, Some(producer));
        append(engine, partition(0, shards), bytes).await;
        if seed.is_multiple_of(5) {
            append(engine, partition(1, shards), batch(seed, 1, 30, None)).await;
        }
        if seed.is_multiple_of(40) {
            append(engine, partition(2, shards), batch(seed, 1, 200_000, None)).await;
        }
    }
}
