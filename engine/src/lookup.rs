//! Offsets by time, epoch and position; and waiting for bytes.

use std::collections::BTreeMap;
use std::rc::Rc;

use trireme_runtime::{Instant, now, timeout};

use crate::ack::{Wait, WaitFuture};
use crate::api::{Isolation, OffsetAnswer, OffsetQuery, PartitionRef, ReadError};
use crate::batch::{Batches, NO_TIMESTAMP};
use crate::ids::Offset;
use crate::layout::sidecar::TimeIndexEntry;
use crate::mutations::{Mutation, on};
use crate::partition::Partition;
use crate::read::floor_entry;
use crate::records::{RecordLimits, Records};
use crate::shard::Shard;

/// Segments are searched in pieces of this size.
const SEARCH_BYTES: u64 = 256 * 1024;

const NOTHING: OffsetAnswer = OffsetAnswer {
    offset: -1,
    timestamp_ms: -1,
    leader_epoch: -1,
};

impl Shard {
    pub async fn offset(
        self: &Rc<Self>,
        reference: &PartitionRef,
        query: OffsetQuery,
        isolation: Isolation,
    ) -> Result<OffsetAnswer, ReadError> {
        let partition = self
            .partition(&reference.id)
            .ok_or(ReadError::UnknownPartition)?;
        let (end, at) = {
            let inner = partition.state.borrow();
            if inner.deleting {
                return Err(ReadError::UnknownPartition);
            }
            let end = if isolation == Isolation::Log {
                inner.next_offset
            } else {
                inner.durable
            };
            let epoch_at = |offset| inner.epochs.epoch_at(offset).unwrap_or(-1);
            match query {
                OffsetQuery::Earliest => {
                    let offset = inner.log_start;
                    return Ok(OffsetAnswer {
                        offset,
                        timestamp_ms: -1,
                        leader_epoch: epoch_at(offset),
                    });
                }
                OffsetQuery::Latest => {
                    return Ok(OffsetAnswer {
                        offset: end,
                        timestamp_ms: -1,
                        leader_epoch: epoch_at(end),
                    });
                }
                OffsetQuery::EpochEnd(epoch) => {
                    let found = if epoch == self.epoch.get() {
                        // The current epoch, whether or not something was appended in it.
                        crate::epochs::EpochEnd {
                            epoch,
                            end_offset: end,
                        }
                    } else {
                        inner.epochs.end_offset_for(epoch, end)
                    };
                    // An epoch that ends with nothing behind it yet ends at the log's end.
                    let found = match found.end_offset {
                        crate::epochs::UNDEFINED_OFFSET
                            if (0..self.epoch.get()).contains(&epoch) =>
                        {
                            let latest = inner
                                .epochs
                                .latest()
                                .map_or(epoch, |latest| latest.epoch.min(epoch));
                            crate::epochs::EpochEnd {
                                epoch: latest,
                                end_offset: end,
                            }
                        }
                        _ => found,
                    };
                    return Ok(OffsetAnswer {
                        offset: found.end_offset.min(end),
                        timestamp_ms: -1,
                        leader_epoch: found.epoch,
                    });
                }
                OffsetQuery::MaxTimestamp => {
                    let newest = inner
                        .segments
                        .iter()
                        .filter(|segment| {
                            segment.end > inner.log_start && segment.max_timestamp_offset < end
                        })
                        .max_by_key(|segment| {
                            (segment.max_timestamp, std::cmp::Reverse(segment.base))
                        });
                    match newest.filter(|segment| segment.max_timestamp >= 0) {
                        Some(segment) => (end, segment.max_timestamp),
                        None => return Ok(NOTHING),
                    }
                }
                OffsetQuery::ByTime(timestamp_ms) => (end, timestamp_ms),
            }
        };
        self.first_at(&partition, at, end).await
    }

    /// The first record below `end` that is at or behind `timestamp_ms`.
    async fn first_at(
        self: &Rc<Self>,
        partition: &Rc<Partition>,
        timestamp_ms: i64,
        end: Offset,
    ) -> Result<OffsetAnswer, ReadError> {
        let candidates: Vec<Offset> = {
            let inner = partition.state.borrow();
            let kept = inner.segments.iter().filter(|segment| {
                segment.end > inner.log_start
                    && segment.max_timestamp >= timestamp_ms
                    && segment.base < end
            });
            kept.map(|segment| segment.base).collect()
        };
        for base in candidates {
            if let Some(answer) = self
                .first_in_segment(partition, base, timestamp_ms, end)
                .await?
            {
                return Ok(answer);
            }
        }
        Ok(NOTHING)
    }

