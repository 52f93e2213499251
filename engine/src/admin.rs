//! Creating, deleting, configuring and describing the partitions of a shard.
//!
//! Invariants: a partition exists for others once its create record is durable, and is gone once its delete record is;
//! both take one group for any number of partitions. The files of a deleted partition go later; until then checkpoints
//! carry it as `deleting`, so that a crash in between leaves nothing behind.

use std::rc::Rc;
use std::time::Duration;

use trireme_runtime::fs;
use trireme_runtime::sync::oneshot;
use trireme_runtime::{Share, sleep, spawn_with};

use crate::api::{
    AppendError, EngineError, PartitionConfig, PartitionInfo, PartitionRef, ProducerInfo, ReadError,
};
use crate::ids::PartitionId;
use crate::layout::entry::{Entry, RecordType};
use crate::layout::paths::DataPath;
use crate::partition::{Partition, Phase};
use crate::shard::Shard;

/// How often it is looked whether a reader still holds a file that is to be removed.
pub(crate) const LEASE_POLL: Duration = Duration::from_millis(100);

impl Shard {
    /// See [`Engine::create`](crate::Engine::create).
    pub async fn create(
        self: &Rc<Self>,
        partitions: Vec<(PartitionRef, PartitionConfig)>,
    ) -> Vec<Result<(), EngineError>> {
        if self.closing.get() {
            return partitions
                .iter()
                .map(|_| Err(EngineError::ShuttingDown))
                .collect();
        }
        if self.full.get() {
            return partitions
                .iter()
                .map(|_| Err(EngineError::StorageFull))
                .collect();
        }
        let mut results = Vec::with_capacity(partitions.len());
        for (reference, config) in partitions {
            let config = self.configs.borrow_mut().share(config);
            let known = self.partitions.borrow().get(&reference.id).cloned();
            results.push(match known {
                Some(known) if known.state.borrow().deleting => Err(EngineError::UnknownPartition),
                Some(known) => {
                    known.state.borrow_mut().config = config;
                    Ok(())
                }
                None => {
                    let epoch = self.epoch.get();
                    let partition = Rc::new(Partition::new(reference.id, config, epoch as u32, 0));
                    self.partitions.borrow_mut().insert(reference.id, partition);
                    let entry = Entry {
                        leader_epoch: epoch,
                        ..Entry::new(RecordType::Create, reference.id)
                    };
                    self.submit_lazily(entry);
                    Ok(())
                }
            });
        }
        // Also for those that exist: their create record may be on its way only.
        self.barrier().await;
        results
    }

    /// Waits until all records that are queued now are durable: a mark behind them that says so.
    pub async fn barrier(&self) {
        let (done, durable) = oneshot();
        let marker = Entry::new(RecordType::Mark, PartitionId::default());
        self.submit(marker, Vec::new(), Some(done));
        let _ = durable.await;
    }

    /// See [`Engine::delete`](crate::Engine::delete).
    pub async fn delete(
        self: &Rc<Self>,
        partitions: Vec<PartitionRef>,
    ) -> Vec<Result<(), EngineError>> {
        if self.closing.get() {
            return partitions
                .iter()
                .map(|_| Err(EngineError::ShuttingDown))
                .collect();
        }
        let mut results = Vec::with_capacity(partitions.len());
        let mut deleted = Vec::new();
        for reference in partitions {
            let Some(partition) = self.partition(&reference.id) else {
                results.push(Err(EngineError::UnknownPartition));
                continue;
            };
            self.begin_delete(&partition);
            self.submit_lazily(Entry::new(RecordType::Delete, reference.id));
            deleted.push(partition);
            results.push(Ok(()));
        }
        if deleted.is_empty() {
            return results;
        }
        self.barrier().await;
        for partition in deleted {
            self.end_delete(&partition);
        }
        results
    }

    /// Nothing is appended any more, and what is not in a group never will be.
    fn begin_delete(&self, partition: &Partition) {
        let mut inner = partition.state.borrow_mut();
        inner.deleting = true;
        self.pending.set(self.pending.get() - inner.pending_bytes);
        inner.pending_bytes = 0;
        inner.pending.clear();
        inner.waits.drain(..).for_each(|wait| wait.change());
    }

