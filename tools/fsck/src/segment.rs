//! A segment: the bytes of its file against their sums, its batches, its indexes, and what log and checkpoint say of it.

use std::collections::BTreeMap;

use trireme_engine::PartitionId;
use trireme_engine::batch::{BatchError, Limits, RawBatch, validate};
use trireme_engine::layout::checkpoint::{IndexEntry, SegmentState, TimeIndexEntry};
use trireme_engine::layout::paths::{DataPath, SegmentFile};
use trireme_engine::layout::seed::{block_sum, segment_seed};
use trireme_engine::layout::sidecar::{SidecarEntry, SumEntry, file_len, parse_block};
use trireme_engine::layout::{BLOCK, SUM_BLOCK};
use trireme_engine::producer::BATCHES_MAX;

use crate::plan::{PartBytes, PartitionPlan, SegmentPlan};
use crate::report::{Report, Severity};
use crate::source::{Buffer, Source};
use crate::tree::Tree;

/// Bytes of a segment that are read at a time: what fits a core's own cache, since two check sums go over them.
const PIECE_BYTES: usize = 1 << 20;

const UNFINISHED: &str = "a direct run that was not finished: the partition ends before it";

/// What a segment holds, for the checks of the partition.
#[derive(Clone, Debug, Default)]
pub struct SegmentSummary {
    pub base_offset: i64,
    /// Behind the last batch.
    pub end_offset: i64,
    /// First offset of each leader epoch, in order.
    pub epochs: Vec<(i32, i64)>,
    /// The last batches of each producer, oldest first.
    pub producers: BTreeMap<i64, Vec<ProducerTrace>>,
    /// Was found, and walked to its end.
    pub complete: bool,
}

/// A batch of a producer as it stands in the segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProducerTrace {
    pub epoch: i16,
    pub first_sequence: i32,
    pub last_sequence: i32,
    pub base_offset: i64,
    pub last_offset: i64,
}

struct Check<'a> {
    source: &'a dyn Source,
    tree: &'a Tree,
    partition: PartitionId,
    plan: &'a SegmentPlan,
    base_offset: i64,
    /// All files must have exact lengths: sealed, or cleanly shut.
    exact: bool,
    report: &'a mut Report,
}

/// Checks one segment of a partition.
pub fn check_segment(
    source: &dyn Source,
    tree: &Tree,
    partition: &PartitionPlan,
    base_offset: i64,
    progress: &dyn Fn(u64),
    report: &mut Report,
) -> SegmentSummary {
    let plan = &partition.segments[&base_offset];
    let sealed = plan.state.as_ref().is_some_and(|state| state.sealed);
    let mut check = Check {
        source,
        tree,
        partition: partition.state.id,
        plan,
        base_offset,
        exact: sealed || partition.clean,
        report,
    };
    check.report.counts.segments += 1;
    check.report.counts.sealed_segments += u64::from(sealed);
    check.check_lengths();
    let empty = SegmentState::default();
    let state = plan.state.as_ref().unwrap_or(&empty);
    let pending_sums: Vec<SumEntry> = state.pending_sums.iter().copied().map(SumEntry).collect();
    let sums = check.sidecar(state.sums_in_file, &pending_sums);
    let index = check.sidecar(state.index_in_file, &state.pending_index);
    let time_index = check.sidecar(state.time_index_in_file, &state.pending_time_index);
    check.report.counts.sums += sums.len() as u64;
    check.report.counts.index_entries += (index.len() + time_index.len()) as u64;
    let walker = Walker::new(
        base_offset,
        plan,
        partition.state.next_offset,
        index,
        time_index,
    );
    check.walk(&sums, walker, progress)
}

