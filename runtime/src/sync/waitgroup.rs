use std::cell::Cell;
use std::rc::Rc;

use super::Notify;

/// Counts what is under way and waits until nothing is. Clones are the same one.
#[derive(Clone, Default)]
pub struct WaitGroup {
    inner: Rc<Inner>,
}

#[derive(Default)]
struct Inner {
    count: Cell<usize>,
    zero: Notify,
}

impl WaitGroup {
    pub fn new() -> Self {
        Self::default()
    }

    /// One more under way, until the guard is dropped.
    pub fn enter(&self) -> WaitGroupGuard {
        self.inner.count.set(self.inner.count.get() + 1);
        WaitGroupGuard {
            inner: self.inner.clone(),
        }
    }

    pub fn count(&self) -> usize {
        self.inner.count.get()
    }

    /// Waits until the count is zero.
    pub async fn wait(&self) {
        while self.inner.count.get() > 0 {
            self.inner.zero.notified().await;
        }
    }
}

#[must_use = "counts until it is dropped"]
pub struct WaitGroupGuard {
    inner: Rc<Inner>,
}

impl Drop for WaitGroupGuard {
    fn drop(&mut self) {
        let count = self.inner.count.get() - 1;
        self.inner.count.set(count);
        if count == 0 {
            self.inner.zero.notify_all();
        }
    }
}
