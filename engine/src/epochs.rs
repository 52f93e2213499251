//! The leader epochs of one partition: which epoch began at which offset. It answers Kafka's OffsetForLeaderEpoch, by which
//! consumers and followers find out where their view of the log parted from the leader's.
//!
//! Entries ascend strictly in both epoch and start offset. Pure state: the caller makes it durable.

use crate::ids::Offset;

/// "No such epoch", and its end offset.
pub const UNDEFINED_EPOCH: i32 = -1;
pub const UNDEFINED_OFFSET: Offset = -1;

/// From `start_offset` on, batches were appended by the leader of `epoch`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub struct EpochEntry {
    pub epoch: i32,
    pub start_offset: Offset,
}

/// The answer to "where does this epoch end?".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochEnd {
    /// The largest known epoch that is not larger than the one asked for, or [`UNDEFINED_EPOCH`].
    pub epoch: i32,
    /// Offset behind its last record, or [`UNDEFINED_OFFSET`].
    pub end_offset: Offset,
}

impl EpochEnd {
    pub const UNDEFINED: Self = Self {
        epoch: UNDEFINED_EPOCH,
        end_offset: UNDEFINED_OFFSET,
    };
}

/// Entries that are no epoch table: negative, or not strictly ascending.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("epoch {epoch} at offset {start_offset} is out of order")]
pub struct EpochOrderError {
    pub epoch: i32,
    pub start_offset: Offset,
}

/// See the [module](self).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeaderEpochs {
    entries: Vec<EpochEntry>,
}

impl LeaderEpochs {
    pub fn new() -> Self {
        Self::default()
    }

    /// The table of a [`snapshot`](Self::entries).
    pub fn restore(entries: impl IntoIterator<Item = EpochEntry>) -> Result<Self, EpochOrderError> {
        let mut table = Self::new();
        for entry in entries {
            let EpochEntry {
                epoch,
                start_offset,
            } = entry;
            let ascends = table
                .latest()
                .is_none_or(|last| last.epoch < epoch && last.start_offset < start_offset);
            if epoch < 0 || start_offset < 0 || !ascends {
                return Err(EpochOrderError {
                    epoch,
                    start_offset,
                });
            }
            table.entries.push(entry);
        }
        Ok(table)
    }

    /// All entries, ascending: the snapshot.
    pub fn entries(&self) -> &[EpochEntry] {
        &self.entries
    }

    pub fn latest(&self) -> Option<EpochEntry> {
        self.entries.last().copied()
    }

    pub fn earliest(&self) -> Option<EpochEntry> {
        self.entries.first().copied()
    }

    /// Notes that `epoch` begins at `start_offset`; to be called for every batch or once per epoch, it is cheap. Entries
    /// that contradict the new one (a later or equal start, a larger epoch) were of a log that was since cut, and go.
    /// Returns whether the table changed.
    ///
    /// Panics on a negative epoch or offset, which no checked batch has.
    #[inline]
    pub fn assign(&mut self, epoch: i32, start_offset: Offset) -> bool {
        assert!(
            epoch >= 0 && start_offset >= 0,
            "epoch {epoch} from offset {start_offset}"
        );
        if let Some(last) = self.entries.last()
            && last.epoch == epoch
            && last.start_offset <= start_offset
        {
            return false;
        }
        while let Some(last) = self.entries.last()
            && (last.epoch >= epoch || last.start_offset >= start_offset)
        {
            self.entries.pop();
        }
        self.entries.push(EpochEntry {
            epoch,
            start_offset,
        });
        true
    }

    /// Where `epoch` ends in a log that ends at `log_end`. An epoch below all known ones has the start of the first known
    /// one as its end (what lay before is deleted); one above all known ones is undefined.
    pub fn end_offset_for(&self, epoch: i32, log_end: Offset) -> EpochEnd {
        let above = self.entries.partition_point(|entry| entry.epoch <= epoch);
        let floor = above.checked_sub(1).map(|at| self.entries[at].epoch);
        match (floor, self.entries.get(above)) {
            _ if epoch < 0 => EpochEnd::UNDEFINED,
            (Some(floor), None) if floor == epoch => EpochEnd {
                epoch,
                end_offset: log_end,
            },
            (_, None) => EpochEnd::UNDEFINED,
            (floor, Some(next)) => EpochEnd {
                epoch: floor.unwrap_or(epoch),
                end_offset: next.start_offset,
            },
        }
    }

    /// The epoch of the batch at `offset`; `None` below the first entry.
    pub fn epoch_at(&self, offset: Offset) -> Option<i32> {
        let above = self
            .entries
            .partition_point(|entry| entry.start_offset <= offset);
        above.checked_sub(1).map(|at| self.entries[at].epoch)
    }

    /// The log now ends at `log_end`: epochs that began there or later never happened.
    pub fn truncate_end(&mut self, log_end: Offset) {
        let keep = self
            .entries
            .partition_point(|entry| entry.start_offset < log_end);
        self.entries.truncate(keep);
    }

