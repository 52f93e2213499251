//! The real engine's directories: clean after a shutdown, never damaged after an end without one, and every broken bit found.

use std::future::Future;
use std::path::Path;

use bytes::Bytes;
use trireme_engine::batch::Codec;
use trireme_engine::records::{BatchBuilder, NewRecord, Producer};
use trireme_engine::{
    Ack, Append, DataDir, Engine, EngineConfig, PartitionConfig, PartitionId, PartitionRef, TopicId,
};
use trireme_fsck::{Directory, Options, Report, Verdict, torture::torture, verify};
use trireme_runtime::{NodeConfig, block_on_with, service};

const CODECS: [Codec; 5] = [
    Codec::None,
    Codec::Gzip,
    Codec::Snappy,
    Codec::Lz4,
    Codec::Zstd,
];

fn config(dir: &Path) -> EngineConfig {
    EngineConfig {
        shards: 1,
        tail_memory_bytes: 64 << 20,
        unflushed_max_bytes: 16 << 20,
        wal_file_bytes: 2 << 20,
        first_wal_file_bytes: 256 << 10,
        direct_min_bytes: 128 << 10,
        reserve_bytes: 0,
        ..EngineConfig::new(dir)
    }
}

fn with_engine<T, Fut: Future<Output = T>>(
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

fn partition(index: u32) -> PartitionRef {
    let topic = TopicId([7; 16]);
    PartitionRef {
        id: PartitionId { topic, index },
        shard: 0,
    }
}

fn batch(seed: u64, records: usize, value_bytes: usize, producer: Option<Producer>) -> Bytes {
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

async fn append(engine: &Engine, to: PartitionRef, batches: Bytes) {
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

fn check(dir: &Path) -> Report {
    verify(&Directory::new(dir), &Options::default()).expect("the directory can be listed")
}

/// Sealed segments, every codec, an idempotent producer, an empty partition, a deleted one, deleted records.
async fn fill(engine: &Engine, batches: u64, value_bytes: usize) {
    let small = PartitionConfig {
        segment_bytes: 64 << 10,
        ..PartitionConfig::default()
    };
    let all = (0..4).map(|index| (partition(index), small.clone()));
    engine.create(all.collect()).await;
    let producer = |seed: u64| Producer {
        id: 77,
        epoch: 1,
        base_sequence: seed as i32 * 2,
    };
    for seed in 0..batches {
        append(
            engine,
            partition(0),
            batch(seed, 2, value_bytes, Some(producer(seed))),
        )
        .await;
        if seed.is_multiple_of(5) {
            append(engine, partition(1), batch(seed, 1, 30, None)).await;
        }
    }
    append(engine, partition(3), batch(1, 1, 100, None)).await;
    engine.delete(vec![partition(3)]).await;
    engine.delete_records(vec![(partition(1), 3)]).await;
}

#[test]
fn cleanly_shut_it_is_clean_and_every_broken_bit_is_found() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = config(dir.path());
    with_engine(&config, |engine| async move {
        fill(&engine, 200, 500).await;
        engine.shutdown().await;
    });
    let report = check(dir.path());
    assert_eq!(report.verdict(), Verdict::Clean, "{report}");
    let counts = &report.counts;
    assert_eq!(counts.shards, counts.shards_cleanly_shut, "{report}");
    assert!(
        counts.sealed_segments >= 2 && counts.batches >= 200,
        "{report}"
    );
    assert!(
        counts.log_groups > 0,
        "the last log file is to be checked: {report}"
    );

    // Without optimisation, some of the bits; the acceptance run takes every one.
    let every = if cfg!(debug_assertions) { 509 } else { 1 };
    let outcome = torture(
        &Directory::new(dir.path()),
        Options::default().threads,
        every,
    )
    .expect("clean");
    println!("{outcome}");
    assert_eq!(outcome.missed_count, 0, "{outcome}");

    // And again after another start, with more.
    with_engine(&config, |engine| async move {
        for seed in 300..320 {
            append(&engine, partition(0), batch(seed, 2, 3000, None)).await;
            append(&engine, partition(1), batch(seed, 2, 30, None)).await;
        }
        engine.shutdown().await;
    });
    let report = check(dir.path());
    assert_eq!(report.verdict(), Verdict::Clean, "{report}");
}

#[test]
fn without_a_shutdown_nothing_looks_damaged() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = config(dir.path());
    let mut seed = 1000;
    for round in 0..6u64 {
        with_engine(&config, |engine| async move {
            if round == 0 {
                fill(&engine, 50, 500).await;
            }
            for seed in seed..seed + 60 {
                append(
                    &engine,
                    partition(0),
                    batch(seed, 2, 200 + 900 * round as usize, None),
                )
                .await;
                append(&engine, partition(1), batch(seed, 2, 30, None)).await;
                if seed.is_multiple_of(10) {
                    // Large enough for a direct run.
                    append(&engine, partition(2), batch(seed, 1, 200_000, None)).await;
                }
            }
            // Every other end is a clean one, so that partial blocks are appended to.
            if round % 2 == 1 {
                engine.shutdown().await;
            }
        });
        seed += 60;
        let report = check(dir.path());
        let expected = if round % 2 == 1 {
            &[Verdict::Clean][..]
        } else {
            &[Verdict::Clean, Verdict::TornTail][..]
        };
        assert!(
            expected.contains(&report.verdict()),
            "round {round}: {report}"
        );
        // What was acknowledged is there: 50 + 10 of the filling, 126 of each round.
        assert!(
            report.counts.batches >= 50 + 10 + (round + 1) * 126,
            "round {round}: {report}"
        );
    }
}
