//! Reading what nobody reads: every segment is read through once in a while, so that rot is found while there is still a
//! copy elsewhere, and not when somebody needs the bytes.
//!
//! Invariants:
//! - It reads with O_DIRECT, in small pieces with pauses, in the background share: no reader's cache is lost to it, no commit
//!   waits longer than for one piece.
//! - Damage is said once in a pass, and changes nothing: readers of the broken block get their error (their own check of its
//!   sum finds it), everything else is served. What was said to be verified before is forgotten there.
//! - What is checked has its sum: sealed segments to their end, others as far as whole blocks are flushed; those are never
//!   written again. A segment has a lease for as long as a piece of it is read.

use std::io;
use std::rc::Rc;
use std::time::Duration;

use trireme_runtime::fs::{File, OpenOptions};
use trireme_runtime::{AlignedBuf, Instant, now, sleep, sleep_until, unix_ms};

use crate::api::ReadError;
use crate::batch::{BatchHeader, HEADER_BYTES};
use crate::crc::crc32c;
use crate::files::open_direct;
use crate::ids::Offset;
use crate::layout::paths::{DataPath, SegmentFile};
use crate::layout::seed::{block_sum, segment_seed};
use crate::layout::{BLOCK, SUM_BLOCK};
use crate::partition::Partition;
use crate::read::sums_of;
use crate::read_view::SegmentView;
use crate::shard::Shard;

/// Bytes of one read.
const PIECE_BYTES: u64 = 16 * SUM_BLOCK as u64;
/// The first pass begins so long after the start: a start has other things to do.
const FIRST_PASS_AFTER: Duration = Duration::from_secs(60);
/// A pass is to take this part of the period, at its slowest at this many bytes per second.
const PASS_PART_OF_PERIOD: u32 = 2;
const RATE_MIN: u64 = 1 << 20;
/// The least that O_DIRECT transfers.
const SECTOR: usize = 512;
/// Where the CRC of a batch stands in its header, and from where it covers.
const CRC_FROM: usize = 21;

/// Runs for ever in the background share. One per shard, if there is a period.
pub(crate) async fn run(shard: Rc<Shard>) {
    let period = Duration::from_millis(shard.config.scrub_period_ms);
    sleep(FIRST_PASS_AFTER.min(period)).await;
    loop {
        let started = now();
        shard.scrub(period).await;
        sleep_until(started + period).await;
    }
}

/// Lets so many bytes pass in a second.
struct Throttle {
    bytes_per_second: u64,
    due: Instant,
}

impl Throttle {
    async fn pass(&mut self, bytes: u64) {
        self.due =
            self.due.max(now()) + Duration::from_micros(bytes * 1_000_000 / self.bytes_per_second);
        sleep_until(self.due).await;
    }
}

impl Shard {
    /// One pass over all that has sums now.
    async fn scrub(self: &Rc<Self>, period: Duration) {
        let partitions = self.all_partitions();
        let flushed: u64 = partitions
            .iter()
            .flat_map(|partition| {
                let inner = partition.state.borrow();
                let all = inner.segments.iter().map(|segment| segment.flushed);
                all.collect::<Vec<u64>>()
            })
            .sum();
        let seconds = (period / PASS_PART_OF_PERIOD).as_secs().max(1);
        let mut throttle = Throttle {
            bytes_per_second: (flushed / seconds)
                .max(RATE_MIN)
                .min(self.config.scrub_bytes_per_second.max(1)),
            due: now(),
        };
        let damaged_before = self.stats.borrow().scrub_damage;
        for partition in partitions {
            let bases: Vec<Offset> = {
                let inner = partition.state.borrow();
                inner.segments.iter().map(|segment| segment.base).collect()
            };
            for base in bases {
                if self.closing.get() {
                    return;
                }
                if let Err(error) = self.scrub_segment(&partition, base, &mut throttle).await {
                    self.report_unreadable(&partition, base, &error);
                }
            }
        }
        let mut stats = self.stats.borrow_mut();
        stats.scrub_passes += 1;
        stats.scrub_last_pass_ms = unix_ms();
        let damage = stats.scrub_damage - damaged_before;
        stats.scrub_damage_last_pass = damage;
        if damage > 0 {
            tracing::error!(
                shard = self.id,
                blocks = damage,
                "scrubbed: damage was found"
            );
        }
    }

