//! One queue for each ordered pair of cores, and a flag per core that says whether it has news.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};

use super::owned::Owned;
use super::ring::Ring;
use super::room::Targets;

/// What all cores' ends of a link share.
struct Shared<M> {
    cores: usize,
    /// From `f` to `t` at `f * cores + t`.
    rings: Vec<Ring<M>>,
    /// Core `t` got messages, or credit that it waited for.
    news: Vec<AtomicBool>,
    /// At `f * cores + t`: `f` found its queue to `t` full and wants to know when there is room.
    starving: Vec<AtomicBool>,
}

/// Core `core`'s end: sends to every core and receives from every core. Its `&self` methods are for one thread.
pub(super) struct Link<M> {
    shared: Arc<Shared<M>>,
    core: usize,
    local: Owned<Local>,
}

struct Local {
    /// Cores to announce at the next flush.
    dirty: RefCell<Vec<bool>>,
    any_dirty: Cell<bool>,
    /// Core whose queue is looked at next.
    turn: Cell<usize>,
}

impl<M: Send> Link<M> {
    pub(super) fn make(cores: usize, capacity: usize) -> Vec<Link<M>> {
        let pairs = cores * cores;
        let shared = Arc::new(Shared {
            cores,
            rings: (0..pairs).map(|_| Ring::new(capacity)).collect(),
            news: (0..cores).map(|_| AtomicBool::new(false)).collect(),
            starving: (0..pairs).map(|_| AtomicBool::new(false)).collect(),
        });
        let local = || Local {
            dirty: RefCell::new(vec![false; cores]),
            any_dirty: Cell::new(false),
            turn: Cell::new(0),
        };
        (0..cores)
            .map(|core| Link {
                shared: shared.clone(),
                core,
                local: Owned::new(local()),
            })
            .collect()
    }

    pub(super) fn core(&self) -> usize {
        self.core
    }

    fn ring(&self, from: usize, to: usize) -> &Ring<M> {
        assert!(
            to < self.shared.cores && from < self.shared.cores,
            "no core {from} or {to}"
        );
        &self.shared.rings[from * self.shared.cores + to]
    }

    /// Puts a message into the queue; true if this is the first news since the last `announce`.
    pub(super) fn push(&self, to: usize, message: M) -> Result<bool, M> {
        let local = self.local.get();
        // SAFETY: `local.get()` has made sure that this is the one thread that uses this end, and only the end of core
        // `self.core` pushes into the queues from it.
        unsafe { self.ring(self.core, to).push(message)? };
        Ok(local.mark(to))
    }

    /// Whether a push would succeed. If not, there will be news for this core once it would.
    pub(super) fn has_room(&self, to: usize) -> bool {
        self.local.get();
        let ring = self.ring(self.core, to);
        if ring.has_room() {
            return true;
        }
        // Store the wish, then look again; the receiver makes room, then looks for the wish. One of us sees the other.
        self.shared.starving[self.core * self.shared.cores + to].store(true, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        ring.has_room()
    }

    /// The next message, the cores' queues in turn. The second value is as for `push`, for the credit given back.
    pub(super) fn pop(&self) -> Option<(usize, M, bool)> {
        let local = self.local.get();
        let cores = self.shared.cores;
        for step in 0..cores {
            let from = (local.turn.get() + step) % cores;
            // SAFETY: the one thread of this end, and only it pops the queues to it.
            if let Some(message) = unsafe { self.ring(from, self.core).pop() } {
                // Stay with a core that has sent much for a while? No: in turn, so that none is starved.
                local.turn.set((from + 1) % cores);
                let mut first = false;
                let wish = &self.shared.starving[from * cores + self.core];
                fence(Ordering::SeqCst);
                if wish.load(Ordering::Relaxed) && wish.swap(false, Ordering::SeqCst) {
                    first = local.mark(from);
                }
                return Some((from, message, first));
            }
        }
        None
    }

    /// Sets the flags of the cores that got something.
    pub(super) fn announce(&self, targets: &mut Targets) {
        let local = self.local.get();
        if !local.any_dirty.replace(false) {
            return;
        }
        for (core, dirty) in local.dirty.borrow_mut().iter_mut().enumerate() {
            if std::mem::take(dirty) {
                self.shared.news[core].store(true, Ordering::SeqCst);
                targets.add(core);
            }
        }
    }

    /// Takes this core's flag.
    pub(super) fn take_news(&self) -> bool {
        self.shared.news[self.core].swap(false, Ordering::SeqCst)
    }
}

impl Local {
    fn mark(&self, core: usize) -> bool {
        self.dirty.borrow_mut()[core] = true;
        !self.any_dirty.replace(true)
    }
}
