//! What the broker writes into a batch's header. The first 61 bytes are enough: no payload is touched or read.

use zerocopy::IntoBytes;

use super::header::{BatchHeader, CRC_START, HEADER_BYTES, LOG_APPEND_TIME_BIT};
use crate::crc;

/// Sets base offset and leader epoch. Both lie outside the CRC, which stays as it is.
///
/// Panics when `header` has fewer than 61 bytes: what is patched has been validated.
#[inline]
pub fn assign(header: &mut [u8], base_offset: i64, leader_epoch: i32) {
    let header = validated(header);
    header.base_offset.set(base_offset);
    header.leader_epoch.set(leader_epoch);
}

/// Makes the broker's time (ms since 1970) the time of all records: max timestamp, timestamp type, and the new CRC.
///
/// Panics when `header` has fewer than 61 bytes or its length field is less than a header.
#[inline]
pub fn set_log_append_time(header: &mut [u8], timestamp: i64) {
    patch_under_crc(header, |header| {
        header.max_timestamp.set(timestamp);
        header
            .attributes
            .set(header.attributes.get() | LOG_APPEND_TIME_BIT);
    });
}

/// Sets the max timestamp (ms since 1970) that a client left unset, and the new CRC. The type stays CreateTime.
///
/// Panics as [`set_log_append_time`].
#[inline]
pub fn set_max_timestamp(header: &mut [u8], timestamp: i64) {
    patch_under_crc(header, |header| header.max_timestamp.set(timestamp));
}

/// Applies `patch` and corrects the CRC for it. The stored CRC must be right before; it is then right afterwards.
///
/// With H the 40 header bytes under the CRC and P the payload, crc(H P) = shift(crc(H), |P|) ^ crc(P). The payload's
/// term is the same before and after, so the new CRC is the old one ^ shift(crc(H) ^ crc(H'), |P|).
fn patch_under_crc(header: &mut [u8], patch: impl FnOnce(&mut BatchHeader)) {
    let header = validated(header);
    let total_bytes = header
        .total_bytes()
        .expect("a validated batch is at least a header");
    let payload_bytes = (total_bytes - HEADER_BYTES) as u64;
    let before = crc_of_fields(header);
    patch(header);
    let after = crc_of_fields(header);
    header
        .crc
        .set(header.crc.get() ^ crc::crc32c_shift(before ^ after, payload_bytes));
}

fn crc_of_fields(header: &BatchHeader) -> u32 {
    crc::crc32c(0, &header.as_bytes()[CRC_START..])
}

fn validated(header: &mut [u8]) -> &mut BatchHeader {
    BatchHeader::view_mut(header).expect("a validated batch has a whole header")
}
