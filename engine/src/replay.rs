//! Bringing partitions back from a checkpoint and the groups behind it. Does no I/O: the log is handed in group by group.
//!
//! Invariants:
//! - Replay is physical and idempotent: bytes below what a segment already has are skipped, and so is the effect of a batch
//!   below the checkpoint's next offset on producers, epochs and indexes.
//! - A direct run takes effect when its `Done` is met. One without waits for its blocks to be verified; if they are not
//!   right, the partition ends before it (nothing of the partition can stand in the log behind it).
//! - A run that an earlier start dropped stays dropped, although its record may still be read.
//! - What is not understood, or leaves a gap, stops the start.

use std::collections::BTreeMap;
use std::rc::Rc;

use crate::api::PartitionConfig;
use crate::append::index_interval;
use crate::batch::Batches;
use crate::epochs::LeaderEpochs;
use crate::ids::{Offset, PartitionId};
use crate::layout::SUM_BLOCK;
use crate::layout::checkpoint::{CheckpointBody, PartitionState};
use crate::layout::entry::{Entry, RecordType};
use crate::layout::group::{GroupHeader, RecordView};
use crate::layout::payload::{BatchSummary, Direct, parse_producers};
use crate::layout::sidecar::SumEntry;
use crate::mutations::{Mutation, on};
use crate::partition::{Partition, PartitionInner, Span};
use crate::producer::{Producers, Sequenced};
use crate::segment::{BatchNote, Segment};
use crate::shard::{CHUNK_BYTES_MAX, Map};

/// A direct run in the log.
pub(crate) struct DirectReplay {
    pub entry: Entry,
    pub sums: Vec<u32>,
    summaries: Vec<BatchSummary>,
    head: Vec<u8>,
    tail: Vec<u8>,
    unix_ms: i64,
    sequence: u64,
    ordinal: u64,
}

impl DirectReplay {
    /// Position of its first whole block in the segment.
    pub fn blocks_at(&self) -> u64 {
        self.entry.position + self.head.len() as u64
    }
}

/// Blocks of a direct run that are in the file while bytes before them are not.
pub(crate) struct Hole {
    pub segment: Offset,
    pub from: u64,
    pub sums: Vec<SumEntry>,
}

/// A partition on its way back.
pub(crate) struct Replayed {
    pub partition: Rc<Partition>,
    /// What is below is in the checkpoint.
    known_below: Offset,
    /// Records with a lower sequence do not concern it.
    replay_from: u64,
    /// What the checkpoint says each segment must come to.
    expected: Vec<(Offset, u64)>,
    pub undone: Option<DirectReplay>,
    pub holes: Vec<Hole>,
    /// A block image came: the sidecars' last blocks must be taken back into memory.
    pub imaged: Option<Offset>,
    /// Uses of log files that hold something of it.
    pub ordinals: Vec<u64>,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum ReplayError {
    #[error("record {kind:?} of partition {partition}: {what}")]
    Record {
        kind: RecordType,
        partition: PartitionId,
        what: &'static str,
    },
    #[error(
        "partition {partition}: bytes of segment {segment} from {have} to {expected} are nowhere"
    )]
    Missing {
        partition: PartitionId,
        segment: Offset,
        have: u64,
        expected: u64,
    },
    #[error("partition {0}: {1}")]
    State(PartitionId, &'static str),
}

pub(crate) struct Replay {
    pub partitions: BTreeMap<PartitionId, Replayed>,
    /// Everything up to here is in the checkpoint: a partition it does not know was deleted.
    known_through: u64,
    config: Rc<PartitionConfig>,
    pub bytes: u64,
}

/// Until its owner says how a partition is configured, nothing of it is deleted.
fn inert_config() -> PartitionConfig {
    PartitionConfig {
        retention_ms: None,
        retention_bytes: None,
        delete: false,
        ..PartitionConfig::default()
    }
}

impl Replay {
    pub fn new(body: &CheckpointBody) -> Result<Self, ReplayError> {
        let config = Rc::new(inert_config());
        let mut partitions = BTreeMap::new();
        for state in &body.partitions {
            partitions.insert(state.id, restore(state, &config)?);
        }
        let known_through = body
            .extents
            .last()
            .map_or(0, |extent| extent.durable_through);
        Ok(Self {
            partitions,
            known_through,
            config,
            bytes: 0,
        })
    }

