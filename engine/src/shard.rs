//! A shard: one commit log and the partitions that live in it, all on one core.
//!
//! Invariants:
//! - No borrow of a `RefCell` here lives across an await.
//! - What is answered is durable: answers are given by [`committer`](crate::committer) only, after the write of the group
//!   (and of the direct run) has returned; a failed write or sync ends the process and is never repeated.
//! - `unflushed` counts the durable bytes that are not in their segments, `pending` those not durable yet; their sum is
//!   bounded, by answering later and then by refusing.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, VecDeque};
use std::path::PathBuf;
use std::rc::{Rc, Weak};

use foldhash::fast::FixedState;
use hashbrown::HashMap;
use trireme_runtime::JoinHandle;
use trireme_runtime::sync::{Notify, OneSender, Semaphore};

use crate::api::{EngineConfig, PartitionConfig, ShardStats};
use crate::commit_log::CommitLog;
use crate::files::Files;
use crate::ids::{Offset, PartitionId};
use crate::layout::BLOCK;
use crate::layout::entry::Entry;
use crate::layout::paths::DataPath;
use crate::pace::Pacer;
use crate::partition::{Partition, PartitionInner, Phase};

/// Appended but not yet durable bytes beyond which appends are refused, as a share of `unflushed_max_bytes`.
const PENDING_SHARE: u64 = 2;
/// Log files are not made smaller than this, beside the first one.
const WAL_FILE_BYTES_MIN: u64 = 256 << 10;
/// Largest chunk of a tail.
pub(crate) const CHUNK_BYTES_MAX: usize = 1 << 20;
/// No tail chunk is made smaller than this for lack of memory.
const CHUNK_BYTES_FLOOR: usize = 16 * 1024;

pub(crate) type Map<K, V> = HashMap<K, V, FixedState>;

/// A record of the log that is not a run of batches.
pub(crate) struct Control {
    pub entry: Entry,
    pub payload: Vec<u8>,
    /// Told the group's sequence when it is durable.
    pub done: Option<OneSender<u64>>,
}

/// What waits for the committer. Controls go before runs: a partition's create record stands before its first batch.
#[derive(Default)]
pub(crate) struct Queue {
    pub controls: VecDeque<Control>,
    pub partitions: VecDeque<Rc<Partition>>,
    /// Partitions whose unflushed bytes shall be logged again.
    pub carries: VecDeque<Rc<Partition>>,
}

/// The views of segments that are loaded, oldest first, with their sizes.
#[derive(Default)]
pub(crate) struct Views {
    pub queue: VecDeque<(Weak<Partition>, Offset, usize)>,
    pub bytes: usize,
}

/// A chunk of a tail that is flushed and may be dropped.
pub(crate) struct Evictable {
    pub partition: Weak<Partition>,
    pub segment: Offset,
    pub start: u64,
}

pub(crate) struct Shard {
    pub id: u16,
    pub config: Rc<EngineConfig>,
    pub directory_id: [u8; 16],
    pub unflushed_max: u64,
    pub tail_memory_max: u64,
    pub partitions: RefCell<Map<PartitionId, Rc<Partition>>>,
    pub queue: RefCell<Queue>,
    pub log: RefCell<CommitLog>,
    pub files: Files,
    pub evictable: RefCell<VecDeque<Evictable>>,
    /// Directories with new names in them that are not synced yet.
    pub unsynced: RefCell<BTreeSet<PathBuf>>,
    /// Partitions with a segment that was rolled and is to be sealed.
    pub rolled: RefCell<VecDeque<Rc<Partition>>>,
    pub views: RefCell<Views>,
    pub configs: RefCell<ConfigPool>,
    pub flusher: RefCell<Option<JoinHandle<()>>>,
    /// Something was appended.
    pub appended: Notify,
    pub pacer: RefCell<Pacer>,
    /// One checkpoint at a time.
    pub checkpointing: Semaphore,
    /// Largest log file.
    pub wal_file_bytes: u64,
    /// Somebody waits until everything pending is durable, whatever is unflushed.
    pub draining: Cell<u32>,
    /// Something is in the queue, or it closes.
    pub commit: Notify,
    /// There may be something to flush, carry or checkpoint.
    pub flush: Notify,
    /// A spare log file is wanted.
    pub spare_wanted: Notify,
    /// Flushing, or a new log file, made room.
    pub room: Notify,
    /// A group became durable.
    pub progress: Notify,
    /// So much was written that the free space should be looked at.
    pub space: Notify,
    /// Bytes logged since it was.
    pub logged_unseen: Cell<u64>,
    pub stats: RefCell<ShardStats>,
    pub unflushed: Cell<u64>,
    pub pending: Cell<u64>,
    pub tail_memory: Cell<u64>,
    /// Appends are refused: the disk is full, or nearly.
    pub full: Cell<bool>,
    pub closing: Cell<bool>,
    /// Appends that were accepted could not be logged before the end.
    pub gave_up: Cell<bool>,
    /// The committer has nothing left to do and ended.
    pub committed: Cell<bool>,
    /// Leader epoch of what is appended.
    pub epoch: Cell<i32>,
    /// Segments rolled, runs done and the like since the last checkpoint: reason enough for one.
    pub checkpoint_number: Cell<u64>,
}