    /// Reads a segment through, as far as it has sums; ends early if it is deleted meanwhile.
    async fn scrub_segment(
        self: &Rc<Self>,
        partition: &Rc<Partition>,
        base: Offset,
        throttle: &mut Throttle,
    ) -> Result<(), ReadError> {
        if summed_end(partition, base).is_none_or(|end| end == 0) {
            return Ok(());
        }
        let Some(view) = live(self.view_uncached(partition, base).await)? else {
            return Ok(());
        };
        let path = self.path(DataPath::Segment {
            partition: partition.id,
            base_offset: base,
            file: SegmentFile::Log,
        });
        let file = match open_direct(&path, OpenOptions::READ).await {
            Ok(file) => file,
            Err(_) if summed_end(partition, base).is_none() => return Ok(()),
            Err(_) => {
                return Err(ReadError::Damaged {
                    file: path,
                    position: 0,
                });
            }
        };
        let seed = segment_seed(partition.id, base);
        let mut batches = BatchWalk::default();
        let mut buf = AlignedBuf::with_capacity(PIECE_BYTES as usize);
        let mut at = 0;
        loop {
            let (to, _lease) = match summed_end(partition, base) {
                Some(end) if at < end => {
                    let lease = partition
                        .state
                        .borrow()
                        .segment(base)
                        .map(|segment| segment.lease.clone());
                    (end.min(at + PIECE_BYTES), lease)
                }
                _ => return Ok(()),
            };
            let len = (to - at) as usize;
            let (read, back) = read_up_to(&file, buf, at, len).await;
            buf = back;
            let sums = sums_of(&partition.state.borrow(), base, &view, at, to);
            let Some((_, sums)) = live(sums)?.flatten() else {
                // Deleted, or its sums moved to the file meanwhile: the next pass sees it again.
                return Ok(());
            };
            let bytes = match &read {
                Ok(count) => &buf[..(*count).min(len)],
                Err(_) => &[],
            };
            for (index, sum) in sums.into_iter().enumerate() {
                let from = index * SUM_BLOCK;
                let until = (from + SUM_BLOCK).min(len);
                let position = at + from as u64;
                let block = bytes.get(from..until);
                let found = block.map(|block| block_sum(seed, position / SUM_BLOCK as u64, block));
                let is_right = sum.is_some() && found == sum;
                if !is_right {
                    let what = match (block, &read) {
                        (_, Err(error)) => format!("cannot be read: {error}"),
                        (None, _) => "the file is shorter".to_owned(),
                        _ => "the block does not match its sum".to_owned(),
                    };
                    self.report_block(
                        partition,
                        base,
                        &view,
                        (position, (until - from) as u64),
                        &what,
                    );
                }
                match block.filter(|_| is_right) {
                    Some(block) => {
                        if let Err(batch) = batches.feed(position, block) {
                            let what = "the CRC of the batch does not match";
                            self.report_block(partition, base, &view, batch, what);
                        }
                    }
                    None => {
                        let next = next_entry(partition, base, &view, position + SUM_BLOCK as u64);
                        batches.restart_at(next);
                    }
                }
            }
            self.stats.borrow_mut().scrubbed_bytes += len as u64;
            at = to;
            throttle.pass(len as u64).await;
            if self.closing.get() {
                return Ok(());
            }
        }
    }

    /// Says that `len` bytes from `position` on are broken, and that readers must look again.
    fn report_block(
        &self,
        partition: &Partition,
        base: Offset,
        view: &SegmentView,
        (position, len): (u64, u64),
        what: &str,
    ) {
        let (first, end) = offsets_of(partition, base, view, position, position + len);
        tracing::error!(
            partition = %partition.id,
            segment = base,
            position,
            len,
            offsets = format_args!("{first}..{end}"),
            "scrub: {what}"
        );
        if let Some(segment) = partition.state.borrow().segment(base)
            && let Some(view) = &segment.view
        {
            view.clear_verified(position, position + len);
        }
        self.stats.borrow_mut().scrub_damage += 1;
    }

