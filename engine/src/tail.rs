//! The newest bytes of a partition, in memory.
//!
//! Invariants:
//! - A chunk holds bytes of one segment from a position that is a multiple of `BLOCK`, so that flushes and direct runs
//!   write straight out of it. Chunks are in order; within a segment each begins where the one before it ends (its
//!   capacity, not its length: only the last chunk of a segment is not full).
//! - Published bytes never change; a reader's `Shared` keeps its chunk's memory.
//! - What is not in its segment's file yet is always here; what is flushed may be evicted, of each segment from the front.

use std::collections::VecDeque;

use smallvec::SmallVec;
use trireme_runtime::{Chunk, Shared};

use crate::ids::Offset;
use crate::layout::{BLOCK, SUM_BLOCK};

/// First chunk of a small partition.
pub(crate) const CHUNK_BYTES_MIN: usize = BLOCK;
/// Bytes between two entries of a chunk's own index.
const MARK_INTERVAL_BYTES: usize = 16 * 1024;

pub(crate) type Pieces = SmallVec<[Shared; 2]>;

pub(crate) struct TailChunk {
    /// Base offset of the segment.
    pub segment: Offset,
    /// Position of the chunk's first byte in the segment.
    pub start: u64,
    /// What it holds before this position is not known: a partial block that lies in the segment's file only.
    known_from: u64,
    chunk: Chunk,
    /// Some batches that begin here: base offset and position, the first one always.
    marks: Vec<(Offset, u64)>,
}

impl TailChunk {
    /// Position behind its last byte.
    pub fn end(&self) -> u64 {
        self.start + self.chunk.len() as u64
    }

    pub fn capacity(&self) -> usize {
        self.chunk.capacity()
    }

    pub fn is_full(&self) -> bool {
        self.chunk.remaining() == 0
    }
}

#[derive(Default)]
pub(crate) struct Tail {
    chunks: VecDeque<TailChunk>,
}

impl Tail {
    /// Memory of all chunks.
    pub fn capacity(&self) -> u64 {
        self.chunks
            .iter()
            .map(|chunk| chunk.capacity() as u64)
            .sum()
    }

    pub fn front(&self) -> Option<&TailChunk> {
        self.chunks.front()
    }

    pub fn chunk_count(&self) -> usize {
        self.chunks.len()
    }

    /// Drops the oldest chunk; its memory.
    pub fn pop_front(&mut self) -> u64 {
        self.chunks
            .pop_front()
            .map_or(0, |chunk| chunk.capacity() as u64)
    }

    pub fn clear(&mut self) -> u64 {
        let capacity = self.capacity();
        self.chunks.clear();
        capacity
    }

    /// Appends bytes of `segment` at `position`, which is its end in memory (or anywhere, where it has no bytes here yet).
    /// Returns the memory that was taken for it.
    pub fn append(
        &mut self,
        segment: Offset,
        position: u64,
        mut bytes: &[u8],
        chunk_max: usize,
    ) -> u64 {
        let mut taken = 0;
        let mut position = position;
        while !bytes.is_empty() {
            taken += self.make_room(segment, position, bytes.len(), chunk_max);
            let last = self.chunks.back_mut().expect("room was made");
            debug_assert_eq!((last.segment, last.end()), (segment, position));
            let appended = last.chunk.append(bytes);
            bytes = &bytes[appended..];
            position += appended as u64;
        }
        taken
    }

    /// Notes that a batch begins at `position`, which was just appended.
    pub fn mark(&mut self, segment: Offset, position: u64, base_offset: Offset) {
        let Some(index) = self.chunk_at(segment, position) else {
            return;
        };
        let marks = &mut self.chunks[index].marks;
        match marks.last() {
            Some(last) if last.1 + MARK_INTERVAL_BYTES as u64 > position => {}
            _ => marks.push((base_offset, position)),
        }
    }

    /// Puts the bytes before `start + bytes.len()` into the first chunk of `segment`, which was begun behind them without
    /// knowing them. Returns the memory that was taken.
    pub fn put_head(&mut self, segment: Offset, start: u64, bytes: &[u8], chunk_max: usize) -> u64 {
        let first = self
            .chunks
            .iter()
            .position(|chunk| chunk.segment == segment);
        let Some(first) = first else {
            return self.append(segment, start, bytes, chunk_max);
        };
        let old = &mut self.chunks[first];
        debug_assert!(old.start == start && old.end() >= start + bytes.len() as u64);
        let mut chunk = Chunk::with_capacity(old.capacity());
        chunk.append(bytes);
        chunk.append(&old.chunk.as_slice()[bytes.len()..]);
        (old.chunk, old.known_from) = (chunk, start);
        0
    }

