//! What callers of the engine say and hear. Everything here is `Send`: a request for another core's partition is mailed
//! there as it is. The methods stand in [`Engine`](crate::Engine).
//!
//! Positions of a partition, always in this order: log start ≤ high watermark ≤ log end. On one node the high watermark is
//! what is durable; what lies between it and the log end has an offset already, but nobody sees it yet.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use hdrhistogram::Histogram;
use smallvec::SmallVec;
use thiserror::Error;
use trireme_runtime::fs::SharedFile;

pub use crate::ids::{Offset, PartitionId, PartitionRef, TopicId};

/// What an acknowledgement of an append means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// The batch is on disk.
    #[default]
    Fsync,
    /// The batch is in memory and on its way to the disk: it takes the same path, the answer does not wait for it. Readers
    /// still see only what is durable.
    Relaxed,
}

/// Who sets the timestamps of records (Kafka's `message.timestamp.type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimestampType {
    /// The producer; every record has its own.
    CreateTime,
    /// The broker at append; all records have the batch's max timestamp.
    LogAppendTime,
}

/// What may be configured of a partition while it lives. The engine keeps it in memory only: whoever creates a partition
/// keeps its configuration and hands it in again with [`Engine::configure`](crate::Engine::configure) after a start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionConfig {
    /// A segment is sealed before it grows beyond this.
    pub segment_bytes: u64,
    /// A segment is sealed when its first record is older than this.
    pub segment_ms: i64,
    /// Segments whose newest record is older are deleted. `None`: never.
    pub retention_ms: Option<i64>,
    /// The oldest segments are deleted while the others hold at least this much. `None`: never.
    pub retention_bytes: Option<u64>,
    /// Whether retention deletes at all (cleanup.policy contains "delete").
    pub delete: bool,
    /// Largest batch in bytes that an append may bring.
    pub max_batch_bytes: u32,
    pub timestamps: TimestampType,
    /// How far a record's timestamp may lie before and after the broker's clock. `i64::MAX`: no bound.
    pub timestamp_before_max_ms: i64,
    pub timestamp_after_max_ms: i64,
    pub durability: Durability,
    /// How long a deleted segment's files stay, for readers that still have them.
    pub file_delete_delay_ms: i64,
    /// Bytes between two entries of the sparse indexes; raised to the 16 KiB that a verified read takes anyway.
    pub index_interval_bytes: u32,
}

impl Default for PartitionConfig {
    fn default() -> Self {
        Self {
            segment_bytes: 1 << 30,
            segment_ms: 7 * 24 * 3_600_000,
            retention_ms: Some(7 * 24 * 3_600_000),
            retention_bytes: None,
            delete: true,
            max_batch_bytes: 1_048_588,
            timestamps: TimestampType::CreateTime,
            timestamp_before_max_ms: i64::MAX,
            timestamp_after_max_ms: 3_600_000,
            durability: Durability::Fsync,
            file_delete_delay_ms: 60_000,
            index_interval_bytes: 4096,
        }
    }
}

/// The node's engine. All sizes are per node and split evenly over the shards, except those that name a file or a group.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    pub data_dir: PathBuf,
    /// Shards that new partitions may be put into; at least the number of cores. More may exist from earlier starts.
    pub shards: u16,
    /// Memory for tails: what is not flushed yet plus a read cache of what is.
    pub tail_memory_bytes: u64,
    /// Most bytes that are acknowledged but not in their segments yet: bounds the time of a recovery.
    pub unflushed_max_bytes: u64,
    /// Size of a commit log file, and of the very first one (small, because it is written with zeros before the start is over).
    pub wal_file_bytes: u32,
    pub first_wal_file_bytes: u32,
    /// Largest group of the commit log.
    pub group_max_bytes: u32,
    /// A run at least this long goes straight to its segment.
    pub direct_min_bytes: u32,
    /// Idle time after which a commit mark is written.
    pub mark_idle_ms: u64,
    pub retention_check_interval_ms: u64,
    /// Open segment files (per core).
    pub fd_cache: usize,
    /// Producers that wrote nothing for this long are forgotten.
    pub producer_id_expiration_ms: i64,
    /// Free bytes of the file system below which appends are refused.
    pub reserve_bytes: u64,
    /// Every segment is read through and checked once in this time; 0: never.
    pub scrub_period_ms: u64,
    /// Bytes that a shard reads for that in a second at most. A pass is slower where half of the period allows it.
    pub scrub_bytes_per_second: u64,
}

