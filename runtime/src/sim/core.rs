//! A core's view of the simulated world.

use std::rc::Rc;

use super::recorder::Whose;
use super::world::{Later, Node, Pending, World};
use crate::time::Instant;

/// Wall clock at the simulation's start, milliseconds since 1970.
const START_UNIX_MS: i64 = 1_800_000_000_000;

/// One process on one node. What outlives it asks [`SimCore::alive`] before it has an effect.
#[derive(Clone)]
pub(crate) struct SimCore {
    pub(super) world: Rc<World>,
    pub(super) node: usize,
    pub(super) core: usize,
    pub(super) incarnation: u64,
}

impl SimCore {
    pub(crate) fn now(&self) -> Instant {
        self.world.now()
    }

    pub(crate) fn unix_ms(&self) -> i64 {
        START_UNIX_MS + (self.world.now().as_nanos() / 1_000_000) as i64
    }

    pub(crate) fn random_u64(&self) -> u64 {
        self.world.random()
    }

    /// A time slice ends by chance, as polls take no time here.
    pub(crate) fn should_yield(&self) -> bool {
        self.world.one_in(8)
    }

    /// From now on the process waits for signals.
    pub(crate) fn hold_signals(&self) {
        self.machine().signals.held.set(true);
    }

    /// Waits for a signal that has not been reported yet.
    pub(crate) async fn signaled(&self) {
        let machine = self.machine();
        let signals = &machine.signals;
        loop {
            if let Some(left) = signals.waiting.get().checked_sub(1) {
                return signals.waiting.set(left);
            }
            signals.arrived.notified().await;
        }
    }

    pub(super) fn machine(&self) -> Rc<Node> {
        self.world.node(self.node)
    }

    pub(super) fn whose(&self) -> Whose {
        Whose::Core(self.node, self.core)
    }

    pub(super) fn record(&self, what: std::fmt::Arguments<'_>) {
        self.world.record(self.whose(), what);
    }

    /// Whether this process still runs.
    pub(super) fn alive(&self) -> bool {
        self.machine().incarnation.get() == self.incarnation
    }

    /// Does `f` after `delay` ns, if the process then still runs. It happens whether or not the future lives.
    pub(super) fn later<T: 'static>(
        &self,
        delay: u64,
        f: impl FnOnce() -> T + 'static,
    ) -> Pending<T> {
        let (later, pending) = Later::new();
        let this = self.clone();
        self.world.after(delay, move || {
            if this.alive() {
                later.set(f());
            }
        });
        pending
    }

    /// A delay: mostly short, now and then the longest.
    pub(super) fn delay(&self, max: u64) -> u64 {
        let max = if self.world.one_in(16) { max } else { max / 8 };
        1 + self.world.below(max + 1)
    }
}
