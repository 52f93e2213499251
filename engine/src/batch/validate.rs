//! The checks that a batch passes before it is appended. They follow what Apache Kafka's broker checks of a produced
//! batch, as far as the header and the CRC tell.

use thiserror::Error;

use super::header::CRC_START;
use super::header::{BatchHeader, Codec, HEADER_BYTES, NO_TIMESTAMP, TimestampType};
use super::split::RawBatch;
use crate::crc;

/// Smallest encoding of a record: length, attributes, two deltas, two field lengths, header count, one byte each.
pub(crate) const RECORD_BYTES_MIN: usize = 7;

/// Where a batch comes from, which decides how much is asked of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A producer: offsets start at 0 without gaps, no control records, timestamps are the producer's.
    Client,
    /// A log, or a leader: assigned offsets, perhaps with gaps or empty after compaction.
    Log,
}

/// What a batch may be. `..Limits::client(max)` gives the rest.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub origin: Origin,
    /// Largest whole batch in bytes (Kafka's `message.max.bytes`).
    pub batch_bytes_max: usize,
    /// Most records of one batch.
    pub records_max: u32,
    /// Whether a transactional batch may pass.
    pub transactional: bool,
    /// Earliest and latest timestamp in ms that a producer may set; [`NO_TIMESTAMP`] always passes.
    pub timestamp_min: i64,
    pub timestamp_max: i64,
}

impl Limits {
    /// Most records of one batch by default: more than this do not fit into what is ever decompressed.
    pub const RECORDS_MAX: u32 = (crate::records::DECOMPRESSED_BYTES_MAX / RECORD_BYTES_MIN) as u32;

    /// For what a producer sends: no transactions, any timestamp.
    pub const fn client(batch_bytes_max: usize) -> Self {
        Self {
            origin: Origin::Client,
            batch_bytes_max,
            records_max: Self::RECORDS_MAX,
            transactional: false,
            timestamp_min: i64::MIN,
            timestamp_max: i64::MAX,
        }
    }

    /// For what stands in a log.
    pub const fn log(batch_bytes_max: usize) -> Self {
        Self {
            origin: Origin::Log,
            transactional: true,
            ..Self::client(batch_bytes_max)
        }
    }
}

/// Why a batch is refused. [`BatchError::kind`] groups them for a protocol's error codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum BatchError {
    #[error("no batch at all")]
    Empty,
    #[error("more than one batch")]
    SeveralBatches,
    #[error("ends after {have} bytes where the batch needs {needed}")]
    Truncated { needed: usize, have: usize },
    #[error("length field {0} is less than a header")]
    Length(i32),
    #[error("batch of {bytes} bytes is larger than {max}")]
    TooLarge { bytes: usize, max: usize },
    #[error("magic {0} instead of 2")]
    Magic(i8),
    #[error("CRC is {computed:#010x}, the header says {stored:#010x}")]
    Crc { stored: u32, computed: u32 },
    #[error("compression codec {0} does not exist")]
    Codec(u8),
    #[error("base offset {0} instead of 0")]
    BaseOffset(i64),
    #[error("offsets {base_offset} + {last_offset_delta} are no offset range")]
    OffsetRange {
        base_offset: i64,
        last_offset_delta: i32,
    },
    #[error("{count} records between offsets 0 and {last_offset_delta}")]
    Count { count: i32, last_offset_delta: i32 },
    #[error("{count} records do not fit into {payload} bytes")]
    CountBeyondPayload { count: i32, payload: usize },
    #[error("{count} records are more than {max}")]
    TooManyRecords { count: i32, max: u32 },
    #[error("control batch from a client")]
    Control,
    #[error("transactional batch")]
    Transactional,
    #[error("timestamp type LogAppendTime from a client")]
    TimestampType,
    #[error("timestamps {base} to {max} are out of order or out of range")]
    Timestamps { base: i64, max: i64 },
    #[error("producer {id} with epoch {epoch} and sequence {sequence}")]
    Producer { id: i64, epoch: i16, sequence: i32 },
}

/// What kind of answer a refused batch gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BatchErrorKind {
    /// Damaged on the way (Kafka: CORRUPT_MESSAGE).
    Corrupt,
    /// Well transported, but not what may be written (INVALID_RECORD).
    Invalid,
    /// MESSAGE_TOO_LARGE.
    TooLarge,
    /// UNSUPPORTED_COMPRESSION_TYPE.
    Compression,
    /// INVALID_TIMESTAMP.
    Timestamp,
    /// A transaction, where there are none (INVALID_TXN_STATE, or what the adapter finds right).
    Transactional,
}

impl BatchError {
    pub fn kind(&self) -> BatchErrorKind {
        match self {
            Self::Truncated { .. } | Self::Length(_) | Self::Crc { .. } => BatchErrorKind::Corrupt,
            Self::TooLarge { .. } => BatchErrorKind::TooLarge,
            Self::Codec(_) => BatchErrorKind::Compression,
            Self::TimestampType | Self::Timestamps { .. } => BatchErrorKind::Timestamp,
            Self::Transactional => BatchErrorKind::Transactional,
            Self::Empty
            | Self::SeveralBatches
            | Self::Magic(_)
            | Self::BaseOffset(_)
            | Self::OffsetRange { .. }
            | Self::Count { .. }
            | Self::CountBeyondPayload { .. }
            | Self::TooManyRecords { .. }
            | Self::Control
            | Self::Producer { .. } => BatchErrorKind::Invalid,
        }
    }
}

