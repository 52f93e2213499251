//! Every on-disk format of the engine, as pure byte code: no file, no clock, no task. The writer, recovery and the offline
//! checker all use this one module, so they cannot disagree on what a byte means.
//!
//! | file | module | guarded by |
//! | --- | --- | --- |
//! | `format` | [`format_file`] | own CRC |
//! | `wal/SSS/checkpoint.0`, `.1` | [`checkpoint`], [`slots`] | header CRC, body CRC |
//! | `wal/SSS/FFF.wal` | [`group`], [`entry`], [`payload`] | header CRC and a CRC per 4 KiB block, seeded from the incarnation's nonce |
//! | `partitions/…/*.log` | RecordBatch v2, see `crate::batch` | the batch's CRC-32C, and the `.sum` |
//! | `partitions/…/*.sum`, `*.index`, `*.timeindex` | [`sidecar`] | a CRC per 4 KiB block, seeded from partition, segment and kind |
//!
//! Everything is little endian, every structure begins with a magic number and a version, carries its own position, and
//! every byte of it lies under a check sum: reserved bytes and padding are zero and checked.

pub mod checkpoint;
pub mod entry;
pub mod format_file;
pub mod group;
pub mod paths;
pub mod payload;
#[cfg(feature = "reseal")]
pub mod reseal;
pub mod seed;
pub mod sidecar;
pub mod slots;

#[cfg(test)]
mod tests;

/// Unit and alignment of every write: the largest physical block of the drives that are supported.
pub const BLOCK: usize = 4096;

/// Segments are flushed, summed and written directly in whole blocks of this size. Small enough that a point read verifies
/// little, large enough that the sums of a segment of 1 GiB are 256 KiB.
pub const SUM_BLOCK: usize = 16 * 1024;

/// The largest group: one write of the commit log.
pub const GROUP_BYTES_MAX: usize = 1024 * 1024;

const _: () = assert!(SUM_BLOCK.is_multiple_of(BLOCK) && GROUP_BYTES_MAX.is_multiple_of(BLOCK));

/// `len` rounded up to a multiple of [`BLOCK`].
#[inline]
pub const fn round_up_to_block(len: usize) -> usize {
    len.next_multiple_of(BLOCK)
}

/// The position of the first non-zero byte of what must be zero.
pub fn first_nonzero(bytes: &[u8]) -> Option<usize> {
    bytes.iter().position(|byte| *byte != 0)
}
