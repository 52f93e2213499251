//! Mail between the cores of a node: bounded, without locks, one wake per turn and target.

use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll};

/// Messages that may be under way from one core to another, in one mesh or service.
pub const MAIL_CREDITS: usize = 1024;

/// One port for each core, every one connected to every one (itself included). Made before the node starts.
pub fn mesh<M: Send + 'static>(cores: usize) -> Vec<Port<M>> {
    let _ = cores;
    unimplemented!()
}

/// A core's end of a mesh. It may be sent to its core; from its first use on it belongs to that one.
pub struct Port<M>(PhantomData<std::cell::Cell<M>>);

impl<M: Send + 'static> Port<M> {
    /// The core this port is for.
    pub fn core(&self) -> usize {
        unimplemented!()
    }

    /// Puts `message` into `to`'s queue; gives it back if no credit is left. Messages of one pair arrive in order.
    pub fn send(&self, to: usize, message: M) -> Result<(), M> {
        let _ = (to, message);
        unimplemented!()
    }

    /// Waits until a `send` to `to` would succeed.
    pub async fn send_credit(&self, to: usize) {
        let _ = to;
        unimplemented!()
    }

    /// The next message and where it came from. One task at a time.
    pub async fn recv(&self) -> (usize, M) {
        unimplemented!()
    }

    pub fn try_recv(&self) -> Option<(usize, M)> {
        unimplemented!()
    }
}

/// Request and reply between cores; one end for each core.
pub fn service<Req: Send + 'static, Rep: Send + 'static>(cores: usize) -> Vec<Service<Req, Rep>> {
    let _ = cores;
    unimplemented!()
}

/// A core's end of a service, as client and as server. It may be sent to its core; from its first use on it belongs to it.
pub struct Service<Req, Rep>(PhantomData<std::cell::Cell<(Req, Rep)>>);

impl<Req: Send + 'static, Rep: Send + 'static> Service<Req, Rep> {
    pub fn core(&self) -> usize {
        unimplemented!()
    }

    /// Sends `request` to core `to` (which may be this one) now, not at the future's first poll; requests of one core to
    /// another arrive in order. Beyond [`MAIL_CREDITS`] unanswered ones they wait on this side, in order. Dropping the
    /// future gives up the reply, not the request.
    pub fn call(&self, to: usize, request: Req) -> Call<Rep> {
        let _ = (to, request);
        unimplemented!()
    }

    /// Requests to `to` that are not answered yet, the waiting ones included.
    pub fn outstanding(&self, to: usize) -> usize {
        let _ = to;
        unimplemented!()
    }

    /// Answers this core's requests; never returns. `handler` is called in order of arrival, its future is spawned.
    /// Replies never wait for credit. One server per core.
    pub async fn serve<H, Fut>(&self, handler: H)
    where
        H: Fn(usize, Req) -> Fut,
        Fut: Future<Output = Rep> + 'static,
    {
        let _ = handler;
        unimplemented!()
    }
}

/// The reply to a [`Service::call`].
#[must_use = "futures do nothing unless polled, but the request is already sent"]
pub struct Call<Rep>(PhantomData<std::rc::Rc<Rep>>);

impl<Rep> Future for Call<Rep> {
    type Output = Rep;
    fn poll(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<Rep> {
        unimplemented!()
    }
}
