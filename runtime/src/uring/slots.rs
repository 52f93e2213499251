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
        /// Results that may wait to be taken; `None` once it was canceled for having more.
        untaken_max: Option<usize>,
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
    overfull: Vec<Key>,
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

    pub(super) fn insert_multi(&mut self, leaves: Leaves, untaken_max: usize) -> Key {
        self.pending += 1;
        self.insert(
            leaves,
            State::Multi {
                queue: VecDeque::new(),
                waker: None,
                ended: false,
                untaken_max: Some(untaken_max),
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
                ..
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

    /// A multishot operation that has to be canceled because its results are not taken. Once for each.
    pub(super) fn pop_overfull(&mut self) -> Option<Key> {
        self.overfull.pop()
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
                untaken_max,
            } => {
                queue.push_back(completion);
                let waker = waker.take();
                if !more {
                    *ended = true;
                    self.pending -= 1;
                } else if untaken_max.is_some_and(|max| queue.len() > max) {
                    *untaken_max = None;
                    self.overfull.push(key);
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::rc::Rc;

    const OK: Completion = Completion {
        result: 7,
        flags: 0,
    };

    #[test]
    fn a_slot_is_used_again_with_another_key() {
        let mut slots = Slots::default();
        let first = slots.insert_single(Leaves::Nothing);
        assert!(slots.poll_single(first, Waker::noop()).is_none());
        assert!(matches!(slots.complete(first, OK, false), After::Wake(_)));
        assert_eq!(slots.poll_single(first, Waker::noop()).unwrap().result, 7);
        let second = slots.insert_single(Leaves::Nothing);
        assert_eq!(first.index(), second.index());
        assert_ne!(first, second);
        assert_eq!(Key::from_user_data(second.user_data()), Some(second));
        assert_eq!(slots.pending(), 1);
    }

    #[test]
    fn an_orphan_keeps_its_resources_until_its_own_completion() {
        let mut slots = Slots::default();
        let resource = Rc::new(());
        let key = slots.insert_single(Leaves::RecvBuffer);
        let (in_kernel, ..) = slots.orphan(key, || Box::new(resource.clone()));
        assert!(in_kernel);
        assert_eq!((slots.orphans(), Rc::strong_count(&resource)), (1, 2));
        match slots.complete(key, OK, false) {
            After::Discard(Leaves::RecvBuffer, completion, Some(kept)) => {
                assert_eq!(completion.result, 7);
                drop(kept);
            }
            _ => panic!("an orphan's completion is to be cleaned up"),
        }
        assert_eq!((slots.orphans(), slots.pending()), (0, 0));
        assert_eq!(Rc::strong_count(&resource), 1);
    }

    #[test]
    fn a_dropped_future_of_a_finished_operation_gives_its_result_to_clean_up() {
        let mut slots = Slots::default();
        let key = slots.insert_single(Leaves::Descriptor);
        assert!(matches!(slots.complete(key, OK, false), After::Nothing));
        let (in_kernel, leaves, done) = slots.orphan(key, || unreachable!("it is over"));
        assert!(!in_kernel);
        assert_eq!((leaves, done.len()), (Leaves::Descriptor, 1));
    }

    #[test]
    fn a_multishot_operation_that_nobody_empties_is_canceled_once() {
        let mut slots = Slots::default();
        let key = slots.insert_multi(Leaves::Descriptor, 2);
        for _ in 0..10 {
            slots.complete(key, OK, true);
        }
        assert_eq!(slots.pop_overfull(), Some(key));
        assert_eq!(slots.pop_overfull(), None);
        slots.complete(key, OK, false);
        for _ in 0..11 {
            assert!(matches!(slots.poll_multi(key, Waker::noop()), Some(Ok(_))));
        }
        assert!(matches!(
            slots.poll_multi(key, Waker::noop()),
            Some(Err(()))
        ));
        assert_eq!(slots.pending(), 0);
    }
}