    fn make_room(&mut self, segment: Offset, position: u64, len: usize, chunk_max: usize) -> u64 {
        let mut capacity = CHUNK_BYTES_MIN;
        let mut start = position - position % SUM_BLOCK as u64;
        if let Some(last) = self.chunks.back()
            && last.segment == segment
            && last.end() == position
        {
            if last.chunk.remaining() > 0 {
                return 0;
            }
            start = position;
            // As much again as the segment has here: chunk ends stay at powers of two, and small partitions small.
            capacity = (position as usize).next_power_of_two();
        }
        let prefix = (position - start) as usize;
        let wanted = (prefix + len).next_multiple_of(BLOCK);
        let capacity = capacity
            .max(wanted.next_power_of_two())
            .clamp(CHUNK_BYTES_MIN, chunk_max.max(prefix + BLOCK));
        // Large chunks begin and end at multiples of their size, so that flushes find whole blocks in one piece.
        let capacity = match start % SUM_BLOCK as u64 {
            0 => capacity,
            odd => capacity.min(SUM_BLOCK - odd as usize),
        };
        let mut chunk = Chunk::with_capacity(capacity);
        chunk.pad_zero_to(prefix);
        let taken = chunk.capacity() as u64;
        self.chunks.push_back(TailChunk {
            segment,
            start,
            known_from: position,
            chunk,
            marks: Vec::new(),
        });
        taken
    }

    /// Drops the chunks of `segment` that begin before `position`, which is a chunk's beginning; memory that was freed.
    pub fn drop_before(&mut self, segment: Offset, position: u64) -> u64 {
        let before = self.capacity();
        self.chunks
            .retain(|chunk| chunk.segment != segment || chunk.start >= position);
        before - self.capacity()
    }

    /// The starts of those chunks of `segment` that end within `from..=to` and will not grow: the full ones, and with
    /// `is_end` the last one too.
    pub fn ending_in(
        &self,
        segment: Offset,
        from: u64,
        to: u64,
        is_end: bool,
    ) -> SmallVec<[u64; 4]> {
        let behind = self
            .chunks
            .partition_point(|chunk| (chunk.segment, chunk.end()) <= (segment, from));
        self.chunks
            .range(behind..)
            .take_while(|chunk| chunk.segment == segment && chunk.end() <= to)
            .filter(|chunk| chunk.is_full() || is_end)
            .map(|chunk| chunk.start)
            .collect()
    }

    fn chunk_at(&self, segment: Offset, position: u64) -> Option<usize> {
        let behind = self
            .chunks
            .partition_point(|chunk| (chunk.segment, chunk.start) <= (segment, position));
        let index = behind.checked_sub(1)?;
        let chunk = &self.chunks[index];
        let holds = chunk.segment == segment && (chunk.known_from..chunk.end()).contains(&position);
        holds.then_some(index)
    }

    /// Whether memory holds `position` of `segment` and all that follows it there.
    pub fn holds(&self, segment: Offset, position: u64) -> bool {
        self.chunk_at(segment, position).is_some()
    }

    /// The bytes `from..to` of `segment`. All of them must be here.
    pub fn pieces(&self, segment: Offset, from: u64, to: u64) -> Pieces {
        let mut pieces = Pieces::new();
        let mut at = from;
        if from >= to {
            return pieces;
        }
        let mut index = self.chunk_at(segment, from).expect("bytes are in the tail");
        while at < to {
            let chunk = &self.chunks[index];
            assert!(
                chunk.segment == segment && chunk.start <= at && at < chunk.end(),
                "bytes are in the tail"
            );
            let end = to.min(chunk.end());
            pieces.push(
                chunk
                    .chunk
                    .share((at - chunk.start) as usize..(end - chunk.start) as usize),
            );
            at = end;
            index += 1;
        }
        pieces
    }

    /// Copies `out.len()` bytes from `position` on; `false` if they are not all here.
    pub fn copy_to(&self, segment: Offset, position: u64, out: &mut [u8]) -> bool {
        let Some(mut index) = self.chunk_at(segment, position) else {
            return false;
        };
        let (mut at, mut done) = (position, 0);
        while done < out.len() {
            let Some(chunk) = self
                .chunks
                .get(index)
                .filter(|chunk| chunk.segment == segment && chunk.start <= at)
            else {
                return false;
            };
            let bytes = &chunk.chunk.as_slice()[(at - chunk.start) as usize..];
            if bytes.is_empty() {
                return false;
            }
            let len = bytes.len().min(out.len() - done);
            out[done..done + len].copy_from_slice(&bytes[..len]);
            done += len;
            at += len as u64;
            index += 1;
        }
        true
    }

