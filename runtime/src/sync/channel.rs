use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use super::Notify;

struct Inner<T> {
    queue: VecDeque<T>,
    capacity: usize,
    senders: usize,
    receiver: bool,
    waiting: Option<Waker>,
}

struct Chan<T> {
    inner: RefCell<Inner<T>>,
    room: Notify,
}

/// A queue with any number of senders and one receiver; `send` waits while `capacity` values are in it.
pub fn bounded<T>(capacity: usize) -> (Sender<T>, Receiver<T>) {
    assert!(capacity > 0, "a queue needs room");
    let chan = Rc::new(Chan {
        inner: RefCell::new(Inner {
            queue: VecDeque::new(),
            capacity,
            senders: 1,
            receiver: true,
            waiting: None,
        }),
        room: Notify::new(),
    });
    (Sender { chan: chan.clone() }, Receiver { chan })
}

/// A queue without a bound: for what is bounded elsewhere.
pub fn unbounded<T>() -> (Sender<T>, Receiver<T>) {
    bounded(usize::MAX)
}

/// The receiver is gone; the value comes back.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the receiver is gone")]
pub struct SendError<T>(pub T);

/// Why [`Sender::try_send`] refused; the value comes back.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TrySendError<T> {
    #[error("the queue is full")]
    Full(T),
    #[error("the receiver is gone")]
    Closed(T),
}

pub struct Sender<T> {
    chan: Rc<Chan<T>>,
}

impl<T> Sender<T> {
    pub fn try_send(&self, value: T) -> Result<(), TrySendError<T>> {
        let waker = {
            let mut inner = self.chan.inner.borrow_mut();
            if !inner.receiver {
                return Err(TrySendError::Closed(value));
            }
            if inner.queue.len() >= inner.capacity {
                return Err(TrySendError::Full(value));
            }
            inner.queue.push_back(value);
            inner.waiting.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
        Ok(())
    }

    pub async fn send(&self, mut value: T) -> Result<(), SendError<T>> {
        loop {
            match self.try_send(value) {
                Ok(()) => return Ok(()),
                Err(TrySendError::Closed(value)) => return Err(SendError(value)),
                Err(TrySendError::Full(back)) => value = back,
            }
            self.chan.room.notified().await;
        }
    }

    pub fn is_closed(&self) -> bool {
        !self.chan.inner.borrow().receiver
    }

    pub fn len(&self) -> usize {
        self.chan.inner.borrow().queue.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.chan.inner.borrow_mut().senders += 1;
        Sender {
            chan: self.chan.clone(),
        }
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        let waker = {
            let mut inner = self.chan.inner.borrow_mut();
            inner.senders -= 1;
            if inner.senders == 0 {
                inner.waiting.take()
            } else {
                None
            }
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

pub struct Receiver<T> {
    chan: Rc<Chan<T>>,
}

impl<T> Receiver<T> {
    /// The next value; `None` when the queue is empty and all senders are gone.
    pub async fn recv(&mut self) -> Option<T> {
        poll_fn(|cx| self.poll_recv(cx)).await
    }

    pub fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Option<T>> {
        let mut inner = self.chan.inner.borrow_mut();
        if let Some(value) = inner.queue.pop_front() {
            drop(inner);
            self.chan.room.notify_one();
            return Poll::Ready(Some(value));
        }
        if inner.senders == 0 {
            return Poll::Ready(None);
        }
        inner.waiting = Some(cx.waker().clone());
        Poll::Pending
    }

    pub fn try_recv(&mut self) -> Option<T> {
        let value = self.chan.inner.borrow_mut().queue.pop_front();
        if value.is_some() {
            self.chan.room.notify_one();
        }
        value
    }

    pub fn len(&self) -> usize {
        self.chan.inner.borrow().queue.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        let queue = {
            let mut inner = self.chan.inner.borrow_mut();
            inner.receiver = false;
            std::mem::take(&mut inner.queue)
        };
        self.chan.room.notify_all();
        drop(queue);
    }
}
