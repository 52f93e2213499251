//! Keeping the log short: when it is much longer than its live entries, these are written once more at its end, and it then
//! starts where that began.
//!
//! A snapshot does not stop the commits. It begins at the offset S up to which the map is complete, and runs over the keys in
//! order, a chunk at a time, each with the values that are durable at that moment. A key with a change in flight is left
//! out: that change has an offset behind S, and the older value written after it would undo it. If such a change is
//! refused, the key is made up for. When all keys are passed and everything staged until then is decided, every live entry
//! has a record behind S, and none of these is older than another one of the same key before it; so the log may start at S.

use std::collections::BTreeSet;
use std::ops::Bound;

use bytes::Bytes;

use super::{Staged, Table, Ticket, entry_bytes, push};
use crate::batch::Codec;
use crate::ids::Offset;
use crate::records::BatchBuilder;

/// A log of this many bytes is never compacted: it is read in a moment.
pub const LOG_BYTES_MIN: u64 = 1 << 20;
/// A log is compacted when it has more bytes than this many times its live ones.
pub const LOG_TO_LIVE_MAX: u64 = 4;
/// Bytes of a snapshot's batches, unless one entry alone is larger.
pub const SNAPSHOT_CHUNK_BYTES: usize = 256 << 10;
/// Chunks that may be in flight, which bounds a snapshot's memory.
pub const SNAPSHOT_CHUNKS_IN_FLIGHT: usize = 4;
/// After a refused snapshot the log grows by this many bytes before the next one.
const RETRY_AFTER_BYTES: u64 = 1 << 20;

/// What the table wants to be done.
#[derive(Debug)]
pub enum Step {
    /// A piece of snapshot. To be appended as a commit is, in the order of staging, and reported.
    Append(Staged),
    /// The log may start at this offset: what is before it is not needed any more. That it does not (a crash, an error)
    /// does no harm.
    AdvanceLogStart(Offset),
}

#[derive(Debug)]
pub(super) struct Snapshot {
    /// S, and the bytes applied up to there.
    start: Offset,
    start_bytes: u64,
    /// Keys up to this one are passed; `None` before the first.
    cursor: Option<Bytes>,
    is_passed: bool,
    /// Keys at or before the cursor that were left out for a change that was then refused.
    left_out: BTreeSet<Bytes>,
    in_flight: BTreeSet<Ticket>,
    /// Everything staged before this ticket has to be decided before the end.
    decided_before: Ticket,
}

impl Table {
    /// What is to be done to keep the log short, if anything: to be asked after every [`committed`](Table::committed) and
    /// [`refused`](Table::refused) until it says `None`. With it the log stays below max(1 MiB, 4 × live bytes) plus one
    /// snapshot plus what is committed while that is written.
    pub fn compact(&mut self, now_ms: i64) -> Option<Step> {
        if self.snapshot.is_none() {
            let bound = LOG_BYTES_MIN
                .max(LOG_TO_LIVE_MAX * self.live_bytes)
                .max(self.retry_at_bytes);
            if self.log_bytes() <= bound {
                return None;
            }
            self.begin_snapshot();
        }
        if let Some(batch) = self.next_chunk(now_ms) {
            let ticket = self.pending.push(Vec::new(), batch.len() as u64);
            let snapshot = self.snapshot.as_mut()?;
            snapshot.in_flight.insert(ticket);
            snapshot.decided_before = self.pending.next_ticket();
            return Some(Step::Append(Staged {
                ticket,
                batches: batch,
            }));
        }
        self.end_snapshot()
    }

    /// Begins a snapshot now, whatever the log's length, unless one is being written. [`compact`](Self::compact) gives its
    /// pieces.
    pub fn begin_snapshot(&mut self) {
        if self.snapshot.is_some() {
            return;
        }
        self.snapshot = Some(Snapshot {
            start: self.applied_to,
            start_bytes: self.applied_bytes,
            cursor: None,
            is_passed: false,
            left_out: BTreeSet::new(),
            in_flight: BTreeSet::new(),
            decided_before: self.pending.next_ticket(),
        });
    }

    /// The next batch of live entries; `None` when there is none or enough are in flight.
    fn next_chunk(&mut self, now_ms: i64) -> Option<Vec<u8>> {
        let snapshot = self.snapshot.as_mut()?;
        snapshot
            .in_flight
            .retain(|ticket| !self.pending.is_decided_before(Ticket(ticket.0 + 1)));
        let is_done = snapshot.is_passed && snapshot.left_out.is_empty();
        if is_done || snapshot.in_flight.len() >= SNAPSHOT_CHUNKS_IN_FLIGHT {
            return None;
        }
        let in_flight = self.pending.keys_in_flight();
        let mut builder = BatchBuilder::new(Codec::None);
        let has_room = |builder: &BatchBuilder, key: &[u8], value: &[u8]| {
            builder.is_empty()
                || builder.batch_bytes() + entry_bytes(key, value) as usize <= SNAPSHOT_CHUNK_BYTES
        };
        while let Some(key) = snapshot.left_out.first() {
            if let Some(value) = self.map.get(key)
                && !in_flight.contains(key.as_ref())
            {
                if !has_room(&builder, key, value) {
                    break;
                }
                push(&mut builder, key, Some(value), now_ms);
            }
            snapshot.left_out.pop_first();
        }
        if snapshot.left_out.is_empty() && !snapshot.is_passed {
            let from = snapshot
                .cursor
                .as_deref()
                .map_or(Bound::Unbounded, Bound::Excluded);
            let mut last = None;
            snapshot.is_passed = true;
            for (key, value) in self.map.range::<[u8], _>((from, Bound::Unbounded)) {
                if !in_flight.contains(key.as_ref()) {
                    if !has_room(&builder, key, value) {
                        snapshot.is_passed = false;
                        break;
                    }
                    push(&mut builder, key, Some(value), now_ms);
                }
                last = Some(key);
            }
            if let Some(last) = last {
                snapshot.cursor = Some(last.clone());
            }
        }
        // What was left out just now is among what is staged by now.
        snapshot.decided_before = self.pending.next_ticket();
        (!builder.is_empty()).then(|| builder.finish())
    }

    fn end_snapshot(&mut self) -> Option<Step> {
        let snapshot = self.snapshot.take_if(|snapshot| {
            snapshot.is_passed
                && snapshot.left_out.is_empty()
                && self.pending.is_decided_before(snapshot.decided_before)
        })?;
        self.trimmed_bytes = snapshot.start_bytes;
        self.retry_at_bytes = 0;
        Some(Step::AdvanceLogStart(snapshot.start))
    }

    /// A refused change of `keys`, or a refused chunk.
    pub(super) fn snapshot_refused(&mut self, ticket: Ticket, keys: Vec<Bytes>) {
        let Some(snapshot) = self.snapshot.as_mut() else {
            return;
        };
        if snapshot.in_flight.contains(&ticket) {
            self.snapshot = None;
            self.retry_at_bytes = self.log_bytes() + RETRY_AFTER_BYTES;
            return;
        }
        let passed = keys
            .into_iter()
            .filter(|key| Some(key) <= snapshot.cursor.as_ref());
        snapshot.left_out.extend(passed);
    }
}
