//! The newest value per key of one internal partition, in memory: committed offsets, topics, retained messages. Sans-I/O:
//! the caller appends what [`Table::stage`] and [`Table::compact`] give it, says how that went, and moves the log start
//! when told to. A change is a record: key, value, or no value to remove the key.
//!
//! Invariants:
//! - the map is what the durable records say, applied in the order of their offsets, though the caller may learn of them in
//!   another order. A change that is not durable is not visible, one that was refused never;
//! - replaying the log from its start gives the map, at every moment, also in the middle of a snapshot;
//! - the log is bounded: see [`Table::compact`].

mod compaction;
mod pending;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::ops::{Bound, RangeBounds};

use bytes::Bytes;
use thiserror::Error;

use crate::batch::{Batches, Codec, Limits, validate};
use crate::ids::Offset;
use crate::records::{BatchBuilder, NewRecord, RecordError, RecordLimits, Records};
use compaction::Snapshot;
pub use compaction::{
    LOG_BYTES_MIN, LOG_TO_LIVE_MAX, SNAPSHOT_CHUNK_BYTES, SNAPSHOT_CHUNKS_IN_FLIGHT, Step,
};
use pending::PendingQueue;

/// Largest batch that a table writes. A commit within it is one batch and so all there or not at all after a crash; a larger
/// one is several, of which a crash may leave the first ones.
pub const TABLE_BATCH_BYTES_MAX: usize = 1 << 20;

/// Largest key and value together.
pub const ENTRY_BYTES_MAX: usize = TABLE_BATCH_BYTES_MAX - 1024;

/// What an entry costs in the log beside key and value, about.
const ENTRY_OVERHEAD_BYTES: u64 = 16;

/// A key, and its new value or `None` to remove it.
pub type Change = (Bytes, Option<Bytes>);

/// Something to append, and the name under which its fate is to be reported.
#[derive(Debug)]
#[must_use = "it has to be appended, and reported with committed() or refused()"]
pub struct Staged {
    pub ticket: Ticket,
    /// Valid record batches, one behind the other.
    pub batches: Vec<u8>,
}

/// Names one append of one table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(u64);

/// Why a table cannot be read or changed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TableError {
    #[error("entry of {bytes} bytes, at most {max} are possible")]
    EntryTooLarge { bytes: usize, max: usize },
    #[error("a commit without changes")]
    Empty,
    #[error("at offset {offset}: {error}")]
    Records { offset: Offset, error: RecordError },
    #[error("the record at offset {offset} has no key")]
    NoKey { offset: Offset },
}

/// See the [module](self).
#[derive(Debug, Default)]
pub struct Table {
    map: BTreeMap<Bytes, Bytes>,
    live_bytes: u64,
    /// Every record before this offset is in the map.
    applied_to: Offset,
    /// Bytes of all batches that were applied, those before the log start too.
    applied_bytes: u64,
    /// The part of them that lies before the log start.
    trimmed_bytes: u64,
    pending: PendingQueue,
    snapshot: Option<Snapshot>,
    /// No new snapshot before the log has this many bytes: the last one was refused.
    retry_at_bytes: u64,
}

impl Table {
    /// A table of nothing: of a log that starts at `log_start` and has not been read yet.
    pub fn new(log_start: Offset) -> Self {
        Self {
            applied_to: log_start,
            ..Self::default()
        }
    }

    /// Applies a piece of log: whole batches, from the log start to the end in order. For recovery, before anything is
    /// staged.
    ///
    /// Errors: [`TableError::Records`] and [`TableError::NoKey`]; what stood before the bad record is applied.
    pub fn apply(&mut self, batches: &[u8]) -> Result<(), TableError> {
        assert!(
            self.pending.is_empty() && self.snapshot.is_none(),
            "recovery comes first"
        );
        let limits = Limits::log(usize::MAX);
        for batch in Batches::new(batches) {
            let offset = self.applied_to;
            let at_offset = |error| TableError::Records { offset, error };
            let batch = batch.map_err(|error| at_offset(error.into()))?;
            validate(batch.bytes(), &limits).map_err(|error| at_offset(error.into()))?;
            self.apply_batch(batch.bytes())
                .map_err(|error| match error {
                    ApplyError::Records(error) => at_offset(error),
                    ApplyError::NoKey(offset) => TableError::NoKey { offset },
                })?;
            self.applied_to = batch.header().next_offset();
            self.applied_bytes += batch.bytes().len() as u64;
        }
        Ok(())
    }

