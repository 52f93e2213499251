//! Time: a monotonic clock, the wall clock, timers.

use std::cell::RefCell;
use std::future::Future;
use std::ops::{Add, AddAssign, Sub};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use crate::core::{Backend, with_core};
use crate::timers::Timers;

/// Nanoseconds of a monotonic clock with an arbitrary origin.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Instant(u64);

impl Instant {
    pub const ZERO: Instant = Instant(0);

    pub const fn from_nanos(nanos: u64) -> Self {
        Instant(nanos)
    }

    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// Time since `earlier`; zero if that is later.
    pub const fn duration_since(self, earlier: Instant) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// Time from this instant until now.
    pub fn elapsed(self) -> Duration {
        now().duration_since(self)
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl Add<Duration> for Instant {
    type Output = Instant;
    fn add(self, rhs: Duration) -> Instant {
        Instant(self.0.saturating_add(nanos(rhs)))
    }
}

impl AddAssign<Duration> for Instant {
    fn add_assign(&mut self, rhs: Duration) {
        *self = *self + rhs;
    }
}

impl Sub<Duration> for Instant {
    type Output = Instant;
    fn sub(self, rhs: Duration) -> Instant {
        Instant(self.0.saturating_sub(nanos(rhs)))
    }
}

impl Sub<Instant> for Instant {
    type Output = Duration;
    fn sub(self, rhs: Instant) -> Duration {
        self.duration_since(rhs)
    }
}

/// The monotonic clock.
pub fn now() -> Instant {
    with_core(|core| match &core.backend {
        Backend::Uring(_) => monotonic(),
        Backend::Sim(sim) => sim.now(),
    })
}

/// The machine's clock, for the drivers.
pub(crate) fn monotonic() -> Instant {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: a live timespec; this clock always exists.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
    Instant(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
}

/// Wall clock: milliseconds since 1970.
pub fn unix_ms() -> i64 {
    with_core(|core| match &core.backend {
        Backend::Uring(_) => {
            match std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH) {
                Ok(since) => since.as_millis() as i64,
                Err(before) => -(before.duration().as_millis() as i64),
            }
        }
        Backend::Sim(sim) => sim.unix_ms(),
    })
}

/// Waits at least this long.
pub async fn sleep(duration: Duration) {
    sleep_until(now() + duration).await
}

/// Waits until the clock has reached `deadline`.
pub fn sleep_until(deadline: Instant) -> impl Future<Output = ()> {
    Sleep {
        deadline,
        state: SleepState::New,
    }
}

struct Sleep {
    deadline: Instant,
    state: SleepState,
}

enum SleepState {
    New,
    Waiting(u64, Rc<RefCell<Timers>>),
    Done,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        match &self.state {
            SleepState::New => {
                if now() >= self.deadline {
                    self.state = SleepState::Done;
                    return Poll::Ready(());
                }
                let timers = with_core(|core| core.timers.clone());
                let id = timers
                    .borrow_mut()
                    .insert(self.deadline, cx.waker().clone());
                self.state = SleepState::Waiting(id, timers);
                Poll::Pending
            }
            SleepState::Waiting(id, timers) => {
                if timers.borrow_mut().update(self.deadline, *id, cx.waker()) {
                    return Poll::Pending;
                }
                self.state = SleepState::Done;
                Poll::Ready(())
            }
            SleepState::Done => Poll::Ready(()),
        }
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let SleepState::Waiting(id, timers) = &self.state {
            let waker = timers.borrow_mut().remove(self.deadline, *id);
            drop(waker);
        }
    }
}

/// The time given to [`timeout`] was over first.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("deadline has elapsed")]
pub struct Elapsed;

/// Polls `future` for at most `duration`, then drops it.
pub async fn timeout<F: Future>(duration: Duration, future: F) -> Result<F::Output, Elapsed> {
    let mut future = std::pin::pin!(future);
    let mut sleep = Sleep {
        deadline: now() + duration,
        state: SleepState::New,
    };
    std::future::poll_fn(|cx| {
        if let Poll::Ready(output) = future.as_mut().poll(cx) {
            return Poll::Ready(Ok(output));
        }
        Pin::new(&mut sleep).poll(cx).map(|()| Err(Elapsed))
    })
    .await
}
