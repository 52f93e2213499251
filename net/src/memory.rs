//! Memory for received data: how much of it a core's connections hold, and who waits when it is used up.
//!
//! What counts is what has arrived, never what a length announces. A frame's bytes count until the `Bytes` that the door got
//! is dropped, on whatever core that happens.
//!
//! Nobody waits for ever. While the limit is reached one connection at a time holds the *pass* and may finish its frame, so
//! frames get finished, used and let go of even if all memory lies in unfinished ones. The pass is not given while more than
//! the limit plus one largest frame is held, so the excess does not add up. A peer that holds memory in an unfinished frame
//! and sends nothing is closed by the sweep (`crate::sweep`) while others wait.

use crate::limits::{DIRECT_AFTER_BYTES, MEMORY_CHECK_INTERVAL};
use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use trireme_runtime::sync::Notify;

/// The receive memory of one core; clones are the same one.
#[derive(Clone)]
pub struct ReceiveMemory(Rc<Inner>);

struct Inner {
    used: Arc<AtomicUsize>,
    limit: usize,
    overdraft: usize,
    waiting: Cell<usize>,
    watched: Cell<bool>,
    pass_taken: Cell<bool>,
    turn: Notify,
}

impl ReceiveMemory {
    /// `limit` bytes, and one frame of at most `max_frame_bytes` beyond.
    pub fn new(limit: usize, max_frame_bytes: usize) -> Self {
        Self::with_gauge(limit, max_frame_bytes, Arc::default())
    }

    /// The same with a gauge of the bytes held that other cores may read.
    pub fn with_gauge(limit: usize, max_frame_bytes: usize, used: Arc<AtomicUsize>) -> Self {
        ReceiveMemory(Rc::new(Inner {
            used,
            limit,
            overdraft: max_frame_bytes,
            waiting: Cell::new(0),
            watched: Cell::new(false),
            pass_taken: Cell::new(false),
            turn: Notify::new(),
        }))
    }

    /// Bytes held now.
    pub fn used(&self) -> usize {
        self.0.used.load(Relaxed)
    }

    /// Connections that wait for memory now.
    pub(crate) fn waiting(&self) -> usize {
        self.0.waiting.get()
    }

    pub(crate) fn hold(&self) -> Held {
        Held {
            used: self.0.used.clone(),
            bytes: 0,
        }
    }

    /// Returns at once if there is memory or the caller has the pass; waits for either otherwise.
    pub(crate) async fn admit(&self, pass: &mut Pass) {
        if self.used() < self.0.limit || pass.0.is_some() {
            return;
        }
        let _waiting = Waiting::enter(self);
        self.watch();
        loop {
            self.0.turn.notified().await;
            if self.used() < self.0.limit {
                return;
            }
            if self.pass_is_free() {
                self.0.pass_taken.set(true);
                pass.0 = Some(self.0.clone());
                return;
            }
        }
    }

    fn pass_is_free(&self) -> bool {
        !self.0.pass_taken.get() && self.used() < self.0.limit.saturating_add(self.0.overdraft)
    }

    /// Memory is let go of on any core, and that core does not know who waits here; so a task looks, while somebody waits.
    fn watch(&self) {
        if self.0.watched.replace(true) {
            return;
        }
        let memory = self.clone();
        trireme_runtime::spawn(async move {
            while memory.waiting() > 0 {
                let free = memory.0.limit.saturating_sub(memory.used());
                if free > 0 {
                    // Each may take a ring buffer before it counts.
                    for _ in 0..(free / DIRECT_AFTER_BYTES + 1).min(memory.waiting()) {
                        memory.0.turn.notify_one();
                    }
                } else if memory.pass_is_free() {
                    memory.0.turn.notify_one();
                }
                trireme_runtime::sleep(MEMORY_CHECK_INTERVAL).await;
            }
            memory.0.watched.set(false);
        })
        .detach();
    }
}

struct Waiting<'a>(&'a ReceiveMemory);

impl<'a> Waiting<'a> {
    fn enter(memory: &'a ReceiveMemory) -> Self {
        memory.0.waiting.set(memory.0.waiting.get() + 1);
        Waiting(memory)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.0.waiting.set(self.0.0.waiting.get() - 1);
    }
}

/// The right to go on although the memory is used up, until it is given back or dropped.
#[derive(Default)]
pub(crate) struct Pass(Option<Rc<Inner>>);

impl Pass {
    pub(crate) fn give_back(&mut self) {
        if let Some(memory) = self.0.take() {
            memory.pass_taken.set(false);
        }
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        self.give_back();
    }
}

/// A number of bytes that count as held until this is dropped, on any core.
pub(crate) struct Held {
    used: Arc<AtomicUsize>,
    bytes: usize,
}

impl Held {
    pub(crate) fn grow(&mut self, bytes: usize) {
        self.used.fetch_add(bytes, Relaxed);
        self.bytes += bytes;
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Moves everything to a new holder.
    pub(crate) fn take(&mut self) -> Held {
        Held {
            used: self.used.clone(),
            bytes: std::mem::take(&mut self.bytes),
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.used.fetch_sub(self.bytes, Relaxed);
        }
    }
}