impl EngineConfig {
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            data_dir: data_dir.into(),
            shards: 1,
            tail_memory_bytes: 512 << 20,
            unflushed_max_bytes: 256 << 20,
            wal_file_bytes: 64 << 20,
            first_wal_file_bytes: 1 << 20,
            group_max_bytes: 1 << 20,
            direct_min_bytes: 256 << 10,
            mark_idle_ms: 10,
            retention_check_interval_ms: 300_000,
            fd_cache: 1024,
            producer_id_expiration_ms: 86_400_000,
            reserve_bytes: 64 << 20,
            scrub_period_ms: 0,
            scrub_bytes_per_second: 32 << 20,
        }
    }
}

/// Why an engine does not open.
#[derive(Debug, Error)]
pub enum OpenError {
    #[error("data directory is in use by another process")]
    Locked,
    #[error("{0}: not a data directory of this version ({1})")]
    Format(PathBuf, String),
    /// Something acknowledged is damaged; `trireme-fsck verify` says more.
    #[error("damaged: {file} at {position}: {what}")]
    Damaged {
        file: PathBuf,
        position: u64,
        what: String,
    },
    #[error("{path}: {source}")]
    Io {
        path: PathBuf,
        source: std::io::Error,
    },
}

/// Why creating, deleting or configuring fails.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum EngineError {
    #[error("no such partition")]
    UnknownPartition,
    #[error("no such shard on this node")]
    UnknownShard,
    #[error("the disk is full")]
    StorageFull,
    #[error("shutting down")]
    ShuttingDown,
}

/// When an append is answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ack {
    /// As soon as it has its offsets.
    None,
    /// When it is durable and everything before it in the partition too.
    #[default]
    Committed,
}

/// Batches for one partition.
#[derive(Clone, Debug)]
pub struct Append {
    pub partition: PartitionRef,
    /// One or more whole RecordBatch v2, one behind the other, each checked with [`batch::validate`](crate::batch::validate)
    /// by the caller on its own core. All of them are appended or none.
    pub batches: Bytes,
    pub ack: Ack,
    /// Appended also while others are refused for lack of space: what must go on for space to be made (`reserve_bytes` is
    /// kept for it).
    pub may_use_reserve: bool,
}

/// Where an append went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    pub base_offset: Offset,
    pub last_offset: Offset,
    /// The broker's time where it set the timestamps, else -1.
    pub log_append_time_ms: i64,
    pub log_start: Offset,
    /// The batch was there already (idempotent producer): these are the first one's offsets.
    pub duplicate: bool,
}

/// Why an append is refused. Nothing of it is appended, and no producer's sequence moves.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum AppendError {
    #[error("no such partition")]
    UnknownPartition,
    #[error("batch of {bytes} bytes, at most {max} are allowed")]
    BatchTooLarge { bytes: u64, max: u32 },
    #[error("timestamp {timestamp_ms} is out of range")]
    InvalidTimestamp { timestamp_ms: i64 },
    #[error("sequence {sequence} instead of {expected}")]
    OutOfOrderSequence { expected: i32, sequence: i32 },
    #[error("producer epoch {epoch} is older than {current}")]
    InvalidProducerEpoch { current: i16, epoch: i16 },
    #[error("producer is not known here")]
    UnknownProducerId,
    #[error("the disk is full")]
    StorageFull,
    /// More is unflushed than may be; try again.
    #[error("overloaded")]
    Overloaded,
    #[error("shutting down")]
    ShuttingDown,
    /// The newest block of the partition cannot be read, or does not verify: what is below can be read, and nothing be appended
    /// while it is so.
    #[error("the partition is damaged")]
    Damaged,
    #[error("not a sequence of valid batches: {0}")]
    Invalid(&'static str),
}

/// How far a reader may see.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Isolation {
    #[default]
    HighWatermark,
    /// Only committed transactions; the same as `HighWatermark` while there are none.
    Committed,
    /// Up to the log end: followers.
    Log,
}

#[derive(Clone, Copy, Debug)]
pub struct ReadRequest {
    pub partition: PartitionRef,
    pub offset: Offset,
    pub max_bytes: u32,
    /// Give the first batch even if it alone is larger than `max_bytes`.
    pub at_least_one: bool,
    pub isolation: Isolation,
    /// The epoch that the reader believes to be current; checked if given.
    pub leader_epoch: Option<i32>,
}

/// Whole batches; the first one may begin before the offset that was asked for.
#[derive(Debug)]
pub struct ReadResult {
    /// In order. A batch may begin in one part and end in the next.
    pub parts: SmallVec<[ReadPart; 2]>,
    /// Bytes of all parts.
    pub bytes: u32,
    pub high_watermark: Offset,
    pub last_stable_offset: Offset,
    pub log_start: Offset,
    /// Offset behind the last batch; the one that was asked for if there is none.
    pub next_offset: Offset,
}

