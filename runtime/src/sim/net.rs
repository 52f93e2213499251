//! Simulated TCP between simulated nodes: delayed, in order, cut into pieces, reset when a node crashes.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::{Rc, Weak};

use super::NodeId;
use super::core::SimCore;
use super::file::SimFile;
use super::world::World;
use crate::buf::IoBufMut;
use crate::net::{ListenOptions, SendBufs, Shutdown};
use crate::sync::{Notify, Semaphore};

/// Bytes of one direction that are sent and not yet received.
const PIPE_BYTES_MAX: usize = 64 << 10;
/// Bytes that one receive gives at most.
const RECV_BYTES_MAX: usize = 64 << 10;
/// Longest delay of a piece, in ns.
const DELAY_MAX: u64 = 2_000_000;
const EPHEMERAL_PORTS: std::ops::Range<u16> = 32768..60999;

/// A machine's side of the network.
#[derive(Default)]
pub(super) struct NodeNet {
    listeners: RefCell<BTreeMap<u16, Vec<Rc<Listening>>>>,
    pipes: RefCell<Vec<Weak<Pipe>>>,
    next_port: Cell<u16>,
}

impl NodeNet {
    /// The machine's connections are gone: both ends see a reset, listeners vanish.
    pub(super) fn reset(&self) {
        let listeners = self.listeners.take();
        for pipe in self.pipes.take() {
            if let Some(pipe) = pipe.upgrade() {
                pipe.reset();
            }
        }
        drop(listeners);
    }

    /// The process has ended.
    pub(super) fn drop_listeners(&self) {
        let listeners = self.listeners.take();
        drop(listeners);
    }

    fn ephemeral_port(&self) -> u16 {
        let span = EPHEMERAL_PORTS.end - EPHEMERAL_PORTS.start;
        let offset = self.next_port.get();
        self.next_port.set((offset + 1) % span);
        EPHEMERAL_PORTS.start + offset
    }

    fn watch(&self, pipe: &Rc<Pipe>) {
        let mut pipes = self.pipes.borrow_mut();
        if pipes.len() == pipes.capacity() {
            pipes.retain(|pipe| pipe.strong_count() > 0);
        }
        pipes.push(Rc::downgrade(pipe));
    }
}

pub(super) fn node_ip(node: NodeId) -> IpAddr {
    let n = node.0 as u32 + 1;
    IpAddr::V4(Ipv4Addr::from(0x0A00_0000 | n))
}

/// One direction of a connection.
struct Pipe {
    world: Rc<World>,
    state: RefCell<PipeState>,
    changed: Notify,
}

#[derive(Default)]
struct PipeState {
    arrived: VecDeque<u8>,
    /// Sent and not arrived yet.
    travelling: usize,
    /// When the last piece arrives: later ones do not overtake it.
    last_arrival: u64,
    /// The sender has ended, and that has arrived.
    ended: bool,
    /// The sender has ended.
    closed: bool,
    /// The receiver does not read any more.
    unread: bool,
    reset: bool,
}

impl Pipe {
    fn reset(&self) {
        let mut state = self.state.borrow_mut();
        state.reset = true;
        state.arrived.clear();
        drop(state);
        self.changed.notify_all();
    }

    /// When the next piece arrives.
    fn arrival(&self) -> u64 {
        let max = if self.world.one_in(16) {
            DELAY_MAX
        } else {
            DELAY_MAX / 8
        };
        let time = self.world.now().as_nanos() + 1 + self.world.below(max);
        let mut state = self.state.borrow_mut();
        state.last_arrival = state.last_arrival.max(time);
        state.last_arrival
    }

    fn send(self: &Rc<Self>, bytes: Vec<u8>) {
        self.state.borrow_mut().travelling += bytes.len();
        self.world.note(bytes.len() as u64);
        let pipe = self.clone();
        self.world.at(self.arrival(), move || {
            let mut state = pipe.state.borrow_mut();
            state.travelling -= bytes.len();
            if !state.reset {
                state.arrived.extend(bytes);
            }
            drop(state);
            pipe.changed.notify_all();
        });
    }

