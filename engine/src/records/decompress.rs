//! Decompression of a batch's records, bounded whatever the compressed bytes claim.

use std::io::Read;

use super::RecordError;
use crate::batch::Codec;

/// The framing that Kafka's Java client puts around snappy blocks (snappy-java's, also called xerial): a header of the
/// magic, a version and the oldest version that can read it (both i32), then blocks with an i32 length before each.
pub(super) const XERIAL_MAGIC: [u8; 8] = [0x82, b'S', b'N', b'A', b'P', b'P', b'Y', 0];
pub(super) const XERIAL_HEADER_BYTES: usize = 16;

/// Snappy's densest element is a copy of 64 bytes in 3. A block that claims more is lying, and claims are what its
/// decompressor allocates by.
const SNAPPY_RATIO_MAX: usize = 22;

/// log2 of the largest window: what zstd's highest level uses, and a decoder's usual limit. Its buffer is allocated by the
/// frame header, but its pages are touched only as output fills them.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;

pub(super) fn decompress(codec: Codec, bytes: &[u8], max: usize) -> Result<Vec<u8>, RecordError> {
    let malformed = RecordError::Decompress(codec);
    match codec {
        Codec::None => Ok(bytes.to_vec()),
        Codec::Gzip => read_bounded(flate2::bufread::MultiGzDecoder::new(bytes), max, malformed),
        Codec::Snappy => snappy(bytes, max),
        // Allocates two blocks, at most 4 MiB each by the frame format.
        Codec::Lz4 => read_bounded(lz4_flex::frame::FrameDecoder::new(bytes), max, malformed),
        Codec::Zstd => {
            let mut decoder =
                zstd::stream::read::Decoder::with_buffer(bytes).map_err(|_| malformed)?;
            decoder
                .window_log_max(ZSTD_WINDOW_LOG_MAX)
                .map_err(|_| malformed)?;
            read_bounded(decoder, max, malformed)
        }
    }
}

/// Reads to the end. The buffer grows as output comes.
fn read_bounded(
    reader: impl Read,
    max: usize,
    malformed: RecordError,
) -> Result<Vec<u8>, RecordError> {
    let mut out = Vec::new();
    let one_too_many = (max as u64).saturating_add(1);
    reader
        .take(one_too_many)
        .read_to_end(&mut out)
        .map_err(|_| malformed)?;
    if out.len() > max {
        Err(RecordError::TooLarge { max })
    } else {
        Ok(out)
    }
}

fn snappy(bytes: &[u8], max: usize) -> Result<Vec<u8>, RecordError> {
    let malformed = RecordError::Decompress(Codec::Snappy);
    let mut out = Vec::new();
    if !bytes.starts_with(&XERIAL_MAGIC) {
        snappy_block(bytes, max, &mut out)?;
        return Ok(out);
    }
    let mut rest = bytes;
    while !rest.is_empty() {
        // Streams may be concatenated, each with its header.
        if rest.starts_with(&XERIAL_MAGIC) {
            rest.split_off(..XERIAL_HEADER_BYTES).ok_or(malformed)?;
            continue;
        }
        let (length, behind) = rest.split_first_chunk().ok_or(malformed)?;
        rest = behind;
        let length = usize::try_from(i32::from_be_bytes(*length)).map_err(|_| malformed)?;
        let block = rest.split_off(..length).ok_or(malformed)?;
        snappy_block(block, max, &mut out)?;
    }
    Ok(out)
}

fn snappy_block(block: &[u8], max: usize, out: &mut Vec<u8>) -> Result<(), RecordError> {
    let malformed = RecordError::Decompress(Codec::Snappy);
    let claimed = snap::raw::decompress_len(block).map_err(|_| malformed)?;
    if claimed > block.len().saturating_mul(SNAPPY_RATIO_MAX) {
        return Err(malformed);
    }
    let start = out.len();
    if claimed > max - start {
        return Err(RecordError::TooLarge { max });
    }
    out.resize(start + claimed, 0);
    let written = snap::raw::Decoder::new()
        .decompress(block, &mut out[start..])
        .map_err(|_| malformed)?;
    if written == claimed {
        Ok(())
    } else {
        Err(malformed)
    }
}
