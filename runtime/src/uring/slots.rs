//! The table of operations that the kernel has, or whose result nobody has taken yet.

use std::any::Any;
use std::collections::VecDeque;
use std::task::Waker;

use slab::Slab;

/// Generations stay below this, so that no slot's user data looks like one of the driver's own.
const GENERATIONS: u32 = 0xFFFF_0000;

/// What an operation leaves behind that must be cleaned up if nobody takes its result.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Leaves {
    Nothing,
    /// A buffer of the receive ring.
    RecvBuffer,
    /// A new file descriptor.
    Descriptor,
}

/// Result and flags of a completion.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Completion {
    pub(crate) result: i32,
    pub(crate) flags: u32,
}

/// Index and generation of a slot. A slot is free only after its last completion, so user data is never ambiguous for
/// completions; the generation keeps a late cancel from hitting the slot's next user.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Key(u64);

impl Key {
    pub(crate) fn user_data(self) -> u64 {
        self.0
    }

    pub(crate) fn from_user_data(data: u64) -> Option<Key> {
        ((data >> 32) < u64::from(GENERATIONS)).then_some(Key(data))
    }

    fn index(self) -> usize {
        self.0 as u32 as usize
    }
}

pub(super) struct Slot {
    key: Key,
    leaves: Leaves,
    state: State,
}

enum State {
    Pending(Option<Waker>),
    Done(Completion),
    /// The future is gone; what the kernel may still use waits here.
    Orphaned(Box<dyn Any>),
    Multi {
        queue: VecDeque<Completion>,
        waker: Option<Waker>,
        ended: bool,
    },
}

/// What to do after a completion was entered, outside of any borrow.
pub(super) enum After {
    Nothing,
    Wake(Waker),
    /// An orphan's completion: clean up what it left; the box goes with the last one.
    Discard(Leaves, Completion, Option<Box<dyn Any>>),
}

#[derive(Default)]
pub(super) struct Slots {
    slots: Slab<Slot>,
    generation: u32,
    pending: usize,
    orphans: usize,
}

impl Slots {
    fn insert(&mut self, leaves: Leaves, state: State) -> Key {
        self.generation = (self.generation + 1) % GENERATIONS;
        let entry = self.slots.vacant_entry();
        let key = Key(u64::from(self.generation) << 32 | entry.key() as u64);
        entry.insert(Slot { key, leaves, state });
        key
    }

    pub(super) fn insert_single(&mut self, leaves: Leaves) -> Key {
        self.pending += 1;
        self.insert(leaves, State::Pending(None))
    }

    pub(super) fn insert_multi(&mut self, leaves: Leaves) -> Key {
        self.pending += 1;
        self.insert(
            leaves,
            State::Multi {
                queue: VecDeque::new(),
                waker: None,
                ended: false,
            },
        )
    }

    /// An operation that was never handed to the kernel.
    pub(super) fn insert_done(&mut self, result: i32) -> Key {
        self.insert(
            Leaves::Nothing,
            State::Done(Completion { result, flags: 0 }),
        )
    }

    fn get(&mut self, key: Key) -> &mut Slot {
        let slot = &mut self.slots[key.index()];
        assert_eq!(slot.key, key, "operation table is corrupt");
        slot
    }

    /// The result of a single operation, whose slot is free then; else remembers the waker.
    pub(super) fn poll_single(&mut self, key: Key, waker: &Waker) -> Option<Completion> {
        match &mut self.get(key).state {
            State::Done(completion) => {
                let completion = *completion;
                self.slots.remove(key.index());
                Some(completion)
            }
            State::Pending(old) => {
                remember(old, waker);
                None
            }
            _ => unreachable!("a single operation with its future alive"),
        }
    }

    /// The next result of a multishot operation. `Some(Err)` once it has ended and all results are taken.
    pub(super) fn poll_multi(&mut self, key: Key, waker: &Waker) -> Option<Result<Completion, ()>> {
        match &mut self.get(key).state {
            State::Multi {
                queue,
                waker: old,
                ended,
            } => match queue.pop_front() {
                Some(completion) => Some(Ok(completion)),
                None if *ended => Some(Err(())),
                None => {
                    remember(old, waker);
                    None
                }
            },
            _ => unreachable!("a multishot operation with its owner alive"),
        }
    }

    /// Results of a multishot operation that nobody has taken yet.
    pub(super) fn queued(&self, key: Key) -> usize {
        match &self.slots[key.index()].state {
            State::Multi { queue, .. } => queue.len(),
            _ => 0,
        }
    }

    pub(super) fn complete(&mut self, key: Key, completion: Completion, more: bool) -> After {
        let slot = self.get(key);
        match &mut slot.state {
            State::Pending(waker) => {
                assert!(!more, "a single operation completes once");
                let waker = waker.take();
                slot.state = State::Done(completion);
                self.pending -= 1;
                waker.map_or(After::Nothing, After::Wake)
            }
            State::Multi {
                queue,
                waker,
                ended,
            } => {
                queue.push_back(completion);
                let waker = waker.take();
                if !more {
                    *ended = true;
                    self.pending -= 1;
                }
                waker.map_or(After::Nothing, After::Wake)
            }
            State::Orphaned(_) => {
                let leaves = slot.leaves;
                if more {
                    return After::Discard(leaves, completion, None);
                }
                self.pending -= 1;
                self.orphans -= 1;
                let State::Orphaned(resources) = self.slots.remove(key.index()).state else {
                    unreachable!()
                };
                After::Discard(leaves, completion, Some(resources))
            }
            State::Done(_) => unreachable!("a second completion of a single operation"),
        }
    }

    /// The future of the operation is dropped. Either the kernel still has it: the slot keeps `resources` (made only then)
    /// until the last completion, and the answer is true. Or it is over: its results are returned for clean-up.
    pub(super) fn orphan(
        &mut self,
        key: Key,
        resources: impl FnOnce() -> Box<dyn Any>,
    ) -> (bool, Leaves, VecDeque<Completion>) {
        let slot = self.get(key);
        let leaves = slot.leaves;
        match &mut slot.state {
            State::Done(completion) => {
                let done = VecDeque::from([*completion]);
                self.slots.remove(key.index());
                (false, leaves, done)
            }
            State::Pending(_) => {
                slot.state = State::Orphaned(resources());
                self.orphans += 1;
                (true, leaves, VecDeque::new())
            }
            State::Multi { queue, ended, .. } => {
                let queue = std::mem::take(queue);
                if *ended {
                    self.slots.remove(key.index());
                    return (false, leaves, queue);
                }
                slot.state = State::Orphaned(resources());
                self.orphans += 1;
                (true, leaves, queue)
            }
            State::Orphaned(_) => unreachable!("orphaned twice"),
        }
    }

    /// Operations that the kernel has.
    pub(super) fn pending(&self) -> usize {
        self.pending
    }

    pub(super) fn orphans(&self) -> usize {
        self.orphans
    }
}

fn remember(old: &mut Option<Waker>, waker: &Waker) {
    match old {
        Some(old) => old.clone_from(waker),
        None => *old = Some(waker.clone()),
    }
}
