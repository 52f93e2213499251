//! The scrubber: damage is found where nobody reads, said once, and everything else is served; on files and in simulation.

use std::cell::{Cell, RefCell};
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::rc::Rc;
use std::time::Duration;

use trireme_runtime::service;
use trireme_runtime::sim::{Rot, Simulation};

use super::kit::*;
use crate::Engine;
use crate::api::*;
use crate::data_dir::DataDir;
use crate::layout::SUM_BLOCK;
use crate::layout::paths::{DataPath, SegmentFile};

const BATCHES: u64 = 300;

fn scrubbing(dir: &std::path::Path) -> EngineConfig {
    EngineConfig {
        scrub_period_ms: 200,
        scrub_bytes_per_second: 1 << 30,
        ..config(dir)
    }
}

async fn fill(engine: &Engine) {
    let small = PartitionConfig {
        segment_bytes: 200_000,
        ..PartitionConfig::default()
    };
    engine.create(vec![(partition(0), small)]).await;
    for tag in 0..BATCHES {
        append(engine, partition(0), batch(tag, 1, 2000))
            .await
            .expect("appended");
    }
}

/// Waits until so many passes have ended that one began after the call.
async fn passes(engine: &Engine) -> ShardStats {
    let before = engine.stats().scrub_passes;
    loop {
        trireme_runtime::sleep(Duration::from_millis(50)).await;
        let stats = engine.stats();
        if stats.scrub_passes >= before + 2 {
            return stats;
        }
    }
}

/// What reading each offset by itself gives: readable, or damaged.
async fn readable(engine: &Engine) -> Vec<bool> {
    let mut all = Vec::new();
    for offset in 0..BATCHES as i64 {
        let request = ReadRequest {
            partition: partition(0),
            offset,
            max_bytes: 1 << 20,
            at_least_one: true,
            isolation: Isolation::HighWatermark,
            leader_epoch: None,
        };
        let result = engine.read(vec![request]).await.pop().expect("one");
        all.push(match result {
            Ok(result) => result.bytes > 0 && result.next_offset > offset,
            Err(ReadError::Damaged { .. }) => false,
            Err(error) => panic!("offset {offset}: {error}"),
        });
    }
    all
}

#[test]
fn damage_is_found_and_the_rest_is_served() {
    let dir = tempfile::tempdir().unwrap();
    with_engine(&config(dir.path()), |engine| async move {
        fill(&engine).await;
        engine.shutdown().await;
    });
    let config = scrubbing(dir.path());
    let path = DataPath::Segment {
        partition: partition(0).id,
        base_offset: 0,
        file: SegmentFile::Log,
    }
    .below(dir.path());
    with_engine(&config, |engine| async move {
        let stats = passes(&engine).await;
        assert_eq!((stats.scrub_damage, stats.scrub_damage_last_pass), (0, 0));
        assert!(stats.scrub_last_pass_ms > 0);
        assert!(
            stats.scrubbed_bytes > 2 * 500_000,
            "{}",
            stats.scrubbed_bytes
        );
        assert!(readable(&engine).await.iter().all(|readable| *readable));
        // A bit rots below the page cache's nose: written through it here, which comes to the same.
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(&path)
            .unwrap();
        let at = 3 * SUM_BLOCK as u64 + 500;
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 8], at).unwrap();
        file.sync_all().unwrap();
        let stats = passes(&engine).await;
        assert_eq!(stats.scrub_damage_last_pass, 1);
        // Only batches that lie in that block, in part, cannot be read; what stands before it can, in whatever sizes.
        let damaged: Vec<usize> = (0..BATCHES as usize)
            .zip(readable(&engine).await)
            .filter_map(|(offset, readable)| (!readable).then_some(offset))
            .collect();
        let batch_bytes = batch(0, 1, 2000).len();
        let first = 3 * SUM_BLOCK / batch_bytes;
        let last = (4 * SUM_BLOCK - 1) / batch_bytes;
        assert_eq!(damaged, (first..=last).collect::<Vec<_>>());
        append(&engine, partition(0), batch(1, 1, 100))
            .await
            .expect("it still takes appends");
        // It heals.
        file.write_all_at(&byte, at).unwrap();
        file.sync_all().unwrap();
        let stats = passes(&engine).await;
        assert_eq!(stats.scrub_damage_last_pass, 0);
        assert!(readable(&engine).await.iter().all(|readable| *readable));
    });
}

#[test]
fn a_missing_sum_file_is_damage_and_a_deleted_segment_is_none() {
    let dir = tempfile::tempdir().unwrap();
    with_engine(&config(dir.path()), |engine| async move {
        fill(&engine).await;
        engine.shutdown().await;
    });
    let config = scrubbing(dir.path());
    let sum = DataPath::Segment {
        partition: partition(0).id,
        base_offset: 0,
        file: SegmentFile::Sum,
    }
    .below(dir.path());
    std::fs::remove_file(sum).unwrap();
    with_engine(&config, |engine| async move {
        let stats = passes(&engine).await;
        assert_eq!(stats.scrub_damage_last_pass, 1);
        // What is below the log start is nobody's business any more, and does not stay for the scrubber either.
        engine.delete_records(vec![(partition(0), 250)]).await;
        let stats = passes(&engine).await;
        assert_eq!(stats.scrub_damage_last_pass, 0);
    });
}

#[test]
fn without_a_period_nothing_is_read() {
    let dir = tempfile::tempdir().unwrap();
    with_engine(&config(dir.path()), |engine| async move {
        fill(&engine).await;
        trireme_runtime::sleep(Duration::from_millis(300)).await;
        assert_eq!(engine.stats().scrubbed_bytes, 0);
    });
}

/// What the node tells the test.
#[derive(Clone, Default)]
struct Told {
    filled: Rc<Cell<bool>>,
    go_on: Rc<Cell<bool>>,
    stats: Rc<RefCell<Option<ShardStats>>>,
}

async fn simulated_life(told: Told) {
    let config = scrubbing(std::path::Path::new("/data"));
    let dir = DataDir::open(&config).await.expect("an empty disk");
    let mail = service(1).pop().expect("one");
    let engine = Engine::open(config, 0, 1, mail).await.expect("opens");
    fill(&engine).await;
    let clean = passes(&engine).await;
    assert_eq!(clean.scrub_damage, 0);
    told.filled.set(true);
    while !told.go_on.get() {
        trireme_runtime::sleep(Duration::from_millis(1)).await;
    }
    let stats = passes(&engine).await;
    *told.stats.borrow_mut() = Some(stats);
    drop(dir);
    std::future::pending().await
}

#[test]
fn simulated_rot_of_any_sealed_segment_is_found() {
    for seed in 0..20 {
        let mut sim = Simulation::new(seed);
        let told = Told::default();
        let node = {
            let told = told.clone();
            sim.node(1, move |_| simulated_life(told.clone()))
        };
        assert!(sim.run_until(|| told.filled.get()));
        let kind = if seed % 2 == 0 { Rot::Bit } else { Rot::Sector };
        // The first segments are sealed, so every byte of them has its sum.
        let rotten = sim.rot(node, kind, |path| path.ends_with("00000000.log"));
        told.go_on.set(true);
        assert!(sim.run_until(|| told.stats.borrow().is_some()));
        let stats = told.stats.borrow().clone().expect("just seen");
        assert!(
            stats.scrub_damage_last_pass >= 1,
            "seed {seed}: {rotten:?} was not found"
        );
    }
}