/// Checks the part of one of a segment's files that holds the byte at `position`: of a `.log` its block, of the others all.
/// A part of what [`check_segment`] does.
pub fn check_part(
    source: &dyn Source,
    tree: &Tree,
    partition: &PartitionPlan,
    base_offset: i64,
    file: SegmentFile,
    position: u64,
    report: &mut Report,
) {
    let plan = &partition.segments[&base_offset];
    let Some(state) = &plan.state else { return };
    let exact = state.sealed || partition.clean;
    let mut check = Check {
        source,
        tree,
        partition: partition.state.id,
        plan,
        base_offset,
        exact,
        report,
    };
    match file {
        SegmentFile::Index => drop(check.sidecar(state.index_in_file, &state.pending_index)),
        SegmentFile::TimeIndex => {
            drop(check.sidecar(state.time_index_in_file, &state.pending_time_index))
        }
        SegmentFile::Sum => drop(check.sidecar::<SumEntry>(state.sums_in_file, &[])),
        SegmentFile::Log => {
            check.check_lengths();
            let sums = check.sidecar::<SumEntry>(state.sums_in_file, &[]);
            let at = position / SUM_BLOCK as u64 * SUM_BLOCK as u64;
            let len = (plan.file_end() - at).min(SUM_BLOCK as u64) as usize;
            let name = check.log_path();
            let mut buffer = Buffer::default();
            let seed = segment_seed(check.partition, base_offset);
            match source.read(&name, at, len, &mut buffer) {
                Ok(bytes) => drop(check_block(
                    seed,
                    at,
                    bytes,
                    &sums,
                    plan,
                    false,
                    &name,
                    check.report,
                )),
                Err(error) => check.report.unreadable(&name, at, error),
            }
        }
    }
}

impl Check<'_> {
    fn path(&self, file: SegmentFile) -> DataPath {
        DataPath::Segment {
            partition: self.partition,
            base_offset: self.base_offset,
            file,
        }
    }

    fn log_path(&self) -> String {
        self.path(SegmentFile::Log).relative()
    }

    fn check_lengths(&mut self) {
        let path = self.path(SegmentFile::Log);
        let expected = self.plan.file_end();
        let size = self.tree.size(path);
        let have = size.unwrap_or(0);
        let may_end = self.plan.finished_end()..expected;
        match size {
            _ if may_end.contains(&have) && !self.exact => {
                let name = path.relative();
                self.report.add(Severity::Torn, name, have, 0, UNFINISHED);
            }
            None if expected > 0 => self.report.damage(path.relative(), 0, 0, "missing"),
            None => {}
            Some(size) if self.exact && size != expected => {
                self.report.damage(
                    path.relative(),
                    size.min(expected),
                    size.saturating_sub(expected),
                    format_args!("{size} bytes long instead of {expected}"),
                );
            }
            // Allocated ahead while it grows.
            Some(size) if size < expected => self.report.damage(
                path.relative(),
                size,
                0,
                format_args!("{size} bytes long, but {expected} were flushed to it"),
            ),
            Some(_) => {}
        }
    }

    /// All entries of a sidecar: those in its file, then those that the checkpoint holds.
    fn sidecar<E: SidecarEntry>(&mut self, in_file: u32, pending: &[E]) -> Vec<E> {
        let in_file = in_file as usize;
        let path = self.path(E::FILE);
        let size = self.tree.size(path);
        let expected = file_len::<E>(in_file);
        let name = path.relative();
        match size {
            None if in_file > 0 => self.report.damage(&name, 0, 0, "missing"),
            Some(size) if self.exact && size != expected => self.report.damage(
                &name,
                size.min(expected),
                size.saturating_sub(expected),
                format_args!("{size} bytes long instead of {expected}, for {in_file} entries"),
            ),
            Some(size) if size < expected => {
                self.report.damage(
                    &name,
                    size,
                    0,
                    format_args!("{size} bytes long, but {in_file} entries are in it"),
                );
            }
            // An empty one may have been left by a crash.
            Some(0) if in_file == 0 && self.exact => self.report.damage(&name, 0, 0, "empty"),
            _ => {}
        }
        let mut entries = Vec::with_capacity(in_file + pending.len());
        let mut buffer = Buffer::default();
        let bytes = match self.source.read(&name, 0, expected as usize, &mut buffer) {
            Ok(bytes) => bytes,
            Err(_) if size.is_none() => &[],
            Err(error) => {
                self.report.unreadable(&name, 0, error);
                return Vec::new();
            }
        };
        for (block, bytes) in bytes.chunks(BLOCK).enumerate() {
            let parsed = parse_block(
                self.partition,
                self.base_offset,
                block as u32,
                bytes,
                &mut entries,
            );
            let position = (block * BLOCK) as u64;
            match parsed {
                Ok(count) if count < E::PER_BLOCK && entries.len() < in_file => {
                    self.report.damage(
                        &name,
                        position,
                        BLOCK as u64,
                        "a block that is not full before the last one",
                    );
                }
                Ok(_) => {}
                Err(error) => {
                    self.report.damage(&name, position, BLOCK as u64, error);
                    // Keeps the others in their places.
                    entries.resize(
                        ((block + 1) * E::PER_BLOCK).min(in_file),
                        E::decode(&[0; 16][..E::BYTES]),
                    );
                }
            }
        }
        if entries.len() < in_file && size.is_some_and(|size| size >= expected) {
            self.report.damage(
                &name,
                0,
                expected,
                format_args!("{} entries instead of {in_file}", entries.len()),
            );
        }
        if self.exact && entries.len() > in_file {
            self.report.damage(
                &name,
                0,
                expected,
                format_args!("{} entries instead of {in_file}", entries.len()),
            );
        }
        entries.truncate(in_file);
        entries.extend_from_slice(pending);
        entries
    }

    /// Reads the segment from its beginning to its end.
    fn walk(
        &mut self,
        sums: &[SumEntry],
        mut walker: Walker<'_>,
        progress: &dyn Fn(u64),
    ) -> SegmentSummary {
        let seed = segment_seed(self.partition, self.base_offset);
        let name = self.log_path();
        let mut buffer = Buffer::default();
        for part in &self.plan.parts {
            match &part.bytes {
                PartBytes::Log(bytes) => {
                    self.report.counts.unflushed_bytes += bytes.len() as u64;
                    walker.feed(bytes, &name, self.report);
                }
                PartBytes::File | PartBytes::Unfinished => {
                    let mut position = part.from;
                    while position < part.to {
                        let len = (part.to - position).min(PIECE_BYTES as u64) as usize;
                        let bytes = match self.source.read(&name, position, len, &mut buffer) {
                            Ok(bytes) => bytes,
                            Err(error) => {
                                if self.tree.size(self.path(SegmentFile::Log)).is_some() {
                                    self.report.unreadable(&name, position, error);
                                }
                                return walker.summary(false);
                            }
                        };
                        let unfinished = matches!(part.bytes, PartBytes::Unfinished);
                        for (index, block) in bytes.chunks(SUM_BLOCK).enumerate() {
                            let at = position + (index * SUM_BLOCK) as u64;
                            if !check_block(
                                seed,
                                at,
                                block,
                                sums,
                                self.plan,
                                unfinished,
                                &name,
                                self.report,
                            ) {
                                return walker.summary(false);
                            }
                        }
                        progress(bytes.len() as u64);
                        self.report.counts.segment_bytes += bytes.len() as u64;
                        walker.feed(bytes, &name, self.report);
                        if bytes.len() < len {
                            // Cut off: said with the lengths.
                            return walker.summary(false);
                        }
                        position += bytes.len() as u64;
                    }
                }
            }
        }
        walker.finish(self, &name)
    }
}

