//! The group: what one write of the commit log puts on disk, for all partitions of the shard at once.
//!
//! ```text
//! header (96) | CRC-32 of each 4 KiB block | directory (80 per record) | payloads | zeros up to a multiple of 4 KiB
//! ```
//!
//! A group is written by one O_DIRECT + DSYNC write, is at most [`GROUP_BYTES_MAX`] long and never crosses files. Its header
//! tells where it must stand (file, use, position), what comes before it (sequence, CRC of the previous header), and how far
//! the log was known to be durable when it was submitted, which is what parts a torn end from damage.

use smallvec::SmallVec;
use zerocopy::byteorder::little_endian::{I64, U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::entry::{ENTRY_BYTES, Entry, EntryError, RawEntry};
use super::seed::{crc32, log_seed, nonce_of};
use super::{BLOCK, GROUP_BYTES_MAX, first_nonzero, round_up_to_block};
use crate::crc::crc32_seed_of;
use crate::mutations::{Mutation, on};

pub const MAGIC: [u8; 8] = *b"TRIRGRP\0";
pub const VERSION: u16 = 1;
/// Size of the fixed header; the CRC table follows it.
pub const HEADER_BYTES: usize = size_of::<RawHeader>();
pub(super) const HEADER_CRC_AT: usize = HEADER_BYTES - 4;
pub(super) const CRC_BYTES: usize = 4;

/// The header with its CRC table always lies in the first block, so one block decides what a group is.
const _: () =
    assert!(HEADER_BYTES == 96 && HEADER_BYTES + GROUP_BYTES_MAX / BLOCK * CRC_BYTES < BLOCK);

/// | at | bytes | |
/// | --- | --- | --- |
/// | 0 | 8 | magic `TRIRGRP\0` |
/// | 8 | 2 | version |
/// | 10 | 2 | shard |
/// | 12 | 4 | header CRC of the previous group: the chain. Of a log's first group: the incarnation's own first value, 0 |
/// | 16 | 8 | incarnation |
/// | 24 | 8 | sequence: +1 for each group |
/// | 32 | 4 | file |
/// | 36 | 4 | number of this use of the file |
/// | 40 | 8 | position in the file |
/// | 48 | 4 | length with padding, a multiple of 4096 |
/// | 52 | 4 | number of records |
/// | 56 | 4 | length of the directory |
/// | 60 | 4 | length of the payloads |
/// | 64 | 8 | durable_through: the highest sequence known durable when this group was submitted |
/// | 72 | 8 | Unix milliseconds |
/// | 80 | 12 | zero |
/// | 92 | 4 | CRC of the bytes before and of the CRC table, seeded from nonce and use |
///
/// The table's CRCs are seeded likewise; the one of block 0 covers what of that block follows the table.
///
/// Why the header's CRC stands apart from those of the blocks: the scan for intact groups behind a broken one reads only
/// headers, and a header is proof enough that its group was submitted.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawHeader {
    magic: [u8; 8],
    version: U16,
    shard: U16,
    previous_header_crc: U32,
    incarnation: U64,
    sequence: U64,
    file: U32,
    file_use: U32,
    position: U64,
    length: U32,
    record_count: U32,
    directory_len: U32,
    payload_len: U32,
    durable_through: U64,
    unix_ms: I64,
    zeros: [u8; 12],
    header_crc: U32,
}

/// What all groups of a shard's incarnation have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogIdentity {
    pub shard: u16,
    pub incarnation: u64,
    /// Random, known only from the checkpoint.
    pub nonce: u64,
}

/// What the writer knows of a group beside its records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupContext {
    pub identity: LogIdentity,
    pub file: u32,
    pub file_use: u32,
    pub position: u64,
    pub sequence: u64,
    pub previous_header_crc: u32,
    pub durable_through: u64,
    pub unix_ms: i64,
}

/// A record to be encoded: its entry and its payload in as many pieces as it lies in memory.
#[derive(Clone, Debug)]
pub struct PendingRecord<'a> {
    pub entry: Entry,
    pub payload: SmallVec<[&'a [u8]; 2]>,
}

impl<'a> PendingRecord<'a> {
    pub fn new(entry: Entry) -> PendingRecord<'a> {
        PendingRecord {
            entry,
            payload: SmallVec::new(),
        }
    }

    pub fn with_payload(entry: Entry, payload: &'a [u8]) -> PendingRecord<'a> {
        PendingRecord {
            entry,
            payload: SmallVec::from_slice(&[payload]),
        }
    }

    pub fn payload_len(&self) -> usize {
        self.payload.iter().map(|piece| piece.len()).sum()
    }
}

