//! Submits and reaps once per turn of the run queue, and sleeps in the ring when there is nothing to run.
//!
//! Invariants: what an operation's kernel side may touch is owned by its future or, once that is dropped, by its slot,
//! until the operation's own last completion (a cancel is only a request, and a failed submit leaves its entry queued).
//! No foreign code (wakers, destructors) runs while `inner` is borrowed.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;
use std::time::{Duration, Instant};

use io_uring::types::CancelBuilder;
use io_uring::{EnterFlags, cqueue, opcode, squeue, types};

use super::bufring::BufRing;
use super::op::Op;
use super::queue::{CLOSED, EVENT, IGNORED, Queue, SENT, WOKEN};
use super::setup;
use super::slots::{After, Completion, Key, Leaves, Slots};
use crate::stats::{CoreStats, Counters};
use crate::wake::CoreWake;

/// Rounds of reaping in one turn: a kernel with deferred work gives some 20 completions a round.
const REAP_ROUNDS_MAX: usize = 16;
/// How long a core that ends waits for the kernel to finish what is under way.
const DRAIN_MAX: Duration = Duration::from_secs(10);

#[derive(Clone, Debug)]
pub(crate) struct RingConfig {
    pub(crate) entries: u32,
    pub(crate) recv_buffers: u16,
    pub(crate) recv_buffer_len: u32,
}

/// Whether a turn may sleep.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Wait {
    No,
    AtMost(Duration),
    Forever,
}

pub(crate) struct Driver {
    // The order matters when dropping: the ring goes before the memory it receives into.
    inner: RefCell<Queue>,
    bufs: Option<BufRing>,
    closed: Cell<bool>,
    wake: Arc<CoreWake>,
    pub(crate) counters: Rc<Counters>,
}

impl Driver {
    /// Makes the ring of the calling thread and publishes it in `wake`.
    pub(crate) fn new(
        config: &RingConfig,
        wake: Arc<CoreWake>,
        counters: Rc<Counters>,
    ) -> io::Result<Rc<Driver>> {
        let ring = setup::make(config.entries)?;
        let bufs = match BufRing::register(&ring, config.recv_buffers, config.recv_buffer_len) {
            Ok(bufs) => Some(bufs),
            Err(error) => {
                tracing::warn!(%error, "no provided-buffer rings on this kernel; receiving into heap buffers");
                None
            }
        };
        let params = ring.params();
        let skip_success = match params.is_feature_skip_cqe_on_success() {
            true => squeue::Flags::SKIP_SUCCESS,
            false => squeue::Flags::empty(),
        };
        let mut wait_flags = EnterFlags::GETEVENTS | EnterFlags::EXT_ARG;
        if params.is_feature_no_iowait() {
            wait_flags |= EnterFlags::NO_IOWAIT;
        }
        assert!(
            params.is_feature_ext_arg(),
            "Linux 5.11 or later is required"
        );
        wake.set_ring(ring.as_raw_fd());
        let driver = Rc::new(Driver {
            inner: RefCell::new(Queue {
                ring,
                slots: Slots::default(),
                backlog: VecDeque::new(),
                after: Vec::new(),
                closing: 0,
                skip_success,
                wait_flags,
            }),
            bufs,
            closed: Cell::new(false),
            wake,
            counters,
        });
        driver.watch_event();
        Ok(driver)
    }

    fn watch_event(&self) {
        if let Some(event) = self.wake.event_fd() {
            let poll = opcode::PollAdd::new(types::Fd(event), libc::POLLIN as u32).multi(true);
            self.inner
                .borrow_mut()
                .push(poll.build().user_data(EVENT), &self.counters);
        }
    }

    pub(crate) fn bufs(&self) -> Option<&BufRing> {
        self.bufs.as_ref()
    }

