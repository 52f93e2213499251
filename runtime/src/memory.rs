//! The process's memory as a whole: its allocator, and giving back what a burst has left behind.

use std::time::Duration;

use crate::time::Instant;

/// What binaries declare as their `#[global_allocator]`.
pub type Allocator = mimalloc::MiMalloc;
pub const ALLOCATOR: Allocator = mimalloc::MiMalloc;

/// Has the kernel give this process pages of 4 KiB only, from now on.
///
/// The allocator asks for huge ones otherwise, and a machine may be set to give them to everybody. A broker's heap is spread thinly: 13 huge
/// pages for 1 MiB of an idle one. Under load, memory goes back and comes again, and clearing 2 MiB for each block costs more
/// than the smaller page table saves: 0.58 instead of 0.34 CPU seconds for a million records of 100 B.
pub fn no_huge_pages() {
    // SAFETY: touches no memory; the unused arguments are zero, as the kernel demands.
    let result = unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0) };
    if result != 0 {
        let error = std::io::Error::last_os_error();
        tracing::warn!(%error, "huge pages stay on; more memory will be used");
    }
}

/// Returns free memory of this thread's heap to the system, and all that no heap holds. Takes a millisecond or so after a burst.
fn give_back() {
    // SAFETY: looks at the calling thread's own heap and at shared structures that the allocator locks; changes no live
    // allocation. Where another allocator is the global one, it finds nothing.
    unsafe { libmimalloc_sys::mi_collect(true) }
}

/// The allocator gives memory back only while it is called. Once a core has become quiet after work nobody calls it, so the
/// core does this itself before it sleeps, and otherwise wakes up for it once.
#[derive(Default)]
pub(crate) struct GiveBack {
    window_start: Instant,
    window_polls: u64,
    /// Polls of tasks when memory was last given back.
    done_polls: u64,
}

/// A core is quiet in a window of this length...
const WINDOW: Duration = Duration::from_secs(1);
/// ...that had no more polls of tasks than this: timers and an idle client's heartbeats.
const QUIET_POLLS: u64 = 100;
/// Fewer polls than this leave nothing worth looking for.
const WORK_POLLS: u64 = 500;

impl GiveBack {
    /// To be called before the core sleeps, with its number of polls so far. It is to sleep no longer than until the result.
    pub(crate) fn before_sleep(&mut self, now: Instant, polls: u64) -> Option<Instant> {
        if self.due(now, polls) {
            give_back();
        }
        (polls - self.done_polls >= WORK_POLLS).then(|| self.window_start + WINDOW)
    }

    fn due(&mut self, now: Instant, polls: u64) -> bool {
        if now - self.window_start < WINDOW {
            return false;
        }
        let quiet = polls - self.window_polls <= QUIET_POLLS;
        (self.window_start, self.window_polls) = (now, polls);
        let due = quiet && polls - self.done_polls >= WORK_POLLS;
        if due {
            self.done_polls = polls;
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Instant {
        Instant::ZERO + Duration::from_millis(ms)
    }

    #[test]
    fn memory_goes_back_once_after_work_and_an_idle_core_sleeps_on() {
        let mut memory = GiveBack::default();
        assert!(!memory.due(ms(5000), 10), "it has not worked");
        assert_eq!(memory.before_sleep(ms(5100), 11), None);
        assert_eq!(
            memory.before_sleep(ms(5200), 10_000),
            Some(ms(6000)),
            "and then looks again"
        );
        assert!(!memory.due(ms(6000), 20_000), "it works");
        assert!(!memory.due(ms(6300), 20_050));
        assert!(memory.due(ms(7000), 20_060), "a quiet second");
        assert_eq!(memory.before_sleep(ms(7001), 20_060), None);
        assert!(!memory.due(ms(20_000), 20_100), "once is enough");
    }

    #[test]
    fn a_trickle_adds_up() {
        let mut memory = GiveBack::default();
        let times = (1..=100).filter(|n| memory.due(ms(n * 2000), n * 20));
        assert_eq!(times.count(), 100 * 20 / WORK_POLLS as usize);
    }
}
