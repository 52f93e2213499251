use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

enum State<T> {
    Empty(Option<Waker>),
    Value(T),
    Closed,
}

/// A value that is handed over once.
pub fn oneshot<T>() -> (OneSender<T>, OneReceiver<T>) {
    let state = Rc::new(RefCell::new(State::Empty(None)));
    (
        OneSender {
            state: state.clone(),
        },
        OneReceiver { state },
    )
}

/// The sender was dropped without sending.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the sender is gone")]
pub struct Canceled;

pub struct OneSender<T> {
    state: Rc<RefCell<State<T>>>,
}

impl<T> OneSender<T> {
    /// Gives the value back if nobody waits for it any more.
    pub fn send(self, value: T) -> Result<(), T> {
        if self.is_closed() {
            return Err(value);
        }
        let old = std::mem::replace(&mut *self.state.borrow_mut(), State::Value(value));
        if let State::Empty(Some(waker)) = old {
            waker.wake();
        }
        Ok(())
    }

    /// Whether the receiver is gone.
    pub fn is_closed(&self) -> bool {
        matches!(*self.state.borrow(), State::Closed)
    }
}

impl<T> Drop for OneSender<T> {
    fn drop(&mut self) {
        let waker = {
            let mut state = self.state.borrow_mut();
            match &mut *state {
                State::Empty(waker) => {
                    let waker = waker.take();
                    *state = State::Closed;
                    waker
                }
                _ => None,
            }
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// A future of the value.
#[must_use = "futures do nothing unless polled"]
pub struct OneReceiver<T> {
    state: Rc<RefCell<State<T>>>,
}

impl<T> Future for OneReceiver<T> {
    type Output = Result<T, Canceled>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.state.borrow_mut();
        match std::mem::replace(&mut *state, State::Closed) {
            State::Empty(_) => {
                *state = State::Empty(Some(cx.waker().clone()));
                Poll::Pending
            }
            State::Value(value) => Poll::Ready(Ok(value)),
            State::Closed => Poll::Ready(Err(Canceled)),
        }
    }
}

impl<T> Drop for OneReceiver<T> {
    fn drop(&mut self) {
        let old = std::mem::replace(&mut *self.state.borrow_mut(), State::Closed);
        drop(old);
    }
}
