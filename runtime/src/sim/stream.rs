//! A simulated connection.

use std::cell::Cell;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::rc::Rc;

use super::file::SimFile;
use super::pipe::{PIPE_BYTES_MAX, Pipe};
use crate::buf::IoBufMut;
use crate::net::{SendBufs, Shutdown};
use crate::sync::Semaphore;

/// Bytes that one receive gives at most.
const RECV_BYTES_MAX: usize = 64 << 10;

pub(crate) struct SimStream {
    local: SocketAddr,
    peer: SocketAddr,
    incoming: Rc<Pipe>,
    outgoing: Rc<Pipe>,
    send_turn: Semaphore,
    send_broken: Cell<bool>,
    recv_broken: Cell<bool>,
}

pub(crate) struct SimRecvBuf {
    bytes: Vec<u8>,
    start: usize,
}

impl SimRecvBuf {
    pub(crate) fn as_slice(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    pub(crate) fn advance(&mut self, count: usize) {
        assert!(count <= self.bytes.len() - self.start, "more than there is");
        self.start += count;
    }
}

impl SimStream {
    pub(super) fn new(
        local: SocketAddr,
        peer: SocketAddr,
        incoming: Rc<Pipe>,
        outgoing: Rc<Pipe>,
    ) -> SimStream {
        SimStream {
            local,
            peer,
            incoming,
            outgoing,
            send_turn: Semaphore::new(1),
            send_broken: Cell::new(false),
            recv_broken: Cell::new(false),
        }
    }

    pub(crate) fn peer_addr(&self) -> SocketAddr {
        self.peer
    }

    pub(crate) fn local_addr(&self) -> SocketAddr {
        self.local
    }

    pub(crate) async fn recv(&self) -> io::Result<SimRecvBuf> {
        if self.recv_broken.get() {
            return Err(ErrorKind::ConnectionAborted.into());
        }
        let bytes = self.take(RECV_BYTES_MAX).await?;
        Ok(SimRecvBuf { bytes, start: 0 })
    }

    /// Between one and `max` bytes, none at the end of the stream.
    async fn take(&self, max: usize) -> io::Result<Vec<u8>> {
        let pipe = &self.incoming;
        loop {
            {
                let mut state = pipe.state.borrow_mut();
                if state.reset {
                    return Err(ErrorKind::ConnectionReset.into());
                }
                let there = state.arrived.len().min(max);
                if there > 0 {
                    // Any piece of it may come first.
                    let count = match pipe.world.one_in(4) {
                        true => 1 + pipe.world.below(there as u64) as usize,
                        false => there,
                    };
                    let bytes = state.arrived.drain(..count).collect();
                    drop(state);
                    pipe.changed.notify_all();
                    return Ok(bytes);
                }
                if state.ended || state.unread {
                    return Ok(Vec::new());
                }
            }
            pipe.changed.notified().await;
        }
    }

    pub(crate) async fn recv_exact<B: IoBufMut>(
        &self,
        mut buf: B,
        from: usize,
        to: usize,
    ) -> (io::Result<()>, B) {
        if self.recv_broken.get() {
            return (Err(ErrorKind::ConnectionAborted.into()), buf);
        }
        let guard = BreakOnDrop(&self.recv_broken);
        let mut at = from;
        let mut result = Ok(());
        while at < to {
            match self.take(to - at).await {
                Ok(bytes) if bytes.is_empty() => {
                    result = Err(ErrorKind::UnexpectedEof.into());
                    break;
                }
                Ok(bytes) => {
                    // SAFETY: `at + bytes.len() <= to <= capacity`, checked by the caller; another allocation. All before
                    // `at` is initialised, as `from <= len`.
                    unsafe {
                        buf.io_mut_ptr()
                            .add(at)
                            .copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
                        at += bytes.len();
                        if at > buf.io_len() {
                            buf.io_set_len(at);
                        }
                    }
                }
                Err(error) => {
                    result = Err(error);
                    break;
                }
            }
        }
        std::mem::forget(guard);
        (result, buf)
    }

    pub(crate) async fn send_all(&self, bufs: SendBufs) -> io::Result<()> {
        let _turn = self.send_turn.acquire(1).await;
        if self.send_broken.get() {
            return Err(ErrorKind::ConnectionAborted.into());
        }
        let guard = BreakOnDrop(&self.send_broken);
        for buf in &bufs {
            self.put(buf).await?;
        }
        std::mem::forget(guard);
        Ok(())
    }

    /// Sends some bytes, in pieces as there is room.
    async fn put(&self, mut bytes: &[u8]) -> io::Result<()> {
        let pipe = &self.outgoing;
        while !bytes.is_empty() {
            let room = {
                let state = pipe.state.borrow();
                if state.reset || state.unread {
                    return Err(ErrorKind::ConnectionReset.into());
                }
                if state.closed {
                    return Err(ErrorKind::BrokenPipe.into());
                }
                PIPE_BYTES_MAX.saturating_sub(state.arrived.len() + state.travelling)
            };
            if room == 0 {
                pipe.changed.notified().await;
                continue;
            }
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            pipe.send(now.to_vec());
            bytes = later;
        }
        Ok(())
    }

    pub(crate) async fn sendfile(&self, file: &SimFile, pos: u64, len: u64) -> io::Result<()> {
        let _turn = self.send_turn.acquire(1).await;
        if self.send_broken.get() {
            return Err(ErrorKind::ConnectionAborted.into());
        }
        let guard = BreakOnDrop(&self.send_broken);
        let mut sent = 0;
        while sent < len {
            let bytes = file.peek(pos + sent, (len - sent).min(PIPE_BYTES_MAX as u64) as usize);
            if bytes.is_empty() {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            sent += bytes.len() as u64;
            self.put(&bytes).await?;
        }
        std::mem::forget(guard);
        Ok(())
    }

    pub(crate) fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        if how != Shutdown::Read {
            self.outgoing.close();
        }
        if how != Shutdown::Write {
            self.incoming.stop_reading();
        }
        Ok(())
    }
}

impl Drop for SimStream {
    fn drop(&mut self) {
        let _ = self.shutdown(Shutdown::Both);
    }
}

struct BreakOnDrop<'a>(&'a Cell<bool>);

impl Drop for BreakOnDrop<'_> {
    fn drop(&mut self) {
        self.0.set(true);
    }
}
