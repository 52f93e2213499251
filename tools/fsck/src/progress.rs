//! How far a long check is: a bar on a terminal, a line now and then elsewhere, nothing where a program reads the output.

use std::io::IsTerminal;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::report::Bytes;

/// Whoever is done sooner sees nothing.
const QUIET: Duration = Duration::from_secs(1);
const ON_TERMINAL: Duration = Duration::from_millis(200);
const ELSEWHERE: Duration = Duration::from_secs(30);
const BAR_WIDTH: usize = 30;

/// Bytes done of those to do.
pub struct Progress {
    what: &'static str,
    total: u64,
    silent: bool,
    done: AtomicU64,
}

impl Progress {
    pub fn new(what: &'static str, total: u64, silent: bool) -> Progress {
        Progress {
            what,
            total,
            silent,
            done: AtomicU64::new(0),
        }
    }

    pub fn add(&self, bytes: u64) {
        self.done.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Shows on stderr how far `work` is, while it works.
    pub fn show<R>(&self, work: impl FnOnce() -> R) -> R {
        if self.silent {
            return work();
        }
        let is_terminal = std::io::stderr().is_terminal();
        let interval = if is_terminal { ON_TERMINAL } else { ELSEWHERE };
        let finished = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let shower = scope.spawn(|| {
                let start = Instant::now();
                let mut shown = false;
                while !finished.load(Ordering::Acquire) {
                    std::thread::park_timeout(interval);
                    if start.elapsed() < QUIET || finished.load(Ordering::Acquire) {
                        continue;
                    }
                    let line = self.line(start.elapsed());
                    if is_terminal {
                        eprint!("\r{line}\x1b[K");
                        shown = true;
                    } else {
                        eprintln!("{line}");
                    }
                }
                if shown {
                    eprint!("\r\x1b[K");
                }
            });
            let result = work();
            finished.store(true, Ordering::Release);
            shower.thread().unpark();
            result
        })
    }

    fn line(&self, elapsed: Duration) -> String {
        // Files may grow or be read again meanwhile.
        let done = self.done.load(Ordering::Relaxed).min(self.total);
        let rate = (done as f64 / elapsed.as_secs_f64()) as u64;
        let filled = (done as usize * BAR_WIDTH).checked_div(self.total as usize);
        let filled = filled.unwrap_or(BAR_WIDTH);
        let left = (self.total - done).checked_div(rate);
        format!(
            "{} [{}{}] {:3} % of {}, {}/s, {} s left",
            self.what,
            "#".repeat(filled),
            ".".repeat(BAR_WIDTH - filled),
            (done * 100).checked_div(self.total).unwrap_or(100),
            Bytes(self.total),
            Bytes(rate),
            left.map_or("?".to_owned(), |left| left.to_string()),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_from_empty_to_full() {
        let progress = Progress::new("verify", 1000, true);
        assert!(
            progress
                .line(Duration::from_secs(1))
                .contains("[..............................]   0 %")
        );
        progress.add(500);
        let half = progress.line(Duration::from_secs(5));
        assert!(
            half.contains("[###############...............]  50 %"),
            "{half}"
        );
        assert!(half.ends_with("100 B/s, 5 s left"), "{half}");
        progress.add(600);
        assert!(
            progress
                .line(Duration::from_secs(5))
                .contains("##############################] 100 %")
        );
        let nothing = Progress::new("verify", 0, true);
        assert!(nothing.line(Duration::from_secs(1)).contains("100 %"));
    }
}
