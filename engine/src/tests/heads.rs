//! The partial last block of a segment that cannot be read, in simulation: nothing that was answered is dropped, nothing is
//! appended behind it, and all goes on when the disk is well again.

use std::cell::Cell;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use trireme_runtime::sim::{DiskFaults, Simulation};
use trireme_runtime::{service, sleep, spawn};

use super::kit::*;
use crate::Engine;
use crate::api::*;
use crate::data_dir::DataDir;

const FSYNC: u32 = 0;
const RELAXED: u32 = 1;
const BEFORE: u64 = 3;

/// Where the node is, and how far it may go.
#[derive(Clone, Default)]
struct Steps {
    done: Rc<Cell<u32>>,
    allowed: Rc<Cell<u32>>,
}

impl Steps {
    async fn next(&self) {
        self.done.set(self.done.get() + 1);
        while self.allowed.get() < self.done.get() {
            sleep(Duration::from_millis(1)).await;
        }
    }
}

async fn open() -> (DataDir, Engine) {
    let config = EngineConfig {
        shards: 1,
        reserve_bytes: 0,
        ..EngineConfig::new(Path::new("/data"))
    };
    let dir = DataDir::open(&config).await.expect("opens");
    let mail = service(1).pop().expect("one");
    let engine = Engine::open(config, 0, 1, mail).await.expect("opens");
    engine.configure(partitions()).await;
    (dir, engine)
}

fn partitions() -> Vec<(PartitionRef, PartitionConfig)> {
    let config = |durability| PartitionConfig {
        durability,
        retention_ms: None,
        ..PartitionConfig::default()
    };
    vec![
        (partition(FSYNC), config(Durability::Fsync)),
        (partition(RELAXED), config(Durability::Relaxed)),
    ]
}

async fn fill() {
    let (_dir, engine) = open().await;
    engine.create(partitions()).await;
    for index in [FSYNC, RELAXED] {
        for tag in 0..BEFORE {
            append(&engine, partition(index), batch(tag, 1, 100))
                .await
                .expect("appended");
        }
    }
    engine.shutdown().await;
}

async fn tags(engine: &Engine, index: u32) -> Vec<u64> {
    read_tags(engine, partition(index), 0, 1 << 20).await
}

/// A life whose disk cannot be read after its first step; either it can again after the second one, or the life ends.
async fn life(steps: Steps, heals: bool) {
    fill().await;
    {
        let (_dir, engine) = open().await;
        steps.next().await;
        let relaxed = append(&engine, partition(RELAXED), batch(BEFORE, 1, 100)).await;
        assert_eq!(relaxed.expect("in memory").base_offset, BEFORE as i64);
        let fsync = {
            let engine = engine.clone();
            spawn(async move { append(&engine, partition(FSYNC), batch(BEFORE, 1, 100)).await })
        };
        sleep(Duration::from_millis(500)).await;
        for index in [FSYNC, RELAXED] {
            let refused = append(&engine, partition(index), batch(9, 1, 100)).await;
            assert!(matches!(refused, Err(AppendError::Damaged)), "{refused:?}");
        }
        if heals {
            steps.next().await;
            assert_eq!(fsync.await.expect("durable").base_offset, BEFORE as i64);
            sleep(Duration::from_secs(2)).await;
            for index in [FSYNC, RELAXED] {
                let appended = append(&engine, partition(index), batch(BEFORE + 1, 1, 100)).await;
                assert_eq!(appended.expect("well again").base_offset, BEFORE as i64 + 1);
            }
            engine.shutdown().await;
        } else {
            engine.shutdown().await;
            let refused = fsync.await;
            assert!(matches!(refused, Err(AppendError::Damaged)), "{refused:?}");
            steps.next().await;
        }
    }
    let (_dir, engine) = open().await;
    let kept = if heals { BEFORE + 2 } else { BEFORE };
    for index in [FSYNC, RELAXED] {
        assert_eq!(tags(&engine, index).await, (0..kept).collect::<Vec<_>>());
        let appended = append(&engine, partition(index), batch(kept, 1, 100)).await;
        assert_eq!(appended.expect("appended").base_offset, kept as i64);
    }
    steps.next().await;
}

fn run(heals: bool) {
    let mut sim = Simulation::new(1);
    let steps = Steps::default();
    let node = {
        let steps = steps.clone();
        sim.node(1, move |_| life(steps.clone(), heals))
    };
    for (step, read_error_one_in) in [(1, 1), (2, 0)] {
        assert!(
            sim.run_until(|| steps.done.get() == step),
            "{:?}",
            sim.last_abort()
        );
        sim.set_disk_faults(
            node,
            DiskFaults {
                read_error_one_in,
                ..DiskFaults::default()
            },
        );
        steps.allowed.set(step);
    }
    assert!(
        sim.run_until(|| steps.done.get() == 3),
        "{:?}",
        sim.last_abort()
    );
}

/// What is flushed can be read while the append behind it waits for the load.
async fn read_beside_the_load(is_done: Rc<Cell<bool>>) {
    fill().await;
    let (_dir, engine) = open().await;
    append(&engine, partition(RELAXED), batch(BEFORE, 1, 100))
        .await
        .expect("in memory");
    let query = OffsetQuery::ByTime(1_700_000_000_000);
    let found = engine
        .offsets(vec![(partition(RELAXED), query, Isolation::HighWatermark)])
        .await
        .pop()
        .expect("one");
    assert_eq!(found.expect("readable").offset, 0);
    let read = tags(&engine, RELAXED).await;
    assert_eq!(read, (0..read.len() as u64).collect::<Vec<_>>());
    assert!(read.len() >= BEFORE as usize);
    is_done.set(true);
}

#[test]
fn a_partial_block_is_read_from_its_file_until_it_is_loaded() {
    for seed in 0..20 {
        let mut sim = Simulation::new(seed);
        let is_done = Rc::new(Cell::new(false));
        let told = is_done.clone();
        sim.node(1, move |_| read_beside_the_load(told.clone()));
        assert!(sim.run_until(|| is_done.get()), "{:?}", sim.last_abort());
    }
}

#[test]
fn appends_go_on_when_the_last_block_can_be_read_again() {
    run(true);
}

#[test]
fn a_last_block_that_stays_unreadable_does_not_hold_up_the_shutdown() {
    run(false);
}
