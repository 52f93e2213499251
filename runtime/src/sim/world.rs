//! The simulated world: one clock, one source of randomness, one queue of events for all nodes.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::disk::Disk;
use super::faults::{DiskFaults, Fault, FaultCounts, NetFaults};
use super::file::OpenFile;
use super::image::BoundaryHook;
use super::net::NodeNet;
use super::pipe::Pipe;
use super::recorder::{Recorder, Whose};
use crate::core::Core;
use crate::random;
use crate::sync::Notify;
use crate::time::Instant;

/// What happens at a moment. It checks by itself whether its node still lives.
type Event = Box<dyn FnOnce()>;

pub(super) struct World {
    now: Cell<u64>,
    random: Cell<u64>,
    trace: Cell<u64>,
    sequence: Cell<u64>,
    events: RefCell<BTreeMap<(u64, u64), Event>>,
    pub(super) nodes: RefCell<Vec<Rc<Node>>>,
    /// Open files on their way between cores.
    pub(super) shared_files: RefCell<BTreeMap<u64, Rc<OpenFile>>>,
    pub(super) net_faults: RefCell<NetFaults>,
    /// Ways that are blocked, from node to node.
    pub(super) blocked: RefCell<BTreeSet<(usize, usize)>>,
    /// Connections on which something waits for a way to be open again.
    pub(super) held: RefCell<Vec<Rc<Pipe>>>,
    /// Why the last process that ended itself did so.
    pub(super) last_abort: RefCell<Option<String>>,
    counts: RefCell<FaultCounts>,
    recorder: RefCell<Recorder>,
}

/// A machine: its disk and address outlive its processes.
pub(super) struct Node {
    pub(super) disk: RefCell<Disk>,
    pub(super) disk_faults: RefCell<DiskFaults>,
    /// Calls that were submitted to the disk so far.
    pub(super) disk_calls: Cell<u64>,
    pub(super) boundary_hook: RefCell<Option<BoundaryHook>>,
    pub(super) net: NodeNet,
    /// Rises with each start and end of a process; what belongs to an earlier one has no effect any more.
    pub(super) incarnation: Cell<u64>,
    pub(super) cores: RefCell<Vec<Rc<Core>>>,
    pub(super) core_count: Cell<usize>,
    pub(super) mains_left: Cell<usize>,
    pub(super) signals: Signals,
}

/// SIGTERM for the process that runs on a node.
#[derive(Default)]
pub(super) struct Signals {
    /// It waits for them; before that one ends it.
    pub(super) held: Cell<bool>,
    /// Sent and not reported yet.
    pub(super) waiting: Cell<usize>,
    pub(super) arrived: Notify,
}

impl World {
    pub(super) fn new(seed: u64) -> Rc<World> {
        Rc::new(World {
            now: Cell::new(1_000_000_000), // "zero" is a value that code may treat specially
            random: Cell::new(random::mix(seed)),
            trace: Cell::new(seed),
            sequence: Cell::new(0),
            events: RefCell::default(),
            nodes: RefCell::default(),
            shared_files: RefCell::default(),
            net_faults: RefCell::default(),
            blocked: RefCell::default(),
            held: RefCell::default(),
            last_abort: RefCell::default(),
            counts: RefCell::default(),
            recorder: RefCell::default(),
        })
    }

    pub(super) fn now(&self) -> Instant {
        Instant::from_nanos(self.now.get())
    }

    /// The clock only goes forward.
    pub(super) fn advance_to(&self, time: u64) {
        self.now.set(self.now.get().max(time));
    }

    pub(super) fn random(&self) -> u64 {
        random::next(&self.random)
    }

    /// A number below `bound`, which is not zero.
    pub(super) fn below(&self, bound: u64) -> u64 {
        self.random() % bound
    }

