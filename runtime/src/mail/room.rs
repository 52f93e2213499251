//! A core's end of all its mail: which endpoints have something to announce, and which to look at when the doorbell rings.

use std::cell::{Cell, RefCell};
use std::sync::{Arc, Weak};

use crate::core::{Backend, Core};

/// An endpoint of one core.
pub(crate) trait Endpoint {
    /// Announces what was put into other cores' queues since the last flush: sets their flag and adds them to `targets`.
    fn announce(&self, targets: &mut Targets);
    /// The doorbell rang: looks whether it was for this endpoint.
    fn look(self: Arc<Self>);
}

/// Cores whose doorbell is to be rung.
#[derive(Default)]
pub(crate) struct Targets {
    cores: Vec<usize>,
}

impl Targets {
    pub(crate) fn add(&mut self, core: usize) {
        if !self.cores.contains(&core) {
            self.cores.push(core);
        }
    }
}

#[derive(Default)]
pub(crate) struct MailRoom {
    endpoints: RefCell<Vec<Weak<dyn Endpoint>>>,
    dirty: RefCell<Vec<Arc<dyn Endpoint>>>,
    targets: RefCell<Targets>,
    has_dirty: Cell<bool>,
}

impl MailRoom {
    /// From now on `endpoint` hears the doorbell.
    pub(crate) fn attach(&self, endpoint: &Arc<dyn Endpoint>) {
        let mut endpoints = self.endpoints.borrow_mut();
        endpoints.retain(|endpoint| endpoint.strong_count() > 0);
        endpoints.push(Arc::downgrade(endpoint));
    }

    /// `endpoint` has something to announce at the end of this turn. Called once per turn and endpoint.
    pub(crate) fn mark(&self, endpoint: Arc<dyn Endpoint>) {
        self.dirty.borrow_mut().push(endpoint);
        self.has_dirty.set(true);
    }

    /// Announces this turn's mail: one doorbell, and at most one wake, for each core that got some.
    pub(crate) fn flush(&self, core: &Core) {
        if !self.has_dirty.replace(false) {
            return;
        }
        let mut dirty = self.dirty.take();
        let mut targets = self.targets.take();
        for endpoint in dirty.drain(..) {
            endpoint.announce(&mut targets);
        }
        *self.dirty.borrow_mut() = dirty;
        for target in targets.cores.drain(..) {
            let wake = &core.peers[target];
            wake.ring_doorbell();
            if target != core.id && wake.must_wake() {
                core.counters.wakes_sent.add(1);
                match &core.backend {
                    Backend::Uring(uring) => uring.driver.send_wake(target, wake),
                    Backend::Sim(_) => (), // its scheduler sees the doorbell
                }
            }
        }
        *self.targets.borrow_mut() = targets;
    }

    /// The doorbell rang.
    pub(crate) fn deliver(&self) {
        // By index, as looking may attach or drop endpoints.
        let mut index = 0;
        loop {
            let endpoint = match self.endpoints.borrow().get(index) {
                Some(endpoint) => endpoint.upgrade(),
                None => return,
            };
            if let Some(endpoint) = endpoint {
                endpoint.look();
            }
            index += 1;
        }
    }
}
