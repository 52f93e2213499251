//! Counters of one door on one core. Written by that core alone, read by whoever scrapes: plain loads and stores, no locked
//! instruction.

use crate::error::CloseReason;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// One number that a single core writes.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    pub fn sub(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_sub(n), Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// What a door on a core has done since the start. `open` is a gauge, the others only rise.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct DoorCounters {
    pub accepted: Counter,
    /// Accepted and closed at once, because the connection limit was reached.
    pub refused: Counter,
    pub accept_errors: Counter,
    pub open: Counter,
    pub frames: Counter,
    pub received_bytes: Counter,
    pub sent_bytes: Counter,
    pub bad_frames: Counter,
    pub closed_idle: Counter,
    pub closed_stalled_frame: Counter,
    pub closed_stalled_reader: Counter,
    pub closed_memory: Counter,
    pub closed_shutdown: Counter,
}

impl DoorCounters {
    pub(crate) fn count_close(&self, reason: CloseReason) {
        match reason {
            CloseReason::Idle => &self.closed_idle,
            CloseReason::StalledFrame => &self.closed_stalled_frame,
            CloseReason::StalledReader => &self.closed_stalled_reader,
            CloseReason::Memory => &self.closed_memory,
            CloseReason::Shutdown => &self.closed_shutdown,
        }
        .add(1);
    }
}
