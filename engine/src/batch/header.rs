//! The header as a view over borrowed bytes.

pub use crate::api::TimestampType;
use zerocopy::byteorder::big_endian::{I16, I32, I64, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Length of the header in bytes; the records follow it.
pub const HEADER_BYTES: usize = 61;
/// The batch length field counts what lies behind this position.
pub const LENGTH_FIELD_END: usize = 12;
/// Where the bytes under the CRC begin.
pub(crate) const CRC_START: usize = 21;
/// The only format that is accepted.
pub const MAGIC: i8 = 2;
/// "No timestamp" in a timestamp field.
pub const NO_TIMESTAMP: i64 = -1;
/// "No producer id": the batch is not idempotent.
pub const NO_PRODUCER_ID: i64 = -1;
/// "No epoch", of a producer or a leader.
pub const NO_EPOCH: i16 = -1;
/// "No sequence".
pub const NO_SEQUENCE: i32 = -1;

const CODEC_MASK: i16 = 0x07;
pub(super) const LOG_APPEND_TIME_BIT: i16 = 0x08;
const TRANSACTIONAL_BIT: i16 = 0x10;
const CONTROL_BIT: i16 = 0x20;
const DELETE_HORIZON_BIT: i16 = 0x40;

const _: () = assert!(size_of::<BatchHeader>() == HEADER_BYTES);

/// The 61 bytes at the head of every batch, see the table in the [module](super). Any 61 bytes make one: a header says
/// what the bytes say, [`validate`](super::validate) says whether that may be believed.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct BatchHeader {
    pub(super) base_offset: I64,
    pub(super) batch_length: I32,
    pub(super) leader_epoch: I32,
    pub(super) magic: i8,
    pub(super) crc: U32,
    pub(super) attributes: I16,
    pub(super) last_offset_delta: I32,
    pub(super) base_timestamp: I64,
    pub(super) max_timestamp: I64,
    pub(super) producer_id: I64,
    pub(super) producer_epoch: I16,
    pub(super) base_sequence: I32,
    pub(super) records_count: I32,
}

/// Every field of a header, to write one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HeaderFields {
    pub base_offset: i64,
    pub batch_length: i32,
    pub leader_epoch: i32,
    pub crc: u32,
    pub attributes: i16,
    pub last_offset_delta: i32,
    pub base_timestamp: i64,
    pub max_timestamp: i64,
    pub producer_id: i64,
    pub producer_epoch: i16,
    pub base_sequence: i32,
    pub records_count: i32,
}

impl From<HeaderFields> for BatchHeader {
    fn from(fields: HeaderFields) -> Self {
        Self {
            base_offset: fields.base_offset.into(),
            batch_length: fields.batch_length.into(),
            leader_epoch: fields.leader_epoch.into(),
            magic: MAGIC,
            crc: fields.crc.into(),
            attributes: fields.attributes.into(),
            last_offset_delta: fields.last_offset_delta.into(),
            base_timestamp: fields.base_timestamp.into(),
            max_timestamp: fields.max_timestamp.into(),
            producer_id: fields.producer_id.into(),
            producer_epoch: fields.producer_epoch.into(),
            base_sequence: fields.base_sequence.into(),
            records_count: fields.records_count.into(),
        }
    }
}

/// How the records of a batch are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Codec {
    None = 0,
    Gzip = 1,
    Snappy = 2,
    Lz4 = 3,
    Zstd = 4,
}

impl Codec {
    /// The codec of an id as it stands in the attributes; `None` for 5, 6 and 7.
    pub fn from_id(id: u8) -> Option<Self> {
        Some(match id {
            0 => Self::None,
            1 => Self::Gzip,
            2 => Self::Snappy,
            3 => Self::Lz4,
            4 => Self::Zstd,
            _ => return None,
        })
    }

    /// Its bits in the attributes.
    pub fn id(self) -> u8 {
        self as u8
    }
}

impl BatchHeader {
    /// A view over the first 61 bytes; `None` when there are fewer.
    #[inline]
    pub fn view(bytes: &[u8]) -> Option<&Self> {
        Self::ref_from_prefix(bytes).ok().map(|(header, _)| header)
    }

    /// A writable view over the first 61 bytes; `None` when there are fewer.
    #[inline]
    pub fn view_mut(bytes: &mut [u8]) -> Option<&mut Self> {
        Self::mut_from_prefix(bytes).ok().map(|(header, _)| header)
    }

    /// Offset of the first record (before compaction); 0 in what a client sends.
    #[inline]
    pub fn base_offset(&self) -> i64 {
        self.base_offset.get()
    }

    /// Offset of the last record. Wraps for a header that nobody validated, never panics.
    #[inline]
    pub fn last_offset(&self) -> i64 {
        self.base_offset()
            .wrapping_add(i64::from(self.last_offset_delta()))
    }

    /// Offset behind the batch.
    #[inline]
    pub fn next_offset(&self) -> i64 {
        self.last_offset().wrapping_add(1)
    }

    /// The length field: bytes behind it.
    #[inline]
    pub fn batch_length(&self) -> i32 {
        self.batch_length.get()
    }

