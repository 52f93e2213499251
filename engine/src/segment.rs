//! A segment as the live engine knows it: how far it is appended, durable and flushed, and what of its sidecars is not in
//! their files yet.
//!
//! Invariants: flushed ≤ durable ≤ logged ≤ length, except that a segment found flushed at a start counts as logged and
//! durable. `flushed` is a multiple of `SUM_BLOCK` unless the segment is sealed or was cleanly shut and not touched since.
//! Only the last segment of a partition grows.

use std::rc::Rc;

use crate::api::Lease;
use crate::ids::Offset;
use crate::layout::SUM_BLOCK;
use crate::layout::checkpoint::SegmentState;
use crate::layout::sidecar::{IndexEntry, SidecarEntry, SumEntry, TimeIndexEntry};
use crate::read_view::SegmentView;

/// The entries of a sidecar file: so many are in the file, the others only here (and in the checkpoint).
#[derive(Clone, Debug)]
pub(crate) struct Sidecar<E> {
    pub in_file: u32,
    pub pending: Vec<E>,
}

impl<E> Default for Sidecar<E> {
    fn default() -> Self {
        Self {
            in_file: 0,
            pending: Vec::new(),
        }
    }
}

impl<E: SidecarEntry> Sidecar<E> {
    /// Entries that fill whole blocks, to be written behind what is in the file. `in_file` is then a multiple of a block.
    pub fn full_blocks(&self) -> usize {
        self.pending.len() / E::PER_BLOCK * E::PER_BLOCK
    }

    /// The first `count` pending entries are in the file now.
    pub fn moved(&mut self, count: usize) {
        self.in_file += count as u32;
        self.pending.drain(..count);
    }
}

pub(crate) struct Segment {
    pub base: Offset,
    /// Behind its last record.
    pub end: Offset,
    pub length: u64,
    /// Bytes handed to the commit log.
    pub logged: u64,
    pub durable: u64,
    pub flushed: u64,
    /// Bytes for which the file has space. 0: no file yet.
    pub allocated: u64,
    /// The name of its file is durable; until then nothing may go there that is not in the log too.
    pub named: bool,
    /// No more appends.
    pub rolled: bool,
    /// Its files are complete and have their exact lengths.
    pub sealed: bool,
    /// It was rolled and lies below the log start: nothing of it is needed any more, not even by a recovery. Its memory is
    /// given back and its files wait for their removal.
    pub dead: bool,
    /// Somebody is writing to its file, or its head is being loaded.
    pub busy: bool,
    /// Somebody is creating or allocating its file.
    pub placing: bool,
    /// Space for direct runs is being made.
    pub preparing: bool,
    /// Cleanly shut with a partial last block, which must be in memory before the next append can be logged.
    pub head_on_disk: bool,
    pub created_ms: i64,
    pub first_timestamp: i64,
    pub max_timestamp: i64,
    pub max_timestamp_offset: Offset,
    pub sums: Sidecar<SumEntry>,
    pub index: Sidecar<IndexEntry>,
    pub time_index: Sidecar<TimeIndexEntry>,
    /// Position of the newest index entry; `None` before the first.
    pub last_indexed: Option<u64>,
    pub lease: Lease,
    pub view: Option<Rc<SegmentView>>,
}

impl Segment {
    pub fn new(base: Offset, created_ms: i64) -> Self {
        Self {
            base,
            end: base,
            length: 0,
            logged: 0,
            durable: 0,
            flushed: 0,
            allocated: 0,
            named: false,
            rolled: false,
            sealed: false,
            dead: false,
            busy: false,
            placing: false,
            preparing: false,
            head_on_disk: false,
            created_ms,
            first_timestamp: -1,
            max_timestamp: -1,
            max_timestamp_offset: -1,
            sums: Sidecar::default(),
            index: Sidecar::default(),
            time_index: Sidecar::default(),
            last_indexed: None,
            lease: Lease::default(),
            view: None,
        }
    }

