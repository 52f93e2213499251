//! The committer of a shard: one group in flight. When its write returns, whoever waited is answered and the next group
//! takes everything that came meanwhile.
//!
//! Invariants:
//! - A group is built only after the one before it is durable, so `durable_through` is always its sequence less one, and
//!   answers leave in the order of the log.
//! - Controls go first: a record about a partition stands before the batches it concerns.
//! - Nothing on this path creates, allocates, renames or removes a file. If there is no room it waits for those who do.
//! - A failed write ends the process.

use std::rc::Rc;
use std::time::Duration;

use smallvec::SmallVec;
use trireme_runtime::{AlignedBuf, abort, now, timeout, unix_ms};

use crate::direct::DirectRun;
use crate::ids::{Offset, PartitionId};
use crate::layout::entry::{Entry, RecordType};
use crate::layout::group::{GroupContext, PendingRecord, encode_group, group_len, payload_len_max};
use crate::layout::payload::FileEnd;
use crate::layout::{BLOCK, GROUP_BYTES_MAX};
use crate::mutations::{Mutation, on};
use crate::partition::{Partition, PartitionInner, Phase, Piece, Span};
use crate::shard::{Control, Shard};
use crate::tail::Pieces;

/// A run of one partition's batches in a group.
pub(crate) struct Run {
    pub partition: Rc<Partition>,
    pub entry: Entry,
    pub pieces: Pieces,
    /// The part of a direct record before its fragments; empty otherwise.
    pub head: Vec<u8>,
    pub direct: Option<DirectRun>,
}

impl Run {
    fn payload_len(&self) -> usize {
        self.head.len() + self.pieces.iter().map(|piece| piece.len()).sum::<usize>()
    }
}

/// What goes into one group.
#[derive(Default)]
struct Group {
    controls: Vec<Control>,
    runs: Vec<Run>,
    payload_len: usize,
    /// There was something to take, and not even that fitted into what is left of the file.
    lacks_room: bool,
}

impl Group {
    fn records(&self) -> usize {
        self.controls.len() + self.runs.len()
    }

    fn fits(&self, payload_len: usize, max: usize) -> bool {
        group_len(self.records() + 1, self.payload_len + payload_len) <= max
    }

    /// Bytes that another record may bring, at most.
    fn space(&self, max: usize) -> usize {
        let overhead = group_len(self.records() + 1, self.payload_len);
        // A block of table and padding less than exact: a little unused room costs nothing.
        max.saturating_sub(overhead + BLOCK / 2)
    }
}

/// The largest batch that a group can hold.
pub(crate) const LOGGED_BATCH_BYTES_MAX: usize = payload_len_max(1) - BLOCK;

/// The largest group that is made to carry one partition's unflushed bytes.
const CARRY_GROUP_BYTES_MAX: usize = GROUP_BYTES_MAX / 2;

/// Runs until the shard is closing and everything is durable. One per shard.
pub(crate) async fn run(shard: Rc<Shard>) {
    let mut buf = AlignedBuf::with_capacity(GROUP_BYTES_MAX);
    let idle = Duration::from_millis(shard.config.mark_idle_ms.max(1));
    loop {
        let group = build(&shard);
        if group.records() > 0 {
            buf = write(&shard, group, buf).await;
            continue;
        }
        if group.lacks_room {
            buf = switch_file(&shard, buf).await;
            continue;
        }
        if shard.closing.get() && shard.is_drained() {
            if !shard.log.borrow().marked {
                write_mark(&shard, buf).await;
            }
            shard.committed.set(true);
            shard.progress.notify_all();
            return;
        }
        let marked = shard.log.borrow().marked;
        if marked {
            shard.commit.notified().await;
        } else if timeout(idle, shard.commit.notified()).await.is_err() {
            buf = write_mark(&shard, buf).await;
        }
    }
}

impl Shard {
    /// Nothing waits for the committer, and nothing it has begun is unfinished.
    fn is_drained(&self) -> bool {
        let queue = self.queue.borrow();
        queue.controls.iter().all(|control| control.done.is_none()) && self.pending.get() == 0
    }

    /// Whether batches may go to the log now: not while too much is unflushed.
    fn may_take_runs(&self) -> bool {
        self.unflushed.get() <= self.unflushed_limit()
            || self.closing.get()
            || self.draining.get() > 0
            // Then only what frees space is still accepted.
            || self.full.get()
    }
}

