//! What check sums are seeded with: a block that is intact but belongs elsewhere must not validate.
//!
//! A seed is the CRC of who the bytes belong to; the sum is then continued over the bytes. So a sum says "these bytes, of
//! this owner", and a CRC over a short differing prefix always differs.

pub(super) use crate::crc::crc32;
use crate::crc::{crc32_seed_of, crc32c};
use crate::ids::PartitionId;

/// Seed of everything in one use of one commit log file. The nonce is random per incarnation and stands only in the
/// checkpoint, so no payload can be made to look like a group; the use number parts a file's former content from its present.
#[inline]
pub fn log_seed(nonce: u64, file_use: u32) -> u32 {
    let mut bytes = [0; 12];
    bytes[..8].copy_from_slice(&nonce.to_le_bytes());
    bytes[8..].copy_from_slice(&file_use.to_le_bytes());
    crc32(0, &bytes)
}

/// A nonce that gives this [`log_seed`] for this use, and so the right one for every other use: the nonce counts only through
/// the 32 bits that its own check sum comes to. For a log whose checkpoints are lost.
pub fn nonce_of(log_seed: u32, file_use: u32) -> u64 {
    let after_nonce = crc32_seed_of(log_seed, &file_use.to_le_bytes());
    // Four zero bytes, then the four that lead to where it must come to.
    let before = crc32(0, &[0; 4]);
    u64::from(crc32_seed_of(after_nonce, &[0; 4]) ^ before) << 32
}

/// Seed of the sums of one segment: continue it with the block number ([`block_sum`]).
#[inline]
pub fn segment_seed(partition: PartitionId, segment_base: i64) -> u32 {
    let mut bytes = [0; 28];
    bytes[..16].copy_from_slice(&partition.topic.0);
    bytes[16..20].copy_from_slice(&partition.index.to_le_bytes());
    bytes[20..].copy_from_slice(&segment_base.to_le_bytes());
    crc32c(0, &bytes)
}

/// The sum of a segment's [`SUM_BLOCK`](super::SUM_BLOCK) number `block` (or of what there is of the last one): CRC-32C,
/// seeded with partition, segment and block number.
#[inline]
pub fn block_sum(segment_seed: u32, block: u64, bytes: &[u8]) -> u32 {
    debug_assert!(bytes.len() <= super::SUM_BLOCK);
    crc32c(crc32c(segment_seed, &block.to_le_bytes()), bytes)
}

/// Seed of a sidecar block: partition, segment and kind of file.
#[inline]
pub(super) fn sidecar_seed(partition: PartitionId, segment_base: i64, kind: u16) -> u32 {
    let mut bytes = [0; 30];
    bytes[..16].copy_from_slice(&partition.topic.0);
    bytes[16..20].copy_from_slice(&partition.index.to_le_bytes());
    bytes[20..28].copy_from_slice(&segment_base.to_le_bytes());
    bytes[28..].copy_from_slice(&kind.to_le_bytes());
    crc32(0, &bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn another_nonce_with_the_same_seeds(nonce: u64, file_use: u32, other_use: u32) {
            let found = nonce_of(log_seed(nonce, file_use), file_use);
            prop_assert_eq!(log_seed(found, other_use), log_seed(nonce, other_use));
        }
    }
}
