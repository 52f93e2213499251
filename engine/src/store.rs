//! A segment's files: writing what is flushed, their sidecars, and sealing.
//!
//! Invariants:
//! - One writer per segment at a time (`busy`).
//! - A flushed whole block is written once and never again. A partial last block is written only when the segment is
//!   sealed or the shard shuts down; before it is appended to in place its image is in the log.

use std::io;
use std::path::Path;
use std::rc::Rc;

use trireme_runtime::fs::{self, File, OpenOptions};
use trireme_runtime::{AlignedBuf, Shared, abort};

use crate::direct::sum_blocks;
use crate::files::open_direct;
use crate::ids::Offset;
use crate::layout::paths::DataPath;
use crate::layout::sidecar::{
    IndexEntry, SidecarEntry, SumEntry, TimeIndexEntry, encode_blocks, file_len,
};
use crate::layout::{BLOCK, SUM_BLOCK};
use crate::partition::{Partition, PartitionInner};
use crate::replay::Hole;
use crate::segment::{Segment, Sidecar};
use crate::shard::{Evictable, Shard};

/// Longest write of the flusher.
pub(crate) const FLUSH_BYTES_MAX: u64 = 4 << 20;

impl Shard {
    /// Writes everything of the partition that may be flushed to its files (with `all`, also the partial last block), and
    /// seals the segments that are full. Durable when it returns, except for names.
    pub async fn flush_partition(
        self: &Rc<Self>,
        partition: &Rc<Partition>,
        all: bool,
    ) -> io::Result<()> {
        loop {
            if partition.gone.get() {
                return Ok(());
            }
            let step = next_step(&mut partition.state.borrow_mut(), all);
            match step {
                Step::Nothing => break,
                Step::Wait => self.progress.notified().await,
                Step::Write { base, from, to } => {
                    let written = self.flush_blocks(partition, base, from, to).await;
                    self.end_step(partition, base);
                    written?;
                }
                Step::Seal { base } => {
                    let sealed = self.seal(partition, base).await;
                    self.end_step(partition, base);
                    sealed?;
                }
            }
        }
        let mut inner = partition.state.borrow_mut();
        inner.settle_spans();
        Ok(())
    }

    fn end_step(&self, partition: &Partition, base: Offset) {
        if let Some(segment) = partition.state.borrow_mut().segment_mut(base) {
            segment.busy = false;
        }
        self.progress.notify_all();
        self.commit.notify_one();
    }

    /// Writes the bytes `from..to`, which the tail holds; `to` is a block's end, or the end of the segment.
    async fn flush_blocks(
        self: &Rc<Self>,
        partition: &Rc<Partition>,
        base: Offset,
        from: u64,
        to: u64,
    ) -> io::Result<()> {
        let file = self
            .place(partition, base, to.next_multiple_of(BLOCK as u64))
            .await?;
        let (pieces, whole) = {
            let inner = partition.state.borrow();
            // While its place was made it may have been deleted, or fallen below the log start, and its memory given back.
            if partition.gone.get() || inner.segment(base).is_none_or(|segment| segment.dead) {
                return Ok(());
            }
            let whole = to - to % BLOCK as u64;
            (inner.tail.pieces(base, from, to), whole)
        };
        let sums = sum_blocks(partition.id, base, from, &pieces);
        let writes = padded(pieces.into_vec(), (whole - from.min(whole)) as usize);
        let (result, _) = file.write_durable_vectored_at(writes, from).await;
        if let Err(error) = result {
            if error.kind() == io::ErrorKind::StorageFull {
                self.set_full(true);
                return Err(error);
            }
            abort(&format!(
                "segment {base} of {} at {from}: {error}",
                partition.id
            ));
        }
        if partition.gone.get() {
            return Ok(());
        }
        let mut inner = partition.state.borrow_mut();
        let inner = &mut *inner;
        let Some(segment) = inner.segment_mut(base) else {
            return Ok(());
        };
        debug_assert_eq!(segment.flushed, from);
        let before = segment.unflushed();
        segment.flushed = to;
        segment.sums.pending.extend(sums);
        let flushed = before - segment.unflushed();
        self.unflushed
            .set(self.unflushed.get().saturating_sub(flushed));
        self.note_flushed(partition, inner, base, from, to);
        let mut stats = self.stats.borrow_mut();
        stats.flushes += 1;
        stats.flushed_bytes += to - from;
        Ok(())
    }

    /// After a recovery: brings the bytes before the blocks of a direct run to the file, so that what is flushed is one piece.
    pub async fn close_hole(
        self: &Rc<Self>,
        partition: &Rc<Partition>,
        hole: &Hole,
    ) -> io::Result<()> {
        let end = hole.from + (hole.sums.len() * SUM_BLOCK) as u64;
        loop {
            let (flushed, is_dead) = {
                let inner = partition.state.borrow();
                let Some(segment) = inner.segment(hole.segment) else {
                    return Ok(());
                };
                (segment.flushed, segment.dead)
            };
            if is_dead || flushed >= hole.from {
                break;
            }
            self.flush_blocks(
                partition,
                hole.segment,
                flushed,
                hole.from.min(flushed + FLUSH_BYTES_MAX),
            )
            .await?;
        }
        let mut inner = partition.state.borrow_mut();
        let inner = &mut *inner;
        if let Some(segment) = inner.segment_mut(hole.segment)
            && segment.flushed == hole.from
        {
            segment.flushed = end;
            segment.sums.pending.extend(&hole.sums);
            // A tail has no gaps: what lies before the blocks is in the file now.
            let freed = inner.tail.drop_before(hole.segment, end);
            self.give_memory(freed);
        }
        Ok(())
    }

