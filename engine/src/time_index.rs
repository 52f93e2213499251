//! Sparse indexes of one segment: where to begin to look for an offset or a time. They only save reading; each can be made
//! again from the segment's batch headers.
//!
//! An entry is made at most once per interval of segment bytes, so an index of a 1 GiB segment has 16,384 entries of 16
//! bytes. Both indexes of a segment take entries at the same batches.

use crate::ids::Offset;

/// Segment bytes from one entry to the next, by default.
pub const INDEX_INTERVAL_BYTES: u64 = 64 << 10;

/// Bytes of an encoded entry of either index.
pub const ENTRY_BYTES: usize = 16;

/// A batch and where it begins. Encoded: base offset (i64), position (u64), little endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub struct OffsetEntry {
    pub base_offset: Offset,
    /// Byte of the segment's file at which the batch begins.
    pub position: u64,
}

/// No record of the segment up to and including `last_offset` is newer than `max_timestamp_ms`. Encoded: max timestamp
/// (i64), last offset (i64), little endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub struct TimeEntry {
    pub max_timestamp_ms: i64,
    pub last_offset: Offset,
}

impl OffsetEntry {
    pub fn to_bytes(self) -> [u8; ENTRY_BYTES] {
        joined(self.base_offset.to_le_bytes(), self.position.to_le_bytes())
    }

    pub fn from_bytes(bytes: &[u8; ENTRY_BYTES]) -> Self {
        let (base_offset, position) = split(bytes);
        Self {
            base_offset: i64::from_le_bytes(base_offset),
            position: u64::from_le_bytes(position),
        }
    }
}

impl TimeEntry {
    pub fn to_bytes(self) -> [u8; ENTRY_BYTES] {
        joined(
            self.max_timestamp_ms.to_le_bytes(),
            self.last_offset.to_le_bytes(),
        )
    }

    pub fn from_bytes(bytes: &[u8; ENTRY_BYTES]) -> Self {
        let (max_timestamp_ms, last_offset) = split(bytes);
        Self {
            max_timestamp_ms: i64::from_le_bytes(max_timestamp_ms),
            last_offset: i64::from_le_bytes(last_offset),
        }
    }
}

fn joined(first: [u8; 8], second: [u8; 8]) -> [u8; ENTRY_BYTES] {
    let mut bytes = [0; ENTRY_BYTES];
    bytes[..8].copy_from_slice(&first);
    bytes[8..].copy_from_slice(&second);
    bytes
}

fn split(bytes: &[u8; ENTRY_BYTES]) -> ([u8; 8], [u8; 8]) {
    let (first, second) = bytes.split_at(8);
    let half = |half: &[u8]| half.try_into().expect("half of 16 bytes");
    (half(first), half(second))
}

/// Entries that are not an index of the segment: the first one out of order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("index entry {at} is out of order")]
pub struct IndexOrderError {
    pub at: usize,
}

/// From offset to position. The segment's own start (base offset at position 0) is known without an entry.
#[derive(Clone, Debug)]
pub struct OffsetIndex {
    start: OffsetEntry,
    interval_bytes: u64,
    entries: Vec<OffsetEntry>,
}

impl OffsetIndex {
    /// The index of an empty segment.
    pub fn new(segment_base: Offset, interval_bytes: u64) -> Self {
        let start = OffsetEntry {
            base_offset: segment_base,
            position: 0,
        };
        Self {
            start,
            interval_bytes,
            entries: Vec::new(),
        }
    }

    /// An index of entries read back; they must ascend strictly in offset and position, and lie behind the segment's start.
    pub fn restore(
        segment_base: Offset,
        interval_bytes: u64,
        entries: Vec<OffsetEntry>,
    ) -> Result<Self, IndexOrderError> {
        let index = Self::new(segment_base, interval_bytes);
        let mut last = index.start;
        for (at, entry) in entries.iter().enumerate() {
            if entry.base_offset <= last.base_offset || entry.position <= last.position {
                return Err(IndexOrderError { at });
            }
            last = *entry;
        }
        Ok(Self { entries, ..index })
    }

    /// To be told of every batch as it is appended. Returns the entry that was made of it, if it was time for one.
    #[inline]
    pub fn note(&mut self, base_offset: Offset, position: u64) -> Option<OffsetEntry> {
        let last = self.entries.last().unwrap_or(&self.start);
        if position < last.position.saturating_add(self.interval_bytes) || position == 0 {
            return None;
        }
        debug_assert!(base_offset > last.base_offset, "batches ascend");
        let entry = OffsetEntry {
            base_offset,
            position,
        };
        self.entries.push(entry);
        Some(entry)
    }

    /// The last known batch that begins at or before `offset`: reading from there on finds the batch of `offset`. The
    /// segment's start when there is no nearer one.
    pub fn lookup_offset(&self, offset: Offset) -> OffsetEntry {
        let above = self
            .entries
            .partition_point(|entry| entry.base_offset <= offset);
        above
            .checked_sub(1)
            .map_or(self.start, |at| self.entries[at])
    }

