//! Deadlines of a core, in order of time and, within the same nanosecond, of asking.

use std::collections::BTreeMap;
use std::task::Waker;

use crate::time::Instant;

#[derive(Default)]
pub(crate) struct Timers {
    next: u64,
    waiting: BTreeMap<(Instant, u64), Waker>,
}

impl Timers {
    pub(crate) fn insert(&mut self, deadline: Instant, waker: Waker) -> u64 {
        let id = self.next;
        self.next += 1;
        self.waiting.insert((deadline, id), waker);
        id
    }

    /// Replaces the waker of a timer that has not fired; false if it has.
    pub(crate) fn update(&mut self, deadline: Instant, id: u64, waker: &Waker) -> bool {
        match self.waiting.get_mut(&(deadline, id)) {
            Some(old) => {
                old.clone_from(waker);
                true
            }
            None => false,
        }
    }

    pub(crate) fn remove(&mut self, deadline: Instant, id: u64) -> Option<Waker> {
        self.waiting.remove(&(deadline, id))
    }

    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.waiting
            .first_key_value()
            .map(|((deadline, _), _)| *deadline)
    }

    /// The first timer that is due, taken out.
    pub(crate) fn pop_due(&mut self, now: Instant) -> Option<Waker> {
        let entry = self.waiting.first_entry()?;
        (entry.key().0 <= now).then(|| entry.remove())
    }
}