/// What became of an encoded group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupInfo {
    /// Bytes to write: a multiple of [`BLOCK`].
    pub len: usize,
    /// `previous_header_crc` of the next group.
    pub header_crc: u32,
}

/// The length of a group of that many records with that many bytes of payload; may exceed [`GROUP_BYTES_MAX`], then it
/// cannot be encoded.
pub fn group_len(record_count: usize, payload_len: usize) -> usize {
    let content = HEADER_BYTES + record_count * ENTRY_BYTES + payload_len;
    // Each block costs four bytes of table, which may cost a block more.
    let mut blocks = (content + content.div_ceil(BLOCK) * CRC_BYTES).div_ceil(BLOCK);
    while blocks * BLOCK < content + blocks * CRC_BYTES {
        blocks += 1;
    }
    blocks * BLOCK
}

/// The largest payload that fits into a group with that many records.
pub const fn payload_len_max(record_count: usize) -> usize {
    let table = GROUP_BYTES_MAX / BLOCK * CRC_BYTES;
    GROUP_BYTES_MAX.saturating_sub(HEADER_BYTES + table + record_count * ENTRY_BYTES)
}

/// Encodes a group into the beginning of `out`, which needs [`group_len`] bytes and may hold anything: padding is zeroed.
///
/// # Panics
/// If there are no records, the group is longer than [`GROUP_BYTES_MAX`] or than `out`, or an entry's fields do not go
/// together with its type: broken invariants of the caller.
pub fn encode_group(
    context: &GroupContext,
    records: &[PendingRecord<'_>],
    out: &mut [u8],
) -> GroupInfo {
    let payload_len = records
        .iter()
        .map(PendingRecord::payload_len)
        .sum::<usize>();
    let len = group_len(records.len(), payload_len);
    assert!(
        !records.is_empty() && len <= GROUP_BYTES_MAX,
        "a group of {} records, {len} bytes",
        records.len()
    );
    let out = &mut out[..len];
    let blocks = len / BLOCK;
    let directory_at = HEADER_BYTES + blocks * CRC_BYTES;
    let payloads_at = directory_at + records.len() * ENTRY_BYTES;

    let mut at = payloads_at;
    for (index, record) in records.iter().enumerate() {
        let begin = at;
        for piece in &record.payload {
            out[at..at + piece.len()].copy_from_slice(piece);
            at += piece.len();
        }
        let record_len = (at - begin) as u32;
        assert!(
            record.entry.is_consistent(record_len),
            "inconsistent record {:?} with {record_len} bytes",
            record.entry
        );
        let raw = RawEntry::new(&record.entry, (begin - payloads_at) as u32, record_len);
        let entry_at = directory_at + index * ENTRY_BYTES;
        out[entry_at..entry_at + ENTRY_BYTES].copy_from_slice(raw.as_bytes());
    }
    out[at..].fill(0);

    let seed = log_seed(context.identity.nonce, context.file_use);
    for block in 0..blocks {
        let crc = crc32(seed, &out[block_range(block, directory_at)]);
        out[HEADER_BYTES + block * CRC_BYTES..][..CRC_BYTES].copy_from_slice(&crc.to_le_bytes());
    }
    let raw = RawHeader {
        magic: MAGIC,
        version: VERSION.into(),
        shard: context.identity.shard.into(),
        previous_header_crc: context.previous_header_crc.into(),
        incarnation: context.identity.incarnation.into(),
        sequence: context.sequence.into(),
        file: context.file.into(),
        file_use: context.file_use.into(),
        position: context.position.into(),
        length: (len as u32).into(),
        record_count: (records.len() as u32).into(),
        directory_len: ((records.len() * ENTRY_BYTES) as u32).into(),
        payload_len: (payload_len as u32).into(),
        durable_through: context.durable_through.into(),
        unix_ms: context.unix_ms.into(),
        zeros: [0; 12],
        header_crc: 0.into(),
    };
    out[..HEADER_BYTES].copy_from_slice(raw.as_bytes());
    let header_crc = header_crc(seed, &out[..directory_at]);
    out[HEADER_CRC_AT..HEADER_BYTES].copy_from_slice(&header_crc.to_le_bytes());
    GroupInfo { len, header_crc }
}

/// The bytes that the CRC of a block covers: all of it, of the first what follows the table.
pub(super) fn block_range(block: usize, directory_at: usize) -> std::ops::Range<usize> {
    (block * BLOCK).max(directory_at)..(block + 1) * BLOCK
}

/// The CRC of header and table, without the field that holds it.
pub(super) fn header_crc(seed: u32, header_and_table: &[u8]) -> u32 {
    crc32(
        crc32(seed, &header_and_table[..HEADER_CRC_AT]),
        &header_and_table[HEADER_BYTES..],
    )
}

/// A header whose CRC holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupHeader {
    pub sequence: u64,
    pub file: u32,
    pub file_use: u32,
    pub position: u64,
    pub length: u32,
    pub record_count: u32,
    pub payload_len: u32,
    pub previous_header_crc: u32,
    pub durable_through: u64,
    pub unix_ms: i64,
    pub header_crc: u32,
}

