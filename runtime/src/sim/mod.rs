//! The deterministic backend: virtual clock, seeded scheduler, simulated disks and network, whole nodes in one thread.

mod stub;
pub(crate) use stub::*;

use std::future::Future;
use std::time::Duration;

use crate::time::Instant;

/// A node of a simulation.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct NodeId(pub usize);

/// A world of nodes that runs the same way for the same seed.
pub struct Simulation(());

impl Simulation {
    pub fn new(seed: u64) -> Self {
        let _ = seed;
        unimplemented!()
    }

    /// Starts a node with an empty disk. Its address is [`Simulation::node_ip`].
    pub fn node<F, Fut>(&mut self, cores: usize, main: F) -> NodeId
    where
        F: Fn(usize) -> Fut + 'static,
        Fut: Future<Output = ()> + 'static,
    {
        let _ = (cores, main);
        unimplemented!()
    }

    /// Address of a node; inside a node 127.0.0.1 is the node itself.
    pub fn node_ip(node: NodeId) -> std::net::IpAddr {
        let _ = node;
        unimplemented!()
    }

    /// Power cut: tasks vanish without running destructors' effects on the world, connections reset, the disk keeps what is
    /// durable and, by seed, some of the rest.
    pub fn crash(&mut self, node: NodeId) {
        let _ = node;
        unimplemented!()
    }

    /// Starts a crashed or finished node again on its disk.
    pub fn restart<F, Fut>(&mut self, node: NodeId, main: F)
    where
        F: Fn(usize) -> Fut + 'static,
        Fut: Future<Output = ()> + 'static,
    {
        let _ = (node, main);
        unimplemented!()
    }

    /// Whether the node runs: not crashed, not aborted, not all its mains returned.
    pub fn is_running(&self, node: NodeId) -> bool {
        let _ = node;
        unimplemented!()
    }

    /// Steps until `done()`; false if nothing is left to happen before.
    pub fn run_until(&mut self, done: impl FnMut() -> bool) -> bool {
        let _ = done;
        unimplemented!()
    }

    /// Steps until all mains of the node have returned, or it crashed; false if nothing is left to happen before.
    pub fn run_until_finished(&mut self, node: NodeId) -> bool {
        let _ = node;
        unimplemented!()
    }

    /// Lets this much virtual time pass.
    pub fn run_for(&mut self, duration: Duration) {
        let _ = duration;
        unimplemented!()
    }

    pub fn now(&self) -> Instant {
        unimplemented!()
    }

    /// A hash over everything that happened: equal for equal seeds.
    pub fn trace_hash(&self) -> u64 {
        unimplemented!()
    }
}
