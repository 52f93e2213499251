//! What a test does to a world from outside: faults, partitions, rot, disks taken out and put in.

use std::future::Future;
use std::path::Path;

use super::SECTOR;
use super::disk::{Disk, Found};
use super::faults::{DiskFaults, Fault, FaultCounts, NetFaults};
use super::image::{Boundary, DiskImage};
use super::recorder::Whose;
use super::schedule::{NodeId, Simulation};

/// How bytes at rest rot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rot {
    /// One bit turns round.
    Bit,
    /// A sector is overwritten by noise.
    Sector,
}

impl Simulation {
    /// From now on the node's disk does this wrong, whatever it did before.
    pub fn set_disk_faults(&mut self, node: NodeId, faults: DiskFaults) {
        *self.world.node(node.0).disk_faults.borrow_mut() = faults;
    }

    /// From now on the network does this wrong.
    pub fn set_net_faults(&mut self, faults: NetFaults) {
        *self.world.net_faults.borrow_mut() = faults;
    }

    /// Nothing gets through between the two nodes, in both directions, until [`Simulation::heal`].
    pub fn partition(&mut self, a: NodeId, b: NodeId) {
        self.partition_one_way(a, b);
        self.partition_one_way(b, a);
    }

    /// Nothing gets through from one node to the other; connecting takes both directions.
    pub fn partition_one_way(&mut self, from: NodeId, to: NodeId) {
        assert_ne!(from, to, "a node reaches itself");
        if self.world.blocked.borrow_mut().insert((from.0, to.0)) {
            self.world.count(Fault::Partition, Whose::Node(from.0));
        }
    }

    /// Ends all partitions: what was held arrives.
    pub fn heal(&mut self) {
        if !self.world.blocked.take().is_empty() {
            self.world.count(Fault::Heal, Whose::World);
            self.world.retry_held();
        }
    }

    /// A bit or a sector of one of the node's files that are not empty rots, drawn from the seed among those whose path
    /// `may_rot` accepts. Where it was: path and byte.
    pub fn rot(
        &mut self,
        node: NodeId,
        rot: Rot,
        mut may_rot: impl FnMut(&str) -> bool,
    ) -> Option<(String, u64)> {
        let world = &self.world;
        let mut files = world.node(node.0).disk.borrow().all_files();
        files.retain(|(path, file)| file.borrow().len() > 0 && may_rot(path));
        if files.is_empty() {
            return None;
        }
        let (path, file) = files.swap_remove(world.below(files.len() as u64) as usize);
        let mut file = file.borrow_mut();
        let byte = world.below(file.len());
        let position = match rot {
            Rot::Bit => {
                file.flip_bit(byte, world.below(8) as u32);
                byte
            }
            Rot::Sector => {
                let start = byte / SECTOR as u64 * SECTOR as u64;
                let len = (file.len() - start).min(SECTOR as u64);
                let noise: Vec<u8> = (0..len).map(|_| world.random() as u8).collect();
                file.overwrite(start, &noise);
                start
            }
        };
        world.count(Fault::BitRot, Whose::Node(node.0));
        world.record(
            Whose::Node(node.0),
            format_args!("{rot:?} of {path} {position} rots"),
        );
        Some((path, position))
    }

    /// What went wrong so far, of all nodes.
    pub fn fault_counts(&self) -> FaultCounts {
        self.world.counts()
    }

    /// What the last process that ended itself gave as its reason.
    pub fn last_abort(&self) -> Option<String> {
        self.world.last_abort.borrow().clone()
    }

    /// Keeps the last `lines` events for [`Simulation::recorded`]; the run and its trace hash stay what they are.
    pub fn record(&mut self, lines: usize) {
        self.world.recorder().set_limit(lines);
    }

    /// The last events: virtual time in ms, node and core, what.
    pub fn recorded(&self) -> Vec<String> {
        self.world.recorder().lines()
    }

    /// Disk calls that the node has submitted so far, over all its lives.
    pub fn disk_calls(&self, node: NodeId) -> u64 {
        self.world.node(node.0).disk_calls.get()
    }

    /// Calls `hook` before each change of the node's disk, until it is set again.
    pub fn on_disk_change(&mut self, node: NodeId, hook: impl FnMut(&Boundary<'_>) + 'static) {
        *self.world.node(node.0).boundary_hook.borrow_mut() = Some(Box::new(hook));
    }

    /// The node's disk as it is.
    pub fn disk_image(&self, node: NodeId) -> DiskImage {
        DiskImage(self.world.node(node.0).disk.borrow().image())
    }

    /// [`Simulation::node`] with a disk that has something on it.
    pub fn node_with_disk<F, Fut>(&mut self, disk: DiskImage, cores: usize, main: F) -> NodeId
    where
        F: Fn(usize) -> Fut + 'static,
        Fut: Future<Output = ()> + 'static,
    {
        self.node_on(Disk::of_image(disk.0), cores, main)
    }

    /// Bytes of a file of the node, as written; `None` if there is none.
    pub fn file(&self, node: NodeId, path: impl AsRef<Path>) -> Option<Vec<u8>> {
        let node = self.world.node(node.0);
        let Ok(Found::File(file)) = node.disk.borrow().find(path.as_ref()) else {
            return None;
        };
        let mut bytes = Vec::new();
        file.borrow().read(0, &mut bytes, usize::MAX);
        Some(bytes)
    }
}
