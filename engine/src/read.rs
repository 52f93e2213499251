//! Reading batches: the tail from memory, at once; older bytes from their segment, verified first.
//!
//! Invariants:
//! - Nobody sees an offset at or above the high watermark, except followers, who ask for it.
//! - Bytes from a file are handed out only after the sums of all blocks they touch were right, once since the view was
//!   loaded. A range for sendfile was resident when it was given out, and its segment's lease goes with it.
//! - A result holds whole batches of one segment.

use std::rc::Rc;

use bytes::Bytes;
use smallvec::SmallVec;
use trireme_runtime::fs::{File, OpenOptions};

use crate::api::{FileRange, Isolation, ReadError, ReadPart, ReadRequest, ReadResult};
use crate::batch::{BatchHeader, HEADER_BYTES};
use crate::files::Mode;
use crate::ids::Offset;
use crate::layout::SUM_BLOCK;
use crate::layout::paths::{DataPath, SegmentFile};
use crate::layout::seed::{block_sum, segment_seed};
use crate::layout::sidecar::IndexEntry;
use crate::mutations::{Mutation, on};
use crate::partition::{Partition, PartitionInner};
use crate::read_view::{SegmentView, blocks};
use crate::segment::Segment;
use crate::shard::Shard;

/// Below this a copy is cheaper than sendfile's system calls.
const SENDFILE_BYTES_MIN: u64 = 32 * 1024;
/// Files are read and verified in pieces of this size.
const READ_BYTES: u64 = 1 << 20;
/// Largest answer of one read.
const RESULT_BYTES_MAX: u32 = 1 << 30;

/// How far a reader may see in a segment.
#[derive(Clone, Copy, Debug)]
struct Limit {
    /// Bytes of the segment.
    position: u64,
    /// The first offset that is not to be seen.
    offset: Offset,
}

fn limit(inner: &PartitionInner, segment: &Segment, isolation: Isolation) -> Limit {
    match isolation {
        Isolation::Log => Limit {
            position: segment.logged,
            offset: segment.end.min(inner.next_offset),
        },
        _ if on(Mutation::WatermarkAtAppend) => limit(inner, segment, Isolation::Log),
        Isolation::HighWatermark | Isolation::Committed => Limit {
            position: segment.durable,
            offset: segment.end.min(inner.durable),
        },
    }
}

/// What a read comes to without looking into a file.
pub(crate) enum Now {
    Done(ReadResult),
    /// The batch is in the segment of this base offset, in its file at least in part.
    InFile(Rc<Partition>, Offset),
}

impl Shard {
    /// The part of a read that needs no file.
    pub fn read_now(&self, request: &ReadRequest) -> Result<Now, ReadError> {
        let partition = self
            .partition(&request.partition.id)
            .ok_or(ReadError::UnknownPartition)?;
        let inner = partition.state.borrow();
        if inner.deleting {
            return Err(ReadError::UnknownPartition);
        }
        self.check_epoch(request.leader_epoch)?;
        let (log_start, high_watermark) = (inner.log_start, inner.durable);
        let end = if request.isolation == Isolation::Log {
            inner.next_offset
        } else {
            high_watermark
        };
        if request.offset < log_start || request.offset > end {
            return Err(ReadError::OffsetOutOfRange {
                log_start,
                high_watermark,
            });
        }
        let empty = || ReadResult {
            parts: SmallVec::new(),
            bytes: 0,
            high_watermark,
            last_stable_offset: high_watermark,
            log_start,
            next_offset: request.offset,
        };
        if request.offset == end {
            return Ok(Now::Done(empty()));
        }
        // Where a repair had to leave offsets out, the next segment goes on; behind the last one nothing has come yet.
        let Some(segment) = inner.segment_reaching(request.offset) else {
            return Ok(Now::Done(empty()));
        };
        let limit = limit(&inner, segment, request.isolation);
        if request.offset >= limit.offset {
            return Ok(Now::Done(empty()));
        }
        let Some((parts, next_offset)) = from_tail(&inner, segment, request, limit) else {
            let base = segment.base;
            drop(inner);
            return Ok(Now::InFile(partition, base));
        };
        let bytes = parts.iter().map(|part| part.len() as u32).sum();
        self.stats.borrow_mut().read_bytes += u64::from(bytes);
        Ok(Now::Done(ReadResult {
            parts,
            bytes,
            next_offset,
            ..empty()
        }))
    }