    /// Applies a record of a group that stands in the use `ordinal` of a file.
    pub fn record(
        &mut self,
        group: &GroupHeader,
        ordinal: u64,
        record: &RecordView<'_>,
    ) -> Result<(), ReplayError> {
        let entry = record.entry;
        let error = |what| ReplayError::Record {
            kind: entry.kind,
            partition: entry.partition,
            what,
        };
        if matches!(entry.kind, RecordType::Mark | RecordType::FileEnd) {
            return Ok(());
        }
        let known = self.partitions.get_mut(&entry.partition);
        let Some(replayed) = known.filter(|replayed| replayed.replay_from <= group.sequence) else {
            let is_known = self.partitions.contains_key(&entry.partition);
            return match entry.kind {
                _ if is_known || group.sequence <= self.known_through => Ok(()),
                RecordType::Create => {
                    self.partitions
                        .insert(entry.partition, created(&entry, &self.config));
                    Ok(())
                }
                _ => Err(error("no such partition")),
            };
        };
        let mut inner = replayed.partition.state.borrow_mut();
        let inner = &mut *inner;
        if inner.deleting {
            return Ok(());
        }
        self.bytes += record.payload.len() as u64;
        let mut apply = |inner: &mut PartitionInner, undone| {
            let (ordinals, holes) = (&mut replayed.ordinals, &mut replayed.holes);
            apply_direct(inner, ordinals, holes, undone, replayed.known_below)
        };
        match entry.kind {
            RecordType::Append => {
                let undone = replayed.undone.take();
                if let Some(undone) = undone.filter(|undone| is_finished(undone, &entry)) {
                    apply(inner, undone).map_err(error)?;
                }
                if place(inner, &entry).map_err(error)? {
                    put(inner, &entry, entry.position, record.payload).map_err(error)?;
                    apply_batches(
                        inner,
                        &entry,
                        record.payload,
                        group.unix_ms,
                        replayed.known_below,
                    )
                    .map_err(error)?;
                    note_span(
                        inner,
                        &mut replayed.ordinals,
                        &entry,
                        group.sequence,
                        ordinal,
                    );
                }
            }
            RecordType::Carried => {
                if inner
                    .segment(entry.segment_base)
                    .is_some_and(|segment| !segment.dead)
                {
                    put(inner, &entry, entry.position, record.payload).map_err(error)?;
                    // It stands for everything that was logged before.
                    let again = inner
                        .spans
                        .last()
                        .is_some_and(|last| last.sequence == group.sequence);
                    if !again && covers_tail(inner, &entry) {
                        inner.spans.clear();
                    }
                    note_span(
                        inner,
                        &mut replayed.ordinals,
                        &entry,
                        group.sequence,
                        ordinal,
                    );
                }
            }
            RecordType::Direct => {
                let undone = replayed.undone.take();
                if let Some(undone) = undone.filter(|undone| is_finished(undone, &entry)) {
                    apply(inner, undone).map_err(error)?;
                }
                let direct = Direct::parse(record.payload, entry.position, entry.len)
                    .map_err(|_| error("payload"))?;
                replayed.undone = Some(DirectReplay {
                    entry,
                    sums: direct.sums().collect(),
                    summaries: direct.summaries().collect(),
                    head: direct.head.to_vec(),
                    tail: direct.tail.to_vec(),
                    unix_ms: group.unix_ms,
                    sequence: group.sequence,
                    ordinal,
                });
            }
            RecordType::Done => {
                let is_it = |undone: &DirectReplay| {
                    (undone.entry.segment_base, undone.entry.position)
                        == (entry.segment_base, entry.position)
                };
                if replayed.undone.as_ref().is_some_and(is_it)
                    && let Some(undone) = replayed.undone.take()
                {
                    apply(inner, undone).map_err(error)?;
                }
            }
            RecordType::BlockImage => {
                let segment = inner.segment_mut(entry.segment_base);
                let Some(segment) = segment.filter(|segment| !segment.dead) else {
                    return Ok(());
                };
                let whole = segment.flushed - segment.flushed % SUM_BLOCK as u64;
                if segment.head_on_disk
                    && whole == entry.position
                    && segment.flushed == entry.end_position()
                {
                    segment.flushed = whole;
                    segment.head_on_disk = false;
                    replayed.imaged = Some(entry.segment_base);
                    inner.tail.append(
                        entry.segment_base,
                        entry.position,
                        record.payload,
                        CHUNK_BYTES_MAX,
                    );
                } else {
                    put(inner, &entry, entry.position, record.payload).map_err(error)?;
                }
                note_span(
                    inner,
                    &mut replayed.ordinals,
                    &entry,
                    group.sequence,
                    ordinal,
                );
            }
            RecordType::Delete => {
                inner.deleting = true;
                inner.tail.clear();
                inner.spans.clear();
                replayed.undone = None;
                replayed.holes.clear();
            }
            RecordType::LogStart => {
                inner.log_start = inner.log_start.max(entry.base_offset);
                inner.epochs.truncate_start(entry.base_offset);
            }
            RecordType::ProducerSnapshot => {
                if entry.base_offset >= replayed.known_below {
                    let producers =
                        parse_producers(record.payload).map_err(|_| error("payload"))?;
                    inner.producers =
                        Producers::restore(producers).map_err(|_| error("impossible producers"))?;
                }
            }
            RecordType::Create => {}
            RecordType::Truncate => {
                return Err(error("truncation is not written by a single node"));
            }
            RecordType::Mark | RecordType::FileEnd => {}
        }
        Ok(())
    }

