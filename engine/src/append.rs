//! The synchronous half of an append: checks, offsets, and the batch in the tail. Nothing here waits.
//!
//! Invariants: an append that is refused changes nothing, not even its producer's sequence. One that is not refused has
//! its place in the order of the partition when this returns; only durability is missing.

use std::rc::Rc;

use smallvec::SmallVec;
use trireme_runtime::unix_ms;

use crate::ack::AppendCall;
use crate::api::{Ack, Append, AppendError, Appended, Durability, PartitionConfig, TimestampType};
use crate::batch::{self, BatchHeader, Batches, HEADER_BYTES, NO_TIMESTAMP};
use crate::layout::SUM_BLOCK;
use crate::mutations::{Mutation, on};
use crate::partition::{Partition, PartitionInner, Piece};
use crate::producer::{Refusal, Verdict};
use crate::segment::{BatchNote, Segment};
use crate::shard::Shard;

impl Shard {
    /// Appends and notes the answer in `call`.
    pub fn append(self: &Rc<Self>, append: &Append, call: &Rc<AppendCall>) {
        let partition = self.partition(&append.partition.id);
        let answer = match &partition {
            None => Err(AppendError::UnknownPartition),
            Some(partition) => self.append_to(partition, append),
        };
        let Ok((appended, due)) = answer else {
            call.answer(answer.map(|(appended, _)| appended), None);
            return;
        };
        // Over the bound even those who would not wait do: that is what slows a client down.
        let waits = due && (append.ack == Ack::Committed || self.is_pressed());
        let ticket = call.answer(Ok(appended), waits.then_some(appended.last_offset));
        if let (Some(partition), Some(ticket)) = (partition, ticket) {
            let mut inner = partition.state.borrow_mut();
            let at = inner
                .tickets
                .partition_point(|other| other.offset <= ticket.offset);
            inner.tickets.insert(at, ticket);
        }
    }

    fn is_pressed(&self) -> bool {
        self.unflushed.get() + self.pending.get() > self.unflushed_limit()
    }

    /// The answer, and whether it must wait until its offsets are durable.
    fn append_to(
        self: &Rc<Self>,
        partition: &Rc<Partition>,
        append: &Append,
    ) -> Result<(Appended, bool), AppendError> {
        let mut inner = partition.state.borrow_mut();
        let inner = &mut *inner;
        if self.closing.get() {
            return Err(AppendError::ShuttingDown);
        }
        if inner.deleting {
            return Err(AppendError::UnknownPartition);
        }
        if inner.refuses_appends {
            return Err(AppendError::Damaged);
        }
        let now_ms = unix_ms();
        let config = inner.config.clone();
        let headers = checked_headers(&append.batches, &config, now_ms)?;
        let verdict = match headers.as_slice() {
            [header] => inner.producers.check(header),
            several => inner.producers.check_run(several.iter().copied()),
        };
        let relaxed = config.durability == Durability::Relaxed && !self.is_pressed();
        match verdict {
            Verdict::Append => {}
            Verdict::Duplicate {
                base_offset,
                last_offset,
                timestamp_ms,
            } => {
                let appended = Appended {
                    base_offset,
                    last_offset,
                    log_append_time_ms: log_append_time(&config, timestamp_ms),
                    log_start: inner.log_start,
                    duplicate: true,
                };
                let waits = !relaxed && !on(Mutation::DuplicateAtOnce);
                return Ok((appended, waits && last_offset >= inner.durable));
            }
            Verdict::Refused(Refusal::OutOfOrderSequence { expected, sequence }) => {
                return Err(AppendError::OutOfOrderSequence { expected, sequence });
            }
            Verdict::Refused(Refusal::InvalidProducerEpoch { current, epoch }) => {
                return Err(AppendError::InvalidProducerEpoch { current, epoch });
            }
        }
        if self.full.get() && !append.may_use_reserve {
            inner.producers.turn_away(headers[0]);
            self.stats.borrow_mut().refused_storage_full += 1;
            return Err(AppendError::StorageFull);
        }
        // Alone it is taken however large it is: no waiting makes it smaller.
        let pending = self.pending.get();
        if pending > 0 && pending + append.batches.len() as u64 > self.pending_max() {
            inner.producers.turn_away(headers[0]);
            if on(Mutation::RefusedMovesSequence) {
                inner.producers.apply(headers[0], inner.next_offset, now_ms);
            }
            self.stats.borrow_mut().refused_overloaded += 1;
            return Err(AppendError::Overloaded);
        }

        let base_offset = inner.next_offset;
        let epoch = self.epoch.get();
        inner.epochs.assign(epoch, base_offset);
        let mut stamp = Stamp {
            epoch,
            now_ms,
            records: 0,
        };
        let mut position = 0;
        for header in headers {
            let total = header.total_bytes().expect("checked");
            self.append_batch(
                partition,
                inner,
                &config,
                &append.batches[position..position + total],
                &mut stamp,
            );
            position += total;
        }
        let appended = Appended {
            base_offset,
            last_offset: inner.next_offset - 1,
            log_append_time_ms: log_append_time(&config, now_ms),
            log_start: inner.log_start,
            duplicate: false,
        };
        self.pending
            .set(self.pending.get() + append.batches.len() as u64);
        inner.pending_bytes += append.batches.len() as u64;
        let mut stats = self.stats.borrow_mut();
        stats.appended_bytes += append.batches.len() as u64;
        stats.appended_records += stamp.records;
        drop(stats);
        if self.appended.waiters() > 0 {
            self.appended.notify_all();
        }
        self.enqueue(partition, inner);
        Ok((appended, !relaxed && !on(Mutation::AckAtAppend)))
    }

