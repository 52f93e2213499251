//! Simulated TCP between simulated nodes: delayed, in order, cut into pieces, reset when a node crashes.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::{Rc, Weak};

use super::NodeId;
use super::core::SimCore;
use super::faults::Fault;
use super::pipe::Pipe;
use super::stream::SimStream;
use crate::net::ListenOptions;
use crate::sync::Notify;

/// Longest delay of a connect, in ns.
const CONNECT_MAX: u64 = 2_000_000;
const EPHEMERAL_PORTS: std::ops::Range<u16> = 32768..60999;

/// A machine's side of the network.
#[derive(Default)]
pub(super) struct NodeNet {
    listeners: RefCell<BTreeMap<u16, Vec<Rc<Listening>>>>,
    pipes: RefCell<Vec<Weak<Pipe>>>,
    next_port: Cell<u16>,
}

impl NodeNet {
    /// The machine `node` forgets its connections, listeners vanish. Peers see a reset, except where `is_silent`.
    pub(super) fn sever(&self, node: usize, mut is_silent: impl FnMut() -> bool) {
        let listeners = self.listeners.take();
        for pipe in self.pipes.take() {
            if let Some(pipe) = pipe.upgrade() {
                pipe.sever(node, is_silent());
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
        let mut wait = self.world.net_faults.borrow().retransmit;
        let deadline = self.now() + self.world.net_faults.borrow().give_up;
        loop {
            let this = self.clone();
            let tried = self.later(self.delay(CONNECT_MAX), move || {
                this.try_connect(addr, target, ours)
            });
            if let Some(result) = tried.await {
                let outcome = if result.is_ok() {
                    "connected"
                } else {
                    "refused"
                };
                self.record(format_args!("connect to {addr}: {outcome}"));
                return result;
            }
            if self.now() + wait >= deadline {
                let left = deadline.as_nanos().saturating_sub(self.now().as_nanos());
                self.later(left, || ()).await;
                self.world.count(Fault::NetGivenUp, self.whose());
                return Err(ErrorKind::TimedOut.into());
            }
            self.later(wait.as_nanos() as u64, || ()).await;
            wait *= 2;
        }
    }

    /// `None` if nothing answers.
    fn try_connect(
        &self,
        addr: SocketAddr,
        target: IpAddr,
        ours: IpAddr,
    ) -> Option<io::Result<SimStream>> {
        let world = &self.world;
        let nodes = world.nodes.borrow();
        let Some(index) = (0..nodes.len()).find(|n| node_ip(NodeId(*n)) == target) else {
            return Some(Err(ErrorKind::HostUnreachable.into()));
        };
        if world.is_blocked(self.node, index) || world.is_blocked(index, self.node) {
            world.count(Fault::NetBlocked, self.whose());
            return None;
        }
        let refuse_one_in = world.net_faults.borrow().refuse_one_in;
        if world.chance(refuse_one_in) {
            world.count(Fault::NetRefused, self.whose());
            return Some(Err(ErrorKind::ConnectionRefused.into()));
        }
        let (here, there) = (&nodes[self.node], &nodes[index]);
        let listeners = there.net.listeners.borrow();
        let Some(candidates) = listeners.get(&addr.port()) else {
            return Some(Err(ErrorKind::ConnectionRefused.into()));
        };
        let listening = &candidates[world.below(candidates.len() as u64) as usize];
        let (out, back) = Pipe::pair(world, self.node, index);
        here.net.watch(&out);
        if self.node != index {
            there.net.watch(&out);
        }
        let client = SocketAddr::new(ours, here.net.ephemeral_port());
        let accepted = SimStream::new(addr, client, out.clone(), back.clone());
        listening.queue.borrow_mut().push_back(accepted);
        listening.arrived.notify_one();
        Some(Ok(SimStream::new(client, addr, back, out)))
    }
}
