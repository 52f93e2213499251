//! The readable trace: virtual time in front of each line, the broker's own log lines among those of the checkers.

use std::cell::Cell;

thread_local! {
    static ECHO: Cell<bool> = const { Cell::new(false) };
    static NOW_NS: Cell<u64> = const { Cell::new(0) };
}

/// Whether this thread's lines are printed as they come.
pub fn echo(on: bool) {
    ECHO.set(on);
}

/// The storm tells the time, which code outside of a core cannot ask for.
pub fn set_clock(ns: u64) {
    NOW_NS.set(ns);
}

/// Virtual seconds since the simulation's start, to some ten microseconds inside of a step of the storm.
pub fn clock() -> String {
    let ns = NOW_NS.get();
    format!("{:>5}.{:06}", ns / 1_000_000_000, ns % 1_000_000_000 / 1000)
}

pub fn line(line: &str) {
    if ECHO.get() {
        println!("{} {line}", clock());
    }
}