    /// Applies a run without `Done` whose blocks were found right, or drops one whose blocks were not.
    pub fn settle_undone(replayed: &mut Replayed, right: bool) -> Result<(), ReplayError> {
        let Some(undone) = replayed.undone.take() else {
            return Ok(());
        };
        if !right {
            return Ok(());
        }
        let mut inner = replayed.partition.state.borrow_mut();
        let entry = undone.entry;
        apply_direct(
            &mut inner,
            &mut replayed.ordinals,
            &mut replayed.holes,
            undone,
            replayed.known_below,
        )
        .map_err(|what| ReplayError::Record {
            kind: entry.kind,
            partition: entry.partition,
            what,
        })
    }

    /// Checks that everything the checkpoint knew of is there, and calls what was read durable. The living map, and what
    /// must be removed.
    pub fn finish(&mut self) -> Result<(), ReplayError> {
        for (id, replayed) in &mut self.partitions {
            let mut inner = replayed.partition.state.borrow_mut();
            let inner = &mut *inner;
            if inner.deleting {
                inner.segments.clear();
                continue;
            }
            for (segment, expected) in &replayed.expected {
                // What is below the log start may be gone.
                let log_start = inner.log_start;
                let found = inner.segment(*segment);
                if let Some(found) =
                    found.filter(|found| found.length < *expected && found.end > log_start)
                {
                    let (segment, have, expected) = (*segment, found.length, *expected);
                    return Err(ReplayError::Missing {
                        partition: *id,
                        segment,
                        have,
                        expected,
                    });
                }
            }
            inner.durable = inner.next_offset;
            inner.log_start = inner.log_start.min(inner.next_offset);
            for segment in &mut inner.segments {
                segment.logged = segment.length;
                segment.durable = segment.length;
            }
            inner.bury();
        }
        Ok(())
    }

    /// All partitions, for the shard.
    pub fn map(&self) -> Map<PartitionId, Rc<Partition>> {
        self.partitions
            .iter()
            .map(|(id, replayed)| (*id, replayed.partition.clone()))
            .collect()
    }
}

/// Whether a run without `Done` was durable, by the next append of the partition: nothing is logged behind a run before its
/// blocks are. But where an earlier start found it broken and dropped it, the next append has its offsets again, while
/// its record may still stand in an extent that is read for the sake of older ones.
fn is_finished(undone: &DirectReplay, next: &Entry) -> bool {
    undone.entry.base_offset < next.base_offset
}