/// Takes as much as fits into one group.
fn build(shard: &Rc<Shard>) -> Group {
    let mut group = Group::default();
    let max = shard.log.borrow().room().min(GROUP_BYTES_MAX);
    let mut queue = shard.queue.borrow_mut();
    // Lazy records alone make no group.
    let is_idle = queue.partitions.is_empty() && queue.carries.is_empty();
    if is_idle
        && queue.controls.iter().all(|control| control.done.is_none())
        && !shard.closing.get()
    {
        return group;
    }
    while let Some(control) = queue.controls.front() {
        if !group.fits(control.payload.len(), max) {
            group.lacks_room = true;
            return group;
        }
        let control = queue.controls.pop_front().expect("just seen");
        group.payload_len += control.payload.len();
        group.controls.push(control);
    }
    while let Some(partition) = queue.carries.front().cloned() {
        let runs = shard.carried_runs(&partition);
        let len = runs
            .iter()
            .map(|(entry, _)| entry.len as usize)
            .sum::<usize>();
        if group_len(group.records() + runs.len(), group.payload_len + len) > max {
            if group_len(runs.len(), len) > CARRY_GROUP_BYTES_MAX {
                // Too much to carry: the flusher will see that.
                queue.carries.pop_front();
                continue;
            }
            group.lacks_room = group.records() == 0;
            return group;
        }
        queue.carries.pop_front();
        for (entry, pieces) in runs {
            group.payload_len += entry.len as usize;
            group.runs.push(Run {
                partition: partition.clone(),
                entry,
                pieces,
                head: Vec::new(),
                direct: None,
            });
        }
    }
    if !shard.may_take_runs() {
        shard.flush.notify_one();
        return group;
    }
    while let Some(partition) = queue.partitions.pop_front() {
        let mut inner = partition.state.borrow_mut();
        debug_assert_eq!(inner.phase, Phase::Queued);
        take_runs(shard, &partition, &mut inner, &mut group, max);
        if inner.phase == Phase::Parked {
            continue;
        }
        if inner.pending.is_empty() {
            inner.phase = Phase::Idle;
            continue;
        }
        drop(inner);
        queue.partitions.push_front(partition);
        group.lacks_room = group.records() == 0;
        break;
    }
    group
}

/// Takes the runs of one partition that fit; what is left is still pending.
fn take_runs(
    shard: &Rc<Shard>,
    partition: &Rc<Partition>,
    inner: &mut PartitionInner,
    group: &mut Group,
    max: usize,
) {
    let soft_max = shard.config.group_max_bytes as usize;
    while let Some(first) = inner.pending.front().copied() {
        if group.payload_len >= soft_max {
            return;
        }
        if let Some(run) = crate::direct::plan(shard, partition, inner, group.space(max)) {
            group.payload_len += run.payload_len();
            group.runs.push(run);
        }
        if inner.phase == Phase::Parked || !group.fits(first.bytes as usize, max) {
            return;
        }
        let space = group.space(max);
        let mut taken = first;
        inner.pending.pop_front();
        while let Some(next) = inner.pending.front()
            && next.segment == taken.segment
            && taken.bytes as usize + next.bytes as usize <= space
        {
            taken = joined(taken, next);
            inner.pending.pop_front();
        }
        let run = logged_run(partition, inner, taken);
        group.payload_len += run.payload_len();
        group.runs.push(run);
    }
}

pub(crate) fn joined(first: Piece, next: &Piece) -> Piece {
    Piece {
        last_offset: next.last_offset,
        bytes: first.bytes + next.bytes,
        batches: first.batches + next.batches,
        records: first.records + next.records,
        ..first
    }
}

/// The directory entry of a run, and its bytes counted as handed to the log.
pub(crate) fn entry_of(
    kind: RecordType,
    id: PartitionId,
    inner: &mut PartitionInner,
    piece: &Piece,
    epoch: i32,
) -> Entry {
    let segment = inner
        .segment_mut(piece.segment)
        .expect("pending bytes are in a segment");
    let position = segment.logged;
    segment.logged += u64::from(piece.bytes);
    inner.pending_bytes -= u64::from(piece.bytes);
    Entry {
        leader_epoch: epoch,
        base_offset: piece.base_offset,
        last_offset: piece.last_offset,
        segment_base: piece.segment,
        position,
        len: piece.bytes,
        record_count: piece.records,
        batch_count: piece.batches,
        ..Entry::new(kind, id)
    }
}

