use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};

struct Inner {
    permits: u64,
    next: u64,
    waiting: BTreeMap<u64, (u64, Waker)>,
}

/// A count of permits, given out in order of asking (a large request is not starved by small ones). Clones are the same one.
#[derive(Clone)]
pub struct Semaphore {
    inner: Rc<RefCell<Inner>>,
}

impl Semaphore {
    pub fn new(permits: u64) -> Self {
        Semaphore {
            inner: Rc::new(RefCell::new(Inner {
                permits,
                next: 0,
                waiting: BTreeMap::new(),
            })),
        }
    }

    pub fn available(&self) -> u64 {
        self.inner.borrow().permits
    }

    /// Waits for `count` permits. Asking for more than will ever exist waits for ever.
    pub async fn acquire(&self, count: u64) -> Permit {
        if let Some(permit) = self.try_acquire(count) {
            return permit;
        }
        let mut ticket = Ticket {
            semaphore: self,
            id: None,
        };
        poll_fn(|cx| {
            let mut inner = self.inner.borrow_mut();
            let id = *ticket.id.get_or_insert_with(|| {
                let id = inner.next;
                inner.next += 1;
                id
            });
            let first = inner
                .waiting
                .first_key_value()
                .is_none_or(|(first, _)| *first >= id);
            if first && inner.permits >= count {
                inner.permits -= count;
                return Poll::Ready(());
            }
            inner.waiting.insert(id, (count, cx.waker().clone()));
            Poll::Pending
        })
        .await;
        drop(ticket);
        Permit {
            semaphore: self.clone(),
            count,
        }
    }

    /// Takes `count` permits if they are there and nobody waits.
    pub fn try_acquire(&self, count: u64) -> Option<Permit> {
        let mut inner = self.inner.borrow_mut();
        if !inner.waiting.is_empty() || inner.permits < count {
            return None;
        }
        inner.permits -= count;
        drop(inner);
        Some(Permit {
            semaphore: self.clone(),
            count,
        })
    }

    pub fn release(&self, count: u64) {
        self.inner.borrow_mut().permits += count;
        self.wake_first();
    }

    fn wake_first(&self) {
        let waker = {
            let inner = self.inner.borrow();
            match inner.waiting.first_key_value() {
                Some((_, (count, waker))) if inner.permits >= *count => waker.clone(),
                _ => return,
            }
        };
        waker.wake();
    }
}

/// A place in the line; leaves it when served or dropped, and lets the next one look.
struct Ticket<'a> {
    semaphore: &'a Semaphore,
    id: Option<u64>,
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            self.semaphore.inner.borrow_mut().waiting.remove(&id);
            self.semaphore.wake_first();
        }
    }
}

/// Permits in use; they go back when dropped.
#[must_use = "permits go back when dropped"]
pub struct Permit {
    semaphore: Semaphore,
    count: u64,
}

impl Permit {
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Keeps the permits out for good.
    pub fn forget(mut self) {
        self.count = 0;
    }

    /// Gives a part back.
    pub fn release(&mut self, count: u64) {
        assert!(count <= self.count, "more permits given back than held");
        self.count -= count;
        self.semaphore.release(count);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if self.count > 0 {
            self.semaphore.release(self.count);
        }
    }
}
