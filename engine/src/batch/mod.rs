//! Kafka RecordBatch v2 by its 61-byte header: read, check, split and patch, without looking at a record.
//!
//! ```text
//! at  bytes  field                  who sets it        at  bytes  field             who sets it
//!  0    8    base offset            broker             27    8    base timestamp    producer
//!  8    4    batch length (after    producer           35    8    max timestamp     producer, or broker (LogAppendTime)
//!            this field)                               43    8    producer id       producer
//! 12    4    partition leader epoch broker             51    2    producer epoch    producer
//! 16    1    magic = 2              producer           53    4    base sequence     producer
//! 17    4    CRC-32C of 21..end     producer           57    4    records count     producer
//! 21    2    attributes             producer           61    ..   records, compressed as a whole
//! 23    4    last offset delta      producer
//! ```
//!
//! All integers are big endian. What the broker always sets lies before the CRC's range, so a stored batch differs from
//! a produced one in 12 bytes. Attributes: bits 0–2 codec, 3 timestamp type, 4 transactional, 5 control, 6 delete
//! horizon, 7–15 unused.

mod header;
mod patch;
mod split;
mod validate;

#[cfg(test)]
mod tests;

pub use header::{
    BatchHeader, Codec, HEADER_BYTES, LENGTH_FIELD_END, MAGIC, NO_EPOCH, NO_PRODUCER_ID,
    NO_SEQUENCE, NO_TIMESTAMP, TimestampType, sequence_add,
};
pub(crate) use header::{CRC_START, HeaderFields};
pub use patch::{assign, set_log_append_time, set_max_timestamp};
pub use split::{Batches, RawBatch, single};
pub use validate::{BatchError, BatchErrorKind, Limits, Origin, ValidBatch, validate};
