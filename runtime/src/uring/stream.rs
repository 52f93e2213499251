//! Connections: receives from the core's buffer ring or straight into a frame's own memory, gathered sends, sendfile.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::io;
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{BorrowedFd, IntoRawFd, RawFd};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use io_uring::{cqueue, opcode, squeue};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, getpeername, getsockname, setsockopt,
    shutdown, socket, sockopt,
};

use super::driver::Driver;
use super::file::{UringFile, iovecs};
use super::op::{Fd, Op};
use super::slots::{Completion, Leaves};
use crate::buf::IoBufMut;
use crate::net::SendBufs;
use crate::sync::{Permit, Semaphore};

/// A receive that finds the buffer ring empty uses a heap buffer of this many bytes, once data is there.
const HEAP_RECV_LEN: usize = 16 * 1024;
/// Bytes of one sendfile call: a peer that drains fast must not keep the core in the kernel.
const SENDFILE_STEP: usize = 512 * 1024;
/// sendfile steps that go through before other tasks get a turn.
const SENDFILE_STEPS_PER_TURN: u32 = 2;

pub(crate) struct UringStream {
    fd: Rc<Fd>,
    recv: RefCell<RecvSide>,
    /// The last receive took all that was there, so the next one has to wait first.
    drained: Cell<bool>,
    send_turn: Semaphore,
    /// A send or sendfile was dropped half way: what the peer would see next is not what it should.
    send_broken: Cell<bool>,
}

#[derive(Default)]
struct RecvSide {
    /// In the kernel, or done and not asked for since its future was dropped.
    pending: Option<PendingRecv>,
    /// Came with an earlier receive and was not used up.
    rest: Option<UringRecvBuf>,
    /// A direct receive was dropped: bytes are lost.
    broken: bool,
}

enum PendingRecv {
    /// Takes a buffer of the ring when data is there.
    Select(Op<Rc<Fd>>),
    /// The ring was empty: waits for data before it takes memory.
    Poll(Op<Rc<Fd>>),
    Heap(Op<(Rc<Fd>, Vec<u8>)>),
}

/// Received bytes in a buffer of the ring or, when that was empty, of the heap.
pub(crate) struct UringRecvBuf {
    memory: RecvMemory,
    start: usize,
    end: usize,
}

enum RecvMemory {
    Ring { driver: Rc<Driver>, id: u16 },
    Heap(Vec<u8>),
}

impl UringRecvBuf {
    pub(crate) fn as_slice(&self) -> &[u8] {
        match &self.memory {
            RecvMemory::Ring { driver, id } => {
                let bufs = driver.bufs().expect("it gave this buffer");
                // SAFETY: the kernel filled bytes `..end` of this buffer, and leaves it alone until `give_back` in Drop;
                // `driver` keeps the mapping alive.
                unsafe {
                    std::slice::from_raw_parts(
                        bufs.buffer(*id).add(self.start),
                        self.end - self.start,
                    )
                }
            }
            RecvMemory::Heap(bytes) => &bytes[self.start..self.end],
        }
    }

    /// Leaves out the first `count` bytes.
    pub(crate) fn advance(&mut self, count: usize) {
        assert!(count <= self.end - self.start, "more than there is");
        self.start += count;
    }
}

impl Drop for UringRecvBuf {
    fn drop(&mut self) {
        if let RecvMemory::Ring { driver, id } = &self.memory {
            driver.bufs().expect("it gave this buffer").give_back(*id);
        }
    }
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

    pub(crate) async fn recv(&self) -> io::Result<UringRecvBuf> {
        poll_fn(|cx| self.poll_recv(cx)).await
    }