/// Checks a block of a segment's file, at byte `at`, against its sum. False if the partition ends before it.
#[allow(clippy::too_many_arguments)]
fn check_block(
    seed: u32,
    at: u64,
    bytes: &[u8],
    sums: &[SumEntry],
    plan: &SegmentPlan,
    unfinished: bool,
    name: &str,
    report: &mut Report,
) -> bool {
    let block = at / SUM_BLOCK as u64;
    let in_file = sums.get(block as usize).map(|sum| sum.0);
    let expected = in_file.or_else(|| plan.direct_sums.get(&block).copied());
    if expected == Some(block_sum(seed, block, bytes)) {
        return true;
    }
    let len = bytes.len() as u64;
    if unfinished && in_file.is_none() {
        report.add(Severity::Torn, name, at, len, UNFINISHED);
        return false;
    }
    report.damage(
        name,
        at,
        len,
        if expected.is_some() {
            "the block does not match its sum"
        } else {
            "there is no sum of the block"
        },
    );
    true
}

/// Walks the batches of a segment as its bytes come.
struct Walker<'a> {
    plan: &'a SegmentPlan,
    /// Bytes of a batch that began before the present piece.
    carry: Vec<u8>,
    position: u64,
    next_offset: i64,
    /// Up to here the checkpoint knows producers.
    known_offset: i64,
    index: Vec<IndexEntry>,
    index_at: usize,
    time_index: Vec<TimeIndexEntry>,
    time_index_at: usize,
    first_timestamp: i64,
    max_timestamp: i64,
    max_timestamp_offset: i64,
    summary: SegmentSummary,
    /// The batches cannot be followed any further.
    lost: bool,
}

