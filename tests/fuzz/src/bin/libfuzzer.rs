//! libFuzzer over the target that `TRIREME_FUZZ_TARGET` names: `tests/fuzz/run` builds and calls it. `list` prints the targets,
//! `seeds:NAME` writes a target's seeds to the directory `TRIREME_FUZZ_SEEDS`.

#![no_main]
#![allow(unsafe_code)] // the entry points that libFuzzer calls, made by its macro
#![allow(clippy::disallowed_methods)] // not the broker

use std::alloc::System;
use std::path::Path;
use std::sync::OnceLock;

use cap::Cap;
use libfuzzer_sys::fuzz_target;
use trireme_fuzz::{MEMORY_MAX, TARGETS, Target, find};

#[global_allocator]
static ALLOCATOR: Cap<System> = Cap::new(System, MEMORY_MAX);

static TARGET: OnceLock<&Target> = OnceLock::new();

fn choose() {
    let name = std::env::var("TRIREME_FUZZ_TARGET").unwrap_or_default();
    if name == "list" {
        for target in TARGETS {
            println!("{} {}", target.name, target.bytes_max);
        }
        std::process::exit(0);
    }
    let seeds_of = name.strip_prefix("seeds:");
    let target = find(seeds_of.unwrap_or(&name));
    let target = target.unwrap_or_else(|| panic!("TRIREME_FUZZ_TARGET={name}: no such target"));
    if seeds_of.is_some() {
        let directory = std::env::var("TRIREME_FUZZ_SEEDS").expect("a directory for the seeds");
        for (number, seed) in (target.seeds)().iter().enumerate() {
            std::fs::write(Path::new(&directory).join(format!("seed-{number}")), seed)
                .expect("written");
        }
        std::process::exit(0);
    }
    let _ = TARGET.set(target);
}

fuzz_target!(
    init: choose(),
    |input: &[u8]| (TARGET.get().expect("chosen at the start").run)(input)
);