    /// The segment now ends at `position`: later batches are forgotten.
    pub fn truncate_to(&mut self, position: u64) {
        let keep = self
            .entries
            .partition_point(|entry| entry.position < position);
        self.entries.truncate(keep);
    }

    pub fn entries(&self) -> &[OffsetEntry] {
        &self.entries
    }
}

/// From time to offset.
#[derive(Clone, Debug)]
pub struct TimeIndex {
    segment_base: Offset,
    interval_bytes: u64,
    entries: Vec<TimeEntry>,
    /// Behind the batch of the last entry.
    last_entry_position: u64,
    /// Largest timestamp so far; `i64::MIN` before the first batch.
    max_timestamp_ms: i64,
}

impl TimeIndex {
    /// The index of an empty segment.
    pub fn new(segment_base: Offset, interval_bytes: u64) -> Self {
        Self {
            segment_base,
            interval_bytes,
            entries: Vec::new(),
            last_entry_position: 0,
            max_timestamp_ms: i64::MIN,
        }
    }

    /// An index of entries read back, of a segment of `segment_bytes` so far whose largest timestamp is `max_timestamp_ms`.
    /// Offsets must ascend strictly from the segment's base, times must not descend nor exceed the largest.
    pub fn restore(
        segment_base: Offset,
        interval_bytes: u64,
        entries: Vec<TimeEntry>,
        segment_bytes: u64,
        max_timestamp_ms: i64,
    ) -> Result<Self, IndexOrderError> {
        let mut last = TimeEntry {
            max_timestamp_ms: i64::MIN,
            last_offset: segment_base.saturating_sub(1),
        };
        for (at, entry) in entries.iter().enumerate() {
            let times_in_order =
                (last.max_timestamp_ms..=max_timestamp_ms).contains(&entry.max_timestamp_ms);
            if entry.last_offset <= last.last_offset || !times_in_order {
                return Err(IndexOrderError { at });
            }
            last = *entry;
        }
        Ok(Self {
            segment_base,
            interval_bytes,
            entries,
            last_entry_position: segment_bytes,
            max_timestamp_ms,
        })
    }

    /// To be told of every batch as it is appended: its last offset, its [latest
    /// timestamp](crate::batch::BatchHeader::latest_timestamp), and the position behind it. Returns the entry made, if it
    /// was time for one.
    #[inline]
    pub fn note(
        &mut self,
        last_offset: Offset,
        timestamp_ms: i64,
        end_position: u64,
    ) -> Option<TimeEntry> {
        self.max_timestamp_ms = self.max_timestamp_ms.max(timestamp_ms);
        if end_position < self.last_entry_position.saturating_add(self.interval_bytes) {
            return None;
        }
        let entry = TimeEntry {
            max_timestamp_ms: self.max_timestamp_ms,
            last_offset,
        };
        self.entries.push(entry);
        self.last_entry_position = end_position;
        Some(entry)
    }

    /// Largest timestamp of the segment so far, `None` while it is empty.
    pub fn max_timestamp_ms(&self) -> Option<i64> {
        (self.max_timestamp_ms != i64::MIN).then_some(self.max_timestamp_ms)
    }

    /// An offset before which no record has `timestamp_ms` or later: reading from there on finds the first one that has.
    pub fn lookup_time(&self, timestamp_ms: i64) -> Offset {
        let not_before = self
            .entries
            .partition_point(|entry| entry.max_timestamp_ms < timestamp_ms);
        match not_before.checked_sub(1) {
            Some(at) => self.entries[at].last_offset.saturating_add(1),
            None => self.segment_base,
        }
    }

    /// The segment now ends before `end_offset`, at `position`: later batches are forgotten. `max_timestamp_ms` is the
    /// largest timestamp of what is left, which only the batches themselves tell; `None` when nothing is left.
    pub fn truncate_to(
        &mut self,
        end_offset: Offset,
        position: u64,
        max_timestamp_ms: Option<i64>,
    ) {
        let keep = self
            .entries
            .partition_point(|entry| entry.last_offset < end_offset);
        self.entries.truncate(keep);
        self.last_entry_position = self.last_entry_position.min(position);
        self.max_timestamp_ms = max_timestamp_ms.unwrap_or(i64::MIN);
    }

