//! Nodes and the choice of what happens next.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::core::SimCore;
use super::disk::Disk;
use super::faults::Fault;
use super::image::SeededFate;
use super::net::NodeNet;
use super::recorder::Whose;
use super::world::{Node, Signals, World};
use crate::core::{Backend, Core, enter};
use crate::mail::MailRoom;
use crate::queue::TaskQueue;
use crate::stats::Counters;
use crate::task::Share;
use crate::time::Instant;
use crate::wake::CoreWake;

/// Longest virtual time that one poll takes, in ns.
const POLL_MAX: u64 = 2_000;

/// A node of a simulation.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct NodeId(pub usize);

/// A world of nodes that runs the same way for the same seed.
pub struct Simulation {
    pub(super) world: Rc<World>,
}

/// How a process ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum End {
    /// Its mains have returned: connections end in order.
    Exit,
    /// It is killed: connections are reset; what it wrote stays in the page cache.
    Kill,
    /// The machine loses power.
    PowerCut,
}

/// What [`abort_node`] throws.
struct Aborted(String);

/// Ends the task that calls it; the scheduler then ends its node.
pub(crate) fn abort_node(reason: &str) -> ! {
    // Not a panic for the hook to report: it is an end like another.
    resume_unwind(Box::new(Aborted(reason.to_owned())))
}

impl Simulation {
    pub fn new(seed: u64) -> Self {
        Simulation {
            world: World::new(seed),
        }
    }

    /// Starts a node with an empty disk. Its address is [`Simulation::node_ip`].
    pub fn node<F, Fut>(&mut self, cores: usize, main: F) -> NodeId
    where
        F: Fn(usize) -> Fut + 'static,
        Fut: Future<Output = ()> + 'static,
    {
        self.node_on(Disk::new(), cores, main)
    }

    pub(super) fn node_on<F, Fut>(&mut self, disk: Disk, cores: usize, main: F) -> NodeId
    where
        F: Fn(usize) -> Fut + 'static,
        Fut: Future<Output = ()> + 'static,
    {
        let id = NodeId(self.world.nodes.borrow().len());
        self.world.nodes.borrow_mut().push(Rc::new(Node {
            disk: RefCell::new(disk),
            disk_faults: RefCell::default(),
            disk_calls: Cell::new(0),
            boundary_hook: RefCell::default(),
            net: NodeNet::default(),
            incarnation: Cell::new(0),
            cores: RefCell::default(),
            core_count: Cell::new(0),
            mains_left: Cell::new(0),
            signals: Signals::default(),
        }));
        self.start(id, cores, main);
        id
    }

    /// Address of a node; inside a node 127.0.0.1 is the node itself.
    pub fn node_ip(node: NodeId) -> std::net::IpAddr {
        super::net::node_ip(node)
    }

    fn start<F, Fut>(&mut self, id: NodeId, cores: usize, main: F)
    where
        F: Fn(usize) -> Fut + 'static,
        Fut: Future<Output = ()> + 'static,
    {
        assert!(cores > 0, "a node has at least one core");
        let node = self.world.node(id.0);
        assert!(node.cores.borrow().is_empty(), "the node runs already");
        node.incarnation.set(node.incarnation.get() + 1);
        node.core_count.set(cores);
        node.mains_left.set(cores);
        node.signals.held.set(false);
        node.signals.waiting.set(0);
        let peers: Arc<[Arc<CoreWake>]> = (0..cores)
            .map(|_| Arc::new(CoreWake::simulated()))
            .collect();
        let main = Rc::new(main);
        let mut started = Vec::new();
        for core_id in 0..cores {
            let sim = SimCore {
                world: self.world.clone(),
                node: id.0,
                core: core_id,
                incarnation: node.incarnation.get(),
            };
            let core = Rc::new(Core {
                id: core_id,
                queue: TaskQueue::new(peers[core_id].clone()),
                timers: Rc::default(),
                backend: Backend::Sim(sim),
                mail: MailRoom::default(),
                counters: Rc::new(Counters::default()),
                share: Cell::new(Share::Client),
                slice_start: Cell::new(0),
                random: Cell::new(0),
                peers: peers.clone(),
            });
            let (main, node) = (main.clone(), Rc::downgrade(&node));
            let task = core.queue.spawn(Share::Client, async move {
                main(core_id).await;
                if let Some(node) = node.upgrade() {
                    node.mains_left.set(node.mains_left.get() - 1);
                }
            });
            task.detach();
            started.push(core);
        }
        *node.cores.borrow_mut() = started;
        self.world
            .record(Whose::Node(id.0), format_args!("starts with {cores} cores"));
        self.world.retry_held();
    }

