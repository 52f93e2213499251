//! The same lives on the simulated backend: power cuts and kills at random moments, with torn and lost writes. A seed gives
//! the same run again.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use trireme_runtime::service;
use trireme_runtime::sim::Simulation;

use super::kit::partition;
use super::model::*;
use crate::Engine;
use crate::api::*;
use crate::data_dir::DataDir;

/// What the node tells the test.
#[derive(Clone, Default)]
struct Report {
    model: SharedModel,
    /// Recovered and checked.
    is_up: Rc<Cell<bool>>,
    problem: Rc<RefCell<Option<String>>>,
    /// Appends, of all lives.
    rounds: Rc<Cell<u64>>,
    direct_runs: Rc<Cell<u64>>,
    checkpoints: Rc<Cell<u64>>,
}

fn config(tail_memory_bytes: u64) -> EngineConfig {
    EngineConfig {
        shards: 1,
        tail_memory_bytes,
        unflushed_max_bytes: 1 << 20,
        wal_file_bytes: 512 << 10,
        first_wal_file_bytes: 128 << 10,
        direct_min_bytes: 64 << 10,
        reserve_bytes: 0,
        // All the time: what is written, rolled, sealed and removed meanwhile must never look damaged.
        scrub_period_ms: 20,
        scrub_bytes_per_second: 1 << 30,
        ..EngineConfig::new("/data")
    }
}

async fn life(report: Report, scale: Scale, tail_memory_bytes: u64, mut dice: Dice) {
    let config = || config(tail_memory_bytes);
    let opened = async {
        let dir = DataDir::open(&config()).await?;
        let shards = dir.shards;
        let mail = service(1).pop().expect("one");
        let engine = Engine::open(EngineConfig { shards, ..config() }, 0, 1, mail).await?;
        Ok::<_, OpenError>((dir, engine))
    };
    let (_dir, engine) = match opened.await {
        Ok(opened) => opened,
        Err(error) => {
            *report.problem.borrow_mut() = Some(error.to_string());
            report.is_up.set(true);
            std::future::pending().await
        }
    };
    check(&engine, &report.model, 30_000).await;
    let known: Vec<u32> = report.model.borrow().partitions.keys().copied().collect();
    engine
        .configure(
            known
                .iter()
                .map(|index| (partition(*index), partition_config(&scale)))
                .collect(),
        )
        .await;
    report.is_up.set(true);
    let before = engine.stats();
    let (mut direct, mut checkpoints) = (before.direct_runs, before.checkpoints);
    for round in 0.. {
        live(
            &engine,
            &report.model,
            Scale { steps: 3, ..scale },
            &mut dice,
        )
        .await;
        report.rounds.set(report.rounds.get() + 1);
        let stats = engine.stats();
        assert_eq!(stats.scrub_damage, 0, "a sound disk was called damaged");
        report
            .direct_runs
            .set(report.direct_runs.get() + stats.direct_runs - direct);
        report
            .checkpoints
            .set(report.checkpoints.get() + stats.checkpoints - checkpoints);
        (direct, checkpoints) = (stats.direct_runs, stats.checkpoints);
        if round > 3 && dice.roll(12) == 0 {
            engine.shutdown().await;
            return;
        }
    }
}

/// Ends a node's lives at random moments. What the runs met on the way.
fn lives(seed: u64, scale: Scale, tail_memory_bytes: u64, ends: u64) -> Report {
    println!("seed {seed}");
    let mut dice = Dice::new(seed);
    let mut sim = Simulation::new(seed);
    let report = Report::default();
    let main = |report: Report, dice: Dice| {
        move |_core: usize| life(report.clone(), scale, tail_memory_bytes, dice.clone())
    };
    let node = sim.node(1, main(report.clone(), Dice::new(seed)));
    for end in 0..ends {
        // Sometimes in the middle of the start, mostly later.
        if dice.roll(5) > 0 {
            let is_up = report.is_up.clone();
            assert!(
                sim.run_until(|| is_up.get()),
                "seed {seed}: the node does not come up"
            );
        }
        let longest_us = if dice.roll(3) == 0 { 400_000 } else { 30_000 };
        sim.run_for(Duration::from_micros(dice.roll(longest_us)));
        let problem = report.problem.borrow().clone();
        assert_eq!(problem, None, "seed {seed} end {end}");
        report.is_up.set(false);
        match dice.roll(3) {
            0 => sim.kill(node),
            _ => sim.crash(node),
        }
        sim.restart(node, main(report.clone(), Dice::new(seed * 1000 + end)));
    }
    let is_up = report.is_up.clone();
    assert!(
        sim.run_until(|| is_up.get()),
        "seed {seed}: the node does not come up"
    );
    assert_eq!(*report.problem.borrow(), None, "seed {seed}");
    report
}

const SCALE: Scale = Scale {
    partitions: 4,
    segment_bytes: 400 << 10,
    steps: 0,
    batch_bytes_max: 30_000,
    burst: 30,
};

/// The seeds to run: TRIREME_SEEDS=FIRST,COUNT for a longer search than a test run has time for.
fn seeds(count: u64) -> (u64, u64) {
    let given = std::env::var("TRIREME_SEEDS").ok();
    let parsed = given.and_then(|given| {
        let (first, count) = given.split_once(',')?;
        Some((first.parse().ok()?, count.parse().ok()?))
    });
    parsed.unwrap_or((0, count))
}

#[test]
fn nothing_acknowledged_is_lost_whenever_the_power_goes() {
    let (mut rounds, mut direct, mut checkpoints) = (0, 0, 0);
    let (first, count) = seeds(24);
    for seed in first..first + count {
        let report = lives(seed, SCALE, 8 << 20, 10);
        rounds += report.rounds.get();
        direct += report.direct_runs.get();
        checkpoints += report.checkpoints.get();
    }
    println!("{rounds} rounds, {direct} direct runs, {checkpoints} checkpoints");
    assert!(
        rounds > 100 && direct > 10 && checkpoints > 10,
        "the lives were too quiet"
    );
}

#[test]
fn what_is_not_flushed_stays_in_memory_however_little_there_is() {
    let scale = Scale {
        segment_bytes: 100 << 10,
        batch_bytes_max: 60_000,
        ..SCALE
    };
    for seed in 0..4 {
        lives(seed, scale, 256 << 10, 4);
    }
}