    /// Says that a segment's sums, or its file, cannot be had.
    fn report_unreadable(&self, partition: &Partition, base: Offset, error: &ReadError) {
        tracing::error!(partition = %partition.id, segment = base, %error, "scrub: a segment cannot be checked");
        self.stats.borrow_mut().scrub_damage += 1;
    }
}

/// What a segment that was deleted meanwhile says is no damage.
fn live<T>(result: Result<T, ReadError>) -> Result<Option<T>, ReadError> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(ReadError::Damaged { file, position }) => Err(ReadError::Damaged { file, position }),
        Err(_) => Ok(None),
    }
}

/// How far the segment's bytes have sums and stay as they are; `None` if it is gone, or going.
fn summed_end(partition: &Partition, base: Offset) -> Option<u64> {
    let inner = partition.state.borrow();
    if partition.gone.get() || inner.deleting {
        return None;
    }
    let segment = inner.segment(base)?;
    if segment.end <= inner.log_start && segment.rolled {
        return None;
    }
    Some(if segment.sealed {
        segment.flushed
    } else {
        segment.flushed - segment.flushed % SUM_BLOCK as u64
    })
}

/// The offsets that the bytes `from..to` of a segment may hold, as far as the index tells: first, and behind the last.
fn offsets_of(
    partition: &Partition,
    base: Offset,
    view: &SegmentView,
    from: u64,
    to: u64,
) -> (Offset, Offset) {
    let inner = partition.state.borrow();
    let Some(segment) = inner.segment(base) else {
        return (base, base);
    };
    let entries = || view.index.iter().chain(&segment.index.pending);
    let first = entries()
        .take_while(|entry| entry.position <= from)
        .last()
        .map_or(base, |entry| entry.offset);
    let end = entries()
        .find(|entry| entry.position >= to)
        .map_or(segment.end, |entry| entry.offset);
    (first, end)
}

/// The first byte at or behind `position` at which, by the index, a batch begins.
fn next_entry(
    partition: &Partition,
    base: Offset,
    view: &SegmentView,
    position: u64,
) -> Option<u64> {
    let inner = partition.state.borrow();
    let pending = inner
        .segment(base)
        .map(|segment| &segment.index.pending[..]);
    view.index
        .iter()
        .chain(pending.unwrap_or_default())
        .map(|entry| entry.position)
        .find(|found| *found >= position)
}

/// Reads `len` bytes, or as many as the file has, in lengths that O_DIRECT takes; how many there are.
async fn read_up_to(
    file: &File,
    buf: AlignedBuf,
    at: u64,
    len: usize,
) -> (io::Result<usize>, AlignedBuf) {
    let whole = len / BLOCK * BLOCK;
    let (result, mut buf) = file.read_exact_at(buf, at, whole).await;
    match result {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return (Ok(buf.len()), buf),
        Err(error) => return (Err(error), buf),
        Ok(()) if whole == len => return (Ok(len), buf),
        Ok(()) => {}
    }
    // The end of a sealed segment is less than a block. A part that ends within a sector is all there is.
    while buf.len() < len && buf.len().is_multiple_of(SECTOR) {
        let room = AlignedBuf::with_capacity(BLOCK);
        let left = (len - buf.len()).next_multiple_of(BLOCK);
        let (result, part) = file.read_at(room, at + buf.len() as u64, left).await;
        match result {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return (Err(error), buf),
            Ok(0) => break,
            Ok(count) => buf.extend_from_slice(&part[..count.min(len - buf.len())]),
        }
    }
    (Ok(buf.len()), buf)
}

/// Checks the CRCs of batches that come in pieces of any size, without holding a batch: some are as long as a segment.
#[derive(Default)]
struct BatchWalk {
    /// The header of the batch, as far as it is there.
    header: Vec<u8>,
    /// Where it begins.
    position: u64,
    /// Its bytes behind the header that are still to come, and the CRC so far.
    left: u64,
    crc: u32,
    /// Bytes before this position are skipped; `None`: all, as nobody knows where a batch begins.
    skip_to: Option<u64>,
    lost: bool,
}

impl BatchWalk {
    /// Goes on at a position where a batch begins.
    fn restart_at(&mut self, position: Option<u64>) {
        *self = BatchWalk {
            skip_to: position,
            lost: position.is_none(),
            ..BatchWalk::default()
        };
    }

