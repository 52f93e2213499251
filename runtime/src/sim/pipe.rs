//! One direction of a simulated connection, and what the network does to it.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::{Rc, Weak};
use std::time::Duration;

use super::faults::Fault;
use super::recorder::Whose;
use super::world::World;
use crate::sync::Notify;

/// Bytes of one direction that are sent and not yet received.
pub(super) const PIPE_BYTES_MAX: usize = 64 << 10;
/// A lost piece is lost again at most so often.
const LOSSES_MAX: u32 = 6;

pub(super) struct Pipe {
    pub(super) world: Rc<World>,
    /// Nodes.
    from: usize,
    to: usize,
    /// The other direction.
    other: RefCell<Weak<Pipe>>,
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
    /// Pieces that wait for the way to be open, and since when.
    held: VecDeque<Piece>,
    held_since: u64,
    /// The sender has ended, and that has arrived.
    pub(super) ended: bool,
    /// The sender has ended.
    pub(super) closed: bool,
    /// The receiver does not read any more.
    pub(super) unread: bool,
    pub(super) reset: bool,
    /// The machine that has forgotten the connection while the other does not know it yet.
    severed_by: Option<usize>,
}

enum Piece {
    Bytes(Vec<u8>),
    End,
}

impl Pipe {
    /// Both directions of a connection between two nodes.
    pub(super) fn pair(world: &Rc<World>, here: usize, there: usize) -> (Rc<Pipe>, Rc<Pipe>) {
        let pipe = |from, to| {
            Rc::new(Pipe {
                world: world.clone(),
                from,
                to,
                other: RefCell::default(),
                state: RefCell::default(),
                changed: Notify::new(),
            })
        };
        let (out, back) = (pipe(here, there), pipe(there, here));
        *out.other.borrow_mut() = Rc::downgrade(&back);
        *back.other.borrow_mut() = Rc::downgrade(&out);
        (out, back)
    }

    fn whose(&self) -> Whose {
        Whose::Node(self.from)
    }

    /// Both ends see a reset.
    fn reset(&self) {
        let other = self.other.borrow().upgrade();
        for pipe in [Some(self), other.as_deref()].into_iter().flatten() {
            let mut state = pipe.state.borrow_mut();
            state.reset = true;
            state.arrived.clear();
            state.held.clear();
            drop(state);
            pipe.changed.notify_all();
        }
    }

    /// Whether both directions are still of use to somebody.
    fn is_open(&self) -> bool {
        let state = self.state.borrow();
        !state.reset && state.severed_by.is_none()
    }

    /// The machine `node` has forgotten the connection. Its peer is told, unless that gets lost.
    pub(super) fn sever(self: &Rc<Self>, node: usize, is_silent: bool) {
        let Some(other) = self.other.borrow().upgrade() else {
            return;
        };
        if !self.is_open() {
            return;
        }
        self.state.borrow_mut().severed_by = Some(node);
        other.state.borrow_mut().severed_by = Some(node);
        let (outgoing, peer) = match self.from == node {
            true => (self.clone(), self.to),
            false => (other, self.from),
        };
        if peer == node {
            return;
        }
        if is_silent {
            self.world.count(Fault::HalfOpen, Whose::Node(node));
            return;
        }
        self.world.at(outgoing.arrival(), move || {
            match outgoing.world.is_blocked(node, peer) {
                true => outgoing.world.count(Fault::HalfOpen, Whose::Node(node)),
                false => outgoing.reset(),
            }
        });
    }

    /// When the next piece arrives.
    fn arrival(&self) -> u64 {
        let world = &self.world;
        let faults = world.net_faults.borrow();
        let longest = (faults.delay.as_nanos() as u64).max(8);
        let max = match world.one_in(16) {
            true => longest,
            false => longest / 8,
        };
        let mut time = world.now().as_nanos() + 1 + world.below(max);
        if world.chance(faults.slow_one_in) {
            world.count(Fault::NetSlow, self.whose());
            time += world.up_to(faults.slow);
        }
        if world.chance(faults.loss_one_in) {
            world.count(Fault::NetLoss, self.whose());
            let mut wait = faults.retransmit.as_nanos() as u64;
            for _ in 0..LOSSES_MAX {
                time += wait;
                if !world.chance(faults.loss_one_in) {
                    break;
                }
                wait *= 2;
            }
        }
        let mut state = self.state.borrow_mut();
        state.last_arrival = state.last_arrival.max(time);
        state.last_arrival
    }

