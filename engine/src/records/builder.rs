//! Writing a batch from records.

use super::compress::compress;
use super::varint::{len_i32, len_i64, put_i32, put_i64};
use crate::batch::{BatchHeader, CRC_START, Codec, HEADER_BYTES, HeaderFields, LENGTH_FIELD_END};
use crate::batch::{NO_EPOCH, NO_PRODUCER_ID, NO_SEQUENCE};
use crate::crc;
use zerocopy::IntoBytes;

/// A record to be written.
#[derive(Clone, Copy, Debug, Default)]
pub struct NewRecord<'a> {
    /// ms since 1970.
    pub timestamp_ms: i64,
    pub key: Option<&'a [u8]>,
    pub value: Option<&'a [u8]>,
    /// Name and value, in order.
    pub headers: &'a [(&'a [u8], Option<&'a [u8]>)],
}

/// Who an idempotent batch is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Producer {
    pub id: i64,
    pub epoch: i16,
    pub base_sequence: i32,
}

/// Collects records and makes a batch of them: base offset 0, offsets without gaps, CreateTime, leader epoch −1. The first
/// record's timestamp is the base timestamp.
///
/// ```
/// use trireme_engine::batch::{self, Codec, Limits};
/// use trireme_engine::records::{BatchBuilder, NewRecord, Records};
///
/// let mut builder = BatchBuilder::new(Codec::Lz4);
/// builder.push(&NewRecord { timestamp_ms: 5, value: Some(b"oar"), ..Default::default() });
/// let bytes = builder.finish();
/// batch::validate(&bytes, &Limits::client(1 << 20)).unwrap();
/// let records = Records::open(&bytes, &Default::default()).unwrap();
/// assert_eq!(records.iter().next().unwrap().unwrap().value, Some(&b"oar"[..]));
/// ```
#[derive(Clone, Debug)]
pub struct BatchBuilder {
    codec: Codec,
    producer: Option<Producer>,
    attributes: i16,
    /// With room for the header in front, so that an uncompressed batch is finished in place.
    bytes: Vec<u8>,
    count: i32,
    base_timestamp: i64,
    max_timestamp: i64,
}

impl BatchBuilder {
    pub fn new(codec: Codec) -> Self {
        Self::with_capacity(codec, 0)
    }

    /// Room for `record_bytes` of encoded records from the start.
    pub fn with_capacity(codec: Codec, record_bytes: usize) -> Self {
        let mut bytes = Vec::with_capacity(HEADER_BYTES + record_bytes);
        bytes.resize(HEADER_BYTES, 0);
        Self {
            codec,
            producer: None,
            attributes: i16::from(codec.id()),
            bytes,
            count: 0,
            base_timestamp: 0,
            max_timestamp: i64::MIN,
        }
    }

    /// Makes the batch idempotent.
    pub fn producer(mut self, producer: Producer) -> Self {
        self.producer = Some(producer);
        self
    }

    /// Sets further attribute bits: transactional, control. For tools and tests.
    pub fn attributes(mut self, bits: i16) -> Self {
        self.attributes |= bits;
        self
    }

    /// Adds a record.
    ///
    /// Panics when the records exceed 2 GiB, which the format cannot say.
    pub fn push(&mut self, record: &NewRecord<'_>) {
        if self.count == 0 {
            self.base_timestamp = record.timestamp_ms;
        }
        self.max_timestamp = self.max_timestamp.max(record.timestamp_ms);
        let timestamp_delta = record.timestamp_ms.wrapping_sub(self.base_timestamp);
        let header_count = to_i32(record.headers.len());
        let body_bytes = 1
            + len_i64(timestamp_delta)
            + len_i32(self.count)
            + len_nullable(record.key)
            + len_nullable(record.value)
            + len_i32(header_count)
            + record
                .headers
                .iter()
                .map(|(name, value)| len_nullable(Some(name)) + len_nullable(*value))
                .sum::<usize>();
        let out = &mut self.bytes;
        put_i32(out, to_i32(body_bytes));
        let body_at = out.len();
        out.push(0);
        put_i64(out, timestamp_delta);
        put_i32(out, self.count);
        put_nullable(out, record.key);
        put_nullable(out, record.value);
        put_i32(out, header_count);
        for (name, value) in record.headers {
            put_nullable(out, Some(name));
            put_nullable(out, *value);
        }
        debug_assert_eq!(out.len() - body_at, body_bytes);
        to_i32(out.len());
        self.count += 1;
    }

    /// Records so far.
    pub fn len(&self) -> usize {
        self.count as usize
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Bytes of header and uncompressed records so far.
    pub fn batch_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// The batch, valid in the sense of [`validate`](crate::batch::validate).
    ///
    /// Panics when there is no record: Kafka knows no batch without one.
    pub fn finish(self) -> Vec<u8> {
        assert!(self.count > 0, "a batch has at least one record");
        let mut batch = match self.codec {
            Codec::None => self.bytes,
            codec => {
                let mut batch = vec![0; HEADER_BYTES];
                compress(codec, &self.bytes[HEADER_BYTES..], &mut batch);
                batch
            }
        };
        let producer = self.producer.unwrap_or(Producer {
            id: NO_PRODUCER_ID,
            epoch: NO_EPOCH,
            base_sequence: NO_SEQUENCE,
        });
        let mut header = BatchHeader::from(HeaderFields {
            base_offset: 0,
            batch_length: to_i32(batch.len() - LENGTH_FIELD_END),
            leader_epoch: i32::from(NO_EPOCH),
            crc: 0,
            attributes: self.attributes,
            last_offset_delta: self.count - 1,
            base_timestamp: self.base_timestamp,
            max_timestamp: self.max_timestamp,
            producer_id: producer.id,
            producer_epoch: producer.epoch,
            base_sequence: producer.base_sequence,
            records_count: self.count,
        });
        let of_fields = crc::crc32c(0, &header.as_bytes()[CRC_START..]);
        header.set_crc(crc::crc32c(of_fields, &batch[HEADER_BYTES..]));
        batch[..HEADER_BYTES].copy_from_slice(header.as_bytes());
        batch
    }
}

fn to_i32(length: usize) -> i32 {
    i32::try_from(length).expect("a batch is below 2 GiB")
}

fn len_nullable(field: Option<&[u8]>) -> usize {
    field.map_or(1, |bytes| len_i32(to_i32(bytes.len())) + bytes.len())
}

fn put_nullable(out: &mut Vec<u8>, field: Option<&[u8]>) {
    match field {
        None => put_i32(out, -1),
        Some(bytes) => {
            put_i32(out, to_i32(bytes.len()));
            out.extend_from_slice(bytes);
        }
    }
}
