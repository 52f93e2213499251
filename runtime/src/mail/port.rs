use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Poll, Waker};

use super::MAIL_CREDITS;
use super::link::Link;
use super::owned::Owned;
use super::room::{Endpoint, Targets};
use crate::core::with_core;

/// One port for each core, every one connected to every one (itself included). Made before the node starts.
pub fn mesh<M: Send + 'static>(cores: usize) -> Vec<Port<M>> {
    let port = |link| Port {
        inner: Arc::new(Inner {
            link,
            local: Owned::new(Local::default()),
        }),
    };
    Link::make(cores, MAIL_CREDITS)
        .into_iter()
        .map(port)
        .collect()
}

/// A core's end of a mesh. It may be sent to its core; from its first use on it belongs to that one.
pub struct Port<M> {
    inner: Arc<Inner<M>>,
}

struct Inner<M> {
    link: Link<M>,
    local: Owned<Local>,
}

#[derive(Default)]
struct Local {
    attached: Cell<bool>,
    receiver: RefCell<Option<Waker>>,
    senders: RefCell<Vec<Waker>>,
}

impl<M: Send + 'static> Port<M> {
    /// The core this port is for.
    pub fn core(&self) -> usize {
        self.inner.link.core()
    }

    /// Puts `message` into `to`'s queue; gives it back if no credit is left. Messages of one pair arrive in order.
    pub fn send(&self, to: usize, message: M) -> Result<(), M> {
        let first = self.inner.link.push(to, message)?;
        with_core(|core| core.counters.mail_sent.add(1));
        self.mark(first);
        Ok(())
    }

    fn mark(&self, first: bool) {
        if first {
            with_core(|core| core.mail.mark(self.inner.clone()));
        }
    }

    /// Waits until a `send` to `to` would succeed.
    pub async fn send_credit(&self, to: usize) {
        let local = self.local();
        poll_fn(|cx| {
            if self.inner.link.has_room(to) {
                return Poll::Ready(());
            }
            local.senders.borrow_mut().push(cx.waker().clone());
            Poll::Pending
        })
        .await
    }

    /// The next message and where it came from. One task at a time.
    pub async fn recv(&self) -> (usize, M) {
        let local = self.local();
        poll_fn(|cx| {
            if let Some(mail) = self.try_recv() {
                return Poll::Ready(mail);
            }
            *local.receiver.borrow_mut() = Some(cx.waker().clone());
            Poll::Pending
        })
        .await
    }

    pub fn try_recv(&self) -> Option<(usize, M)> {
        self.local();
        let (from, message, first) = self.inner.link.pop()?;
        self.mark(first);
        Some((from, message))
    }

    /// This core's part; from now on the port hears the doorbell.
    fn local(&self) -> &Local {
        let local = self.inner.local.get();
        if !local.attached.replace(true) {
            let endpoint: Arc<dyn Endpoint> = self.inner.clone();
            with_core(|core| {
                assert_eq!(core.id, self.core(), "a port is used on its core");
                core.mail.attach(&endpoint);
            });
        }
        local
    }
}

impl<M: Send + 'static> Endpoint for Inner<M> {
    fn announce(&self, targets: &mut Targets) {
        self.link.announce(targets);
    }

    fn look(self: Arc<Self>) {
        if !self.link.take_news() {
            return;
        }
        let local = self.local.get();
        let receiver = local.receiver.take();
        let senders = local.senders.take();
        receiver.into_iter().chain(senders).for_each(Waker::wake);
    }
}
