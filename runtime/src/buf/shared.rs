use std::fmt;
use std::ops::{Deref, Range};
use std::sync::Arc;

use bytes::Bytes;

use super::block::Block;

/// A cheap, immutable view of an [`super::AlignedBuf`] or of the written part of a [`super::Chunk`]. `Send + Sync + Clone`;
/// also `Into<Bytes>` without a copy.
#[derive(Clone)]
pub struct Shared {
    block: Arc<Block>,
    start: usize,
    len: usize,
}

impl Shared {
    /// The caller promises that the range is inside the block, initialised, and never written from now on.
    pub(super) fn new(block: Arc<Block>, start: usize, len: usize) -> Shared {
        debug_assert!(start + len <= block.capacity());
        Shared { block, start, len }
    }

    /// Panics if `range` is not inside.
    pub fn slice(&self, range: Range<usize>) -> Shared {
        assert!(
            range.start <= range.end && range.end <= self.len,
            "{range:?} is not within {} bytes",
            self.len
        );
        Shared {
            block: self.block.clone(),
            start: self.start + range.start,
            len: range.len(),
        }
    }
}

impl Deref for Shared {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: by the promise of `new` the range is initialised and immutable, and the Arc keeps the block alive.
        unsafe { std::slice::from_raw_parts(self.block.as_ptr().add(self.start), self.len) }
    }
}

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl From<Shared> for Bytes {
    fn from(shared: Shared) -> Bytes {
        Bytes::from_owner(shared)
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Shared({} bytes)", self.len)
    }
}
