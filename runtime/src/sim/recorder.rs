//! The last things that happened in a simulation, for people to read. It draws nothing and enters nothing into the trace, so
//! that a run is the same with it and without it.

use std::collections::VecDeque;
use std::fmt;

use crate::time::Instant;

#[derive(Default)]
pub(super) struct Recorder {
    lines: VecDeque<String>,
    limit: usize,
}

impl Recorder {
    pub(super) fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
        let excess = self.lines.len().saturating_sub(limit);
        self.lines.drain(..excess);
    }

    pub(super) fn is_on(&self) -> bool {
        self.limit > 0
    }

    pub(super) fn push(&mut self, now: Instant, whose: Whose, what: fmt::Arguments<'_>) {
        if self.lines.len() == self.limit {
            self.lines.pop_front();
        }
        let nanos = now.as_nanos();
        self.lines.push_back(format!(
            "{:>6}.{:06} {whose} {what}",
            nanos / 1_000_000,
            nanos % 1_000_000
        ));
    }

    pub(super) fn lines(&self) -> Vec<String> {
        self.lines.iter().cloned().collect()
    }
}

/// Where something happens.
#[derive(Clone, Copy)]
pub(super) enum Whose {
    World,
    Node(usize),
    Core(usize, usize),
}

impl fmt::Display for Whose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Whose::World => f.write_str("      "),
            Whose::Node(node) => write!(f, "n{node}    "),
            Whose::Core(node, core) => write!(f, "n{node}.c{core} "),
        }
    }
}
