//! Deleting what is old: by time, by size, and by request.
//!
//! Invariants: the new log start is durable before the first file goes; files go oldest first; a segment that a reader has
//! a lease on stays. A segment below the log start stays in the list until its files are gone, so that whoever comes after
//! a crash removes them.

use std::rc::Rc;
use std::time::Duration;

use trireme_runtime::sync::oneshot;
use trireme_runtime::{Share, fs, sleep, spawn_with, unix_ms};

use crate::admin::LEASE_POLL;
use crate::api::{PartitionRef, ReadError};
use crate::ids::Offset;
use crate::layout::entry::{Entry, RecordType};
use crate::layout::paths::{DataPath, SegmentFile};
use crate::mutations::{Mutation, on};
use crate::partition::{Partition, PartitionInner};
use crate::shard::Shard;

/// Runs for ever in the background share. One per shard.
pub(crate) async fn run(shard: Rc<Shard>) {
    loop {
        sleep(Duration::from_millis(
            shard.config.retention_check_interval_ms.max(1),
        ))
        .await;
        for partition in shard.all_partitions() {
            if shard.closing.get() {
                return;
            }
            if partition.gone.get() {
                continue;
            }
            let now_ms = unix_ms();
            let new_start = {
                let mut inner = partition.state.borrow_mut();
                inner
                    .producers
                    .expire(now_ms, shard.config.producer_id_expiration_ms);
                expired_through(&mut inner, now_ms)
            };
            if let Some(new_start) = new_start {
                shard.move_log_start(&partition, new_start).await;
            }
            trireme_runtime::yield_now().await;
        }
    }
}

/// Where the log would begin if everything expired went; `None` if nothing is. Rolls the newest segment if it goes too.
fn expired_through(inner: &mut PartitionInner, now_ms: i64) -> Option<Offset> {
    let config = inner.config.clone();
    if !config.delete || inner.deleting {
        return None;
    }
    let log_start = inner.log_start;
    let mut size: u64 = inner
        .segments
        .iter()
        .filter(|segment| segment.end > log_start)
        .map(|segment| segment.length)
        .sum();
    let mut new_start = None;
    let durable = inner.durable;
    for segment in inner
        .segments
        .iter_mut()
        .filter(|segment| segment.end > log_start)
    {
        let newest_ms = if segment.max_timestamp >= 0 {
            segment.max_timestamp
        } else {
            segment.created_ms
        };
        let is_old = config
            .retention_ms
            .is_some_and(|limit| now_ms.saturating_sub(newest_ms) > limit);
        let is_too_much = config
            .retention_bytes
            .is_some_and(|limit| size - segment.length >= limit && segment.rolled);
        if !(is_old || is_too_much) || segment.end > durable || segment.length == 0 {
            break;
        }
        segment.rolled = true;
        size -= segment.length;
        new_start = Some(segment.end);
    }
    new_start
}

impl Shard {
    /// See [`Engine::delete_records`](crate::Engine::delete_records).
    pub async fn delete_records(
        self: &Rc<Self>,
        reference: &PartitionRef,
        before: Offset,
    ) -> Result<Offset, ReadError> {
        let partition = self
            .partition(&reference.id)
            .ok_or(ReadError::UnknownPartition)?;
        let new_start = {
            let mut inner = partition.state.borrow_mut();
            let (log_start, high_watermark) = (inner.log_start, inner.durable);
            let new_start = if before < 0 { high_watermark } else { before };
            if before < -1 || new_start > high_watermark {
                return Err(ReadError::OffsetOutOfRange {
                    log_start,
                    high_watermark,
                });
            }
            if new_start <= log_start {
                return Ok(log_start);
            }
            if self.closing.get() {
                return Err(ReadError::ShuttingDown);
            }
            if new_start == inner.next_offset
                && let Some(last) = inner.segments.last_mut()
            {
                // Nothing of it is left, so its space need not stay.
                last.rolled = true;
            }
            new_start
        };
        self.move_log_start(&partition, new_start).await;
        Ok(partition.state.borrow().log_start)
    }

    /// Moves the log start forward, durably, and has the files below it removed. Where offsets are missing (a repair had to
    /// leave them out), the log starts behind them: with a segment, or at the end.
    async fn move_log_start(self: &Rc<Self>, partition: &Rc<Partition>, new_start: Offset) {
        let new_start = {
            let inner = partition.state.borrow();
            let next = inner.segment_reaching(new_start);
            next.map_or(inner.next_offset, |segment| segment.base.max(new_start))
        };
        let (done, durable) = oneshot();
        let entry = Entry {
            base_offset: new_start,
            ..Entry::new(RecordType::LogStart, partition.id)
        };
        if on(Mutation::LostTruncation) {
            self.complete_log_start(partition, new_start);
        } else {
            self.submit(entry, Vec::new(), Some(done));
            let _ = durable.await;
        }
        self.remove_below_start(partition);
    }

