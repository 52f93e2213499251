//! The checkpoint: what the log need not be read for. Two slots, written in turn (`number % 2`), so that a torn write
//! leaves the other. A log file may be recycled only when the *older* valid slot does not need it either.
//!
//! A slot is an envelope of 64 bytes, the body (rkyv, only ever read through its checked access), and zeros up to a multiple
//! of 4 KiB; the file is exactly that long, except after a crash between writing a slot and cutting off what a longer one
//! before had left behind it.
//!
//! How the slots are written, opened and closed, and which one counts: [`slots`](super::slots).

use rkyv::rancor;
use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::first_nonzero;
use super::group::LogIdentity;
use super::round_up_to_block;
use super::seed::crc32;
pub use super::sidecar::{IndexEntry, TimeIndexEntry};
use super::sidecar::{SidecarEntry, SumEntry};
use crate::epochs::EpochEntry;
use crate::ids::PartitionId;
use crate::producer::{BATCHES_MAX, ProducerSnapshot};

pub const MAGIC: [u8; 8] = *b"TRIRCKP\0";
pub const VERSION: u16 = 1;
/// Size of the envelope.
pub const ENVELOPE_BYTES: usize = size_of::<RawEnvelope>();
/// The largest body: a length beyond it is not believed. (A partition costs some 200 bytes.)
pub const BODY_BYTES_MAX: usize = 1 << 30;

const ENVELOPE_CRC_AT: usize = ENVELOPE_BYTES - 4;
const _: () = assert!(ENVELOPE_BYTES == 64);

/// | at | bytes | |
/// | --- | --- | --- |
/// | 0 | 8 | magic `TRIRCKP\0` |
/// | 8 | 2 | version, of the body too: rkyv does not evolve by itself |
/// | 10 | 2 | shard |
/// | 12 | 4 | length of the body |
/// | 16 | 8 | number: the slot is `number % 2`, the newest is the greatest |
/// | 24 | 16 | id of the data directory, as in `format` |
/// | 40 | 2 | 0 open, 1 closed: see [`slots`](super::slots) |
/// | 42 | 14 | zero |
/// | 56 | 4 | CRC-32 of the body |
/// | 60 | 4 | CRC-32 of the 60 bytes before |
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawEnvelope {
    magic: [u8; 8],
    version: U16,
    shard: U16,
    body_len: U32,
    number: U64,
    directory: [u8; 16],
    closed: U16,
    zeros: [u8; 14],
    body_crc: U32,
    envelope_crc: U32,
}

/// What must be known to read the log and the segments.
#[derive(Clone, Debug, PartialEq, Default, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub struct CheckpointBody {
    /// The incarnation that wrote this checkpoint; its log is the last extent.
    pub incarnation: u64,
    pub nonce: u64,
    /// Unclean starts so far: the leader epoch of what is appended.
    pub node_epoch: u32,
    /// Settled by a clean shutdown: everything is in segments and sidecars, all files have their exact lengths, the log has
    /// an end. Nothing is appended in this incarnation any more.
    pub clean: bool,
    pub unix_ms: i64,
    /// The parts of the log to be read, in this order. All but the last have an end.
    pub extents: Vec<LogExtent>,
    /// The files of the log, by index.
    pub files: Vec<LogFile>,
    /// By id, ascending.
    pub partitions: Vec<PartitionState>,
}

/// A part of the log, written by one incarnation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub struct LogExtent {
    pub incarnation: u64,
    pub nonce: u64,
    /// Where the first group stands that must be read (or will stand).
    pub first: LogPosition,
    /// Behind its last group; `None` while it grows.
    pub end: Option<LogPosition>,
    /// The highest sequence known durable when this checkpoint was written: the log cannot end before it.
    pub durable_through: u64,
}

/// A place between two groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub struct LogPosition {
    pub file: u32,
    pub file_use: u32,
    pub position: u64,
    /// Of the group that begins here.
    pub sequence: u64,
    /// Header CRC of the group that ends here.
    pub previous_header_crc: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub struct LogFile {
    pub index: u32,
    /// Number of the present (or last) use; 0: never used.
    pub file_use: u32,
    pub size_bytes: u64,
}

