//! What one partition remembers of its idempotent producers, to recognise a batch that was sent twice and a gap where one
//! is missing. Sans-I/O, in two phases: [`Producers::check`] decides and changes nothing, [`Producers::apply`] follows once
//! the batch has its offsets. Both happen at append, before durability: the next batch of a producer may come before its
//! last one is on disk, and a duplicate is then answered when the original is.
//!
//! The rules are those of Apache Kafka 4.x for batches outside transactions:
//! - a producer that is not known (new, expired, or its state lost) may begin with any sequence, but for what a refusal left
//!   open: when there was no room for its first batch, those that it has sent behind it are refused as well, until that one
//!   comes again. (Apache Kafka would take the second batch and then refuse the first for ever.)
//! - the same epoch: exactly one of the last five batches again is a duplicate; else the first sequence must follow the last
//!   one, and 0 follows 2^31−1;
//! - a newer epoch must begin with sequence 0, and makes the older one's batches forgotten; an older epoch is refused.

mod entry;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use crate::batch::{BatchHeader, sequence_add};
use crate::ids::Offset;
use entry::Entry;
pub use entry::{BATCHES_MAX, ProducerBatch, ProducerSnapshot, SnapshotError};

/// Producers that a partition remembers at most. Clients choose ids at will, so there has to be an end: when it is reached,
/// those that have been silent longest are forgotten, an eighth at a time.
pub const PRODUCERS_MAX: usize = 8192;
const EVICTED_AT_ONCE: usize = PRODUCERS_MAX / 8;

/// Unknown producers whose first batch was refused that are remembered at most, the newest ones.
const TURNED_AWAY_MAX: usize = 64;

/// Default time in ms after which a silent producer is forgotten (Kafka's `producer.id.expiration.ms`).
pub const EXPIRATION_MS: i64 = 24 * 60 * 60 * 1000;

/// The part of a batch that a producer's state is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sequenced {
    /// ≥ 0.
    pub producer_id: i64,
    pub epoch: i16,
    /// Sequence of the first record; of no meaning in a control batch.
    pub base_sequence: i32,
    /// Sequence and offset of the last record, less those of the first.
    pub last_delta: i32,
    pub timestamp_ms: i64,
    /// A transaction's end, which has no sequence.
    pub is_control: bool,
}

impl Sequenced {
    /// `None` for a batch of a producer that is not idempotent.
    #[inline]
    pub fn of(header: &BatchHeader) -> Option<Self> {
        header.has_producer().then(|| Self {
            producer_id: header.producer_id(),
            epoch: header.producer_epoch(),
            base_sequence: header.base_sequence(),
            last_delta: header.last_offset_delta(),
            timestamp_ms: header.max_timestamp(),
            is_control: header.is_control(),
        })
    }

    fn last_sequence(&self) -> i32 {
        sequence_add(self.base_sequence, self.last_delta)
    }
}

/// What is to be done with a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Append,
    /// It is in the log, at these offsets; the timestamp is the one it was stored with.
    Duplicate {
        base_offset: Offset,
        last_offset: Offset,
        timestamp_ms: i64,
    },
    Refused(Refusal),
}

/// Why a batch is not appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("sequence {sequence} instead of {expected}")]
    OutOfOrderSequence { expected: i32, sequence: i32 },
    #[error("producer epoch {epoch} is older than {current}")]
    InvalidProducerEpoch { current: i16, epoch: i16 },
}

/// See the [module](self). Ordered by id: ids come from peers, so no hash that they could aim at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Producers {
    producers: BTreeMap<i64, Entry>,
    /// First batches of unknown producers that there was no room for, oldest first. Not part of a snapshot: what a producer
    /// has under way does not outlive its connection.
    turned_away: Vec<Sequenced>,
}

impl Producers {
    pub fn new() -> Self {
        Self::default()
    }

    /// Decides on one batch. Changes nothing.
    #[inline]
    pub fn check(&self, header: &BatchHeader) -> Verdict {
        match Sequenced::of(header) {
            None => Verdict::Append,
            Some(batch) => match self.producers.get(&batch.producer_id) {
                Some(entry) => entry.check(&batch),
                None => self.check_unknown(&batch),
            },
        }
    }

    fn check_unknown(&self, batch: &Sequenced) -> Verdict {
        let first = self
            .turned_away
            .iter()
            .find(|first| first.producer_id == batch.producer_id && first.epoch == batch.epoch);
        match first {
            Some(first) if first.base_sequence != batch.base_sequence => {
                Verdict::Refused(Refusal::OutOfOrderSequence {
                    expected: first.base_sequence,
                    sequence: batch.base_sequence,
                })
            }
            _ => Verdict::Append,
        }
    }

    /// The batch was fine, and there was no room for it. Of a known producer that changes nothing.
    pub fn turn_away(&mut self, header: &BatchHeader) {
        let Some(batch) = Sequenced::of(header) else {
            return;
        };
        if self.producers.contains_key(&batch.producer_id) {
            return;
        }
        self.turned_away
            .retain(|first| first.producer_id != batch.producer_id);
        if self.turned_away.len() == TURNED_AWAY_MAX {
            self.turned_away.remove(0);
        }
        self.turned_away.push(batch);
    }

