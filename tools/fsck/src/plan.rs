//! What the checkpoint and the log together say a partition consists of: the checker's replay. It follows the rules of
//! recovery: physical, idempotent, bytes below `flushed_bytes` and records below `replay_from_sequence` are skipped.

use std::collections::{BTreeMap, BTreeSet};

use trireme_engine::batch::Batches;
use trireme_engine::layout::SUM_BLOCK;
use trireme_engine::layout::checkpoint::{PartitionState, SegmentState};
use trireme_engine::layout::entry::{Entry, RecordType};
use trireme_engine::layout::group::RecordView;
use trireme_engine::layout::payload::{Direct, parse_producers};

/// A partition as it should be found.
#[derive(Clone, Debug, Default)]
pub struct PartitionPlan {
    pub shard: u16,
    pub state: PartitionState,
    pub segments: BTreeMap<i64, SegmentPlan>,
    /// Log start, with what the log moved it to.
    pub log_start: i64,
    /// Deleted: nothing of it is promised.
    pub deleted: bool,
    /// Segments that lay below the log start at the checkpoint already: the log need not hold their bytes any more.
    dead: BTreeSet<i64>,
    /// The shard was cleanly shut: everything is exact.
    pub clean: bool,
    /// Behind the last append that the log holds, and where that is.
    next: Option<Next>,
    /// Where the last direct run began, as long as nothing says that it was finished; and whether the checkpoint does not know
    /// of it yet.
    unfinished: Option<(Next, bool)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Next {
    offset: i64,
    segment: i64,
    position: u64,
}

/// A segment as it should be found.
#[derive(Clone, Debug, Default)]
pub struct SegmentPlan {
    /// From the checkpoint; `None` when the log alone knows it.
    pub state: Option<SegmentState>,
    /// Where its bytes are, without gaps from 0 on.
    pub parts: Vec<Part>,
    /// Sums that the log knows, of blocks written directly.
    pub direct_sums: BTreeMap<u64, u32>,
    /// Batches that the log knows, by position: what must stand there.
    pub known: BTreeMap<u64, KnownBatch>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KnownBatch {
    pub base_offset: i64,
    /// `None` where the log has no bytes of it.
    pub crc: Option<u32>,
}

#[derive(Clone, Debug)]
pub struct Part {
    pub from: u64,
    pub to: u64,
    pub bytes: PartBytes,
}

#[derive(Clone, Debug)]
pub enum PartBytes {
    /// In the segment's file.
    File,
    /// In the segment's file, by a direct run that may not have been finished: if it does not verify, the partition ends
    /// before it.
    Unfinished,
    /// In the log only.
    Log(Vec<u8>),
}

impl SegmentPlan {
    fn of(state: &SegmentState) -> SegmentPlan {
        let mut plan = SegmentPlan {
            state: Some(state.clone()),
            ..SegmentPlan::default()
        };
        plan.push(0, state.flushed_bytes, PartBytes::File);
        plan
    }

    /// Length of the segment.
    pub fn end(&self) -> u64 {
        self.parts.last().map_or(0, |part| part.to)
    }

    /// Bytes that are in the segment's file.
    pub fn file_end(&self) -> u64 {
        let in_file = |part: &&Part| !matches!(part.bytes, PartBytes::Log(_));
        self.parts.iter().rfind(in_file).map_or(0, |part| part.to)
    }

    /// Bytes that are surely in the segment's file.
    pub fn finished_end(&self) -> u64 {
        let finished = |part: &&Part| matches!(part.bytes, PartBytes::File);
        self.parts.iter().rfind(finished).map_or(0, |part| part.to)
    }

    fn push(&mut self, from: u64, to: u64, bytes: PartBytes) {
        if from < to {
            self.parts.push(Part { from, to, bytes });
        }
    }

