//! The future of one operation, and the descriptors operations work on.

use std::future::Future;
use std::io;
use std::os::fd::RawFd;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use super::driver::Driver;
use super::slots::{Completion, Key};

/// An operation in the kernel together with what it works on (buffers, paths, the descriptor), which comes back with its
/// result. Dropped before that, it leaves its resources with the driver until the kernel is done with them.
pub(crate) struct Op<R: 'static> {
    driver: Rc<Driver>,
    key: Key,
    /// None once the result was given out.
    resources: Option<R>,
    cancel: bool,
}

// Nothing is pinned: what the kernel points to is behind the resources, not in them.
impl<R> Unpin for Op<R> {}

impl<R: 'static> Op<R> {
    pub(super) fn new(driver: Rc<Driver>, key: Key, resources: R) -> Op<R> {
        Op {
            driver,
            key,
            resources: Some(resources),
            cancel: false,
        }
    }

    /// Dropping it asks the kernel to give up early: for what may wait for a peer.
    pub(crate) fn cancel_on_drop(mut self) -> Self {
        self.cancel = true;
        self
    }
}

impl<R: 'static> Future for Op<R> {
    type Output = (Completion, R);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.driver.poll_single(self.key, cx.waker()) {
            Some(completion) => {
                let resources = self.resources.take().expect("polled after its end");
                Poll::Ready((completion, resources))
            }
            None => Poll::Pending,
        }
    }
}

impl<R: 'static> Drop for Op<R> {
    fn drop(&mut self) {
        if self.resources.is_some() {
            let resources = &mut self.resources;
            self.driver
                .orphan(self.key, self.cancel, || Box::new(resources.take()));
        }
    }
}

impl Completion {
    /// The result as system calls give it.
    pub(crate) fn value(self) -> io::Result<usize> {
        match usize::try_from(self.result) {
            Ok(value) => Ok(value),
            Err(_) => Err(io::Error::from_raw_os_error(-self.result)),
        }
    }

    pub(crate) fn is_errno(self, errno: i32) -> bool {
        self.result == -errno
    }
}

/// An open descriptor. Operations hold a reference while they are in the kernel, so it is closed, and its number used
/// again, only after the last of them.
pub(crate) struct Fd {
    raw: RawFd,
    pub(crate) driver: Rc<Driver>,
    /// A regular file, whose close may take long.
    slow_close: bool,
}

impl Fd {
    /// Takes ownership of `raw`.
    pub(crate) fn new(raw: RawFd, driver: Rc<Driver>, slow_close: bool) -> Rc<Fd> {
        Rc::new(Fd {
            raw,
            driver,
            slow_close,
        })
    }

    pub(crate) fn raw(&self) -> RawFd {
        self.raw
    }

    pub(crate) fn target(&self) -> io_uring::types::Fd {
        io_uring::types::Fd(self.raw)
    }
}

impl Drop for Fd {
    fn drop(&mut self) {
        self.driver.close(self.raw, self.slow_close);
    }
}

/// Waits until a descriptor that is never closed is readable.
pub(crate) async fn wait_readable(driver: &Rc<Driver>, fd: RawFd) {
    let entry =
        io_uring::opcode::PollAdd::new(io_uring::types::Fd(fd), libc::POLLIN as u32).build();
    driver
        .start(super::slots::Leaves::Nothing, (), entry)
        .cancel_on_drop()
        .await;
}