    /// Power cut: tasks vanish, connections are reset (or not even that, see [`NetFaults`](super::NetFaults)), the disk keeps what is durable and, by seed, some of the rest. Also
    /// for a node that has ended before: its unsynced data is still at stake.
    pub fn crash(&mut self, node: NodeId) {
        self.end(node.0, End::PowerCut);
    }

    /// SIGKILL: as [`Simulation::crash`], but what was written stays, synced or not.
    pub fn kill(&mut self, node: NodeId) {
        self.end(node.0, End::Kill);
    }

    /// SIGTERM: ends the process as [`Simulation::kill`] does, or wakes its [`terminated`](crate::signal::terminated) if it
    /// holds signals by now.
    pub fn terminate(&mut self, node: NodeId) {
        let machine = self.world.node(node.0);
        if !machine.signals.held.get() {
            return self.end(node.0, End::Kill);
        }
        self.world.note(0x7E);
        machine
            .signals
            .waiting
            .set(machine.signals.waiting.get() + 1);
        machine.signals.arrived.notify_all();
    }

    /// Starts a crashed or ended node again on its disk, with as many cores as before.
    pub fn restart<F, Fut>(&mut self, node: NodeId, main: F)
    where
        F: Fn(usize) -> Fut + 'static,
        Fut: Future<Output = ()> + 'static,
    {
        let cores = self.world.node(node.0).core_count.get();
        self.start(node, cores, main);
    }

    /// [`Simulation::restart`] with another number of cores.
    pub fn restart_with<F, Fut>(&mut self, node: NodeId, cores: usize, main: F)
    where
        F: Fn(usize) -> Fut + 'static,
        Fut: Future<Output = ()> + 'static,
    {
        self.start(node, cores, main);
    }

    /// Whether the node runs: not crashed, not aborted, not all its mains returned.
    pub fn is_running(&self, node: NodeId) -> bool {
        !self.world.node(node.0).cores.borrow().is_empty()
    }

    fn end(&self, index: usize, how: End) {
        let node = self.world.node(index);
        self.world.note(index as u64 ^ (how as u64) << 32);
        match how {
            End::Exit => self.world.record(Whose::Node(index), format_args!("ends")),
            End::Kill => self.world.count(Fault::Kill, Whose::Node(index)),
            End::PowerCut => self.world.count(Fault::PowerCut, Whose::Node(index)),
        }
        let cores = node.cores.take();
        if how == End::Exit {
            // Destructors run with the process still there, so that connections end in order.
            drop_tasks(&cores);
            node.net.drop_listeners();
        }
        node.incarnation.set(node.incarnation.get() + 1);
        if how != End::Exit {
            // A process leaves its kernel behind, which resets its connections; a power cut leaves nobody.
            let half_open_one_in = self.world.net_faults.borrow().half_open_one_in;
            node.net.sever(index, || {
                how == End::PowerCut && self.world.chance(half_open_one_in)
            });
            drop_tasks(&cores);
        }
        match how {
            End::PowerCut => {
                let mut fate = SeededFate::new(self.world.random());
                node.disk.borrow_mut().crash(&mut fate);
                let counts = fate.into_counts();
                self.world.record(
                    Whose::Node(index),
                    format_args!("the disk after the power cut: {counts}"),
                );
                self.world.count_all(&counts);
            }
            End::Exit | End::Kill => node.disk.borrow_mut().release_locks(),
        }
    }

    /// Steps until `done()`; false if nothing is left to happen before.
    pub fn run_until(&mut self, mut done: impl FnMut() -> bool) -> bool {
        while !done() {
            if !self.step(u64::MAX) {
                return false;
            }
        }
        true
    }

    /// Steps until all mains of the node have returned, or it crashed; false if nothing is left to happen before.
    pub fn run_until_finished(&mut self, node: NodeId) -> bool {
        while self.is_running(node) {
            if !self.step(u64::MAX) {
                return false;
            }
        }
        true
    }

    /// Lets this much virtual time pass.
    pub fn run_for(&mut self, duration: Duration) {
        let end = (self.now() + duration).as_nanos();
        while self.step(end) {}
        self.world.advance_to(end);
    }

    pub fn now(&self) -> Instant {
        self.world.now()
    }

    /// A hash over everything that happened: equal for equal seeds.
    pub fn trace_hash(&self) -> u64 {
        self.world.trace()
    }

