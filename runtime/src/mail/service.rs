use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::marker::PhantomData;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use slab::Slab;

use super::MAIL_CREDITS;
use super::link::Link;
use super::owned::Owned;
use super::room::{Endpoint, Targets};
use crate::core::with_core;
use crate::task::spawn;

/// Request and reply between cores; one end for each core.
pub fn service<Req: Send + 'static, Rep: Send + 'static>(cores: usize) -> Vec<Service<Req, Rep>> {
    let requests = Link::make(cores, MAIL_CREDITS);
    // As many replies as requests without one: a reply never waits.
    let replies = Link::make(cores, MAIL_CREDITS);
    let make = |(requests, replies)| {
        let local = Local {
            attached: Cell::new(false),
            marked: Cell::new(false),
            calls: RefCell::default(),
            outstanding: RefCell::new(vec![0; cores]),
            waiting: RefCell::new((0..cores).map(|_| VecDeque::new()).collect()),
            own: RefCell::default(),
            server: RefCell::default(),
        };
        Service {
            inner: Arc::new(Inner {
                requests,
                replies,
                local: Owned::new(local),
            }),
        }
    };
    requests.into_iter().zip(replies).map(make).collect()
}

/// A core's end of a service, as client and as server. It may be sent to its core; from its first use on it belongs to it.
/// Clones are the same end.
pub struct Service<Req, Rep> {
    inner: Arc<Inner<Req, Rep>>,
}

impl<Req, Rep> Clone for Service<Req, Rep> {
    fn clone(&self) -> Self {
        Service {
            inner: self.inner.clone(),
        }
    }
}

/// A call's slot on the caller's side.
type Slot = u32;

struct Inner<Req, Rep> {
    requests: Link<(Slot, Req)>,
    replies: Link<(Slot, Rep)>,
    local: Owned<Local<Req, Rep>>,
}

struct Local<Req, Rep> {
    attached: Cell<bool>,
    /// In the mail room's list for this turn.
    marked: Cell<bool>,
    calls: RefCell<Slab<CallState<Rep>>>,
    /// Per core: requests sent or waiting, not answered yet.
    outstanding: RefCell<Vec<usize>>,
    /// Per core: requests beyond the credits.
    waiting: RefCell<Vec<VecDeque<(Slot, Req)>>>,
    /// Requests of this core to itself.
    own: RefCell<VecDeque<(Slot, Req)>>,
    server: RefCell<Option<Waker>>,
}

enum CallState<Rep> {
    Waiting(Option<Waker>),
    Answered(Rep),
    /// The future was dropped; the slot is free when the reply has come.
    GivenUp,
}

impl<Req: Send + 'static, Rep: Send + 'static> Service<Req, Rep> {
    pub fn core(&self) -> usize {
        self.inner.requests.core()
    }

    /// Sends `request` to core `to` (which may be this one) now, not at the future's first poll; requests of one core to
    /// another arrive in order. Beyond [`MAIL_CREDITS`] unanswered ones they wait on this side, in order. Dropping the
    /// future gives up the reply, not the request.
    pub fn call(&self, to: usize, request: Req) -> Call<Rep> {
        let inner = &self.inner;
        let local = inner.local();
        let slot = local.calls.borrow_mut().insert(CallState::Waiting(None)) as Slot;
        local.outstanding.borrow_mut()[to] += 1;
        if to == inner.requests.core() {
            local.own.borrow_mut().push_back((slot, request));
            let server = local.server.take();
            server.into_iter().for_each(Waker::wake);
        } else if local.outstanding.borrow()[to] > MAIL_CREDITS {
            local.waiting.borrow_mut()[to].push_back((slot, request));
        } else {
            inner.send(to, slot, request);
        }
        Call {
            client: inner.clone(),
            slot,
            done: false,
            _not_send: PhantomData,
        }
    }

    /// Requests to `to` that are not answered yet, the waiting ones included.
    pub fn outstanding(&self, to: usize) -> usize {
        self.inner.local().outstanding.borrow()[to]
    }

    /// Answers this core's requests; never returns. `handler` is called in order of arrival, its future is spawned.
    /// Replies never wait for credit. One server per core.
    pub async fn serve<H, Fut>(&self, handler: H)
    where
        H: Fn(usize, Req) -> Fut,
        Fut: Future<Output = Rep> + 'static,
    {
        loop {
            let (from, slot, request) = poll_fn(|cx| self.inner.poll_request(cx)).await;
            let reply = handler(from, request);
            let inner = self.inner.clone();
            spawn(async move {
                let reply = reply.await;
                inner.reply(from, slot, reply);
            })
            .detach();
        }
    }
}

impl<Req: Send + 'static, Rep: Send + 'static> Inner<Req, Rep> {
    /// This core's part; from now on the service hears the doorbell.
    fn local(self: &Arc<Self>) -> &Local<Req, Rep> {
        let local = self.local.get();
        if !local.attached.replace(true) {
            let endpoint: Arc<dyn Endpoint> = self.clone();
            with_core(|core| {
                assert_eq!(
                    core.id,
                    self.requests.core(),
                    "a service is used on its core"
                );
                core.mail.attach(&endpoint);
            });
        }
        local
    }

