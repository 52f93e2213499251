//! Time: a monotonic clock, the wall clock, timers.

use std::future::Future;
use std::ops::{Add, AddAssign, Sub};
use std::time::Duration;

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
    unimplemented!()
}

/// Wall clock: milliseconds since 1970.
pub fn unix_ms() -> i64 {
    unimplemented!()
}

/// Waits at least this long.
pub async fn sleep(duration: Duration) {
    sleep_until(now() + duration).await
}

/// Waits until the clock has reached `deadline`.
pub async fn sleep_until(deadline: Instant) {
    let _ = deadline;
    unimplemented!()
}

/// The time given to [`timeout`] was over first.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("deadline has elapsed")]
pub struct Elapsed;

/// Polls `future` for at most `duration`, then drops it.
pub async fn timeout<F: Future>(duration: Duration, future: F) -> Result<F::Output, Elapsed> {
    let _ = (duration, future);
    unimplemented!()
}
