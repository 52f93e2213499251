//! What the intact groups of a log say of each partition: where bytes of its segments stand in the log, where batches begin,
//! and how far the partition went. Unlike recovery this goes on behind a gap; what it may not know is said by
//! [`Salvage::next_offset`] alone, which is never too high for what was acknowledged.

use std::collections::BTreeMap;
use std::io;

use trireme_engine::PartitionId;
use trireme_engine::batch::Batches;
use trireme_engine::layout::checkpoint::{CheckpointBody, PartitionState};
use trireme_engine::layout::entry::{Entry, RecordType};
use trireme_engine::layout::group::{RecordView, parse_group};
use trireme_engine::layout::paths::DataPath;
use trireme_engine::layout::payload::{Direct, FileEnd, parse_producers};
use trireme_engine::producer::ProducerSnapshot;

use super::log::{IntactLog, Place};
use crate::source::{Buffer, Source};

/// Bytes of a segment that stand in a log file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patch {
    /// Byte in the segment.
    pub position: u64,
    pub len: u32,
    pub file: u32,
    /// Byte in the log file.
    pub at: u64,
}

/// What checkpoint and log know of a partition.
#[derive(Clone, Debug, Default)]
pub struct Salvage {
    pub shard: u16,
    pub id: PartitionId,
    /// As the newest checkpoint has it.
    pub known: Option<PartitionState>,
    pub created_epoch: u32,
    pub deleted: bool,
    pub log_start: i64,
    /// Behind the last record that was certainly appended.
    pub next_offset: i64,
    /// By segment, in the order in which they were written: a later one replaces what an earlier one says.
    pub patches: BTreeMap<i64, Vec<Patch>>,
    /// By segment: bytes at which batches begin, and with which offset.
    pub starts: BTreeMap<i64, BTreeMap<u64, i64>>,
    /// By segment: where the furthest record of the log ends.
    pub ends: BTreeMap<i64, u64>,
    /// Producers as of an offset.
    pub snapshot: Option<(i64, Vec<ProducerSnapshot>)>,
    /// A direct run of which the log does not say yet whether it was finished.
    undecided: Option<Undecided>,
}

#[derive(Clone, Copy, Debug)]
struct Undecided {
    segment: i64,
    position: u64,
    base_offset: i64,
    next_offset: i64,
    /// Patches of the segment before it.
    patches: usize,
}

impl Salvage {
    pub fn of_checkpoint(shard: u16, state: &PartitionState) -> Salvage {
        Salvage {
            shard,
            id: state.id,
            created_epoch: state.created_epoch,
            deleted: state.deleting,
            log_start: state.log_start,
            next_offset: state.next_offset,
            known: Some(state.clone()),
            ..Salvage::default()
        }
    }

    pub fn new(shard: u16, id: PartitionId) -> Salvage {
        Salvage {
            shard,
            id,
            ..Salvage::default()
        }
    }

    fn apply(&mut self, sequence: u64, place: &Place, record: &RecordView<'_>) {
        let entry = &record.entry;
        let is_current = self
            .known
            .as_ref()
            .is_none_or(|state| sequence >= state.replay_from_sequence);
        let at = place.header.position + u64::from(record.payload_at);
        let file = place.header.file;
        if entry.len > 0 {
            let end = self.ends.entry(entry.segment_base).or_default();
            *end = (*end).max(entry.end_position());
        }
        match entry.kind {
            RecordType::Append => {
                self.decide(entry);
                let mut position = entry.position;
                for batch in Batches::new(record.payload).map_while(Result::ok) {
                    let base_offset = batch.header().base_offset();
                    self.starts
                        .entry(entry.segment_base)
                        .or_default()
                        .insert(position, base_offset);
                    position += batch.bytes().len() as u64;
                }
                self.patch(entry, entry.position, entry.len, (file, at));
                self.reach(entry.last_offset + 1);
            }
            RecordType::Direct => {
                self.decide(entry);
                let Ok(direct) = Direct::parse(record.payload, entry.position, entry.len) else {
                    return;
                };
                let patches = self.patches.get(&entry.segment_base).map_or(0, Vec::len);
                self.undecided = Some(Undecided {
                    segment: entry.segment_base,
                    position: entry.position,
                    base_offset: entry.base_offset,
                    next_offset: entry.last_offset + 1,
                    patches,
                });
                let starts = self.starts.entry(entry.segment_base).or_default();
                starts.extend(
                    direct
                        .summaries()
                        .map(|batch| (batch.position, batch.base_offset)),
                );
                let (head, tail) = (direct.head.len() as u32, direct.tail.len() as u32);
                let fragments_at = at + (record.payload.len() as u64) - u64::from(head + tail);
                self.patch(entry, entry.position, head, (file, fragments_at));
                let tail_at = entry.end_position() - u64::from(tail);
                self.patch(entry, tail_at, tail, (file, fragments_at + u64::from(head)));
            }
            RecordType::Carried | RecordType::BlockImage => {
                self.patch(entry, entry.position, entry.len, (file, at));
            }
            RecordType::Done => {
                let is_it = |run: &Undecided| {
                    (run.segment, run.position) == (entry.segment_base, entry.position)
                };
                if let Some(run) = self.undecided.take_if(|run| is_it(run)) {
                    self.reach(run.next_offset);
                }
            }
            RecordType::LogStart => self.log_start = self.log_start.max(entry.base_offset),
            RecordType::ProducerSnapshot if is_current => {
                if let Ok(producers) = parse_producers(record.payload) {
                    self.snapshot = Some((entry.base_offset, producers));
                }
            }
            RecordType::Delete => self.deleted = true,
            RecordType::Create => {
                self.created_epoch = entry.leader_epoch.max(0) as u32;
                self.log_start = self.log_start.max(entry.base_offset);
                self.reach(entry.base_offset);
            }
            _ => {}
        }
    }