    fn mark(self: &Arc<Self>) {
        if !self.local.get().marked.replace(true) {
            with_core(|core| core.mail.mark(self.clone()));
        }
    }

    fn send(self: &Arc<Self>, to: usize, slot: Slot, request: Req) {
        let sent = self.requests.push(to, (slot, request));
        assert!(
            sent.is_ok(),
            "outstanding requests are bounded by the queue's length"
        );
        with_core(|core| core.counters.mail_sent.add(1));
        self.mark();
    }

    fn poll_request(self: &Arc<Self>, cx: &mut Context<'_>) -> Poll<(usize, Slot, Req)> {
        let local = self.local();
        let own = local.own.borrow_mut().pop_front();
        if let Some((slot, request)) = own {
            return Poll::Ready((self.requests.core(), slot, request));
        }
        if let Some((from, (slot, request), _)) = self.requests.pop() {
            return Poll::Ready((from, slot, request));
        }
        *local.server.borrow_mut() = Some(cx.waker().clone());
        Poll::Pending
    }

    fn reply(self: &Arc<Self>, to: usize, slot: Slot, reply: Rep) {
        if to == self.replies.core() {
            self.answered(to, slot, reply);
            return;
        }
        let sent = self.replies.push(to, (slot, reply));
        assert!(sent.is_ok(), "there is room for the reply to every request");
        with_core(|core| core.counters.mail_sent.add(1));
        self.mark();
    }

    /// A reply of core `from` has come.
    fn answered(self: &Arc<Self>, from: usize, slot: Slot, reply: Rep) {
        let local = self.local.get();
        local.outstanding.borrow_mut()[from] -= 1;
        let next = local.waiting.borrow_mut()[from].pop_front();
        if let Some((slot, request)) = next {
            self.send(from, slot, request);
        }
        let mut calls = local.calls.borrow_mut();
        let state = std::mem::replace(&mut calls[slot as usize], CallState::GivenUp);
        match state {
            CallState::Waiting(waker) => {
                calls[slot as usize] = CallState::Answered(reply);
                drop(calls);
                waker.into_iter().for_each(Waker::wake);
            }
            CallState::GivenUp => {
                calls.remove(slot as usize);
                drop(calls);
                drop(reply);
            }
            CallState::Answered(_) => unreachable!("one reply for each call"),
        }
    }
}

impl<Req: Send + 'static, Rep: Send + 'static> Endpoint for Inner<Req, Rep> {
    fn announce(&self, targets: &mut Targets) {
        self.local.get().marked.set(false);
        self.requests.announce(targets);
        self.replies.announce(targets);
    }

    fn look(self: Arc<Self>) {
        if self.replies.take_news() {
            while let Some((from, (slot, reply), _)) = self.replies.pop() {
                self.answered(from, slot, reply);
            }
        }
        if self.requests.take_news() {
            let server = self.local.get().server.take();
            server.into_iter().for_each(Waker::wake);
        }
    }
}

/// A caller's view of its service, without the request's type.
trait Client<Rep> {
    fn poll_reply(&self, slot: Slot, cx: &mut Context<'_>) -> Poll<Rep>;
    fn give_up(&self, slot: Slot);
}

impl<Req: Send + 'static, Rep: Send + 'static> Client<Rep> for Inner<Req, Rep> {
    fn poll_reply(&self, slot: Slot, cx: &mut Context<'_>) -> Poll<Rep> {
        let mut calls = self.local.get().calls.borrow_mut();
        match &mut calls[slot as usize] {
            CallState::Waiting(waker) => {
                match waker {
                    Some(waker) => waker.clone_from(cx.waker()),
                    None => *waker = Some(cx.waker().clone()),
                }
                Poll::Pending
            }
            _ => match calls.remove(slot as usize) {
                CallState::Answered(reply) => Poll::Ready(reply),
                _ => unreachable!("its future is here"),
            },
        }
    }

    fn give_up(&self, slot: Slot) {
        let mut calls = self.local.get().calls.borrow_mut();
        let old = match &mut calls[slot as usize] {
            CallState::Answered(_) => calls.remove(slot as usize),
            state => std::mem::replace(state, CallState::GivenUp),
        };
        drop(calls);
        drop(old);
    }
}

/// The reply to a [`Service::call`].
#[must_use = "the request is already sent, but nobody looks at its reply"]
pub struct Call<Rep> {
    client: Arc<dyn Client<Rep>>,
    slot: Slot,
    done: bool,
    _not_send: PhantomData<Rc<()>>,
}

impl<Rep> Future for Call<Rep> {
    type Output = Rep;
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Rep> {
        assert!(!self.done, "polled after its end");
        let reply = self.client.poll_reply(self.slot, cx);
        self.done = reply.is_ready();
        reply
    }
}

impl<Rep> Drop for Call<Rep> {
    fn drop(&mut self) {
        if !self.done {
            self.client.give_up(self.slot);
        }
    }
}