/// A partition. Records of the log with a sequence below `replay_from_sequence` do not concern it.
#[derive(Clone, Debug, PartialEq, Default, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub struct PartitionState {
    pub id: PartitionId,
    /// Node epoch at creation.
    pub created_epoch: u32,
    pub log_start: i64,
    /// Everything below is reflected in `producers`, `epochs` and the indexes here.
    pub next_offset: i64,
    pub replay_from_sequence: u64,
    /// Ascending; the last is the active one. Empty: nothing was flushed yet, all there is stands in the log.
    pub segments: Vec<SegmentState>,
    /// Leader epochs with the first offset of each, ascending.
    pub epochs: Vec<EpochEntry>,
    /// By producer id, ascending.
    pub producers: Vec<ProducerSnapshot>,
    /// Deleted; its files are to be removed.
    pub deleting: bool,
}

/// A segment: what stands in its files and what is still to be written to them.
#[derive(Clone, Debug, PartialEq, Default, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub struct SegmentState {
    pub base_offset: i64,
    /// Behind its last record, as of this checkpoint.
    pub end_offset: i64,
    /// Bytes durable in the `.log` file: a multiple of `SUM_BLOCK`, except when sealed or cleanly shut.
    pub flushed_bytes: u64,
    /// All its bytes, those of the log included.
    pub length_bytes: u64,
    /// Full: `flushed_bytes == length_bytes`, all files have their exact lengths.
    pub sealed: bool,
    /// Greatest timestamp and the last offset of the batch that brought it; -1, -1 while there is none.
    pub max_timestamp: i64,
    pub max_timestamp_offset: i64,
    /// Of the first batch, for rolling by time; -1 while there is none.
    pub first_timestamp: i64,
    pub created_ms: i64,
    /// Sums durable in the `.sum` file. `sums_in_file + pending_sums.len()` = `flushed_bytes / SUM_BLOCK`, rounded up.
    pub sums_in_file: u32,
    /// The sums behind them, of whole blocks and, when sealed or cleanly shut, of the last partial one. A sidecar block that
    /// will be rewritten in place has all its entries here.
    pub pending_sums: Vec<u32>,
    pub index_in_file: u32,
    pub pending_index: Vec<IndexEntry>,
    pub time_index_in_file: u32,
    pub pending_time_index: Vec<TimeIndexEntry>,
}