    /// Hands an operation to the kernel with this turn's submit.
    ///
    /// Whatever `entry` points to must be owned by `resources`, at an address that moving `resources` does not change, or
    /// live for ever.
    pub(crate) fn start<R: 'static>(
        self: &Rc<Self>,
        leaves: Leaves,
        resources: R,
        entry: squeue::Entry,
    ) -> Op<R> {
        let mut inner = self.inner.borrow_mut();
        let key = if self.closed.get() {
            inner.slots.insert_done(-libc::ECANCELED)
        } else {
            let key = inner.slots.insert_single(leaves);
            inner.push(entry.user_data(key.user_data()), &self.counters);
            key
        };
        drop(inner);
        Op::new(self.clone(), key, resources)
    }

    /// As [`Driver::start`] for an operation that completes many times. With more than `untaken_max` results that nobody
    /// has taken it is canceled.
    pub(crate) fn start_multi(
        &self,
        leaves: Leaves,
        untaken_max: usize,
        entry: squeue::Entry,
    ) -> Option<Key> {
        if self.closed.get() {
            return None;
        }
        let mut inner = self.inner.borrow_mut();
        let key = inner.slots.insert_multi(leaves, untaken_max);
        inner.push(entry.user_data(key.user_data()), &self.counters);
        Some(key)
    }

    pub(crate) fn poll_single(&self, key: Key, waker: &Waker) -> Option<Completion> {
        self.inner.borrow_mut().slots.poll_single(key, waker)
    }

    pub(crate) fn poll_multi(&self, key: Key, waker: &Waker) -> Option<Result<Completion, ()>> {
        self.inner.borrow_mut().slots.poll_multi(key, waker)
    }

    /// The owner of the operation is gone; see [`Slots::orphan`]. `cancel` asks the kernel to end it early.
    pub(crate) fn orphan(&self, key: Key, cancel: bool, resources: impl FnOnce() -> Box<dyn Any>) {
        let (leaves, done) = {
            let mut inner = self.inner.borrow_mut();
            let (in_kernel, leaves, done) = inner.slots.orphan(key, resources);
            if in_kernel && cancel {
                inner.push_cancel(key, &self.counters);
            }
            (leaves, done)
        };
        for completion in done {
            self.clean_up(leaves, completion);
        }
    }

    fn clean_up(&self, leaves: Leaves, completion: Completion) {
        match leaves {
            Leaves::Nothing => (),
            Leaves::Descriptor if completion.result >= 0 => self.close(completion.result, false),
            Leaves::Descriptor => (),
            Leaves::RecvBuffer => {
                if let (Some(id), Some(bufs)) =
                    (cqueue::buffer_select(completion.flags), &self.bufs)
                {
                    bufs.taken();
                    bufs.give_back(id);
                }
            }
        }
    }

    /// Closes a descriptor that no operation uses, with this turn's submit. The last close of a large removed file takes
    /// long: `slow` has a worker of the kernel do it.
    pub(crate) fn close(&self, fd: RawFd, slow: bool) {
        if self.closed.get() {
            // SAFETY: the caller owns the descriptor and gives it up.
            unsafe { libc::close(fd) };
            return;
        }
        let mut inner = self.inner.borrow_mut();
        let (flags, data) = match slow {
            true => (squeue::Flags::ASYNC, CLOSED | fd as u64),
            false => (inner.skip_success, IGNORED),
        };
        inner.closing += usize::from(slow);
        let entry = opcode::Close::new(types::Fd(fd))
            .build()
            .flags(flags)
            .user_data(data);
        inner.push(entry, &self.counters);
    }

    /// Wakes another core of this node with this turn's submit.
    pub(crate) fn send_wake(&self, core: usize, target: &CoreWake) {
        let ring = target.ring();
        if ring < 0 || self.closed.get() {
            target.wake_by_event();
            return;
        }
        let mut inner = self.inner.borrow_mut();
        let entry = opcode::MsgRingData::new(types::Fd(ring), 0, WOKEN, None)
            .build()
            .flags(inner.skip_success)
            .user_data(SENT | core as u64);
        inner.push(entry, &self.counters);
    }

    /// One turn: submits what has gathered, lets the kernel work off what is due, wakes whoever waits for it. Calls
    /// `failed_wake` for each core whose wake through the ring failed.
    pub(crate) fn turn(&self, mut wait: Wait, failed_wake: &dyn Fn(usize)) {
        let mut rewatch = false;
        for _ in 0..REAP_ROUNDS_MAX {
            let (again, mut after, sent) = {
                let mut inner = self.inner.borrow_mut();
                inner.fill(&self.counters);
                inner.enter(wait, &self.counters);
                let sent = inner.reap(&self.counters, &self.wake, &mut rewatch);
                (inner.wants_enter(), std::mem::take(&mut inner.after), sent)
            };
            for item in after.drain(..) {
                match item {
                    After::Nothing => (),
                    After::Wake(waker) => waker.wake(),
                    After::Discard(leaves, completion, resources) => {
                        self.clean_up(leaves, completion);
                        drop(resources);
                    }
                }
            }
            self.inner.borrow_mut().after = after; // keep its memory
            sent.into_iter().for_each(failed_wake);
            wait = Wait::No;
            if !again {
                break;
            }
        }
        if rewatch && !self.closed.get() {
            self.watch_event();
        }
    }

    pub(crate) fn gauges(&self, stats: &mut CoreStats) {
        let inner = self.inner.borrow();
        stats.ops_in_flight = inner.slots.pending() as u64;
        stats.ops_orphaned = inner.slots.orphans() as u64;
        stats.recv_buffers_in_use = self.bufs.as_ref().map_or(0, |bufs| u64::from(bufs.out()));
    }

    /// Ends everything under way, after the core's tasks are gone. From now on operations fail and descriptors are closed
    /// directly.
    pub(crate) fn shut_down(&self) {
        {
            let mut inner = self.inner.borrow_mut();
            let cancel = opcode::AsyncCancel2::new(CancelBuilder::any())
                .build()
                .user_data(IGNORED);
            inner.push(cancel, &self.counters);
        }
        self.closed.set(true);
        let begun = Instant::now();
        loop {
            let (pending, queued) = {
                let mut inner = self.inner.borrow_mut();
                let queued = inner.backlog.len() + inner.ring.submission().len();
                (inner.slots.pending() + inner.closing, queued)
            };
            if pending == 0 && queued == 0 {
                return;
            }
            if begun.elapsed() > DRAIN_MAX {
                // Leaking the resources would be right as well, but this cannot happen with a sane kernel and disk.
                crate::node::die(&format!(
                    "{pending} operations did not end within {DRAIN_MAX:?}"
                ));
            }
            self.turn(
                if queued > 0 {
                    Wait::No
                } else {
                    Wait::AtMost(Duration::from_millis(20))
                },
                &|_| (),
            );
        }
    }
}
