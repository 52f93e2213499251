//! One segment, repaired: what of it counts becomes sealed segments, each without a gap, with sums and indexes of their own.

use std::collections::BTreeMap;
use std::io;

use trireme_engine::PartitionId;
use trireme_engine::batch::{BatchHeader, Batches, RawBatch};
use trireme_engine::layout::checkpoint::{IndexEntry, SegmentState, TimeIndexEntry};
use trireme_engine::layout::paths::{DataPath, SegmentFile};
use trireme_engine::layout::seed::{block_sum, segment_seed};
use trireme_engine::layout::sidecar::{SidecarEntry, SumEntry, encode_blocks, parse_block};
use trireme_engine::layout::{BLOCK, SUM_BLOCK};

use super::overlay::Overlay;
use super::replay::Salvage;
use super::runs::{Broken, Rules, Run, walk};
use super::workshop::Workshop;
use crate::source::{Buffer, Source};
use crate::tree::Tree;

/// Bytes between two index entries of a rebuilt index: the engine's default.
const INDEX_INTERVAL: u64 = SUM_BLOCK as u64;
const COPY_BYTES: usize = 1 << 20;

/// What became of a segment.
#[derive(Default)]
pub struct Repaired {
    pub states: Vec<SegmentState>,
    pub broken: Vec<Broken>,
    /// Leader epoch of the last batch.
    pub last_epoch: Option<i32>,
}

/// Where a segment is looked for, and what is known of it.
pub struct Place<'a> {
    pub source: &'a dyn Source,
    pub tree: &'a Tree,
    pub shop: &'a Workshop,
    pub salvage: &'a Salvage,
    /// The log is whole, so that nothing can be behind what log and checkpoint know.
    pub log_is_whole: bool,
}

