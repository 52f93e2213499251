//! The production loop of a core: run what is ready, submit and reap once, sleep in the ring when nothing is ready.

use std::cell::Cell;
use std::future::Future;
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use crate::blocking::BlockingPool;
use crate::core::{Backend, Core, UringCore, enter};
use crate::mail::MailRoom;
use crate::memory::GiveBack;
use crate::queue::{TaskQueue, thread_token};
use crate::stats::Counters;
use crate::task::{BACKGROUND_FRACTION, Share};
use crate::time::monotonic;
use crate::uring::{Driver, RingConfig, Wait};
use crate::wake::CoreWake;

/// Polls of one turn, after which the ring is looked at whether or not more is ready.
const POLLS_PER_TURN_MAX: usize = 256;
/// Polls between two looks at the clock.
const POLLS_PER_CLOCK: usize = 16;
/// A turn longer than this looks at the ring early.
const TURN_MAX_NS: u64 = 1_000_000;
/// Background tasks run this long in a turn in which no client task was ready, before the ring is asked for clients again.
const BACKGROUND_SLICE_NS: u64 = 100_000;
/// What background tasks owe at most after a long poll.
const BACKGROUND_DEBT_MAX_NS: i64 = 20_000_000;

/// What the cores of a node know of each other.
pub(crate) struct NodeShared {
    pub(crate) wakes: Arc<[Arc<CoreWake>]>,
    pub(crate) blocking: Arc<BlockingPool>,
    pub(crate) busy_poll: bool,
    /// Cores whose main has not returned; at zero all of them stop.
    mains: AtomicUsize,
}

impl NodeShared {
    pub(crate) fn new(
        cores: usize,
        cpus: Vec<usize>,
        busy_poll: bool,
    ) -> io::Result<Arc<NodeShared>> {
        let wakes: io::Result<Vec<_>> = (0..cores).map(|_| CoreWake::new().map(Arc::new)).collect();
        Ok(Arc::new(NodeShared {
            wakes: wakes?.into(),
            blocking: BlockingPool::new(cpus),
            busy_poll,
            mains: AtomicUsize::new(cores),
        }))
    }

    /// One main has returned; the last one stops the node.
    fn main_returned(&self) {
        if self.mains.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.wake_all();
        }
    }

    /// Stops all cores at once: one of them has panicked.
    pub(crate) fn stop(&self) {
        self.mains.store(0, Ordering::SeqCst);
        self.wake_all();
    }

    fn wake_all(&self) {
        self.wakes.iter().for_each(|wake| wake.wake_from_thread());
    }

    fn stopped(&self) -> bool {
        self.mains.load(Ordering::SeqCst) == 0
    }
}

/// Makes core `id` of the node on the calling thread.
pub(crate) fn make_core(node: &NodeShared, id: usize, ring: &RingConfig) -> io::Result<Rc<Core>> {
    let wake = node.wakes[id].clone();
    let counters = Rc::new(Counters::default());
    let driver = Driver::new(ring, wake.clone(), counters.clone())?;
    Ok(Rc::new(Core {
        id,
        queue: TaskQueue::new(wake),
        timers: Rc::default(),
        backend: Backend::Uring(UringCore {
            driver,
            blocking: node.blocking.clone(),
        }),
        mail: MailRoom::default(),
        counters,
        share: Cell::new(Share::Client),
        slice_start: Cell::new(0),
        random: Cell::new(crate::random::seed()),
        peers: node.wakes.clone(),
    }))
}

/// Wakes the root future, which lives outside of the run queue because it need not be `'static`.
struct RootWaker {
    woken: AtomicBool,
    owner: u64,
    wake: Arc<CoreWake>,
}

impl Wake for RootWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.woken.store(true, Ordering::SeqCst);
        if thread_token() != self.owner {
            self.wake.wake_from_thread();
        }
    }
}

/// Runs a core until `main` has returned here and on all other cores. Then drops its tasks and waits for the kernel.
pub(crate) fn run<F: Future>(core: &Rc<Core>, node: &NodeShared, main: F) -> Option<F::Output> {
    let _entered = enter(core);
    let _ender = Ender { core };
    let mut main = pin!(Some(main));
    let root = Arc::new(RootWaker {
        woken: AtomicBool::new(true),
        owner: thread_token(),
        wake: node.wakes[core.id].clone(),
    });
    let waker = Waker::from(root.clone());
    let mut output = None;
    let mut looper = Loop {
        core,
        node,
        driver: core.driver().expect("a production core"),
        background: BackgroundTime::default(),
        memory: GiveBack::default(),
    };
    while !node.stopped() {
        core.counters.turns.add(1);
        core.queue.take_remote();
        if root.woken.swap(false, Ordering::SeqCst) && output.is_none() {
            core.share.set(Share::Client);
            core.slice_start.set(0);
            core.counters.tasks_polled.add(1);
            if let Some(future) = main.as_mut().as_pin_mut()
                && let Poll::Ready(value) = future.poll(&mut Context::from_waker(&waker))
            {
                main.set(None);
                output = Some(value);
                node.main_returned();
            }
        }
        looper.run_ready();
        looper.turn(&root.woken);
    }
    main.set(None);
    output
}

/// Ends the core when its loop is left, also by a panic: tasks first, then what they had in the kernel.
struct Ender<'a> {
    core: &'a Rc<Core>,
}

impl Drop for Ender<'_> {
    fn drop(&mut self) {
        self.core.queue.shut_down();
        self.core.driver().expect("a production core").shut_down();
    }
}

