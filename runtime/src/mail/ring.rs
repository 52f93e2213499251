//! A bounded queue between two threads: one pushes, one pops, neither locks.

use std::cell::UnsafeCell;
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Keeps the two ends' positions out of each other's cache lines (adjacent lines are fetched in pairs).
#[repr(align(128))]
#[derive(Default)]
struct Position(AtomicUsize);

pub(super) struct Ring<M> {
    slots: Box<[UnsafeCell<MaybeUninit<M>>]>,
    /// Messages popped since the beginning; only the receiver writes it.
    head: Position,
    /// Messages pushed since the beginning; only the sender writes it.
    tail: Position,
}

// SAFETY: a slot is written by the sender while `head + capacity > index >= tail` and read by the receiver while
// `head <= index < tail`; the positions are published with Release and read with Acquire, so the two never touch a slot at
// the same time. M moves from thread to thread, hence Send. That there is one sender and one receiver is the promise of
// the callers of `push` and `pop`.
unsafe impl<M: Send> Sync for Ring<M> {}

impl<M> Ring<M> {
    pub(super) fn new(capacity: usize) -> Ring<M> {
        assert!(capacity.is_power_of_two(), "positions are masked");
        let slots = (0..capacity)
            .map(|_| UnsafeCell::new(MaybeUninit::uninit()))
            .collect();
        Ring {
            slots,
            head: Position::default(),
            tail: Position::default(),
        }
    }

    fn slot(&self, position: usize) -> *mut MaybeUninit<M> {
        self.slots[position & (self.slots.len() - 1)].get()
    }

    /// Whether `push` would find room. For the sender.
    pub(super) fn has_room(&self) -> bool {
        let tail = self.tail.0.load(Ordering::Relaxed);
        tail.wrapping_sub(self.head.0.load(Ordering::Acquire)) < self.slots.len()
    }

    /// # Safety
    /// Only one thread pushes at a time.
    pub(super) unsafe fn push(&self, message: M) -> Result<(), M> {
        if !self.has_room() {
            return Err(message);
        }
        let tail = self.tail.0.load(Ordering::Relaxed);
        // SAFETY: there is room, so the receiver is done with this slot, and we are the only sender.
        unsafe { (*self.slot(tail)).write(message) };
        self.tail.0.store(tail.wrapping_add(1), Ordering::Release);
        Ok(())
    }

    /// # Safety
    /// Only one thread pops at a time.
    pub(super) unsafe fn pop(&self) -> Option<M> {
        let head = self.head.0.load(Ordering::Relaxed);
        if head == self.tail.0.load(Ordering::Acquire) {
            return None;
        }
        // SAFETY: `head < tail`, so the slot was written and published, and we are the only receiver; it is read once, as
        // `head` moves on.
        let message = unsafe { (*self.slot(head)).assume_init_read() };
        self.head.0.store(head.wrapping_add(1), Ordering::Release);
        Some(message)
    }
}

impl<M> Drop for Ring<M> {
    fn drop(&mut self) {
        // SAFETY: nobody else has a reference any more.
        while let Some(message) = unsafe { self.pop() } {
            drop(message);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn is_bounded_and_ordered() {
        let ring = Ring::new(4);
        // SAFETY: one thread.
        unsafe {
            for round in 0..10 {
                for n in 0..4 {
                    ring.push(round * 10 + n).unwrap();
                }
                assert_eq!(ring.push(99), Err(99));
                for n in 0..4 {
                    assert_eq!(ring.pop(), Some(round * 10 + n));
                }
                assert_eq!(ring.pop(), None);
            }
        }
    }

    #[test]
    fn drops_what_is_left() {
        let token = Arc::new(());
        let ring = Ring::new(4);
        // SAFETY: one thread.
        unsafe {
            ring.push(token.clone()).unwrap();
            ring.push(token.clone()).unwrap();
            drop(ring.pop());
        }
        assert_eq!(Arc::strong_count(&token), 2);
        drop(ring);
        assert_eq!(Arc::strong_count(&token), 1);
    }

    #[test]
    fn two_threads_lose_nothing() {
        const COUNT: u64 = 200_000;
        let ring = Arc::new(Ring::new(64));
        let theirs = ring.clone();
        let sender = std::thread::spawn(move || {
            for n in 0..COUNT {
                let mut message = Box::new(n);
                // SAFETY: the only sender.
                while let Err(back) = unsafe { theirs.push(message) } {
                    message = back;
                    std::thread::yield_now();
                }
            }
        });
        let mut next = 0;
        while next < COUNT {
            // SAFETY: the only receiver.
            match unsafe { ring.pop() } {
                Some(message) => {
                    assert_eq!(*message, next);
                    next += 1;
                }
                None => std::thread::yield_now(),
            }
        }
        sender.join().unwrap();
    }
}
