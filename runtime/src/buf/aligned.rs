use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use super::Shared;
use super::block::Block;

/// Owned memory, aligned to [`super::ALIGN`], capacity a multiple of it. Dereferences to its first `len` bytes. `Send`.
///
/// Memory that was never written reads as zero; it is zeroed when it first comes into view, so a buffer that a receive
/// fills is not written twice.
pub struct AlignedBuf {
    block: Block,
    len: usize,
    /// Bytes from the start that are initialised; `len <= init <= capacity`.
    init: usize,
}

impl AlignedBuf {
    /// `len` zero bytes.
    pub fn zeroed(len: usize) -> Self {
        let block = Block::new(len, true);
        let init = block.capacity();
        AlignedBuf { block, len, init }
    }

    /// No bytes yet, room for at least `capacity`.
    pub fn with_capacity(capacity: usize) -> Self {
        AlignedBuf {
            block: Block::new(capacity, false),
            len: 0,
            init: 0,
        }
    }

    pub fn capacity(&self) -> usize {
        self.block.capacity()
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Panics beyond the capacity. Bytes that come into view are zero, or what this buffer held there before.
    pub fn set_len(&mut self, len: usize) {
        assert!(
            len <= self.capacity(),
            "length {len} beyond capacity {}",
            self.capacity()
        );
        if len > self.init {
            // SAFETY: `init..len` lies inside the allocation, which we own exclusively.
            unsafe {
                self.block
                    .as_ptr()
                    .add(self.init)
                    .write_bytes(0, len - self.init)
            };
            self.init = len;
        }
        self.len = len;
    }

    /// Panics if the bytes do not fit: this memory never moves.
    pub fn extend_from_slice(&mut self, bytes: &[u8]) {
        let end = self.len + bytes.len();
        assert!(
            end <= self.capacity(),
            "{} bytes do not fit into {}",
            bytes.len(),
            self.capacity() - self.len
        );
        // SAFETY: the target lies inside our allocation, and `bytes` cannot overlap it as we are borrowed mutably.
        unsafe {
            self.block
                .as_ptr()
                .add(self.len)
                .copy_from_nonoverlapping(bytes.as_ptr(), bytes.len())
        };
        self.len = end;
        self.init = self.init.max(end);
    }

    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    pub fn clear(&mut self) {
        self.len = 0;
    }

    /// The same bytes, shared from now on.
    pub fn freeze(self) -> Shared {
        let len = self.len;
        // Bytes `0..len` are initialised and nobody can write to the block any more.
        Shared::new(Arc::new(self.block), 0, len)
    }

    pub(super) fn as_mut_ptr(&mut self) -> *mut u8 {
        self.block.as_ptr()
    }

    /// # Safety
    /// The first `len` bytes are initialised and within the capacity.
    pub(super) unsafe fn set_filled(&mut self, len: usize) {
        self.len = len;
        self.init = self.init.max(len);
    }
}

impl Deref for AlignedBuf {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: `0..len` is initialised (invariant) and no one writes while we are borrowed.
        unsafe { std::slice::from_raw_parts(self.block.as_ptr(), self.len) }
    }
}

impl DerefMut for AlignedBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`; the block is ours alone and we are borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.block.as_ptr(), self.len) }
    }
}

impl AsRef<[u8]> for AlignedBuf {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Clone for AlignedBuf {
    fn clone(&self) -> Self {
        let mut copy = AlignedBuf::with_capacity(self.capacity());
        copy.extend_from_slice(self);
        copy
    }
}

impl fmt::Debug for AlignedBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AlignedBuf({} of {} bytes)", self.len, self.capacity())
    }
}
