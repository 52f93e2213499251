use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// Wakes tasks that wait for a change. Clones are the same one.
///
/// The pattern is: check the condition, and if it does not hold, await `notified()` and check again. Nothing is missed,
/// as no other task runs between the check and the first poll.
#[derive(Clone, Default)]
pub struct Notify {
    inner: Rc<RefCell<Inner>>,
}

#[derive(Default)]
struct Inner {
    /// `notify_one` met no waiter: the next one passes.
    permit: bool,
    next: u64,
    waiting: BTreeMap<u64, Waker>,
    /// Woken by `notify_one` and not polled since; if such a future is dropped its wake goes to another.
    chosen: BTreeSet<u64>,
}

impl Notify {
    pub fn new() -> Self {
        Self::default()
    }

    /// Wakes the task that has waited longest, or lets the next one to wait pass at once (at most one).
    pub fn notify_one(&self) {
        let waker = {
            let mut inner = self.inner.borrow_mut();
            match inner.waiting.pop_first() {
                Some((id, waker)) => {
                    inner.chosen.insert(id);
                    waker
                }
                None => {
                    inner.permit = true;
                    return;
                }
            }
        };
        waker.wake();
    }

    /// Wakes all tasks that wait now.
    pub fn notify_all(&self) {
        let waiting = std::mem::take(&mut self.inner.borrow_mut().waiting);
        for waker in waiting.into_values() {
            waker.wake();
        }
    }

    /// How many tasks wait.
    pub fn waiters(&self) -> usize {
        self.inner.borrow().waiting.len()
    }

    pub fn notified(&self) -> Notified {
        Notified {
            inner: self.inner.clone(),
            state: State::New,
        }
    }
}

enum State {
    New,
    Waiting(u64),
    Done,
}

/// Future of [`Notify::notified`]; waits from its first poll on.
#[must_use = "futures do nothing unless polled"]
pub struct Notified {
    inner: Rc<RefCell<Inner>>,
    state: State,
}

impl Future for Notified {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let mut inner = this.inner.borrow_mut();
        match this.state {
            State::New => {
                if std::mem::take(&mut inner.permit) {
                    this.state = State::Done;
                    return Poll::Ready(());
                }
                let id = inner.next;
                inner.next += 1;
                inner.waiting.insert(id, cx.waker().clone());
                this.state = State::Waiting(id);
                Poll::Pending
            }
            State::Waiting(id) => {
                if let Some(waker) = inner.waiting.get_mut(&id) {
                    waker.clone_from(cx.waker());
                    return Poll::Pending;
                }
                inner.chosen.remove(&id);
                this.state = State::Done;
                Poll::Ready(())
            }
            State::Done => Poll::Ready(()),
        }
    }
}

impl Drop for Notified {
    fn drop(&mut self) {
        let State::Waiting(id) = self.state else {
            return;
        };
        let pass_on = {
            let mut inner = self.inner.borrow_mut();
            inner.waiting.remove(&id).is_none() && inner.chosen.remove(&id)
        };
        if pass_on {
            Notify {
                inner: self.inner.clone(),
            }
            .notify_one();
        }
    }
}
