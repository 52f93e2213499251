//! Simulated TCP between simulated nodes: delayed, in order, cut into pieces, reset when a node crashes.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::{Rc, Weak};

use super::NodeId;
use super::core::SimCore;
use super::stream::SimStream;
use super::world::World;
use crate::net::ListenOptions;
use crate::sync::Notify;

/// Bytes of one direction that are sent and not yet received.
pub(super) const PIPE_BYTES_MAX: usize = 64 << 10;
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
pub(super) struct Pipe {
    pub(super) world: Rc<World>,
    pub(super) state: RefCell<PipeState>,
    pub(super) changed: Notify,
}

#[derive(Default)]
pub(super) struct PipeState {
    pub(super) arrived: VecDeque<u8>,
    /// Sent and not arrived yet.
    pub(super) travelling: usize,
    /// When the last piece arrives: later ones do not overtake it.
    last_arrival: u64,
    /// The sender has ended, and that has arrived.
    pub(super) ended: bool,
    /// The sender has ended.
    pub(super) closed: bool,
    /// The receiver does not read any more.
    pub(super) unread: bool,
    pub(super) reset: bool,
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

    pub(super) fn send(self: &Rc<Self>, bytes: Vec<u8>) {
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
    pub(super) fn close(self: &Rc<Self>) {
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
