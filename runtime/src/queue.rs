//! A core's run queue: two shares of ready tasks, and a way in for wakes from other threads.

use std::cell::UnsafeCell;
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use async_task::{Runnable, Task};
use slab::Slab;

use crate::task::Share;
use crate::wake::CoreWake;

/// A number that no two threads of this process share.
pub(crate) fn thread_token() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    thread_local!(static TOKEN: u64 = NEXT.fetch_add(1, Ordering::Relaxed));
    TOKEN.with(|token| *token)
}

pub(crate) struct TaskQueue {
    /// Thread whose tasks these are.
    owner: u64,
    local: UnsafeCell<Local>,
    /// Woken by other threads; the lock is never taken on the way of a message, only by helper threads' results.
    remote: Mutex<Remote>,
    remote_pending: AtomicBool,
    wake: Arc<CoreWake>,
}

#[derive(Default)]
struct Local {
    client: VecDeque<Runnable>,
    background: VecDeque<Runnable>,
    /// A waker of every task that is not finished: `shut_down` reaches them through it.
    active: Slab<Option<Waker>>,
}

#[derive(Default)]
struct Remote {
    ready: Vec<(Share, Runnable)>,
    closed: bool,
}

// SAFETY: `local` is only touched after `on_owner_thread()`; everything else is Sync.
unsafe impl Send for TaskQueue {}
// SAFETY: as above.
unsafe impl Sync for TaskQueue {}

impl TaskQueue {
    /// A queue for the calling thread.
    pub(crate) fn new(wake: Arc<CoreWake>) -> Arc<TaskQueue> {
        Arc::new(TaskQueue {
            owner: thread_token(),
            local: UnsafeCell::default(),
            remote: Mutex::default(),
            remote_pending: AtomicBool::new(false),
            wake,
        })
    }

    fn on_owner_thread(&self) -> bool {
        thread_token() == self.owner
    }

    fn with_local<R>(&self, f: impl FnOnce(&mut Local) -> R) -> R {
        assert!(
            self.on_owner_thread(),
            "a core's tasks belong to its thread"
        );
        // SAFETY: only the owner thread comes here, and no `f` in this module calls foreign code (it neither polls, wakes
        // nor drops a task), so the borrow is never nested.
        f(unsafe { &mut *self.local.get() })
    }

    pub(crate) fn spawn<F: Future + 'static>(
        self: &Arc<Self>,
        share: Share,
        future: F,
    ) -> Task<F::Output> {
        let index = self.with_local(|local| local.active.insert(None));
        let tracked = Tracked {
            future,
            _entry: Entry {
                queue: self.clone(),
                index,
            },
        };
        let queue = self.clone();
        let schedule = move |runnable| queue.push(share, runnable);
        // SAFETY: `tracked` need not be Send because runnables are only run and dropped on the owner thread: `push` from
        // another one parks them in `remote`, which only the owner empties, and after closing leaks them. `schedule` is
        // Send + Sync + 'static, and the future is 'static.
        let (runnable, task) =
            unsafe { async_task::Builder::new().spawn_unchecked(|()| tracked, schedule) };
        self.with_local(|local| local.active[index] = Some(runnable.waker()));
        runnable.schedule();
        task
    }

    fn push(&self, share: Share, runnable: Runnable) {
        if self.on_owner_thread() {
            self.with_local(|local| match share {
                Share::Client => local.client.push_back(runnable),
                Share::Background => local.background.push_back(runnable),
            });
            return;
        }
        {
            let mut remote = self.remote.lock().expect("no holder panics");
            if remote.closed {
                // Its thread is gone, and the future may only be dropped there.
                std::mem::forget(runnable);
                return;
            }
            remote.ready.push((share, runnable));
        }
        self.remote_pending.store(true, Ordering::SeqCst);
        self.wake.wake_from_thread();
    }

    /// Whether another thread has put something in since `take_remote`.
    pub(crate) fn has_remote(&self) -> bool {
        self.remote_pending.load(Ordering::SeqCst)
    }

    pub(crate) fn take_remote(&self) {
        if !self.remote_pending.load(Ordering::Acquire) {
            return;
        }
        self.remote_pending.store(false, Ordering::SeqCst);
        let ready = std::mem::take(&mut self.remote.lock().expect("no holder panics").ready);
        for (share, runnable) in ready {
            self.push(share, runnable);
        }
    }

    pub(crate) fn len(&self, share: Share) -> usize {
        self.with_local(|local| match share {
            Share::Client => local.client.len(),
            Share::Background => local.background.len(),
        })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.with_local(|local| local.client.is_empty() && local.background.is_empty())
    }

    pub(crate) fn pop(&self, share: Share) -> Option<Runnable> {
        self.with_local(|local| match share {
            Share::Client => local.client.pop_front(),
            Share::Background => local.background.pop_front(),
        })
    }

    /// The `n`-th ready task, client tasks counted first: the simulator's choice.
    pub(crate) fn remove(&self, n: usize) -> Option<(Share, Runnable)> {
        self.with_local(|local| match n.checked_sub(local.client.len()) {
            None => local.client.remove(n).map(|r| (Share::Client, r)),
            Some(n) => local.background.remove(n).map(|r| (Share::Background, r)),
        })
    }

    /// Drops every task that is left. Destructors may still wake and even finish others.
    pub(crate) fn shut_down(&self) {
        self.remote.lock().expect("no holder panics").closed = true;
        self.take_remote_always();
        loop {
            let wakers: Vec<Waker> = self.with_local(|local| {
                local
                    .active
                    .iter_mut()
                    .filter_map(|(_, waker)| waker.take())
                    .collect()
            });
            wakers.into_iter().for_each(Waker::wake);
            let mut dropped = false;
            for share in [Share::Client, Share::Background] {
                while let Some(runnable) = self.pop(share) {
                    drop(runnable);
                    dropped = true;
                }
            }
            if !dropped {
                return;
            }
        }
    }

    fn take_remote_always(&self) {
        self.remote_pending.store(true, Ordering::SeqCst);
        self.take_remote();
    }
}

/// A task's place in `active`, given back when its future is dropped.
struct Entry {
    queue: Arc<TaskQueue>,
    index: usize,
}

impl Drop for Entry {
    fn drop(&mut self) {
        let waker = self
            .queue
            .with_local(|local| local.active.remove(self.index));
        drop(waker);
    }
}

/// The task's future together with its entry. By hand, because an async block would hold the future twice.
struct Tracked<F> {
    future: F,
    _entry: Entry,
}

impl<F: Future> Future for Tracked<F> {
    type Output = F::Output;
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        // SAFETY: structural pinning of `future`: it is never moved out, `Tracked` has no Drop of its own and is Unpin only
        // if F is (auto trait over its fields).
        unsafe { self.map_unchecked_mut(|tracked| &mut tracked.future) }.poll(cx)
    }
}
