use std::sync::atomic::{AtomicU64, Ordering};

use crate::queue::thread_token;

/// A value that belongs to the first thread that uses it: an endpoint is made anywhere, moved to its core, and used there.
pub(super) struct Owned<T> {
    owner: AtomicU64,
    value: T,
}

// SAFETY: `get` gives a reference only to the thread that claimed the value first, so although `T` need not be Sync, no two
// threads see it at once. It may have been made, and may be dropped, on another thread: hence `T: Send`. (Dropping needs
// exclusive ownership, so no reference is left then.)
unsafe impl<T: Send> Sync for Owned<T> {}

impl<T> Owned<T> {
    pub(super) fn new(value: T) -> Owned<T> {
        Owned {
            owner: AtomicU64::new(0),
            value,
        }
    }

    /// Panics on any thread but the first that asked.
    pub(super) fn get(&self) -> &T {
        let me = thread_token();
        if self.owner.load(Ordering::Relaxed) != me {
            self.claim(me);
        }
        &self.value
    }

    #[cold]
    fn claim(&self, me: u64) {
        let claimed = self
            .owner
            .compare_exchange(0, me, Ordering::Relaxed, Ordering::Relaxed);
        assert!(
            claimed.is_ok(),
            "an endpoint belongs to the core that used it first"
        );
    }
}
