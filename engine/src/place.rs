//! Making room for segments: directories, `.log` files and their space.
//!
//! Invariants:
//! - One who creates, allocates or cuts a segment's file at a time (`placing`).
//! - A rolled segment gets no more room than its bytes take: who asked for more before it was rolled may come after its file
//!   got its exact length.
//! - New names are durable (their directories synced) before a checkpoint counts on them.

use std::io;
use std::path::PathBuf;
use std::rc::Rc;

use trireme_runtime::fs::{self, File, OpenOptions, PrepareFile};

use crate::files::{Mode, open_direct};
use crate::ids::Offset;
use crate::layout::paths::{DataPath, SegmentFile};
use crate::layout::{BLOCK, SUM_BLOCK};
use crate::partition::Partition;
use crate::segment::Segment;
use crate::shard::Shard;
use crate::store::sync_or_abort;

/// Segments grow by at least and at most this much at a time, doubling in between.
const GROW_BYTES_MIN: u64 = 64 * 1024;
const GROW_BYTES_MAX: u64 = 64 << 20;
/// A segment whose file is being made or made larger together with others.
struct Placing {
    partition: Rc<Partition>,
    base: Offset,
    allocated: u64,
    target: u64,
}

impl Shard {
    /// The segment's file, open for direct writes and with space up to `end`. Creates and allocates what is missing.
    /// `StorageFull` if the disk has no room for it.
    pub async fn place(
        self: &Rc<Self>,
        partition: &Rc<Partition>,
        base: Offset,
        end: u64,
    ) -> io::Result<File> {
        let (has_directory, allocated, target) = loop {
            let placing = {
                let mut inner = partition.state.borrow_mut();
                let (has_directory, segment_bytes) =
                    (inner.has_directory, inner.config.segment_bytes);
                let gone = || io::Error::new(io::ErrorKind::NotFound, "the segment is deleted");
                let segment = inner.segment_mut(base).ok_or_else(gone)?;
                let end = match segment.rolled {
                    true => end.min(segment.length.next_multiple_of(BLOCK as u64)),
                    false => end,
                };
                let open = self.files.get(partition.id, base, Mode::Write);
                if let Some(open) = open
                    && segment.allocated >= end
                {
                    return Ok(open);
                }
                let placing = segment.placing;
                if !placing {
                    segment.placing = true;
                    break (
                        has_directory,
                        segment.allocated,
                        grown(segment, end, segment_bytes),
                    );
                }
                placing
            };
            if placing {
                self.progress.notified().await;
            }
        };
        let placed = self
            .place_now(partition, base, has_directory, allocated, target)
            .await;
        let mut inner = partition.state.borrow_mut();
        inner.has_directory |= placed.is_ok();
        if let Some(segment) = inner.segment_mut(base) {
            segment.placing = false;
            if placed.is_ok() {
                segment.allocated = segment.allocated.max(target);
            }
        }
        drop(inner);
        self.progress.notify_all();
        if let Err(error) = &placed
            && error.kind() == io::ErrorKind::StorageFull
        {
            self.set_full(true);
        }
        placed
    }

    /// The same, and its name is durable.
    pub async fn place_named(
        self: &Rc<Self>,
        partition: &Rc<Partition>,
        base: Offset,
        end: u64,
    ) -> io::Result<File> {
        let file = self.place(partition, base, end).await?;
        let named = partition
            .state
            .borrow()
            .segment(base)
            .is_some_and(|segment| segment.named);
        if !named {
            self.sync_directories([DataPath::PartitionsRoot, DataPath::Partition(partition.id)])
                .await;
            if let Some(segment) = partition.state.borrow_mut().segment_mut(base) {
                segment.named = true;
            }
        }
        Ok(file)
    }

    async fn place_now(
        &self,
        partition: &Partition,
        base: Offset,
        has_directory: bool,
        allocated: u64,
        target: u64,
    ) -> io::Result<File> {
        if !has_directory {
            fs::create_dir_all(self.path(DataPath::Partition(partition.id))).await?;
        }
        let file = open_direct(&self.log_path(partition, base), open_options(allocated)).await?;
        if target > allocated {
            file.allocate(0, target).await?;
        }
        self.note_placed(partition, base, !has_directory, allocated, file.clone());
        Ok(file)
    }

    /// Gives the segment's file exactly `length` bytes, which must not be fewer than are flushed. Durable when it returns.
    pub async fn cut_to(
        self: &Rc<Self>,
        partition: &Rc<Partition>,
        base: Offset,
        length: u64,
    ) -> io::Result<()> {
        let file = self.place(partition, base, 0).await?;
        loop {
            if let Some(segment) = partition.state.borrow_mut().segment_mut(base)
                && !segment.placing
            {
                segment.placing = true;
                break;
            }
            if partition.state.borrow().segment(base).is_none() {
                return Ok(());
            }
            self.progress.notified().await;
        }
        let cut = file.truncate(length).await;
        if cut.is_ok() {
            sync_or_abort(&file, &self.log_path(partition, base)).await;
        }
        if let Some(segment) = partition.state.borrow_mut().segment_mut(base) {
            segment.placing = false;
            if cut.is_ok() {
                // Nobody needs to make room for the last block, which is there.
                segment.allocated = length.next_multiple_of(BLOCK as u64);
            }
        }
        self.progress.notify_all();
        cut
    }