    /// Takes the bytes from `position` on. The error is the batch that is broken: its position and length.
    fn feed(&mut self, position: u64, bytes: &[u8]) -> Result<(), (u64, u64)> {
        let mut at = match self.skip_to {
            Some(to) if to > position => (to - position) as usize,
            _ => 0,
        };
        if self.lost || at >= bytes.len() {
            return Ok(());
        }
        self.skip_to = None;
        let mut broken = Ok(());
        while at < bytes.len() {
            if self.left == 0 {
                if self.header.is_empty() {
                    self.position = position + at as u64;
                }
                let missing = HEADER_BYTES - self.header.len();
                let taken = missing.min(bytes.len() - at);
                self.header.extend_from_slice(&bytes[at..at + taken]);
                at += taken;
                if self.header.len() < HEADER_BYTES {
                    break;
                }
                let total = BatchHeader::view(&self.header)
                    .and_then(|header| header.total_bytes())
                    .filter(|_| self.header[16] == crate::batch::MAGIC as u8);
                let Some(total) = total else {
                    // Right by its sum, and no batch: nothing behind it can be found.
                    self.lost = true;
                    return Err((self.position, HEADER_BYTES as u64));
                };
                self.left = (total - HEADER_BYTES) as u64;
                self.crc = crc32c(0, &self.header[CRC_FROM..]);
            }
            let taken = (self.left as usize).min(bytes.len() - at);
            self.crc = crc32c(self.crc, &bytes[at..at + taken]);
            self.left -= taken as u64;
            at += taken;
            if self.left == 0 {
                let header = BatchHeader::view(&self.header).expect("it is whole");
                if header.crc() != self.crc {
                    let len = header.total_bytes().unwrap_or(HEADER_BYTES) as u64;
                    broken = Err((self.position, len));
                }
                self.header.clear();
            }
        }
        broken
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::Codec;
    use crate::records::{BatchBuilder, NewRecord};

    fn batch(value_bytes: usize) -> Vec<u8> {
        let mut builder = BatchBuilder::new(Codec::None);
        builder.push(&NewRecord {
            timestamp_ms: 1,
            key: None,
            value: Some(&vec![7; value_bytes]),
            headers: &[],
        });
        builder.finish()
    }

    /// Feeds in pieces; where batches were found broken.
    fn broken(bytes: &[u8], piece: usize) -> Vec<u64> {
        let mut walk = BatchWalk::default();
        let mut broken = Vec::new();
        for (index, part) in bytes.chunks(piece).enumerate() {
            if let Err((position, _)) = walk.feed((index * piece) as u64, part) {
                broken.push(position);
            }
        }
        broken
    }

    #[test]
    fn batches_in_pieces_of_any_size() {
        let batches: Vec<Vec<u8>> = [1, 100, 5000, 0, 20_000].map(batch).to_vec();
        let whole = batches.concat();
        let second = batches[0].len();
        for piece in [1, 7, 60, 61, 62, 1000, 16_384, 1 << 20] {
            assert_eq!(broken(&whole, piece), [0; 0], "pieces of {piece}");
            let mut changed = whole.clone();
            changed[second + 90] ^= 1;
            assert_eq!(
                broken(&changed, piece),
                [second as u64],
                "pieces of {piece}"
            );
            let mut changed = whole.clone();
            changed[second + 16] = 9;
            assert_eq!(
                broken(&changed, piece),
                [second as u64],
                "pieces of {piece}"
            );
        }
    }

    #[test]
    fn behind_a_gap_it_goes_on_where_a_batch_begins() {
        let batches: Vec<Vec<u8>> = [100, 5000, 300].map(batch).to_vec();
        let mut whole = batches.concat();
        let third = (batches[0].len() + batches[1].len()) as u64;
        whole[batches[0].len() + 200] ^= 1;
        let mut walk = BatchWalk::default();
        walk.feed(0, &whole[..100]).unwrap();
        walk.restart_at(Some(third));
        for (index, part) in whole[100..].chunks(1000).enumerate() {
            assert_eq!(walk.feed(100 + index as u64 * 1000, part), Ok(()));
        }
        walk.restart_at(None);
        assert_eq!(walk.feed(0, &[0xFF; 500]), Ok(()));
    }
}
