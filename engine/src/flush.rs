//! The flusher of a shard: brings tails to their segments in large writes, logs small rests again, checkpoints, and so gives
//! log files back. Runs in the background share; clients go first.
//!
//! Invariants:
//! - The oldest log file is emptied first: what stands in it is flushed, and what is too little for a flush is carried.
//! - A file goes back to the spare ones only when both checkpoint slots begin behind it ([`CommitLog::release`]).
//! - Small partitions are flushed in sets: files made together, writes under way together.
//! - No space on the disk is no failure: it is noted, and tried again later.
//!
//! [`CommitLog::release`]: crate::commit_log::CommitLog::release

use std::rc::Rc;
use std::time::Duration;

use trireme_runtime::sync::Semaphore;
use trireme_runtime::{Share, sleep, spawn_with, timeout, unix_ms};

use crate::commit_log::create_file;
use crate::layout::SUM_BLOCK;
use crate::layout::entry::{Entry, RecordType};
use crate::partition::{Partition, Phase};
use crate::shard::Shard;
use crate::store::FLUSH_BYTES_MAX;

/// Before something that found no space is tried again.
pub(crate) const RETRY: Duration = Duration::from_millis(200);
/// Partitions with less than this to flush are carried instead: no file is made for a few KiB.
const CARRY_BYTES_MAX: u64 = 2 * SUM_BLOCK as u64;
/// Partitions that are flushed together at most.
const SET_PARTITIONS_MAX: usize = 32;
/// Bytes of segments that are being written at the same time.
const SET_BYTES_MAX: u64 = FLUSH_BYTES_MAX;
/// Least spare log files kept ready.
const SPARES: usize = 1;
/// The free space is looked at whenever so much was logged.
const SPACE_BYTES: u64 = 8 << 20;
/// Direct runs leave little in the log; after so many bytes of them a checkpoint bounds what recovery must piece together.
const DIRECT_BYTES_PER_CHECKPOINT: u64 = 512 << 20;

/// Runs until the shard is closing. One per shard.
pub(crate) async fn run(shard: Rc<Shard>) {
    let mut direct_bytes = 0;
    loop {
        if shard.closing.get() {
            return;
        }
        let sealing = shard.rolled.borrow_mut().pop_front();
        if let Some(partition) = sealing {
            if shard.flush_partition(&partition, false).await.is_err() {
                shard.rolled.borrow_mut().push_back(partition);
                pause(&shard).await;
            }
            continue;
        }
        let direct_now = shard.stats.borrow().direct_bytes;
        if direct_now - direct_bytes > DIRECT_BYTES_PER_CHECKPOINT {
            direct_bytes = direct_now;
            shard.checkpoint().await;
            continue;
        }
        if shard.must_free_log() {
            if !shard.free_oldest_file().await {
                pause(&shard).await;
            }
            continue;
        }
        if shard.tail_memory.get() > shard.tail_memory_max {
            shard.evict();
            if shard.tail_memory.get() > shard.tail_memory_max && shard.flush_largest().await {
                continue;
            }
        }
        shard.flush.notified().await;
    }
}

/// Waits a little, less if the shard closes.
async fn pause(shard: &Shard) {
    let _ = timeout(RETRY, shard.flush.notified()).await;
    if !shard.closing.get() {
        sleep(Duration::from_millis(1)).await;
    }
}

/// Keeps a spare log file ready. One per shard.
pub(crate) async fn keep_spare(shard: Rc<Shard>) {
    loop {
        shard.spare_wanted.notified().await;
        // Also while it closes: the committer may need a file for what was accepted.
        while shard.log.borrow().spare.len() < SPARES && !shard.committed.get() {
            let (index, size) = {
                let mut log = shard.log.borrow_mut();
                (log.take_index(), log.next_size(shard.wal_file_bytes))
            };
            match create_file(&shard.config.data_dir, shard.id, index, size).await {
                Ok(file) => {
                    shard.log.borrow_mut().spare.push_back(file);
                    shard.room.notify_all();
                }
                Err(error) => {
                    if error.kind() == std::io::ErrorKind::StorageFull {
                        shard.set_full(true);
                    } else {
                        tracing::error!(shard = shard.id, %error, "cannot make a log file");
                    }
                    sleep(RETRY).await;
                }
            }
        }
        // Room is also what the flusher gives back.
        shard.room.notify_all();
    }
}