    /// Places the segment for a batch that goes direct because it must, and flushes until it may. Waits as long as it takes.
    pub async fn make_ready(self: &Rc<Self>, partition: &Rc<Partition>, base: Offset, end: u64) {
        loop {
            if partition.gone.get() {
                return;
            }
            let busy = partition
                .state
                .borrow()
                .segment(base)
                .is_none_or(|segment| segment.busy);
            if busy {
                self.progress.notified().await;
                continue;
            }
            if self.place_named(partition, base, end).await.is_ok()
                && self.flush_partition(partition, false).await.is_ok()
            {
                let inner = partition.state.borrow();
                if inner.segment(base).is_none_or(|segment| !segment.busy) {
                    return;
                }
            } else {
                trireme_runtime::sleep(crate::flush::RETRY).await;
            }
        }
    }

    /// Makes room for what can be flushed of these partitions, all at once, so that with a thousand small partitions the
    /// file system is not gone to file by file. What fails here is tried again, and its error seen, by [`Shard::place`].
    pub async fn place_together(self: &Rc<Self>, partitions: &[Rc<Partition>]) {
        let (placings, files): (Vec<_>, Vec<_>) = partitions
            .iter()
            .filter_map(|partition| self.begin_placing(partition))
            .unzip();
        if files.is_empty() {
            return;
        }
        let placed = fs::prepare_files(files).await;
        for (placing, placed) in placings.into_iter().zip(placed) {
            self.end_placing(placing, placed);
        }
        self.progress.notify_all();
    }

    /// What has to be made for the first segment of the partition that can be flushed and lacks room; it is then `placing`.
    fn begin_placing(&self, partition: &Rc<Partition>) -> Option<(Placing, PrepareFile)> {
        let mut inner = partition.state.borrow_mut();
        let inner = &mut *inner;
        let (log_start, segment_bytes) = (inner.log_start, inner.config.segment_bytes);
        if partition.gone.get() {
            return None;
        }
        let segment = inner
            .segments
            .iter_mut()
            .find(|segment| segment.is_flushable(log_start) && !segment.busy)?;
        let end = segment.flushable_end().next_multiple_of(BLOCK as u64);
        if segment.placing || segment.allocated >= end {
            return None;
        }
        segment.placing = true;
        let placing = Placing {
            partition: partition.clone(),
            base: segment.base,
            allocated: segment.allocated,
            target: grown(segment, end, segment_bytes),
        };
        let file = PrepareFile {
            path: self.log_path(partition, segment.base),
            options: open_options(segment.allocated).direct(),
            with_directory: !inner.has_directory,
            allocate_bytes: placing.target,
        };
        Some((placing, file))
    }

    fn end_placing(&self, placing: Placing, placed: io::Result<File>) {
        let Placing {
            partition,
            base,
            allocated,
            target,
        } = placing;
        let mut inner = partition.state.borrow_mut();
        if let Ok(file) = placed {
            self.note_placed(&partition, base, !inner.has_directory, allocated, file);
            inner.has_directory = true;
            if let Some(segment) = inner.segment_mut(base) {
                segment.allocated = segment.allocated.max(target);
            }
        }
        if let Some(segment) = inner.segment_mut(base) {
            segment.placing = false;
        }
    }

    fn log_path(&self, partition: &Partition, base: Offset) -> PathBuf {
        self.path(DataPath::Segment {
            partition: partition.id,
            base_offset: base,
            file: SegmentFile::Log,
        })
    }

    /// An open file of a segment that had space for `allocated` bytes before.
    fn note_placed(
        &self,
        partition: &Partition,
        base: Offset,
        is_new_directory: bool,
        allocated: u64,
        file: File,
    ) {
        let mut unsynced = self.unsynced.borrow_mut();
        if is_new_directory {
            unsynced.insert(self.path(DataPath::PartitionsRoot));
        }
        if allocated == 0 {
            unsynced.insert(self.path(DataPath::Partition(partition.id)));
        }
        self.files.put(partition.id, base, Mode::Write, file);
    }
}

fn open_options(allocated: u64) -> OpenOptions {
    if allocated == 0 {
        OpenOptions::CREATE
    } else {
        OpenOptions::READ_WRITE
    }
}

/// How much space the segment shall have to hold `end`.
fn grown(segment: &Segment, end: u64, segment_bytes: u64) -> u64 {
    let step = segment.allocated.clamp(GROW_BYTES_MIN, GROW_BYTES_MAX);
    let most = segment_bytes.max(end).next_multiple_of(SUM_BLOCK as u64);
    if end <= segment.allocated {
        return segment.allocated;
    }
    end.max(segment.allocated + step)
        .next_multiple_of(SUM_BLOCK as u64)
        .min(most)
}
