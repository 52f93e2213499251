//! What the sidecar files of a segment say, loaded when a reader needs it, and which blocks were verified since.
//!
//! Invariants: a view holds exactly what the files held when it was loaded; whoever writes to a sidecar drops it. The
//! entries that are not in files yet are the segment's. Views are dropped oldest first beyond a bound.

use std::cell::RefCell;
use std::io;
use std::path::PathBuf;
use std::rc::Rc;

use trireme_runtime::fs::{File, OpenOptions};

use crate::api::ReadError;
use crate::ids::Offset;
use crate::layout::paths::DataPath;
use crate::layout::sidecar::{
    IndexEntry, SidecarEntry, SumEntry, TimeIndexEntry, file_len, parse_block,
};
use crate::layout::{BLOCK, SUM_BLOCK};
use crate::partition::Partition;
use crate::shard::Shard;

/// Memory of all views of a shard.
const VIEW_BYTES_MAX: usize = 32 << 20;

pub(crate) struct SegmentView {
    pub sums: Vec<SumEntry>,
    pub index: Vec<IndexEntry>,
    pub time_index: Vec<TimeIndexEntry>,
    /// A bit for each sum block whose bytes in the file were found right.
    verified: RefCell<Vec<u64>>,
}

impl SegmentView {
    fn bytes(&self) -> usize {
        self.sums.len() * 4 + (self.index.len() + self.time_index.len()) * 16 + 200
    }

    pub fn is_verified(&self, from: u64, to: u64) -> bool {
        let verified = self.verified.borrow();
        blocks(from, to).all(|block| {
            verified
                .get(block / 64)
                .is_some_and(|word| word >> (block % 64) & 1 == 1)
        })
    }

    /// The bytes were found broken: who reads them next has to look again.
    pub fn clear_verified(&self, from: u64, to: u64) {
        let mut verified = self.verified.borrow_mut();
        for block in blocks(from, to) {
            if let Some(word) = verified.get_mut(block / 64) {
                *word &= !(1 << (block % 64));
            }
        }
    }

    pub fn set_verified(&self, from: u64, to: u64) {
        let mut verified = self.verified.borrow_mut();
        for block in blocks(from, to) {
            if verified.len() <= block / 64 {
                verified.resize(block / 64 + 1, 0);
            }
            verified[block / 64] |= 1 << (block % 64);
        }
    }
}

/// The sum blocks that `from..to` touches.
pub(crate) fn blocks(from: u64, to: u64) -> std::ops::Range<usize> {
    (from / SUM_BLOCK as u64) as usize..to.div_ceil(SUM_BLOCK as u64) as usize
}

impl Shard {
    /// The view of a segment, loaded if it is not.
    pub async fn view(
        &self,
        partition: &Rc<Partition>,
        base: Offset,
    ) -> Result<Rc<SegmentView>, ReadError> {
        loop {
            let counts = {
                let inner = partition.state.borrow();
                let segment = inner.segment(base).ok_or(ReadError::UnknownPartition)?;
                if let Some(view) = &segment.view {
                    return Ok(view.clone());
                }
                (
                    segment.sums.in_file,
                    segment.index.in_file,
                    segment.time_index.in_file,
                )
            };
            let view = Rc::new(self.load_view(partition, base, counts).await?);
            let mut inner = partition.state.borrow_mut();
            let segment = inner.segment_mut(base).ok_or(ReadError::UnknownPartition)?;
            if counts
                != (
                    segment.sums.in_file,
                    segment.index.in_file,
                    segment.time_index.in_file,
                )
            {
                continue;
            }
            segment.view = Some(view.clone());
            drop(inner);
            self.note_view(partition, base, view.bytes());
            return Ok(view);
        }
    }

    /// A view of a segment for one use: not kept, so that the ones in use stay.
    pub async fn view_uncached(
        &self,
        partition: &Rc<Partition>,
        base: Offset,
    ) -> Result<Rc<SegmentView>, ReadError> {
        let counts = {
            let inner = partition.state.borrow();
            let segment = inner.segment(base).ok_or(ReadError::UnknownPartition)?;
            if let Some(view) = &segment.view {
                return Ok(view.clone());
            }
            (
                segment.sums.in_file,
                segment.index.in_file,
                segment.time_index.in_file,
            )
        };
        let loaded = self.load_view(partition, base, counts).await;
        if partition.gone.get() || partition.state.borrow().segment(base).is_none() {
            // Its files went while they were read.
            return Err(ReadError::UnknownPartition);
        }
        Ok(Rc::new(loaded?))
    }

    async fn load_view(
        &self,
        partition: &Partition,
        base: Offset,
        counts: (u32, u32, u32),
    ) -> Result<SegmentView, ReadError> {
        Ok(SegmentView {
            sums: self.load(partition, base, counts.0).await?,
            index: self.load(partition, base, counts.1).await?,
            time_index: self.load(partition, base, counts.2).await?,
            verified: RefCell::default(),
        })
    }

    fn note_view(&self, partition: &Rc<Partition>, base: Offset, bytes: usize) {
        let mut views = self.views.borrow_mut();
        views.bytes += bytes;
        views
            .queue
            .push_back((Rc::downgrade(partition), base, bytes));
        while views.bytes > VIEW_BYTES_MAX && views.queue.len() > 1 {
            let Some((oldest, base, bytes)) = views.queue.pop_front() else {
                break;
            };
            views.bytes -= bytes;
            if let Some(oldest) = oldest.upgrade()
                && let Some(segment) = oldest.state.borrow_mut().segment_mut(base)
            {
                segment.view = None;
            }
        }
    }

    async fn load<E: SidecarEntry>(
        &self,
        partition: &Partition,
        base: Offset,
        count: u32,
    ) -> Result<Vec<E>, ReadError> {
        if count == 0 {
            return Ok(Vec::new());
        }
        let path = self.path(DataPath::Segment {
            partition: partition.id,
            base_offset: base,
            file: E::FILE,
        });
        let damaged = |position: u64| ReadError::Damaged {
            file: path.clone(),
            position,
        };
        let len = (count as usize).div_ceil(E::PER_BLOCK) * BLOCK;
        let bytes = read_range(&path, 0, len).await.map_err(|_| damaged(0))?;
        let mut entries = Vec::new();
        for (block, bytes) in (0..).zip(bytes.chunks(BLOCK)) {
            parse_block(partition.id, base, block, bytes, &mut entries)
                .map_err(|_| damaged(u64::from(block) * BLOCK as u64))?;
        }
        if entries.len() < count as usize {
            return Err(damaged(file_len::<E>(entries.len())));
        }
        entries.truncate(count as usize);
        Ok(entries)
    }
}

async fn read_range(path: &PathBuf, position: u64, len: usize) -> io::Result<Vec<u8>> {
    let file = File::open(path, OpenOptions::READ).await?;
    let (result, bytes) = file
        .read_exact_at(Vec::with_capacity(len), position, len)
        .await;
    result.map(|()| bytes)
}