    /// The sender sends no more.
    fn close(self: &Rc<Self>) {
        {
            let mut state = self.state.borrow_mut();
            if std::mem::replace(&mut state.closed, true) || state.reset {
                return;
            }
        }
        self.changed.notify_all();
        let pipe = self.clone();
        self.world.at(self.arrival(), move || {
            pipe.state.borrow_mut().ended = true;
            pipe.changed.notify_all();
        });
    }
}

struct Listening {
    addr: SocketAddr,
    queue: RefCell<VecDeque<SimStream>>,
    arrived: Notify,
}

pub(crate) struct SimListener {
    listening: Rc<Listening>,
    core: SimCore,
}

impl SimListener {
    pub(crate) fn local_addr(&self) -> SocketAddr {
        self.listening.addr
    }

    pub(crate) async fn accept(&self) -> io::Result<SimStream> {
        loop {
            let stream = self.listening.queue.borrow_mut().pop_front();
            if let Some(stream) = stream {
                return Ok(stream);
            }
            self.listening.arrived.notified().await;
        }
    }
}

impl Drop for SimListener {
    fn drop(&mut self) {
        if !self.core.alive() {
            return;
        }
        let machine = self.core.machine();
        let mut listeners = machine.net.listeners.borrow_mut();
        if let Some(same_port) = listeners.get_mut(&self.listening.addr.port()) {
            same_port.retain(|other| !Rc::ptr_eq(other, &self.listening));
            if same_port.is_empty() {
                listeners.remove(&self.listening.addr.port());
            }
        }
    }
}

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

impl SimCore {
    pub(crate) fn listen(
        &self,
        addr: SocketAddr,
        options: &ListenOptions,
    ) -> io::Result<SimListener> {
        let machine = self.machine();
        let port = match addr.port() {
            0 => machine.net.ephemeral_port(),
            port => port,
        };
        let ip = if addr.ip().is_unspecified() {
            node_ip(NodeId(self.node))
        } else {
            addr.ip()
        };
        let mut listeners = machine.net.listeners.borrow_mut();
        let same_port = listeners.entry(port).or_default();
        if !same_port.is_empty() && !options.reuse_port {
            return Err(ErrorKind::AddrInUse.into());
        }
        let listening = Rc::new(Listening {
            addr: SocketAddr::new(ip, port),
            queue: RefCell::default(),
            arrived: Notify::new(),
        });
        same_port.push(listening.clone());
        Ok(SimListener {
            listening,
            core: self.clone(),
        })
    }

    pub(crate) async fn connect(&self, addr: SocketAddr) -> io::Result<SimStream> {
        let target = if addr.ip().is_loopback() {
            node_ip(NodeId(self.node))
        } else {
            addr.ip()
        };
        let ours = if addr.ip().is_loopback() {
            addr.ip()
        } else {
            node_ip(NodeId(self.node))
        };
        let this = self.clone();
        self.later(DELAY_MAX, move || {
            let world = &this.world;
            let nodes = world.nodes.borrow();
            let Some(index) = (0..nodes.len()).find(|n| node_ip(NodeId(*n)) == target) else {
                return Err(ErrorKind::HostUnreachable.into());
            };
            let (here, there) = (&nodes[this.node], &nodes[index]);
            let listeners = there.net.listeners.borrow();
            let Some(candidates) = listeners.get(&addr.port()) else {
                return Err(ErrorKind::ConnectionRefused.into());
            };
            let listening = &candidates[world.below(candidates.len() as u64) as usize];
            let pipe = || {
                let pipe = Rc::new(Pipe {
                    world: world.clone(),
                    state: RefCell::default(),
                    changed: Notify::new(),
                });
                here.net.watch(&pipe);
                there.net.watch(&pipe);
                pipe
            };
            let (out, back) = (pipe(), pipe());
            let client = SocketAddr::new(ours, here.net.ephemeral_port());
            listening.queue.borrow_mut().push_back(SimStream::new(
                addr,
                client,
                out.clone(),
                back.clone(),
            ));
            listening.arrived.notify_one();
            Ok(SimStream::new(client, addr, back, out))
        })
        .await
    }
}

impl SimStream {
    fn new(
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
            self.incoming.state.borrow_mut().unread = true;
            self.incoming.changed.notify_all();
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