impl Shard {
    /// Whether too much is unflushed, or too much of the log is in use.
    fn must_free_log(&self) -> bool {
        let log = self.log.borrow();
        let live: u64 = log.needed().map(|used| used.file.size).sum();
        (log.needed().count() > 1
            && (self.unflushed.get() > self.flush_target() || live > self.unflushed_max))
            || self.is_crowded()
    }

    /// So much is unflushed that appends will soon wait for it.
    fn is_crowded(&self) -> bool {
        self.unflushed.get() > self.unflushed_max / 4 * 3 + self.unflushed_rest()
    }

    /// What may stay unflushed however hard one tries: the partial last block of every partition.
    fn unflushed_rest(&self) -> u64 {
        self.partitions.borrow().len() as u64 * SUM_BLOCK as u64
    }

    /// Unflushed bytes from which on appends wait.
    pub fn unflushed_limit(&self) -> u64 {
        self.unflushed_max + self.unflushed_rest()
    }

    /// Unflushed bytes from which on flushing begins.
    pub fn flush_target(&self) -> u64 {
        self.unflushed_max / 2 + self.unflushed_rest()
    }

    /// Flushes and carries what stands in the oldest log file that is needed, then checkpoints. `false` if that does not
    /// help now.
    async fn free_oldest_file(self: &Rc<Self>) -> bool {
        let (ordinal, is_current, partitions) = {
            let log = self.log.borrow();
            let oldest = log.needed().next().expect("the current one is needed");
            (
                oldest.ordinal,
                oldest.ordinal == log.current().ordinal,
                oldest.partitions.clone(),
            )
        };
        for set in partitions.chunks(SET_PARTITIONS_MAX) {
            let least = if self.is_crowded() {
                SUM_BLOCK as u64
            } else {
                CARRY_BYTES_MAX
            };
            let is_due = |partition: &&Rc<Partition>| {
                let inner = partition.state.borrow();
                let concerned = inner
                    .spans
                    .first()
                    .is_some_and(|span| span.ordinal <= ordinal);
                concerned && !partition.gone.get() && inner.unflushed() >= least
            };
            let due: Vec<_> = set.iter().filter(is_due).cloned().collect();
            if !self.flush_set(due).await {
                return false;
            }
        }
        if is_current {
            // Nothing to free, but less to recover.
            return !self.is_crowded();
        }
        self.carry(&partitions, ordinal).await;
        if let Some(oldest) = self
            .log
            .borrow_mut()
            .used
            .iter_mut()
            .find(|used| used.ordinal == ordinal)
        {
            oldest.partitions.clear();
        }
        self.checkpoint().await;
        if self.log.borrow().spare.is_empty() {
            // The other slot still holds it, and the committer may be waiting.
            self.checkpoint().await;
        }
        true
    }

    /// Logs again what the partitions have in log files up to `ordinal`.
    async fn carry(self: &Rc<Self>, partitions: &[Rc<Partition>], ordinal: u64) {
        let is_left = |partition: &Rc<Partition>| {
            let inner = partition.state.borrow();
            !partition.gone.get()
                && inner
                    .spans
                    .first()
                    .is_some_and(|span| span.ordinal <= ordinal)
        };
        loop {
            let left: Vec<_> = partitions
                .iter()
                .filter(|partition| is_left(partition))
                .cloned()
                .collect();
            if left.is_empty() {
                return;
            }
            for partition in &left {
                // What came meanwhile may have made it too much to carry.
                if partition.state.borrow().unflushed() >= 4 * CARRY_BYTES_MAX
                    && self.flush_partition(partition, false).await.is_err()
                {
                    sleep(RETRY).await;
                }
            }
            {
                let mut queue = self.queue.borrow_mut();
                queue.carries.clear();
                queue
                    .carries
                    .extend(left.iter().filter(|partition| is_left(partition)).cloned());
            }
            self.commit.notify_one();
            if self.closing.get() {
                return;
            }
            if left.iter().any(is_left) {
                // A parked partition cannot be carried now, and nothing else may become durable meanwhile.
                let _ = timeout(RETRY, self.progress.notified()).await;
            }
        }
    }

