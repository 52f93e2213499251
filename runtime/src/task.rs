//! Tasks of the current core.

use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

/// Who is served first.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Share {
    /// What a client waits for.
    Client,
    /// Flush, retention, compaction, scrub: what is left of the core, but at least a named fraction.
    Background,
}

/// A spawned task: a future of its output. Dropping it cancels the task.
#[must_use = "dropping a JoinHandle cancels its task; call detach()"]
pub struct JoinHandle<T>(PhantomData<Rc<T>>);

impl<T> JoinHandle<T> {
    /// Lets the task run on by itself.
    pub fn detach(self) {
        unimplemented!()
    }

    pub fn is_finished(&self) -> bool {
        unimplemented!()
    }

    /// Cancels the task and waits until its future is dropped; its output if it had finished before.
    pub async fn cancel(self) -> Option<T> {
        unimplemented!()
    }
}

impl<T> Future for JoinHandle<T> {
    type Output = T;
    fn poll(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<T> {
        unimplemented!()
    }
}

/// Starts a task on this core with the share of the caller.
pub fn spawn<F: Future + 'static>(future: F) -> JoinHandle<F::Output> {
    let _ = future;
    unimplemented!()
}

/// Starts a task on this core.
pub fn spawn_with<F: Future + 'static>(share: Share, future: F) -> JoinHandle<F::Output> {
    let _ = (share, future);
    unimplemented!()
}

/// Lets the other runnable tasks and the ring have a turn.
pub async fn yield_now() {
    unimplemented!()
}

/// Whether the running task has used up its time slice.
pub fn should_yield() -> bool {
    unimplemented!()
}

/// Runs `f` on a small helper thread (name resolution, password hashes); in the simulator at once.
/// A dropped future does not stop `f`.
pub fn run_blocking<T: Send + 'static>(
    f: impl FnOnce() -> T + Send + 'static,
) -> impl Future<Output = T> {
    let _ = f;
    std::future::pending()
}
