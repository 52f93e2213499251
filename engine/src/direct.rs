//! Direct runs: a long run of large batches goes straight to its segment as whole blocks; the log gets a record of it with
//! the fragments at both ends, the blocks' sums and a summary of each batch.
//!
//! Invariants:
//! - A run begins where the partition's durable bytes end, and its write begins where the flushed bytes end, so what is
//!   flushed stays one piece: the bytes between are written along (they are durable in the log, or the run's own head).
//! - It is answered when the record and the blocks are both durable. Until then its partition is parked, so nothing of it
//!   stands in the log behind a run that may fail.
//! - It only goes to a file whose name is durable and to space that is allocated already; nothing is created or allocated on the way of an answer. (Only a
//!   batch that no group can hold waits for its space.)

use std::cell::Cell;
use std::rc::Rc;

use trireme_runtime::fs::File;
use trireme_runtime::{Share, Shared, abort, spawn, spawn_with};

use crate::batch::{BatchHeader, HEADER_BYTES};
use crate::committer::{LOGGED_BATCH_BYTES_MAX, Run, entry_of, joined};
use crate::crc;
use crate::files::Mode;
use crate::layout::SUM_BLOCK;
use crate::layout::entry::{Entry, RecordType};
use crate::layout::payload::{
    BATCH_SUMMARY_BYTES, BatchSummary, DirectSplit, direct_payload_len, encode_direct,
};
use crate::layout::seed::segment_seed;
use crate::layout::sidecar::SumEntry;
use crate::mutations::{Mutation, on};
use crate::partition::{Partition, PartitionInner, Phase, Piece};
use crate::shard::Shard;
use crate::tail::{Pieces, Tail};

/// Longest direct run: long enough for the disk, short enough not to keep others of the partition waiting.
const RUN_BYTES_MAX: u64 = 8 << 20;
/// Smallest mean size of a run's batches: a summary costs 64 bytes each.
const MEAN_BATCH_BYTES_MIN: u64 = 4096;
/// Most durable but unflushed bytes that a run writes along. They have to be written anyway; this much, so that the runs that
/// went to the log while there was no space yet do not keep all later ones from going directly.
const GAP_BYTES_MAX: u64 = 2 * RUN_BYTES_MAX;
/// Space that is made behind the end of a run, for those to come.
const AHEAD_BYTES: u64 = 4 * RUN_BYTES_MAX;

/// The blocks of a run, ready to be written.
pub(crate) struct DirectRun {
    partition: Rc<Partition>,
    entry: Entry,
    file: File,
    from: u64,
    to: u64,
    pieces: Pieces,
    sums: Vec<SumEntry>,
}

/// Plans a direct run of what is pending, if that is long enough and its place is ready. The partition is then parked.
/// It is parked too, without a run, if its first batch fits into no group and its place must be made first.
pub(crate) fn plan(
    shard: &Rc<Shard>,
    partition: &Rc<Partition>,
    inner: &mut PartitionInner,
    space: usize,
) -> Option<Run> {
    let first = *inner.pending.front()?;
    let must = first.bytes as usize > LOGGED_BATCH_BYTES_MAX;
    if !must && inner.pending_bytes < u64::from(shard.config.direct_min_bytes) {
        return None;
    }
    let (piece, count) = longest(inner, first, space);
    let long = piece.bytes >= shard.config.direct_min_bytes
        && u64::from(piece.bytes) >= u64::from(piece.batches) * MEAN_BATCH_BYTES_MIN;
    if !must && !long {
        return None;
    }
    let segment = inner.segment(piece.segment)?;
    let position = segment.logged;
    if segment.durable != position
        || position - segment.flushed > GAP_BYTES_MAX
        || segment.busy
        || segment.head_on_disk
    {
        // The flusher is at it, or something of it is in this very group: the next group may do better.
        if must {
            shard.flush.notify_one();
            if segment.durable == position {
                park_until_ready(
                    shard,
                    partition,
                    inner,
                    piece.segment,
                    position + u64::from(piece.bytes),
                );
            }
        }
        return None;
    }
    let split = DirectSplit::of(position, piece.bytes);
    let end = position + u64::from(piece.bytes);
    let payload_len = direct_payload_len(&split, piece.batches as usize);
    let file = shard.files.get(partition.id, piece.segment, Mode::Write);
    let Some(file) = file.filter(|_| segment.allocated >= end && segment.named) else {
        if must {
            park_until_ready(shard, partition, inner, piece.segment, end);
        } else {
            prepare_ahead(shard, partition, inner, piece.segment, end + AHEAD_BYTES);
        }
        return None;
    };
    if split.block_count == 0 || payload_len > space {
        return None;
    }
    Some(build(partition, inner, piece, count, split, file))
}