    /// Adds `bytes` at `position`, of which what is there already is skipped. False if there is a gap before it.
    fn extend(&mut self, position: u64, bytes: &[u8]) -> bool {
        let (end, to) = (self.end(), position + bytes.len() as u64);
        if position > end {
            return false;
        }
        if to > end {
            let new = &bytes[(end - position) as usize..];
            match self.parts.last_mut() {
                Some(Part {
                    to,
                    bytes: PartBytes::Log(old),
                    ..
                }) => {
                    old.extend_from_slice(new);
                    *to += new.len() as u64;
                }
                _ => self.push(end, to, PartBytes::Log(new.to_vec())),
            }
        }
        true
    }

    /// Forgets everything from `position` on.
    fn cut(&mut self, position: u64) {
        self.parts.retain(|part| part.from < position);
        if let Some(part) = self.parts.last_mut()
            && part.to > position
        {
            part.to = position;
            if let PartBytes::Log(bytes) = &mut part.bytes {
                bytes.truncate((position - part.from) as usize);
            }
        }
        self.known.split_off(&position);
    }
}

impl PartitionPlan {
    pub fn of_checkpoint(shard: u16, clean: bool, state: &PartitionState) -> PartitionPlan {
        // A last segment below the log start was rolled before the checkpoint was taken, so all of them are dead.
        let is_dead = |segment: &&SegmentState| {
            segment.end_offset > segment.base_offset && segment.end_offset <= state.log_start
        };
        PartitionPlan {
            shard,
            dead: state
                .segments
                .iter()
                .filter(is_dead)
                .map(|segment| segment.base_offset)
                .collect(),
            state: state.clone(),
            segments: state
                .segments
                .iter()
                .map(|segment| (segment.base_offset, SegmentPlan::of(segment)))
                .collect(),
            log_start: state.log_start,
            deleted: state.deleting,
            clean,
            ..PartitionPlan::default()
        }
    }

    pub fn of_create(shard: u16, clean: bool, entry: &Entry) -> PartitionPlan {
        let state = PartitionState {
            id: entry.partition,
            log_start: entry.base_offset,
            next_offset: entry.base_offset,
            ..PartitionState::default()
        };
        PartitionPlan::of_checkpoint(shard, clean, &state)
    }

    /// Whether a segment lies below the log start altogether: its files are removed, or will be.
    pub fn is_dead(&self, base_offset: i64) -> bool {
        let next = self
            .segments
            .range(base_offset + 1..)
            .next()
            .map_or(self.next_offset(), |(next, _)| *next);
        next <= self.log_start
    }

    /// The offset behind the last record.
    pub fn next_offset(&self) -> i64 {
        self.next.map_or(self.state.next_offset, |next| {
            next.offset.max(self.state.next_offset)
        })
    }

