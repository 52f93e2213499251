//! Memory that operations own.

mod aligned;
mod block;
mod chunk;
mod io;
mod shared;

pub use aligned::AlignedBuf;
pub use chunk::Chunk;
pub use io::{IoBuf, IoBufMut};
pub use shared::Shared;

/// Alignment of every [`AlignedBuf`] and [`Chunk`], enough for O_DIRECT on any disk we support.
pub const ALIGN: usize = 4096;

/// The next multiple of [`ALIGN`], at least one.
pub(crate) fn round_up(len: usize) -> usize {
    len.max(1)
        .checked_next_multiple_of(ALIGN)
        .expect("length fits in memory")
}