    /// Notes that `from..to` is flushed: chunks that end there may be evicted.
    pub fn note_flushed(
        &self,
        partition: &Rc<Partition>,
        inner: &mut PartitionInner,
        base: Offset,
        from: u64,
        to: u64,
    ) {
        let is_end = inner
            .segment(base)
            .is_some_and(|segment| segment.rolled && segment.length == to);
        let mut evictable = self.evictable.borrow_mut();
        for start in inner.tail.ending_in(base, from, to, is_end) {
            evictable.push_back(Evictable {
                partition: Rc::downgrade(partition),
                segment: base,
                start,
            });
        }
    }

    /// Gives a full, flushed segment its exact length and complete sidecars.
    async fn seal(self: &Rc<Self>, partition: &Rc<Partition>, base: Offset) -> io::Result<()> {
        self.trim_log(partition, base).await?;
        let written = [
            self.write_sidecar::<SumEntry>(partition, base, true, |segment| &mut segment.sums)
                .await?,
            self.write_sidecar::<IndexEntry>(partition, base, true, |segment| &mut segment.index)
                .await?,
            self.write_sidecar::<TimeIndexEntry>(partition, base, true, |segment| {
                &mut segment.time_index
            })
            .await?,
        ];
        // At once: an error in between, or a checkpoint, must not find an open segment with a last block that is not full.
        if let Some(segment) = partition.state.borrow_mut().segment_mut(base) {
            let [sums, index, time_index] = written;
            segment.sums.moved(sums);
            segment.index.moved(index);
            segment.time_index.moved(time_index);
            segment.view = None;
            segment.sealed = true;
        }
        self.files.forget(partition.id, base);
        Ok(())
    }

    /// Exact lengths for the files of a segment that the next start goes on with. Its sidecars get whole blocks only: what is
    /// in no whole block stays in the checkpoint, so that no block of a sidecar is ever written twice, and torn. Durable
    /// when it returns, except for names.
    pub async fn close_segment(
        self: &Rc<Self>,
        partition: &Rc<Partition>,
        base: Offset,
    ) -> io::Result<()> {
        self.trim_log(partition, base).await?;
        self.write_sidecars(partition, base).await?;
        self.trim_sidecar(partition, base, |segment| &segment.sums)
            .await?;
        self.trim_sidecar(partition, base, |segment| &segment.index)
            .await?;
        self.trim_sidecar(partition, base, |segment| &segment.time_index)
            .await
    }

    /// Exact length for the `.log` file. Durable when it returns.
    async fn trim_log(self: &Rc<Self>, partition: &Rc<Partition>, base: Offset) -> io::Result<()> {
        let length = partition
            .state
            .borrow()
            .segment(base)
            .map_or(0, |segment| segment.length);
        self.cut_to(partition, base, length).await
    }

