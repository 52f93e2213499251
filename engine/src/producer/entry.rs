//! One producer: its epoch and its last batches.

use super::{Refusal, Sequenced, Verdict};
use crate::batch::sequence_add;
use crate::ids::Offset;

/// Batches of a producer that are remembered: as many as a client may have in flight with idempotence.
pub const BATCHES_MAX: usize = 5;

/// One remembered batch. Its last offset lies as far behind the base as its last sequence behind the first.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize,
)]
pub struct ProducerBatch {
    pub first_sequence: i32,
    pub last_sequence: i32,
    pub base_offset: Offset,
    pub timestamp_ms: i64,
}

impl ProducerBatch {
    /// Offset of its last record.
    pub fn last_offset(&self) -> Offset {
        let delta = self.last_sequence.wrapping_sub(self.first_sequence) & i32::MAX;
        self.base_offset.saturating_add(i64::from(delta))
    }
}

/// One producer, to be kept on disk.
#[derive(Clone, Debug, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub struct ProducerSnapshot {
    pub producer_id: i64,
    pub epoch: i16,
    /// When the broker last took a batch of it.
    pub last_seen_ms: i64,
    /// Oldest first, at most [`BATCHES_MAX`].
    pub batches: Vec<ProducerBatch>,
}

/// A snapshot with values that no producer can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("snapshot of producer {producer_id} is impossible")]
pub struct SnapshotError {
    pub producer_id: i64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) last_seen_ms: i64,
    epoch: i16,
    count: u8,
    /// Oldest first; the first `count` are meant, the others are zero.
    window: [ProducerBatch; BATCHES_MAX],
}

impl Entry {
    pub(super) fn new(epoch: i16) -> Self {
        Self {
            last_seen_ms: 0,
            epoch,
            count: 0,
            window: Default::default(),
        }
    }

    fn batches(&self) -> &[ProducerBatch] {
        &self.window[..usize::from(self.count)]
    }

    /// The sequence that the next batch of this epoch has to begin with.
    pub(super) fn next_sequence(&self) -> i32 {
        self.batches()
            .last()
            .map_or(0, |last| sequence_add(last.last_sequence, 1))
    }

    pub(super) fn check(&self, batch: &Sequenced) -> Verdict {
        let (current, epoch) = (self.epoch, batch.epoch);
        if epoch < current {
            return Verdict::Refused(Refusal::InvalidProducerEpoch { current, epoch });
        }
        let sequence = batch.base_sequence;
        let expected = if epoch > current {
            0
        } else {
            self.next_sequence()
        };
        if epoch == current {
            let range = (sequence, batch.last_sequence());
            let same = self
                .batches()
                .iter()
                .find(|known| (known.first_sequence, known.last_sequence) == range);
            if let Some(known) = same {
                return Verdict::Duplicate {
                    base_offset: known.base_offset,
                    last_offset: known.last_offset(),
                    timestamp_ms: known.timestamp_ms,
                };
            }
        }
        if sequence == expected {
            Verdict::Append
        } else {
            Verdict::Refused(Refusal::OutOfOrderSequence { expected, sequence })
        }
    }

    pub(super) fn apply(&mut self, batch: &Sequenced, base_offset: Offset, now_ms: i64) {
        self.last_seen_ms = self.last_seen_ms.max(now_ms);
        let is_known = self
            .batches()
            .last()
            .is_some_and(|last| last.base_offset >= base_offset);
        if is_known {
            return;
        }
        if self.epoch != batch.epoch {
            *self = Self {
                last_seen_ms: self.last_seen_ms,
                ..Self::new(batch.epoch)
            };
        }
        if batch.is_control {
            return;
        }
        if usize::from(self.count) == BATCHES_MAX {
            self.window.copy_within(1.., 0);
            self.count -= 1;
        }
        self.window[usize::from(self.count)] = ProducerBatch {
            first_sequence: batch.base_sequence,
            last_sequence: batch.last_sequence(),
            base_offset,
            timestamp_ms: batch.timestamp_ms,
        };
        self.count += 1;
    }

    /// Returns whether anything is left.
    pub(super) fn truncate_to(&mut self, log_end: Offset) -> bool {
        let keep = self
            .batches()
            .partition_point(|batch| batch.last_offset() < log_end);
        self.window[keep..].fill(ProducerBatch::default());
        self.count = keep as u8;
        keep > 0
    }

    pub(super) fn snapshot(&self, producer_id: i64) -> ProducerSnapshot {
        ProducerSnapshot {
            producer_id,
            epoch: self.epoch,
            last_seen_ms: self.last_seen_ms,
            batches: self.batches().to_vec(),
        }
    }

    pub(super) fn restore(snapshot: ProducerSnapshot) -> Result<Self, SnapshotError> {
        let batches = snapshot.batches.as_slice();
        let is_possible = |batch: &ProducerBatch| {
            batch.first_sequence >= 0 && batch.last_sequence >= 0 && batch.base_offset >= 0
        };
        let ascend = batches
            .windows(2)
            .all(|pair| pair[0].last_offset() < pair[1].base_offset);
        if snapshot.producer_id < 0
            || snapshot.epoch < 0
            || batches.len() > BATCHES_MAX
            || !ascend
            || !batches.iter().all(is_possible)
        {
            return Err(SnapshotError {
                producer_id: snapshot.producer_id,
            });
        }
        let mut entry = Self {
            last_seen_ms: snapshot.last_seen_ms,
            count: batches.len() as u8,
            ..Self::new(snapshot.epoch)
        };
        entry.window[..batches.len()].copy_from_slice(batches);
        Ok(entry)
    }
}