/// The longest run of pending pieces of one segment whose record fits, and their number.
fn longest(inner: &PartitionInner, first: Piece, space: usize) -> (Piece, usize) {
    let record = |piece: &Piece| {
        let sums = piece.bytes as usize / SUM_BLOCK * 4;
        2 * SUM_BLOCK + sums + piece.batches as usize * BATCH_SUMMARY_BYTES + 64
    };
    let (mut run, mut count) = (first, 1);
    for next in inner.pending.iter().skip(1) {
        if next.segment != first.segment
            || u64::from(run.bytes) + u64::from(next.bytes) > RUN_BYTES_MAX
        {
            break;
        }
        let longer = joined(run, next);
        if record(&longer) > space {
            break;
        }
        run = longer;
        count += 1;
    }
    (run, count)
}

fn build(
    partition: &Rc<Partition>,
    inner: &mut PartitionInner,
    piece: Piece,
    count: usize,
    split: DirectSplit,
    file: File,
) -> Run {
    inner.pending.drain(..count);
    let epoch = inner.epochs.latest().map_or(0, |latest| latest.epoch);
    let entry = entry_of(RecordType::Direct, partition.id, inner, &piece, epoch);
    inner.phase = Phase::Parked;
    let segment = inner.segment_mut(piece.segment).expect("seen in plan");
    segment.busy = true;
    let from = segment.flushed;
    let blocks_at = entry.position + u64::from(split.head_len);
    let to = blocks_at + split.blocks_len() as u64;
    let pieces = inner.tail.pieces(piece.segment, from, to);
    let sums = sum_blocks(partition.id, piece.segment, from, &pieces);
    let summaries = summaries(
        &inner.tail,
        piece.segment,
        entry.position,
        entry.end_position(),
    );
    let own = &sums[((blocks_at - from) / SUM_BLOCK as u64) as usize..];
    let own: Vec<u32> = own.iter().map(|sum| sum.0).collect();
    let mut head = Vec::new();
    encode_direct(&split, &own, &summaries, &mut head);
    let mut fragments = inner.tail.pieces(piece.segment, entry.position, blocks_at);
    fragments.extend(inner.tail.pieces(piece.segment, to, entry.end_position()));
    let direct = DirectRun {
        partition: partition.clone(),
        entry,
        file,
        from,
        to,
        pieces,
        sums,
    };
    Run {
        partition: partition.clone(),
        entry,
        pieces: fragments,
        head,
        direct: Some(direct),
    }
}

/// The sums of the whole blocks (and a partial last one) that `pieces` hold from `from`, a block's beginning, on.
pub(crate) fn sum_blocks(
    id: crate::ids::PartitionId,
    segment: i64,
    from: u64,
    pieces: &[Shared],
) -> Vec<SumEntry> {
    let seed = segment_seed(id, segment);
    let mut block = from / SUM_BLOCK as u64;
    let mut sums = Vec::new();
    let (mut sum, mut filled) = (crc::crc32c(seed, &block.to_le_bytes()), 0);
    for piece in pieces {
        let mut bytes = &piece[..];
        while !bytes.is_empty() {
            let (now, rest) = bytes.split_at(bytes.len().min(SUM_BLOCK - filled));
            sum = crc::crc32c(sum, now);
            filled += now.len();
            bytes = rest;
            if filled == SUM_BLOCK {
                sums.push(SumEntry(sum));
                block += 1;
                (sum, filled) = (crc::crc32c(seed, &block.to_le_bytes()), 0);
            }
        }
    }
    if filled > 0 {
        sums.push(SumEntry(sum));
    }
    sums
}

fn summaries(tail: &Tail, segment: i64, from: u64, to: u64) -> Vec<BatchSummary> {
    let mut summaries = Vec::new();
    let mut at = from;
    while at < to {
        let mut bytes = [0; HEADER_BYTES];
        assert!(
            tail.copy_to(segment, at, &mut bytes),
            "a pending batch is in the tail"
        );
        let header = BatchHeader::view(&bytes).expect("61 bytes");
        let size = header.total_bytes().expect("checked at append") as u32;
        summaries.push(BatchSummary {
            base_offset: header.base_offset(),
            position: at,
            size,
            record_count: header.records_count() as u32,
            base_timestamp: header.base_timestamp(),
            max_timestamp: header.max_timestamp(),
            producer_id: header.producer_id(),
            last_offset_delta: header.last_offset_delta(),
            base_sequence: header.base_sequence(),
            leader_epoch: header.leader_epoch(),
            producer_epoch: header.producer_epoch(),
            attributes: header.attributes() as u16,
        });
        at += u64::from(size);
    }
    summaries
}

/// A run whose blocks are being written while the log writes its record.
pub(crate) struct Started(Rc<InFlight>);

struct InFlight {
    shard: Rc<Shard>,
    partition: Rc<Partition>,
    entry: Entry,
    from: u64,
    to: u64,
    sums: Cell<Vec<SumEntry>>,
    sequence: Cell<Option<u64>>,
    written: Cell<bool>,
}