    pub fn check_epoch(&self, epoch: Option<i32>) -> Result<(), ReadError> {
        let current = self.epoch.get();
        match epoch {
            Some(epoch) if epoch < current => Err(ReadError::FencedLeaderEpoch { current }),
            Some(epoch) if epoch > current => Err(ReadError::UnknownLeaderEpoch { current }),
            _ => Ok(()),
        }
    }

    /// Reads from a segment's file. Where a block is damaged, what stands before it is served.
    pub async fn read_file(
        self: &Rc<Self>,
        request: &ReadRequest,
        partition: &Rc<Partition>,
        base: Offset,
    ) -> Result<ReadResult, ReadError> {
        match self
            .read_file_below(request, partition, base, u64::MAX)
            .await
        {
            Err(ReadError::Damaged { file, position }) => {
                let before = self
                    .read_file_below(request, partition, base, position)
                    .await;
                match before {
                    Ok(result) if result.bytes > 0 => Ok(result),
                    _ => Err(ReadError::Damaged { file, position }),
                }
            }
            other => other,
        }
    }

    /// The same, of bytes below `below` only.
    async fn read_file_below(
        self: &Rc<Self>,
        request: &ReadRequest,
        partition: &Rc<Partition>,
        base: Offset,
        below: u64,
    ) -> Result<ReadResult, ReadError> {
        let view = self.view(partition, base).await?;
        let (found, limit, lease) = {
            let inner = partition.state.borrow();
            let segment = inner.segment(base).ok_or_else(|| out_of_range(&inner))?;
            let mut limit = limit(&inner, segment, request.isolation);
            limit.position = limit.position.min(below);
            (
                find_range(segment, &view, request, limit),
                limit,
                segment.lease.clone(),
            )
        };
        let (parts, next_offset) = match found {
            Found::Indexed {
                from,
                to,
                next_offset,
            } => {
                self.verify(partition, base, &view, from, to).await?;
                let file = self.reader(partition, base).await?;
                let len = (to - from) as u32;
                if file.is_resident(from, u64::from(len)).unwrap_or(false)
                    && let Ok(file) = file.share()
                {
                    let range = FileRange {
                        file,
                        position: from,
                        len,
                        lease,
                    };
                    (SmallVec::from_iter([ReadPart::File(range)]), next_offset)
                } else {
                    let bytes = self.bytes(partition, base, &view, from, to).await?;
                    (
                        SmallVec::from_iter(bytes.into_iter().map(ReadPart::Memory)),
                        next_offset,
                    )
                }
            }
            Found::From { position } => {
                self.read_exactly(partition, base, &view, request, limit, position)
                    .await?
            }
        };
        let inner = partition.state.borrow();
        if request.offset < inner.log_start {
            return Err(out_of_range(&inner));
        }
        let bytes = parts.iter().map(|part| part.len() as u32).sum();
        let mut stats = self.stats.borrow_mut();
        stats.read_bytes += u64::from(bytes);
        stats.read_from_file_bytes += u64::from(bytes);
        Ok(ReadResult {
            parts,
            bytes,
            high_watermark: inner.durable,
            last_stable_offset: inner.durable,
            log_start: inner.log_start,
            next_offset,
        })
    }

    /// Reads and walks batches from `position`, the beginning of one at or before the offset, and cuts exactly.
    async fn read_exactly(
        self: &Rc<Self>,
        partition: &Rc<Partition>,
        base: Offset,
        view: &Rc<SegmentView>,
        request: &ReadRequest,
        limit: Limit,
        position: u64,
    ) -> Result<(SmallVec<[ReadPart; 2]>, Offset), ReadError> {
        let wanted = u64::from(request.max_bytes.min(RESULT_BYTES_MAX));
        let mut window_end =
            (position + (wanted.min(READ_BYTES) + SUM_BLOCK as u64)).min(limit.position);
        loop {
            let pieces = self
                .bytes(partition, base, view, position, window_end)
                .await?;
            let bytes = joined(pieces);
            let walk = walk(&bytes, request, wanted as usize);
            if walk.needs > bytes.len() && window_end < limit.position {
                window_end = (position + walk.needs as u64)
                    .max(window_end + READ_BYTES)
                    .min(limit.position);
                continue;
            }
            let (from, to, next_offset) = walk.range;
            if to == from {
                return Ok((SmallVec::new(), request.offset));
            }
            // End where an index entry is, if there is one: then the next read can be handed out as a range of the file.
            let (to, next_offset) = {
                let inner = partition.state.borrow();
                let entry = inner
                    .segment(base)
                    .and_then(|segment| last_entry(segment, view, position + to as u64))
                    .filter(|entry| {
                        entry.position > position + from as u64 && entry.offset > request.offset
                    });
                entry.map_or((to, next_offset), |entry| {
                    ((entry.position - position) as usize, entry.offset)
                })
            };
            return Ok((
                SmallVec::from_iter([ReadPart::Memory(bytes.slice(from..to))]),
                next_offset,
            ));
        }
    }

