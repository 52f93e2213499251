//! How fast the flusher may go: a token bucket whose rate follows the latency of commits. Pure: time is handed in.
//!
//! Commits beside unthrottled segment writes became several times slower; so while the recent commits are much slower than
//! the usual quick ones, the flusher pauses in proportion, except when what is unflushed nears its bound: then appends would
//! wait for the flusher, which is worse.

use std::time::Duration;

/// Commits this many times slower than the quick ones are slow.
const SLOW_FACTOR: u64 = 4;
/// Never taken for slow.
const QUICK_MICROS: u64 = 300;
/// Longest pause after one write.
const PAUSE_MAX: Duration = Duration::from_millis(4);

#[derive(Debug, Default)]
pub(crate) struct Pacer {
    /// What a quick commit takes: falls at once, rises slowly.
    quick_micros: u64,
    /// The slow end of recent commits: rises at once, falls slowly.
    slow_micros: u64,
}

impl Pacer {
    /// Notes how long a commit took, the bytes of which were `bytes`.
    pub fn commit(&mut self, micros: u64, bytes: usize) {
        // Large groups take long by themselves: count what is beyond a disk's pace for them.
        let micros = micros.saturating_sub(bytes as u64 / 1000);
        self.quick_micros = match self.quick_micros {
            0 => micros,
            quick if micros < quick => micros,
            quick => quick + quick / 256 + 1,
        };
        self.slow_micros = micros.max(self.slow_micros - self.slow_micros / 64);
    }

    /// How long to pause before the next write, with so much unflushed of so much allowed.
    pub fn wait(&mut self, unflushed: u64, unflushed_max: u64) -> Option<Duration> {
        let limit = (self.quick_micros * SLOW_FACTOR).max(QUICK_MICROS);
        if self.slow_micros <= limit || unflushed * 4 > unflushed_max * 3 {
            return None;
        }
        // With nobody committing, nobody suffers, and the memory of it fades.
        self.slow_micros -= self.slow_micros / 16;
        Some(Duration::from_micros(self.slow_micros.saturating_sub(limit)).min(PAUSE_MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quick_commits_let_the_flusher_run() {
        let mut pacer = Pacer::default();
        (0..100).for_each(|_| pacer.commit(130, 4096));
        assert_eq!(pacer.wait(0, 1000), None);
    }

    #[test]
    fn slow_commits_hold_it_back_for_a_while_unless_memory_runs_out() {
        let mut pacer = Pacer::default();
        (0..100).for_each(|_| pacer.commit(130, 4096));
        pacer.commit(3000, 4096);
        assert_eq!(pacer.wait(800, 1000), None);
        assert!(pacer.wait(0, 1000).is_some());
        let pauses = (0..1000)
            .take_while(|_| pacer.wait(0, 1000).is_some())
            .count();
        assert!((1..100).contains(&pauses), "{pauses}");
    }

    #[test]
    fn large_groups_are_not_slow_for_being_large() {
        let mut pacer = Pacer::default();
        (0..10).for_each(|_| pacer.commit(130, 4096));
        (0..10).for_each(|_| pacer.commit(900, 1 << 20));
        assert_eq!(pacer.wait(0, 1000), None);
    }
}