fn restore(state: &PartitionState, config: &Rc<PartitionConfig>) -> Result<Replayed, ReplayError> {
    let partition = Partition::new(state.id, config.clone(), state.created_epoch, 0);
    {
        let mut inner = partition.state.borrow_mut();
        inner.log_start = state.log_start;
        inner.next_offset = state.next_offset;
        inner.deleting = state.deleting;
        inner.segments = state.segments.iter().map(Segment::from_state).collect();
        let last = inner.segments.len().saturating_sub(1);
        for segment in &mut inner.segments[..last] {
            segment.rolled = true;
            // Nothing is appended to it any more, so its last block is needed in memory no more than a sealed one's.
            segment.head_on_disk = false;
        }
        inner.has_directory = inner.segments.iter().any(|segment| segment.allocated > 0);
        // The records of dead segments need not be in the log any more.
        inner.bury();
        inner.epochs = LeaderEpochs::restore(state.epochs.iter().copied())
            .map_err(|_| ReplayError::State(state.id, "impossible epochs"))?;
        let producers = state
            .producers
            .iter()
            .filter(|_| !on(Mutation::ProducersForgotten));
        inner.producers = Producers::restore(producers.cloned())
            .map_err(|_| ReplayError::State(state.id, "impossible producers"))?;
    }
    Ok(Replayed {
        partition: Rc::new(partition),
        known_below: state.next_offset,
        replay_from: state.replay_from_sequence,
        expected: state
            .segments
            .iter()
            .map(|segment| (segment.base_offset, segment.length_bytes))
            .collect(),
        undone: None,
        holes: Vec::new(),
        imaged: None,
        ordinals: Vec::new(),
    })
}

fn created(entry: &Entry, config: &Rc<PartitionConfig>) -> Replayed {
    Replayed {
        partition: Rc::new(Partition::new(
            entry.partition,
            config.clone(),
            entry.leader_epoch.max(0) as u32,
            entry.base_offset,
        )),
        known_below: entry.base_offset,
        replay_from: 0,
        expected: Vec::new(),
        undone: None,
        holes: Vec::new(),
        imaged: None,
        ordinals: Vec::new(),
    }
}

/// Makes sure that the record's segment is there; `false` if it is dead or was deleted since.
fn place(inner: &mut PartitionInner, entry: &Entry) -> Result<bool, &'static str> {
    if let Some(segment) = inner.segment(entry.segment_base) {
        return Ok(!segment.dead);
    }
    if entry.segment_base < inner.next_offset {
        return Ok(false);
    }
    if entry.segment_base != inner.next_offset || entry.position != 0 {
        return Err("it begins no segment, and there is none of that name");
    }
    if let Some(last) = inner.segments.last_mut() {
        last.rolled = true;
        if last.head_on_disk && last.flushed == last.length {
            // Cleanly shut and not touched since: it only lacks the ends of its sidecars.
            last.head_on_disk = false;
        }
    }
    inner
        .segments
        .push(Segment::new(entry.segment_base, trireme_runtime::unix_ms()));
    Ok(true)
}

/// Puts those bytes into the tail that are behind what the segment has.
fn put(
    inner: &mut PartitionInner,
    entry: &Entry,
    position: u64,
    bytes: &[u8],
) -> Result<(), &'static str> {
    let segment = inner
        .segment_mut(entry.segment_base)
        .ok_or("no such segment")?;
    let end = position + bytes.len() as u64;
    if end <= segment.length {
        return Ok(());
    }
    if position > segment.length {
        return Err("bytes before it are missing");
    }
    let at = segment.length;
    segment.length = end;
    inner.tail.append(
        entry.segment_base,
        at,
        &bytes[(at - position) as usize..],
        CHUNK_BYTES_MAX,
    );
    Ok(())
}

fn apply_batches(
    inner: &mut PartitionInner,
    entry: &Entry,
    payload: &[u8],
    unix_ms: i64,
    known_below: Offset,
) -> Result<(), &'static str> {
    let mut position = entry.position;
    for raw in Batches::new(payload) {
        let raw = raw.map_err(|_| "bytes that are no batches")?;
        let header = raw.header();
        inner
            .tail
            .mark(entry.segment_base, position, header.base_offset());
        if header.base_offset() >= known_below {
            let note = BatchNote {
                base_offset: header.base_offset(),
                last_offset: header.last_offset(),
                max_timestamp: header.latest_timestamp(),
            };
            apply_batch(
                inner,
                entry,
                position,
                &note,
                header.leader_epoch(),
                Sequenced::of(header),
                unix_ms,
            )?;
        }
        position += raw.bytes().len() as u64;
    }
    Ok(())
}