    /// The bytes `from..to` of a segment: flushed ones from the file, verified, the others from memory.
    pub async fn bytes(
        self: &Rc<Self>,
        partition: &Rc<Partition>,
        base: Offset,
        view: &Rc<SegmentView>,
        from: u64,
        to: u64,
    ) -> Result<Vec<Bytes>, ReadError> {
        let mut parts = Vec::new();
        let mut at = from;
        while at < to {
            let end = {
                let inner = partition.state.borrow();
                let segment = inner.segment(base).ok_or_else(|| out_of_range(&inner))?;
                if inner.tail.holds(base, at) {
                    parts.extend(inner.tail.pieces(base, at, to).into_iter().map(Bytes::from));
                    return Ok(parts);
                }
                to.min(segment.flushed).min(at + READ_BYTES)
            };
            if end <= at {
                // It has fallen below the log start meanwhile, and its memory is given back.
                let inner = partition.state.borrow();
                assert!(
                    inner.segment(base).is_none_or(|segment| segment.dead),
                    "what is not flushed is in the tail"
                );
                return Err(out_of_range(&inner));
            }
            parts.push(self.read_verified(partition, base, view, at, end).await?);
            at = end;
        }
        Ok(parts)
    }

    /// Makes sure that the blocks of `from..to`, which are flushed, are right in the file.
    async fn verify(
        self: &Rc<Self>,
        partition: &Rc<Partition>,
        base: Offset,
        view: &Rc<SegmentView>,
        from: u64,
        to: u64,
    ) -> Result<(), ReadError> {
        let mut at = from;
        while at < to {
            let end = to.min((at + READ_BYTES) / SUM_BLOCK as u64 * SUM_BLOCK as u64);
            if !view.is_verified(at, end) {
                self.read_verified(partition, base, view, at, end).await?;
            }
            at = end;
        }
        Ok(())
    }

    /// Reads the whole blocks that `from..to` touches and checks their sums.
    pub async fn read_verified(
        self: &Rc<Self>,
        partition: &Rc<Partition>,
        base: Offset,
        view: &Rc<SegmentView>,
        from: u64,
        to: u64,
    ) -> Result<Bytes, ReadError> {
        let first = from - from % SUM_BLOCK as u64;
        let mut view = view.clone();
        let (last, sums) = loop {
            if let Some(found) = sums_of(&partition.state.borrow(), base, &view, first, to)? {
                break found;
            }
            // Sums have moved from memory to the file since the view was loaded.
            view = self.view(partition, base).await?;
        };
        let path = || {
            let path = DataPath::Segment {
                partition: partition.id,
                base_offset: base,
                file: SegmentFile::Log,
            };
            self.path(path)
        };
        let file = self.reader(partition, base).await?;
        let len = (last - first) as usize;
        // What the page cache has costs no trip through the ring.
        let (resident, bytes) = file.try_read_resident(Vec::with_capacity(len), first, len);
        let (result, bytes) = match resident {
            Ok(Some(read)) if read == len => (Ok(()), bytes),
            _ => file.read_exact_at(bytes, first, len).await,
        };
        if let Err(error) = result {
            tracing::error!(file = %path().display(), position = first, %error, "cannot read");
            return Err(ReadError::Damaged {
                file: path(),
                position: first,
            });
        }
        let seed = segment_seed(partition.id, base);
        for ((block, bytes), sum) in blocks(first, last).zip(bytes.chunks(SUM_BLOCK)).zip(sums) {
            if sum != Some(block_sum(seed, block as u64, bytes)) && !on(Mutation::UnverifiedRead) {
                let position = (block * SUM_BLOCK) as u64;
                tracing::error!(file = %path().display(), position, "the sum of a block does not match: not handed out");
                return Err(ReadError::Damaged {
                    file: path(),
                    position,
                });
            }
        }
        view.set_verified(first, last);
        Ok(Bytes::from(bytes).slice((from - first) as usize..(to - first) as usize))
    }

