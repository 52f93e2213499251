//! Counters of a core, for `/metrics`.

use std::cell::Cell;

use crate::core::with_core;

/// What the current core has done since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CoreStats {
    /// Turns of the run queue.
    pub turns: u64,
    /// `io_uring_enter` calls.
    pub enters: u64,
    /// Enters that waited for something to happen.
    pub sleeps: u64,
    /// Operations handed to the kernel.
    pub submissions: u64,
    /// Completions reaped.
    pub completions: u64,
    /// Polls of tasks.
    pub tasks_polled: u64,
    pub tasks_spawned: u64,
    /// Messages to other cores.
    pub mail_sent: u64,
    /// Wakes of other cores.
    pub wakes_sent: u64,
    /// Bytes received from and sent to sockets.
    pub net_bytes_in: u64,
    pub net_bytes_out: u64,
    /// Bytes read from and written to files.
    pub file_bytes_in: u64,
    pub file_bytes_out: u64,
    /// Receive buffers not in the ring now.
    pub recv_buffers_in_use: u64,
    /// Receives that found the buffer ring empty.
    pub recv_buffers_exhausted: u64,
    /// Operations in the kernel now, and of these the ones whose future was dropped.
    pub ops_in_flight: u64,
    pub ops_orphaned: u64,
}

/// The current core's counters.
pub fn stats() -> CoreStats {
    with_core(|core| {
        let mut stats = core.counters.snapshot();
        if let Some(driver) = core.driver() {
            driver.gauges(&mut stats);
        }
        stats
    })
}

/// A counter of one core.
#[derive(Default)]
pub(crate) struct Counter(Cell<u64>);

impl Counter {
    pub(crate) fn add(&self, n: u64) {
        self.0.set(self.0.get() + n);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.get()
    }
}

macro_rules! counters {
    ($($name:ident),*) => {
        #[derive(Default)]
        pub(crate) struct Counters { $(pub(crate) $name: Counter),* }

        impl Counters {
            fn snapshot(&self) -> CoreStats {
                CoreStats { $($name: self.$name.0.get(),)* ..CoreStats::default() }
            }
        }
    };
}
counters!(
    turns,
    enters,
    sleeps,
    submissions,
    completions,
    tasks_polled,
    tasks_spawned,
    mail_sent,
    wakes_sent,
    net_bytes_in,
    net_bytes_out,
    file_bytes_in,
    file_bytes_out,
    recv_buffers_exhausted
);