    pub(super) fn send(self: &Rc<Self>, bytes: Vec<u8>) {
        self.state.borrow_mut().travelling += bytes.len();
        self.world.note(bytes.len() as u64);
        self.world.record(
            self.whose(),
            format_args!("sends {} bytes to n{}", bytes.len(), self.to),
        );
        let reset_one_in = self.world.net_faults.borrow().reset_one_in;
        let is_reset = self.from != self.to && self.world.chance(reset_one_in);
        let pipe = self.clone();
        self.world.at(self.arrival(), move || {
            if is_reset && pipe.is_open() {
                pipe.world.count(Fault::NetReset, pipe.whose());
                pipe.reset();
            }
            pipe.arrive(Piece::Bytes(bytes));
        });
    }

    /// The sender sends no more.
    pub(super) fn close(self: &Rc<Self>) {
        {
            let mut state = self.state.borrow_mut();
            if state.severed_by.is_some()
                || std::mem::replace(&mut state.closed, true)
                || state.reset
            {
                return;
            }
        }
        self.changed.notify_all();
        let pipe = self.clone();
        self.world
            .at(self.arrival(), move || pipe.arrive(Piece::End));
    }

    /// The receiver reads no more.
    pub(super) fn stop_reading(&self) {
        let mut state = self.state.borrow_mut();
        if state.severed_by.is_none() {
            state.unread = true;
            drop(state);
            self.changed.notify_all();
        }
    }

    fn arrive(self: &Rc<Self>, piece: Piece) {
        if self.state.borrow().reset {
            if let Piece::Bytes(bytes) = &piece {
                self.state.borrow_mut().travelling -= bytes.len();
            }
            return;
        }
        if self.is_held_up() || !self.state.borrow().held.is_empty() {
            return self.hold(piece);
        }
        if self.is_forgotten() {
            // The machine knows of no such connection, and says so.
            let pipe = self.clone();
            let delay = self.arrival() + 1;
            self.world.at(delay, move || {
                if !pipe.world.is_blocked(pipe.to, pipe.from) {
                    pipe.reset();
                }
            });
            // In case that gets lost.
            return self.hold(piece);
        }
        let mut state = self.state.borrow_mut();
        match piece {
            Piece::Bytes(bytes) => {
                state.travelling -= bytes.len();
                state.arrived.extend(bytes);
            }
            Piece::End => state.ended = true,
        }
        drop(state);
        self.changed.notify_all();
    }

    /// Whether the receiver knows nothing of it any more.
    fn is_forgotten(&self) -> bool {
        self.state.borrow().severed_by == Some(self.to)
    }

    /// Nothing gets through, or nobody is there who could answer.
    fn is_held_up(&self) -> bool {
        let is_down = || self.world.node(self.to).cores.borrow().is_empty();
        self.world.is_blocked(self.from, self.to) || self.is_forgotten() && is_down()
    }

    /// The sender sends the piece again and again.
    fn hold(self: &Rc<Self>, piece: Piece) {
        let mut state = self.state.borrow_mut();
        state.held.push_back(piece);
        if state.held.len() > 1 {
            return;
        }
        let since = self.world.now().as_nanos();
        state.held_since = since;
        drop(state);
        self.world.count(Fault::NetBlocked, self.whose());
        self.world.held.borrow_mut().push(self.clone());
        let give_up = self.world.net_faults.borrow().give_up;
        let pipe = self.clone();
        self.world.after(give_up.as_nanos() as u64, move || {
            let is_waiting = {
                let state = pipe.state.borrow();
                !state.held.is_empty() && state.held_since == since
            };
            if is_waiting {
                pipe.world.count(Fault::NetGivenUp, pipe.whose());
                pipe.reset();
            }
        });
    }

    /// The way may be open again.
    pub(super) fn retry(self: &Rc<Self>) {
        let pipe = self.clone();
        let delay = Duration::from_nanos(1 + self.world.below(1 << 20));
        self.world.after(delay.as_nanos() as u64, move || {
            // What arrives until then is held behind the others, so that nothing is overtaken.
            let held = std::mem::take(&mut pipe.state.borrow_mut().held);
            held.into_iter().for_each(|piece| pipe.arrive(piece));
        });
    }
}

impl World {
    pub(super) fn is_blocked(&self, from: usize, to: usize) -> bool {
        self.blocked.borrow().contains(&(from, to))
    }

    /// Ways have opened, or a machine runs again.
    pub(super) fn retry_held(&self) {
        let held = self.held.take();
        held.iter().for_each(Pipe::retry);
    }
}
