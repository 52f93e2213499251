//! Making a core's ring with as many of the wanted features as the kernel has.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use io_uring::IoUring;

/// Completion queue entries for each submission queue entry: multishot operations complete more often than they are
/// submitted, and an overflow costs system calls.
const COMPLETIONS_PER_SUBMISSION: u32 = 4;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Level {
    /// Completions are only worked off when this thread asks for them (Linux 6.1).
    Deferred,
    /// They interrupt only system calls, not the user's code (5.19).
    Cooperative,
    Plain,
}

pub(super) fn make(entries: u32) -> io::Result<IoUring> {
    let mut last = None;
    for level in [Level::Deferred, Level::Cooperative, Level::Plain] {
        match build(entries, level) {
            Ok(ring) => {
                if level != Level::Deferred {
                    report(level);
                }
                return Ok(ring);
            }
            // Unknown flags are EINVAL; anything else (forbidden, no memory) is not helped by fewer of them.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => last = Some(error),
            Err(error) => return Err(explain(error)),
        }
    }
    Err(explain(last.expect("the loop ran")))
}

fn build(entries: u32, level: Level) -> io::Result<IoUring> {
    let mut builder = IoUring::builder();
    builder
        .dontfork()
        .setup_clamp()
        .setup_cqsize(entries.saturating_mul(COMPLETIONS_PER_SUBMISSION));
    match level {
        Level::Deferred => {
            builder
                .setup_single_issuer()
                .setup_defer_taskrun()
                .setup_submit_all()
                .setup_taskrun_flag();
        }
        Level::Cooperative => {
            builder
                .setup_coop_taskrun()
                .setup_submit_all()
                .setup_taskrun_flag();
        }
        Level::Plain => (),
    }
    builder.build(entries)
}

fn report(level: Level) {
    static REPORTED: AtomicBool = AtomicBool::new(false);
    if !REPORTED.swap(true, Ordering::Relaxed) {
        tracing::warn!(
            ?level,
            "this kernel lacks io_uring features; slower than on Linux 6.1 and later"
        );
    }
}

fn explain(error: io::Error) -> io::Error {
    io::Error::new(
        error.kind(),
        format!(
            "io_uring is not available ({error}); see /proc/sys/kernel/io_uring_disabled, seccomp profile, RLIMIT_MEMLOCK"
        ),
    )
}