impl Shard {
    pub fn new(
        id: u16,
        config: Rc<EngineConfig>,
        directory_id: [u8; 16],
        shards: u16,
        log: CommitLog,
        files: Files,
    ) -> Self {
        let shards = u64::from(shards.max(1));
        Self {
            id,
            directory_id,
            unflushed_max: config.unflushed_max_bytes / shards,
            tail_memory_max: config.tail_memory_bytes / shards,
            partitions: RefCell::default(),
            queue: RefCell::default(),
            log: RefCell::new(log),
            files,
            evictable: RefCell::default(),
            unsynced: RefCell::default(),
            rolled: RefCell::default(),
            views: RefCell::default(),
            configs: RefCell::default(),
            flusher: RefCell::default(),
            appended: Notify::new(),
            pacer: RefCell::default(),
            checkpointing: Semaphore::new(1),
            wal_file_bytes: (config.unflushed_max_bytes / shards / 4)
                .clamp(
                    WAL_FILE_BYTES_MIN,
                    u64::from(config.wal_file_bytes).max(WAL_FILE_BYTES_MIN),
                )
                .next_multiple_of(BLOCK as u64),
            draining: Cell::new(0),
            config,
            commit: Notify::new(),
            flush: Notify::new(),
            spare_wanted: Notify::new(),
            room: Notify::new(),
            progress: Notify::new(),
            space: Notify::new(),
            logged_unseen: Cell::new(0),
            stats: RefCell::new(ShardStats::default()),
            unflushed: Cell::new(0),
            pending: Cell::new(0),
            tail_memory: Cell::new(0),
            full: Cell::new(false),
            closing: Cell::new(false),
            gave_up: Cell::new(false),
            committed: Cell::new(false),
            epoch: Cell::new(0),
            checkpoint_number: Cell::new(0),
        }
    }

    pub fn path(&self, path: DataPath) -> PathBuf {
        path.below(&self.config.data_dir)
    }

    pub fn partition(&self, id: &PartitionId) -> Option<Rc<Partition>> {
        let partitions = self.partitions.borrow();
        partitions
            .get(id)
            .filter(|partition| !partition.gone.get())
            .cloned()
    }

    pub fn all_partitions(&self) -> Vec<Rc<Partition>> {
        let mut all: Vec<_> = self.partitions.borrow().values().cloned().collect();
        // The map's order is the same in every run, but says nothing; by id the disk sees neighbours together.
        all.sort_unstable_by_key(|partition| partition.id);
        all
    }

    /// Puts a partition into the committer's queue, if it has something for it and is not there or parked.
    pub fn enqueue(self: &Rc<Self>, partition: &Rc<Partition>, inner: &mut PartitionInner) {
        if inner.phase == Phase::Idle
            && let Some(first) = inner.pending.front()
        {
            let base = first.segment;
            if inner
                .segment(base)
                .is_some_and(|segment| segment.head_on_disk)
            {
                return self.load_head(partition, inner, base);
            }
            inner.phase = Phase::Queued;
            self.queue
                .borrow_mut()
                .partitions
                .push_back(partition.clone());
            self.commit.notify_one();
        }
    }

    /// Queues a record for the next group and wakes the committer.
    pub fn submit(&self, entry: Entry, payload: Vec<u8>, done: Option<OneSender<u64>>) {
        self.queue.borrow_mut().controls.push_back(Control {
            entry,
            payload,
            done,
        });
        self.commit.notify_one();
    }

    /// Queues a record that need not hurry: it rides with the next group.
    pub fn submit_lazily(&self, entry: Entry) {
        self.queue.borrow_mut().controls.push_back(Control {
            entry,
            payload: Vec::new(),
            done: None,
        });
    }

    /// Most bytes that may be pending before appends are refused.
    pub fn pending_max(&self) -> u64 {
        self.unflushed_max / PENDING_SHARE
    }

    /// Largest chunk a tail may take now: with many partitions, small ones, so that half filled chunks do not fill memory.
    pub fn chunk_max(&self) -> usize {
        let partitions = self.partitions.borrow().len().max(1);
        let fair = (self.tail_memory_max / 8) as usize / partitions;
        fair.checked_next_power_of_two()
            .map_or(CHUNK_BYTES_MAX, |size| size / 2)
            .clamp(CHUNK_BYTES_FLOOR, CHUNK_BYTES_MAX)
    }

    /// Notes memory taken for a tail and drops the oldest flushed chunks while there is too much.
    pub fn take_memory(&self, bytes: u64) {
        self.tail_memory.set(self.tail_memory.get() + bytes);
    }

    pub fn give_memory(&self, bytes: u64) {
        self.tail_memory
            .set(self.tail_memory.get().saturating_sub(bytes));
    }

    /// Lets go of what lies below the partition's log start.
    pub fn bury(&self, inner: &mut PartitionInner) {
        let buried = inner.bury();
        self.unflushed
            .set(self.unflushed.get().saturating_sub(buried.unflushed));
        self.give_memory(buried.memory);
    }

    /// Drops flushed chunks, oldest first, while tails take more than their budget.
    pub fn evict(&self) {
        while self.tail_memory.get() > self.tail_memory_max {
            let Some(oldest) = self.evictable.borrow_mut().pop_front() else {
                break;
            };
            let Some(partition) = oldest.partition.upgrade() else {
                continue;
            };
            let freed = partition
                .state
                .borrow_mut()
                .evict(oldest.segment, oldest.start);
            self.give_memory(freed);
        }
    }
}

/// Shares one configuration among partitions that have equal ones.
#[derive(Default)]
pub(crate) struct ConfigPool(Option<Rc<PartitionConfig>>);

impl ConfigPool {
    pub fn share(&mut self, config: PartitionConfig) -> Rc<PartitionConfig> {
        match &self.0 {
            Some(last) if **last == config => last.clone(),
            _ => {
                let config = Rc::new(config);
                self.0 = Some(config.clone());
                config
            }
        }
    }
}
