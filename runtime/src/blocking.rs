//! Helper threads for the few calls that have no ring operation.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Condvar, Mutex};
use std::task::{Poll, Waker};
use std::time::Duration;

/// Helper threads of a node.
const THREADS_MAX: usize = 4;
/// An idle helper ends after this long, so that an idle node has none.
const IDLE_MAX: Duration = Duration::from_secs(10);

type Job = Box<dyn FnOnce() + Send>;

pub(crate) struct BlockingPool {
    /// Where helpers may run; empty: as their parent.
    cpus: Vec<usize>,
    state: Mutex<State>,
    work: Condvar,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    threads: usize,
    idle: usize,
}

struct Slot<T> {
    result: Option<std::thread::Result<T>>,
    waker: Option<Waker>,
}

impl BlockingPool {
    pub(crate) fn new(cpus: Vec<usize>) -> Arc<BlockingPool> {
        Arc::new(BlockingPool {
            cpus,
            state: Mutex::default(),
            work: Condvar::new(),
        })
    }

    pub(crate) fn run<T: Send + 'static>(
        self: Arc<Self>,
        f: impl FnOnce() -> T + Send + 'static,
    ) -> impl Future<Output = T> {
        let slot = Arc::new(Mutex::new(Slot {
            result: None,
            waker: None,
        }));
        let theirs = slot.clone();
        self.submit(Box::new(move || {
            let result = catch_unwind(AssertUnwindSafe(f));
            let waker = {
                let mut slot = theirs.lock().expect("no holder panics");
                slot.result = Some(result);
                slot.waker.take()
            };
            if let Some(waker) = waker {
                waker.wake();
            }
        }));
        poll_fn(move |cx| {
            let mut slot = slot.lock().expect("no holder panics");
            match slot.result.take() {
                Some(Ok(value)) => Poll::Ready(value),
                Some(Err(panic)) => resume_unwind(panic),
                None => {
                    slot.waker = Some(cx.waker().clone());
                    Poll::Pending
                }
            }
        })
    }

    fn submit(self: &Arc<Self>, job: Job) {
        let mut state = self.state.lock().expect("no holder panics");
        state.jobs.push_back(job);
        if state.idle >= state.jobs.len() || state.threads == THREADS_MAX {
            drop(state);
            self.work.notify_one();
            return;
        }
        state.threads += 1;
        drop(state);
        let pool = self.clone();
        let spawned = std::thread::Builder::new()
            .name("trireme-helper".into())
            .spawn(move || pool.work());
        if let Err(error) = spawned {
            let mut state = self.state.lock().expect("no holder panics");
            state.threads -= 1;
            if state.threads == 0 {
                // Nobody is left to do it: late is better than never.
                tracing::error!(%error, "no helper thread; running a blocking call on the core");
                let jobs = std::mem::take(&mut state.jobs);
                drop(state);
                jobs.into_iter().for_each(|job| job());
            }
        }
    }

    fn work(&self) {
        crate::host::unpin_thread(&self.cpus);
        let mut state = self.state.lock().expect("no holder panics");
        loop {
            if let Some(job) = state.jobs.pop_front() {
                drop(state);
                job();
                state = self.state.lock().expect("no holder panics");
                continue;
            }
            state.idle += 1;
            let (again, timed_out) = self
                .work
                .wait_timeout(state, IDLE_MAX)
                .expect("no holder panics");
            state = again;
            state.idle -= 1;
            if timed_out.timed_out() && state.jobs.is_empty() {
                state.threads -= 1;
                return;
            }
        }
    }
}