    /// Bytes of the whole batch, header and length field included; `None` when the length field says less than a header.
    #[inline]
    pub fn total_bytes(&self) -> Option<usize> {
        let length = usize::try_from(self.batch_length()).ok()?;
        let total = length.checked_add(LENGTH_FIELD_END)?;
        (total >= HEADER_BYTES).then_some(total)
    }

    /// Epoch of the leader that appended it.
    #[inline]
    pub fn leader_epoch(&self) -> i32 {
        self.leader_epoch.get()
    }

    #[inline]
    pub fn magic(&self) -> i8 {
        self.magic
    }

    /// The stored CRC-32C over everything from the attributes on.
    #[inline]
    pub fn crc(&self) -> u32 {
        self.crc.get()
    }

    pub(crate) fn set_crc(&mut self, crc: u32) {
        self.crc.set(crc);
    }

    #[inline]
    pub fn attributes(&self) -> i16 {
        self.attributes.get()
    }

    /// `None` when the attributes name a codec that does not exist.
    #[inline]
    pub fn codec(&self) -> Option<Codec> {
        Codec::from_id((self.attributes() & CODEC_MASK) as u8)
    }

    /// The codec's bits, known or not.
    #[inline]
    pub fn codec_id(&self) -> u8 {
        (self.attributes() & CODEC_MASK) as u8
    }

    #[inline]
    pub fn timestamp_type(&self) -> TimestampType {
        if self.attributes() & LOG_APPEND_TIME_BIT == 0 {
            TimestampType::CreateTime
        } else {
            TimestampType::LogAppendTime
        }
    }

    #[inline]
    pub fn is_transactional(&self) -> bool {
        self.attributes() & TRANSACTIONAL_BIT != 0
    }

    #[inline]
    pub fn is_control(&self) -> bool {
        self.attributes() & CONTROL_BIT != 0
    }

    /// Whether the base timestamp is a time of deletion; set by compaction only.
    #[inline]
    pub fn has_delete_horizon(&self) -> bool {
        self.attributes() & DELETE_HORIZON_BIT != 0
    }

    /// Offset of the last record less the base offset; the same for sequences.
    #[inline]
    pub fn last_offset_delta(&self) -> i32 {
        self.last_offset_delta.get()
    }

    /// Timestamp in ms since 1970 to which the records' deltas are added.
    #[inline]
    pub fn base_timestamp(&self) -> i64 {
        self.base_timestamp.get()
    }

    /// Largest timestamp in ms since 1970, as the producer says. [`NO_TIMESTAMP`] from clients that leave it unset.
    #[inline]
    pub fn max_timestamp(&self) -> i64 {
        self.max_timestamp.get()
    }

    /// The largest timestamp that the header knows of: some clients set only the base.
    #[inline]
    pub fn latest_timestamp(&self) -> i64 {
        if self.has_delete_horizon() {
            return self.max_timestamp();
        }
        self.max_timestamp().max(self.base_timestamp())
    }

    /// [`NO_PRODUCER_ID`] (or another negative number) unless idempotent.
    #[inline]
    pub fn producer_id(&self) -> i64 {
        self.producer_id.get()
    }

    /// Whether producer id, epoch and sequence have a meaning.
    #[inline]
    pub fn has_producer(&self) -> bool {
        self.producer_id() >= 0
    }

    #[inline]
    pub fn producer_epoch(&self) -> i16 {
        self.producer_epoch.get()
    }

    #[inline]
    pub fn base_sequence(&self) -> i32 {
        self.base_sequence.get()
    }

    /// Sequence of the last record: after 2^31−1 comes 0. [`NO_SEQUENCE`] when the batch has none.
    #[inline]
    pub fn last_sequence(&self) -> i32 {
        match self.base_sequence() {
            base if base < 0 => NO_SEQUENCE,
            base => sequence_add(base, self.last_offset_delta()),
        }
    }

    #[inline]
    pub fn records_count(&self) -> i32 {
        self.records_count.get()
    }
}

impl std::fmt::Debug for BatchHeader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BatchHeader")
            .field("base_offset", &self.base_offset())
            .field("batch_length", &self.batch_length())
            .field("leader_epoch", &self.leader_epoch())
            .field("magic", &self.magic())
            .field("crc", &format_args!("{:#010x}", self.crc()))
            .field("attributes", &format_args!("{:#06x}", self.attributes()))
            .field("last_offset_delta", &self.last_offset_delta())
            .field("base_timestamp", &self.base_timestamp())
            .field("max_timestamp", &self.max_timestamp())
            .field("producer_id", &self.producer_id())
            .field("producer_epoch", &self.producer_epoch())
            .field("base_sequence", &self.base_sequence())
            .field("records_count", &self.records_count())
            .finish()
    }
}

/// Sequence `delta` behind `sequence` (both ≥ 0): the field has 31 bits and wraps to 0.
#[inline]
pub fn sequence_add(sequence: i32, delta: i32) -> i32 {
    sequence.wrapping_add(delta) & i32::MAX
}