    /// Cuts off what an earlier life wrote to a sidecar behind what counts.
    async fn trim_sidecar<E: SidecarEntry + 'static>(
        &self,
        partition: &Partition,
        base: Offset,
        pick: fn(&Segment) -> &Sidecar<E>,
    ) -> io::Result<()> {
        let in_file = partition
            .state
            .borrow()
            .segment(base)
            .map_or(0, |segment| pick(segment).in_file);
        let path = self.path(DataPath::Segment {
            partition: partition.id,
            base_offset: base,
            file: E::FILE,
        });
        if in_file == 0 {
            return match fs::remove_file(&path).await {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                other => {
                    self.unsynced
                        .borrow_mut()
                        .insert(self.path(DataPath::Partition(partition.id)));
                    other
                }
            };
        }
        let length = file_len::<E>(in_file as usize);
        let file = open_direct(&path, OpenOptions::READ_WRITE).await?;
        if file.size().await? != length {
            file.truncate(length).await?;
            sync_or_abort(&file, &path).await;
        }
        Ok(())
    }

    /// Writes the entries that fill blocks of the sidecar files. Durable when it returns.
    pub async fn write_sidecars(&self, partition: &Partition, base: Offset) -> io::Result<()> {
        self.write_full_blocks::<SumEntry>(partition, base, |segment| &mut segment.sums)
            .await?;
        self.write_full_blocks::<IndexEntry>(partition, base, |segment| &mut segment.index)
            .await?;
        self.write_full_blocks::<TimeIndexEntry>(partition, base, |segment| &mut segment.time_index)
            .await
    }

    async fn write_full_blocks<E: SidecarEntry + 'static>(
        &self,
        partition: &Partition,
        base: Offset,
        pick: fn(&mut Segment) -> &mut Sidecar<E>,
    ) -> io::Result<()> {
        let count = self.write_sidecar(partition, base, false, pick).await?;
        if let Some(segment) = partition.state.borrow_mut().segment_mut(base)
            && count > 0
        {
            pick(segment).moved(count);
            segment.view = None;
        }
        Ok(())
    }

    /// Writes the entries that fill blocks of a sidecar file; with `all` the others too, and gives it its exact length. How
    /// many: the caller notes that they are in the file now. Durable when it returns.
    async fn write_sidecar<E: SidecarEntry + 'static>(
        &self,
        partition: &Partition,
        base: Offset,
        all: bool,
        pick: fn(&mut Segment) -> &mut Sidecar<E>,
    ) -> io::Result<usize> {
        let (count, in_file, bytes) = {
            let mut inner = partition.state.borrow_mut();
            let Some(segment) = inner.segment_mut(base) else {
                return Ok(0);
            };
            let sidecar = pick(segment);
            let count = if all {
                sidecar.pending.len()
            } else {
                sidecar.full_blocks()
            };
            if count == 0 && !all {
                return Ok(0);
            }
            let in_file = sidecar.in_file as usize;
            debug_assert!(count == 0 || in_file.is_multiple_of(E::PER_BLOCK));
            let mut bytes = Vec::new();
            encode_blocks(
                partition.id,
                base,
                (in_file / E::PER_BLOCK) as u32,
                &sidecar.pending[..count],
                &mut bytes,
            );
            (count, in_file, bytes)
        };
        let first = in_file / E::PER_BLOCK;
        let path = self.path(DataPath::Segment {
            partition: partition.id,
            base_offset: base,
            file: E::FILE,
        });
        let file = open_direct(&path, OpenOptions::CREATE).await?;
        if !bytes.is_empty() {
            let mut buf = AlignedBuf::with_capacity(bytes.len());
            buf.extend_from_slice(&bytes);
            let (result, _) = file.write_durable_at(buf, (first * BLOCK) as u64).await;
            if let Err(error) = result {
                if error.kind() == io::ErrorKind::StorageFull {
                    self.set_full(true);
                    return Err(error);
                }
                abort(&format!("{}: {error}", path.display()));
            }
        }
        if first == 0 {
            self.unsynced
                .borrow_mut()
                .insert(self.path(DataPath::Partition(partition.id)));
        }
        if all {
            // What a crash left behind the end goes.
            let length = file_len::<E>(in_file + count);
            if file.size().await? != length {
                file.truncate(length).await?;
            }
            sync_or_abort(&file, &path).await;
        }
        Ok(count)
    }

    pub fn set_full(&self, full: bool) {
        if full && !self.full.get() {
            tracing::warn!(
                shard = self.id,
                "no space left on the disk: appends are refused until there is some"
            );
        }
        self.full.set(full);
    }
}

/// A failed sync is final: what the kernel has lost it does not write again.
pub(crate) async fn sync_or_abort(file: &File, path: &Path) {
    if let Err(error) = file.sync_all().await {
        abort(&format!("sync of {}: {error}", path.display()));
    }
}

enum Step {
    Nothing,
    Wait,
    Write { base: Offset, from: u64, to: u64 },
    Seal { base: Offset },
}

/// What to do next for a partition; the segment is then marked busy.
fn next_step(inner: &mut PartitionInner, all: bool) -> Step {
    let log_start = inner.log_start;
    for segment in inner
        .segments
        .iter_mut()
        .filter(|segment| !segment.sealed && !segment.dead && segment.end > log_start)
    {
        let end = if all {
            segment.durable
        } else {
            segment.flushable_end()
        };
        let is_full = segment.rolled && segment.durable == segment.length;
        let is_due = segment.flushed < end || (is_full && segment.flushed == segment.length);
        if !is_due || segment.head_on_disk {
            continue;
        }
        if segment.busy {
            return Step::Wait;
        }
        segment.busy = true;
        let (base, from) = (segment.base, segment.flushed);
        if from == end {
            return Step::Seal { base };
        }
        return Step::Write {
            base,
            from,
            to: end.min(from + FLUSH_BYTES_MAX),
        };
    }
    Step::Nothing
}

/// The pieces cut to whole blocks, and what is left in a block of its own, padded with zeros.
fn padded(pieces: Vec<Shared>, whole: usize) -> Vec<Shared> {
    let mut writes = Vec::with_capacity(pieces.len() + 1);
    let mut rest = AlignedBuf::with_capacity(BLOCK);
    let mut at = 0;
    for piece in pieces {
        let cut = whole.saturating_sub(at).min(piece.len());
        at += piece.len();
        if cut > 0 {
            writes.push(piece.slice(0..cut));
        }
        rest.extend_from_slice(&piece[cut..]);
    }
    if !rest.is_empty() {
        rest.set_len(BLOCK);
        writes.push(rest.freeze());
    }
    writes
}
