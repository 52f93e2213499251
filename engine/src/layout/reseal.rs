//! Makes the check sums of changed bytes right again, so that a fuzzer gets behind them: what is to be tried is what the
//! readers do with bytes that somebody wrote so.

use super::group::{CRC_BYTES, HEADER_BYTES, HEADER_CRC_AT, LogIdentity, block_range, header_crc};
use super::seed::{crc32, log_seed, sidecar_seed};
use super::{BLOCK, GROUP_BYTES_MAX};
use crate::ids::PartitionId;

fn put_u32(bytes: &mut [u8], at: usize, value: u32) {
    if let Some(place) = bytes.get_mut(at..at + 4) {
        place.copy_from_slice(&value.to_le_bytes());
    }
}

/// A group at the beginning of `bytes`: its length, if it is impossible, is made that of the bytes; all its check sums are made
/// right for this use of its file. Returns its length.
pub fn group(identity: &LogIdentity, file_use: u32, bytes: &mut [u8]) -> usize {
    let whole = bytes.len().min(GROUP_BYTES_MAX) / BLOCK * BLOCK;
    if whole == 0 {
        return 0;
    }
    let length = u32::from_le_bytes(bytes[48..52].try_into().expect("four bytes")) as usize;
    let length = if length > 0 && length <= whole && length.is_multiple_of(BLOCK) {
        length
    } else {
        whole
    };
    put_u32(bytes, 48, length as u32);
    let seed = log_seed(identity.nonce, file_use);
    let table_end = HEADER_BYTES + length / BLOCK * CRC_BYTES;
    for block in 0..length / BLOCK {
        let crc = crc32(seed, &bytes[block_range(block, table_end)]);
        put_u32(bytes, HEADER_BYTES + block * CRC_BYTES, crc);
    }
    let crc = header_crc(seed, &bytes[..table_end]);
    put_u32(bytes, HEADER_CRC_AT, crc);
    length
}

/// A checkpoint slot: the length of its body, if it does not fit, is made that of the bytes.
pub fn checkpoint(bytes: &mut [u8]) {
    let envelope = super::checkpoint::ENVELOPE_BYTES;
    if bytes.len() < envelope {
        return;
    }
    let length = u32::from_le_bytes(bytes[12..16].try_into().expect("four bytes")) as usize;
    let length = length.min(bytes.len() - envelope);
    put_u32(bytes, 12, length as u32);
    let body = crc32(0, &bytes[envelope..envelope + length]);
    put_u32(bytes, 56, body);
    let crc = crc32(0, &bytes[..envelope - 4]);
    put_u32(bytes, envelope - 4, crc);
}

/// A block of a sidecar file of that kind.
pub fn sidecar(partition: PartitionId, segment_base: i64, kind: u16, block: &mut [u8; BLOCK]) {
    let seed = sidecar_seed(partition, segment_base, kind);
    let crc = crc32(crc32(seed, &block[..28]), &block[32..]);
    put_u32(block, 28, crc);
}

/// A format file.
pub fn format(bytes: &mut [u8]) {
    if let Some(at) = bytes.len().checked_sub(4) {
        let crc = crc32(0, &bytes[..at]);
        put_u32(bytes, at, crc);
    }
}
