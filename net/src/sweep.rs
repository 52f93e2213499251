//! Time-outs of connections: one task looks at all connections of a door every [`SWEEP_INTERVAL`], so that a receive or a
//! send sets no timer. Without connections it sleeps.

use crate::counters::DoorCounters;
use crate::error::CloseReason;
use crate::limits::{MEMORY_STALL_SWEEPS, SWEEP_INTERVAL};
use crate::listen::Timeouts;
use crate::memory::ReceiveMemory;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;
use trireme_runtime::JoinHandle;
use trireme_runtime::net::TcpStream;

/// What a connection's receiving side is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Reading {
    /// Not asked for more.
    Paused,
    /// Between two frames.
    Boundary,
    /// A frame has begun.
    InsideFrame,
    /// Would receive, but the memory is used up.
    WaitingForMemory,
}

/// What the sweep sees of a connection; written by the connection's tasks, without a clock.
pub(crate) struct Status {
    pub(crate) reading: Cell<Reading>,
    /// Sweep count when something was last received.
    pub(crate) received_at: Cell<u32>,
    /// Sweep count when the piece that is being sent was begun, or the last one taken.
    pub(crate) sent_at: Cell<u32>,
    pub(crate) writing: Cell<bool>,
    /// Bytes of an unfinished frame.
    pub(crate) partial_bytes: Cell<usize>,
    pub(crate) closed: Cell<Option<CloseReason>>,
    clock: Rc<Cell<u32>>,
}

impl Status {
    pub(crate) fn new(clock: Rc<Cell<u32>>) -> Self {
        Status {
            reading: Cell::new(Reading::Paused),
            received_at: Cell::new(clock.get()),
            sent_at: Cell::new(clock.get()),
            writing: Cell::new(false),
            partial_bytes: Cell::new(0),
            closed: Cell::new(None),
            clock,
        }
    }

    pub(crate) fn mark_received(&self) {
        self.received_at.set(self.clock.get());
    }

    pub(crate) fn mark_sent(&self) {
        self.sent_at.set(self.clock.get());
    }
}

/// A connection as the door keeps it.
pub(crate) struct Member {
    pub(crate) status: Rc<Status>,
    pub(crate) stream: TcpStream,
    pub(crate) task: Option<JoinHandle<()>>,
}

impl Member {
    pub(crate) fn close(&self, reason: CloseReason, counters: &DoorCounters) {
        if self.status.closed.replace(Some(reason)).is_none() {
            counters.count_close(reason);
            self.stream.close();
        }
    }
}

pub(crate) type Members = Rc<RefCell<BTreeMap<u64, Member>>>;

pub(crate) struct Sweep {
    pub(crate) clock: Rc<Cell<u32>>,
    pub(crate) timeouts: Timeouts,
    pub(crate) memory: ReceiveMemory,
    pub(crate) counters: std::sync::Arc<DoorCounters>,
}

fn sweeps(timeout: Duration) -> u32 {
    u32::try_from(timeout.as_millis() / SWEEP_INTERVAL.as_millis())
        .unwrap_or(u32::MAX)
        .max(1)
}

impl Sweep {
    /// One look at every connection.
    pub(crate) fn run(&self, members: &Members) {
        let now = self.clock.get().wrapping_add(1);
        self.clock.set(now);
        let members = members.borrow();
        for member in members.values() {
            if let Some(reason) = self.verdict(&member.status, now) {
                member.close(reason, &self.counters);
            }
        }
        if self.memory.waiting() > 0 {
            // The one that holds most; another at the next sweep, if that was not enough.
            let stalled = |status: &Status| {
                status.reading.get() == Reading::InsideFrame
                    && status.closed.get().is_none()
                    && now.wrapping_sub(status.received_at.get()) > MEMORY_STALL_SWEEPS
            };
            let worst = members
                .values()
                .filter(|m| stalled(&m.status))
                .max_by_key(|m| m.status.partial_bytes.get());
            if let Some(member) = worst {
                member.close(CloseReason::Memory, &self.counters);
            }
        }
    }

    fn verdict(&self, status: &Status, now: u32) -> Option<CloseReason> {
        // Strictly more: a mark may have been made at the very end of its interval.
        let received = now.wrapping_sub(status.received_at.get());
        let sent = now.wrapping_sub(status.sent_at.get());
        if status.writing.get() {
            return (sent > sweeps(self.timeouts.write)).then_some(CloseReason::StalledReader);
        }
        match status.reading.get() {
            Reading::InsideFrame if received > sweeps(self.timeouts.frame) => {
                Some(CloseReason::StalledFrame)
            }
            Reading::Boundary if received.min(sent) > sweeps(self.timeouts.idle) => {
                Some(CloseReason::Idle)
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sweep() -> Sweep {
        Sweep {
            clock: Rc::new(Cell::new(0)),
            timeouts: Timeouts {
                idle: Duration::from_secs(30),
                frame: Duration::from_secs(5),
                write: Duration::from_secs(10),
                drain: Duration::from_secs(1),
            },
            memory: ReceiveMemory::new(1 << 20, 1 << 20),
            counters: Default::default(),
        }
    }

    #[test]
    fn each_state_has_its_own_time_out() {
        let sweep = sweep();
        let status = Status::new(sweep.clock.clone());
        let verdict = |reading, writing, at| {
            status.reading.set(reading);
            status.writing.set(writing);
            sweep.verdict(&status, at)
        };
        assert_eq!(verdict(Reading::Boundary, false, 30), None);
        assert_eq!(
            verdict(Reading::Boundary, false, 31),
            Some(CloseReason::Idle)
        );
        assert_eq!(verdict(Reading::InsideFrame, false, 5), None);
        assert_eq!(
            verdict(Reading::InsideFrame, false, 6),
            Some(CloseReason::StalledFrame)
        );
        assert_eq!(
            verdict(Reading::Paused, false, 1000),
            None,
            "the broker is busy with its request"
        );
        assert_eq!(
            verdict(Reading::WaitingForMemory, false, 1000),
            None,
            "not the peer's fault"
        );
        assert_eq!(verdict(Reading::Paused, true, 10), None);
        assert_eq!(
            verdict(Reading::Paused, true, 11),
            Some(CloseReason::StalledReader)
        );
        status.sent_at.set(20);
        assert_eq!(
            verdict(Reading::Boundary, false, 31),
            None,
            "an answer was sent"
        );
        assert_eq!(verdict(Reading::Paused, true, 30), None);
    }
}
