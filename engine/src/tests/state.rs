//! What a shard waits for, said by a test that stalls.

use std::fmt::Write;

use crate::shard::Shard;

impl Shard {
    /// See [`Engine::state`](crate::Engine::state).
    pub fn state(&self) -> String {
        let mut said = String::new();
        {
            let (log, queue) = (self.log.borrow(), self.queue.borrow());
            let _ = writeln!(
                said,
                "shard {}: unflushed {} of {}, pending {}, draining {}, closing {}, committed {}, full {}; log at {:?}, room {}, used {:?}, slots {:?}, spare {}; \
                 queued: {} controls, {} partitions, {} carries; rolled {}; waiting: commit {} flush {} room {} spare {} progress {}; stats {:?}",
                self.id,
                self.unflushed.get(),
                self.unflushed_limit(),
                self.pending.get(),
                self.draining.get(),
                self.closing.get(),
                self.committed.get(),
                self.full.get(),
                log.next,
                log.room(),
                log.used
                    .iter()
                    .map(|used| (used.ordinal, used.file.size, used.partitions.len()))
                    .collect::<Vec<_>>(),
                log.slots,
                log.spare.len(),
                queue.controls.len(),
                queue.partitions.len(),
                queue.carries.len(),
                self.rolled.borrow().len(),
                self.commit.waiters(),
                self.flush.waiters(),
                self.room.waiters(),
                self.spare_wanted.waiters(),
                self.progress.waiters(),
                self.stats.borrow().groups,
            );
        }
        for partition in self.all_partitions() {
            let inner = partition.state.borrow();
            let _ = writeln!(
                said,
                "  {}: {:?} start {} durable {} next {} pending {} ({}) tickets {} gone {} deleting {} damaged {} removing {}",
                partition.id,
                inner.phase,
                inner.log_start,
                inner.durable,
                inner.next_offset,
                inner.pending.len(),
                inner.pending_bytes,
                inner.tickets.len(),
                partition.gone.get(),
                inner.deleting,
                inner.refuses_appends,
                inner.removing
            );
            for span in &inner.spans {
                let _ = writeln!(
                    said,
                    "    span {} {} {} {}",
                    span.ordinal, span.sequence, span.segment, span.end
                );
            }
            for s in &inner.segments {
                let _ = writeln!(
                    said,
                    "    segment {}..{}: length {} logged {} durable {} flushed {} allocated {} named {} rolled {} sealed {} busy {} placing {} preparing {} head_on_disk {} leased {}",
                    s.base,
                    s.end,
                    s.length,
                    s.logged,
                    s.durable,
                    s.flushed,
                    s.allocated,
                    s.named,
                    s.rolled,
                    s.sealed,
                    s.busy,
                    s.placing,
                    s.preparing,
                    s.head_on_disk,
                    s.lease.is_shared()
                );
            }
        }
        said
    }
}
