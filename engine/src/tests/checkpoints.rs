//! A checkpoint may be taken at any moment, also just when a record has become durable and nobody has heard of it yet.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use trireme_runtime::sim::Simulation;
use trireme_runtime::{sleep, spawn};

use super::kit::{append_of, batch, partition};
use crate::api::*;
use crate::data_dir::DataDir;
use crate::node::Node;

const SEEDS: std::ops::Range<u64> = 0..80;

fn config() -> EngineConfig {
    EngineConfig {
        reserve_bytes: 0,
        first_wal_file_bytes: 64 << 10,
        ..EngineConfig::new("/data")
    }
}

async fn open() -> (DataDir, Rc<Node>) {
    let dir = DataDir::open(&config()).await.expect("a data directory");
    let node = Node::open(config(), 0, 1).await.expect("it opens");
    (dir, node)
}

async fn append(node: &Node, index: u32, tag: u64) {
    let appended = node
        .append(&[append_of(partition(index), batch(tag, 1, 3000))])
        .await;
    assert!(appended[0].is_ok(), "{appended:?}");
}

/// Partitions 0 and 1 with a record each, cleanly shut.
async fn prepare() {
    let (_dir, node) = open().await;
    let shard = node.shard(0).expect("one").clone();
    let config = PartitionConfig::default;
    let created = shard
        .create(vec![(partition(0), config()), (partition(1), config())])
        .await;
    assert_eq!(created, [Ok(()), Ok(())]);
    append(&node, 0, 0).await;
    append(&node, 1, 0).await;
    node.shutdown().await;
}

/// Runs `life` on what [`prepare`] left until it says so, cuts the power, and checks partition 0.
fn crash_beside_a_checkpoint<Fut: Future<Output = ()> + 'static>(
    seed: u64,
    life: impl Fn(Rc<Node>) -> Fut + Clone + 'static,
    (log_start, high_watermark): (Offset, Offset),
) {
    let mut sim = Simulation::new(seed);
    let id = sim.node(1, |_| prepare());
    assert!(sim.run_until_finished(id));
    let is_over = Rc::new(Cell::new(false));
    let flag = is_over.clone();
    sim.restart(id, move |_| {
        let (life, flag) = (life.clone(), flag.clone());
        async move {
            let (_dir, node) = open().await;
            // From now on appends to it go straight to the log.
            append(&node, 1, 1).await;
            life(node.clone()).await;
            flag.set(true);
            std::future::pending::<()>().await;
        }
    });
    assert!(sim.run_until(|| is_over.get()), "seed {seed}");
    sim.crash(id);
    sim.restart(id, move |_| async move {
        let (_dir, node) = open().await;
        let info = node.describe(&[partition(0)]).remove(0).expect("it lives");
        assert_eq!(
            (info.log_start, info.high_watermark),
            (log_start, high_watermark),
            "seed {seed}"
        );
        append(&node, 0, 9).await;
        node.shutdown().await;
    });
    assert!(sim.run_until_finished(id));
    assert_eq!(sim.last_abort(), None, "seed {seed}");
}

/// An append to the other partition, and a checkpoint as soon as it is answered: its group may hold what somebody else is
/// waiting for.
async fn append_and_checkpoint(node: Rc<Node>) {
    append(&node, 1, 1).await;
    node.shard(0).expect("one").checkpoint().await;
}

#[test]
fn a_log_start_that_becomes_durable_beside_a_checkpoint_does_not_go_back() {
    for seed in SEEDS {
        let life = |node: Rc<Node>| async move {
            let other = spawn(append_and_checkpoint(node.clone()));
            let shard = node.shard(0).expect("one");
            assert_eq!(shard.delete_records(&partition(0), 1).await, Ok(1));
            other.await;
        };
        crash_beside_a_checkpoint(seed, life, (1, 1));
    }
}

#[test]
fn the_image_of_a_block_that_becomes_durable_beside_a_checkpoint_counts() {
    for seed in SEEDS {
        let life = move |node: Rc<Node>| async move {
            // The image goes out when the block has been read: some time in the next milliseconds.
            // Groups all the while, so that it shares one with somebody.
            let stream = node.clone();
            spawn(async move {
                loop {
                    append(&stream, 1, 1).await;
                }
            })
            .detach();
            let other = spawn({
                let node = node.clone();
                async move {
                    sleep(Duration::from_micros(seed * 10)).await;
                    append_and_checkpoint(node).await;
                }
            });
            append(&node, 0, 1).await;
            other.await;
        };
        crash_beside_a_checkpoint(seed, life, (0, 2));
    }
}