impl Place<'_> {
    fn id(&self) -> PartitionId {
        self.salvage.id
    }

    pub fn path(&self, base_offset: i64, file: SegmentFile) -> DataPath {
        DataPath::Segment {
            partition: self.id(),
            base_offset,
            file,
        }
    }

    /// Moves all files of a segment aside, but those in `except`.
    pub fn move_aside(&self, base_offset: i64, except: &[SegmentFile]) {
        for file in SegmentFile::ALL {
            let path = self.path(base_offset, file);
            if !except.contains(&file) && self.tree.size(path).is_some() {
                self.shop.move_aside(&path.relative());
            }
        }
    }

    /// The entries of a sidecar file whose blocks are right, by their number in the file.
    fn entries<E: SidecarEntry>(&self, base_offset: i64) -> BTreeMap<u64, E> {
        let path = self.path(base_offset, E::FILE);
        let size = self.tree.size(path).unwrap_or(0);
        let mut buffer = Buffer::default();
        let Ok(bytes) = self
            .source
            .read(&path.relative(), 0, size as usize, &mut buffer)
        else {
            return BTreeMap::new();
        };
        let mut entries = BTreeMap::new();
        for (block, bytes) in (0u32..).zip(bytes.chunks(BLOCK)) {
            let mut found = Vec::new();
            if parse_block::<E>(self.id(), base_offset, block, bytes, &mut found).is_ok() {
                entries.extend((u64::from(block) * E::PER_BLOCK as u64..).zip(found));
            }
        }
        entries
    }

    /// Repairs the segment that begins with `base_offset`. Of what it held, only offsets from `from_offset` on can count.
    pub fn repair(
        &self,
        base_offset: i64,
        from_offset: i64,
        last_epoch: Option<i32>,
        epoch_at: &dyn Fn(i64) -> Option<i32>,
        batch: &mut dyn FnMut(RawBatch<'_>),
    ) -> io::Result<Repaired> {
        let log = self.path(base_offset, SegmentFile::Log).relative();
        let state = self.salvage.known.as_ref().and_then(|known| {
            known
                .segments
                .iter()
                .find(|segment| segment.base_offset == base_offset)
        });
        let size = self
            .tree
            .size(self.path(base_offset, SegmentFile::Log))
            .unwrap_or(0);
        let (sums, summed_end) = self.sums(base_offset, state, size);
        let none = Vec::new();
        let patches = self.salvage.patches.get(&base_offset).unwrap_or(&none);
        let logged = self.salvage.ends.get(&base_offset).copied().unwrap_or(0);
        let patched = patches
            .iter()
            .map(|patch| patch.position + u64::from(patch.len))
            .max()
            .unwrap_or(0);
        let flushed = state.map_or(0, |state| state.flushed_bytes);
        let end = if self.salvage.known.is_some() && self.log_is_whole {
            // Behind it there is space that was allocated ahead, and what was never acknowledged.
            flushed.max(logged).max(patched)
        } else {
            size.max(patched)
        };
        let mut overlay = Overlay::new(
            self.source,
            self.salvage.shard,
            (self.id(), base_offset),
            (size, end),
            patches,
            (sums, summed_end),
        );
        let mut starts = self
            .salvage
            .starts
            .get(&base_offset)
            .cloned()
            .unwrap_or_default();
        let pending = state.map_or(&[][..], |state| &state.pending_index);
        for entry in self
            .entries::<IndexEntry>(base_offset)
            .values()
            .chain(pending)
        {
            starts.entry(entry.position).or_insert(entry.offset);
        }
        let rules = Rules {
            starts: &starts,
            epoch_at,
        };
        let mut parts: Vec<Part> = Vec::new();
        let mut last = last_epoch;
        let walked = walk(
            &mut overlay,
            base_offset,
            last_epoch,
            &rules,
            &mut |at, raw| {
                let header = raw.header();
                last = Some(header.leader_epoch());
                match parts.last_mut() {
                    Some(part) if part.goes_on(at, header) => {}
                    _ => parts.push(Part::new(at, header)),
                }
                parts.last_mut().expect("just made").add(at, header);
                batch(raw);
            },
        )?;
        let runs: Vec<(Run, Part)> = walked
            .runs
            .into_iter()
            .zip(parts)
            .filter(|(run, _)| run.first_offset >= from_offset)
            .collect();
        let mut repaired = Repaired {
            broken: walked.broken,
            last_epoch: last,
            ..Repaired::default()
        };
        for broken in &repaired.broken {
            self.shop.note(format!(
                "{log}: bytes {} to {} cannot be used: {}",
                broken.from, broken.to, broken.why
            ));
        }
        let stays = matches!(runs.as_slice(), [(run, _)]
            if run.from == 0 && run.first_offset == base_offset && size > 0 && !overlay.overwrites);
        if !stays {
            self.move_aside(base_offset, &[]);
        }
        for (run, part) in runs {
            let state = self.settle(&mut overlay, &run, part, size, stays)?;
            repaired.states.push(state);
        }
        Ok(repaired)
    }

    /// The sums that are known of blocks of a segment's file, and where what they cover ends.
    fn sums(
        &self,
        base_offset: i64,
        state: Option<&SegmentState>,
        size: u64,
    ) -> (BTreeMap<u64, u32>, u64) {
        let mut sums: BTreeMap<u64, u32> = self
            .entries::<SumEntry>(base_offset)
            .into_iter()
            .map(|(block, sum)| (block, sum.0))
            .collect();
        let Some(state) = state else {
            return (sums, size);
        };
        let in_file = u64::from(state.sums_in_file);
        sums.split_off(&in_file);
        sums.extend((in_file..).zip(state.pending_sums.iter().copied()));
        (sums, state.flushed_bytes)
    }

    /// Makes a run a sealed segment: bytes, sums, indexes. `stays`: in the file it is in, of that size.
    fn settle(
        &self,
        overlay: &mut Overlay<'_>,
        run: &Run,
        part: Part,
        size: u64,
        stays: bool,
    ) -> io::Result<SegmentState> {
        let base = run.first_offset;
        let log = self.path(base, SegmentFile::Log).relative();
        let mut sums = Sums::new(segment_seed(self.id(), base));
        if stays {
            let new_from = overlay.differs_from.unwrap_or(run.to).min(run.to);
            let mut at = run.from;
            while at < run.to {
                let len = (run.to - at).min(COPY_BYTES as u64) as usize;
                let bytes = &overlay.bytes(at, len)?[..len];
                sums.add(bytes);
                if at + len as u64 > new_from {
                    let skip = new_from.saturating_sub(at) as usize;
                    self.shop.write_at(&log, at + skip as u64, &bytes[skip..])?;
                }
                at += len as u64;
            }
            if new_from < run.to {
                self.shop.note(format!(
                    "{log}: bytes {new_from} to {} written from the commit log",
                    run.to
                ));
            }
            if size != run.to || new_from < run.to {
                self.shop.fit(&log, size.max(new_from), run.to)?;
            }
        } else {
            self.shop.place(&log, |out| {
                let mut at = run.from;
                while at < run.to {
                    let len = (run.to - at).min(COPY_BYTES as u64) as usize;
                    let bytes = &overlay.bytes(at, len)?[..len];
                    sums.add(bytes);
                    out.write_all(bytes)?;
                    at += len as u64;
                }
                Ok(())
            })?;
        }
        let sums = sums.finish();
        let mut state = SegmentState {
            base_offset: base,
            end_offset: run.next_offset,
            flushed_bytes: run.to - run.from,
            length_bytes: run.to - run.from,
            sealed: true,
            ..part.state
        };
        state.sums_in_file = sums.len() as u32;
        state.index_in_file = part.index.len() as u32;
        state.time_index_in_file = part.time_index.len() as u32;
        self.sidecar(base, &sums, !stays)?;
        self.sidecar(base, &part.index, !stays)?;
        self.sidecar(base, &part.time_index, !stays)?;
        Ok(state)
    }

    fn sidecar<E: SidecarEntry>(&self, base: i64, entries: &[E], moved: bool) -> io::Result<()> {
        let path = self.path(base, E::FILE).relative();
        let mut bytes = Vec::new();
        encode_blocks(self.id(), base, 0, entries, &mut bytes);
        if moved {
            return self.shop.place(&path, |out| out.write_all(&bytes));
        }
        self.shop.replace(&path, &bytes)
    }
}

