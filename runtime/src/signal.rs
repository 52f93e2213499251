//! Signals of the process.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI32, Ordering};

use crate::core::{Backend, try_with_core, with_core};
use crate::sim::SimCore;

/// Where the handler writes. A handler can reach nothing but a static.
static EVENT: AtomicI32 = AtomicI32::new(-1);

/// From now on SIGTERM and SIGINT do not end the process: they wait until somebody asks for them with [`terminated`].
pub fn hold() {
    if let Some(sim) = simulated() {
        return sim.hold_signals();
    }
    if let Err(error) = install() {
        tracing::error!(%error, "cannot watch for signals");
    }
}

/// Waits for SIGTERM or SIGINT. Meant for core 0. From the first poll on these signals no longer end the process; each
/// call waits for one that has not been reported yet.
pub async fn terminated() {
    if let Some(sim) = simulated() {
        sim.hold_signals();
        return sim.signaled().await;
    }
    let driver = with_core(|core| core.driver().expect("a production core").clone());
    let event = match install() {
        Ok(event) => event,
        Err(error) => {
            tracing::error!(%error, "cannot watch for signals");
            return std::future::pending().await;
        }
    };
    crate::uring::wait_readable(&driver, event).await;
    let mut count = [0u8; 8];
    // SAFETY: an 8-byte read into a live array from a non-blocking descriptor that is never closed.
    unsafe { libc::read(event, count.as_mut_ptr().cast(), count.len()) };
}

fn simulated() -> Option<SimCore> {
    try_with_core(|core| match &core.backend {
        Backend::Sim(sim) => Some(sim.clone()),
        Backend::Uring(_) => None,
    })
    .flatten()
}

/// Makes the eventfd and installs the handlers, once per process.
fn install() -> io::Result<RawFd> {
    static INSTALLED: OnceLock<Result<OwnedFd, i32>> = OnceLock::new();
    let installed = INSTALLED.get_or_init(|| {
        // SAFETY: no pointers; the result is checked.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(errno());
        }
        // SAFETY: a fresh descriptor that nobody else owns.
        let event = unsafe { OwnedFd::from_raw_fd(fd) };
        EVENT.store(fd, Ordering::SeqCst);
        for signal in [libc::SIGTERM, libc::SIGINT] {
            // SAFETY: all zeros is a valid sigaction (no flags, empty mask); `handle` only does what a handler may.
            let result = unsafe {
                let mut action: libc::sigaction = std::mem::zeroed();
                action.sa_sigaction = handle as extern "C" fn(libc::c_int) as usize;
                action.sa_flags = libc::SA_RESTART;
                libc::sigaction(signal, &action, std::ptr::null_mut())
            };
            if result < 0 {
                return Err(errno());
            }
        }
        Ok(event)
    });
    match installed {
        Ok(event) => Ok(event.as_raw_fd()),
        Err(errno) => Err(io::Error::from_raw_os_error(*errno)),
    }
}

fn errno() -> i32 {
    io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

extern "C" fn handle(_signal: libc::c_int) {
    let one = 1u64.to_ne_bytes();
    // SAFETY: write(2) is async-signal-safe, the array lives on this stack, and the saved errno is that of the code that
    // was interrupted.
    unsafe {
        let errno = libc::__errno_location();
        let saved = *errno;
        libc::write(
            EVENT.load(Ordering::Relaxed),
            one.as_ptr().cast(),
            one.len(),
        );
        *errno = saved;
    }
}
