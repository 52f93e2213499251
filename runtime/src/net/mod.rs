//! TCP sockets.

use std::io;
use std::net::SocketAddr;
use std::ops::Deref;
use std::rc::Rc;

use bytes::Bytes;
use smallvec::SmallVec;

use crate::buf::IoBufMut;
use crate::core::{Backend, with_core};
use crate::fs::File;
use crate::sim::{SimCore, SimListener, SimRecvBuf, SimStream};
use crate::uring::{Driver, UringListener, UringRecvBuf, UringStream};

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

enum Via {
    Uring(Rc<Driver>),
    Sim(SimCore),
}

fn backend() -> Via {
    with_core(|core| match &core.backend {
        Backend::Uring(uring) => Via::Uring(uring.driver.clone()),
        Backend::Sim(sim) => Via::Sim(sim.clone()),
    })
}

pub struct TcpListener {
    inner: ListenerInner,
}

enum ListenerInner {
    Uring(UringListener),
    Sim(SimListener),
}

impl TcpListener {
    /// Binds and listens; port 0 picks one.
    pub fn bind(addr: SocketAddr, options: &ListenOptions) -> io::Result<TcpListener> {
        let inner = match backend() {
            Via::Uring(driver) => {
                ListenerInner::Uring(UringListener::bind(&driver, addr, options)?)
            }
            Via::Sim(sim) => ListenerInner::Sim(sim.listen(addr, options)?),
        };
        Ok(TcpListener { inner })
    }

    /// The next connection and its peer. No connection is lost when the future is dropped.
    pub async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        loop {
            let inner = match &self.inner {
                ListenerInner::Uring(listener) => StreamInner::Uring(listener.accept().await?),
                ListenerInner::Sim(listener) => StreamInner::Sim(listener.accept().await?),
            };
            let stream = TcpStream {
                inner: Rc::new(inner),
            };
            // A connection that is already reset has no peer any more.
            if let Ok(peer) = stream.peer_addr() {
                return Ok((stream, peer));
            }
        }
    }

    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        match &self.inner {
            ListenerInner::Uring(listener) => listener.local_addr(),
            ListenerInner::Sim(listener) => Ok(listener.local_addr()),
        }
    }
}

/// A connection. Clones are the same connection, so that one task may receive while another sends; it is closed when the
/// last one is dropped. TCP_NODELAY is on from the start.
#[derive(Clone)]
pub struct TcpStream {
    inner: Rc<StreamInner>,
}

enum StreamInner {
    Uring(UringStream),
    Sim(SimStream),
}

impl TcpStream {
    pub async fn connect(addr: SocketAddr) -> io::Result<TcpStream> {
        let inner = match backend() {
            Via::Uring(driver) => StreamInner::Uring(UringStream::connect(&driver, addr).await?),
            Via::Sim(sim) => StreamInner::Sim(sim.connect(addr).await?),
        };
        Ok(TcpStream {
            inner: Rc::new(inner),
        })
    }

    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        match &*self.inner {
            StreamInner::Uring(stream) => stream.peer_addr(),
            StreamInner::Sim(stream) => Ok(stream.peer_addr()),
        }
    }

    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        match &*self.inner {
            StreamInner::Uring(stream) => stream.local_addr(),
            StreamInner::Sim(stream) => Ok(stream.local_addr()),
        }
    }

    pub fn set_nodelay(&self, on: bool) -> io::Result<()> {
        match &*self.inner {
            StreamInner::Uring(stream) => stream.set_nodelay(on),
            StreamInner::Sim(_) => Ok(()),
        }
    }

    /// Whatever has arrived; empty at the end of the stream. Nothing is lost when the future is dropped. One task at a time.
    ///
    /// While nothing arrives no memory is held, and what is not asked for stays in the kernel's socket buffer: not calling
    /// `recv` is the back-pressure. The returned buffer belongs to a ring of the core: copy what has to wait, drop it soon.
    pub async fn recv(&self) -> io::Result<RecvBuf> {
        let inner = match &*self.inner {
            StreamInner::Uring(stream) => RecvInner::Uring(stream.recv().await?),
            StreamInner::Sim(stream) => RecvInner::Sim(stream.recv().await?),
        };
        Ok(RecvBuf { inner })
    }

    /// Receives exactly `to - from` bytes into `buf[from..to]`, straight from the socket, and makes the buffer `to` long
    /// (if it was shorter). `from` must be at most its length, `to` at most its capacity. `UnexpectedEof` if the peer
    /// closes first; with any error the buffer's length says how far it was filled. Dropping the future loses bytes: the
    /// stream then only gives errors.
    pub async fn recv_exact_into<B: IoBufMut>(
        &self,
        buf: B,
        from: usize,
        to: usize,
    ) -> (io::Result<()>, B) {
        assert!(
            from <= buf.io_len() && from <= to && to <= buf.io_capacity(),
            "{from}..{to} is not in the buffer"
        );
        match &*self.inner {
            StreamInner::Uring(stream) => stream.recv_exact(buf, from, to).await,
            StreamInner::Sim(stream) => stream.recv_exact(buf, from, to).await,
        }
    }

    /// Sends all of `bufs` in order, with one system call's worth of work where the socket takes it. Sends of several tasks
    /// are done one after the other. Dropping the future may cut the sequence anywhere: later sends then fail.
    pub async fn send_all(&self, bufs: impl Into<SendBufs>) -> io::Result<()> {
        match &*self.inner {
            StreamInner::Uring(stream) => stream.send_all(bufs.into()).await,
            StreamInner::Sim(stream) => stream.send_all(bufs.into()).await,
        }
    }

    /// Sends a range of a file without copying it through this process. The caller sees to it that the range is in the page
    /// cache ([`File::is_resident`]), otherwise the whole core waits for the disk. `UnexpectedEof` if the file is shorter.
    /// Ordered with `send_all`; a dropped future is as there.
    pub async fn sendfile(&self, file: &File, pos: u64, len: u64) -> io::Result<()> {
        match &*self.inner {
            StreamInner::Uring(stream) => {
                stream
                    .sendfile(file.uring().expect("a file of the same backend"), pos, len)
                    .await
            }
            StreamInner::Sim(stream) => {
                stream
                    .sendfile(file.sim().expect("a file of the same backend"), pos, len)
                    .await
            }
        }
    }

    /// Shuts one or both directions down; operations under way on that side end.
    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        match &*self.inner {
            StreamInner::Uring(stream) => stream.shutdown(how),
            StreamInner::Sim(stream) => stream.shutdown(how),
        }
    }

    /// Ends the connection for all its clones: operations under way end, later ones fail. The descriptor goes with the
    /// last clone.
    pub fn close(&self) {
        let _ = self.shutdown(Shutdown::Both); // fails only if it has ended already
    }
}

/// Received bytes. Gives its buffer back to the ring when dropped.
pub struct RecvBuf {
    inner: RecvInner,
}

enum RecvInner {
    Uring(UringRecvBuf),
    Sim(SimRecvBuf),
}

impl RecvBuf {
    /// Leaves out the first `count` bytes. Panics if there are fewer.
    pub fn advance(&mut self, count: usize) {
        match &mut self.inner {
            RecvInner::Uring(buf) => buf.advance(count),
            RecvInner::Sim(buf) => buf.advance(count),
        }
    }
}

impl Deref for RecvBuf {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        match &self.inner {
            RecvInner::Uring(buf) => buf.as_slice(),
            RecvInner::Sim(buf) => buf.as_slice(),
        }
    }
}

impl AsRef<[u8]> for RecvBuf {
    fn as_ref(&self) -> &[u8] {
        self
    }
}