    /// Takes a record of the log, of group `sequence`. An error says what is wrong with it.
    pub fn apply(&mut self, sequence: u64, record: &RecordView<'_>) -> Result<(), String> {
        let entry = &record.entry;
        let is_current = sequence >= self.state.replay_from_sequence;
        match entry.kind {
            RecordType::Append => {
                let is_current = self.follows(entry)? && is_current;
                self.check_batches(entry, record.payload)?;
                if is_current {
                    self.extend(entry, entry.position, record.payload)?;
                }
            }
            RecordType::Direct => {
                let before = Next {
                    offset: entry.base_offset,
                    segment: entry.segment_base,
                    position: entry.position,
                };
                let is_current = self.follows(entry)? && is_current;
                let direct = Direct::parse(record.payload, entry.position, entry.len)
                    .map_err(|error| error.to_string())?;
                self.check_summaries(entry, &direct)?;
                if is_current {
                    self.apply_direct(entry, &direct)?;
                }
                self.unfinished = Some((before, is_current));
            }
            // Of a segment that is gone nothing is carried to anywhere.
            RecordType::Carried
                if is_current && self.segments.contains_key(&entry.segment_base) =>
            {
                self.extend(entry, entry.position, record.payload)?;
            }
            RecordType::BlockImage
                if is_current && self.segments.contains_key(&entry.segment_base) =>
            {
                let segment = self.segments.entry(entry.segment_base).or_default();
                let flushed = segment
                    .state
                    .as_ref()
                    .map_or(0, |state| state.flushed_bytes);
                // An image that ends where the flushed bytes end is of the block that may be torn since; one that ends
                // before was followed by a flush that wrote the block anew.
                if entry.end_position() == flushed && !self.clean {
                    let known = segment.known.clone();
                    segment.cut(entry.position);
                    segment.known = known;
                }
                self.extend(entry, entry.position, record.payload)?;
            }
            RecordType::Done if is_current => {
                let begins = |next: &Next| {
                    (next.segment, next.position) == (entry.segment_base, entry.position)
                };
                if self.unfinished.is_some_and(|(run, _)| begins(&run)) {
                    self.finish_direct();
                }
            }
            RecordType::Truncate => {
                if is_current {
                    self.cut(entry.segment_base, entry.position);
                    self.state.next_offset = self.state.next_offset.min(entry.base_offset);
                } else {
                    self.segments
                        .values_mut()
                        .for_each(|segment| drop(segment.known.split_off(&entry.position)));
                }
                self.next = Some(Next {
                    offset: entry.base_offset,
                    segment: entry.segment_base,
                    position: entry.position,
                });
                self.unfinished = None;
            }
            RecordType::LogStart if is_current => {
                self.log_start = self.log_start.max(entry.base_offset)
            }
            RecordType::ProducerSnapshot => {
                parse_producers(record.payload).map_err(|error| error.to_string())?;
            }
            RecordType::Delete => self.deleted = true,
            _ => {}
        }
        Ok(())
    }

    /// An append goes on where the last one of the log ended, in offsets and in bytes, or begins a segment. False if it is
    /// of a segment that was deleted since.
    fn follows(&mut self, entry: &Entry) -> Result<bool, String> {
        let begin = Next {
            offset: entry.base_offset,
            segment: entry.segment_base,
            position: entry.position,
        };
        if let Some((unfinished, is_current)) = self.unfinished.take() {
            if begin == unfinished || (begin.offset == unfinished.offset && begin.position == 0) {
                // A start in between found the run unfinished and dropped it. What was flushed since is of what came later.
                let flushed = |segment: &SegmentPlan| {
                    segment
                        .state
                        .as_ref()
                        .map_or(0, |state| state.flushed_bytes)
                };
                let flushed = self.segments.get(&unfinished.segment).map_or(0, flushed);
                // The checkpoint knows already that one was dropped whose record is read for the sake of older ones only.
                if is_current {
                    self.cut(unfinished.segment, unfinished.position.max(flushed));
                }
                if let Some(segment) = self.segments.get_mut(&unfinished.segment) {
                    segment.known.split_off(&unfinished.position);
                }
                self.next = Some(unfinished);
            } else {
                // Nothing is logged behind a run before its blocks are durable.
                self.finish_direct();
            }
        }
        if let Some(next) = self.next {
            let rolls = begin.segment == begin.offset && begin.position == 0;
            if begin.offset != next.offset || !(begin == next || rolls) {
                return Err(format!(
                    "offset {} at byte {} of segment {} instead of offset {} at byte {} of segment {}",
                    begin.offset,
                    begin.position,
                    begin.segment,
                    next.offset,
                    next.position,
                    next.segment
                ));
            }
        }
        let is_there = self.segments.contains_key(&entry.segment_base)
            || entry.segment_base >= self.next_offset();
        self.next = Some(Next {
            offset: entry.last_offset + 1,
            segment: entry.segment_base,
            position: entry.end_position(),
        });
        Ok(is_there)
    }

    fn cut(&mut self, segment_base: i64, position: u64) {
        self.segments.split_off(&(segment_base + 1));
        if let Some(segment) = self.segments.get_mut(&segment_base) {
            segment.cut(position);
        }
    }