    /// The delete record is durable: forget the partition, and remove its files when nobody reads them.
    pub fn end_delete(self: &Rc<Self>, partition: &Rc<Partition>) {
        partition.gone.set(true);
        let delay_ms = {
            let mut inner = partition.state.borrow_mut();
            inner
                .tickets
                .drain(..)
                .for_each(|ticket| ticket.fail(AppendError::UnknownPartition));
            inner.waits.drain(..).for_each(|wait| wait.change());
            self.unflushed
                .set(self.unflushed.get().saturating_sub(inner.unflushed()));
            let freed = inner.tail.clear();
            self.give_memory(freed);
            inner.spans.clear();
            inner.producers = Default::default();
            inner.phase = Phase::Idle;
            inner.config.file_delete_delay_ms
        };
        let (shard, partition) = (self.clone(), partition.clone());
        spawn_with(Share::Background, async move {
            shard.remove_partition(&partition, delay_ms).await
        })
        .detach();
    }

    async fn remove_partition(&self, partition: &Rc<Partition>, delay_ms: i64) {
        let has_files = {
            let inner = partition.state.borrow();
            inner.has_directory
                || inner
                    .segments
                    .iter()
                    .any(|segment| segment.allocated > 0 || segment.placing)
        };
        if has_files {
            sleep(Duration::from_millis(delay_ms.max(0) as u64)).await;
            while partition.state.borrow().segments.iter().any(|segment| {
                segment.busy || segment.placing || segment.preparing || segment.lease.is_shared()
            }) {
                sleep(LEASE_POLL).await;
            }
            for segment in &partition.state.borrow().segments {
                self.files.forget(partition.id, segment.base);
            }
        }
        if self.closing.get() {
            // The last checkpoint lists the partition: the next start removes the files.
            return;
        }
        // Also where nothing is known of files: a life before this one may have made some after its last checkpoint.
        if let Err(error) = self.remove_directory(partition.id).await {
            // It is tried again at the next start.
            tracing::warn!(partition = %partition.id, %error, "cannot remove the files of a deleted partition");
            return;
        }
        self.partitions.borrow_mut().remove(&partition.id);
        partition.state.borrow_mut().segments.clear();
    }

    /// Removes a partition's directory with all files in it. Durable when it returns.
    pub async fn remove_directory(&self, id: PartitionId) -> std::io::Result<()> {
        let directory = self.path(DataPath::Partition(id));
        let entries = match fs::read_dir(&directory).await {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            other => other?,
        };
        for entry in entries {
            fs::remove_file(directory.join(&entry.name)).await?;
        }
        fs::remove_dir(&directory).await?;
        fs::sync_dir(self.path(DataPath::PartitionsRoot)).await
    }

    /// See [`Engine::configure`](crate::Engine::configure).
    pub fn configure(
        &self,
        reference: PartitionRef,
        config: PartitionConfig,
    ) -> Result<(), EngineError> {
        let partition = self
            .partition(&reference.id)
            .ok_or(EngineError::UnknownPartition)?;
        let config = self.configs.borrow_mut().share(config);
        partition.state.borrow_mut().config = config;
        Ok(())
    }

    pub fn list(&self) -> Vec<PartitionRef> {
        let all = self.all_partitions();
        let living = all
            .iter()
            .filter(|partition| !partition.state.borrow().deleting);
        living
            .map(|partition| PartitionRef {
                id: partition.id,
                shard: self.id,
            })
            .collect()
    }

    pub fn describe(&self, reference: &PartitionRef) -> Result<PartitionInfo, ReadError> {
        let partition = self
            .partition(&reference.id)
            .ok_or(ReadError::UnknownPartition)?;
        let inner = partition.state.borrow();
        let kept = || {
            inner
                .segments
                .iter()
                .filter(|segment| segment.end > inner.log_start)
        };
        let producers = inner.producers.snapshot().map(|producer| ProducerInfo {
            producer_id: producer.producer_id,
            epoch: producer.epoch,
            last_sequence: producer
                .batches
                .last()
                .map_or(-1, |batch| batch.last_sequence),
            last_timestamp_ms: producer.last_seen_ms,
        });
        Ok(PartitionInfo {
            size_bytes: kept().map(|segment| segment.durable).sum(),
            log_start: inner.log_start,
            high_watermark: inner.durable,
            log_end: inner.next_offset,
            leader_epoch: self.epoch.get(),
            segments: kept().count() as u32,
            max_timestamp_ms: kept()
                .map(|segment| segment.max_timestamp)
                .max()
                .unwrap_or(-1),
            producers: producers.collect(),
        })
    }
}
