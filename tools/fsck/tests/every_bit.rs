//! Every flipped bit, every cut, every removed file of a small directory is found, with file and byte.

mod sample;

use trireme_fsck::{Options, torture::torture};

#[test]
fn every_bit_every_cut_every_removed_file() {
    let mut sample = sample::everything();
    sample.shut_down();
    // Without optimisation, one bit in a few; the acceptance run has the optimised build, and takes every one.
    let every = if cfg!(debug_assertions) { 13 } else { 1 };
    let outcome = torture(&sample.memory, Options::default().threads, every).unwrap();
    println!("{outcome}");
    assert_eq!(outcome.missed_count, 0, "{outcome}");
    assert!(outcome.flips >= outcome.live_bytes * 8 / every as u64);
    assert!(
        outcome.live_bytes > 300_000
            && outcome.cuts > 1000
            && outcome.removals == outcome.files as u64
    );
    assert!(outcome.dead_flips > 10 && outcome.flips_judged_whole > 5);
}