fn apply_batch(
    inner: &mut PartitionInner,
    entry: &Entry,
    position: u64,
    note: &BatchNote,
    epoch: i32,
    sequenced: Option<Sequenced>,
    unix_ms: i64,
) -> Result<(), &'static str> {
    if note.base_offset < inner.next_offset {
        return Ok(());
    }
    if note.base_offset > inner.next_offset || note.last_offset < note.base_offset || epoch < 0 {
        return Err("a batch that does not follow the one before");
    }
    let interval = index_interval(&inner.config);
    let segment = inner
        .segment_mut(entry.segment_base)
        .ok_or("no such segment")?;
    segment.note_batch(position, note, interval);
    inner.next_offset = note.last_offset + 1;
    inner.epochs.assign(epoch, note.base_offset);
    if let Some(sequenced) = sequenced {
        inner
            .producers
            .replay(&sequenced, note.base_offset, unix_ms);
    }
    Ok(())
}

/// What of a batch's header a summary stands for.
fn sequenced(summary: &BatchSummary) -> Option<Sequenced> {
    const CONTROL_BIT: u16 = 0x20;
    (summary.producer_id >= 0).then_some(Sequenced {
        producer_id: summary.producer_id,
        epoch: summary.producer_epoch,
        base_sequence: summary.base_sequence,
        last_delta: summary.last_offset_delta,
        timestamp_ms: summary.max_timestamp,
        is_control: summary.attributes & CONTROL_BIT != 0,
    })
}

fn apply_direct(
    inner: &mut PartitionInner,
    ordinals: &mut Vec<u64>,
    holes: &mut Vec<Hole>,
    direct: DirectReplay,
    known_below: Offset,
) -> Result<(), &'static str> {
    let entry = direct.entry;
    if !place(inner, &entry)? {
        return Ok(());
    }
    let blocks_at = direct.blocks_at();
    let blocks_end = blocks_at + (direct.sums.len() * SUM_BLOCK) as u64;
    put(inner, &entry, entry.position, &direct.head)?;
    let segment = inner
        .segment_mut(entry.segment_base)
        .ok_or("no such segment")?;
    segment.allocated = segment.allocated.max(blocks_end);
    if segment.length < blocks_end {
        if segment.length != blocks_at {
            return Err("bytes before its blocks are missing");
        }
        segment.length = blocks_end;
        let sums = direct.sums.iter().map(|sum| SumEntry(*sum)).collect();
        holes.push(Hole {
            segment: entry.segment_base,
            from: blocks_at,
            sums,
        });
    }
    inner.has_directory = true;
    put(inner, &entry, blocks_end, &direct.tail)?;
    for summary in &direct.summaries {
        if summary.base_offset >= known_below {
            let latest = summary.max_timestamp.max(summary.base_timestamp);
            let note = BatchNote {
                base_offset: summary.base_offset,
                last_offset: summary.last_offset(),
                max_timestamp: latest,
            };
            let sequenced = sequenced(summary);
            apply_batch(
                inner,
                &entry,
                summary.position,
                &note,
                summary.leader_epoch,
                sequenced,
                direct.unix_ms,
            )?;
        }
    }
    note_span(inner, ordinals, &entry, direct.sequence, direct.ordinal);
    Ok(())
}

/// Whether a carried run begins where the flushed bytes end, in the first segment that is not all flushed.
fn covers_tail(inner: &PartitionInner, entry: &Entry) -> bool {
    let first = inner
        .segments
        .iter()
        .find(|segment| segment.flushed < segment.length);
    first.is_none_or(|segment| {
        segment.base == entry.segment_base && entry.position <= segment.flushed
    })
}

fn note_span(
    inner: &mut PartitionInner,
    ordinals: &mut Vec<u64>,
    entry: &Entry,
    sequence: u64,
    ordinal: u64,
) {
    let segment = entry.segment_base;
    let end = entry.end_position();
    if inner
        .segment(segment)
        .is_none_or(|segment| segment.flushed >= end)
    {
        return;
    }
    match inner.spans.last_mut() {
        Some(last) if last.ordinal == ordinal => {
            if (segment, end) > (last.segment, last.end) {
                (last.segment, last.end) = (segment, end);
            }
        }
        _ => {
            inner.spans.push(Span {
                ordinal,
                sequence,
                segment,
                end,
            });
            ordinals.push(ordinal);
        }
    }
}
