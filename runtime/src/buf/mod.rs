//! Memory that operations own.

use std::ops::{Deref, DerefMut, Range};

use bytes::Bytes;

/// Alignment of every [`AlignedBuf`] and [`Chunk`], enough for O_DIRECT on any disk we support.
pub const ALIGN: usize = 4096;

mod sealed {
    pub trait Sealed {}
}

/// Memory that a write or send may own: [`AlignedBuf`], [`Shared`], [`Bytes`], `Vec<u8>`, `&'static [u8]`.
///
/// # Safety
/// The bytes behind `io_ptr` stay at their address and unchanged while the value is moved but not otherwise used.
pub unsafe trait IoBuf: sealed::Sealed + Unpin + 'static {
    fn io_ptr(&self) -> *const u8;
    /// Bytes that are initialised and would be written.
    fn io_len(&self) -> usize;
}

/// Memory that a read or receive may own: [`AlignedBuf`], `Vec<u8>`, [`bytes::BytesMut`].
///
/// # Safety
/// As [`IoBuf`]; besides, `io_capacity` bytes from `io_mut_ptr` are writable.
pub unsafe trait IoBufMut: IoBuf {
    fn io_mut_ptr(&mut self) -> *mut u8;
    fn io_capacity(&self) -> usize;
    /// # Safety
    /// The first `len` bytes are initialised and `len <= io_capacity()`.
    unsafe fn io_set_len(&mut self, len: usize);
}

macro_rules! stub_buf { ($($t:ty),*) => { $(
    impl sealed::Sealed for $t {}
    // SAFETY: a stub that never returns.
    unsafe impl IoBuf for $t {
        fn io_ptr(&self) -> *const u8 { unimplemented!() }
        fn io_len(&self) -> usize { unimplemented!() }
    }
)* } }
macro_rules! stub_buf_mut { ($($t:ty),*) => { $(
    // SAFETY: a stub that never returns.
    unsafe impl IoBufMut for $t {
        fn io_mut_ptr(&mut self) -> *mut u8 { unimplemented!() }
        fn io_capacity(&self) -> usize { unimplemented!() }
        unsafe fn io_set_len(&mut self, _len: usize) { unimplemented!() }
    }
)* } }
stub_buf!(
    AlignedBuf,
    Shared,
    Bytes,
    Vec<u8>,
    &'static [u8],
    bytes::BytesMut
);
stub_buf_mut!(AlignedBuf, Vec<u8>, bytes::BytesMut);

/// Owned memory, aligned to [`ALIGN`], capacity a multiple of it, all of it zeroed at birth and taken from a pool of the
/// core. Dereferences to its first `len` bytes. `Send`.
pub struct AlignedBuf(());

impl AlignedBuf {
    /// `len` zero bytes.
    pub fn zeroed(len: usize) -> Self {
        let _ = len;
        unimplemented!()
    }

    /// No bytes yet, room for at least `capacity`.
    pub fn with_capacity(capacity: usize) -> Self {
        let _ = capacity;
        unimplemented!()
    }

    pub fn capacity(&self) -> usize {
        unimplemented!()
    }

    pub fn len(&self) -> usize {
        unimplemented!()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Panics beyond the capacity. Bytes that come into view are zero or what was there before.
    pub fn set_len(&mut self, len: usize) {
        let _ = len;
        unimplemented!()
    }

    /// Panics if the bytes do not fit: this memory never moves.
    pub fn extend_from_slice(&mut self, bytes: &[u8]) {
        let _ = bytes;
        unimplemented!()
    }

    pub fn truncate(&mut self, len: usize) {
        let _ = len;
        unimplemented!()
    }

    pub fn clear(&mut self) {
        self.truncate(0);
    }

    pub fn freeze(self) -> Shared {
        unimplemented!()
    }
}

impl Deref for AlignedBuf {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        unimplemented!()
    }
}

impl DerefMut for AlignedBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        unimplemented!()
    }
}

/// An append-only, aligned piece of memory with one writer and any number of readers of what is already written:
/// published bytes never change.
pub struct Chunk(());

impl Chunk {
    /// Room for `capacity` bytes, rounded up to [`ALIGN`].
    pub fn with_capacity(capacity: usize) -> Self {
        let _ = capacity;
        unimplemented!()
    }

    /// Appends as much as fits and says how much that was.
    pub fn append(&mut self, bytes: &[u8]) -> usize {
        let _ = bytes;
        unimplemented!()
    }

    /// Appends `len` bytes, zero at first, that `fill` may write to before they are published. Panics if they do not fit.
    pub fn append_with<R>(&mut self, len: usize, fill: impl FnOnce(&mut [u8]) -> R) -> R {
        let _ = (len, fill);
        unimplemented!()
    }

    /// Appends zeros up to `len`; does nothing if it is that long already. Panics beyond the capacity.
    pub fn pad_zero_to(&mut self, len: usize) {
        let _ = len;
        unimplemented!()
    }

    pub fn len(&self) -> usize {
        unimplemented!()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn capacity(&self) -> usize {
        unimplemented!()
    }

    pub fn remaining(&self) -> usize {
        self.capacity() - self.len()
    }

    /// What is written so far.
    pub fn as_slice(&self) -> &[u8] {
        unimplemented!()
    }

    /// A reader of `range`, which must lie within `len()`.
    pub fn share(&self, range: Range<usize>) -> Shared {
        let _ = range;
        unimplemented!()
    }
}

/// A cheap, immutable view of an [`AlignedBuf`] or of the written part of a [`Chunk`]. `Send + Sync + Clone`; also
/// `Into<Bytes>` without a copy.
#[derive(Clone)]
pub struct Shared(());

impl Shared {
    /// Panics if `range` is not inside.
    pub fn slice(&self, range: Range<usize>) -> Shared {
        let _ = range;
        unimplemented!()
    }
}

impl Deref for Shared {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        unimplemented!()
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