    async fn reader(&self, partition: &Partition, base: Offset) -> Result<File, ReadError> {
        if let Some(file) = self.files.get(partition.id, base, Mode::Read) {
            return Ok(file);
        }
        let log = DataPath::Segment {
            partition: partition.id,
            base_offset: base,
            file: SegmentFile::Log,
        };
        let path = self.path(log);
        match File::open(&path, OpenOptions::READ).await {
            Ok(file) => {
                self.files.put(partition.id, base, Mode::Read, file.clone());
                Ok(file)
            }
            Err(error) => {
                if partition.gone.get() || partition.state.borrow().segment(base).is_none() {
                    return Err(ReadError::UnknownPartition);
                }
                tracing::error!(file = %path.display(), %error, "cannot open a segment");
                Err(ReadError::Damaged {
                    file: path,
                    position: 0,
                })
            }
        }
    }
}

pub(crate) fn out_of_range(inner: &PartitionInner) -> ReadError {
    ReadError::OffsetOutOfRange {
        log_start: inner.log_start,
        high_watermark: inner.durable,
    }
}

/// The sums of blocks, where there are any.
type Sums = Vec<Option<u32>>;

/// The end of the last block that `first..to` touches, and the sums of these blocks (`None`: there is none); nothing if the
/// view is no longer what the segment's file holds, so that it does not join up with the sums in memory.
pub(crate) fn sums_of(
    inner: &PartitionInner,
    base: Offset,
    view: &SegmentView,
    first: u64,
    to: u64,
) -> Result<Option<(u64, Sums)>, ReadError> {
    let segment = inner.segment(base).ok_or_else(|| out_of_range(inner))?;
    if view.sums.len() != segment.sums.in_file as usize {
        return Ok(None);
    }
    let last = to.next_multiple_of(SUM_BLOCK as u64).min(segment.flushed);
    let sums = blocks(first, last).map(|block| {
        let pending = || {
            segment
                .sums
                .pending
                .get(block.checked_sub(view.sums.len())?)
        };
        view.sums.get(block).or_else(pending).map(|sum| sum.0)
    });
    Ok(Some((last, sums.collect())))
}

fn joined(mut pieces: Vec<Bytes>) -> Bytes {
    match pieces.len() {
        1 => pieces.pop().expect("one"),
        _ => pieces.concat().into(),
    }
}

/// A batch's header as far as a reader needs it.
struct Brief {
    last_offset: Offset,
    base_offset: Offset,
    total: u64,
}

fn brief(inner: &PartitionInner, segment: Offset, position: u64) -> Option<Brief> {
    let mut bytes = [0; HEADER_BYTES];
    inner
        .tail
        .copy_to(segment, position, &mut bytes)
        .then_some(())?;
    let header = BatchHeader::view(&bytes)?;
    Some(Brief {
        last_offset: header.last_offset(),
        base_offset: header.base_offset(),
        total: header.total_bytes()? as u64,
    })
}

/// The read from memory, if memory holds the batch.
fn from_tail(
    inner: &PartitionInner,
    segment: &Segment,
    request: &ReadRequest,
    limit: Limit,
) -> Option<(SmallVec<[ReadPart; 2]>, Offset)> {
    let (base, mut from, _) = inner
        .tail
        .floor(request.offset)
        .filter(|floor| floor.0 == segment.base)?;
    loop {
        let batch = brief(inner, base, from)?;
        if batch.last_offset >= request.offset {
            break;
        }
        from += batch.total;
    }
    let max = u64::from(request.max_bytes.min(RESULT_BYTES_MAX));
    let (mut to, mut next_offset) = (limit.position, limit.offset);
    if to - from > max {
        // Walk only from the last known beginning of a batch before the bound.
        to = inner
            .tail
            .floor_position(base, from + max)
            .map_or(from, |position| position.max(from));
        let mut batch = brief(inner, base, to)?;
        while to + batch.total <= from + max {
            to += batch.total;
            batch = brief(inner, base, to)?;
        }
        next_offset = batch.base_offset;
        if to == from {
            if !request.at_least_one {
                return Some((SmallVec::new(), request.offset));
            }
            to += batch.total;
            next_offset = batch.last_offset + 1;
        }
    }
    let pieces = inner.tail.pieces(base, from, to);
    Some((
        pieces
            .into_iter()
            .map(|piece| ReadPart::Memory(piece.into()))
            .collect(),
        next_offset,
    ))
}