    /// Puts one checked batch behind the others.
    fn append_batch(
        &self,
        partition: &Rc<Partition>,
        inner: &mut PartitionInner,
        config: &PartitionConfig,
        bytes: &[u8],
        stamp: &mut Stamp,
    ) {
        let (header, payload) = bytes.split_at(HEADER_BYTES);
        let mut header: [u8; HEADER_BYTES] = header.try_into().expect("a header's length");
        let base_offset = inner.next_offset;
        batch::assign(&mut header, base_offset, stamp.epoch);
        if config.timestamps == TimestampType::LogAppendTime {
            batch::set_log_append_time(&mut header, stamp.now_ms);
        }
        let view = BatchHeader::view(&header).expect("61 bytes");
        let max_timestamp = view.latest_timestamp();
        if must_roll(
            inner,
            config,
            bytes.len() as u64,
            max_timestamp,
            stamp.now_ms,
        ) {
            if let Some(last) = inner.segments.last_mut() {
                last.rolled = true;
                if last.head_on_disk && last.flushed == last.length {
                    // Cleanly shut and not touched since: nothing of it is to be flushed, only its sidecars are to be completed.
                    last.head_on_disk = false;
                }
                self.rolled.borrow_mut().push_back(partition.clone());
                self.flush.notify_one();
            }
            inner.segments.push(Segment::new(base_offset, stamp.now_ms));
        }
        let note = BatchNote {
            base_offset,
            last_offset: view.last_offset(),
            max_timestamp,
        };
        let segment = inner.segments.last_mut().expect("one was made");
        let (base, at) = (segment.base, segment.length);
        segment.note_batch(at, &note, index_interval(config));
        segment.length += bytes.len() as u64;
        let chunk_max = self.chunk_max_of(inner, bytes.len());
        let taken = inner.tail.append(base, at, &header, chunk_max)
            + inner
                .tail
                .append(base, at + HEADER_BYTES as u64, payload, chunk_max);
        inner.tail.mark(base, at, base_offset);
        if taken > 0 {
            self.take_memory(taken);
        }
        inner.producers.apply(view, base_offset, stamp.now_ms);
        inner.next_offset = view.next_offset();
        let records = view.records_count().max(0) as u32;
        stamp.records += u64::from(records);
        inner.pending.push_back(Piece {
            segment: base,
            base_offset,
            last_offset: note.last_offset,
            bytes: bytes.len() as u32,
            batches: 1,
            records,
        });
        self.stats.borrow_mut().appended_batches += 1;
    }

    fn chunk_max_of(&self, inner: &PartitionInner, batch_bytes: usize) -> usize {
        // Most appends fit into the chunk that is there, and need no look at the number of partitions.
        if inner.tail.chunk_count() == 0 && batch_bytes < SUM_BLOCK {
            SUM_BLOCK
        } else {
            self.chunk_max()
        }
    }
}

struct Stamp {
    epoch: i32,
    now_ms: i64,
    records: u64,
}

/// Bytes between two index entries: a verified read takes a whole sum block anyway.
pub(crate) fn index_interval(config: &PartitionConfig) -> u64 {
    u64::from(config.index_interval_bytes).max(SUM_BLOCK as u64)
}

fn log_append_time(config: &PartitionConfig, time_ms: i64) -> i64 {
    match config.timestamps {
        TimestampType::CreateTime => NO_TIMESTAMP,
        TimestampType::LogAppendTime => time_ms,
    }
}

type Headers<'a> = SmallVec<[&'a BatchHeader; 2]>;

/// The headers of what is to be appended: whole batches, each within the partition's limits.
fn checked_headers<'a>(
    bytes: &'a [u8],
    config: &PartitionConfig,
    now_ms: i64,
) -> Result<Headers<'a>, AppendError> {
    let mut headers = Headers::new();
    for raw in Batches::new(bytes) {
        let raw = raw.map_err(|_| AppendError::Invalid("bytes that are no batches"))?;
        let header = raw.header();
        let total = raw.bytes().len() as u64;
        if total > u64::from(config.max_batch_bytes) {
            return Err(AppendError::BatchTooLarge {
                bytes: total,
                max: config.max_batch_bytes,
            });
        }
        if header.last_offset_delta() < 0 || header.records_count() < 0 {
            return Err(AppendError::Invalid("a batch without offsets"));
        }
        if config.timestamps == TimestampType::CreateTime {
            let from = now_ms.saturating_sub(config.timestamp_before_max_ms);
            let to = now_ms.saturating_add(config.timestamp_after_max_ms);
            for timestamp_ms in [header.base_timestamp(), header.max_timestamp()] {
                if timestamp_ms != NO_TIMESTAMP && !(from..=to).contains(&timestamp_ms) {
                    return Err(AppendError::InvalidTimestamp { timestamp_ms });
                }
            }
        }
        headers.push(header);
    }
    if headers.is_empty() {
        return Err(AppendError::Invalid("no batch at all"));
    }
    Ok(headers)
}

fn must_roll(
    inner: &PartitionInner,
    config: &PartitionConfig,
    bytes: u64,
    max_timestamp: i64,
    now_ms: i64,
) -> bool {
    let Some(segment) = inner.segments.last() else {
        return true;
    };
    if segment.rolled {
        return true;
    }
    if segment.length == 0 {
        return false;
    }
    let age_ms = if segment.first_timestamp >= 0 && max_timestamp >= 0 {
        max_timestamp.saturating_sub(segment.first_timestamp)
    } else {
        now_ms.saturating_sub(segment.created_ms)
    };
    segment.length + bytes > config.segment_bytes || age_ms > config.segment_ms
}