#[derive(Debug)]
pub enum ReadPart {
    Memory(Bytes),
    File(FileRange),
}

impl ReadPart {
    pub fn len(&self) -> usize {
        match self {
            ReadPart::Memory(bytes) => bytes.len(),
            ReadPart::File(range) => range.len as usize,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A part of a segment that was verified and was in the page cache a moment ago: hand it to sendfile. Its file is not
/// unlinked while a range of it lives.
pub struct FileRange {
    pub file: SharedFile,
    pub position: u64,
    pub len: u32,
    pub lease: Lease,
}

impl std::fmt::Debug for FileRange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "FileRange({} + {})", self.position, self.len)
    }
}

/// Keeps a segment's files from being unlinked while it lives.
#[derive(Clone, Debug, Default)]
pub struct Lease(pub(crate) Arc<()>);

impl Lease {
    /// Whether somebody else than the holder of `self` has it too.
    pub(crate) fn is_shared(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ReadError {
    #[error("no such partition")]
    UnknownPartition,
    #[error("offset is not within {log_start}..={high_watermark}")]
    OffsetOutOfRange {
        log_start: Offset,
        high_watermark: Offset,
    },
    #[error("the reader's epoch is older than {current}")]
    FencedLeaderEpoch { current: i32 },
    #[error("the reader's epoch is newer than {current}")]
    UnknownLeaderEpoch { current: i32 },
    /// Bytes on disk do not match their sums; they are not handed out.
    #[error("damaged: {file} at {position}")]
    Damaged { file: PathBuf, position: u64 },
    #[error("shutting down")]
    ShuttingDown,
}

/// What [`Engine::offsets`](crate::Engine::offsets) looks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OffsetQuery {
    /// Log start.
    Earliest,
    /// What the isolation lets one see, i.e. the high watermark.
    Latest,
    /// The record with the largest timestamp; offset -1 in an empty partition.
    MaxTimestamp,
    /// The first record at or behind a time in ms; offset -1 if there is none. Exact, a record is looked for in its batch.
    ByTime(i64),
    /// Where the newest epoch that is not newer than this one ends.
    EpochEnd(i32),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OffsetAnswer {
    /// -1 if nothing matches.
    pub offset: Offset,
    /// Of the record found, else -1.
    pub timestamp_ms: i64,
    /// Epoch of the record found (of the answer for `EpochEnd`), -1 if none.
    pub leader_epoch: i32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionInfo {
    /// Bytes of batches that are kept.
    pub size_bytes: u64,
    pub log_start: Offset,
    pub high_watermark: Offset,
    pub log_end: Offset,
    /// Rises at each unclean start of the node.
    pub leader_epoch: i32,
    pub segments: u32,
    /// -1 if empty.
    pub max_timestamp_ms: i64,
    pub producers: Vec<ProducerInfo>,
}

/// An idempotent producer as a partition remembers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProducerInfo {
    pub producer_id: i64,
    pub epoch: i16,
    pub last_sequence: i32,
    pub last_timestamp_ms: i64,
}

/// Counters of the shards of one core since its start; gauges as they are now. Histograms are of this core alone: merge
/// with [`ShardStats::add`].
#[derive(Clone, Debug)]
pub struct ShardStats {
    pub partitions: u64,
    /// Groups written to the commit log = syncs on the way of an acknowledgement. Marks are counted apart.
    pub groups: u64,
    pub marks: u64,
    pub group_bytes: u64,
    /// Batches, their records and bytes that were appended; bytes that were read.
    pub appended_batches: u64,
    pub appended_records: u64,
    pub appended_bytes: u64,
    pub read_bytes: u64,
    pub read_from_file_bytes: u64,
    /// Durable but not in its segment yet.
    pub unflushed_bytes: u64,
    /// All memory of tails, read cache included.
    pub tail_memory_bytes: u64,
    pub direct_runs: u64,
    pub direct_bytes: u64,
    pub flushes: u64,
    pub flushed_bytes: u64,
    pub checkpoints: u64,
    pub carried_bytes: u64,
    pub refused_storage_full: u64,
    pub refused_overloaded: u64,
    /// 1 for a shard that was opened after an unclean end.
    pub unclean_starts: u64,
    pub recovered_bytes: u64,
    /// Bytes of segments that were read through and checked; passes over all of them; damaged blocks and batches that these
    /// found, in all and in the last pass; when the last one ended (the oldest such time of several shards; 0: none yet).
    pub scrubbed_bytes: u64,
    pub scrub_passes: u64,
    pub scrub_damage: u64,
    pub scrub_damage_last_pass: u64,
    pub scrub_last_pass_ms: i64,
    /// Write of a group until durable, in microseconds.
    pub sync_latency_us: Histogram<u64>,
    /// Bytes of a group.
    pub group_size_bytes: Histogram<u64>,
}

impl Default for ShardStats {
    fn default() -> Self {
        let histogram = |max| Histogram::new_with_bounds(1, max, 2).expect("bounds are valid");
        Self {
            partitions: 0,
            groups: 0,
            marks: 0,
            group_bytes: 0,
            appended_batches: 0,
            appended_records: 0,
            appended_bytes: 0,
            read_bytes: 0,
            read_from_file_bytes: 0,
            unflushed_bytes: 0,
            tail_memory_bytes: 0,
            direct_runs: 0,
            direct_bytes: 0,
            flushes: 0,
            flushed_bytes: 0,
            checkpoints: 0,
            carried_bytes: 0,
            refused_storage_full: 0,
            refused_overloaded: 0,
            unclean_starts: 0,
            recovered_bytes: 0,
            scrubbed_bytes: 0,
            scrub_passes: 0,
            scrub_damage: 0,
            scrub_damage_last_pass: 0,
            scrub_last_pass_ms: 0,
            sync_latency_us: histogram(60_000_000),
            group_size_bytes: histogram(1 << 30),
        }
    }
}

impl ShardStats {
    /// Adds another core's (or shard's) numbers.
    pub fn add(&mut self, other: &ShardStats) {
        self.partitions += other.partitions;
        self.groups += other.groups;
        self.marks += other.marks;
        self.group_bytes += other.group_bytes;
        self.appended_batches += other.appended_batches;
        self.appended_records += other.appended_records;
        self.appended_bytes += other.appended_bytes;
        self.read_bytes += other.read_bytes;
        self.read_from_file_bytes += other.read_from_file_bytes;
        self.unflushed_bytes += other.unflushed_bytes;
        self.tail_memory_bytes += other.tail_memory_bytes;
        self.direct_runs += other.direct_runs;
        self.direct_bytes += other.direct_bytes;
        self.flushes += other.flushes;
        self.flushed_bytes += other.flushed_bytes;
        self.checkpoints += other.checkpoints;
        self.carried_bytes += other.carried_bytes;
        self.refused_storage_full += other.refused_storage_full;
        self.refused_overloaded += other.refused_overloaded;
        self.unclean_starts += other.unclean_starts;
        self.recovered_bytes += other.recovered_bytes;
        self.scrubbed_bytes += other.scrubbed_bytes;
        self.scrub_passes += other.scrub_passes;
        self.scrub_damage += other.scrub_damage;
        self.scrub_damage_last_pass += other.scrub_damage_last_pass;
        self.scrub_last_pass_ms = match (self.scrub_last_pass_ms, other.scrub_last_pass_ms) {
            (0, ms) | (ms, 0) => ms,
            (mine, others) => mine.min(others),
        };
        // Same bounds on both sides, so this cannot fail.
        let _ = self.sync_latency_us.add(&other.sync_latency_us);
        let _ = self.group_size_bytes.add(&other.group_size_bytes);
    }
}

/// Mail to the core that serves a shard. Made by an [`Engine`](crate::Engine), answered by another one.
pub struct ShardRequest(pub(crate) Request);

/// The answer.
pub struct ShardReply(pub(crate) Reply);

pub(crate) enum Request {
    Create(Vec<(PartitionRef, PartitionConfig)>),
    Delete(Vec<PartitionRef>),
    Configure(Vec<(PartitionRef, PartitionConfig)>),
    List,
    Append(Vec<Append>),
    Read(Vec<ReadRequest>),
    /// Answered when the bytes readable behind the offsets are at least `bytes`, or when `Cancel` names the same id.
    Wait {
        id: u64,
        positions: Vec<(PartitionRef, Offset)>,
        bytes: u64,
        deadline: trireme_runtime::Instant,
    },
    Cancel {
        id: u64,
    },
    Offsets(Vec<(PartitionRef, OffsetQuery, Isolation)>),
    DeleteRecords(Vec<(PartitionRef, Offset)>),
    Describe(Vec<PartitionRef>),
}

pub(crate) enum Reply {
    Done(Vec<Result<(), EngineError>>),
    List(Vec<PartitionRef>),
    Append(Vec<Result<Appended, AppendError>>),
    Read(Vec<Result<ReadResult, ReadError>>),
    /// Bytes readable now behind the offsets, and whether something else about them changed (deleted, out of range).
    Wait {
        bytes: u64,
        changed: bool,
    },
    Cancelled,
    Offsets(Vec<Result<OffsetAnswer, ReadError>>),
    DeleteRecords(Vec<Result<Offset, ReadError>>),
    Describe(Vec<Result<PartitionInfo, ReadError>>),
}