enum Found {
    /// A range between two index entries (or ends of what is flushed), which begins with the batch of the offset.
    Indexed {
        from: u64,
        to: u64,
        next_offset: Offset,
    },
    /// Somewhere behind this beginning of a batch.
    From { position: u64 },
}

/// Looks into the index for what a read is to return.
fn find_range(segment: &Segment, view: &SegmentView, request: &ReadRequest, limit: Limit) -> Found {
    let floor = floor_entry(segment, view, request.offset);
    let position = floor.map_or(0, |entry| entry.position);
    let starts_here = floor.map_or(segment.base, |entry| entry.offset) == request.offset;
    let readable = limit.position.min(segment.flushed);
    let most = position + u64::from(request.max_bytes.min(RESULT_BYTES_MAX));
    if !starts_here || position >= readable {
        return Found::From { position };
    }
    let is_end = segment.flushed == segment.length && limit.position == segment.length;
    let (to, next_offset) = if is_end && most >= segment.length {
        (segment.length, segment.end)
    } else {
        match last_entry(segment, view, most.min(readable)) {
            Some(entry) => (entry.position, entry.offset),
            None => return Found::From { position },
        }
    };
    if to < position + SENDFILE_BYTES_MIN {
        return Found::From { position };
    }
    Found::Indexed {
        from: position,
        to,
        next_offset,
    }
}

/// The last index entry at or before an offset.
pub(crate) fn floor_entry(
    segment: &Segment,
    view: &SegmentView,
    offset: Offset,
) -> Option<IndexEntry> {
    let floor = |entries: &[IndexEntry]| {
        let behind = entries.partition_point(|entry| entry.offset <= offset);
        behind.checked_sub(1).map(|index| entries[index])
    };
    floor(&segment.index.pending).or_else(|| floor(&view.index))
}

/// The last index entry at or before a position.
fn last_entry(segment: &Segment, view: &SegmentView, position: u64) -> Option<IndexEntry> {
    let floor = |entries: &[IndexEntry]| {
        let behind = entries.partition_point(|entry| entry.position <= position);
        behind.checked_sub(1).map(|index| entries[index])
    };
    floor(&segment.index.pending).or_else(|| floor(&view.index))
}

struct Walk {
    /// From, to, and the offset behind it.
    range: (usize, usize, Offset),
    /// Bytes needed to say more; not more than there are if the walk is complete.
    needs: usize,
}

/// Walks the batches in `bytes`: from the one of the offset on, as many as fit.
fn walk(bytes: &[u8], request: &ReadRequest, max: usize) -> Walk {
    let mut at = 0;
    let mut range: Option<(usize, usize, Offset)> = None;
    loop {
        let header = bytes.get(at..).and_then(BatchHeader::view);
        let Some((header, total)) = header.and_then(|header| Some((header, header.total_bytes()?)))
        else {
            let needs = if range.is_some() {
                0
            } else {
                at + HEADER_BYTES
            };
            return Walk {
                range: range.unwrap_or((0, 0, request.offset)),
                needs,
            };
        };
        let end = at + total;
        if header.last_offset() >= request.offset {
            let (from, to, next) = range.unwrap_or((at, at, request.offset));
            let first = to == from;
            if end - from > max && !(first && request.at_least_one) {
                return Walk {
                    range: (from, to, next),
                    needs: 0,
                };
            }
            if end > bytes.len() {
                return Walk {
                    range: (from, to, next),
                    needs: if first { end } else { 0 },
                };
            }
            range = Some((from, end, header.next_offset()));
        }
        at = end;
    }
}