impl<'a> Walker<'a> {
    fn new(
        base_offset: i64,
        plan: &'a SegmentPlan,
        known_offset: i64,
        index: Vec<IndexEntry>,
        time_index: Vec<TimeIndexEntry>,
    ) -> Self {
        Walker {
            plan,
            carry: Vec::new(),
            position: 0,
            next_offset: base_offset,
            known_offset,
            index,
            index_at: 0,
            time_index,
            time_index_at: 0,
            first_timestamp: -1,
            max_timestamp: -1,
            max_timestamp_offset: -1,
            summary: SegmentSummary {
                base_offset,
                end_offset: base_offset,
                ..SegmentSummary::default()
            },
            lost: false,
        }
    }

    fn feed(&mut self, bytes: &[u8], name: &str, report: &mut Report) {
        if self.lost {
            return;
        }
        let mut bytes = bytes;
        // Complete the batch that was begun.
        while !self.carry.is_empty() && !bytes.is_empty() {
            let missing = match RawBatch::first(&self.carry) {
                Err(BatchError::Truncated { needed, have }) => needed - have,
                _ => 0,
            };
            let (head, rest) = bytes.split_at(missing.min(bytes.len()));
            self.carry.extend_from_slice(head);
            bytes = rest;
            let carry = std::mem::take(&mut self.carry);
            let used = self.batches(&carry, name, report);
            self.carry = carry[used..].to_vec();
            if self.lost || missing == 0 {
                break;
            }
        }
        if !self.lost && self.carry.is_empty() {
            let used = self.batches(bytes, name, report);
            self.carry.extend_from_slice(&bytes[used..]);
        }
    }

    /// Takes the whole batches at the beginning of `bytes`; returns their length.
    fn batches(&mut self, bytes: &[u8], name: &str, report: &mut Report) -> usize {
        let mut used = 0;
        while !self.lost && used < bytes.len() {
            match RawBatch::first(&bytes[used..]) {
                Ok(batch) => {
                    self.batch(batch, name, report);
                    used += batch.bytes().len();
                }
                Err(BatchError::Truncated { .. }) => break,
                Err(error) => {
                    report.damage(name, self.position, 61, format_args!("no batch: {error}"));
                    self.lost = true;
                }
            }
        }
        used
    }

    fn batch(&mut self, batch: RawBatch<'_>, name: &str, report: &mut Report) {
        let header = batch.header();
        let (position, len) = (self.position, batch.bytes().len() as u64);
        let mut damage = |what: std::fmt::Arguments<'_>| report.damage(name, position, len, what);
        if let Err(error) = validate(batch.bytes(), &Limits::log(usize::MAX)) {
            damage(format_args!(
                "batch with offset {}: {error}",
                header.base_offset()
            ));
        }
        if header.base_offset() != self.next_offset {
            damage(format_args!(
                "a batch with offset {} instead of {}",
                header.base_offset(),
                self.next_offset
            ));
        }
        if let Some(known) = self.plan.known.get(&position) {
            if known.base_offset != header.base_offset()
                || known.crc.is_some_and(|crc| crc != header.crc())
            {
                damage(format_args!(
                    "not the batch that the commit log has here (offset {})",
                    known.base_offset
                ));
            }
        } else if self
            .plan
            .known
            .range(..position)
            .next_back()
            .is_some_and(|_| self.plan.known.range(position..).next().is_some())
        {
            // The log knows batches on both sides of it, and the log has no gaps.
            damage(format_args!("a batch that the commit log does not have"));
        }
        match self.summary.epochs.last() {
            Some((epoch, _)) if *epoch == header.leader_epoch() => {}
            Some((epoch, _)) if *epoch > header.leader_epoch() => {
                damage(format_args!(
                    "leader epoch {} after {epoch}",
                    header.leader_epoch()
                ));
            }
            _ => self
                .summary
                .epochs
                .push((header.leader_epoch(), header.base_offset())),
        }
        if self.first_timestamp < 0 {
            self.first_timestamp = header.latest_timestamp();
        }
        if header.latest_timestamp() > self.max_timestamp {
            self.max_timestamp = header.latest_timestamp();
            self.max_timestamp_offset = header.last_offset();
        }
        if header.has_producer() && !header.is_control() && header.base_offset() < self.known_offset
        {
            let traces = self
                .summary
                .producers
                .entry(header.producer_id())
                .or_default();
            if traces.len() == BATCHES_MAX {
                traces.remove(0);
            }
            traces.push(ProducerTrace {
                epoch: header.producer_epoch(),
                first_sequence: header.base_sequence(),
                last_sequence: header.last_sequence(),
                base_offset: header.base_offset(),
                last_offset: header.last_offset(),
            });
        }
        report.counts.batches += 1;
        report.counts.records += header.records_count().max(0) as u64;
        self.check_indexes(header.base_offset(), name, report);
        self.position += len;
        self.next_offset = header.next_offset();
        self.check_state(name, report);
    }

