//! Compression of a batch's records, in the forms that Kafka's Java client writes.

use std::io::Write;

use super::decompress::{XERIAL_HEADER_BYTES, XERIAL_MAGIC};
use crate::batch::Codec;

/// Uncompressed bytes of a snappy block, snappy-java's default.
const SNAPPY_BLOCK_BYTES: usize = 32 << 10;
const XERIAL_VERSION: i32 = 1;
const ZSTD_LEVEL: i32 = 3;

/// Appends `bytes`, compressed, to `out`.
pub fn compress(codec: Codec, bytes: &[u8], out: &mut Vec<u8>) {
    const TO_MEMORY: &str = "writing to memory does not fail";
    match codec {
        Codec::None => out.extend_from_slice(bytes),
        Codec::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(out, flate2::Compression::default());
            encoder.write_all(bytes).expect(TO_MEMORY);
            encoder.finish().expect(TO_MEMORY);
        }
        Codec::Snappy => snappy(bytes, out),
        Codec::Lz4 => {
            let frame = lz4_flex::frame::FrameInfo::new()
                .block_size(lz4_flex::frame::BlockSize::Max64KB)
                .block_mode(lz4_flex::frame::BlockMode::Independent);
            let mut encoder = lz4_flex::frame::FrameEncoder::with_frame_info(frame, out);
            encoder.write_all(bytes).expect(TO_MEMORY);
            encoder.finish().expect(TO_MEMORY);
        }
        Codec::Zstd => {
            let mut encoder =
                zstd::stream::write::Encoder::new(out, ZSTD_LEVEL).expect("a level that exists");
            encoder.write_all(bytes).expect(TO_MEMORY);
            encoder.finish().expect(TO_MEMORY);
        }
    }
}

fn snappy(bytes: &[u8], out: &mut Vec<u8>) {
    let header_at = out.len();
    out.extend_from_slice(&XERIAL_MAGIC);
    out.extend_from_slice(&XERIAL_VERSION.to_be_bytes());
    out.extend_from_slice(&XERIAL_VERSION.to_be_bytes());
    debug_assert_eq!(out.len() - header_at, XERIAL_HEADER_BYTES);
    let mut encoder = snap::raw::Encoder::new();
    for block in bytes.chunks(SNAPPY_BLOCK_BYTES) {
        let block = encoder
            .compress_vec(block)
            .expect("a block is far below snappy's limit");
        out.extend_from_slice(&(block.len() as i32).to_be_bytes());
        out.extend_from_slice(&block);
    }
}
