//! Waking a core that sleeps in its ring.
//!
//! A core that is about to block publishes SLEEPING, then looks once more for work. Who gives it work stores that work
//! first and looks at the state second. Both sides put a sequentially consistent fence between their store and their load,
//! so at least one of them sees the other: a wake is never lost, and a core that is awake is never woken.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering, fence};

const AWAKE: u32 = 0;
const SLEEPING: u32 = 1;
const WOKEN: u32 = 2;

pub(crate) struct CoreWake {
    state: AtomicU32,
    /// Some port of this core has mail.
    doorbell: AtomicBool,
    /// The core's ring for MSG_RING, -1 while there is none.
    ring: AtomicI32,
    /// For wakes from threads without a ring. None in the simulator.
    event: Option<OwnedFd>,
}

impl CoreWake {
    /// For a core with a ring.
    pub(crate) fn new() -> std::io::Result<CoreWake> {
        // SAFETY: eventfd takes no pointers; the result is checked.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(std::io::Error::last_os_error());
        }
        // SAFETY: a fresh descriptor that nobody else owns.
        let event = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(CoreWake {
            event: Some(event),
            ..CoreWake::simulated()
        })
    }

    /// For a core whose scheduler looks at it anyway.
    pub(crate) fn simulated() -> CoreWake {
        CoreWake {
            state: AtomicU32::new(AWAKE),
            doorbell: AtomicBool::new(false),
            ring: AtomicI32::new(-1),
            event: None,
        }
    }

    pub(crate) fn event_fd(&self) -> Option<RawFd> {
        self.event.as_ref().map(AsRawFd::as_raw_fd)
    }

    pub(crate) fn set_ring(&self, fd: RawFd) {
        self.ring.store(fd, Ordering::Release);
    }

    pub(crate) fn ring(&self) -> RawFd {
        self.ring.load(Ordering::Acquire)
    }

    /// Announces sleep. The caller then looks for work once more, and either blocks or calls [`CoreWake::awake`].
    pub(crate) fn going_to_sleep(&self) {
        self.state.store(SLEEPING, Ordering::SeqCst);
        fence(Ordering::SeqCst);
    }

    pub(crate) fn awake(&self) {
        self.state.store(AWAKE, Ordering::SeqCst);
    }

    /// After work was stored for this core: whether the caller has to wake it. True for one caller per sleep.
    pub(crate) fn must_wake(&self) -> bool {
        fence(Ordering::SeqCst);
        self.state.load(Ordering::SeqCst) == SLEEPING
            && self
                .state
                .compare_exchange(SLEEPING, WOKEN, Ordering::SeqCst, Ordering::SeqCst)
                .is_ok()
    }

    /// Wakes the core from any thread, after work was stored for it.
    pub(crate) fn wake_from_thread(&self) {
        if self.must_wake() {
            self.wake_by_event();
        }
    }

    pub(crate) fn wake_by_event(&self) {
        let Some(event) = &self.event else { return };
        let one = 1u64.to_ne_bytes();
        // SAFETY: an 8-byte write from a live array to a descriptor we own. EAGAIN (counter full) means it is readable.
        unsafe { libc::write(event.as_raw_fd(), one.as_ptr().cast(), one.len()) };
    }

    /// Resets the eventfd after it was reported readable.
    pub(crate) fn clear_event(&self) {
        let Some(event) = &self.event else { return };
        let mut count = [0u8; 8];
        // SAFETY: an 8-byte read into a live array; non-blocking, and an error means there was nothing to reset.
        unsafe { libc::read(event.as_raw_fd(), count.as_mut_ptr().cast(), count.len()) };
    }

    pub(crate) fn ring_doorbell(&self) {
        self.doorbell.store(true, Ordering::SeqCst);
    }

    pub(crate) fn has_doorbell(&self) -> bool {
        self.doorbell.load(Ordering::SeqCst)
    }

    /// Takes the doorbell's state; a plain load while nobody rang.
    pub(crate) fn take_doorbell(&self) -> bool {
        self.doorbell.load(Ordering::Acquire) && self.doorbell.swap(false, Ordering::SeqCst)
    }
}
