//! When things are due. Open loop: each batch has its time, whether or not the broker keeps up, and a latency counts from
//! then; closed loop: a batch is due when there is room for it.

use std::time::{Duration, Instant};

pub struct Pace {
    start: Instant,
    /// Records per second of this sender; `None`: as fast as answers allow.
    rate: Option<f64>,
    sent: u64,
}

impl Pace {
    pub fn new(start: Instant, rate: Option<f64>) -> Pace {
        Pace {
            start,
            rate,
            sent: 0,
        }
    }

    /// Waits until the next `records` are due; their time, in ns since the start.
    pub fn wait(&mut self, records: u64) -> u64 {
        let now = self.start.elapsed();
        let Some(rate) = self.rate else {
            return now.as_nanos() as u64;
        };
        let due = Duration::from_secs_f64(self.sent as f64 / rate);
        self.sent += records;
        if let Some(early) = due.checked_sub(now) {
            std::thread::sleep(early);
        }
        due.as_nanos() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn due_times_follow_the_rate_and_not_the_sender() {
        let mut pace = Pace::new(Instant::now() - Duration::from_secs(10), Some(1000.0));
        assert_eq!(
            (0..4).map(|_| pace.wait(100)).collect::<Vec<_>>(),
            [0, 100_000_000, 200_000_000, 300_000_000]
        );
    }
}
