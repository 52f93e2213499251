//! After a clean shutdown the partial last block of a segment lies in its file only. Before the first append behind it can be
//! logged it is loaded, and its image is put into the log, since from then on its copy in the file may be overwritten and
//! torn. (Sidecars have no such block: what fills none stays in the checkpoint.)

use std::rc::Rc;

use trireme_runtime::spawn;
use trireme_runtime::sync::oneshot;

use crate::api::{AppendError, ReadError};
use crate::ids::Offset;
use crate::layout::SUM_BLOCK;
use crate::layout::entry::{Entry, RecordType};
use crate::mutations::{Mutation, on};
use crate::partition::{Partition, PartitionInner, Phase};
use crate::shard::Shard;

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
            if let Err(error) = shard.try_load_head(&partition, base).await {
                tracing::error!(partition = %partition.id, base, %error, "cannot be appended to");
                shard.fail_pending(&partition);
            }
            let mut inner = partition.state.borrow_mut();
            inner.phase = Phase::Idle;
            shard.enqueue(&partition, &mut inner);
        })
        .detach();
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

    /// What is pending can never be logged: refuse it, now and from now on.
    fn fail_pending(&self, partition: &Partition) {
        let mut inner = partition.state.borrow_mut();
        inner.damaged = true;
        self.pending.set(self.pending.get() - inner.pending_bytes);
        inner.pending_bytes = 0;
        inner.pending.clear();
        inner
            .tickets
            .drain(..)
            .for_each(|ticket| ticket.fail(AppendError::Damaged));
        inner.next_offset = inner.durable;
        let durable = inner.durable;
        inner.producers.truncate_to(durable);
        inner.epochs.truncate_end(durable);
        while inner.segments.last().is_some_and(|segment| {
            segment.base >= durable && segment.length > 0 && segment.durable == 0
        }) {
            inner.segments.pop();
        }
        if let Some(segment) = inner.segments.last_mut() {
            segment.length = segment.durable;
            segment.end = durable;
            segment.index.pending.retain(|entry| entry.offset < durable);
            segment
                .time_index
                .pending
                .retain(|entry| entry.offset < durable);
        }
        let freed = inner.tail.clear();
        self.give_memory(freed);
    }
}