    /// True once in `n` times.
    pub(super) fn one_in(&self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// True once in `n` times, never if `n` is zero. Draws nothing then, so that faults that are off change no run.
    pub(super) fn chance(&self, n: u64) -> bool {
        n > 0 && self.one_in(n)
    }

    /// A delay below `max`.
    pub(super) fn up_to(&self, max: Duration) -> u64 {
        1 + self.below(max.as_nanos() as u64 + 1)
    }

    /// A fault happens.
    pub(super) fn count(&self, fault: Fault, whose: Whose) {
        self.note(fault as u64);
        self.counts.borrow_mut().count(fault, 1);
        self.record(whose, format_args!("fault: {}", fault.name()));
    }

    /// Faults that were drawn elsewhere.
    pub(super) fn count_all(&self, counts: &FaultCounts) {
        self.counts.borrow_mut().add(counts);
    }

    pub(super) fn counts(&self) -> FaultCounts {
        *self.counts.borrow()
    }

    /// For a reader. `what` is formatted only if somebody wants it.
    pub(super) fn record(&self, whose: Whose, what: fmt::Arguments<'_>) {
        let mut recorder = self.recorder.borrow_mut();
        if recorder.is_on() {
            recorder.push(self.now(), whose, what);
        }
    }

    pub(super) fn recorder(&self) -> std::cell::RefMut<'_, Recorder> {
        self.recorder.borrow_mut()
    }

    /// Enters something into the trace.
    pub(super) fn note(&self, what: u64) {
        self.trace
            .set(random::mix(self.trace.get() ^ what).wrapping_add(self.now.get()));
    }

    pub(super) fn trace(&self) -> u64 {
        self.trace.get()
    }

    pub(super) fn node(&self, index: usize) -> Rc<Node> {
        self.nodes.borrow()[index].clone()
    }

    pub(super) fn at(&self, time: u64, event: impl FnOnce() + 'static) {
        let sequence = self.sequence.get();
        self.sequence.set(sequence + 1);
        self.events
            .borrow_mut()
            .insert((time.max(self.now.get()), sequence), Box::new(event));
    }

    pub(super) fn after(&self, delay: u64, event: impl FnOnce() + 'static) {
        self.at(self.now.get() + delay, event);
    }

    pub(super) fn next_event(&self) -> Option<u64> {
        self.events
            .borrow()
            .first_key_value()
            .map(|((time, _), _)| *time)
    }

    /// Takes out the first event if it is due.
    pub(super) fn pop_due(&self) -> Option<Event> {
        let mut events = self.events.borrow_mut();
        let entry = events.first_entry()?;
        let (time, sequence) = *entry.key();
        if time > self.now.get() {
            return None;
        }
        let event = entry.remove();
        drop(events);
        self.note(sequence);
        Some(event)
    }

    /// Drops what holds the world itself. First all events; their destructors may make new ones, which go as well.
    pub(super) fn clear(&self) {
        while !self.events.borrow().is_empty() {
            let events = self.events.take();
            drop(events);
        }
        let files = self.shared_files.take();
        drop(files);
        let held = self.held.take();
        drop(held);
        for node in self.nodes.borrow().iter() {
            node.boundary_hook.take();
            node.disk.borrow_mut().wipe();
        }
    }
}

/// Where the result of something that happens later is put, whether or not anybody still waits for it then.
pub(super) struct Later<T>(Rc<RefCell<LaterState<T>>>);

/// The future of that result.
pub(super) struct Pending<T>(Rc<RefCell<LaterState<T>>>);

struct LaterState<T> {
    value: Option<T>,
    waker: Option<Waker>,
}

impl<T> Later<T> {
    pub(super) fn new() -> (Later<T>, Pending<T>) {
        let state = Rc::new(RefCell::new(LaterState {
            value: None,
            waker: None,
        }));
        (Later(state.clone()), Pending(state))
    }

    pub(super) fn set(&self, value: T) {
        let waker = {
            let mut state = self.0.borrow_mut();
            state.value = Some(value);
            state.waker.take()
        };
        waker.into_iter().for_each(Waker::wake);
    }
}

impl<T> Future for Pending<T> {
    type Output = T;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        let mut state = self.0.borrow_mut();
        match state.value.take() {
            Some(value) => Poll::Ready(value),
            None => {
                state.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}
