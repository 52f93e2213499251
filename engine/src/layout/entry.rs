//! The directory of a group: one entry of fixed size for each record, so that recovery walks a group without touching the
//! payloads, and the payloads can be copied out as they are.

use zerocopy::byteorder::little_endian::{I32, I64, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::ids::{PartitionId, TopicId};

/// Size of a directory entry.
pub const ENTRY_BYTES: usize = size_of::<RawEntry>();

/// What a record of the commit log says. All of them are physical and idempotent: they name a segment and a byte position.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum RecordType {
    /// Whole batches, contiguous, at `position` of the segment; the payload is their bytes. A segment's first record has
    /// position 0 and so says that the segment was rolled.
    Append = 1,
    /// A run of batches written straight to its segment as whole blocks: see [`payload::Direct`](super::payload::Direct).
    Direct = 2,
    /// The blocks of the direct run at this segment, position and length are durable: recovery need not verify them.
    Done = 3,
    /// The bytes of a flushed partial block that is about to be appended to in place, from `position` (a multiple of
    /// `SUM_BLOCK`) on: the file's copy may be torn from now on.
    BlockImage = 4,
    /// Tail bytes logged again so that an old file can be recycled. Replayed like an append, but without effect on
    /// producers, epochs or offsets, which the checkpoint that allows the recycling holds. Need not begin or end at a batch.
    Carried = 5,
    /// The partition ends before `base_offset`, which is at `position` of segment `segment_base`; `leader_epoch` is the epoch that cut it.
    Truncate = 6,
    /// The partition exists, empty, with its first offset `base_offset`.
    Create = 7,
    /// The partition exists no longer, and its id will not come back.
    Delete = 8,
    /// Everything below `base_offset` is deleted.
    LogStart = 9,
    /// The producers of the partition as of `base_offset` (what follows applies from there); replaces what was known.
    ProducerSnapshot = 10,
    /// Nothing: the group's `durable_through` is the message. Names no partition.
    Mark = 11,
    /// The log goes on in another file: see [`payload::FileEnd`](super::payload::FileEnd). The last record of the last
    /// group of a file. Names no partition.
    FileEnd = 12,
}

impl RecordType {
    pub fn from_byte(byte: u8) -> Option<RecordType> {
        use RecordType::*;
        [
            Append,
            Direct,
            Done,
            BlockImage,
            Carried,
            Truncate,
            Create,
            Delete,
            LogStart,
            ProducerSnapshot,
            Mark,
            FileEnd,
        ]
        .into_iter()
        .find(|kind| *kind as u8 == byte)
    }

    /// Whether the record names a partition.
    pub fn names_partition(self) -> bool {
        !matches!(self, RecordType::Mark | RecordType::FileEnd)
    }

    /// Whether the payload is `len` bytes of the partition's stream.
    pub fn payload_is_stream(self) -> bool {
        matches!(
            self,
            RecordType::Append | RecordType::BlockImage | RecordType::Carried
        )
    }

    /// Whether the record has a payload at all.
    pub fn has_payload(self) -> bool {
        self.payload_is_stream()
            || matches!(
                self,
                RecordType::Direct | RecordType::ProducerSnapshot | RecordType::FileEnd
            )
    }
}

/// A directory entry as it is used in memory. What a type does not use is zero, and checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    pub kind: RecordType,
    /// None defined yet: zero.
    pub flags: u8,
    pub partition: PartitionId,
    pub leader_epoch: i32,
    /// Offsets of the first and last record.
    pub base_offset: i64,
    pub last_offset: i64,
    /// Base offset of the segment, which is its name.
    pub segment_base: i64,
    /// Byte in the segment.
    pub position: u64,
    /// Bytes of the partition's stream that this record stands for.
    pub len: u32,
    pub record_count: u32,
    pub batch_count: u32,
}

impl Entry {
    /// An entry with everything but its kind and partition zero.
    pub fn new(kind: RecordType, partition: PartitionId) -> Entry {
        Entry {
            kind,
            flags: 0,
            partition,
            leader_epoch: 0,
            base_offset: 0,
            last_offset: 0,
            segment_base: 0,
            position: 0,
            len: 0,
            record_count: 0,
            batch_count: 0,
        }
    }

