//! TCP sockets.

use std::io;
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::ops::Deref;
use std::rc::Rc;

use bytes::Bytes;
use smallvec::SmallVec;

use crate::buf::IoBufMut;
use crate::fs::File;

pub use std::net::Shutdown;

/// What [`TcpStream::send_all`] takes: `vec![..]` or `smallvec![..]` of `Bytes`.
pub type SendBufs = SmallVec<[Bytes; 4]>;

#[derive(Clone, Copy, Debug)]
pub struct ListenOptions {
    /// Connections the kernel holds before they are accepted.
    pub backlog: u32,
    /// SO_REUSEPORT: one listener per core on the same address, the kernel spreads the connections.
    pub reuse_port: bool,
}

impl Default for ListenOptions {
    fn default() -> Self {
        ListenOptions {
            backlog: 1024,
            reuse_port: true,
        }
    }
}

pub struct TcpListener(PhantomData<Rc<()>>);

impl TcpListener {
    /// Binds and listens; port 0 picks one.
    pub fn bind(addr: SocketAddr, options: &ListenOptions) -> io::Result<TcpListener> {
        let _ = (addr, options);
        unimplemented!()
    }

    /// The next connection and its peer. No connection is lost when the future is dropped.
    pub async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        unimplemented!()
    }

    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        unimplemented!()
    }
}

/// A connection. Clones are the same connection, so that one task may receive while another sends; it is closed when the
/// last one is dropped. TCP_NODELAY is on from the start.
#[derive(Clone)]
pub struct TcpStream(PhantomData<Rc<()>>);

impl TcpStream {
    pub async fn connect(addr: SocketAddr) -> io::Result<TcpStream> {
        let _ = addr;
        unimplemented!()
    }

    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        unimplemented!()
    }

    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        unimplemented!()
    }

    pub fn set_nodelay(&self, on: bool) -> io::Result<()> {
        let _ = on;
        unimplemented!()
    }

    /// Whatever has arrived; empty at the end of the stream. Nothing is lost when the future is dropped. One task at a time.
    ///
    /// While nothing arrives no memory is held, and what is not asked for stays in the kernel's socket buffer: not calling
    /// `recv` is the back-pressure. The returned buffer belongs to a ring of the core: copy what has to wait, drop it soon.
    pub async fn recv(&self) -> io::Result<RecvBuf> {
        unimplemented!()
    }

    /// Receives exactly `to - from` bytes into `buf[from..to]`, straight from the socket, and makes the buffer `to` long
    /// (if it was shorter). `from` must be at most its length, `to` at most its capacity. `UnexpectedEof` if the peer
    /// closes first. Dropping the future loses bytes: the stream then only gives errors.
    pub async fn recv_exact_into<B: IoBufMut>(
        &self,
        buf: B,
        from: usize,
        to: usize,
    ) -> (io::Result<()>, B) {
        let _ = (buf, from, to);
        unimplemented!()
    }

    /// Sends all of `bufs` in order, with one system call's worth of work where the socket takes it. Sends of several tasks
    /// are done one after the other. Dropping the future may cut the sequence anywhere: later sends then fail.
    pub async fn send_all(&self, bufs: impl Into<SendBufs>) -> io::Result<()> {
        let _ = bufs.into();
        unimplemented!()
    }

    /// Sends a range of a file without copying it through this process. The caller sees to it that the range is in the page
    /// cache ([`File::is_resident`]), otherwise the whole core waits for the disk. `UnexpectedEof` if the file is shorter.
    /// Ordered with `send_all`; a dropped future is as there.
    pub async fn sendfile(&self, file: &File, pos: u64, len: u64) -> io::Result<()> {
        let _ = (file, pos, len);
        unimplemented!()
    }

    /// Shuts one or both directions down; operations under way on that side end.
    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        let _ = how;
        unimplemented!()
    }

    /// Closes the connection for all its clones: operations under way end, later ones fail.
    pub fn close(&self) {
        unimplemented!()
    }
}

/// Received bytes. Gives its buffer back to the ring when dropped.
pub struct RecvBuf(PhantomData<Rc<()>>);

impl Deref for RecvBuf {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        unimplemented!()
    }
}

impl AsRef<[u8]> for RecvBuf {
    fn as_ref(&self) -> &[u8] {
        self
    }
}