    /// The record of a new log start is durable.
    pub fn complete_log_start(&self, partition: &Partition, new_start: Offset) {
        let mut inner = partition.state.borrow_mut();
        inner.log_start = inner.log_start.max(new_start);
        let log_start = inner.log_start;
        inner.epochs.truncate_start(log_start);
        self.bury(&mut inner);
        // Whoever waits for an offset that is gone should hear of it.
        inner.waits.drain(..).for_each(|wait| wait.change());
    }

    /// Removes the segments below the log start in the background.
    pub fn remove_below_start(self: &Rc<Self>, partition: &Rc<Partition>) {
        let (shard, partition) = (self.clone(), partition.clone());
        {
            let mut inner = partition.state.borrow_mut();
            let log_start = inner.log_start;
            if inner.removing
                || !inner
                    .segments
                    .first()
                    .is_some_and(|first| first.rolled && first.end <= log_start)
            {
                return;
            }
            inner.removing = true;
        }
        spawn_with(Share::Background, async move {
            while shard.remove_below(&partition).await {}
            partition.state.borrow_mut().removing = false;
        })
        .detach();
    }

    /// Removes the segments that lie below the log start now, after one delay for all of them: were each to wait for its
    /// own behind the others, a log whose start moves faster than a segment per delay would grow without bound. Whether
    /// any was removed; there may be more then.
    async fn remove_below(self: &Rc<Self>, partition: &Rc<Partition>) -> bool {
        let (limit, has_files, delay_ms) = {
            let inner = partition.state.borrow();
            let has_files = inner
                .segments
                .iter()
                .take_while(|segment| segment.end <= inner.log_start)
                .any(|segment| segment.allocated > 0 || segment.placing);
            (
                inner.log_start,
                has_files,
                inner.config.file_delete_delay_ms,
            )
        };
        if has_files {
            sleep(Duration::from_millis(delay_ms.max(0) as u64)).await;
        }
        let mut any = false;
        while self.remove_oldest(partition, limit).await {
            any = true;
        }
        any
    }

    /// Removes the oldest segment if it ends at or below `limit`, which the log start has passed; whether it did.
    async fn remove_oldest(self: &Rc<Self>, partition: &Rc<Partition>, limit: Offset) -> bool {
        let base = {
            let inner = partition.state.borrow();
            match inner.segments.first() {
                Some(first)
                    if first.rolled && first.end <= limit && first.durable == first.length =>
                {
                    first.base
                }
                _ => return false,
            }
        };
        loop {
            // At shutdown what is left stays for the next start: the last checkpoint lists it.
            if partition.gone.get() || self.closing.get() {
                return false;
            }
            let in_use = {
                let inner = partition.state.borrow();
                let Some(first) = inner.segments.first().filter(|first| first.base == base) else {
                    return false;
                };
                first.busy || first.placing || first.preparing || first.lease.is_shared()
            };
            if !in_use {
                break;
            }
            sleep(LEASE_POLL).await;
        }
        if let Some(first) = partition.state.borrow_mut().segment_mut(base) {
            first.busy = true;
        }
        self.files.forget(partition.id, base);
        // Also where nothing is known of files: a life before this one may have made some after its last checkpoint.
        if let Err(error) = self.remove_segment_files(partition, base).await {
            tracing::warn!(partition = %partition.id, base, %error, "cannot remove an old segment");
            if let Some(first) = partition.state.borrow_mut().segment_mut(base) {
                first.busy = false;
            }
            self.progress.notify_all();
            return false;
        }
        let mut inner = partition.state.borrow_mut();
        self.progress.notify_all();
        if partition.gone.get() {
            // Who deletes the partition waits until nobody is busy with it, and does the rest.
            if let Some(first) = inner.segment_mut(base) {
                first.busy = false;
            }
            return false;
        }
        let segment = inner.segments.remove(0);
        debug_assert_eq!(segment.base, base);
        self.unflushed
            .set(self.unflushed.get().saturating_sub(segment.unflushed()));
        while inner
            .tail
            .front()
            .is_some_and(|chunk| chunk.segment == base)
        {
            let freed = inner.tail.pop_front();
            self.give_memory(freed);
        }
        inner.settle_spans();
        self.commit.notify_one();
        true
    }

    pub async fn remove_segment_files(
        &self,
        partition: &Partition,
        base: Offset,
    ) -> std::io::Result<()> {
        // The sidecars last: a `.log` without them would look damaged, the other way round nobody minds.
        for file in SegmentFile::ALL {
            let path = self.path(DataPath::Segment {
                partition: partition.id,
                base_offset: base,
                file,
            });
            match fs::remove_file(&path).await {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                other => other?,
            }
        }
        // That they are gone is durable with the next checkpoint, which no longer lists them.
        self.unsynced
            .borrow_mut()
            .insert(self.path(DataPath::Partition(partition.id)));
        Ok(())
    }
}
