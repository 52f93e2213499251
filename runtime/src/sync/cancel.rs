use std::cell::{Cell, RefCell};
use std::future::Future;
use std::rc::{Rc, Weak};

use super::Notify;

/// Says once, to any number of tasks, that they should stop. Clones are the same one; children stop with their parent.
#[derive(Clone, Default)]
pub struct CancelToken {
    inner: Rc<Inner>,
}

#[derive(Default)]
struct Inner {
    canceled: Cell<bool>,
    notify: Notify,
    children: RefCell<Vec<Weak<Inner>>>,
}

impl CancelToken {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn child(&self) -> CancelToken {
        let child = CancelToken::new();
        if self.is_canceled() {
            child.cancel();
        } else {
            let mut children = self.inner.children.borrow_mut();
            if children.len() == children.capacity() {
                children.retain(|weak| weak.strong_count() > 0);
            }
            children.push(Rc::downgrade(&child.inner));
        }
        child
    }

    pub fn cancel(&self) {
        if self.inner.canceled.replace(true) {
            return;
        }
        self.inner.notify.notify_all();
        for child in self.inner.children.take() {
            if let Some(inner) = child.upgrade() {
                CancelToken { inner }.cancel();
            }
        }
    }

    pub fn is_canceled(&self) -> bool {
        self.inner.canceled.get()
    }

    /// Waits for `cancel`.
    pub async fn canceled(&self) {
        while !self.inner.canceled.get() {
            self.inner.notify.notified().await;
        }
    }

    /// Runs `future` until it is done or the token is canceled: `None` then.
    pub async fn run_until_canceled<F: Future>(&self, future: F) -> Option<F::Output> {
        let mut future = std::pin::pin!(future);
        let mut canceled = std::pin::pin!(self.canceled());
        std::future::poll_fn(|cx| {
            if canceled.as_mut().poll(cx).is_ready() {
                return std::task::Poll::Ready(None);
            }
            future.as_mut().poll(cx).map(Some)
        })
        .await
    }
}