    async fn first_in_segment(
        self: &Rc<Self>,
        partition: &Rc<Partition>,
        base: Offset,
        timestamp_ms: i64,
        end: Offset,
    ) -> Result<Option<OffsetAnswer>, ReadError> {
        let view = self.view(partition, base).await?;
        let (mut position, limit, log_start) = {
            let inner = partition.state.borrow();
            let Some(segment) = inner.segment(base) else {
                return Ok(None);
            };
            let floor = |entries: &[TimeIndexEntry]| {
                let behind = entries.partition_point(|entry| entry.max_timestamp < timestamp_ms);
                behind.checked_sub(1).map(|index| entries[index].offset)
            };
            let from = floor(&segment.time_index.pending)
                .or_else(|| floor(&view.time_index))
                .unwrap_or(base);
            let position = match on(Mutation::LookupTooLate) {
                true => segment.durable,
                false => floor_entry(segment, &view, from).map_or(0, |entry| entry.position),
            };
            (
                position,
                segment.logged.min(if end > inner.durable {
                    u64::MAX
                } else {
                    segment.durable
                }),
                inner.log_start,
            )
        };
        let mut window = SEARCH_BYTES;
        while position < limit {
            let to = (position + window).min(limit);
            let bytes = self
                .bytes(partition, base, &view, position, to)
                .await?
                .concat();
            let mut batches = Batches::new(&bytes);
            while let Some(Ok(raw)) = batches.next() {
                let header = raw.header();
                if header.base_offset() >= end {
                    return Ok(None);
                }
                if header.latest_timestamp() < timestamp_ms || header.last_offset() < log_start {
                    continue;
                }
                let found = first_record(raw.bytes(), timestamp_ms, log_start);
                if let Some((offset, timestamp_ms)) = found.filter(|(offset, _)| *offset < end) {
                    let leader_epoch = header.leader_epoch();
                    return Ok(Some(OffsetAnswer {
                        offset,
                        timestamp_ms,
                        leader_epoch,
                    }));
                }
            }
            match batches.position() {
                0 if to == limit => break,
                // A batch longer than the window.
                0 => window *= 4,
                walked => position += walked as u64,
            }
        }
        Ok(None)
    }

    /// Waits until `bytes` are readable behind the positions, something else changes, or the deadline is there. The bytes
    /// readable then, and whether something changed.
    pub async fn wait(
        shards: &BTreeMap<u16, Rc<Shard>>,
        positions: Vec<(PartitionRef, Offset)>,
        bytes: u64,
        deadline: Instant,
        register: impl FnOnce(&Rc<Wait>),
    ) -> (u64, bool) {
        let mut watched = Vec::with_capacity(positions.len());
        for (reference, offset) in &positions {
            let shard = shards.get(&reference.shard);
            match shard.and_then(|shard| shard.partition(&reference.id)) {
                Some(partition) => watched.push((partition, *offset)),
                None => return (0, true),
            }
        }
        let (there, changed) = readable(&watched);
        if there >= bytes || changed || deadline <= now() {
            return (there, changed);
        }
        let wait = Wait::new(bytes - there);
        register(&wait);
        let registered = Registered::new(watched, &wait);
        let _ = timeout(deadline.duration_since(now()), WaitFuture(wait.clone())).await;
        let (there, changed) = readable(&registered.watched);
        (there, changed || wait.changed.get())
    }
}

fn readable(watched: &[(Rc<Partition>, Offset)]) -> (u64, bool) {
    let mut sum = 0;
    for (partition, offset) in watched {
        let inner = partition.state.borrow();
        if inner.deleting || *offset < inner.log_start || *offset > inner.durable {
            return (sum, true);
        }
        sum += inner.readable_bytes(*offset);
    }
    (sum, false)
}

/// A wait that is known to its partitions; taken out of them when dropped, or idle partitions would collect them.
struct Registered {
    watched: Vec<(Rc<Partition>, Offset)>,
    wait: Rc<Wait>,
}

impl Registered {
    fn new(watched: Vec<(Rc<Partition>, Offset)>, wait: &Rc<Wait>) -> Self {
        for (partition, _) in &watched {
            partition.state.borrow_mut().waits.push(wait.clone());
        }
        Self {
            watched,
            wait: wait.clone(),
        }
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        for (partition, _) in &self.watched {
            partition
                .state
                .borrow_mut()
                .waits
                .retain(|wait| !Rc::ptr_eq(wait, &self.wait));
        }
    }
}

/// Offset and timestamp of the first record of a batch at or behind a time. A batch whose records cannot be read answers
/// for all of them.
fn first_record(batch: &[u8], timestamp_ms: i64, log_start: Offset) -> Option<(Offset, i64)> {
    let records = match Records::open(batch, &RecordLimits::default()) {
        Ok(records) => records,
        Err(_) => {
            let header = crate::batch::BatchHeader::view(batch)?;
            return Some((
                header.base_offset().max(log_start),
                header.latest_timestamp(),
            ));
        }
    };
    records
        .iter()
        .map_while(Result::ok)
        .find(|record| {
            record.timestamp_ms >= timestamp_ms
                && record.timestamp_ms != NO_TIMESTAMP
                && record.offset >= log_start
        })
        .map(|record| (record.offset, record.timestamp_ms))
}
