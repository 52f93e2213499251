//! Blocks of the files that lie beside a segment: `.sum`, `.index`, `.timeindex`.
//!
//! A block is written once when it is full. The last, partial one may be rewritten in place, so its entries stay in the
//! checkpoint too (`pending_*`) until the file is sealed or cleanly shut: a torn rewrite loses nothing.

use zerocopy::byteorder::little_endian::{I64, U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::paths::SegmentFile;
use super::seed::{crc32, sidecar_seed};
use super::{BLOCK, first_nonzero};
use crate::ids::PartitionId;

pub const MAGIC: [u8; 4] = *b"TRSB";
pub const VERSION: u16 = 1;
const HEADER_BYTES: usize = size_of::<RawHeader>();
const CRC_AT: usize = HEADER_BYTES - 4;
const ENTRIES_BYTES: usize = BLOCK - HEADER_BYTES;

/// Entries in a full block.
pub const SUMS_PER_BLOCK: usize = ENTRIES_BYTES / SumEntry::BYTES;
pub const INDEX_ENTRIES_PER_BLOCK: usize = ENTRIES_BYTES / IndexEntry::BYTES;
pub const TIME_INDEX_ENTRIES_PER_BLOCK: usize = ENTRIES_BYTES / TimeIndexEntry::BYTES;

/// | at | bytes | |
/// | --- | --- | --- |
/// | 0 | 4 | magic `TRSB` |
/// | 4 | 2 | version |
/// | 6 | 2 | kind: 1 sum, 2 index, 3 time index |
/// | 8 | 4 | number of entries in this block, at least 1 |
/// | 12 | 4 | number of this block in the file |
/// | 16 | 12 | zero |
/// | 28 | 4 | CRC-32 of all other bytes of the block, seeded with partition, segment and kind |
/// | 32 | | entries, then zeros up to 4096 |
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawHeader {
    magic: [u8; 4],
    version: U16,
    kind: U16,
    count: U32,
    block: U32,
    zeros: [u8; 12],
    crc: U32,
}

/// What a kind of sidecar file consists of.
pub trait SidecarEntry: Copy {
    const FILE: SegmentFile;
    const KIND: u16;
    const BYTES: usize;
    const PER_BLOCK: usize = ENTRIES_BYTES / Self::BYTES;
    fn encode(&self, out: &mut [u8]);
    fn decode(bytes: &[u8]) -> Self;
}

/// Sum of a [`SUM_BLOCK`](super::SUM_BLOCK) of the segment, see [`block_sum`](super::seed::block_sum); the last of a sealed
/// or cleanly shut segment may cover a partial block, over its actual bytes. 4 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SumEntry(pub u32);

/// A batch begins with this offset at this byte of the segment. 8 bytes each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub struct IndexEntry {
    pub offset: i64,
    pub position: u64,
}

/// `max_timestamp` is the greatest of all batches of the segment up to and including the one that begins with `offset`.
/// So every record at or before that batch is at most that old, and a search by time goes on behind it. 8 bytes each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub struct TimeIndexEntry {
    pub max_timestamp: i64,
    pub offset: i64,
}

impl SidecarEntry for SumEntry {
    const FILE: SegmentFile = SegmentFile::Sum;
    const KIND: u16 = 1;
    const BYTES: usize = 4;
    fn encode(&self, out: &mut [u8]) {
        out.copy_from_slice(&self.0.to_le_bytes());
    }
    fn decode(bytes: &[u8]) -> SumEntry {
        SumEntry(u32::from_le_bytes(
            bytes.try_into().expect("length given by BYTES"),
        ))
    }
}

impl SidecarEntry for IndexEntry {
    const FILE: SegmentFile = SegmentFile::Index;
    const KIND: u16 = 2;
    const BYTES: usize = 16;
    fn encode(&self, out: &mut [u8]) {
        out[..8].copy_from_slice(&self.offset.to_le_bytes());
        out[8..].copy_from_slice(&self.position.to_le_bytes());
    }
    fn decode(bytes: &[u8]) -> IndexEntry {
        let (offset, rest) = I64::ref_from_prefix(bytes).expect("length given by BYTES");
        let position = U64::ref_from_bytes(rest).expect("length given by BYTES");
        IndexEntry {
            offset: offset.get(),
            position: position.get(),
        }
    }
}