/// Why bytes are not the group that should stand there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GroupError {
    #[error("the file ends within the group")]
    Short,
    #[error("no group begins here")]
    Magic,
    #[error("the header's check sum does not match")]
    HeaderCrc,
    #[error("a group of another shard, incarnation, file, use or position")]
    Elsewhere,
    #[error("check sum of the group's block {block} does not match")]
    BlockCrc { block: u32 },
    // From here on every check sum holds: nothing was torn, the bytes were written so. Recovery must stop.
    #[error("group version {0} is not known to this program (it knows {VERSION})")]
    Version(u16),
    #[error("lengths in the header that do not go together")]
    Lengths,
    #[error("record {record}: {error}")]
    Entry { record: u32, error: EntryError },
    #[error("padding is not zero at byte {at} of the group")]
    Padding { at: u32 },
}

impl GroupError {
    /// Whether the check sums hold, so that this is no tear and no rot but something this program does not understand.
    pub fn is_intact(&self) -> bool {
        use GroupError::*;
        matches!(self, Version(_) | Lengths | Entry { .. } | Padding { .. })
    }

    /// The byte of the group that the error is about.
    pub fn position_in_group(&self) -> u64 {
        match self {
            GroupError::BlockCrc { block } => u64::from(*block) * BLOCK as u64,
            GroupError::Padding { at } => u64::from(*at),
            GroupError::HeaderCrc => HEADER_CRC_AT as u64,
            _ => 0,
        }
    }
}

/// Reads the header of a group of this incarnation, whatever its place: for the scan of the ring behind the end. `bytes` is
/// at least one block. The use number is taken from the header itself; the CRC vouches for it.
pub fn probe_header(identity: &LogIdentity, bytes: &[u8]) -> Result<GroupHeader, GroupError> {
    let (raw, _) = RawHeader::ref_from_prefix(bytes).map_err(|_| GroupError::Short)?;
    if raw.magic != MAGIC {
        return Err(GroupError::Magic);
    }
    let blocks = raw.length.get() as usize / BLOCK;
    let table_end = HEADER_BYTES + blocks * CRC_BYTES;
    if blocks == 0 || raw.length.get() as usize > GROUP_BYTES_MAX {
        return Err(GroupError::HeaderCrc);
    }
    if bytes.len() < table_end {
        return Err(GroupError::Short);
    }
    let seed = log_seed(identity.nonce, raw.file_use.get());
    if header_crc(seed, &bytes[..table_end]) != raw.header_crc.get() {
        return Err(GroupError::HeaderCrc);
    }
    if raw.version.get() != VERSION {
        return Err(GroupError::Version(raw.version.get()));
    }
    if raw.shard.get() != identity.shard || raw.incarnation.get() != identity.incarnation {
        return Err(GroupError::Elsewhere);
    }
    let content = raw.record_count.get() as usize * ENTRY_BYTES + raw.payload_len.get() as usize;
    if !(raw.length.get() as usize).is_multiple_of(BLOCK)
        || raw.record_count.get() == 0
        || raw.record_count.get() as usize * ENTRY_BYTES != raw.directory_len.get() as usize
        || table_end + content > raw.length.get() as usize
        || round_up_to_block(table_end + content) != raw.length.get() as usize
        || raw.zeros != [0; 12]
    {
        return Err(GroupError::Lengths);
    }
    Ok(GroupHeader {
        sequence: raw.sequence.get(),
        file: raw.file.get(),
        file_use: raw.file_use.get(),
        position: raw.position.get(),
        length: raw.length.get(),
        record_count: raw.record_count.get(),
        payload_len: raw.payload_len.get(),
        previous_header_crc: raw.previous_header_crc.get(),
        durable_through: raw.durable_through.get(),
        unix_ms: raw.unix_ms.get(),
        header_crc: raw.header_crc.get(),
    })
}

