//! Listening sockets: one multishot accept that gives connections until the queue of unclaimed ones is full.

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use io_uring::{cqueue, opcode};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, listen, setsockopt, socket,
    sockopt,
};

use super::driver::Driver;
use super::op::Fd;
use super::slots::{Key, Leaves};
use super::stream::UringStream;
use crate::net::ListenOptions;

/// Accepted connections that nobody has claimed; with more the kernel keeps them in its backlog.
const UNCLAIMED_MAX: usize = 64;

pub(crate) struct UringListener {
    fd: Rc<Fd>,
    accept: Cell<Option<Key>>,
}

impl UringListener {
    pub(crate) fn bind(
        driver: &Rc<Driver>,
        addr: SocketAddr,
        options: &ListenOptions,
    ) -> io::Result<UringListener> {
        let family = if addr.is_ipv4() {
            AddressFamily::Inet
        } else {
            AddressFamily::Inet6
        };
        let socket = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
        setsockopt(&socket, sockopt::ReuseAddr, &true)?;
        setsockopt(&socket, sockopt::TcpNoDelay, &true)?; // its connections inherit it
        if options.reuse_port {
            setsockopt(&socket, sockopt::ReusePort, &true)?;
        }
        bind(socket.as_raw_fd(), &SockaddrStorage::from(addr))?;
        let backlog = i32::try_from(options.backlog).unwrap_or(i32::MAX);
        listen(&socket, Backlog::new(backlog).unwrap_or(Backlog::MAXCONN))?;
        let fd = std::os::fd::IntoRawFd::into_raw_fd(socket);
        Ok(UringListener {
            fd: Fd::new(fd, driver.clone(), false),
            accept: Cell::new(None),
        })
    }

    pub(crate) fn local_addr(&self) -> io::Result<SocketAddr> {
        super::stream::local_addr(self.fd.raw())
    }

    pub(crate) async fn accept(&self) -> io::Result<UringStream> {
        poll_fn(|cx| self.poll_accept(cx)).await
    }

    fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<UringStream>> {
        let driver = &self.fd.driver;
        loop {
            let key = match self.accept.get() {
                Some(key) => key,
                None => {
                    let entry = opcode::AcceptMulti::new(self.fd.target())
                        .flags(libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK)
                        .build();
                    let Some(key) = driver.start_multi(Leaves::Descriptor, UNCLAIMED_MAX, entry)
                    else {
                        return Poll::Ready(Err(io::Error::from_raw_os_error(libc::ECANCELED)));
                    };
                    self.accept.set(Some(key));
                    key
                }
            };
            let Ok(completion) = ready!(
                driver
                    .poll_multi(key, cx.waker())
                    .map_or(Poll::Pending, Poll::Ready)
            ) else {
                self.end(key); // ended and emptied: start it again
                continue;
            };
            if !cqueue::more(completion.flags) {
                self.end(key);
            }
            match completion.value() {
                Ok(fd) => return Poll::Ready(Ok(UringStream::new(fd as i32, driver.clone()))),
                Err(error) => match error.raw_os_error() {
                    // Our own pause, or a peer that was gone before it was accepted.
                    Some(libc::ECANCELED | libc::ECONNABORTED | libc::EINTR | libc::EAGAIN) => {
                        continue;
                    }
                    _ => return Poll::Ready(Err(error)),
                },
            }
        }
    }

    /// Forgets an accept that has given its last completion.
    fn end(&self, key: Key) {
        self.accept.set(None);
        self.fd
            .driver
            .orphan(key, false, || unreachable!("it has ended"));
    }
}

impl Drop for UringListener {
    fn drop(&mut self) {
        if let Some(key) = self.accept.get() {
            self.fd
                .driver
                .orphan(key, true, || Box::new(self.fd.clone()));
        }
    }
}
