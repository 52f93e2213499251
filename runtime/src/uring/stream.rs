//! Connections.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{BorrowedFd, IntoRawFd, RawFd};
use std::rc::Rc;

use io_uring::opcode;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, getpeername, getsockname, setsockopt,
    shutdown, socket, sockopt,
};

use super::driver::Driver;
use super::op::Fd;
use super::recv::RecvSide;
use super::slots::Leaves;
use crate::sync::Semaphore;

pub(crate) struct UringStream {
    pub(super) fd: Rc<Fd>,
    pub(super) recv: RefCell<RecvSide>,
    /// The last receive took all that was there, so the next one has to wait first.
    pub(super) drained: Cell<bool>,
    pub(super) send_turn: Semaphore,
    /// A send or sendfile was dropped half way: what the peer would see next is not what it should.
    pub(super) send_broken: Cell<bool>,
}

impl UringStream {
    /// A connection that has TCP_NODELAY and O_NONBLOCK set.
    pub(super) fn new(raw: RawFd, driver: Rc<Driver>) -> UringStream {
        UringStream {
            fd: Fd::new(raw, driver, false),
            recv: RefCell::default(),
            drained: Cell::new(false),
            send_turn: Semaphore::new(1),
            send_broken: Cell::new(false),
        }
    }

    pub(crate) async fn connect(driver: &Rc<Driver>, addr: SocketAddr) -> io::Result<UringStream> {
        let family = if addr.is_ipv4() {
            AddressFamily::Inet
        } else {
            AddressFamily::Inet6
        };
        let raw = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?.into_raw_fd();
        let stream = UringStream::new(raw, driver.clone());
        stream.set_nodelay(true)?;
        let storage = vec![SockaddrStorage::from(addr)];
        let len = nix::sys::socket::SockaddrLike::len(&storage[0]);
        let entry = opcode::Connect::new(stream.fd.target(), storage.as_ptr().cast(), len).build();
        let op = driver
            .start(Leaves::Nothing, (stream.fd.clone(), storage), entry)
            .cancel_on_drop();
        let (completion, _) = op.await;
        completion.value()?;
        set_nonblocking(raw)?;
        Ok(stream)
    }

    pub(crate) fn peer_addr(&self) -> io::Result<SocketAddr> {
        to_std(getpeername::<SockaddrStorage>(self.fd.raw())?)
    }

    pub(crate) fn local_addr(&self) -> io::Result<SocketAddr> {
        local_addr(self.fd.raw())
    }

    pub(crate) fn set_nodelay(&self, on: bool) -> io::Result<()> {
        // SAFETY: the descriptor is open as long as `self.fd` lives.
        let fd = unsafe { BorrowedFd::borrow_raw(self.fd.raw()) };
        Ok(setsockopt(&fd, sockopt::TcpNoDelay, &on)?)
    }

    pub(crate) fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        let how = match how {
            Shutdown::Read => nix::sys::socket::Shutdown::Read,
            Shutdown::Write => nix::sys::socket::Shutdown::Write,
            Shutdown::Both => nix::sys::socket::Shutdown::Both,
        };
        Ok(shutdown(self.fd.raw(), how)?)
    }

    /// Waits until the socket may be read or written.
    pub(super) async fn ready(&self, events: i16) -> io::Result<()> {
        let entry = opcode::PollAdd::new(self.fd.target(), events as u32).build();
        let op = self
            .fd
            .driver
            .start(Leaves::Nothing, self.fd.clone(), entry)
            .cancel_on_drop();
        op.await.0.value().map(|_| ())
    }
}

pub(super) fn broken(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, why)
}

pub(super) fn eof() -> io::Error {
    io::Error::new(
        io::ErrorKind::UnexpectedEof,
        "the peer closed the connection",
    )
}

fn to_std(storage: SockaddrStorage) -> io::Result<SocketAddr> {
    if let Some(v4) = storage.as_sockaddr_in() {
        return Ok(SocketAddr::V4((*v4).into()));
    }
    if let Some(v6) = storage.as_sockaddr_in6() {
        return Ok(SocketAddr::V6((*v6).into()));
    }
    Err(io::Error::other("not an IP socket"))
}

pub(super) fn local_addr(fd: RawFd) -> io::Result<SocketAddr> {
    to_std(getsockname::<SockaddrStorage>(fd)?)
}

/// So that sendfile does not wait; ring operations wait by themselves either way.
fn set_nonblocking(fd: RawFd) -> io::Result<()> {
    // SAFETY: no pointers.
    let result = unsafe { libc::fcntl(fd, libc::F_SETFL, libc::O_NONBLOCK) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
