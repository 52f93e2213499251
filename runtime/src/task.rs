//! Tasks of the current core.

use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use crate::core::{Backend, with_core};
use crate::time;

/// A task that has run this long should let others have a turn.
const TIME_SLICE_NS: u64 = 500_000;

/// Who is served first.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Share {
    /// What a client waits for.
    Client,
    /// Flush, retention, compaction, scrub: what is left of the core, but at least
    /// [`BACKGROUND_FRACTION`](crate::task::BACKGROUND_FRACTION) of it.
    Background,
}

/// Of the time that client tasks take, background tasks get at least one part in this many.
pub const BACKGROUND_FRACTION: u64 = 8;

/// A spawned task: a future of its output. Dropping it cancels the task.
#[must_use = "dropping a JoinHandle cancels its task; call detach()"]
pub struct JoinHandle<T> {
    task: async_task::Task<T>,
    /// Of one core.
    _not_send: PhantomData<Rc<()>>,
}

impl<T> JoinHandle<T> {
    /// Lets the task run on by itself.
    pub fn detach(self) {
        self.task.detach();
    }

    pub fn is_finished(&self) -> bool {
        self.task.is_finished()
    }

    /// Cancels the task and waits until its future is dropped; its output if it had finished before.
    pub async fn cancel(self) -> Option<T> {
        self.task.cancel().await
    }
}

impl<T> Future for JoinHandle<T> {
    type Output = T;
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        Pin::new(&mut self.task).poll(cx)
    }
}

/// Starts a task on this core with the share of the caller.
pub fn spawn<F: Future + 'static>(future: F) -> JoinHandle<F::Output> {
    spawn_with(with_core(|core| core.share.get()), future)
}

/// Starts a task on this core.
pub fn spawn_with<F: Future + 'static>(share: Share, future: F) -> JoinHandle<F::Output> {
    let queue = with_core(|core| {
        core.counters.tasks_spawned.add(1);
        core.queue.clone()
    });
    JoinHandle {
        task: queue.spawn(share, future),
        _not_send: PhantomData,
    }
}

/// Lets the other runnable tasks and the ring have a turn.
pub async fn yield_now() {
    let mut yielded = false;
    std::future::poll_fn(|cx| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await
}

/// Whether the running task has used up its time slice, counted from the first time it asked since it was last polled.
pub fn should_yield() -> bool {
    with_core(|core| {
        let now = match &core.backend {
            Backend::Uring(_) => time::monotonic().as_nanos(),
            Backend::Sim(sim) => return sim.should_yield(),
        };
        if core.slice_start.get() == 0 {
            core.slice_start.set(now);
        }
        now - core.slice_start.get() > TIME_SLICE_NS
    })
}

/// Runs `f` on a small helper thread (name resolution, password hashes); in the simulator at once.
/// It starts now, and a dropped future does not stop it.
pub fn run_blocking<T: Send + 'static>(
    f: impl FnOnce() -> T + Send + 'static,
) -> impl Future<Output = T> {
    let pool = with_core(|core| match &core.backend {
        Backend::Uring(uring) => Some(uring.blocking.clone()),
        Backend::Sim(_) => None,
    });
    let state = match pool {
        Some(pool) => Err(pool.run(f)),
        None => Ok(f()),
    };
    async move {
        match state {
            Ok(value) => value,
            Err(running) => running.await,
        }
    }
}
