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

use io_uring::types::{CancelBuilder, SubmitArgs, Timespec};
use io_uring::{EnterFlags, IoUring, cqueue, opcode, squeue, types};

use super::bufring::BufRing;
use super::slots::{After, Completion, Key, Leaves, Slots};
use super::{op::Op, setup};
use crate::stats::{CoreStats, Counters};
use crate::wake::CoreWake;

/// User data of what nobody waits for.
const IGNORED: u64 = u64::MAX;
/// A wake from another core's ring.
const WOKEN: u64 = u64::MAX - 1;
/// The eventfd is readable: a wake from a thread without a ring.
const EVENT: u64 = u64::MAX - 2;
/// A wake that we sent (and that failed, or this would not come): the low 32 bits are the target core.
const SENT: u64 = 0xFFFF_FFFE << 32;

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
    inner: RefCell<Inner>,
    bufs: Option<BufRing>,
    closed: Cell<bool>,
    wake: Arc<CoreWake>,
    pub(crate) counters: Rc<Counters>,
}

struct Inner {
    ring: IoUring,
    slots: Slots,
    /// Entries that did not fit into the submission queue; they go before newer ones.
    backlog: VecDeque<squeue::Entry>,
    after: Vec<After>,
    skip_success: squeue::Flags,
    wait_flags: EnterFlags,
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
            inner: RefCell::new(Inner {
                ring,
                slots: Slots::default(),
                backlog: VecDeque::new(),
                after: Vec::new(),
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

    /// As [`Driver::start`] for an operation that completes many times.
    pub(crate) fn start_multi(&self, leaves: Leaves, entry: squeue::Entry) -> Option<Key> {
        if self.closed.get() {
            return None;
        }
        let mut inner = self.inner.borrow_mut();
        let key = inner.slots.insert_multi(leaves);
        inner.push(entry.user_data(key.user_data()), &self.counters);
        Some(key)
    }

    pub(crate) fn poll_single(&self, key: Key, waker: &Waker) -> Option<Completion> {
        self.inner.borrow_mut().slots.poll_single(key, waker)
    }

    pub(crate) fn poll_multi(&self, key: Key, waker: &Waker) -> Option<Result<Completion, ()>> {
        self.inner.borrow_mut().slots.poll_multi(key, waker)
    }

    pub(crate) fn queued(&self, key: Key) -> usize {
        self.inner.borrow().slots.queued(key)
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

    /// Asks the kernel to end an operation; its completion still comes.
    pub(crate) fn cancel(&self, key: Key) {
        self.inner.borrow_mut().push_cancel(key, &self.counters);
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
        let mut flags = inner.skip_success;
        if slow {
            flags |= squeue::Flags::ASYNC;
        }
        let entry = opcode::Close::new(types::Fd(fd))
            .build()
            .flags(flags)
            .user_data(IGNORED);
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
                (inner.slots.pending(), queued)
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

impl Inner {
    fn push(&mut self, entry: squeue::Entry, counters: &Counters) {
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

    fn push_cancel(&mut self, key: Key, counters: &Counters) {
        let entry = opcode::AsyncCancel::new(key.user_data())
            .build()
            .user_data(IGNORED);
        self.push(entry, counters);
    }

    /// Moves the backlog into the queue as far as it fits.
    fn fill(&mut self, counters: &Counters) {
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

    fn wants_enter(&mut self) -> bool {
        let queue = self.ring.submission();
        !queue.is_empty() || queue.taskrun() || queue.cq_overflow() || !self.backlog.is_empty()
    }

    fn enter(&mut self, wait: Wait, counters: &Counters) {
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
    fn reap(&mut self, counters: &Counters, wake: &CoreWake, rewatch: &mut bool) -> Vec<usize> {
        let Inner {
            ring, slots, after, ..
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
                sent if entry.result() < 0 => failed.push(sent as u32 as usize),
                _ => (),
            }
        }
        counters.completions.add(reaped);
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