    /// Decides on several batches that are appended all or not at all, in order. Either all are new, or all are duplicates
    /// (the offsets are then those from the first to the last); a mixture is refused.
    pub fn check_run<'a>(&self, headers: impl IntoIterator<Item = &'a BatchHeader>) -> Verdict {
        let mut ahead: BTreeMap<i64, Entry> = BTreeMap::new();
        let mut verdict: Option<Verdict> = None;
        for header in headers {
            let batch = Sequenced::of(header);
            let entry = batch.and_then(|batch| {
                let id = &batch.producer_id;
                ahead.get(id).or_else(|| self.producers.get(id))
            });
            let next = match (&batch, entry) {
                (Some(batch), Some(entry)) => entry.check(batch),
                _ => Verdict::Append,
            };
            verdict = Some(match (verdict, next) {
                (_, Verdict::Refused(_)) => return next,
                (None, _) | (Some(Verdict::Append), Verdict::Append) => next,
                (
                    Some(Verdict::Duplicate { base_offset, .. }),
                    Verdict::Duplicate {
                        last_offset,
                        timestamp_ms,
                        ..
                    },
                ) => Verdict::Duplicate {
                    base_offset,
                    last_offset,
                    timestamp_ms,
                },
                (Some(_), _) => {
                    let sequence = batch.map_or(0, |batch| batch.base_sequence);
                    let expected = entry.map_or(0, Entry::next_sequence);
                    return Verdict::Refused(Refusal::OutOfOrderSequence { expected, sequence });
                }
            });
            if let (Some(batch), Verdict::Append) = (batch, next) {
                let mut entry = entry.cloned().unwrap_or_else(|| Entry::new(batch.epoch));
                // Provisional offset: beyond every real one, so that it counts as news.
                entry.apply(&batch, Offset::MAX - i64::from(i32::MAX), 0);
                ahead.insert(batch.producer_id, entry);
            }
        }
        verdict.unwrap_or(Verdict::Append)
    }

    /// Notes that the batch is in the log from `base_offset` on. `now_ms` (ms since 1970) is the time from which silence is
    /// counted; not the batch's own timestamp, which may be years old or unset.
    #[inline]
    pub fn apply(&mut self, header: &BatchHeader, base_offset: Offset, now_ms: i64) {
        if let Some(batch) = Sequenced::of(header) {
            self.turned_away
                .retain(|first| first.producer_id != batch.producer_id);
            self.replay(&batch, base_offset, now_ms);
        }
    }

    /// As [`apply`](Self::apply), from what the log says of a batch. What is known already is not applied again, so a log
    /// may be replayed over a state that has some of it.
    pub fn replay(&mut self, batch: &Sequenced, base_offset: Offset, now_ms: i64) {
        if !self.producers.contains_key(&batch.producer_id) && self.producers.len() >= PRODUCERS_MAX
        {
            self.evict_oldest();
        }
        self.producers
            .entry(batch.producer_id)
            .or_insert_with(|| Entry::new(batch.epoch))
            .apply(batch, base_offset, now_ms);
    }

    /// Forgets whoever has been silent for `expiration_ms`. Looks at every producer: for a timer, not for a request.
    pub fn expire(&mut self, now_ms: i64, expiration_ms: i64) {
        self.producers
            .retain(|_, entry| now_ms.saturating_sub(entry.last_seen_ms) < expiration_ms);
    }

    /// The log now ends at `log_end`: batches from there on are forgotten, and a producer of whom no batch remains is
    /// unknown again. (Of a producer with more than five batches cut off, what came before is not known any more; to have
    /// that exactly, restore an older snapshot and replay.)
    pub fn truncate_to(&mut self, log_end: Offset) {
        self.producers.retain(|_, entry| entry.truncate_to(log_end));
    }

    pub fn len(&self) -> usize {
        self.producers.len()
    }

    pub fn is_empty(&self) -> bool {
        self.producers.is_empty()
    }

    /// Everything, by ascending id.
    pub fn snapshot(&self) -> impl ExactSizeIterator<Item = ProducerSnapshot> + '_ {
        self.producers.iter().map(|(id, entry)| entry.snapshot(*id))
    }

    /// The state of a [`snapshot`](Self::snapshot), every value checked. More than [`PRODUCERS_MAX`] are cut to the newest.
    pub fn restore(
        snapshots: impl IntoIterator<Item = ProducerSnapshot>,
    ) -> Result<Self, SnapshotError> {
        let mut restored = Self::new();
        for snapshot in snapshots {
            let producer_id = snapshot.producer_id;
            let entry = Entry::restore(snapshot)?;
            if restored.producers.len() >= PRODUCERS_MAX {
                restored.evict_oldest();
            }
            if restored.producers.insert(producer_id, entry).is_some() {
                return Err(SnapshotError { producer_id });
            }
        }
        Ok(restored)
    }

    fn evict_oldest(&mut self) {
        let mut by_age: Vec<(i64, i64)> = self
            .producers
            .iter()
            .map(|(id, entry)| (entry.last_seen_ms, *id))
            .collect();
        let count = EVICTED_AT_ONCE.min(by_age.len());
        if count < by_age.len() {
            by_age.select_nth_unstable(count);
        }
        for (_, id) in &by_age[..count] {
            self.producers.remove(id);
        }
    }
}