    /// Flushes the partitions with the most to flush; whether that helped.
    async fn flush_largest(self: &Rc<Self>) -> bool {
        let mut sizes: Vec<(u64, Rc<Partition>)> = {
            let partitions = self.partitions.borrow();
            let with_size = partitions
                .values()
                .map(|partition| (partition.state.borrow().unflushed(), partition.clone()));
            with_size
                .filter(|(size, _)| *size >= SUM_BLOCK as u64)
                .collect()
        };
        sizes.sort_unstable_by_key(|(size, partition)| (std::cmp::Reverse(*size), partition.id));
        let Some((largest, _)) = sizes.first() else {
            return false;
        };
        // Not much smaller ones: they may become larger, and their writes so too.
        let (least, mut sum) = (largest / 2, 0);
        let set: Vec<_> = sizes
            .into_iter()
            .take_while(|(size, _)| {
                let fits = *size >= least && sum < SET_BYTES_MAX;
                sum += size;
                fits
            })
            .map(|(_, partition)| partition)
            .take(SET_PARTITIONS_MAX)
            .collect();
        let before = self.unflushed.get();
        self.flush_set(set).await && self.unflushed.get() < before
    }

    /// Flushes these partitions, several at the same time; `false` if the disk has no room for one of them.
    async fn flush_set(self: &Rc<Self>, set: Vec<Rc<Partition>>) -> bool {
        self.place_together(&set).await;
        let under_way = Semaphore::new(SET_BYTES_MAX);
        let mut flushes = Vec::with_capacity(set.len());
        for partition in set {
            let bytes = partition.state.borrow().unflushed().min(SET_BYTES_MAX);
            let permit = under_way.acquire(bytes).await;
            let shard = self.clone();
            flushes.push(spawn_with(Share::Background, async move {
                let _permit = permit;
                shard.flush_partition(&partition, false).await.is_ok()
            }));
            self.pace().await;
        }
        let mut all = true;
        for flush in flushes {
            all &= flush.await;
        }
        all
    }

    /// A carried run as the committer puts it into a group: everything unflushed of a segment that is in the log.
    pub fn carried_runs(&self, partition: &Rc<Partition>) -> Vec<(Entry, crate::tail::Pieces)> {
        let inner = partition.state.borrow();
        if partition.gone.get() || inner.phase == Phase::Parked {
            return Vec::new();
        }
        let unflushed = inner.segments.iter().filter(|segment| {
            segment.flushed < segment.logged && !segment.head_on_disk && !segment.dead
        });
        unflushed
            .map(|segment| {
                let entry = Entry {
                    segment_base: segment.base,
                    position: segment.flushed,
                    len: (segment.logged - segment.flushed) as u32,
                    ..Entry::new(RecordType::Carried, partition.id)
                };
                (
                    entry,
                    inner
                        .tail
                        .pieces(segment.base, segment.flushed, segment.logged),
                )
            })
            .collect()
    }

    /// Lets clients go first while commits are slow.
    async fn pace(&self) {
        let wait = self
            .pacer
            .borrow_mut()
            .wait(self.unflushed.get(), self.unflushed_max);
        match wait {
            Some(wait) => sleep(wait).await,
            None if trireme_runtime::should_yield() => trireme_runtime::yield_now().await,
            None => {}
        }
    }

    /// Has the free space looked at when enough was written for it to have changed.
    pub fn count_logged(&self, bytes: u64) {
        self.logged_unseen.set(self.logged_unseen.get() + bytes);
        if self.logged_unseen.get() > SPACE_BYTES {
            self.space.notify_one();
        }
    }

    /// Looks at the free space of the disk: appends are refused below the reserve. One task per core.
    pub async fn check_space(&self) {
        self.logged_unseen.set(0);
        let reserve = self.config.reserve_bytes + self.unflushed.get() + self.pending.get();
        match trireme_runtime::fs::statvfs(&self.config.data_dir).await {
            Ok(space) => self.set_full(space.free_bytes < reserve),
            Err(error) => tracing::warn!(%error, "cannot ask for the free space"),
        }
    }

    /// Milliseconds since 1970, for what a checkpoint notes.
    pub fn wall_ms(&self) -> i64 {
        unix_ms()
    }
}
