//! Splitting a concatenation of batches: the records field of a produce request, or a piece of a log.

use super::header::{BatchHeader, HEADER_BYTES, LENGTH_FIELD_END, MAGIC};
use super::validate::BatchError;

/// Where the magic byte stands, in this and in every older format.
const MAGIC_AT: usize = 16;

/// One batch as its length field delimits it; nothing else is checked but magic and length.
#[derive(Clone, Copy, Debug)]
pub struct RawBatch<'a> {
    bytes: &'a [u8],
    header: &'a BatchHeader,
}

impl<'a> RawBatch<'a> {
    /// The first batch of `bytes`, which may go on behind it.
    ///
    /// Errors: [`BatchError::Truncated`], [`BatchError::Magic`], [`BatchError::Length`].
    #[inline]
    pub fn first(bytes: &'a [u8]) -> Result<Self, BatchError> {
        // An old-format message can be shorter than our header, and its magic is the better answer.
        if let Some(&magic) = bytes.get(MAGIC_AT)
            && magic as i8 != MAGIC
        {
            return Err(BatchError::Magic(magic as i8));
        }
        let truncated = |needed| BatchError::Truncated {
            needed,
            have: bytes.len(),
        };
        let header = BatchHeader::view(bytes).ok_or(truncated(HEADER_BYTES))?;
        let total = header
            .total_bytes()
            .ok_or(BatchError::Length(header.batch_length()))?;
        let bytes = bytes.get(..total).ok_or(truncated(total))?;
        Ok(Self { bytes, header })
    }

    #[inline]
    pub fn header(&self) -> &'a BatchHeader {
        self.header
    }

    /// Header and records.
    #[inline]
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// What follows the header: the records, compressed as the header says.
    #[inline]
    pub fn payload(&self) -> &'a [u8] {
        &self.bytes[HEADER_BYTES..]
    }
}

/// Walks a concatenation of batches. Yields each batch, then, where the bytes do not end with a batch, one error, then
/// nothing. Never reads beyond its slice.
#[derive(Clone, Debug)]
pub struct Batches<'a> {
    bytes: &'a [u8],
    position: usize,
    failed: bool,
}

impl<'a> Batches<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self {
            bytes,
            position: 0,
            failed: false,
        }
    }

    /// Bytes behind the last batch that was yielded: where the next one begins, or where the bytes stop being batches.
    pub fn position(&self) -> usize {
        self.position
    }

    /// Number of whole batches ahead. Walks over the headers only.
    pub fn count_whole(&self) -> usize {
        self.clone().map_while(Result::ok).count()
    }
}

impl<'a> Iterator for Batches<'a> {
    type Item = Result<RawBatch<'a>, BatchError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let rest = &self.bytes[self.position..];
        if self.failed || rest.is_empty() {
            return None;
        }
        let batch = RawBatch::first(rest);
        match &batch {
            Ok(batch) => self.position += batch.bytes.len(),
            Err(_) => self.failed = true,
        }
        Some(batch)
    }
}

impl std::iter::FusedIterator for Batches<'_> {}

/// The one batch that a produce request of version 3 and later carries per partition.
///
/// Errors: [`BatchError::Empty`], [`BatchError::SeveralBatches`], and those of [`RawBatch::first`].
#[inline]
pub fn single(bytes: &[u8]) -> Result<RawBatch<'_>, BatchError> {
    if bytes.is_empty() {
        return Err(BatchError::Empty);
    }
    let batch = RawBatch::first(bytes)?;
    match &bytes[batch.bytes.len()..] {
        [] => Ok(batch),
        rest if rest.len() >= LENGTH_FIELD_END => Err(BatchError::SeveralBatches),
        rest => Err(BatchError::Truncated {
            needed: LENGTH_FIELD_END,
            have: rest.len(),
        }),
    }
}