    /// The byte in the segment behind what this record stands for.
    pub fn end_position(&self) -> u64 {
        self.position + u64::from(self.len)
    }
}

/// | at | bytes | |
/// | --- | --- | --- |
/// | 0 | 1 | type |
/// | 1 | 1 | flags |
/// | 2 | 2 | zero |
/// | 4 | 4 | leader epoch |
/// | 8 | 16 | topic id |
/// | 24 | 4 | partition index |
/// | 28 | 4 | len: bytes of the partition's stream |
/// | 32 | 8 | base offset |
/// | 40 | 8 | last offset |
/// | 48 | 8 | segment (its base offset) |
/// | 56 | 8 | position in the segment |
/// | 64 | 4 | payload: offset from the end of the directory. The payloads lie in the order of the entries, without gaps |
/// | 68 | 4 | payload: length |
/// | 72 | 4 | records |
/// | 76 | 4 | batches |
#[derive(Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct RawEntry {
    kind: u8,
    flags: u8,
    zero: [u8; 2],
    leader_epoch: I32,
    topic: [u8; 16],
    index: U32,
    len: U32,
    base_offset: I64,
    last_offset: I64,
    segment_base: I64,
    position: U64,
    pub(super) payload_offset: U32,
    pub(super) payload_len: U32,
    record_count: U32,
    batch_count: U32,
}

const _: () = assert!(ENTRY_BYTES == 80);

/// Why an entry is not one of ours although its check sum holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    #[error("record type {0} is not known")]
    UnknownType(u8),
    #[error("fields that do not go together")]
    Content,
}

impl RawEntry {
    pub(super) fn new(entry: &Entry, payload_offset: u32, payload_len: u32) -> RawEntry {
        RawEntry {
            kind: entry.kind as u8,
            flags: entry.flags,
            zero: [0; 2],
            leader_epoch: entry.leader_epoch.into(),
            topic: entry.partition.topic.0,
            index: entry.partition.index.into(),
            len: entry.len.into(),
            base_offset: entry.base_offset.into(),
            last_offset: entry.last_offset.into(),
            segment_base: entry.segment_base.into(),
            position: entry.position.into(),
            payload_offset: payload_offset.into(),
            payload_len: payload_len.into(),
            record_count: entry.record_count.into(),
            batch_count: entry.batch_count.into(),
        }
    }

    pub(super) fn entry(&self) -> Result<Entry, EntryError> {
        let kind = RecordType::from_byte(self.kind).ok_or(EntryError::UnknownType(self.kind))?;
        let entry = Entry {
            kind,
            flags: self.flags,
            partition: PartitionId {
                topic: TopicId(self.topic),
                index: self.index.get(),
            },
            leader_epoch: self.leader_epoch.get(),
            base_offset: self.base_offset.get(),
            last_offset: self.last_offset.get(),
            segment_base: self.segment_base.get(),
            position: self.position.get(),
            len: self.len.get(),
            record_count: self.record_count.get(),
            batch_count: self.batch_count.get(),
        };
        if self.zero != [0; 2] || !entry.is_consistent(self.payload_len.get()) {
            return Err(EntryError::Content);
        }
        Ok(entry)
    }
}

impl Entry {
    /// Whether the fields go together: what every reader may rely on.
    pub(super) fn is_consistent(&self, payload_len: u32) -> bool {
        let payload = if self.kind.payload_is_stream() {
            payload_len == self.len && payload_len > 0
        } else {
            (payload_len > 0) == self.kind.has_payload()
        };
        let who = self.kind.names_partition() || self.partition == PartitionId::default();
        let span = match self.kind {
            RecordType::Append | RecordType::Direct => {
                self.base_offset <= self.last_offset && self.batch_count > 0
            }
            _ => true,
        };
        payload
            && who
            && span
            && self.flags == 0
            && self.base_offset >= 0
            && self.segment_base >= 0
            && self.position <= i64::MAX as u64
    }
}