fn logged_run(partition: &Rc<Partition>, inner: &mut PartitionInner, piece: Piece) -> Run {
    let epoch = inner.epochs.latest().map_or(0, |latest| latest.epoch);
    let entry = entry_of(RecordType::Append, partition.id, inner, &piece, epoch);
    let pieces = inner
        .tail
        .pieces(piece.segment, entry.position, entry.end_position());
    Run {
        partition: partition.clone(),
        entry,
        pieces,
        head: Vec::new(),
        direct: None,
    }
}

/// Writes a group and answers for it.
async fn write(shard: &Rc<Shard>, mut group: Group, buf: AlignedBuf) -> AlignedBuf {
    // The blocks of direct runs are on their way while the group is written.
    let directs: Vec<_> = group
        .runs
        .iter_mut()
        .map(|run| run.direct.take().map(|direct| direct.start(shard)))
        .collect();
    let mut records: Vec<PendingRecord<'_>> = Vec::with_capacity(group.records());
    for control in &group.controls {
        records.push(if control.payload.is_empty() {
            PendingRecord::new(control.entry)
        } else {
            PendingRecord::with_payload(control.entry, &control.payload)
        });
    }
    for run in &group.runs {
        let mut payload: SmallVec<[&[u8]; 2]> = SmallVec::new();
        if !run.head.is_empty() {
            payload.push(&run.head);
        }
        payload.extend(run.pieces.iter().map(|piece| &**piece));
        records.push(PendingRecord {
            entry: run.entry,
            payload,
        });
    }
    let (buf, sequence) = write_records(shard, &records, buf).await;
    drop(records);
    shard.count_logged(buf.len() as u64);
    {
        let mut stats = shard.stats.borrow_mut();
        stats.groups += 1;
        stats.group_bytes += buf.len() as u64;
        stats.group_size_bytes.saturating_record(buf.len() as u64);
    }
    for control in group.controls {
        // At once, before any other task runs: a checkpoint that is taken now has the group behind it.
        shard.complete_control(&control.entry, &control.payload, sequence);
        if let Some(done) = control.done {
            let _ = done.send(sequence);
        }
    }
    for (run, direct) in group.runs.into_iter().zip(directs) {
        match direct {
            Some(direct) => direct.logged(sequence),
            None if run.entry.kind == RecordType::Carried => {
                shard.complete_carry(&run.partition, &run.entry, sequence)
            }
            None => shard.complete(&run.partition, &run.entry, sequence),
        }
    }
    shard.evict();
    shard.progress.notify_all();
    buf
}