    /// The blocks of the last direct run are durable.
    fn finish_direct(&mut self) {
        self.unfinished = None;
        for part in self
            .segments
            .values_mut()
            .flat_map(|segment| &mut segment.parts)
        {
            if matches!(part.bytes, PartBytes::Unfinished) {
                part.bytes = PartBytes::File;
            }
        }
    }

    /// Notes what stands at a place of a segment, unless the segment is gone.
    fn note(&mut self, entry: &Entry, position: u64, batch: KnownBatch) {
        if let Some(segment) = self.segments.get_mut(&entry.segment_base) {
            segment.known.insert(position, batch);
        } else if entry.segment_base >= self.state.next_offset {
            self.segments
                .entry(entry.segment_base)
                .or_default()
                .known
                .insert(position, batch);
        }
    }

    fn check_batches(&mut self, entry: &Entry, payload: &[u8]) -> Result<(), String> {
        let mut next = entry.base_offset;
        let mut position = entry.position;
        let (mut batches, mut records) = (0u32, 0u32);
        for batch in Batches::new(payload) {
            let batch = batch.map_err(|error| error.to_string())?;
            let header = batch.header();
            if header.base_offset() != next {
                return Err(format!(
                    "a batch with offset {} instead of {next}",
                    header.base_offset()
                ));
            }
            self.note(
                entry,
                position,
                KnownBatch {
                    base_offset: next,
                    crc: Some(header.crc()),
                },
            );
            next = header.next_offset();
            position += batch.bytes().len() as u64;
            batches += 1;
            records = records.wrapping_add(header.records_count() as u32);
        }
        if (next, batches, records)
            != (entry.last_offset + 1, entry.batch_count, entry.record_count)
        {
            return Err(format!(
                "{batches} batches with {records} records up to offset {next}: not what the directory says"
            ));
        }
        Ok(())
    }

    fn check_summaries(&mut self, entry: &Entry, direct: &Direct<'_>) -> Result<(), String> {
        let mut next = entry.base_offset;
        for summary in direct.summaries() {
            if summary.base_offset != next {
                return Err(format!(
                    "a batch with offset {} instead of {next}",
                    summary.base_offset
                ));
            }
            self.note(
                entry,
                summary.position,
                KnownBatch {
                    base_offset: next,
                    crc: None,
                },
            );
            next = summary.last_offset() + 1;
        }
        if next != entry.last_offset + 1 || direct.summaries().len() != entry.batch_count as usize {
            return Err(format!(
                "batches up to offset {next}: not what the directory says"
            ));
        }
        Ok(())
    }

    fn extend(&mut self, entry: &Entry, position: u64, bytes: &[u8]) -> Result<(), String> {
        if self.dead.contains(&entry.segment_base) {
            return Ok(());
        }
        let segment = self.segments.entry(entry.segment_base).or_default();
        if segment.extend(position, bytes) {
            Ok(())
        } else {
            Err(format!(
                "bytes {position}.. of {} segment {}, of which only {} are known",
                entry.partition,
                entry.segment_base,
                segment.end()
            ))
        }
    }

    fn apply_direct(&mut self, entry: &Entry, direct: &Direct<'_>) -> Result<(), String> {
        let head_end = entry.position + u64::from(direct.split.head_len);
        let blocks_end = head_end + direct.split.blocks_len() as u64;
        if self.dead.contains(&entry.segment_base) {
            return Ok(());
        }
        self.extend(entry, entry.position, direct.head)?;
        let segment = self.segments.entry(entry.segment_base).or_default();
        let end = segment.end();
        if end < head_end {
            return Err(format!(
                "a direct run behind byte {end} of segment {}",
                entry.segment_base
            ));
        }
        if end < blocks_end {
            segment.push(end, blocks_end, PartBytes::Unfinished);
            let first = head_end / SUM_BLOCK as u64;
            segment.direct_sums.extend((first..).zip(direct.sums()));
        }
        self.extend(entry, blocks_end, direct.tail)
    }
}
