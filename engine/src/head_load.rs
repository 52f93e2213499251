//! After a clean shutdown the partial last block of a segment lies in its file only. Before the first append behind it can be
//! logged it is loaded, and its image is put into the log, since from then on its copy in the file may be overwritten and
//! torn. (Sidecars have no such block: what fills none stays in the checkpoint.)

use std::rc::Rc;
use std::time::Duration;

use trireme_runtime::sync::oneshot;
use trireme_runtime::{sleep, spawn};

use crate::api::{AppendError, ReadError};
use crate::ids::Offset;
use crate::layout::SUM_BLOCK;
use crate::layout::entry::{Entry, RecordType};
use crate::mutations::{Mutation, on};
use crate::partition::{Partition, PartitionInner, Phase};
use crate::shard::Shard;

/// Between two tries to load a head: a drive may have refused a read once, and what is damaged costs a read and a line of
/// the log each time.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// So often it is tried again while the engine shuts down, before what is pending is given up.
const TRIES_WHILE_CLOSING: u32 = 3;

impl Shard {
    /// Parks the partition and loads the head of its last segment's tail.
    pub fn load_head(
        self: &Rc<Self>,
        partition: &Rc<Partition>,
        inner: &mut PartitionInner,
        base: Offset,
    ) {
        inner.phase = Phase::Parked;
        let (shard, partition) = (self.clone(), partition.clone());
        spawn(async move {
            shard.load_head_or_wait(&partition, base).await;
            let mut inner = partition.state.borrow_mut();
            inner.phase = Phase::Idle;
            shard.enqueue(&partition, &mut inner);
        })
        .detach();
    }

    /// Returns when the head is loaded, or nothing needs it any more. What is pending stays so meanwhile: some of it may be
    /// answered or read already. More is refused.
    async fn load_head_or_wait(self: &Rc<Self>, partition: &Rc<Partition>, base: Offset) {
        let mut left = TRIES_WHILE_CLOSING;
        while let Err(error) = self.try_load_head(partition, base).await {
            tracing::error!(partition = %partition.id, base, %error, "cannot be appended to; trying again");
            partition.state.borrow_mut().refuses_appends = true;
            sleep(RETRY_AFTER).await;
            if partition.state.borrow().pending.is_empty() {
                break;
            }
            if self.closing.get() {
                left -= 1;
                if left == 0 {
                    return self.give_up_pending(partition);
                }
            }
        }
        partition.state.borrow_mut().refuses_appends = false;
    }

    async fn try_load_head(
        self: &Rc<Self>,
        partition: &Rc<Partition>,
        base: Offset,
    ) -> Result<(), ReadError> {
        let view = self.view(partition, base).await?;
        let (start, flushed) = {
            let inner = partition.state.borrow();
            let Some(segment) = inner.segment(base) else {
                return Ok(());
            };
            (
                segment.flushed - segment.flushed % SUM_BLOCK as u64,
                segment.flushed,
            )
        };
        debug_assert!(flushed > start, "only a partial block is loaded");
        let block = self
            .read_verified(partition, base, &view, start, flushed)
            .await?
            .to_vec();
        let (done, durable) = oneshot();
        let entry = Entry {
            segment_base: base,
            position: start,
            len: block.len() as u32,
            ..Entry::new(RecordType::BlockImage, partition.id)
        };
        if on(Mutation::HeadWithoutImage) {
            let sequence = self.log.borrow().durable_through;
            self.complete_head(partition, &entry, &block, sequence);
            return Ok(());
        }
        self.submit(entry, block, Some(done));
        let _ = durable.await;
        Ok(())
    }

    /// The image of a head is durable in the log, so that its block may be written again: it belongs to the tail.
    pub fn complete_head(
        &self,
        partition: &Rc<Partition>,
        entry: &Entry,
        block: &[u8],
        sequence: u64,
    ) {
        let mut inner = partition.state.borrow_mut();
        let inner = &mut *inner;
        let (base, start) = (entry.segment_base, entry.position);
        if inner.segment(base).is_none() {
            return;
        }
        let chunk_max = self.chunk_max();
        let taken = inner.tail.put_head(base, start, block, chunk_max);
        self.take_memory(taken);
        let segment = inner.segment_mut(base).expect("seen");
        segment.flushed = start;
        segment.sums.pending.pop();
        (segment.head_on_disk, segment.view) = (false, None);
        self.unflushed
            .set(self.unflushed.get() + block.len() as u64);
        self.note_span(partition, inner, base, entry.end_position(), sequence);
    }

    /// After a replayed block image: the sum of the block, which is written again, goes.
    pub fn drop_head_sum(&self, partition: &Partition, base: Offset) {
        if let Some(segment) = partition.state.borrow_mut().segment_mut(base) {
            let blocks = segment.flushed / SUM_BLOCK as u64;
            let in_file = u64::from(segment.sums.in_file);
            segment
                .sums
                .pending
                .truncate(blocks.saturating_sub(in_file) as usize);
        }
    }

    /// Refuses what is pending, so that the engine can end. The partition in memory is not what a start would find then, so
    /// no closed checkpoint may be written of it.
    fn give_up_pending(&self, partition: &Partition) {
        let mut inner = partition.state.borrow_mut();
        tracing::error!(partition = %partition.id, bytes = inner.pending_bytes, "appends are lost: not logged before the end");
        self.gave_up.set(true);
        self.pending.set(self.pending.get() - inner.pending_bytes);
        inner.pending_bytes = 0;
        inner.pending.clear();
        inner
            .tickets
            .drain(..)
            .for_each(|ticket| ticket.fail(AppendError::Damaged));
        self.commit.notify_one();
    }
}