    /// Index entries at or before the present batch must be of it.
    fn check_indexes(&mut self, offset: i64, name: &str, report: &mut Report) {
        let in_file = |name: &str, extension: &str| name.replace(".log", &format!(".{extension}"));
        while let Some(entry) = self.index.get(self.index_at)
            && (entry.position <= self.position || entry.offset <= offset)
        {
            if (entry.position, entry.offset) != (self.position, offset) {
                report.damage(
                    in_file(name, SegmentFile::Index.extension()),
                    entry_position::<IndexEntry>(self.index_at),
                    IndexEntry::BYTES as u64,
                    format_args!(
                        "entry {} (offset {} at byte {}) is not where a batch begins",
                        self.index_at, entry.offset, entry.position
                    ),
                );
            }
            self.index_at += 1;
        }
        while let Some(entry) = self.time_index.get(self.time_index_at)
            && entry.offset <= offset
        {
            if (entry.offset, entry.max_timestamp) != (offset, self.max_timestamp) {
                report.damage(
                    in_file(name, SegmentFile::TimeIndex.extension()),
                    entry_position::<TimeIndexEntry>(self.time_index_at),
                    TimeIndexEntry::BYTES as u64,
                    format_args!(
                        "entry {} (time {} up to offset {}) does not fit its batch",
                        self.time_index_at, entry.max_timestamp, entry.offset
                    ),
                );
            }
            self.time_index_at += 1;
        }
    }

    /// Where the checkpoint knew the segment's end, everything it says of the segment must be so.
    fn check_state(&mut self, name: &str, report: &mut Report) {
        let Some(state) = &self.plan.state else {
            return;
        };
        if self.position != state.length_bytes {
            return;
        }
        let found = (
            self.next_offset,
            self.max_timestamp,
            self.max_timestamp_offset,
            self.first_timestamp,
        );
        let expected = (
            state.end_offset,
            state.max_timestamp,
            state.max_timestamp_offset,
            state.first_timestamp,
        );
        if found != expected {
            report.damage(
                name,
                self.position,
                0,
                format_args!(
                    "end offset, max timestamp, its offset, first timestamp are {found:?} where the checkpoint says {expected:?}"
                ),
            );
        }
    }

    fn summary(mut self, complete: bool) -> SegmentSummary {
        self.summary.end_offset = self.next_offset;
        self.summary.complete = complete && !self.lost;
        self.summary
    }

    fn finish(mut self, check: &mut Check<'_>, name: &str) -> SegmentSummary {
        if !self.lost && !self.carry.is_empty() {
            let (position, len) = (self.position, self.carry.len() as u64);
            check
                .report
                .damage(name, position, len, "the segment ends within a batch");
        }
        if !self.lost {
            if let Some(state) = &self.plan.state
                && self.position < state.length_bytes
                && self.carry.is_empty()
            {
                check.report.damage(
                    name,
                    self.position,
                    0,
                    format_args!(
                        "ends here, but had {} bytes at the checkpoint",
                        state.length_bytes
                    ),
                );
            }
            for (file, at, count, bytes) in [
                (
                    SegmentFile::Index,
                    self.index_at,
                    self.index.len(),
                    entry_position::<IndexEntry>(self.index_at),
                ),
                (
                    SegmentFile::TimeIndex,
                    self.time_index_at,
                    self.time_index.len(),
                    entry_position::<TimeIndexEntry>(self.time_index_at),
                ),
            ] {
                if at < count {
                    let path = check.path(file).relative();
                    check.report.damage(
                        path,
                        bytes,
                        16,
                        format_args!("{} entries behind the last batch", count - at),
                    );
                }
            }
        }
        self.lost |= !self.carry.is_empty();
        self.carry.clear();
        self.summary(true)
    }
}

/// Where entry `index` of a sidecar file stands.
fn entry_position<E: SidecarEntry>(index: usize) -> u64 {
    ((index / E::PER_BLOCK) * BLOCK
        + (BLOCK - E::PER_BLOCK * E::BYTES)
        + (index % E::PER_BLOCK) * E::BYTES) as u64
}
