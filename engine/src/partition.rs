//! A partition in memory: its segments, its tail, who waits for it, and what is known of its producers and epochs.
//!
//! Invariants:
//! - log start ≤ durable ≤ next offset. `durable` is the high watermark of a single node; what lies above it has offsets
//!   but is shown to nobody.
//! - Appends become durable in the order of their offsets: a partition is in at most one group or direct run at a time, and
//!   whoever waits for an offset is answered when everything before it is durable.
//! - Every byte that is not flushed lies in the tail and, once logged, in a log file that a span names.
//! - An empty partition has no segment, no chunk, no file: some hundred bytes.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

use smallvec::SmallVec;

use crate::ack::{Ticket, Wait};
use crate::api::PartitionConfig;
use crate::epochs::LeaderEpochs;
use crate::ids::{Offset, PartitionId};
use crate::producer::Producers;
use crate::segment::Segment;
use crate::tail::Tail;

/// A run of batches of one append, from its assignment until it is in a group.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Piece {
    pub segment: Offset,
    pub base_offset: Offset,
    pub last_offset: Offset,
    pub bytes: u32,
    pub batches: u32,
    pub records: u32,
}

/// Unflushed bytes that stand in one file of the log.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    /// Which use of a log file, counted over all files.
    pub ordinal: u64,
    /// The first group of that use which concerns the partition.
    pub sequence: u64,
    /// Where the last of its bytes end.
    pub segment: Offset,
    pub end: u64,
}

/// Whether the committer may take a partition's pieces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Nothing pending, or in the group that is being written.
    Idle,
    /// In the committer's queue.
    Queued,
    /// A direct run is under way, or something must be loaded or prepared before more can be logged.
    Parked,
}

pub(crate) struct Partition {
    pub id: PartitionId,
    pub state: RefCell<PartitionInner>,
    /// Set once it is deleted: whoever still holds it must leave it alone.
    pub gone: Cell<bool>,
}

pub(crate) struct PartitionInner {
    pub config: Rc<PartitionConfig>,
    pub created_epoch: u32,
    pub log_start: Offset,
    pub durable: Offset,
    pub next_offset: Offset,
    /// Ascending. The last one is appended to unless it is rolled.
    pub segments: Vec<Segment>,
    pub tail: Tail,
    pub pending: VecDeque<Piece>,
    pub pending_bytes: u64,
    pub phase: Phase,
    /// Answers due when an offset is durable, by offset.
    pub tickets: VecDeque<Ticket>,
    pub waits: SmallVec<[Rc<Wait>; 1]>,
    pub spans: SmallVec<[Span; 2]>,
    pub producers: Producers,
    pub epochs: LeaderEpochs,
    pub deleting: bool,
    /// Its last block cannot be loaded at the moment.
    pub refuses_appends: bool,
    /// Its directory exists.
    pub has_directory: bool,
    /// Segments below the log start are being removed.
    pub removing: bool,
}

impl Partition {
    pub fn new(
        id: PartitionId,
        config: Rc<PartitionConfig>,
        created_epoch: u32,
        start: Offset,
    ) -> Self {
        Self {
            id,
            gone: Cell::new(false),
            state: RefCell::new(PartitionInner {
                config,
                created_epoch,
                log_start: start,
                durable: start,
                next_offset: start,
                segments: Vec::new(),
                tail: Tail::default(),
                pending: VecDeque::new(),
                pending_bytes: 0,
                phase: Phase::Idle,
                tickets: VecDeque::new(),
                waits: SmallVec::new(),
                spans: SmallVec::new(),
                producers: Producers::new(),
                epochs: LeaderEpochs::new(),
                deleting: false,
                refuses_appends: false,
                has_directory: false,
                removing: false,
            }),
        }
    }
}

impl PartitionInner {
    /// The first segment that ends behind `offset`: the one that holds it, or, where offsets are missing, the next one.
    pub fn segment_reaching(&self, offset: Offset) -> Option<&Segment> {
        let before = self
            .segments
            .partition_point(|segment| segment.end <= offset);
        self.segments.get(before)
    }

    pub fn segment(&self, base: Offset) -> Option<&Segment> {
        let index = self
            .segments
            .binary_search_by_key(&base, |segment| segment.base)
            .ok()?;
        Some(&self.segments[index])
    }

    pub fn segment_mut(&mut self, base: Offset) -> Option<&mut Segment> {
        let index = self
            .segments
            .binary_search_by_key(&base, |segment| segment.base)
            .ok()?;
        Some(&mut self.segments[index])
    }

    /// Durable bytes that are not in their segments.
    pub fn unflushed(&self) -> u64 {
        self.segments.iter().map(Segment::unflushed).sum()
    }

    /// Bytes readable behind `offset`, at most as far as memory tells without a look into a file: approximate by an index
    /// interval within, exact at, the ends of what is known.
    pub fn readable_bytes(&self, offset: Offset) -> u64 {
        if offset >= self.durable {
            return 0;
        }
        let first = self
            .segments
            .partition_point(|segment| segment.end <= offset);
        if first == self.segments.len() {
            return 0;
        }
        let later: u64 = self.segments[first + 1..]
            .iter()
            .map(|segment| segment.durable)
            .sum();
        let segment = &self.segments[first];
        let position = match self.tail.floor(offset) {
            Some((base, position, _)) if base == segment.base => position,
            // Not in memory, so it is old and there is plenty behind it.
            _ => segment.flushed.min(segment.durable) / 2,
        };
        later + segment.durable.saturating_sub(position)
    }

