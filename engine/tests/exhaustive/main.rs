//! Exhaustive tests of what is on disk, on the simulated backend: a trace of a thousand operations, and everything that can
//! happen to its disk.
//!
//! Every day a seeded part of the cases is tried; TRIREME_EXHAUSTIVE=all tries all of them (with
//! `--profile sim`, which is optimised), and TRIREME_ONLY=TEXT those that have the text in the name that a failure prints.

#![allow(clippy::disallowed_methods, clippy::disallowed_types)] // around the engine, not in it

mod bits;
mod cases;
mod check;
mod crashes;
mod cuts;
mod errors;
mod knowledge;
mod pairs;
mod trace;

use std::sync::OnceLock;

use trace::Trace;

/// The trace, with the disk before each of its changes.
fn trace() -> &'static Trace {
    static TRACE: OnceLock<Trace> = OnceLock::new();
    TRACE.get_or_init(|| {
        let trace = Trace::run(1, |_, _| true);
        println!("{trace}");
        trace
    })
}

#[test]
fn a_power_cut_at_every_change_of_the_disk_loses_nothing() {
    assert_eq!(crashes::test(trace()).bad(), 0);
}

#[test]
fn a_log_cut_anywhere_is_what_stands_before_the_cut() {
    assert_eq!(cuts::test(trace()).bad(), 0);
}

#[test]
fn sectors_in_the_wrong_order_are_noticed() {
    assert_eq!(pairs::test(trace()).bad(), 0);
}

#[test]
fn no_flipped_bit_goes_unnoticed() {
    assert_eq!(bits::test().bad(), 0);
}

#[test]
fn an_error_at_any_call_loses_nothing() {
    assert_eq!(errors::test(trace()).bad(), 0);
}