impl DirectRun {
    /// Starts to write the blocks.
    pub fn start(self, shard: &Rc<Shard>) -> Started {
        let flight = Rc::new(InFlight {
            shard: shard.clone(),
            partition: self.partition,
            entry: self.entry,
            from: self.from,
            to: self.to,
            sums: Cell::new(self.sums),
            sequence: Cell::new(None),
            written: Cell::new(false),
        });
        let started = Started(flight.clone());
        let (file, pieces, from) = (self.file, self.pieces.into_vec(), self.from);
        spawn(async move {
            let (result, _) = file.write_durable_vectored_at(pieces, from).await;
            if let Err(error) = result {
                abort(&format!(
                    "segment {} of {} at {from}: {error}",
                    flight.entry.segment_base, flight.partition.id
                ));
            }
            flight.written.set(true);
            flight.finish_if_done();
        })
        .detach();
        started
    }
}

impl Started {
    /// The record is durable.
    pub fn logged(self, sequence: u64) {
        let flight = &self.0;
        flight.sequence.set(Some(sequence));
        if !flight.partition.gone.get() {
            // From here on the log is needed, blocks or not: a checkpoint that is taken before they are written, and says
            // what was flushed until then, has to have recovery begin at this record.
            flight.shard.note_span(
                &flight.partition,
                &mut flight.partition.state.borrow_mut(),
                flight.entry.segment_base,
                flight.entry.end_position(),
                sequence,
            );
        }
        flight.finish_if_done();
    }
}

impl InFlight {
    fn finish_if_done(&self) {
        if !self.written.get() && !on(Mutation::DirectAckedByRecord) {
            return;
        }
        let Some(sequence) = self.sequence.take() else {
            return;
        };
        let shard = &self.shard;
        let run_bytes = u64::from(self.entry.len);
        {
            let mut inner = self.partition.state.borrow_mut();
            let inner = &mut *inner;
            if !self.partition.gone.get() {
                let segment = inner
                    .segment_mut(self.entry.segment_base)
                    .expect("it is busy, so it is kept");
                segment.busy = false;
                segment.flushed = self.to;
                segment.sums.pending.extend(self.sums.take());
                let along = self.entry.position - self.from.min(self.entry.position);
                shard
                    .unflushed
                    .set(shard.unflushed.get().saturating_sub(along));
                shard.note_flushed(
                    &self.partition,
                    inner,
                    self.entry.segment_base,
                    self.from,
                    self.to,
                );
                inner.phase = Phase::Idle;
            }
        }
        shard.complete(&self.partition, &self.entry, sequence);
        {
            let mut inner = self.partition.state.borrow_mut();
            inner.settle_spans();
            shard.enqueue(&self.partition, &mut inner);
        }
        let mut stats = shard.stats.borrow_mut();
        stats.direct_runs += 1;
        stats.direct_bytes += run_bytes;
        drop(stats);
        shard.count_logged(run_bytes);
        let done = Entry {
            segment_base: self.entry.segment_base,
            position: self.entry.position,
            len: self.entry.len,
            ..Entry::new(RecordType::Done, self.partition.id)
        };
        if !self.partition.gone.get() {
            shard.submit_lazily(done);
        }
        // Space for the next one, well before it is needed.
        let mut inner = self.partition.state.borrow_mut();
        prepare_ahead(
            shard,
            &self.partition,
            &mut inner,
            self.entry.segment_base,
            self.to + AHEAD_BYTES,
        );
        drop(inner);
        shard.commit.notify_one();
        shard.progress.notify_all();
        shard.evict();
    }
}

/// Makes the place of coming runs in the background.
fn prepare_ahead(
    shard: &Rc<Shard>,
    partition: &Rc<Partition>,
    inner: &mut PartitionInner,
    base: i64,
    end: u64,
) {
    let end = end.min(inner.config.segment_bytes);
    let Some(segment) = inner.segment_mut(base) else {
        return;
    };
    let is_open = shard.files.get(partition.id, base, Mode::Write).is_some();
    if segment.preparing || segment.sealed || (is_open && segment.named && segment.allocated >= end)
    {
        return;
    }
    segment.preparing = true;
    let (shard, partition) = (shard.clone(), partition.clone());
    spawn_with(Share::Background, async move {
        // Without space the run goes through the log, and the flusher says that the disk is full.
        let _ = shard.place_named(&partition, base, end).await;
        if let Some(segment) = partition.state.borrow_mut().segment_mut(base) {
            segment.preparing = false;
        }
    })
    .detach();
}

/// Parks the partition until its segment's file has space up to `end` and everything before is flushed nearly.
fn park_until_ready(
    shard: &Rc<Shard>,
    partition: &Rc<Partition>,
    inner: &mut PartitionInner,
    base: i64,
    end: u64,
) {
    inner.phase = Phase::Parked;
    let (shard, partition) = (shard.clone(), partition.clone());
    spawn(async move {
        shard.make_ready(&partition, base, end).await;
        let mut inner = partition.state.borrow_mut();
        inner.phase = Phase::Idle;
        shard.enqueue(&partition, &mut inner);
    })
    .detach();
}