/// A sealed segment of these batches, placed: for what a repair has to add.
pub fn place_new(shop: &Workshop, id: PartitionId, batches: &[u8]) -> io::Result<SegmentState> {
    let mut part: Option<Part> = None;
    let mut at = 0;
    for raw in Batches::new(batches).map_while(Result::ok) {
        let header = raw.header();
        part.get_or_insert_with(|| Part::new(0, header))
            .add(at, header);
        at += raw.bytes().len() as u64;
    }
    let part = part.expect("there are batches");
    let base = part.index.first().map_or(0, |entry| entry.offset);
    let mut sums = Sums::new(segment_seed(id, base));
    sums.add(batches);
    let sums = sums.finish();
    let path = |file| {
        DataPath::Segment {
            partition: id,
            base_offset: base,
            file,
        }
        .relative()
    };
    let (mut sum, mut index, mut time_index) = (Vec::new(), Vec::new(), Vec::new());
    encode_blocks(id, base, 0, &sums, &mut sum);
    encode_blocks(id, base, 0, &part.index, &mut index);
    encode_blocks(id, base, 0, &part.time_index, &mut time_index);
    for (file, bytes) in [
        (SegmentFile::Log, batches),
        (SegmentFile::Sum, &sum),
        (SegmentFile::Index, &index),
        (SegmentFile::TimeIndex, &time_index),
    ] {
        shop.place(&path(file), |out| out.write_all(bytes))?;
    }
    Ok(SegmentState {
        base_offset: base,
        end_offset: part.next_offset,
        flushed_bytes: at,
        length_bytes: at,
        sealed: true,
        sums_in_file: sums.len() as u32,
        index_in_file: part.index.len() as u32,
        time_index_in_file: part.time_index.len() as u32,
        ..part.state
    })
}

/// What the sidecars of a run will say, built batch by batch.
struct Part {
    from: u64,
    to: u64,
    next_offset: i64,
    index: Vec<IndexEntry>,
    time_index: Vec<TimeIndexEntry>,
    state: SegmentState,
}

impl Part {
    fn new(at: u64, header: &BatchHeader) -> Part {
        Part {
            from: at,
            to: at,
            next_offset: header.base_offset(),
            index: Vec::new(),
            time_index: Vec::new(),
            state: SegmentState {
                max_timestamp: -1,
                max_timestamp_offset: -1,
                first_timestamp: -1,
                created_ms: header.latest_timestamp().max(0),
                ..SegmentState::default()
            },
        }
    }

    fn goes_on(&self, at: u64, header: &BatchHeader) -> bool {
        (self.to, self.next_offset) == (at, header.base_offset())
    }

    fn add(&mut self, at: u64, header: &BatchHeader) {
        let position = at - self.from;
        let timestamp = header.latest_timestamp();
        let state = &mut self.state;
        if state.first_timestamp < 0 {
            state.first_timestamp = timestamp;
        }
        if timestamp > state.max_timestamp {
            state.max_timestamp = timestamp;
            state.max_timestamp_offset = header.last_offset();
        }
        let last = self.index.last().map(|entry| entry.position);
        if last.is_none_or(|last| position >= last + INDEX_INTERVAL) {
            self.index.push(IndexEntry {
                offset: header.base_offset(),
                position,
            });
            self.time_index.push(TimeIndexEntry {
                max_timestamp: state.max_timestamp,
                offset: header.base_offset(),
            });
        }
        self.to = at + header.total_bytes().expect("it was judged") as u64;
        self.next_offset = header.next_offset();
    }
}

/// Sums of consecutive blocks of bytes that come in any pieces.
struct Sums {
    seed: u32,
    done: Vec<SumEntry>,
    rest: Vec<u8>,
}

impl Sums {
    fn new(seed: u32) -> Sums {
        Sums {
            seed,
            done: Vec::new(),
            rest: Vec::with_capacity(SUM_BLOCK),
        }
    }

    fn add(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (head, tail) = bytes.split_at(bytes.len().min(SUM_BLOCK - self.rest.len()));
            self.rest.extend_from_slice(head);
            bytes = tail;
            if self.rest.len() == SUM_BLOCK {
                self.end_block();
            }
        }
    }

    fn end_block(&mut self) {
        let block = self.done.len() as u64;
        self.done
            .push(SumEntry(block_sum(self.seed, block, &self.rest)));
        self.rest.clear();
    }

    fn finish(mut self) -> Vec<SumEntry> {
        if !self.rest.is_empty() {
            self.end_block();
        }
        self.done
    }
}