    fn poll_recv(&self, cx: &mut Context<'_>) -> Poll<io::Result<UringRecvBuf>> {
        let driver = &self.fd.driver;
        let mut side = self.recv.borrow_mut();
        if side.broken {
            return Poll::Ready(Err(broken("a direct receive was dropped")));
        }
        if let Some(rest) = side.rest.take() {
            return Poll::Ready(Ok(rest));
        }
        loop {
            let pending = side.pending.get_or_insert_with(|| match driver.bufs() {
                Some(_) => self.start_select(),
                None => self.start_poll(),
            });
            let (completion, received) = match pending {
                PendingRecv::Select(op) => {
                    let (completion, _fd) = ready!(Pin::new(op).poll(cx));
                    (completion, self.take_ring_buffer(completion))
                }
                PendingRecv::Poll(op) => {
                    let (completion, _fd) = ready!(Pin::new(op).poll(cx));
                    if let Err(error) = completion.value() {
                        side.pending = None;
                        return Poll::Ready(Err(error));
                    }
                    side.pending = Some(self.start_heap());
                    continue;
                }
                PendingRecv::Heap(op) => {
                    let (completion, (_fd, mut bytes)) = ready!(Pin::new(op).poll(cx));
                    let count = completion.result.max(0) as usize;
                    // SAFETY: the kernel has written `count` bytes from the start.
                    unsafe { bytes.set_len(count) };
                    (
                        completion,
                        Some(UringRecvBuf {
                            memory: RecvMemory::Heap(bytes),
                            start: 0,
                            end: count,
                        }),
                    )
                }
            };
            side.pending = None;
            self.drained.set(!cqueue::sock_nonempty(completion.flags));
            match completion.result {
                1.. => {
                    driver.counters.net_bytes_in.add(completion.result as u64);
                    return Poll::Ready(Ok(received.expect("data came in a buffer")));
                }
                0 => {
                    let nothing = UringRecvBuf {
                        memory: RecvMemory::Heap(Vec::new()),
                        start: 0,
                        end: 0,
                    };
                    return Poll::Ready(Ok(nothing));
                }
                error if error == -libc::ENOBUFS => {
                    // The kernel says so even if there is no data yet, and an idle connection is not to hold memory.
                    driver.counters.recv_buffers_exhausted.add(1);
                    side.pending = Some(self.start_poll());
                }
                error if error == -libc::EAGAIN => side.pending = Some(self.start_poll()),
                error if error == -libc::EINTR => (),
                error => return Poll::Ready(Err(io::Error::from_raw_os_error(-error))),
            }
        }
    }

    fn start_select(&self) -> PendingRecv {
        let entry = opcode::Recv::new(self.fd.target(), std::ptr::null_mut(), 0)
            .buf_group(super::bufring::GROUP)
            .build()
            .flags(squeue::Flags::BUFFER_SELECT);
        let entry = if self.drained.get() {
            poll_first(entry)
        } else {
            entry
        };
        let op = self
            .fd
            .driver
            .start(Leaves::RecvBuffer, self.fd.clone(), entry)
            .cancel_on_drop();
        PendingRecv::Select(op)
    }

    fn start_poll(&self) -> PendingRecv {
        let entry = opcode::PollAdd::new(self.fd.target(), libc::POLLIN as u32).build();
        let op = self
            .fd
            .driver
            .start(Leaves::Nothing, self.fd.clone(), entry)
            .cancel_on_drop();
        PendingRecv::Poll(op)
    }

    fn start_heap(&self) -> PendingRecv {
        let mut bytes = Vec::with_capacity(HEAP_RECV_LEN);
        let entry =
            opcode::Recv::new(self.fd.target(), bytes.as_mut_ptr(), HEAP_RECV_LEN as u32).build();
        let op = self
            .fd
            .driver
            .start(Leaves::Nothing, (self.fd.clone(), bytes), entry)
            .cancel_on_drop();
        PendingRecv::Heap(op)
    }

    /// The ring buffer of a completion, if it used one.
    fn take_ring_buffer(&self, completion: Completion) -> Option<UringRecvBuf> {
        let id = cqueue::buffer_select(completion.flags)?;
        let driver = &self.fd.driver;
        driver.bufs().expect("selected from it").taken();
        let memory = RecvMemory::Ring {
            driver: driver.clone(),
            id,
        };
        Some(UringRecvBuf {
            memory,
            start: 0,
            end: completion.result.max(0) as usize,
        })
    }

