//! Who waits for what: the answers to an append, and a reader's wait for bytes.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use crate::api::{AppendError, Appended};
use crate::ids::Offset;

type Results = Vec<Result<Appended, AppendError>>;

/// One call of append: resolved when none of its answers is outstanding.
pub(crate) struct AppendCall {
    results: RefCell<Results>,
    outstanding: Cell<usize>,
    waker: RefCell<Option<Waker>>,
}

impl AppendCall {
    pub fn new(capacity: usize) -> Rc<Self> {
        Rc::new(Self {
            results: RefCell::new(Vec::with_capacity(capacity)),
            outstanding: Cell::new(0),
            waker: RefCell::new(None),
        })
    }

    /// Notes an answer; where it may be given only later, a ticket for it.
    pub fn answer(
        self: &Rc<Self>,
        result: Result<Appended, AppendError>,
        due: Option<Offset>,
    ) -> Option<Ticket> {
        let mut results = self.results.borrow_mut();
        results.push(result);
        due.map(|offset| {
            self.outstanding.set(self.outstanding.get() + 1);
            Ticket {
                offset,
                slot: results.len() as u32 - 1,
                call: self.clone(),
            }
        })
    }

    fn settle_one(&self) {
        let left = self.outstanding.get() - 1;
        self.outstanding.set(left);
        if left == 0
            && let Some(waker) = self.waker.borrow_mut().take()
        {
            waker.wake();
        }
    }
}

/// The right to settle one answer of an append, once everything up to `offset` is durable.
pub(crate) struct Ticket {
    pub offset: Offset,
    slot: u32,
    call: Rc<AppendCall>,
}

impl Ticket {
    pub fn settle(self) {
        self.call.settle_one();
    }

    pub fn fail(self, error: AppendError) {
        self.call.results.borrow_mut()[self.slot as usize] = Err(error);
        self.call.settle_one();
    }
}

/// Resolves when the call is settled.
pub(crate) struct AppendFuture(pub Rc<AppendCall>);

impl Future for AppendFuture {
    type Output = Results;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Results> {
        if self.0.outstanding.get() == 0 {
            return Poll::Ready(self.0.results.take());
        }
        *self.0.waker.borrow_mut() = Some(context.waker().clone());
        Poll::Pending
    }
}

/// A reader that waits until enough is readable. Partitions hold it and say when they have more.
pub(crate) struct Wait {
    /// Bytes that are missing still.
    missing: Cell<u64>,
    done: Cell<bool>,
    /// Something other than more bytes happened.
    pub changed: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Wait {
    pub fn new(missing: u64) -> Rc<Self> {
        Rc::new(Self {
            missing: Cell::new(missing),
            done: Cell::new(missing == 0),
            changed: Cell::new(false),
            waker: RefCell::new(None),
        })
    }

    /// More became readable. Whether the wait is over, so that the caller can let go of it.
    pub fn more(&self, bytes: u64) -> bool {
        self.missing.set(self.missing.get().saturating_sub(bytes));
        if self.missing.get() == 0 {
            self.finish();
        }
        self.done.get()
    }

    /// Something else happened to the partition, or nobody waits any more.
    pub fn change(&self) {
        self.changed.set(true);
        self.finish();
    }

    pub fn finish(&self) {
        self.done.set(true);
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }
}

/// Resolves when the wait is done.
pub(crate) struct WaitFuture(pub Rc<Wait>);

impl Future for WaitFuture {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.0.done.get() {
            return Poll::Ready(());
        }
        *self.0.waker.borrow_mut() = Some(context.waker().clone());
        Poll::Pending
    }
}

impl Drop for WaitFuture {
    /// Partitions drop it at their next change.
    fn drop(&mut self) {
        self.0.done.set(true);
    }
}
