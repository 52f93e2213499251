//! The ring itself with the table of its operations: queueing, entering, reaping. No foreign code runs in here.

use std::collections::VecDeque;
use std::io;

use io_uring::types::{SubmitArgs, Timespec};
use io_uring::{EnterFlags, IoUring, cqueue, opcode, squeue};

use super::driver::Wait;
use super::slots::{After, Completion, Key, Slots};
use crate::stats::Counters;
use crate::wake::CoreWake;

/// User data of what nobody waits for.
pub(super) const IGNORED: u64 = u64::MAX;
/// A wake from another core's ring.
pub(super) const WOKEN: u64 = u64::MAX - 1;
/// The eventfd is readable: a wake from a thread without a ring.
pub(super) const EVENT: u64 = u64::MAX - 2;
/// A wake that we sent (and that failed, or this would not come): the low 32 bits are the target core.
pub(super) const SENT: u64 = 0xFFFF_FFFE << 32;

/// A close that a worker of the kernel does: the low 32 bits are the descriptor.
pub(super) const CLOSED: u64 = 0xFFFF_FFFD << 32;

pub(super) struct Queue {
    pub(super) ring: IoUring,
    pub(super) slots: Slots,
    /// Entries that did not fit into the submission queue; they go before newer ones.
    pub(super) backlog: VecDeque<squeue::Entry>,
    pub(super) after: Vec<After>,
    /// Closes that workers of the kernel have not finished.
    pub(super) closing: usize,
    pub(super) skip_success: squeue::Flags,
    pub(super) wait_flags: EnterFlags,
}

impl Queue {
    pub(super) fn push(&mut self, entry: squeue::Entry, counters: &Counters) {
        if self.backlog.is_empty() && self.try_push(&entry) {
            return;
        }
        self.backlog.push_back(entry);
        self.submit_full(counters);
    }

    fn try_push(&mut self, entry: &squeue::Entry) -> bool {
        // SAFETY: every entry's memory stays valid until its completion: that is the driver's first invariant, kept by
        // `start` (resources live in the Op or its slot) and trivially true for the driver's own entries.
        unsafe { self.ring.submission().push(entry) }.is_ok()
    }

    pub(super) fn push_cancel(&mut self, key: Key, counters: &Counters) {
        let entry = opcode::AsyncCancel::new(key.user_data())
            .build()
            .user_data(IGNORED);
        self.push(entry, counters);
    }

    /// Moves the backlog into the queue as far as it fits.
    pub(super) fn fill(&mut self, counters: &Counters) {
        while !self.backlog.is_empty() {
            while let Some(entry) = self.backlog.pop_front() {
                if !self.try_push(&entry) {
                    self.backlog.push_front(entry);
                    break;
                }
            }
            if self.backlog.is_empty() || !self.submit_full(counters) {
                return;
            }
        }
    }

    /// Hands a full queue to the kernel in the middle of a turn; false if it takes nothing now.
    fn submit_full(&mut self, counters: &Counters) -> bool {
        let queued = self.ring.submission().len() as u32;
        counters.enters.add(1);
        // SAFETY: no argument; the flags ask for nothing but the submission.
        match unsafe { self.ring.submitter().enter::<()>(queued, 0, 0, None) } {
            Ok(submitted) => {
                counters.submissions.add(submitted as u64);
                submitted > 0
            }
            Err(error) => {
                tolerate(&error);
                false
            }
        }
    }

    pub(super) fn wants_enter(&mut self) -> bool {
        let queue = self.ring.submission();
        !queue.is_empty() || queue.taskrun() || queue.cq_overflow() || !self.backlog.is_empty()
    }

    pub(super) fn enter(&mut self, wait: Wait, counters: &Counters) {
        // Completions that are there already (without deferred work they come unasked) are not to be slept over.
        let waits = !matches!(wait, Wait::No) && self.ring.completion().is_empty();
        if !waits && !self.wants_enter() {
            return;
        }
        let timeout = match wait {
            Wait::AtMost(timeout) => Some(timeout),
            Wait::No | Wait::Forever => None,
        };
        let queued = self.ring.submission().len() as u32;
        let timespec = Timespec::from(timeout.unwrap_or_default());
        let mut args = SubmitArgs::new();
        if timeout.is_some() {
            args = args.timespec(&timespec);
        }
        counters.enters.add(1);
        if waits {
            counters.sleeps.add(1);
        }
        let result = if waits {
            // SAFETY: `args` and the timespec it points to are alive; EXT_ARG says that this is what the argument is.
            unsafe {
                self.ring
                    .submitter()
                    .enter(queued, 1, self.wait_flags.bits(), Some(&args))
            }
        } else {
            // SAFETY: no argument. GETEVENTS makes the kernel do the deferred work.
            unsafe {
                self.ring
                    .submitter()
                    .enter::<()>(queued, 0, EnterFlags::GETEVENTS.bits(), None)
            }
        };
        match result {
            Ok(submitted) => counters.submissions.add(submitted as u64),
            Err(error) => tolerate(&error),
        }
    }

    /// Enters all completions into the slots; `after` then says what to do. Returns cores whose wake failed.
    pub(super) fn reap(
        &mut self,
        counters: &Counters,
        wake: &CoreWake,
        rewatch: &mut bool,
    ) -> Vec<usize> {
        let Queue {
            ring,
            slots,
            after,
            closing,
            ..
        } = self;
        let mut failed = Vec::new();
        let mut reaped = 0;
        for entry in ring.completion() {
            reaped += 1;
            let more = cqueue::more(entry.flags());
            if let Some(key) = Key::from_user_data(entry.user_data()) {
                let completion = Completion {
                    result: entry.result(),
                    flags: entry.flags(),
                };
                after.push(slots.complete(key, completion, more));
                continue;
            }
            match entry.user_data() {
                IGNORED | WOKEN => (),
                EVENT => {
                    wake.clear_event();
                    *rewatch |= !more && entry.result() >= 0;
                }
                closed if closed >> 32 == CLOSED >> 32 => {
                    *closing -= 1;
                    if entry.result() == -libc::ECANCELED {
                        // The core ends, and took its queued closes along with everything else it had in the kernel.
                        // SAFETY: the descriptor was given up to the close that did not happen.
                        unsafe { libc::close(closed as i32) };
                    }
                }
                sent if entry.result() < 0 => failed.push(sent as u32 as usize),
                _ => (),
            }
        }
        counters.completions.add(reaped);
        while let Some(key) = self.slots.pop_overfull() {
            self.push_cancel(key, counters);
        }
        failed
    }
}

/// Errors of entering that only mean "later": a signal, the timeout, no memory now, a full completion queue.
fn tolerate(error: &io::Error) {
    match error.raw_os_error() {
        Some(libc::EINTR | libc::ETIME | libc::EAGAIN | libc::EBUSY) => (),
        _ => crate::node::die(&format!("io_uring_enter failed: {error}")),
    }
}
