//! Writing checkpoints of a live shard.
//!
//! Invariants:
//! - A checkpoint says only what is durable: the state is taken at one moment, and written when everything that it reflects
//!   has become durable. New names are synced before.
//! - Slots are written in turn. A closed slot (clean shutdown) is opened before the other one is overwritten.

use std::io;
use std::rc::Rc;

use trireme_runtime::fs::{self, OpenOptions};
use trireme_runtime::{AlignedBuf, abort};

use crate::files::open_direct;
use crate::ids::Offset;
use crate::layout::BLOCK;
use crate::layout::checkpoint::{
    CheckpointBody, PartitionState, encode_checkpoint, set_closed, slot_of,
};
use crate::layout::paths::DataPath;
use crate::mutations::{Mutation, on};
use crate::partition::Partition;
use crate::shard::Shard;

/// The state of a shard at one moment.
struct Snapshot {
    body: CheckpointBody,
    /// The first use of a log file that is needed.
    ordinal: u64,
    /// What must become durable before this may be written.
    awaited: Vec<(Rc<Partition>, Offset)>,
}

impl Shard {
    /// Takes and writes a checkpoint, and lets go of the log files that are no longer needed. An operating error (no space)
    /// leaves the old one in force.
    pub async fn checkpoint(self: &Rc<Self>) {
        if let Err(error) = self.try_checkpoint().await {
            if error.kind() == io::ErrorKind::StorageFull {
                self.set_full(true);
            } else {
                tracing::error!(shard = self.id, %error, "cannot write a checkpoint");
            }
            trireme_runtime::sleep(crate::flush::RETRY).await;
        }
    }

    /// The same, with its error.
    pub async fn try_checkpoint(self: &Rc<Self>) -> io::Result<()> {
        let _turn = self.checkpointing.acquire(1).await;
        self.write_full_sidecars().await?;
        let snapshot = self.snapshot(false);
        self.draining.set(self.draining.get() + 1);
        self.commit.notify_one();
        for (partition, offset) in &snapshot.awaited {
            if on(Mutation::CheckpointTooEarly) {
                break;
            }
            while !partition.gone.get() && partition.state.borrow().durable < *offset {
                self.progress.notified().await;
            }
        }
        self.draining.set(self.draining.get() - 1);
        self.sync_names().await;
        let number = self.checkpoint_number.get() + 1;
        self.write_slot(number, &snapshot.body).await?;
        self.checkpoint_number.set(number);
        self.log
            .borrow_mut()
            .release(slot_of(number), snapshot.ordinal);
        self.stats.borrow_mut().checkpoints += 1;
        self.room.notify_all();
        self.commit.notify_one();
        Ok(())
    }

    /// The last two checkpoints of a shard that is settled, the same in both slots, and both closed.
    pub async fn close_checkpoints(&self) -> io::Result<()> {
        let _turn = self.checkpointing.acquire(1).await;
        let snapshot = self.snapshot(true);
        debug_assert!(snapshot.awaited.is_empty());
        self.sync_names().await;
        let number = self.checkpoint_number.get();
        for number in [number + 1, number + 2] {
            self.write_slot(number, &snapshot.body).await?;
            self.checkpoint_number.set(number);
        }
        self.close_slot(number + 1, true).await?;
        self.close_slot(number + 2, true).await
    }

    fn snapshot(&self, clean: bool) -> Snapshot {
        let log = self.log.borrow();
        let mut ordinal = log.current().ordinal;
        let next_sequence = log.durable_through + 1;
        let mut awaited = Vec::new();
        let mut states = Vec::new();
        for partition in self.all_partitions() {
            let mut inner = partition.state.borrow_mut();
            self.bury(&mut inner);
            if inner.durable < inner.next_offset && !inner.deleting {
                awaited.push((partition.clone(), inner.next_offset));
            }
            let first = inner
                .spans
                .first()
                .filter(|_| !on(Mutation::CheckpointSkipsLog));
            ordinal = ordinal.min(first.map_or(u64::MAX, |span| span.ordinal));
            states.push(PartitionState {
                id: partition.id,
                created_epoch: inner.created_epoch,
                log_start: inner.log_start,
                next_offset: inner.next_offset,
                replay_from_sequence: first
                    .map_or(next_sequence, |span| span.sequence.min(next_sequence)),
                segments: match partition.gone.get() {
                    true => Vec::new(),
                    false => inner
                        .segments
                        .iter()
                        .map(|segment| segment.state())
                        .collect(),
                },
                epochs: inner.epochs.entries().to_vec(),
                producers: inner.producers.snapshot().collect(),
                deleting: inner.deleting,
            });
        }
        let body = CheckpointBody {
            incarnation: log.identity.incarnation,
            nonce: log.identity.nonce,
            node_epoch: self.epoch.get() as u32,
            clean,
            unix_ms: self.wall_ms(),
            extents: log.extents(ordinal, clean.then_some(log.next)),
            files: log.file_states(),
            partitions: states,
        };
        Snapshot {
            body,
            ordinal,
            awaited,
        }
    }