impl SidecarEntry for TimeIndexEntry {
    const FILE: SegmentFile = SegmentFile::TimeIndex;
    const KIND: u16 = 3;
    const BYTES: usize = 16;
    fn encode(&self, out: &mut [u8]) {
        out[..8].copy_from_slice(&self.max_timestamp.to_le_bytes());
        out[8..].copy_from_slice(&self.offset.to_le_bytes());
    }
    fn decode(bytes: &[u8]) -> TimeIndexEntry {
        let (max_timestamp, rest) = I64::ref_from_prefix(bytes).expect("length given by BYTES");
        let offset = I64::ref_from_bytes(rest).expect("length given by BYTES");
        TimeIndexEntry {
            max_timestamp: max_timestamp.get(),
            offset: offset.get(),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SidecarError {
    #[error("the file ends within the block")]
    Short,
    #[error("no block of this kind of file (magic)")]
    Magic,
    #[error("check sum of the block does not match")]
    Crc,
    #[error("block version {0} is not known to this program (it knows {VERSION})")]
    Version(u16),
    #[error("another block stands here")]
    Elsewhere,
    #[error("number of entries, reserved bytes or padding wrong")]
    Content,
}

/// Encodes one block with `entries` (1 to `E::PER_BLOCK` of them) as block number `block` of the file.
pub fn encode_block<E: SidecarEntry>(
    partition: PartitionId,
    segment_base: i64,
    block: u32,
    entries: &[E],
    out: &mut [u8; BLOCK],
) {
    assert!(
        !entries.is_empty() && entries.len() <= E::PER_BLOCK,
        "{} entries in a block",
        entries.len()
    );
    let raw = RawHeader {
        magic: MAGIC,
        version: VERSION.into(),
        kind: E::KIND.into(),
        count: (entries.len() as u32).into(),
        block: block.into(),
        zeros: [0; 12],
        crc: 0.into(),
    };
    out.fill(0);
    out[..HEADER_BYTES].copy_from_slice(raw.as_bytes());
    for (entry, bytes) in entries
        .iter()
        .zip(out[HEADER_BYTES..].chunks_exact_mut(E::BYTES))
    {
        entry.encode(bytes);
    }
    let crc = block_crc(sidecar_seed(partition, segment_base, E::KIND), out);
    out[CRC_AT..HEADER_BYTES].copy_from_slice(&crc.to_le_bytes());
}

/// Appends to `out` the blocks that hold `entries`, the first of them numbered `first_block`.
pub fn encode_blocks<E: SidecarEntry>(
    partition: PartitionId,
    segment_base: i64,
    first_block: u32,
    entries: &[E],
    out: &mut Vec<u8>,
) {
    let mut bytes = [0; BLOCK];
    for (block, entries) in (first_block..).zip(entries.chunks(E::PER_BLOCK)) {
        encode_block(partition, segment_base, block, entries, &mut bytes);
        out.extend_from_slice(&bytes);
    }
}

/// Length of a file with that many entries.
pub fn file_len<E: SidecarEntry>(entries: usize) -> u64 {
    (entries.div_ceil(E::PER_BLOCK) * BLOCK) as u64
}

/// Checks block number `block` of a file and appends its entries to `out`.
pub fn parse_block<E: SidecarEntry>(
    partition: PartitionId,
    segment_base: i64,
    block: u32,
    bytes: &[u8],
    out: &mut Vec<E>,
) -> Result<usize, SidecarError> {
    let bytes: &[u8; BLOCK] = bytes
        .get(..BLOCK)
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or(SidecarError::Short)?;
    let (raw, _) = RawHeader::ref_from_prefix(bytes).map_err(|_| SidecarError::Short)?;
    if raw.magic != MAGIC {
        return Err(SidecarError::Magic);
    }
    if block_crc(sidecar_seed(partition, segment_base, E::KIND), bytes) != raw.crc.get() {
        return Err(SidecarError::Crc);
    }
    if raw.version.get() != VERSION {
        return Err(SidecarError::Version(raw.version.get()));
    }
    if raw.kind.get() != E::KIND || raw.block.get() != block {
        return Err(SidecarError::Elsewhere);
    }
    let count = raw.count.get() as usize;
    if count == 0 || count > E::PER_BLOCK || raw.zeros != [0; 12] {
        return Err(SidecarError::Content);
    }
    let (entries, padding) = bytes[HEADER_BYTES..].split_at(count * E::BYTES);
    if first_nonzero(padding).is_some() {
        return Err(SidecarError::Content);
    }
    out.extend(entries.chunks_exact(E::BYTES).map(E::decode));
    Ok(count)
}

/// The CRC of a block without the field that holds it.
fn block_crc(seed: u32, bytes: &[u8; BLOCK]) -> u32 {
    crc32(crc32(seed, &bytes[..CRC_AT]), &bytes[HEADER_BYTES..])
}