    /// Drops the spans whose bytes are all flushed, or not needed.
    pub fn settle_spans(&mut self) {
        let segments = &self.segments;
        let is_needed = |segment: &Segment| !segment.dead && segment.flushed < segment.length;
        self.spans.retain(|span| {
            let behind = segments.partition_point(|segment| segment.base < span.segment);
            // A segment that is gone needs nothing; one that is there must hold the span's end, and so must all before it.
            segments[..behind].iter().any(is_needed)
                || segments.get(behind).is_some_and(|segment| {
                    segment.base == span.segment && !segment.dead && segment.flushed < span.end
                })
        });
    }

    /// Drops the chunk of `segment` that begins at `start`, which is flushed, and the flushed ones before it. Returns their
    /// memory.
    pub fn evict(&mut self, segment: Offset, start: u64) -> u64 {
        let mut freed = 0;
        while let Some(front) = self.tail.front()
            && (front.segment, front.start) <= (segment, start)
        {
            // A direct run may be flushed while segments before its own are not.
            let (end, of) = (front.end(), self.segment(front.segment));
            if of.is_some_and(|of| !of.dead && end > of.flushed) {
                return freed + self.tail.drop_before(segment, start + 1);
            }
            freed += self.tail.pop_front();
        }
        freed
    }

    /// Lets go of what lies below the log start: a last segment is rolled if all of it does, the rolled ones are dead, and
    /// memory and log hold nothing for them any more. Returns the unflushed bytes and the memory that were theirs.
    ///
    /// A checkpoint must follow this before it is taken: a restart takes a last segment that lies below the log start of
    /// its checkpoint for a dead one.
    pub fn bury(&mut self) -> Buried {
        if self.deleting {
            return Buried::default();
        }
        let log_start = self.log_start;
        if let Some(last) = self.segments.last_mut()
            && last.end > last.base
            && last.end <= log_start
        {
            last.rolled = true;
        }
        let mut buried = Buried::default();
        let newly_dead =
            |segment: &&mut Segment| segment.rolled && segment.end <= log_start && !segment.dead;
        let mut any = false;
        for segment in self.segments.iter_mut().filter(newly_dead) {
            buried.unflushed += segment.unflushed();
            segment.dead = true;
            any = true;
        }
        if any {
            while let Some(front) = self.tail.front().map(|chunk| chunk.segment)
                && self.segment(front).is_none_or(|segment| segment.dead)
            {
                buried.memory += self.tail.pop_front();
            }
            self.settle_spans();
        }
        buried
    }
}

/// What [`PartitionInner::bury`] let go of, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Buried {
    pub unflushed: u64,
    pub memory: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::TopicId;

    /// Segments of 10 records and 64 KiB each, all in memory, none flushed, all but the last one rolled.
    fn partition(segments: i64) -> Partition {
        let id = PartitionId {
            topic: TopicId([1; 16]),
            index: 0,
        };
        let partition = Partition::new(id, Rc::default(), 0, 0);
        {
            let mut inner = partition.state.borrow_mut();
            for base in (0..segments).map(|index| index * 10) {
                let mut segment = Segment::new(base, 0);
                segment.end = base + 10;
                segment.length = 64 << 10;
                segment.logged = segment.length;
                segment.durable = segment.length;
                segment.rolled = base + 10 < segments * 10;
                inner.segments.push(segment);
                inner.tail.append(base, 0, &[1; 64 << 10], 1 << 20);
                inner.spans.push(Span {
                    ordinal: base as u64,
                    sequence: base as u64,
                    segment: base,
                    end: 64 << 10,
                });
            }
            inner.next_offset = segments * 10;
            inner.durable = inner.next_offset;
        }
        partition
    }

    #[test]
    fn eviction_leaves_what_is_not_flushed() {
        let partition = partition(3);
        let mut inner = partition.state.borrow_mut();
        // As a direct run does it.
        inner.segments[1].flushed = 64 << 10;
        assert!(inner.evict(10, 0) > 0);
        assert!(inner.tail.holds(0, 0) && !inner.tail.holds(10, 0) && inner.tail.holds(20, 0));
        assert_eq!(inner.evict(10, 0), 0);
        inner.segments[0].flushed = 64 << 10;
        assert!(inner.evict(0, 0) > 0);
        assert!(!inner.tail.holds(0, 0) && inner.tail.holds(20, 0));
    }

    #[test]
    fn what_lies_below_the_log_start_is_let_go_of() {
        let partition = partition(3);
        let mut inner = partition.state.borrow_mut();
        inner.log_start = 15;
        let buried = inner.bury();
        assert_eq!(buried.unflushed, 64 << 10);
        assert_eq!(inner.unflushed(), 128 << 10);
        assert!(!inner.tail.holds(0, 0) && inner.tail.holds(10, 0));
        assert_eq!(inner.spans.first().map(|span| span.segment), Some(10));
        assert_eq!(inner.bury().unflushed, 0);
        // A last segment that lies below it altogether is rolled, so that nothing is appended to it any more.
        inner.log_start = 30;
        assert_eq!(inner.bury().unflushed, 128 << 10);
        assert!(inner.segments[2].dead && inner.spans.is_empty());
        assert_eq!(inner.tail.capacity(), 0);
    }
}
