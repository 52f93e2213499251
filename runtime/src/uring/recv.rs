//! The receiving side of a connection: from the core's buffer ring, or straight into a frame's own memory.
//!
//! Each receive is an operation of its own that takes a buffer only when data is there. A multishot receive would save a
//! little work per message, but it goes on taking buffers while the connection's owner is busy: up to half of the core's
//! in one go of the kernel, for one peer. This way back-pressure is exact and an idle connection holds nothing.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use io_uring::{cqueue, opcode, squeue};

use super::driver::Driver;
use super::op::{Fd, Op};
use super::slots::{Completion, Leaves};
use super::stream::{UringStream, broken, eof};
use crate::buf::IoBufMut;

/// A receive that finds the buffer ring empty uses a heap buffer of this many bytes, once data is there.
const HEAP_RECV_LEN: usize = 16 * 1024;

#[derive(Default)]
pub(super) struct RecvSide {
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
        buf: B,
        from: usize,
        to: usize,
    ) -> (io::Result<()>, B) {
        if self.recv.borrow().broken {
            return (Err(broken("a direct receive was dropped")), buf);
        }
        let guard = BreakRecv(self);
        let (result, buf, at) = self.recv_early(buf, from, to).await;
        let (result, buf) = match result {
            Ok(()) => self.recv_direct(buf, at, to).await,
            Err(error) => (Err(error), buf),
        };
        std::mem::forget(guard);
        (result, buf)
    }

    /// Takes what came before it was known where it belongs. Also says how far the buffer is filled.
    async fn recv_early<B: IoBufMut>(
        &self,
        mut buf: B,
        from: usize,
        to: usize,
    ) -> (io::Result<()>, B, usize) {
        let mut at = from;
        while at < to && self.has_early() {
            let mut received = match self.recv().await {
                Ok(received) if received.as_slice().is_empty() => return (Err(eof()), buf, at),
                Ok(received) => received,
                Err(error) => return (Err(error), buf, at),
            };
            let bytes = received.as_slice();
            let count = bytes.len().min(to - at);
            // SAFETY: `at + count <= to <= capacity`, checked by the caller; the source is another allocation. With
            // `from <= len` everything up to `at + count` is initialised then.
            unsafe {
                let target = buf.io_mut_ptr().add(at);
                target.copy_from_nonoverlapping(bytes.as_ptr(), count);
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
        (Ok(()), buf, at)
    }

    async fn recv_direct<B: IoBufMut>(
        &self,
        mut buf: B,
        mut at: usize,
        to: usize,
    ) -> (io::Result<()>, B) {
        let driver = &self.fd.driver;
        while at < to {
            // SAFETY: inside the capacity, checked by the caller.
            let target = unsafe { buf.io_mut_ptr().add(at) };
            let len = u32::try_from(to - at).unwrap_or(u32::MAX);
            let entry = opcode::Recv::new(self.fd.target(), target, len)
                .flags(libc::MSG_WAITALL)
                .build();
            let resources = (self.fd.clone(), buf);
            let op = driver.start(Leaves::Nothing, resources, entry);
            let (completion, (_fd, back)) = op.cancel_on_drop().await;
            buf = back;
            match completion.result {
                1.. => {
                    at += completion.result as usize;
                    driver.counters.net_bytes_in.add(completion.result as u64);
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
        side.rest.is_some() || side.pending.is_some()
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