    /// Where a walk over the batches may begin to find `offset`: a batch at or before it. `None` if memory begins behind it.
    pub fn floor(&self, offset: Offset) -> Option<(Offset, u64, Offset)> {
        let behind = self.chunks.partition_point(|chunk| {
            chunk.marks.first().map_or(chunk.segment, |mark| mark.0) <= offset
        });
        self.chunks.range(..behind).rev().find_map(|chunk| {
            let index = chunk
                .marks
                .partition_point(|mark| mark.0 <= offset)
                .checked_sub(1)?;
            let (base, position) = chunk.marks[index];
            Some((chunk.segment, position, base))
        })
    }

    /// The last known batch start of `segment` at or before `position`.
    pub fn floor_position(&self, segment: Offset, position: u64) -> Option<u64> {
        let behind = self
            .chunks
            .partition_point(|chunk| (chunk.segment, chunk.start) <= (segment, position));
        self.chunks
            .range(..behind)
            .rev()
            .take_while(|chunk| chunk.segment == segment)
            .find_map(|chunk| {
                let index = chunk
                    .marks
                    .partition_point(|mark| mark.1 <= position)
                    .checked_sub(1)?;
                Some(chunk.marks[index].1)
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(len: usize, seed: usize) -> Vec<u8> {
        (0..len).map(|at| (at * 31 + seed) as u8).collect()
    }

    fn collect(tail: &Tail, segment: Offset, from: u64, to: u64) -> Vec<u8> {
        tail.pieces(segment, from, to)
            .iter()
            .flat_map(|piece| piece.to_vec())
            .collect()
    }

    #[test]
    fn holds_what_was_appended_over_many_chunks() {
        let mut tail = Tail::default();
        let all = bytes(700_000, 7);
        let (mut at, mut taken) = (0, 0);
        for step in [61, 4000, 35, 70_000, 1, 300_000, 325_903] {
            tail.mark(0, at as u64, at as i64);
            taken += tail.append(0, at as u64, &all[at..at + step], 256 * 1024);
            tail.mark(0, at as u64, at as i64);
            at += step;
        }
        assert_eq!(at, all.len());
        assert_eq!(taken, tail.capacity());
        assert_eq!(collect(&tail, 0, 0, at as u64), all);
        assert_eq!(collect(&tail, 0, 12_345, 456_789), &all[12_345..456_789]);
        let mut copy = vec![0; 100_000];
        assert!(tail.copy_to(0, 50_000, &mut copy));
        assert_eq!(copy, &all[50_000..150_000]);
        assert!(!tail.copy_to(0, 650_000, &mut copy));
        for chunk in &tail.chunks {
            assert_eq!(chunk.start % BLOCK as u64, 0);
            assert!(chunk.capacity() < SUM_BLOCK || chunk.start % SUM_BLOCK as u64 == 0);
        }
    }

    #[test]
    fn begins_within_a_block_and_rolls() {
        let mut tail = Tail::default();
        tail.append(5, 20_000, &bytes(10, 1), 1 << 20);
        assert_eq!(tail.front().map(|chunk| chunk.start), Some(16_384));
        assert_eq!(collect(&tail, 5, 20_000, 20_010), bytes(10, 1));
        tail.append(90, 0, &bytes(5000, 2), 1 << 20);
        assert_eq!(collect(&tail, 90, 0, 5000), bytes(5000, 2));
        assert!(tail.holds(5, 20_009) && !tail.holds(5, 20_010) && tail.holds(90, 4999));
    }

    #[test]
    fn floors_find_the_batch_at_or_before() {
        let mut tail = Tail::default();
        for batch in 0..100u64 {
            tail.append(0, batch * 1000, &bytes(1000, batch as usize), 1 << 16);
            tail.mark(0, batch * 1000, batch as i64 * 10);
        }
        for offset in 0..1000 {
            let (segment, position, base) = tail.floor(offset).expect("all is in memory");
            assert!(segment == 0 && base <= offset && position == base as u64 * 100);
            assert!(offset - base < 10 * 40, "too far: {base} for {offset}");
        }
        assert_eq!(tail.floor_position(0, 99_999).map(|at| at % 1000), Some(0));
    }
}
