//! Every target over its seeds, the corpus, and mutations of both: short, the same each time, without guidance.

#![allow(clippy::disallowed_methods, clippy::disallowed_types)] // not the broker

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use trireme_fuzz::mutate::{Random, mutate};
use trireme_fuzz::{TARGETS, Target};

/// Mutations of each target; targets that start a node or write files stop at the time.
const MUTATIONS: usize = 5_000;
const SECONDS: Duration = Duration::from_secs(4);
/// All of the corpus, in the repository.
const CORPUS_BYTES_MAX: u64 = 1 << 20;

fn corpus(target: &Target) -> Vec<Vec<u8>> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("corpus")
        .join(target.name);
    let Ok(entries) = fs::read_dir(directory) else {
        return Vec::new();
    };
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}

fn try_target(name: &str) {
    let target = trireme_fuzz::find(name).unwrap();
    let mut inputs = (target.seeds)();
    assert!(!inputs.is_empty(), "{name} has no seeds");
    inputs.extend(corpus(target));
    for input in &inputs {
        (target.run)(input);
    }
    let trace = std::env::var_os("TRIREME_FUZZ_TRACE").is_some();
    let mut random = Random::new(1);
    let (start, mut done) = (Instant::now(), 0);
    while done < MUTATIONS && start.elapsed() < SECONDS {
        let mut input = inputs[random.below(inputs.len())].clone();
        let other = &inputs[random.below(inputs.len())];
        mutate(&mut random, &mut input, other, target.bytes_max);
        if trace {
            println!("{name} {input:?}");
        }
        (target.run)(&input);
        done += 1;
    }
    println!("{name}: {} inputs, {done} mutations of them", inputs.len());
}

macro_rules! targets {
    ($($name:ident),* $(,)?) => {
        $(#[test] fn $name() { try_target(stringify!($name)); })*
        const NAMES: &[&str] = &[$(stringify!($name)),*];
    };
}

targets!(
    kafka_frame,
    kafka_request,
    batch,
    batch_payload,
    table,
    log_group,
    log_scan,
    checkpoint,
    sidecar,
    config,
    recovery,
    fsck,
    fsck_dump,
);

#[test]
fn every_target_is_tried_and_the_corpus_is_small() {
    let listed: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
    assert_eq!(listed, NAMES);
    let mut bytes = 0;
    for entry in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus")).unwrap() {
        let entry = entry.unwrap();
        if !entry.path().is_dir() {
            continue;
        }
        let name = entry.file_name().into_string().unwrap();
        assert!(
            NAMES.contains(&name.as_str()),
            "corpus/{name} is of no target"
        );
        for input in fs::read_dir(entry.path()).unwrap() {
            bytes += input.unwrap().metadata().unwrap().len();
        }
    }
    assert!(bytes <= CORPUS_BYTES_MAX, "the corpus has {bytes} bytes");
}
