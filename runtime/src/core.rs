//! What a core is made of, whatever its backend, and how code finds the core it runs on.

use std::cell::{Cell, RefCell};
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::Arc;

use crate::mail::MailRoom;
use crate::queue::TaskQueue;
use crate::sim::SimCore;
use crate::stats::Counters;
use crate::task::Share;
use crate::timers::Timers;
use crate::uring::Driver;
use crate::wake::CoreWake;

pub(crate) struct Core {
    pub(crate) id: usize,
    pub(crate) queue: Arc<TaskQueue>,
    pub(crate) timers: Rc<RefCell<Timers>>,
    pub(crate) backend: Backend,
    pub(crate) mail: MailRoom,
    pub(crate) counters: Rc<Counters>,
    /// Share of the task being polled.
    pub(crate) share: Cell<Share>,
    /// When the running task first asked whether it should yield; 0 if it has not yet.
    pub(crate) slice_start: Cell<u64>,
    /// State of the core's own generator.
    pub(crate) random: Cell<u64>,
    /// How to wake this node's cores, this one included.
    pub(crate) peers: Arc<[Arc<CoreWake>]>,
}

/// Where time, randomness and I/O come from. One predictable branch in production.
pub(crate) enum Backend {
    Uring(UringCore),
    Sim(SimCore),
}

pub(crate) struct UringCore {
    pub(crate) driver: Rc<Driver>,
    pub(crate) blocking: Arc<crate::blocking::BlockingPool>,
}

impl Core {
    pub(crate) fn wake(&self) -> &CoreWake {
        &self.peers[self.id]
    }

    pub(crate) fn driver(&self) -> Option<&Rc<Driver>> {
        match &self.backend {
            Backend::Uring(uring) => Some(&uring.driver),
            Backend::Sim(_) => None,
        }
    }
}

thread_local! {
    static CURRENT: Cell<Option<NonNull<Core>>> = const { Cell::new(None) };
}

/// Makes a core the current one until dropped.
pub(crate) struct Entered<'a> {
    before: Option<NonNull<Core>>,
    _core: &'a Rc<Core>,
}

pub(crate) fn enter(core: &Rc<Core>) -> Entered<'_> {
    Entered {
        before: CURRENT.replace(Some(NonNull::from(&**core))),
        _core: core,
    }
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        CURRENT.set(self.before);
    }
}

/// Calls `f` with the current core. Panics outside of one.
pub(crate) fn with_core<R>(f: impl FnOnce(&Core) -> R) -> R {
    try_with_core(f).expect("called outside of a runtime core")
}

/// Calls `f` with the current core, if there is one.
pub(crate) fn try_with_core<R>(f: impl FnOnce(&Core) -> R) -> Option<R> {
    let core = CURRENT.get()?;
    // SAFETY: an `Entered` guard is alive further up this thread's stack and borrows the Rc of this core, so it outlives
    // the call. `Core` is only reached by shared reference.
    Some(f(unsafe { core.as_ref() }))
}