    /// Writes the sidecar blocks that are full, so that checkpoints stay small.
    async fn write_full_sidecars(&self) -> io::Result<()> {
        for partition in self.all_partitions() {
            let due: Vec<Offset> = {
                let inner = partition.state.borrow();
                let due = |segment: &&crate::segment::Segment| {
                    !segment.sealed
                        && segment.allocated > 0
                        && !segment.busy
                        && !segment.head_on_disk
                        && segment.sums.full_blocks()
                            + segment.index.full_blocks()
                            + segment.time_index.full_blocks()
                            > 0
                };
                inner
                    .segments
                    .iter()
                    .filter(due)
                    .map(|segment| segment.base)
                    .collect()
            };
            for base in due {
                if let Some(segment) = partition.state.borrow_mut().segment_mut(base) {
                    segment.busy = true;
                }
                let written = self.write_sidecars(&partition, base).await;
                if let Some(segment) = partition.state.borrow_mut().segment_mut(base) {
                    segment.busy = false;
                }
                self.progress.notify_all();
                written?;
            }
        }
        Ok(())
    }

    /// Makes new names durable.
    async fn sync_names(&self) {
        // In order: a parent's name sorts before what is in it.
        let directories: Vec<_> = self.unsynced.take().into_iter().collect();
        if !directories.is_empty() && !on(Mutation::NamesNotSynced) {
            sync_directories(directories).await;
        }
    }

    /// Makes the names in these directories durable, whoever else may be about to.
    pub async fn sync_directories(&self, directories: [DataPath; 2]) {
        sync_directories(directories.map(|path| self.path(path)).to_vec()).await;
    }

    /// Writes checkpoint `number` to its slot. Durable when it returns.
    pub async fn write_slot(&self, number: u64, body: &CheckpointBody) -> io::Result<()> {
        let bytes = encode_checkpoint(self.id, self.directory_id, number, body);
        let path = self.path(DataPath::Checkpoint {
            shard: self.id,
            slot: slot_of(number),
        });
        write_slot_bytes(&path, &bytes).await
    }

    /// Sets or clears the mark that says that both slots are durable, in the slot of checkpoint `number`.
    pub async fn close_slot(&self, number: u64, closed: bool) -> io::Result<()> {
        let path = self.path(DataPath::Checkpoint {
            shard: self.id,
            slot: slot_of(number),
        });
        let file = open_direct(&path, OpenOptions::READ_WRITE).await?;
        let (result, mut block) = file
            .read_exact_at(AlignedBuf::with_capacity(BLOCK), 0, BLOCK)
            .await;
        result?;
        set_closed(&mut block, closed);
        let (result, _) = file.write_durable_at(block, 0).await;
        result.unwrap_or_else(|error| abort(&format!("{}: {error}", path.display())));
        Ok(())
    }
}

async fn sync_directories(directories: Vec<std::path::PathBuf>) {
    let first = directories[0].display().to_string();
    if let Err(error) = fs::sync_dirs(directories).await {
        abort(&format!("sync of {first} and others: {error}"));
    }
}

/// Writes a slot's bytes, and cuts off what a longer one before left behind. Durable when it returns, name included.
pub(crate) async fn write_slot_bytes(path: &std::path::Path, bytes: &[u8]) -> io::Result<()> {
    let is_new = !fs::exists(path).await?;
    let file = open_direct(path, OpenOptions::CREATE).await?;
    let mut buf = AlignedBuf::with_capacity(bytes.len());
    buf.extend_from_slice(bytes);
    let (result, _) = file.write_durable_at(buf, 0).await;
    match result {
        Err(error) if error.kind() == io::ErrorKind::StorageFull => return Err(error),
        Err(error) => abort(&format!("{}: {error}", path.display())),
        Ok(()) => {}
    }
    if file.size().await? > bytes.len() as u64 {
        file.truncate(bytes.len() as u64).await?;
        file.sync_all()
            .await
            .unwrap_or_else(|error| abort(&format!("{}: {error}", path.display())));
    }
    if is_new {
        fs::sync_dir(path.parent().expect("a slot lies in a directory")).await?;
    }
    Ok(())
}