/// A batch that passed [`validate`]. Its records are unread: they can still be nonsense under a right CRC.
#[derive(Clone, Copy, Debug)]
pub struct ValidBatch<'a> {
    raw: RawBatch<'a>,
    codec: Codec,
}

impl<'a> ValidBatch<'a> {
    #[inline]
    pub fn header(&self) -> &'a BatchHeader {
        self.raw.header()
    }

    /// Header and records.
    #[inline]
    pub fn bytes(&self) -> &'a [u8] {
        self.raw.bytes()
    }

    #[inline]
    pub fn payload(&self) -> &'a [u8] {
        self.raw.payload()
    }

    #[inline]
    pub fn codec(&self) -> Codec {
        self.codec
    }

    #[inline]
    pub fn is_control(&self) -> bool {
        self.header().is_control()
    }

    #[inline]
    pub fn is_transactional(&self) -> bool {
        self.header().is_transactional()
    }

    #[inline]
    pub fn records_count(&self) -> u32 {
        self.header().records_count() as u32
    }
}

/// Checks that `bytes` are exactly one batch that `limits` admit: length, size, magic, CRC, then the meaning of the
/// header's fields. One pass over the bytes, for the CRC.
#[inline]
pub fn validate<'a>(bytes: &'a [u8], limits: &Limits) -> Result<ValidBatch<'a>, BatchError> {
    let raw = super::split::single(bytes)?;
    if bytes.len() > limits.batch_bytes_max {
        return Err(BatchError::TooLarge {
            bytes: bytes.len(),
            max: limits.batch_bytes_max,
        });
    }
    let (stored, computed) = (raw.header().crc(), crc::crc32c(0, &bytes[CRC_START..]));
    if stored != computed {
        return Err(BatchError::Crc { stored, computed });
    }
    let codec = check_fields(raw.header(), bytes.len() - HEADER_BYTES, limits)?;
    Ok(ValidBatch { raw, codec })
}

fn check_fields(
    header: &BatchHeader,
    payload_bytes: usize,
    limits: &Limits,
) -> Result<Codec, BatchError> {
    let codec = header.codec().ok_or(BatchError::Codec(header.codec_id()))?;
    check_offsets(header, limits)?;
    let count = header.records_count();
    if codec == Codec::None && count as usize > payload_bytes / RECORD_BYTES_MIN {
        return Err(BatchError::CountBeyondPayload {
            count,
            payload: payload_bytes,
        });
    }
    if header.is_transactional() && !limits.transactional {
        return Err(BatchError::Transactional);
    }
    let producer_is_whole =
        header.producer_epoch() >= 0 && (header.base_sequence() >= 0 || header.is_control());
    if header.has_producer() && limits.origin == Origin::Client && !producer_is_whole {
        let (epoch, sequence) = (header.producer_epoch(), header.base_sequence());
        return Err(BatchError::Producer {
            id: header.producer_id(),
            epoch,
            sequence,
        });
    }
    if limits.origin == Origin::Client {
        if header.is_control() {
            return Err(BatchError::Control);
        }
        check_timestamps(header, limits)?;
    }
    Ok(codec)
}

fn check_offsets(header: &BatchHeader, limits: &Limits) -> Result<(), BatchError> {
    let (base_offset, last_offset_delta) = (header.base_offset(), header.last_offset_delta());
    // Offsets end below i64::MAX, so that the offset behind the last one can be named.
    let in_range = base_offset >= 0
        && last_offset_delta >= 0
        && header.last_offset() >= 0
        && header.next_offset() > 0;
    let count = header.records_count();
    match limits.origin {
        Origin::Client if base_offset != 0 => return Err(BatchError::BaseOffset(base_offset)),
        Origin::Client
            if last_offset_delta < 0 || count.checked_sub(1) != Some(last_offset_delta) =>
        {
            return Err(BatchError::Count {
                count,
                last_offset_delta,
            });
        }
        _ if !in_range => {
            return Err(BatchError::OffsetRange {
                base_offset,
                last_offset_delta,
            });
        }
        _ if count < 0 || i64::from(count) > i64::from(last_offset_delta) + 1 => {
            return Err(BatchError::Count {
                count,
                last_offset_delta,
            });
        }
        _ => {}
    }
    if count as u32 > limits.records_max {
        return Err(BatchError::TooManyRecords {
            count,
            max: limits.records_max,
        });
    }
    Ok(())
}

fn check_timestamps(header: &BatchHeader, limits: &Limits) -> Result<(), BatchError> {
    if header.timestamp_type() == TimestampType::LogAppendTime {
        return Err(BatchError::TimestampType);
    }
    let (base, max) = (header.base_timestamp(), header.max_timestamp());
    // Some clients leave the max unset, see `BatchHeader::latest_timestamp`.
    let ordered = max >= base || max == NO_TIMESTAMP;
    let admitted = |timestamp: i64| {
        timestamp == NO_TIMESTAMP
            || (timestamp >= limits.timestamp_min && timestamp <= limits.timestamp_max)
    };
    if ordered && admitted(base) && admitted(max) {
        Ok(())
    } else {
        Err(BatchError::Timestamps { base, max })
    }
}