/// A slot that was read: envelope, body and what the bytes may still hold behind it.
#[derive(Clone, Debug, PartialEq)]
pub struct Checkpoint {
    pub number: u64,
    pub directory: [u8; 16],
    /// Both slots were durable when this was set: a broken one is damage, not a torn write.
    pub closed: bool,
    pub body: CheckpointBody,
    /// Length of the slot with padding.
    pub slot_len: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CheckpointError {
    #[error("the file ends within the checkpoint")]
    Short,
    #[error("no checkpoint (magic)")]
    Magic,
    #[error("check sum of the envelope does not match")]
    EnvelopeCrc,
    #[error("check sum of the body does not match")]
    BodyCrc,
    #[error("padding is not zero at byte {at}")]
    Padding { at: u64 },
    // From here on every check sum holds.
    #[error("checkpoint version {0} is not known to this program (it knows {VERSION})")]
    Version(u16),
    #[error("a checkpoint of another shard, slot or data directory")]
    Elsewhere,
    #[error("the body does not make sense: {0}")]
    Content(&'static str),
}

impl CheckpointError {
    /// Whether the check sums hold, so that this is neither torn nor rotten.
    pub fn is_intact(&self) -> bool {
        matches!(
            self,
            CheckpointError::Version(_) | CheckpointError::Elsewhere | CheckpointError::Content(_)
        )
    }

    /// The byte of the file that the error is about.
    pub fn position(&self) -> u64 {
        match self {
            CheckpointError::EnvelopeCrc => ENVELOPE_CRC_AT as u64,
            CheckpointError::BodyCrc | CheckpointError::Content(_) => ENVELOPE_BYTES as u64,
            CheckpointError::Padding { at } => *at,
            _ => 0,
        }
    }
}

/// The slot that checkpoint `number` goes to.
pub fn slot_of(number: u64) -> u8 {
    (number % 2) as u8
}

/// The bytes of a slot: a multiple of [`BLOCK`](super::BLOCK).
pub fn encode_checkpoint(
    shard: u16,
    directory: [u8; 16],
    number: u64,
    body: &CheckpointBody,
) -> Vec<u8> {
    debug_assert_eq!(body.check(), Ok(()));
    let encoded = rkyv::to_bytes::<rancor::Error>(body).expect("serialising into memory");
    assert!(
        encoded.len() <= BODY_BYTES_MAX,
        "checkpoint body of {} bytes",
        encoded.len()
    );
    let mut raw = RawEnvelope {
        magic: MAGIC,
        version: VERSION.into(),
        shard: shard.into(),
        body_len: (encoded.len() as u32).into(),
        number: number.into(),
        directory,
        closed: 0.into(),
        zeros: [0; 14],
        body_crc: crc32(0, &encoded).into(),
        envelope_crc: 0.into(),
    };
    raw.envelope_crc = crc32(0, &raw.as_bytes()[..ENVELOPE_CRC_AT]).into();
    let mut out = Vec::with_capacity(round_up_to_block(ENVELOPE_BYTES + encoded.len()));
    out.extend_from_slice(raw.as_bytes());
    out.extend_from_slice(&encoded);
    out.resize(round_up_to_block(out.len()), 0);
    out
}

/// Sets whether the slot is closed. `block` is the first block of a valid slot; only bytes of its first 512 change, so that
/// writing it in place is atomic on every drive.
pub fn set_closed(block: &mut [u8], closed: bool) {
    let (raw, _) = RawEnvelope::mut_from_prefix(block).expect("a block is longer than an envelope");
    raw.closed = u16::from(closed).into();
    let crc = crc32(0, &raw.as_bytes()[..ENVELOPE_CRC_AT]);
    raw.envelope_crc = crc.into();
}

fn envelope(bytes: &[u8]) -> Result<(&RawEnvelope, &[u8]), CheckpointError> {
    let (raw, rest) = RawEnvelope::ref_from_prefix(bytes).map_err(|_| CheckpointError::Short)?;
    if raw.magic != MAGIC {
        return Err(CheckpointError::Magic);
    }
    if crc32(0, &bytes[..ENVELOPE_CRC_AT]) != raw.envelope_crc.get() {
        return Err(CheckpointError::EnvelopeCrc);
    }
    Ok((raw, rest))
}

/// Checks and reads a slot. `bytes` may go on behind it ([`Checkpoint::slot_len`]).
pub fn parse_checkpoint(shard: u16, slot: u8, bytes: &[u8]) -> Result<Checkpoint, CheckpointError> {
    let (raw, rest) = envelope(bytes)?;
    if raw.version.get() != VERSION {
        return Err(CheckpointError::Version(raw.version.get()));
    }
    let body_len = raw.body_len.get() as usize;
    if body_len > BODY_BYTES_MAX || raw.zeros != [0; 14] || raw.closed.get() > 1 {
        return Err(CheckpointError::Content(
            "length, state or reserved bytes of the envelope",
        ));
    }
    let body = rest.get(..body_len).ok_or(CheckpointError::Short)?;
    if crc32(0, body) != raw.body_crc.get() {
        return Err(CheckpointError::BodyCrc);
    }
    let slot_len = round_up_to_block(ENVELOPE_BYTES + body_len);
    let padding = bytes
        .get(ENVELOPE_BYTES + body_len..slot_len)
        .ok_or(CheckpointError::Short)?;
    if let Some(at) = first_nonzero(padding) {
        return Err(CheckpointError::Padding {
            at: (ENVELOPE_BYTES + body_len + at) as u64,
        });
    }
    if raw.shard.get() != shard || slot_of(raw.number.get()) != slot {
        return Err(CheckpointError::Elsewhere);
    }
    let body = rkyv::from_bytes::<CheckpointBody, rancor::Error>(body)
        .map_err(|_| CheckpointError::Content("not the structure of this version"))?;
    body.check().map_err(CheckpointError::Content)?;
    if raw.closed.get() == 1 && !body.clean {
        return Err(CheckpointError::Content("closed but not settled"));
    }
    Ok(Checkpoint {
        number: raw.number.get(),
        directory: raw.directory,
        closed: raw.closed.get() == 1,
        body,
        slot_len,
    })
}

impl LogExtent {
    pub fn identity(&self, shard: u16) -> LogIdentity {
        LogIdentity {
            shard,
            incarnation: self.incarnation,
            nonce: self.nonce,
        }
    }
}

impl CheckpointBody {
    /// What holds of every checkpoint, whatever happened: what readers rely on.
    pub fn check(&self) -> Result<(), &'static str> {
        let ensure = |holds: bool, what: &'static str| if holds { Ok(()) } else { Err(what) };
        if let Some((last, earlier)) = self.extents.split_last() {
            ensure(
                earlier.iter().all(|extent| extent.end.is_some()),
                "an earlier extent of the log without end",
            )?;
            ensure(
                self.clean == last.end.is_some(),
                "the last extent of the log must end when and only when clean",
            )?;
            ensure(
                last.incarnation == self.incarnation && last.nonce == self.nonce,
                "the last extent is of another incarnation",
            )?;
        }
        ensure(
            self.extents
                .windows(2)
                .all(|pair| pair[0].incarnation < pair[1].incarnation),
            "extents out of order",
        )?;
        for extent in &self.extents {
            ensure(extent.durable_through < u64::MAX, "durable_through")?;
            if let Some(end) = &extent.end {
                ensure(
                    extent.first.sequence <= end.sequence,
                    "an extent of the log that ends before it begins",
                )?;
            }
        }
        ensure(
            self.files
                .windows(2)
                .all(|pair| pair[0].index < pair[1].index),
            "log files out of order",
        )?;
        ensure(
            self.partitions
                .windows(2)
                .all(|pair| pair[0].id < pair[1].id),
            "partitions out of order",
        )?;
        self.partitions
            .iter()
            .try_for_each(|partition| partition.check(self.clean))
    }
}

impl PartitionState {
    fn check(&self, clean: bool) -> Result<(), &'static str> {
        let ensure = |holds: bool, what: &'static str| if holds { Ok(()) } else { Err(what) };
        ensure(
            0 <= self.log_start && self.log_start <= self.next_offset,
            "log start of a partition",
        )?;
        ensure(
            self.segments
                .windows(2)
                .all(|pair| pair[0].end_offset <= pair[1].base_offset),
            "segments out of order",
        )?;
        ensure(
            self.epochs.windows(2).all(|pair| {
                pair[0].epoch < pair[1].epoch && pair[0].start_offset < pair[1].start_offset
            }),
            "leader epochs out of order",
        )?;
        ensure(
            self.producers
                .windows(2)
                .all(|pair| pair[0].producer_id < pair[1].producer_id),
            "producers out of order",
        )?;
        ensure(
            self.producers
                .iter()
                .all(|producer| producer.batches.len() <= BATCHES_MAX),
            "batches of a producer",
        )?;
        for (index, segment) in self.segments.iter().enumerate() {
            ensure(
                segment.sealed || index + 1 == self.segments.len() || !clean,
                "an unsealed segment that is not the last",
            )?;
            segment.check(clean)?;
        }
        Ok(())
    }
}

