//! The real engine's directories: clean after a shutdown, never damaged after an end without one, and every broken bit found.

mod engine;

use std::path::Path;

use engine::{append, batch, config, fill, partition, with_engine};
use trireme_fsck::{Directory, Options, Report, Verdict, torture::torture, verify};

fn check(dir: &Path) -> Report {
    verify(&Directory::new(dir), &Options::default()).expect("the directory can be listed")
}

#[test]
fn cleanly_shut_it_is_clean_and_every_broken_bit_is_found() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = config(dir.path(), 1);
    with_engine(&config, |engine| async move {
        fill(&engine, 1, 200, 500).await;
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
            append(&engine, partition(0, 1), batch(seed, 2, 3000, None)).await;
            append(&engine, partition(1, 1), batch(seed, 2, 30, None)).await;
        }
        engine.shutdown().await;
    });
    let report = check(dir.path());
    assert_eq!(report.verdict(), Verdict::Clean, "{report}");
}

#[test]
fn without_a_shutdown_nothing_looks_damaged() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = config(dir.path(), 1);
    let mut seed = 1000;
    for round in 0..6u64 {
        with_engine(&config, |engine| async move {
            if round == 0 {
                fill(&engine, 1, 50, 500).await;
            }
            for seed in seed..seed + 60 {
                append(
                    &engine,
                    partition(0, 1),
                    batch(seed, 2, 200 + 900 * round as usize, None),
                )
                .await;
                append(&engine, partition(1, 1), batch(seed, 2, 30, None)).await;
                if seed.is_multiple_of(10) {
                    // Large enough for a direct run.
                    append(&engine, partition(2, 1), batch(seed, 1, 200_000, None)).await;
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
