//! Reading records, borrowed from the batch's bytes.

use super::RecordError;
use super::varint::{take_i32, take_i64};
use crate::batch::{BatchHeader, TimestampType};
use crate::ids::Offset;

/// One record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    pub offset: Offset,
    /// ms since 1970: the producer's, or the batch's where the broker sets the time.
    pub timestamp_ms: i64,
    pub key: Option<&'a [u8]>,
    /// `None` is a tombstone where the log is compacted.
    pub value: Option<&'a [u8]>,
    pub headers: Headers<'a>,
}

/// The headers of a record: name and value, in order; names may repeat. Checked when the record was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Headers<'a> {
    rest: &'a [u8],
    left: usize,
}

impl<'a> Iterator for Headers<'a> {
    type Item = (&'a [u8], Option<&'a [u8]>);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        take_header(&mut self.rest).ok()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for Headers<'_> {}

/// Iterates over the records of a batch; see [`Records::iter`](super::Records::iter).
#[derive(Clone, Debug)]
pub struct RecordIter<'a> {
    rest: &'a [u8],
    /// Index of the next record.
    index: u32,
    count: u32,
    failed: bool,
    base_offset: Offset,
    last_offset_delta: i32,
    base_timestamp: i64,
    log_append_time: Option<i64>,
}

impl<'a> RecordIter<'a> {
    pub(super) fn new(header: &BatchHeader, body: &'a [u8]) -> Self {
        Self {
            rest: body,
            index: 0,
            // A negative count reads as none, and the bytes behind it as surplus.
            count: header.records_count().max(0) as u32,
            failed: false,
            base_offset: header.base_offset(),
            last_offset_delta: header.last_offset_delta(),
            base_timestamp: header.base_timestamp(),
            log_append_time: (header.timestamp_type() == TimestampType::LogAppendTime)
                .then(|| header.max_timestamp()),
        }
    }

    #[inline]
    fn read(&mut self) -> Result<Record<'a>, &'static str> {
        let length = take_i32(&mut self.rest).ok_or("its length is cut off or malformed")?;
        let length = usize::try_from(length).map_err(|_| "its length is negative")?;
        let mut body = self
            .rest
            .split_off(..length)
            .ok_or("it reaches beyond the batch")?;
        let record = self.read_body(&mut body)?;
        if body.is_empty() {
            Ok(record)
        } else {
            Err("its length is larger than its fields")
        }
    }

    #[inline]
    fn read_body(&self, body: &mut &'a [u8]) -> Result<Record<'a>, &'static str> {
        body.split_off_first().ok_or("it is empty")?;
        let timestamp_delta = take_i64(body).ok_or("malformed timestamp delta")?;
        let offset_delta = take_i32(body).ok_or("malformed offset delta")?;
        if offset_delta < 0 || offset_delta > self.last_offset_delta {
            return Err("its offset lies outside the batch");
        }
        let key = take_nullable(body).map_err(|_| "malformed key")?;
        let value = take_nullable(body).map_err(|_| "malformed value")?;
        let count = take_i32(body).ok_or("malformed header count")?;
        let count = usize::try_from(count).map_err(|_| "its header count is negative")?;
        let headers = Headers {
            rest: body,
            left: count,
        };
        for _ in 0..count {
            take_header(body)?;
        }
        Ok(Record {
            offset: self.base_offset.wrapping_add(i64::from(offset_delta)),
            timestamp_ms: self
                .log_append_time
                .unwrap_or_else(|| self.base_timestamp.wrapping_add(timestamp_delta)),
            key,
            value,
            headers,
        })
    }
}

impl<'a> Iterator for RecordIter<'a> {
    type Item = Result<Record<'a>, RecordError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let index = self.index;
        let result = if index < self.count {
            self.index += 1;
            self.read()
        } else if self.rest.is_empty() {
            return None;
        } else {
            Err("bytes behind the last record")
        };
        self.failed = result.is_err();
        Some(result.map_err(|problem| RecordError::Record { index, problem }))
    }
}

impl std::iter::FusedIterator for RecordIter<'_> {}

#[inline]
fn take_header<'a>(body: &mut &'a [u8]) -> Result<(&'a [u8], Option<&'a [u8]>), &'static str> {
    let name = take_nullable(body).map_err(|_| "malformed header name")?;
    let value = take_nullable(body).map_err(|_| "malformed header value")?;
    Ok((name.ok_or("header without a name")?, value))
}

struct Malformed;

/// A length, −1 for null, and as many bytes.
#[inline]
fn take_nullable<'a>(body: &mut &'a [u8]) -> Result<Option<&'a [u8]>, Malformed> {
    match take_i32(body).ok_or(Malformed)? {
        -1 => Ok(None),
        length => {
            let length = usize::try_from(length).map_err(|_| Malformed)?;
            body.split_off(..length).map(Some).ok_or(Malformed)
        }
    }
}