    pub(crate) async fn recv_exact<B: IoBufMut>(
        &self,
        mut buf: B,
        from: usize,
        to: usize,
    ) -> (io::Result<()>, B) {
        let mut at = from;
        // What came before we could say where it belongs is used first.
        while at < to && self.has_early() {
            match self.recv().await {
                Ok(received) if received.as_slice().is_empty() => return (Err(eof()), buf),
                Ok(mut received) => {
                    let bytes = received.as_slice();
                    let count = bytes.len().min(to - at);
                    // SAFETY: `at + count <= to <= capacity`, checked by the caller; the source is another allocation. With
                    // `from <= len` everything up to `at + count` is initialised then.
                    unsafe {
                        buf.io_mut_ptr()
                            .add(at)
                            .copy_from_nonoverlapping(bytes.as_ptr(), count);
                        if at + count > buf.io_len() {
                            buf.io_set_len(at + count);
                        }
                    }
                    at += count;
                    received.advance(count);
                    if !received.as_slice().is_empty() {
                        self.recv.borrow_mut().rest = Some(received);
                    }
                }
                Err(error) => return (Err(error), buf),
            }
        }
        while at < to {
            if self.recv.borrow().broken {
                return (Err(broken("a direct receive was dropped")), buf);
            }
            // SAFETY: inside the capacity, as above.
            let target = unsafe { buf.io_mut_ptr().add(at) };
            let entry = opcode::Recv::new(
                self.fd.target(),
                target,
                u32::try_from(to - at).unwrap_or(u32::MAX),
            )
            .flags(libc::MSG_WAITALL)
            .build();
            let op = self
                .fd
                .driver
                .start(Leaves::Nothing, (self.fd.clone(), buf), entry)
                .cancel_on_drop();
            let guard = BreakRecv(self);
            let (completion, (_fd, back)) = op.await;
            std::mem::forget(guard);
            buf = back;
            match completion.result {
                1.. => {
                    at += completion.result as usize;
                    self.fd
                        .driver
                        .counters
                        .net_bytes_in
                        .add(completion.result as u64);
                    if at > buf.io_len() {
                        // SAFETY: the kernel has written everything up to `at`.
                        unsafe { buf.io_set_len(at) };
                    }
                }
                0 => return (Err(eof()), buf),
                error if error == -libc::EINTR => (),
                error if error == -libc::EAGAIN => {
                    if let Err(error) = self.ready(libc::POLLIN).await {
                        return (Err(error), buf);
                    }
                }
                error => return (Err(io::Error::from_raw_os_error(-error)), buf),
            }
        }
        (Ok(()), buf)
    }

    fn has_early(&self) -> bool {
        let side = self.recv.borrow();
        side.rest.is_some() || side.pending.is_some() || side.broken
    }

    /// Waits until the socket may be read or written.
    async fn ready(&self, events: i16) -> io::Result<()> {
        let entry = opcode::PollAdd::new(self.fd.target(), events as u32).build();
        let op = self
            .fd
            .driver
            .start(Leaves::Nothing, self.fd.clone(), entry)
            .cancel_on_drop();
        op.await.0.value().map(|_| ())
    }