    /// The log now starts at `log_start`: of the epochs that began there or earlier, the last one remains and begins there.
    pub fn truncate_start(&mut self, log_start: Offset) {
        let above = self
            .entries
            .partition_point(|entry| entry.start_offset <= log_start);
        let Some(last) = above.checked_sub(1) else {
            return;
        };
        self.entries.drain(..last);
        self.entries[0].start_offset = log_start;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn table(entries: &[(i32, Offset)]) -> LeaderEpochs {
        let entries = entries.iter().map(|&(epoch, start_offset)| EpochEntry {
            epoch,
            start_offset,
        });
        LeaderEpochs::restore(entries).expect("ascending")
    }

    fn end(epoch: i32, end_offset: Offset) -> EpochEnd {
        EpochEnd { epoch, end_offset }
    }

    #[test]
    fn answers_of_the_protocol() {
        let epochs = table(&[(2, 10), (4, 20), (5, 35)]);
        assert_eq!(epochs.end_offset_for(5, 50), end(5, 50));
        assert_eq!(epochs.end_offset_for(4, 50), end(4, 35));
        assert_eq!(epochs.end_offset_for(3, 50), end(2, 20));
        assert_eq!(epochs.end_offset_for(2, 50), end(2, 20));
        assert_eq!(epochs.end_offset_for(1, 50), end(1, 10));
        assert_eq!(epochs.end_offset_for(0, 50), end(0, 10));
        assert_eq!(epochs.end_offset_for(6, 50), EpochEnd::UNDEFINED);
        assert_eq!(epochs.end_offset_for(-1, 50), EpochEnd::UNDEFINED);
        assert_eq!(
            LeaderEpochs::new().end_offset_for(0, 50),
            EpochEnd::UNDEFINED
        );
        assert_eq!(epochs.epoch_at(9), None);
        assert_eq!(epochs.epoch_at(10), Some(2));
        assert_eq!(epochs.epoch_at(34), Some(4));
        assert_eq!(epochs.epoch_at(1000), Some(5));
    }

    #[test]
    fn assignment_keeps_the_first_start_and_drops_contradictions() {
        let mut epochs = table(&[(2, 10)]);
        assert!(!epochs.assign(2, 10));
        assert!(!epochs.assign(2, 15));
        assert!(epochs.assign(3, 20));
        // An epoch without records gives its place to the next one.
        assert!(epochs.assign(4, 20));
        assert_eq!(epochs, table(&[(2, 10), (4, 20)]));
        // Its own start, earlier: the log was cut and written again.
        assert!(epochs.assign(4, 15));
        assert_eq!(epochs, table(&[(2, 10), (4, 15)]));
        assert!(epochs.assign(3, 30));
        assert_eq!(epochs, table(&[(2, 10), (3, 30)]));
        assert!(epochs.assign(9, 5));
        assert_eq!(epochs, table(&[(9, 5)]));
    }

    #[test]
    fn truncation_at_the_borders() {
        let all = table(&[(2, 10), (4, 20), (5, 35)]);
        let after = |change: fn(&mut LeaderEpochs, Offset), offset| {
            let mut epochs = all.clone();
            change(&mut epochs, offset);
            epochs
        };
        assert_eq!(after(LeaderEpochs::truncate_end, 36), all);
        assert_eq!(
            after(LeaderEpochs::truncate_end, 35),
            table(&[(2, 10), (4, 20)])
        );
        assert_eq!(after(LeaderEpochs::truncate_end, 10), table(&[]));
        assert_eq!(after(LeaderEpochs::truncate_start, 9), all);
        assert_eq!(after(LeaderEpochs::truncate_start, 10), all);
        assert_eq!(
            after(LeaderEpochs::truncate_start, 19),
            table(&[(2, 19), (4, 20), (5, 35)])
        );
        assert_eq!(
            after(LeaderEpochs::truncate_start, 20),
            table(&[(4, 20), (5, 35)])
        );
        assert_eq!(after(LeaderEpochs::truncate_start, 90), table(&[(5, 90)]));
    }

    #[test]
    fn a_disordered_snapshot_is_refused() {
        for bad in [
            &[(1, 5), (1, 6)][..],
            &[(1, 5), (2, 5)],
            &[(2, 5), (1, 6)],
            &[(-1, 5)],
            &[(1, -5)],
        ] {
            let entries = bad.iter().map(|&(epoch, start_offset)| EpochEntry {
                epoch,
                start_offset,
            });
            assert!(LeaderEpochs::restore(entries).is_err(), "{bad:?}");
        }
    }

    proptest! {
        /// Against a log that remembers the epoch of every offset.
        #[test]
        fn agrees_with_a_log(
            runs in prop::collection::vec((0i32..3, 0usize..5), 1..12),
            start in 0usize..20, cut in 0usize..20, asked in -1i32..25,
        ) {
            let mut log = Vec::new();
            let mut epochs = LeaderEpochs::new();
            let mut epoch = 0;
            for (rise, length) in runs {
                epoch += rise;
                for _ in 0..length {
                    epochs.assign(epoch, log.len() as Offset);
                    log.push(epoch);
                }
            }
            let start = start.min(log.len());
            log.truncate(cut.max(start));
            epochs.truncate_end(log.len() as Offset);
            epochs.truncate_start(start as Offset);
            let log_end = log.len() as Offset;

            for (offset, epoch) in log.iter().enumerate().skip(start) {
                prop_assert_eq!(epochs.epoch_at(offset as Offset), Some(*epoch));
            }
            let answer = epochs.end_offset_for(asked, log_end);
            let live = &log[start..];
            if let Some(first_above) = live.iter().position(|epoch| *epoch > asked) && asked >= 0 {
                let floor = live.iter().rev().copied().find(|epoch| *epoch <= asked);
                // Where everything of `asked` is deleted, an epoch before the log's start may still be known.
                let known = epochs.entries().iter().rev().map(|entry| entry.epoch).find(|epoch| *epoch <= asked);
                prop_assert_eq!(answer.epoch, floor.or(known).unwrap_or(asked));
                prop_assert_eq!(answer.end_offset, (start + first_above) as Offset);
            } else if live.last() == Some(&asked) {
                prop_assert_eq!(answer, EpochEnd { epoch: asked, end_offset: log_end });
            }
            prop_assert_eq!(LeaderEpochs::restore(epochs.entries().to_vec()), Ok(epochs));
        }
    }
}