    pub fn entries(&self) -> &[TimeEntry] {
        &self.entries
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn entries_are_little_endian() {
        let bytes: [u8; 16] = [1, 0, 0, 0, 0, 0, 0, 0x80, 2, 0, 0, 0, 0, 0, 0, 3];
        let offset = OffsetEntry {
            base_offset: i64::MIN + 1,
            position: 0x0300_0000_0000_0002,
        };
        assert_eq!(offset.to_bytes(), bytes);
        assert_eq!(OffsetEntry::from_bytes(&bytes), offset);
        let time = TimeEntry::from_bytes(&bytes);
        assert_eq!(
            (time.max_timestamp_ms, time.last_offset),
            (i64::MIN + 1, 0x0300_0000_0000_0002)
        );
        assert_eq!(time.to_bytes(), bytes);
    }

    #[test]
    fn disorder_is_refused() {
        let offset = |base_offset, position| OffsetEntry {
            base_offset,
            position,
        };
        let index = |entries| OffsetIndex::restore(100, 10, entries).map(|_| ());
        assert_eq!(index(vec![offset(101, 5), offset(102, 6)]), Ok(()));
        assert_eq!(index(vec![offset(100, 5)]), Err(IndexOrderError { at: 0 }));
        assert_eq!(index(vec![offset(101, 0)]), Err(IndexOrderError { at: 0 }));
        assert_eq!(
            index(vec![offset(101, 5), offset(101, 6)]),
            Err(IndexOrderError { at: 1 })
        );
        let time = |max_timestamp_ms, last_offset| TimeEntry {
            max_timestamp_ms,
            last_offset,
        };
        let index = |entries| TimeIndex::restore(100, 10, entries, 50, 9).map(|_| ());
        assert_eq!(
            index(vec![time(5, 100), time(5, 101), time(9, 102)]),
            Ok(())
        );
        assert_eq!(index(vec![time(5, 99)]), Err(IndexOrderError { at: 0 }));
        assert_eq!(
            index(vec![time(5, 100), time(4, 101)]),
            Err(IndexOrderError { at: 1 })
        );
        assert_eq!(index(vec![time(10, 100)]), Err(IndexOrderError { at: 0 }));
    }

    #[derive(Clone, Debug)]
    struct Batch {
        base: Offset,
        last: Offset,
        position: u64,
        end: u64,
        time: i64,
    }

    fn log(base: Offset, shape: &[(i64, u64, i64)]) -> Vec<Batch> {
        let (mut offset, mut position) = (base, 0);
        let mut batches = Vec::new();
        for &(records, bytes, time) in shape {
            let (last, end) = (offset + records - 1, position + bytes);
            batches.push(Batch {
                base: offset,
                last,
                position,
                end,
                time,
            });
            (offset, position) = (last + 1, end);
        }
        batches
    }

    fn check(
        batches: &[Batch],
        base: Offset,
        interval: u64,
        offsets: &OffsetIndex,
        times: &TimeIndex,
    ) {
        let bytes = batches.last().map_or(0, |batch| batch.end);
        assert!(offsets.entries().len() as u64 <= bytes / interval);
        assert!(times.entries().len() as u64 <= bytes / interval);
        for batch in batches {
            for offset in [batch.base, batch.last] {
                let found = offsets.lookup_offset(offset);
                assert!(found.base_offset <= offset);
                assert!(
                    batches
                        .iter()
                        .any(|b| (b.base, b.position) == (found.base_offset, found.position))
                );
                // A lookup never leaves more to read than the interval and one batch.
                assert!(
                    batch.position - found.position
                        < interval + (batch.end - batch.position).max(interval)
                );
            }
        }
        for time in -3..25 {
            let from = times.lookup_time(time);
            let first = batches.iter().find(|batch| batch.time >= time);
            assert!(
                from >= base && first.is_none_or(|batch| from <= batch.base),
                "time {time} from {from}"
            );
        }
    }

    proptest! {
        #[test]
        fn lookups_and_truncation(
            shape in prop::collection::vec((1i64..5, 61u64..200, -1i64..20), 0..60),
            interval in 1u64..1000, base in 0i64..1000, cut: prop::sample::Index,
        ) {
            let mut batches = log(base, &shape);
            let mut offsets = OffsetIndex::new(base, interval);
            let mut times = TimeIndex::new(base, interval);
            for batch in &batches {
                offsets.note(batch.base, batch.position);
                times.note(batch.last, batch.time, batch.end);
            }
            check(&batches, base, interval, &offsets, &times);

            let restored = OffsetIndex::restore(base, interval, offsets.entries().to_vec());
            prop_assert!(restored.is_ok());
            let max = times.max_timestamp_ms().unwrap_or(i64::MIN);
            prop_assert_eq!(max, batches.iter().map(|batch| batch.time).max().unwrap_or(i64::MIN));
            let restored = TimeIndex::restore(base, interval, times.entries().to_vec(), 0, max);
            prop_assert!(restored.is_ok());

            let all = batches.clone();
            let keep = cut.index(batches.len() + 1);
            batches.truncate(keep);
            let (end_offset, position) = batches.last().map_or((base, 0), |batch| (batch.last + 1, batch.end));
            offsets.truncate_to(position);
            times.truncate_to(end_offset, position, batches.iter().map(|batch| batch.time).max());
            check(&batches, base, interval, &offsets, &times);
            // And on from there.
            for batch in &all[keep..] {
                offsets.note(batch.base, batch.position);
                times.note(batch.last, batch.time, batch.end);
            }
            check(&all, base, interval, &offsets, &times);
        }
    }
}