    /// The right to send, in order of asking. Dropped before `done()` it leaves the connection broken.
    async fn send_turn(&self) -> io::Result<Sending<'_>> {
        let turn = self.send_turn.acquire(1).await;
        if self.send_broken.get() {
            return Err(broken("an earlier send was cut off"));
        }
        Ok(Sending {
            stream: self,
            _turn: turn,
            done: false,
        })
    }

    pub(crate) async fn send_all(&self, bufs: SendBufs) -> io::Result<()> {
        let total: usize = bufs.iter().map(|buf| buf.len()).sum();
        if total == 0 {
            return Ok(());
        }
        let sending = self.send_turn().await?;
        let mut bufs = bufs;
        let mut sent = 0;
        while sent < total {
            let (completion, back) = if bufs.len() == 1 {
                self.send_one(bufs, sent).await
            } else {
                self.send_message(bufs, sent).await
            };
            bufs = back;
            match completion.result {
                count @ 0.. => {
                    sent += count as usize;
                    self.fd.driver.counters.net_bytes_out.add(count as u64);
                }
                error if error == -libc::EINTR => (),
                error if error == -libc::EAGAIN => self.ready(libc::POLLOUT).await?,
                error => return Err(io::Error::from_raw_os_error(-error)),
            }
        }
        sending.done();
        Ok(())
    }

    async fn send_one(&self, bufs: SendBufs, skip: usize) -> (Completion, SendBufs) {
        let rest = &bufs[0][skip..];
        let len = u32::try_from(rest.len()).unwrap_or(u32::MAX);
        let entry = opcode::Send::new(self.fd.target(), rest.as_ptr(), len)
            .flags(libc::MSG_NOSIGNAL | libc::MSG_WAITALL)
            .build();
        let op = self
            .fd
            .driver
            .start(Leaves::Nothing, (self.fd.clone(), bufs), entry)
            .cancel_on_drop();
        let (completion, (_fd, bufs)) = op.await;
        (completion, bufs)
    }

    async fn send_message(&self, bufs: SendBufs, skip: usize) -> (Completion, SendBufs) {
        let mut iovecs = iovecs(&bufs, skip);
        // SAFETY: msghdr is plain data for which all zeros mean "nothing".
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_iov = iovecs.as_mut_ptr();
        message.msg_iovlen = iovecs.len();
        let message = vec![message]; // on the heap, where it stays
        let entry = opcode::SendMsg::new(self.fd.target(), message.as_ptr())
            .flags((libc::MSG_NOSIGNAL | libc::MSG_WAITALL) as u32)
            .build();
        let resources = (self.fd.clone(), bufs, iovecs, message);
        let (completion, (_, bufs, _, _)) = self
            .fd
            .driver
            .start(Leaves::Nothing, resources, entry)
            .cancel_on_drop()
            .await;
        (completion, bufs)
    }

    pub(crate) async fn sendfile(&self, file: &UringFile, pos: u64, len: u64) -> io::Result<()> {
        let sending = self.send_turn().await?;
        let file = file.hold();
        let end = pos.checked_add(len).ok_or(io::ErrorKind::InvalidInput)?;
        let mut offset = i64::try_from(pos).map_err(|_| io::ErrorKind::InvalidInput)?;
        let mut steps = 0;
        while (offset as u64) < end {
            let count = (end - offset as u64).min(SENDFILE_STEP as u64) as usize;
            // SAFETY: both descriptors are open as long as `self.fd` and `file` live.
            let (socket, source) = unsafe {
                (
                    BorrowedFd::borrow_raw(self.fd.raw()),
                    BorrowedFd::borrow_raw(file.raw()),
                )
            };
            match nix::sys::sendfile::sendfile64(socket, source, Some(&mut offset), count) {
                Ok(0) => {
                    return Err(io::Error::new(
                        io::ErrorKind::UnexpectedEof,
                        "the file is shorter",
                    ));
                }
                Ok(count) => {
                    self.fd.driver.counters.net_bytes_out.add(count as u64);
                    steps += 1;
                    if steps % SENDFILE_STEPS_PER_TURN == 0 && (offset as u64) < end {
                        crate::task::yield_now().await;
                    }
                }
                Err(nix::Error::EAGAIN) => self.ready(libc::POLLOUT).await?,
                Err(nix::Error::EINTR) => (),
                Err(error) => return Err(error.into()),
            }
        }
        sending.done();
        Ok(())
    }
}

/// Has the kernel wait for data before it tries to receive: without it, an attempt (and a buffer) is spent first. The crate
/// has no setter for this flag.
fn poll_first(mut entry: squeue::Entry) -> squeue::Entry {
    const RECVSEND_POLL_FIRST: u16 = 1;
    const IOPRIO_OFFSET: usize = 2;
    const { assert!(size_of::<squeue::Entry>() == 64) };
    // SAFETY: an Entry is the kernel's 64-byte io_uring_sqe, plain integers, whose `ioprio` is the u16 at offset 2 (that is
    // the ABI); the address is inside the entry and suitably aligned, as the struct's alignment is 8.
    unsafe {
        let ioprio = (&raw mut entry)
            .cast::<u8>()
            .add(IOPRIO_OFFSET)
            .cast::<u16>();
        *ioprio |= RECVSEND_POLL_FIRST;
    }
    entry
}

/// Marks the receiving side as broken if a direct receive is dropped half way.
struct BreakRecv<'a>(&'a UringStream);

impl Drop for BreakRecv<'_> {
    fn drop(&mut self) {
        self.0.recv.borrow_mut().broken = true;
    }
}

struct Sending<'a> {
    stream: &'a UringStream,
    _turn: Permit,
    done: bool,
}

impl Sending<'_> {
    fn done(mut self) {
        self.done = true;
    }
}

impl Drop for Sending<'_> {
    fn drop(&mut self) {
        if !self.done {
            self.stream.send_broken.set(true);
        }
    }
}

fn broken(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, why)
}

fn eof() -> io::Error {
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