impl SegmentState {
    fn check(&self, clean: bool) -> Result<(), &'static str> {
        let ensure = |holds: bool, what: &'static str| if holds { Ok(()) } else { Err(what) };
        ensure(
            0 <= self.base_offset && self.base_offset <= self.end_offset,
            "offsets of a segment",
        )?;
        ensure(
            self.flushed_bytes <= self.length_bytes && self.length_bytes <= i64::MAX as u64,
            "lengths of a segment",
        )?;
        let sums = u64::from(self.sums_in_file) + self.pending_sums.len() as u64;
        ensure(
            sums == self.flushed_bytes.div_ceil(super::SUM_BLOCK as u64),
            "number of sums of a segment",
        )?;
        if self.sealed || clean {
            ensure(
                self.flushed_bytes == self.length_bytes,
                "a sealed or cleanly shut segment that is not all flushed",
            )?;
        }
        let sidecars = [
            (
                self.sums_in_file,
                self.pending_sums.len(),
                SumEntry::PER_BLOCK,
            ),
            (
                self.index_in_file,
                self.pending_index.len(),
                IndexEntry::PER_BLOCK,
            ),
            (
                self.time_index_in_file,
                self.pending_time_index.len(),
                TimeIndexEntry::PER_BLOCK,
            ),
        ];
        for (in_file, pending, per_block) in sidecars {
            if self.sealed {
                ensure(
                    pending == 0,
                    "a sealed segment whose sidecars are not all written",
                )?;
            } else {
                ensure(
                    (in_file as usize).is_multiple_of(per_block),
                    "a sidecar of an open segment with a block that is not full",
                )?;
                ensure(
                    !clean || pending < per_block,
                    "a cleanly shut segment whose full sidecar blocks are not all written",
                )?;
            }
        }
        Ok(())
    }
}
