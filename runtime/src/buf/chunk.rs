use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use super::Shared;
use super::block::Block;

/// An append-only, aligned piece of memory with one writer and any number of readers of what is already written:
/// published bytes never change.
pub struct Chunk {
    block: Arc<Block>,
    /// Published bytes. Only memory from here on is ever written.
    len: usize,
}

impl Chunk {
    /// Room for `capacity` bytes, rounded up to [`super::ALIGN`].
    pub fn with_capacity(capacity: usize) -> Self {
        Chunk {
            block: Arc::new(Block::new(capacity, false)),
            len: 0,
        }
    }

    /// Appends as much as fits and says how much that was.
    pub fn append(&mut self, bytes: &[u8]) -> usize {
        let fits = bytes.len().min(self.remaining());
        // SAFETY: `len..len + fits` is inside the allocation; no Shared covers it (they end at the `len` of their birth),
        // we are the only writer, and `bytes` cannot point there as nobody has a reference to unpublished memory.
        unsafe {
            self.block
                .as_ptr()
                .add(self.len)
                .copy_from_nonoverlapping(bytes.as_ptr(), fits)
        };
        self.len += fits;
        fits
    }

    /// Appends `len` bytes, zero at first, that `fill` may write to before they are published. Panics if they do not fit.
    /// Should `fill` panic, they stay unpublished.
    pub fn append_with<R>(&mut self, len: usize, fill: impl FnOnce(&mut [u8]) -> R) -> R {
        assert!(
            len <= self.remaining(),
            "{len} bytes do not fit into {}",
            self.remaining()
        );
        // SAFETY: `len..self.len + len` is inside the allocation and unpublished, so no other reference to it exists, and
        // `&mut self` keeps a second one from being made meanwhile. Its bytes may be uninitialised or left over from an
        // earlier use: zeros are written through the raw pointer before the slice is made.
        let fresh = unsafe {
            let start = self.block.as_ptr().add(self.len);
            start.write_bytes(0, len);
            std::slice::from_raw_parts_mut(start, len)
        };
        let result = fill(fresh);
        self.len += len;
        result
    }

    /// Appends zeros up to `len`; does nothing if it is that long already. Panics beyond the capacity.
    pub fn pad_zero_to(&mut self, len: usize) {
        if len > self.len {
            self.append_with(len - self.len, |_| ());
        }
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn capacity(&self) -> usize {
        self.block.capacity()
    }

    pub fn remaining(&self) -> usize {
        self.capacity() - self.len
    }

    /// What is written so far.
    pub fn as_slice(&self) -> &[u8] {
        // SAFETY: published bytes are initialised and never written again.
        unsafe { std::slice::from_raw_parts(self.block.as_ptr(), self.len) }
    }

    /// A reader of `range`, which must lie within `len()`.
    pub fn share(&self, range: Range<usize>) -> Shared {
        assert!(
            range.start <= range.end && range.end <= self.len,
            "{range:?} is not within {} bytes",
            self.len
        );
        Shared::new(self.block.clone(), range.start, range.len())
    }
}

impl fmt::Debug for Chunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Chunk({} of {} bytes)", self.len, self.capacity())
    }
}
