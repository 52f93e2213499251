use bytes::{Bytes, BytesMut};

use super::{AlignedBuf, Shared};

mod sealed {
    pub trait Sealed {}
}

/// Memory that a write or send may own: [`AlignedBuf`], [`Shared`], [`Bytes`], `BytesMut`, `Vec<u8>`, `&'static [u8]`.
///
/// # Safety
/// The `io_len` bytes from `io_ptr` are initialised and stay at their address, unchanged, while the value is moved but not
/// otherwise used.
pub unsafe trait IoBuf: sealed::Sealed + Unpin + 'static {
    fn io_ptr(&self) -> *const u8;
    /// Bytes that would be written.
    fn io_len(&self) -> usize;
}

/// Memory that a read or receive may own: [`AlignedBuf`], `Vec<u8>`, `BytesMut`.
///
/// # Safety
/// As [`IoBuf`]; besides, `io_capacity` bytes from `io_mut_ptr` may be written to.
pub unsafe trait IoBufMut: IoBuf {
    fn io_mut_ptr(&mut self) -> *mut u8;
    fn io_capacity(&self) -> usize;
    /// # Safety
    /// The first `len` bytes are initialised and `len <= io_capacity()`.
    unsafe fn io_set_len(&mut self, len: usize);
}

macro_rules! io_buf {
    ($($buf:ty),*) => { $(
        impl sealed::Sealed for $buf {}
        // SAFETY: the bytes are on the heap (or static), not inside the value, so a move leaves them in place; the length
        // is that of a valid slice.
        unsafe impl IoBuf for $buf {
            fn io_ptr(&self) -> *const u8 {
                <[u8]>::as_ptr(self)
            }
            fn io_len(&self) -> usize {
                <[u8]>::len(self)
            }
        }
    )* };
}
io_buf!(AlignedBuf, Shared, Bytes, BytesMut, Vec<u8>, &'static [u8]);

// SAFETY: the block behind it is exclusively owned, heap memory of `capacity` bytes.
unsafe impl IoBufMut for AlignedBuf {
    fn io_mut_ptr(&mut self) -> *mut u8 {
        self.as_mut_ptr()
    }
    fn io_capacity(&self) -> usize {
        self.capacity()
    }
    unsafe fn io_set_len(&mut self, len: usize) {
        // SAFETY: the caller's promise.
        unsafe { self.set_filled(len) }
    }
}

// SAFETY: a Vec owns `capacity` bytes of heap memory.
unsafe impl IoBufMut for Vec<u8> {
    fn io_mut_ptr(&mut self) -> *mut u8 {
        self.as_mut_ptr()
    }
    fn io_capacity(&self) -> usize {
        self.capacity()
    }
    unsafe fn io_set_len(&mut self, len: usize) {
        // SAFETY: the caller's promise.
        unsafe { self.set_len(len) }
    }
}

// SAFETY: a BytesMut owns the `capacity` bytes from its pointer exclusively, also when it shares an allocation.
unsafe impl IoBufMut for BytesMut {
    fn io_mut_ptr(&mut self) -> *mut u8 {
        self.as_mut_ptr()
    }
    fn io_capacity(&self) -> usize {
        self.capacity()
    }
    unsafe fn io_set_len(&mut self, len: usize) {
        // SAFETY: the caller's promise.
        unsafe { self.set_len(len) }
    }
}