/// The identity of the log that the group at the beginning of `bytes` is of, found from the group itself: its header's check
/// sum is run backwards to the seed, which those of its blocks, and the file and position it stands at, must confirm. For a
/// log whose checkpoints are lost. One group proves little by itself (anybody can write bytes that agree with themselves);
/// what counts is that the groups of an incarnation agree.
pub fn identity_of(file: u32, position: u64, bytes: &[u8]) -> Option<LogIdentity> {
    let (raw, _) = RawHeader::ref_from_prefix(bytes).ok()?;
    let length = raw.length.get() as usize;
    if raw.magic != MAGIC
        || (raw.file.get(), raw.position.get()) != (file, position)
        || !(BLOCK..=GROUP_BYTES_MAX).contains(&length)
        || !length.is_multiple_of(BLOCK)
    {
        return None;
    }
    let table_end = HEADER_BYTES + length / BLOCK * CRC_BYTES;
    let table = bytes.get(HEADER_BYTES..table_end)?;
    let before_table = crc32_seed_of(raw.header_crc.get(), table);
    let seed = crc32_seed_of(before_table, &bytes[..HEADER_CRC_AT]);
    let identity = LogIdentity {
        shard: raw.shard.get(),
        incarnation: raw.incarnation.get(),
        nonce: nonce_of(seed, raw.file_use.get()),
    };
    parse_group(&identity, file, raw.file_use.get(), position, bytes)
        .is_ok()
        .then_some(identity)
}

/// A group whose every byte was checked.
#[derive(Clone, Copy, Debug)]
pub struct GroupView<'a> {
    pub header: GroupHeader,
    directory: &'a [RawEntry],
    payloads: &'a [u8],
    /// Where the directory begins in the group.
    directory_at: usize,
}

/// A record of a parsed group.
#[derive(Clone, Copy, Debug)]
pub struct RecordView<'a> {
    pub entry: Entry,
    pub payload: &'a [u8],
    /// Where the payload begins in the group.
    pub payload_at: u32,
}

/// Checks the group that should stand at `file`, `file_use` and `position`. `bytes` begins there and may go on behind the
/// group. Sequence and chain are the follower's to check ([`crate::recovery_scan`]).
pub fn parse_group<'a>(
    identity: &LogIdentity,
    file: u32,
    file_use: u32,
    position: u64,
    bytes: &'a [u8],
) -> Result<GroupView<'a>, GroupError> {
    let header = probe_header(identity, bytes)?;
    if (header.file, header.file_use, header.position) != (file, file_use, position) {
        return Err(GroupError::Elsewhere);
    }
    let group = bytes
        .get(..header.length as usize)
        .ok_or(GroupError::Short)?;
    let blocks = group.len() / BLOCK;
    let directory_at = HEADER_BYTES + blocks * CRC_BYTES;
    let seed = log_seed(identity.nonce, file_use);
    let (table, _) =
        <[U32]>::ref_from_prefix_with_elems(&group[HEADER_BYTES..], blocks).expect("probed");
    for (block, crc) in table.iter().enumerate() {
        let is_right = crc32(seed, &group[block_range(block, directory_at)]) == crc.get();
        if !is_right && !on(Mutation::UnverifiedGroup) {
            return Err(GroupError::BlockCrc {
                block: block as u32,
            });
        }
    }
    let (directory, rest) = <[RawEntry]>::ref_from_prefix_with_elems(
        &group[directory_at..],
        header.record_count as usize,
    )
    .expect("probed");
    let (payloads, padding) = rest.split_at(header.payload_len as usize);
    if let Some(at) = first_nonzero(padding) {
        return Err(GroupError::Padding {
            at: (group.len() - padding.len() + at) as u32,
        });
    }
    let mut payload_end = 0u64;
    for (index, raw) in directory.iter().enumerate() {
        let record = index as u32;
        raw.entry()
            .map_err(|error| GroupError::Entry { record, error })?;
        if u64::from(raw.payload_offset.get()) != payload_end {
            return Err(GroupError::Entry {
                record,
                error: EntryError::Content,
            });
        }
        payload_end += u64::from(raw.payload_len.get());
    }
    if payload_end != payloads.len() as u64 {
        return Err(GroupError::Lengths);
    }
    Ok(GroupView {
        header,
        directory,
        payloads,
        directory_at,
    })
}

impl<'a> GroupView<'a> {
    pub fn records(&self) -> impl ExactSizeIterator<Item = RecordView<'a>> + use<'a> {
        let payloads = self.payloads;
        let payloads_at = (self.directory_at + self.directory.len() * ENTRY_BYTES) as u32;
        self.directory.iter().map(move |raw| {
            let (offset, len) = (raw.payload_offset.get(), raw.payload_len.get());
            RecordView {
                entry: raw.entry().expect("checked when the group was parsed"),
                payload: &payloads[offset as usize..][..len as usize],
                payload_at: payloads_at + offset,
            }
        })
    }

    /// Where the directory entry of a record begins in the group.
    pub fn entry_position(&self, record: usize) -> u64 {
        (self.directory_at + record * ENTRY_BYTES) as u64
    }
}
