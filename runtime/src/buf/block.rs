use std::alloc::{Layout, alloc, alloc_zeroed, dealloc, handle_alloc_error};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ptr::NonNull;

use super::{ALIGN, round_up};

/// An owned, aligned allocation. It knows nothing of which of its bytes are initialised: its users do.
pub(super) struct Block {
    ptr: NonNull<u8>,
    capacity: usize,
}

// SAFETY: a Block is plain memory without thread affinity, and gives out only raw pointers; whoever dereferences them
// answers for the absence of races.
unsafe impl Send for Block {}
// SAFETY: as above; `&Block` allows nothing but copying the pointer.
unsafe impl Sync for Block {}

/// Blocks at least this large are kept for reuse: memory that comes fresh from the kernel costs a page fault and a cleared
/// page for every 4 KiB, several times what a copy into it costs.
const POOLED_BYTES_MIN: usize = 64 << 10;
/// What a thread keeps at most.
const POOL_BYTES_MAX: usize = 64 << 20;

#[derive(Default)]
struct Pool {
    free: BTreeMap<usize, Vec<NonNull<u8>>>,
    bytes: usize,
}

impl Drop for Pool {
    fn drop(&mut self) {
        for (capacity, blocks) in std::mem::take(&mut self.free) {
            for ptr in blocks {
                // SAFETY: allocated in `Block::new` with this layout; the pool is its only owner.
                unsafe { dealloc(ptr.as_ptr(), Block::layout(capacity)) }
            }
        }
    }
}

thread_local! {
    static POOL: RefCell<Pool> = RefCell::default();
}

impl Block {
    pub(super) fn new(capacity: usize, zeroed: bool) -> Block {
        let capacity = round_up(capacity);
        if !zeroed && capacity >= POOLED_BYTES_MIN {
            let kept = POOL.try_with(|pool| {
                let pool = &mut *pool.borrow_mut();
                let ptr = pool.free.get_mut(&capacity)?.pop()?;
                pool.bytes -= capacity;
                Some(ptr)
            });
            if let Ok(Some(ptr)) = kept {
                return Block { ptr, capacity };
            }
        }
        let layout = Self::layout(capacity);
        // SAFETY: `round_up` gives at least ALIGN, so the size is not zero.
        let ptr = unsafe {
            if zeroed {
                alloc_zeroed(layout)
            } else {
                alloc(layout)
            }
        };
        let Some(ptr) = NonNull::new(ptr) else {
            handle_alloc_error(layout)
        };
        Block { ptr, capacity }
    }

    fn layout(capacity: usize) -> Layout {
        Layout::from_size_align(capacity, ALIGN).expect("capacity was checked by round_up")
    }

    pub(super) fn as_ptr(&self) -> *mut u8 {
        self.ptr.as_ptr()
    }

    pub(super) fn capacity(&self) -> usize {
        self.capacity
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        if self.capacity >= POOLED_BYTES_MIN {
            let kept = POOL.try_with(|pool| {
                let pool = &mut *pool.borrow_mut();
                let room = pool.bytes + self.capacity <= POOL_BYTES_MAX;
                if room {
                    pool.bytes += self.capacity;
                    pool.free.entry(self.capacity).or_default().push(self.ptr);
                }
                room
            });
            if kept == Ok(true) {
                return;
            }
        }
        // SAFETY: allocated in `new` with the same layout, and nobody else frees it.
        unsafe { dealloc(self.ptr.as_ptr(), Self::layout(self.capacity)) }
    }
}
