//! What was staged and is not decided yet, in the order of staging, which is the order of offsets.

use std::collections::{BTreeSet, VecDeque};

use bytes::Bytes;

use super::{Change, Ticket};
use crate::ids::Offset;

#[derive(Debug)]
struct Pending {
    changes: Vec<Change>,
    bytes: u64,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    InFlight,
    Committed { next_offset: Offset },
    Refused,
}

#[derive(Debug, Default)]
pub(super) struct PendingQueue {
    queue: VecDeque<Pending>,
    /// Ticket of the front.
    first: u64,
    /// Committed ones that wait for earlier ones. Mostly none.
    overtakers: usize,
}

impl PendingQueue {
    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// The ticket that the next staged append will have.
    pub(super) fn next_ticket(&self) -> Ticket {
        Ticket(self.first + self.queue.len() as u64)
    }

    /// Whether everything before `ticket` is decided.
    pub(super) fn is_decided_before(&self, ticket: Ticket) -> bool {
        self.first >= ticket.0
    }

    pub(super) fn push(&mut self, changes: Vec<Change>, bytes: u64) -> Ticket {
        let ticket = self.next_ticket();
        self.queue.push_back(Pending {
            changes,
            bytes,
            state: State::InFlight,
        });
        ticket
    }

    fn decide(&mut self, ticket: Ticket, state: State) -> usize {
        let at = ticket
            .0
            .checked_sub(self.first)
            .and_then(|at| usize::try_from(at).ok());
        let at = at
            .filter(|at| *at < self.queue.len())
            .expect("a ticket is decided once");
        assert_eq!(
            self.queue[at].state,
            State::InFlight,
            "a ticket is decided once"
        );
        self.queue[at].state = state;
        at
    }

    /// Returns the changes that are to be applied: those of `ticket` but for keys that a later commit changed, where that
    /// one was reported first.
    pub(super) fn commit(&mut self, ticket: Ticket, next_offset: Offset) -> Vec<Change> {
        let at = self.decide(ticket, State::Committed { next_offset });
        let overtaken: BTreeSet<Bytes> = if self.overtakers == 0 {
            BTreeSet::new()
        } else {
            let later = self.queue.range(at + 1..);
            let committed =
                later.filter(|pending| matches!(pending.state, State::Committed { .. }));
            committed
                .flat_map(|pending| pending.changes.iter().map(|(key, _)| key.clone()))
                .collect()
        };
        self.overtakers += 1;
        if at == 0 {
            // It leaves the queue at once: nobody will ask for its keys.
            return retained(std::mem::take(&mut self.queue[at].changes), &overtaken);
        }
        retained(self.queue[at].changes.clone(), &overtaken)
    }

    /// Returns the keys that stay as they were.
    pub(super) fn refuse(&mut self, ticket: Ticket) -> Vec<Bytes> {
        let at = self.decide(ticket, State::Refused);
        let changes = std::mem::take(&mut self.queue[at].changes);
        changes.into_iter().map(|(key, _)| key).collect()
    }

    /// Takes the front off if it is decided: next offset and bytes of what was appended, nothing of what was refused.
    pub(super) fn pop_settled(&mut self) -> Option<Option<(Offset, u64)>> {
        let front = self.queue.front()?;
        let settled = match front.state {
            State::InFlight => return None,
            State::Committed { next_offset } => {
                self.overtakers -= 1;
                Some((next_offset, front.bytes))
            }
            State::Refused => None,
        };
        self.queue.pop_front();
        self.first += 1;
        Some(settled)
    }

    /// The keys that undecided appends would change.
    pub(super) fn keys_in_flight(&self) -> BTreeSet<&[u8]> {
        let in_flight = self
            .queue
            .iter()
            .filter(|pending| pending.state == State::InFlight);
        in_flight
            .flat_map(|pending| pending.changes.iter().map(|(key, _)| key.as_ref()))
            .collect()
    }
}

fn retained(mut changes: Vec<Change>, overtaken: &BTreeSet<Bytes>) -> Vec<Change> {
    if !overtaken.is_empty() {
        changes.retain(|(key, _)| !overtaken.contains(key));
    }
    changes
}