/// One write made durable: the group's sequence.
async fn write_records(
    shard: &Rc<Shard>,
    records: &[PendingRecord<'_>],
    mut buf: AlignedBuf,
) -> (AlignedBuf, u64) {
    let (file, next, info) = {
        let log = shard.log.borrow();
        let context = GroupContext {
            identity: log.identity,
            file: log.next.file,
            file_use: log.next.file_use,
            position: log.next.position,
            sequence: log.next.sequence,
            previous_header_crc: log.next.previous_header_crc,
            durable_through: log.durable_through + u64::from(on(Mutation::DurableTooEarly)),
            unix_ms: unix_ms(),
        };
        let payload_len = records.iter().map(PendingRecord::payload_len).sum();
        buf.set_len(group_len(records.len(), payload_len));
        let info = encode_group(&context, records, &mut buf);
        (log.current().file.file.clone(), log.next, info)
    };
    let start = now();
    let (result, buf) = match on(Mutation::AckBeforeSync) {
        true => file.write_all_at(buf, next.position).await,
        false => file.write_durable_at(buf, next.position).await,
    };
    if let Err(error) = result {
        abort(&format!(
            "commit log of shard {}: file {} at {}: {error}",
            shard.id, next.file, next.position
        ));
    }
    let micros = (start.elapsed().as_nanos() / 1000) as u64;
    shard
        .stats
        .borrow_mut()
        .sync_latency_us
        .saturating_record(micros.max(1));
    shard.pacer.borrow_mut().commit(micros, buf.len());
    let mut log = shard.log.borrow_mut();
    if log.spare.is_empty() && log.next.position * 4 > log.current().file.size {
        shard.spare_wanted.notify_one();
    }
    log.advance(info.len, info.header_crc);
    log.durable_through = next.sequence;
    log.marked = false;
    (buf, next.sequence)
}

/// An empty group, whose header says that everything before it is durable.
async fn write_mark(shard: &Rc<Shard>, mut buf: AlignedBuf) -> AlignedBuf {
    if shard.log.borrow().room() < BLOCK {
        buf = switch_file(shard, buf).await;
    }
    let mark = PendingRecord::new(Entry::new(RecordType::Mark, PartitionId::default()));
    let (buf, _) = write_records(shard, &[mark], buf).await;
    shard.log.borrow_mut().marked = true;
    shard.stats.borrow_mut().marks += 1;
    buf
}

/// Names the next file in the last group of this one and goes on there; waits until there is one.
async fn switch_file(shard: &Rc<Shard>, buf: AlignedBuf) -> AlignedBuf {
    let spare = loop {
        let spare = shard.log.borrow().peek_spare();
        shard.spare_wanted.notify_one();
        match spare {
            Some(spare) => break spare,
            None => shard.room.notified().await,
        }
    };
    let end = FileEnd {
        next_file: spare.0,
        next_file_use: spare.1,
    }
    .encode();
    let record = PendingRecord::with_payload(
        Entry::new(RecordType::FileEnd, PartitionId::default()),
        &end,
    );
    let (buf, _) = write_records(shard, &[record], buf).await;
    shard.log.borrow_mut().switch_file();
    shard.spare_wanted.notify_one();
    shard.flush.notify_one();
    buf
}

impl Shard {
    /// What a record that is no run says is durable: it holds from now on.
    fn complete_control(self: &Rc<Self>, entry: &Entry, payload: &[u8], sequence: u64) {
        let Some(partition) = self.partition(&entry.partition) else {
            return;
        };
        match entry.kind {
            RecordType::LogStart => self.complete_log_start(&partition, entry.base_offset),
            RecordType::BlockImage => self.complete_head(&partition, entry, payload, sequence),
            _ => {}
        }
    }

    /// A run is durable in the log (and in its segment, if it was direct): show it, answer for it.
    pub fn complete(self: &Rc<Self>, partition: &Rc<Partition>, entry: &Entry, sequence: u64) {
        let mut inner = partition.state.borrow_mut();
        let inner = &mut *inner;
        let bytes = u64::from(entry.len);
        self.pending.set(self.pending.get() - bytes);
        if partition.gone.get() {
            return;
        }
        self.note_span(
            partition,
            inner,
            entry.segment_base,
            entry.end_position(),
            sequence,
        );
        let segment = inner
            .segment_mut(entry.segment_base)
            .expect("a partition that lives keeps what is not durable");
        segment.durable = entry.end_position();
        let flushed_before = segment.flushed.saturating_sub(entry.position).min(bytes);
        self.unflushed
            .set(self.unflushed.get() + bytes - flushed_before);
        let has_block = segment.flushable_end() > segment.flushed;
        inner.durable = entry.last_offset + 1;
        while inner
            .tickets
            .front()
            .is_some_and(|ticket| ticket.offset < inner.durable)
        {
            inner.tickets.pop_front().expect("just seen").settle();
        }
        inner.waits.retain(|wait| !wait.more(bytes));
        if has_block && self.unflushed.get() > self.flush_target() {
            self.flush.notify_one();
        }
    }

    /// Unflushed bytes are logged again: the older places are not needed any more.
    fn complete_carry(&self, partition: &Rc<Partition>, entry: &Entry, sequence: u64) {
        if partition.gone.get() {
            return;
        }
        let mut inner = partition.state.borrow_mut();
        let inner = &mut *inner;
        // All segments of the partition are carried in one group; the first of them clears what was before.
        if inner
            .spans
            .last()
            .is_none_or(|last| last.sequence != sequence)
        {
            inner.spans.clear();
        }
        self.note_span(
            partition,
            inner,
            entry.segment_base,
            entry.end_position(),
            sequence,
        );
        self.stats.borrow_mut().carried_bytes += u64::from(entry.len);
    }

    /// Notes that the group `sequence` in the current file holds bytes of the partition up to `end`.
    pub fn note_span(
        &self,
        partition: &Rc<Partition>,
        inner: &mut PartitionInner,
        segment: Offset,
        end: u64,
        sequence: u64,
    ) {
        let mut log = self.log.borrow_mut();
        // A direct run may end after the log went on in another file.
        let used = log
            .used
            .iter_mut()
            .rev()
            .find(|used| used.first.sequence <= sequence)
            .expect("its file is in use");
        match inner.spans.last_mut() {
            Some(last) if last.ordinal == used.ordinal => {
                last.segment = segment;
                last.end = end;
            }
            _ => {
                inner.spans.push(Span {
                    ordinal: used.ordinal,
                    sequence,
                    segment,
                    end,
                });
                used.partitions.push(partition.clone());
            }
        }
    }
}