    /// Lets one thing happen, not after `limit`; false if there is none.
    fn step(&self, limit: u64) -> bool {
        if self.world.now().as_nanos() >= limit {
            return false;
        }
        self.fire_due();
        if let Some((node, core, choice)) = self.choose() {
            self.run_task(node, &core, choice);
            return true;
        }
        let timers = self
            .cores()
            .into_iter()
            .filter_map(|(_, core)| core.timers.borrow().next_deadline());
        let next = timers
            .map(Instant::as_nanos)
            .chain(self.world.next_event())
            .min();
        match next {
            Some(time) if time <= limit => {
                self.world.advance_to(time);
                true
            }
            _ => false,
        }
    }

    /// All cores that run, in order.
    fn cores(&self) -> Vec<(usize, Rc<Core>)> {
        let nodes = self.world.nodes.borrow();
        let cores = |(index, node): (usize, &Rc<Node>)| {
            node.cores
                .borrow()
                .iter()
                .map(|core| (index, core.clone()))
                .collect::<Vec<_>>()
        };
        nodes.iter().enumerate().flat_map(cores).collect()
    }

    /// Events, timers and mail that are due. They only make tasks ready.
    fn fire_due(&self) {
        while let Some(event) = self.world.pop_due() {
            event();
        }
        let now = self.world.now();
        for (_, core) in self.cores() {
            let _entered = enter(&core);
            loop {
                let due = core.timers.borrow_mut().pop_due(now);
                match due {
                    Some(waker) => waker.wake(),
                    None => break,
                }
            }
            if core.wake().take_doorbell() {
                core.mail.deliver();
            }
        }
    }

    /// One of the ready tasks: node, core and index.
    fn choose(&self) -> Option<(usize, Rc<Core>, usize)> {
        let ready = |core: &Core| core.queue.len(Share::Client) + core.queue.len(Share::Background);
        let cores = self.cores();
        let total: usize = cores.iter().map(|(_, core)| ready(core)).sum();
        if total == 0 {
            return None;
        }
        let mut choice = self.world.below(total as u64) as usize;
        for (node, core) in cores {
            match choice.checked_sub(ready(&core)) {
                None => return Some((node, core, choice)),
                Some(rest) => choice = rest,
            }
        }
        unreachable!("the choice is below the total")
    }

    fn run_task(&self, index: usize, core: &Rc<Core>, choice: usize) {
        let (share, runnable) = core.queue.remove(choice).expect("it was counted");
        self.world
            .note((index as u64) << 48 ^ (core.id as u64) << 32 ^ choice as u64);
        self.world
            .advance_to(self.world.now().as_nanos() + self.world.below(POLL_MAX));
        let waiting = core.queue.len(Share::Client) + core.queue.len(Share::Background);
        self.world.record(
            Whose::Core(index, core.id),
            format_args!("task {choice} polled, {waiting} others ready"),
        );
        let result = {
            let _entered = enter(core);
            core.share.set(share);
            core.slice_start.set(0);
            core.counters.tasks_polled.add(1);
            let result = catch_unwind(AssertUnwindSafe(|| runnable.run()));
            core.mail.flush(core);
            result
        };
        match result {
            Err(panic) => self.task_panicked(index, panic),
            Ok(_) => {
                let node = self.world.node(index);
                if node.mains_left.get() == 0 && !node.cores.borrow().is_empty() {
                    self.end(index, End::Exit);
                }
            }
        }
    }

    fn task_panicked(&self, index: usize, panic: Box<dyn Any + Send>) {
        match panic.downcast::<Aborted>() {
            Ok(aborted) => {
                tracing::error!(node = index, reason = aborted.0, "a simulated node aborts");
                self.world.count(Fault::Abort, Whose::Node(index));
                *self.world.last_abort.borrow_mut() = Some(aborted.0.clone());
                self.world
                    .record(Whose::Node(index), format_args!("aborts: {}", aborted.0));
                // Whoever aborts must not rely on more than what is durable.
                self.end(
                    index,
                    if self.world.one_in(2) {
                        End::PowerCut
                    } else {
                        End::Kill
                    },
                );
            }
            Err(panic) => resume_unwind(panic),
        }
    }
}

fn drop_tasks(cores: &[Rc<Core>]) {
    for core in cores {
        let _entered = enter(core);
        core.queue.shut_down();
    }
}

impl Drop for Simulation {
    fn drop(&mut self) {
        let nodes = self.world.nodes.borrow().len();
        (0..nodes).for_each(|index| self.end(index, End::Kill));
        self.world.clear();
    }
}
