use std::rc::Rc;

use super::kit::*;
use super::model::*;
use crate::api::*;

#[test]
fn what_is_acknowledged_survives_an_end_without_shutdown() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = config(dir.path());
    let mut expected = 0;
    for round in 0..4u64 {
        expected = with_engine(&config, |engine| async move {
            if round == 0 {
                engine
                    .create(vec![(partition(0), PartitionConfig::default())])
                    .await;
            }
            let tags = read_tags(&engine, partition(0), 0, 100_000).await;
            assert_eq!(tags.len() as u64, expected);
            assert!(tags.iter().enumerate().all(|(at, tag)| *tag == at as u64));
            for tag in expected..expected + 200 {
                let appended = append(&engine, partition(0), batch(tag, 1, 5000))
                    .await
                    .expect("appended");
                assert_eq!(appended.base_offset, tag as i64);
            }
            let info = engine
                .describe(vec![partition(0)])
                .await
                .pop()
                .expect("one")
                .expect("known");
            assert_eq!(info.leader_epoch, round as i32);
            expected + 200
        });
    }
}

/// Rounds of life, each ended by a crash or a shutdown, on real files.
fn random_lives(
    seed: u64,
    scale: Scale,
    config_of: impl Fn(EngineConfig) -> EngineConfig,
    rounds: u64,
) {
    println!("seed {seed}");
    let dir = tempfile::tempdir().expect("a directory");
    let config = config_of(config(dir.path()));
    let model = SharedModel::default();
    let mut dice = Dice::new(seed);
    for round in 0..rounds {
        let is_clean = dice.roll(3) == 0;
        let (mut life, watched) = (dice.clone(), model.clone());
        with_engine(&config, |engine| async move {
            println!(
                "round {round} clean {is_clean}: {:?}",
                engine.stats().recovered_bytes
            );
            check(&engine, &watched, 20_000 + life.roll(1 << 20) as u32).await;
            let configs = watched
                .borrow()
                .partitions
                .keys()
                .map(|index| (partition(*index), partition_config(&scale)))
                .collect();
            engine.configure(configs).await;
            live(&engine, &watched, scale, &mut life).await;
            check(&engine, &watched, 20_000 + life.roll(1 << 20) as u32).await;
            if is_clean {
                engine.shutdown().await;
            }
            let stats = engine.stats();
            println!(
                "  groups {} direct {} flushes {} checkpoints {} carried {} unflushed {}",
                stats.groups,
                stats.direct_runs,
                stats.flushes,
                stats.checkpoints,
                stats.carried_bytes,
                stats.unflushed_bytes
            );
        });
        fsck(dir.path(), is_clean);
        dice.roll(7 + round);
    }
    drop(Rc::try_unwrap(model));
}

/// With TRIREME_FSCK=PATH the checker has a look at what every life leaves behind.
fn fsck(dir: &std::path::Path, is_clean: bool) {
    let Ok(program) = std::env::var("TRIREME_FSCK") else {
        return;
    };
    // 3 is "could not check": the lock's file is closed asynchronously, so it may take a moment to be free.
    let mut tries = 0;
    let (code, output) = loop {
        let output = std::process::Command::new(&program)
            .arg("verify")
            .arg(dir)
            .output()
            .expect("fsck runs");
        let code = output.status.code().expect("an exit code");
        tries += 1;
        if code != 3 || tries == 100 {
            break (code, output);
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    };
    let said = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert!(
        code == 0 || (code == 1 && !is_clean),
        "fsck says {code}: {said}"
    );
}

const SMALL: Scale = Scale {
    partitions: 5,
    segment_bytes: 1 << 20,
    steps: 30,
    batch_bytes_max: 20_000,
    burst: 60,
};

#[test]
fn random_lives_of_small_batches() {
    for seed in 0..2 {
        random_lives(
            seed,
            SMALL,
            |config| EngineConfig {
                unflushed_max_bytes: 4 << 20,
                ..config
            },
            6,
        );
    }
}

#[test]
fn random_lives_with_direct_runs() {
    let scale = Scale {
        batch_bytes_max: 100_000,
        burst: 40,
        segment_bytes: 6 << 20,
        ..SMALL
    };
    for seed in 100..102 {
        random_lives(
            seed,
            scale,
            |config| EngineConfig {
                direct_min_bytes: 64 << 10,
                ..config
            },
            6,
        );
    }
}

#[test]
fn random_lives_with_batches_larger_than_a_group() {
    let scale = Scale {
        batch_bytes_max: 3 << 20,
        burst: 3,
        segment_bytes: 20 << 20,
        steps: 15,
        ..SMALL
    };
    for seed in 200..202 {
        random_lives(seed, scale, |config| config, 5);
    }
}

#[test]
fn random_lives_of_many_partitions() {
    let scale = Scale {
        partitions: 300,
        batch_bytes_max: 3_000,
        burst: 300,
        steps: 60,
        ..SMALL
    };
    for seed in 300..301 {
        random_lives(
            seed,
            scale,
            |config| EngineConfig {
                unflushed_max_bytes: 4 << 20,
                ..config
            },
            4,
        );
    }
}