    fn apply_batch(&mut self, batch: &[u8]) -> Result<(), ApplyError> {
        let records =
            Records::open(batch, &RecordLimits::default()).map_err(ApplyError::Records)?;
        if records.header().is_control() {
            return Ok(());
        }
        for record in &records {
            let record = record.map_err(ApplyError::Records)?;
            let key = record.key.ok_or(ApplyError::NoKey(record.offset))?;
            // Copies: a slice would keep all of its batch in memory.
            match record.value {
                Some(value) => self.put(Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)),
                None => self.remove(key),
            }
        }
        Ok(())
    }

    fn put(&mut self, key: Bytes, value: Bytes) {
        let added = entry_bytes(&key, &value);
        // An existing key keeps its own bytes.
        match self.map.get_mut(&key) {
            Some(old) => {
                self.live_bytes -= entry_bytes(&key, old);
                *old = value;
            }
            None => {
                self.map.insert(key, value);
            }
        }
        self.live_bytes += added;
    }

    fn remove(&mut self, key: &[u8]) {
        if let Some((key, value)) = self.map.remove_entry(key) {
            self.live_bytes -= entry_bytes(&key, &value);
        }
    }

    /// Encodes changes for the log, uncompressed; in a commit the last change of a key counts. Nothing is visible before
    /// [`committed`](Self::committed). The batches have to be appended in the order of staging, all of a commit or none.
    /// `now_ms` (ms since 1970) becomes the records' timestamp.
    ///
    /// Errors: [`TableError::Empty`], [`TableError::EntryTooLarge`]; nothing is staged then.
    pub fn stage(
        &mut self,
        changes: impl IntoIterator<Item = Change>,
        now_ms: i64,
    ) -> Result<Staged, TableError> {
        let mut own = Vec::new();
        for (key, value) in changes {
            let bytes = key.len() + value.as_ref().map_or(0, Bytes::len);
            if bytes > ENTRY_BYTES_MAX {
                return Err(TableError::EntryTooLarge {
                    bytes,
                    max: ENTRY_BYTES_MAX,
                });
            }
            // Copies, for the same reason as in recovery.
            own.push((
                Bytes::copy_from_slice(&key),
                value.map(|value| Bytes::copy_from_slice(&value)),
            ));
        }
        if own.is_empty() {
            return Err(TableError::Empty);
        }
        let batches = encode(&own, now_ms);
        let ticket = self.pending.push(own, batches.len() as u64);
        Ok(Staged { ticket, batches })
    }

    /// The batches of `ticket` are durable, and `next_offset` is the offset behind them. The changes are visible now. May
    /// be called in any order.
    ///
    /// Panics when the ticket's fate was reported before.
    pub fn committed(&mut self, ticket: Ticket, next_offset: Offset) {
        for (key, value) in self.pending.commit(ticket, next_offset) {
            match value {
                Some(value) => self.put(key, value),
                None => self.remove(&key),
            }
        }
        self.settle();
    }

    /// The batches of `ticket` were not appended and never will be.
    ///
    /// Panics when the ticket's fate was reported before.
    pub fn refused(&mut self, ticket: Ticket) {
        let keys = self.pending.refuse(ticket);
        self.snapshot_refused(ticket, keys);
        self.settle();
    }

    /// Takes what is decided off the front of the queue.
    fn settle(&mut self) {
        while let Some(settled) = self.pending.pop_settled() {
            if let Some((next_offset, bytes)) = settled {
                debug_assert!(
                    next_offset > self.applied_to,
                    "appended in the order of staging"
                );
                self.applied_to = next_offset;
                self.applied_bytes += bytes;
            }
        }
    }

    pub fn get(&self, key: &[u8]) -> Option<&Bytes> {
        self.map.get(key)
    }

    /// Every entry, by ascending key.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (&Bytes, &Bytes)> {
        self.map.iter()
    }

    /// The entries whose keys lie in `keys`, ascending.
    pub fn range(
        &self,
        keys: impl RangeBounds<[u8]>,
    ) -> impl DoubleEndedIterator<Item = (&Bytes, &Bytes)> {
        self.map.range::<[u8], _>(keys)
    }

    /// The entries whose keys begin with `prefix`, ascending.
    pub fn prefix<'t>(&'t self, prefix: &'t [u8]) -> impl Iterator<Item = (&'t Bytes, &'t Bytes)> {
        self.map
            .range::<[u8], _>((Bound::Included(prefix), Bound::Unbounded))
            .take_while(move |(key, _)| key.starts_with(prefix))
    }

    pub fn len(&self) -> usize {
        self.map.len()
    }

    pub fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    /// Bytes that a snapshot would have, about.
    pub fn live_bytes(&self) -> u64 {
        self.live_bytes
    }

    /// Bytes of the log from its start.
    pub fn log_bytes(&self) -> u64 {
        self.applied_bytes - self.trimmed_bytes
    }

    /// Every record before this offset is in the map.
    pub fn applied_to(&self) -> Offset {
        self.applied_to
    }
}

enum ApplyError {
    Records(RecordError),
    NoKey(Offset),
}

fn entry_bytes(key: &[u8], value: &[u8]) -> u64 {
    (key.len() + value.len()) as u64 + ENTRY_OVERHEAD_BYTES
}

/// One batch, or as many as the limit asks for.
fn encode(changes: &[Change], now_ms: i64) -> Vec<u8> {
    let mut out = Vec::new();
    let mut builder = BatchBuilder::new(Codec::None);
    for (key, value) in changes {
        let entry = entry_bytes(key, value.as_deref().unwrap_or_default()) as usize;
        if !builder.is_empty() && builder.batch_bytes() + entry > TABLE_BATCH_BYTES_MAX {
            let full = std::mem::replace(&mut builder, BatchBuilder::new(Codec::None));
            out.extend_from_slice(&full.finish());
        }
        push(&mut builder, key, value.as_deref(), now_ms);
    }
    if out.is_empty() {
        return builder.finish();
    }
    out.extend_from_slice(&builder.finish());
    out
}

fn push(builder: &mut BatchBuilder, key: &[u8], value: Option<&[u8]>, timestamp_ms: i64) {
    builder.push(&NewRecord {
        timestamp_ms,
        key: Some(key),
        value,
        headers: &[],
    });
}
