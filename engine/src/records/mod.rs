//! The records inside a batch, for those who need their meaning: a lookup by time, dumps, tables, the doors of other
//! protocols. The produce and fetch paths never come here.
//!
//! ```text
//! record = length varint, attributes i8 (unused), timestamp delta varlong, offset delta varint,
//!          key length varint (−1: null), key, value length varint (−1: null), value,
//!          header count varint, then for each header: key length varint, key, value length varint (−1: null), value
//! ```
//!
//! varint and varlong are zigzag-encoded, 7 bits a byte, low bits first. A codec compresses all records of a batch as one.

mod builder;
mod compress;
mod decompress;
mod record;
#[cfg(test)]
mod tests;
mod varint;

use std::borrow::Cow;

use thiserror::Error;

pub use builder::{BatchBuilder, NewRecord, Producer};
pub use compress::compress;
pub use record::{Headers, Record, RecordIter};

use crate::batch::{BatchError, BatchHeader, Codec, single};

/// Most bytes that the records of a batch may have once decompressed: what a few bytes of a compressed batch can cost us.
pub const DECOMPRESSED_BYTES_MAX: usize = 128 << 20;

/// Why records cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum RecordError {
    #[error("{0}")]
    Batch(#[from] BatchError),
    #[error("the records do not decompress as {0:?}")]
    Decompress(Codec),
    #[error("the records decompress to more than {max} bytes")]
    TooLarge { max: usize },
    #[error("record {index}: {problem}")]
    Record { index: u32, problem: &'static str },
}

/// Bounds on the reading of records.
#[derive(Clone, Copy, Debug)]
pub struct RecordLimits {
    /// Most bytes after decompression.
    pub decompressed_bytes_max: usize,
}

impl Default for RecordLimits {
    fn default() -> Self {
        Self {
            decompressed_bytes_max: DECOMPRESSED_BYTES_MAX,
        }
    }
}

/// The records of one batch: borrowed from it, or decompressed.
#[derive(Debug)]
pub struct Records<'a> {
    header: &'a BatchHeader,
    body: Cow<'a, [u8]>,
}

impl<'a> Records<'a> {
    /// Opens exactly one batch. Its CRC is not checked: that is [`validate`](crate::batch::validate)'s. Memory grows with
    /// what is really decompressed, up to the limit, never by what the batch says of itself.
    ///
    /// Errors: all but [`RecordError::Record`].
    pub fn open(batch: &'a [u8], limits: &RecordLimits) -> Result<Self, RecordError> {
        let raw = single(batch)?;
        let header = raw.header();
        let codec = header.codec().ok_or(BatchError::Codec(header.codec_id()))?;
        let body = match codec {
            Codec::None => Cow::Borrowed(raw.payload()),
            codec => Cow::Owned(decompress::decompress(
                codec,
                raw.payload(),
                limits.decompressed_bytes_max,
            )?),
        };
        Ok(Self { header, body })
    }

    pub fn header(&self) -> &'a BatchHeader {
        self.header
    }

    /// The records one after the other, as they are encoded.
    pub fn encoded(&self) -> &[u8] {
        &self.body
    }

    /// Yields every record, or those before the first malformed one, then its error, then nothing.
    pub fn iter(&self) -> RecordIter<'_> {
        RecordIter::new(self.header, &self.body)
    }
}

impl<'r> IntoIterator for &'r Records<'_> {
    type Item = Result<Record<'r>, RecordError>;
    type IntoIter = RecordIter<'r>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}
