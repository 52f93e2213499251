//! Deadlines of a coordinator, in order, each with what to do then.
//!
//! Session timeouts are pushed forward by every heartbeat and commit, so a member keeps its true deadline itself and is
//! re-armed when its timer fires early: a heartbeat costs one assignment, not a change of the tree.

use std::collections::BTreeMap;
use std::sync::Arc;

/// What a timer is for. Fired timers are checked against the group's state: a stale one does nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Due {
    /// A member's session, or that of a member-to-be.
    Session { group: Arc<str>, member: Arc<str> },
    /// The join phase: the initial delay or the rebalance timeout.
    Join { group: Arc<str> },
    /// The sync phase of a generation.
    Sync { group: Arc<str>, generation: i32 },
}

/// Names an armed timer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct TimerId {
    deadline_ms: i64,
    sequence: u64,
}

impl TimerId {
    pub(super) fn deadline_ms(self) -> i64 {
        self.deadline_ms
    }
}

#[derive(Debug, Default)]
pub(super) struct Timers {
    armed: BTreeMap<TimerId, Due>,
    sequence: u64,
}

impl Timers {
    pub(super) fn arm(&mut self, deadline_ms: i64, due: Due) -> TimerId {
        self.sequence += 1;
        let id = TimerId {
            deadline_ms,
            sequence: self.sequence,
        };
        self.armed.insert(id, due);
        id
    }

    pub(super) fn cancel(&mut self, id: &mut Option<TimerId>) {
        if let Some(id) = id.take() {
            self.armed.remove(&id);
        }
    }

    pub(super) fn next_deadline_ms(&self) -> Option<i64> {
        self.armed.keys().next().map(|id| id.deadline_ms)
    }

    /// Takes the earliest timer that is due.
    pub(super) fn fire(&mut self, now_ms: i64) -> Option<Due> {
        let id = *self.armed.keys().next()?;
        if id.deadline_ms > now_ms {
            return None;
        }
        self.armed.remove(&id)
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.armed.len()
    }
}
