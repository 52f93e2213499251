use std::alloc::{Layout, alloc, alloc_zeroed, dealloc, handle_alloc_error};
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

impl Block {
    pub(super) fn new(capacity: usize, zeroed: bool) -> Block {
        let capacity = round_up(capacity);
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
        // SAFETY: allocated in `new` with the same layout, and nobody else frees it.
        unsafe { dealloc(self.ptr.as_ptr(), Self::layout(self.capacity)) }
    }
}
