//! A segment as it can be put together: the bytes of its file, and where these cannot be trusted, those that the log still has.

use std::collections::BTreeMap;
use std::io;

use trireme_engine::PartitionId;
use trireme_engine::layout::SUM_BLOCK;
use trireme_engine::layout::paths::{DataPath, SegmentFile};
use trireme_engine::layout::seed::{block_sum, segment_seed};

use super::replay::Patch;
use crate::source::{Buffer, Source};

/// Bytes that are read and checked at a time: a whole number of blocks.
const WINDOW: usize = 256 * SUM_BLOCK;

/// The bytes of a segment, to be read from its beginning to its end.
pub struct Overlay<'a> {
    source: &'a dyn Source,
    shard: u16,
    partition: PartitionId,
    base_offset: i64,
    file_size: u64,
    patches: &'a [Patch],
    /// Sums that are known, by block, and the end of what the last one covers.
    sums: BTreeMap<u64, u32>,
    summed_end: u64,
    end: u64,
    file: Buffer,
    log: Buffer,
    /// The window: its position and bytes.
    at: u64,
    bytes: Vec<u8>,
    /// Blocks that do not match their sum, or cannot be read, and were not wholly replaced from the log.
    pub broken: BTreeMap<u64, &'static str>,
    /// The first byte that differs from the file's.
    pub differs_from: Option<u64>,
    /// A byte of the file that is not zero would have to be overwritten.
    pub overwrites: bool,
}

impl<'a> Overlay<'a> {
    /// `end` is as far as the segment can go. `sums` are of the file's blocks in order, `summed_end` is where what they cover ends.
    pub fn new(
        source: &'a dyn Source,
        shard: u16,
        (partition, base_offset): (PartitionId, i64),
        (file_size, end): (u64, u64),
        patches: &'a [Patch],
        (sums, summed_end): (BTreeMap<u64, u32>, u64),
    ) -> Overlay<'a> {
        Overlay {
            source,
            shard,
            partition,
            base_offset,
            file_size,
            patches,
            sums,
            summed_end,
            end,
            file: Buffer::default(),
            log: Buffer::default(),
            at: 0,
            bytes: Vec::new(),
            broken: BTreeMap::new(),
            differs_from: None,
            overwrites: false,
        }
    }

    pub fn end(&self) -> u64 {
        self.end
    }

    /// The bytes from `position` on: at least `least` of them, if there are so many.
    pub fn bytes(&mut self, position: u64, least: usize) -> io::Result<&[u8]> {
        let block = SUM_BLOCK as u64;
        let window_end = self.at + self.bytes.len() as u64;
        let wanted = (position + least as u64).min(self.end);
        if position < self.at || position > window_end {
            self.at = position / block * block;
            self.bytes.clear();
        } else if wanted > window_end && position - self.at >= WINDOW as u64 {
            let keep = position / block * block;
            self.bytes.drain(..(keep - self.at) as usize);
            self.at = keep;
        }
        while self.at + (self.bytes.len() as u64) < wanted {
            self.extend()?;
        }
        Ok(&self.bytes[(position - self.at).min(self.bytes.len() as u64) as usize..])
    }

    /// Reads the next window behind the bytes in memory.
    fn extend(&mut self) -> io::Result<()> {
        let from = self.at + self.bytes.len() as u64;
        let to = (from + WINDOW as u64).min(self.end);
        let mut bytes = vec![0; (to - from) as usize];
        let readable = self.read_file(from, &mut bytes);
        let seed = segment_seed(self.partition, self.base_offset);
        let block = SUM_BLOCK as u64;
        for (index, piece) in bytes.chunks_mut(SUM_BLOCK).enumerate() {
            let at = from + (index * SUM_BLOCK) as u64;
            let number = at / block;
            let covered =
                (self.summed_end.min(at + block).saturating_sub(at) as usize).min(piece.len());
            let sum = self.sums.get(&number).copied().filter(|_| covered > 0);
            let is_right = sum == Some(block_sum(seed, number, &piece[..covered]));
            if is_right && covered == piece.len() {
                continue;
            }
            // Of a block that is right as far as its sum goes, the log may have what follows.
            let keep = if is_right { covered } else { 0 };
            let in_file = (self.file_size.saturating_sub(at) as usize).min(piece.len());
            let mut replaced = vec![false; piece.len()];
            for patch in self.patches {
                let patch_end = patch.position + u64::from(patch.len);
                let (begin, end) = (
                    patch.position.max(at + keep as u64),
                    patch_end.min(at + piece.len() as u64),
                );
                if begin >= end {
                    continue;
                }
                let path = DataPath::Log {
                    shard: self.shard,
                    file: patch.file,
                }
                .relative();
                let len = (end - begin) as usize;
                let place = patch.at + (begin - patch.position);
                let new = self.source.read(&path, place, len, &mut self.log)?;
                for (offset, byte) in ((begin - at) as usize..).zip(new) {
                    if piece[offset] != *byte || offset >= in_file {
                        let position = at + offset as u64;
                        self.differs_from =
                            Some(self.differs_from.map_or(position, |old| old.min(position)));
                        self.overwrites |= offset < in_file && piece[offset] != 0;
                    }
                    piece[offset] = *byte;
                    replaced[offset] = true;
                }
            }
            let whole = replaced[keep..in_file.max(keep)].iter().all(|byte| *byte);
            if sum.is_some() && !is_right && !whole {
                self.broken.insert(number, "does not match its sum");
            } else if !readable && !whole {
                self.broken.insert(number, "cannot be read");
            }
        }
        self.bytes.extend_from_slice(&bytes);
        Ok(())
    }

    /// Fills `bytes` from the file, block by block where some cannot be read; whether all could be.
    fn read_file(&mut self, from: u64, bytes: &mut [u8]) -> bool {
        let in_file = (self.file_size.saturating_sub(from) as usize).min(bytes.len());
        if in_file == 0 {
            return true;
        }
        let path = DataPath::Segment {
            partition: self.partition,
            base_offset: self.base_offset,
            file: SegmentFile::Log,
        }
        .relative();
        if let Ok(read) = self.source.read(&path, from, in_file, &mut self.file) {
            bytes[..read.len()].copy_from_slice(read);
            return true;
        }
        for (index, piece) in bytes[..in_file].chunks_mut(SUM_BLOCK).enumerate() {
            let at = from + (index * SUM_BLOCK) as u64;
            if let Ok(read) = self.source.read(&path, at, piece.len(), &mut self.file) {
                piece[..read.len()].copy_from_slice(read);
            }
        }
        false
    }
}