    /// The record behind a direct run tells whether that was finished: nothing is logged behind one before its blocks are
    /// durable, but a start that finds it broken drops it, and its offsets are given again.
    fn decide(&mut self, next: &Entry) {
        let Some(run) = self.undecided.take() else {
            return;
        };
        if next.base_offset > run.base_offset {
            self.reach(run.next_offset);
            return;
        }
        if let Some(patches) = self.patches.get_mut(&run.segment) {
            patches.truncate(run.patches);
        }
        if let Some(starts) = self.starts.get_mut(&run.segment) {
            starts.split_off(&run.position);
        }
    }

    fn reach(&mut self, next_offset: i64) {
        self.next_offset = self.next_offset.max(next_offset);
    }

    fn patch(&mut self, entry: &Entry, position: u64, len: u32, (file, at): (u32, u64)) {
        if len > 0 {
            let patches = self.patches.entry(entry.segment_base).or_default();
            patches.push(Patch {
                position,
                len,
                file,
                at,
            });
        }
    }
}

/// All partitions of a shard, from its newest checkpoint, if one is valid, and the groups of its log; and the file that the log
/// goes on in.
pub fn replay(
    source: &dyn Source,
    shard: u16,
    checkpoint: Option<&CheckpointBody>,
    log: &IntactLog,
) -> io::Result<(BTreeMap<PartitionId, Salvage>, Option<u32>)> {
    let mut partitions: BTreeMap<PartitionId, Salvage> = checkpoint
        .iter()
        .flat_map(|body| &body.partitions)
        .map(|state| (state.id, Salvage::of_checkpoint(shard, state)))
        .collect();
    // What the checkpoint knew of and does not name was deleted.
    let known_through = checkpoint
        .and_then(|body| body.extents.last())
        .map_or(0, |extent| extent.durable_through);
    let mut next_file = checkpoint
        .and_then(|body| body.extents.last())
        .map(|extent| extent.first.file);
    let mut buffer = Buffer::default();
    for place in &log.groups {
        let header = &place.header;
        let path = DataPath::Log {
            shard,
            file: header.file,
        }
        .relative();
        let bytes = source.read(&path, header.position, header.length as usize, &mut buffer)?;
        let Ok(group) = parse_group(
            &place.identity,
            header.file,
            header.file_use,
            header.position,
            bytes,
        ) else {
            return Err(io::Error::other(format!(
                "{path} at byte {}: the group changed while it was read",
                header.position
            )));
        };
        next_file = Some(header.file);
        for record in group.records() {
            let entry = &record.entry;
            if entry.kind == RecordType::FileEnd
                && let Ok(end) = FileEnd::parse(record.payload)
            {
                next_file = Some(end.next_file);
            }
            if !entry.kind.names_partition() {
                continue;
            }
            let is_past = checkpoint.is_some() && header.sequence <= known_through;
            if !partitions.contains_key(&entry.partition) && is_past {
                continue;
            }
            partitions
                .entry(entry.partition)
                .or_insert_with(|| Salvage::new(shard, entry.partition))
                .apply(header.sequence, place, &record);
        }
    }
    Ok((partitions, next_file))
}