struct Loop<'a> {
    core: &'a Rc<Core>,
    node: &'a NodeShared,
    driver: &'a Rc<Driver>,
    background: BackgroundTime,
    memory: GiveBack,
}

/// How long background tasks may run in a turn. Beside clients they get a fraction of what those took; what they overdraw
/// (a poll cannot be cut off) they owe.
#[derive(Default)]
struct BackgroundTime {
    credit_ns: i64,
}

impl BackgroundTime {
    /// The time for this turn, given what client tasks have taken, or that none was ready.
    fn budget(&mut self, clients_ns: Option<u64>) -> Option<u64> {
        let Some(clients_ns) = clients_ns else {
            self.credit_ns = 0;
            return Some(BACKGROUND_SLICE_NS);
        };
        self.credit_ns += (clients_ns / BACKGROUND_FRACTION) as i64;
        u64::try_from(self.credit_ns)
            .ok()
            .filter(|credit| *credit > 0)
    }

    fn spent(&mut self, ns: u64) {
        self.credit_ns = (self.credit_ns - ns as i64).max(-BACKGROUND_DEBT_MAX_NS);
    }
}

impl Loop<'_> {
    /// Runs the tasks that are ready now, client tasks first.
    fn run_ready(&mut self) {
        let queue = &self.core.queue;
        let background = queue.len(Share::Background);
        let clients = queue.len(Share::Client);
        if background == 0 && clients <= POLLS_PER_CLOCK {
            // The usual turn: no look at the clock.
            (0..clients).for_each(|_| self.run_one(Share::Client));
            return;
        }
        let begun = monotonic().as_nanos();
        self.run_some(
            Share::Client,
            clients.min(POLLS_PER_TURN_MAX),
            begun + TURN_MAX_NS,
        );
        if background == 0 {
            return;
        }
        let now = monotonic().as_nanos();
        if let Some(budget) = self.background.budget((clients > 0).then(|| now - begun)) {
            let end = self.run_some(Share::Background, background, now + budget);
            self.background.spent(end - now);
        }
    }

    /// Runs up to `count` tasks of a share, at least one, until the clock is past `end`; returns the time.
    fn run_some(&mut self, share: Share, count: usize, end: u64) -> u64 {
        // Background polls may be long, so the clock is looked at after each one.
        let step = if share == Share::Client {
            POLLS_PER_CLOCK
        } else {
            1
        };
        let mut now = 0;
        for n in 1..=count {
            self.run_one(share);
            if n % step == 0 || n == count {
                now = monotonic().as_nanos();
                if now >= end {
                    break;
                }
            }
        }
        now
    }

    fn run_one(&self, share: Share) {
        if let Some(runnable) = self.core.queue.pop(share) {
            self.core.share.set(share);
            self.core.slice_start.set(0);
            self.core.counters.tasks_polled.add(1);
            runnable.run();
        }
    }

    /// Mail out, ring, mail in, timers.
    fn turn(&mut self, root_woken: &AtomicBool) {
        let core = self.core;
        core.mail.flush(core);
        let wake = core.wake();
        let next = core.timers.borrow().next_deadline();
        let idle = core.queue.is_empty() && !root_woken.load(Ordering::SeqCst);
        let failed_wake = |target: usize| self.node.wakes[target].wake_by_event();
        if !idle || self.node.busy_poll {
            self.driver.turn(Wait::No, &failed_wake);
        } else {
            let polls = core.counters.tasks_polled.get();
            let look = self.memory.before_sleep(monotonic(), polls);
            let next = [next, look].into_iter().flatten().min();
            wake.going_to_sleep();
            let news = wake.has_doorbell()
                || core.queue.has_remote()
                || root_woken.load(Ordering::SeqCst)
                || self.node.stopped();
            let wait = match next {
                _ if news => Wait::No,
                None => Wait::Forever,
                Some(deadline) => match deadline.duration_since(monotonic()) {
                    Duration::ZERO => Wait::No,
                    left => Wait::AtMost(left),
                },
            };
            self.driver.turn(wait, &failed_wake);
            wake.awake();
        }
        if wake.take_doorbell() {
            core.mail.deliver();
        }
        self.fire_timers();
    }

    fn fire_timers(&self) {
        let timers = &self.core.timers;
        if timers.borrow().next_deadline().is_none() {
            return;
        }
        let now = monotonic();
        loop {
            let due = timers.borrow_mut().pop_due(now);
            match due {
                Some(waker) => waker.wake(),
                None => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn background_gets_its_fraction_beside_clients_and_all_without() {
        let mut time = BackgroundTime::default();
        assert_eq!(time.budget(None), Some(BACKGROUND_SLICE_NS));
        time.spent(3 * BACKGROUND_SLICE_NS);
        assert_eq!(
            time.budget(None),
            Some(BACKGROUND_SLICE_NS),
            "nobody was kept waiting"
        );
        time.spent(0);

        // Polls much longer than the turns of the clients: the sum is what counts.
        let (mut clients, mut background) = (0, 0);
        for _ in 0..100_000 {
            clients += 10_000;
            if time.budget(Some(10_000)).is_some() {
                background += 400_000;
                time.spent(400_000);
            }
        }
        let share = background as f64 / clients as f64;
        assert!(
            (0.12..0.13).contains(&share),
            "one part in {BACKGROUND_FRACTION}, not {share}"
        );
    }
}
