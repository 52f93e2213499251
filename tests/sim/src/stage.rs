//! What storm, clients and checkers of a run share. All of it lives in one thread.

use std::cell::{Cell, RefCell, RefMut};
use std::net::SocketAddr;
use std::rc::Rc;

use trireme::node::NodeError;

use crate::draw::Mix;
use crate::history::{History, LogId};
use crate::trace;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// The topics are being created.
    Setup,
    Running,
    /// Finish what you have begun, then stop.
    Closing,
}

pub struct Stage {
    pub mix: Mix,
    pub broker: SocketAddr,
    pub phase: Cell<Phase>,
    history: RefCell<History>,
    /// By topic, by partition.
    logs: RefCell<Vec<Vec<LogId>>>,
    /// Clients that have not ended.
    busy: RefCell<Vec<String>>,
    /// Acknowledged records, and writers that have not had all of theirs yet.
    pub acknowledged: Cell<u64>,
    pub writers_left: Cell<usize>,
    pub finale_done: Cell<bool>,
    /// How the broker's main ended, if it has.
    pub broker_ended: RefCell<Option<Result<(), NodeError>>>,
}

impl Stage {
    pub fn new(mix: Mix, broker: SocketAddr, traced: bool) -> Rc<Stage> {
        Rc::new(Stage {
            writers_left: Cell::new(mix.writers.len()),
            mix,
            broker,
            phase: Cell::new(Phase::Setup),
            history: RefCell::new(History::new(traced)),
            logs: RefCell::default(),
            busy: RefCell::default(),
            acknowledged: Cell::new(0),
            finale_done: Cell::new(false),
            broker_ended: RefCell::default(),
        })
    }

    /// For code on a simulated core.
    pub fn history(&self) -> RefMut<'_, History> {
        trace::set_clock(trireme_runtime::now().as_nanos());
        self.history.borrow_mut()
    }

    /// For code outside of the simulation, which has set the clock.
    pub fn history_outside(&self) -> RefMut<'_, History> {
        self.history.borrow_mut()
    }

    pub fn is_broken(&self) -> bool {
        self.history.borrow().violation().is_some()
    }

    /// Takes what is known, at the end.
    pub fn take_history(&self) -> History {
        self.history.take()
    }

    pub fn rebalances(&self) -> u64 {
        self.history.borrow().counts.rebalances
    }

    pub fn is_closing(&self) -> bool {
        self.phase.get() == Phase::Closing
    }

    pub fn acknowledged(&self, records: u64) {
        self.acknowledged.set(records);
    }

    pub fn writer_done(&self) {
        self.writers_left.set(self.writers_left.get() - 1);
    }

    pub fn set_logs(&self, topic: usize, logs: Vec<LogId>) {
        let mut all = self.logs.borrow_mut();
        if all.len() <= topic {
            all.resize(topic + 1, Vec::new());
        }
        all[topic] = logs;
    }

    pub fn logs_of(&self, topics: &[usize]) -> Vec<LogId> {
        let all = self.logs.borrow();
        topics
            .iter()
            .flat_map(|topic| all[*topic].clone())
            .collect()
    }

    pub fn client_begins(&self, name: &str) {
        self.busy.borrow_mut().push(name.to_owned());
    }

    pub fn client_ended(&self, name: &str) {
        self.busy.borrow_mut().retain(|busy| busy != name);
    }

    pub fn busy(&self) -> Vec<String> {
        self.busy.borrow().clone()
    }
}