    /// Notes a batch that begins at `position`.
    pub fn note_batch(&mut self, position: u64, batch: &BatchNote, index_interval: u64) {
        self.end = batch.last_offset + 1;
        if self.first_timestamp < 0 {
            self.first_timestamp = batch.max_timestamp;
        }
        if batch.max_timestamp > self.max_timestamp {
            self.max_timestamp = batch.max_timestamp;
            self.max_timestamp_offset = batch.last_offset;
        }
        let due = self
            .last_indexed
            .is_none_or(|last| position >= last + index_interval);
        if due {
            self.index.pending.push(IndexEntry {
                offset: batch.base_offset,
                position,
            });
            self.time_index.pending.push(TimeIndexEntry {
                max_timestamp: self.max_timestamp,
                offset: batch.base_offset,
            });
            self.last_indexed = Some(position);
        }
    }

    /// How far whole blocks (of a rolled segment: everything) may be flushed now.
    pub fn flushable_end(&self) -> u64 {
        if self.rolled && self.durable == self.length {
            self.durable
        } else {
            self.durable - self.durable % SUM_BLOCK as u64
        }
    }

    /// Whether all of it is in its file, and complete if it was rolled.
    pub fn is_settled(&self) -> bool {
        self.head_on_disk || self.sealed || (!self.rolled && self.flushed == self.length)
    }

    /// Durable bytes that are not in its file, and shall be.
    pub fn unflushed(&self) -> u64 {
        match self.dead {
            true => 0,
            false => self.durable.saturating_sub(self.flushed),
        }
    }

    /// Whether whole blocks of it may be flushed now, in a partition that begins at `log_start`.
    pub fn is_flushable(&self, log_start: Offset) -> bool {
        !self.sealed
            && !self.dead
            && !self.head_on_disk
            && self.end > log_start
            && self.flushed < self.flushable_end()
    }

    /// The state that a checkpoint holds of it.
    pub fn state(&self) -> SegmentState {
        SegmentState {
            base_offset: self.base,
            end_offset: self.end,
            flushed_bytes: self.flushed,
            length_bytes: self.length,
            sealed: self.sealed,
            max_timestamp: self.max_timestamp,
            max_timestamp_offset: self.max_timestamp_offset,
            first_timestamp: self.first_timestamp,
            created_ms: self.created_ms,
            sums_in_file: self.sums.in_file,
            pending_sums: self.sums.pending.iter().map(|sum| sum.0).collect(),
            index_in_file: self.index.in_file,
            pending_index: self.index.pending.clone(),
            time_index_in_file: self.time_index.in_file,
            pending_time_index: self.time_index.pending.clone(),
        }
    }

    /// A segment as a checkpoint knows it: `durable` and `length` are what is in its file; replay brings the rest.
    pub fn from_state(state: &SegmentState) -> Self {
        let partial = !state.sealed && !state.flushed_bytes.is_multiple_of(SUM_BLOCK as u64);
        Self {
            end: state.end_offset,
            length: state.flushed_bytes,
            logged: state.flushed_bytes,
            durable: state.flushed_bytes,
            flushed: state.flushed_bytes,
            allocated: state.flushed_bytes,
            named: state.flushed_bytes > 0,
            rolled: state.sealed,
            sealed: state.sealed,
            head_on_disk: partial,
            first_timestamp: state.first_timestamp,
            max_timestamp: state.max_timestamp,
            max_timestamp_offset: state.max_timestamp_offset,
            sums: Sidecar {
                in_file: state.sums_in_file,
                pending: state
                    .pending_sums
                    .iter()
                    .map(|sum| SumEntry(*sum))
                    .collect(),
            },
            index: Sidecar {
                in_file: state.index_in_file,
                pending: state.pending_index.clone(),
            },
            time_index: Sidecar {
                in_file: state.time_index_in_file,
                pending: state.pending_time_index.clone(),
            },
            last_indexed: match state.pending_index.last() {
                Some(entry) => Some(entry.position),
                // The last entry is in the file; the next one is due after an interval from here at the latest.
                None => (state.index_in_file > 0).then_some(state.flushed_bytes),
            },
            ..Self::new(state.base_offset, state.created_ms)
        }
    }
}

/// What a segment's indexes take from a batch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BatchNote {
    pub base_offset: Offset,
    pub last_offset: Offset,
    pub max_timestamp: i64,
}
