//! Opening a shard: from its checkpoint and the groups behind it to what was acknowledged, exactly.
//!
//! Invariants:
//! - Everything acknowledged is there when this returns, and the cut behind it is durable in both checkpoint slots, with a
//!   new incarnation, before anything is appended.
//! - Damage is never repaired silently: a log that is broken where it was durable stops the start.
//! - No segment is scanned. Only direct runs without `Done` are verified, and blocks between them brought to the file.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use trireme_runtime::fs::{self, OpenOptions};
use trireme_runtime::{AlignedBuf, random_u64};

use crate::api::{EngineConfig, OpenError};
use crate::commit_log::{CommitLog, LogFile, UsedFile, create_file, open_file};
use crate::files::{Files, open_direct};
use crate::layout::BLOCK;
use crate::layout::SUM_BLOCK;
use crate::layout::checkpoint::{Checkpoint, LogExtent, LogFile as LogFileState, LogPosition};
use crate::layout::group::LogIdentity;
use crate::layout::paths::{DataPath, SegmentFile};
use crate::layout::seed::{block_sum, segment_seed};
use crate::layout::slots::read_slots;
use crate::mutations::{Mutation, on};
use crate::recovery_scan::{LogDamage, LogEnd, LogScan, RingFile, Supplied, Want, settled_end};
use crate::replay::{Replay, ReplayError, Replayed};
use crate::shard::Shard;

/// The log is read in pieces of this size.
const READ_BYTES: usize = 4 << 20;

/// Wraps an operating error with its path.
pub(crate) fn at(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> OpenError {
    let path = path.into();
    |source| OpenError::Io { path, source }
}

/// Recovers a shard. Its tasks are not started yet.
pub(crate) async fn open(
    config: Rc<EngineConfig>,
    directory_id: [u8; 16],
    id: u16,
    shards: u16,
    files: Files,
) -> Result<Rc<Shard>, OpenError> {
    let data_dir = config.data_dir.clone();
    let checkpoint = read_checkpoint(&data_dir, id, directory_id).await?;
    let ring = list_log(&data_dir, id).await?;
    let mut used = VecDeque::new();
    let (mut replay, end) = replay_log(&data_dir, id, &checkpoint, &ring, &mut used).await?;
    // The last group may have been read from the drive's cache, if its write was not over when the process was killed. It
    // counts from now on, so it must not be lost to a power cut.
    for file in &used {
        let path = DataPath::Log {
            shard: id,
            file: file.file.index,
        }
        .below(&data_dir);
        file.file.file.sync_data().await.map_err(at(path))?;
    }
    for replayed in replay.partitions.values_mut() {
        verify_undone(&data_dir, replayed).await?;
    }
    replay
        .finish()
        .map_err(|error| damaged_log(&data_dir, id, &end, &error))?;
    let (log, leftover) =
        begin_incarnation(&config, id, &checkpoint, &ring, &end, &replay, used).await?;

    let unclean = !end.clean;
    let shard = Rc::new(Shard::new(id, config, directory_id, shards, log, files));
    shard
        .epoch
        .set((checkpoint.body.node_epoch + u32::from(unclean && !on(Mutation::EpochKept))) as i32);
    shard.checkpoint_number.set(checkpoint.number);
    *shard.partitions.borrow_mut() = replay.map();
    {
        let mut stats = shard.stats.borrow_mut();
        stats.unclean_starts = u64::from(unclean);
        stats.recovered_bytes = replay.bytes;
    }
    for replayed in replay.partitions.values() {
        settle(&shard, replayed).await?;
    }
    if unclean {
        remove_orphans(&shard)
            .await
            .map_err(at(shard.path(DataPath::PartitionsRoot)))?;
    }
    persist_cut(&shard, &checkpoint)
        .await
        .map_err(at(shard.path(DataPath::Shard(id))))?;
    // Not before: the log as the checkpoint before had it may end by naming such a file.
    for path in leftover {
        fs::remove_file(&path).await.map_err(at(path))?;
    }
    if unclean {
        tracing::info!(
            shard = id,
            groups = end.groups,
            bytes = end.bytes,
            partitions = replay.partitions.len(),
            epoch = shard.epoch.get(),
            torn = ?end.torn,
            "recovered after an unclean end"
        );
    }
    Ok(shard)
}

async fn read_checkpoint(
    data_dir: &Path,
    id: u16,
    directory_id: [u8; 16],
) -> Result<Checkpoint, OpenError> {
    let mut bytes = [None, None];
    for slot in 0..2 {
        let path = DataPath::Checkpoint { shard: id, slot }.below(data_dir);
        bytes[usize::from(slot)] = match fs::read_file(&path).await {
            Ok(bytes) => Some(bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(at(path)(error)),
        };
    }
    let [first, second] = &bytes;
    let slots = read_slots(id, [first.as_deref(), second.as_deref()]);
    if let Some((slot, error)) = slots.damaged.first() {
        return Err(OpenError::Damaged {
            file: DataPath::Checkpoint {
                shard: id,
                slot: *slot,
            }
            .below(data_dir),
            position: error.position(),
            what: error.to_string(),
        });
    }
    let newest = slots.newest.expect("no damage, so there is one");
    if newest.directory != directory_id {
        return Err(OpenError::Damaged {
            file: DataPath::Shard(id).below(data_dir),
            position: 0,
            what: "the shard is of another data directory".to_owned(),
        });
    }
    Ok(newest)
}

async fn list_log(data_dir: &Path, id: u16) -> Result<Vec<RingFile>, OpenError> {
    let directory = DataPath::Shard(id).below(data_dir);
    let entries = fs::read_dir(&directory).await.map_err(at(&directory))?;
    let ring = entries.iter().filter_map(|entry| {
        let relative = format!("{}/{}", DataPath::Shard(id).relative(), entry.name);
        match DataPath::parse(&relative) {
            Some(DataPath::Log { file, .. }) => Some(RingFile {
                index: file,
                size_bytes: entry.size,
            }),
            _ => None,
        }
    });
    Ok(ring.collect())
}

fn damaged_log(data_dir: &Path, id: u16, end: &LogEnd, error: &ReplayError) -> OpenError {
    OpenError::Damaged {
        file: DataPath::Log {
            shard: id,
            file: end.end.file,
        }
        .below(data_dir),
        position: end.end.position,
        what: error.to_string(),
    }
}

/// Reads the log to its end and applies it.
async fn replay_log(
    data_dir: &Path,
    id: u16,
    checkpoint: &Checkpoint,
    ring: &[RingFile],
    used: &mut VecDeque<UsedFile>,
) -> Result<(Replay, LogEnd), OpenError> {
    let body = &checkpoint.body;
    let damage = |damage: &LogDamage| OpenError::Damaged {
        file: DataPath::Log {
            shard: id,
            file: damage.file,
        }
        .below(data_dir),
        position: damage.position,
        what: damage.to_string(),
    };
    let mut replay = Replay::new(body).map_err(|error| OpenError::Damaged {
        file: DataPath::Shard(id).below(data_dir),
        position: 0,
        what: error.to_string(),
    })?;
    if let Some(end) = settled_end(body) {
        return Ok((replay, end));
    }
    let mut scan = LogScan::new(id, body, ring.to_vec());
    let mut reader = LogReader::new(data_dir, id, ring);
    let mut more = 0;
    loop {
        match scan.want() {
            Want::Done => break,
            Want::Group { file, position } => {
                reader.seek(file, position, more).await?;
                let incarnation = scan.extent().map_or(0, |extent| extent.incarnation);
                match scan.supply(reader.bytes(position)) {
                    Supplied::More => more = reader.bytes(position).len() + 1,
                    Supplied::Next => more = 0,
                    Supplied::Group(group) => {
                        more = 0;
                        let header = group.header;
                        let is_known = used.back().is_some_and(|last: &UsedFile| {
                            (last.file.index, last.file.file_use) == (header.file, header.file_use)
                                && last.incarnation == incarnation
                        });
                        if !is_known {
                            let size_bytes = reader.size(header.file);
                            let state = LogFileState {
                                index: header.file,
                                file_use: header.file_use,
                                size_bytes,
                            };
                            let path = DataPath::Log {
                                shard: id,
                                file: header.file,
                            }
                            .below(data_dir);
                            used.push_back(UsedFile {
                                ordinal: used.back().map_or(0, |last| last.ordinal + 1),
                                file: open_file(data_dir, id, &state).await.map_err(at(path))?,
                                incarnation,
                                first: LogPosition {
                                    file: header.file,
                                    file_use: header.file_use,
                                    position: header.position,
                                    sequence: header.sequence,
                                    previous_header_crc: header.previous_header_crc,
                                },
                                partitions: Vec::new(),
                            });
                        }
                        let ordinal = used.back().expect("just pushed").ordinal;
                        for record in group.records() {
                            replay.record(&header, ordinal, &record).map_err(|error| {
                                OpenError::Damaged {
                                    file: DataPath::Log {
                                        shard: id,
                                        file: header.file,
                                    }
                                    .below(data_dir),
                                    position: header.position,
                                    what: error.to_string(),
                                }
                            })?;
                        }
                    }
                }
            }
            Want::Probe {
                file,
                position,
                len,
            } => {
                reader.seek(file, position, 0).await?;
                let bytes = reader.bytes(position);
                scan.supply(&bytes[..bytes.len().min(len as usize)]);
            }
        }
    }
    let end = scan.finish().map_err(|found| damage(&found))?;
    Ok((replay, end))
}

/// Reads log files in large pieces.
struct LogReader<'a> {
    data_dir: &'a Path,
    id: u16,
    ring: &'a [RingFile],
    file: Option<(u32, trireme_runtime::fs::File)>,
    position: u64,
    buf: AlignedBuf,
}

impl<'a> LogReader<'a> {
    fn new(data_dir: &'a Path, id: u16, ring: &'a [RingFile]) -> Self {
        Self {
            data_dir,
            id,
            ring,
            file: None,
            position: 0,
            buf: AlignedBuf::with_capacity(READ_BYTES),
        }
    }

    fn size(&self, file: u32) -> u64 {
        self.ring
            .iter()
            .find(|found| found.index == file)
            .map_or(0, |found| found.size_bytes)
    }

    /// The bytes in memory from `position` on.
    fn bytes(&self, position: u64) -> &[u8] {
        &self.buf[(position - self.position) as usize..]
    }

    /// Makes sure that bytes of `file` from `position` on are in memory: at least `least` of them, if the file has them.
    async fn seek(&mut self, file: u32, position: u64, least: usize) -> Result<(), OpenError> {
        let end = self.position + self.buf.len() as u64;
        let is_here = self.file.as_ref().is_some_and(|(index, _)| *index == file)
            && (self.position..end).contains(&position)
            && (end - position) as usize >= least.max(BLOCK);
        if is_here {
            return Ok(());
        }
        let path = DataPath::Log {
            shard: self.id,
            file,
        }
        .below(self.data_dir);
        let open = match self.file.take() {
            Some((index, open)) if index == file => open,
            _ => open_direct(&path, OpenOptions::READ)
                .await
                .map_err(at(&path))?,
        };
        let size = self.size(file) / BLOCK as u64 * BLOCK as u64;
        let len = size.saturating_sub(position).min(READ_BYTES as u64) as usize;
        let mut buf = std::mem::replace(&mut self.buf, AlignedBuf::with_capacity(BLOCK));
        buf.clear();
        if len > 0 {
            let (result, read) = open.read_exact_at(buf, position, len).await;
            result.map_err(at(&path))?;
            buf = read;
        }
        self.buf = buf;
        self.position = position;
        self.file = Some((file, open));
        Ok(())
    }
}

/// Checks the blocks of a direct run without `Done`, and applies or drops it.
async fn verify_undone(data_dir: &Path, replayed: &mut Replayed) -> Result<(), OpenError> {
    let Some(undone) = &replayed.undone else {
        return Ok(());
    };
    let id = replayed.partition.id;
    let (base, from) = (undone.entry.segment_base, undone.blocks_at());
    let path = DataPath::Segment {
        partition: id,
        base_offset: base,
        file: SegmentFile::Log,
    }
    .below(data_dir);
    let right = match fs::exists(&path).await.map_err(at(&path))? {
        false => false,
        true => {
            let file = open_direct(&path, OpenOptions::READ)
                .await
                .map_err(at(&path))?;
            let mut buf = AlignedBuf::with_capacity(READ_BYTES);
            let (mut block, mut right) = (0, true);
            let seed = segment_seed(id, base);
            while right && block < undone.sums.len() {
                let count = (undone.sums.len() - block).min(READ_BYTES / SUM_BLOCK);
                let position = from + (block * SUM_BLOCK) as u64;
                let (result, read) = file.read_exact_at(buf, position, count * SUM_BLOCK).await;
                buf = read;
                match result {
                    Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => right = false,
                    Err(error) => return Err(at(&path)(error)),
                    Ok(()) => {
                        let first = from / SUM_BLOCK as u64 + block as u64;
                        let sums = (first..)
                            .zip(buf.chunks(SUM_BLOCK))
                            .map(|(block, bytes)| block_sum(seed, block, bytes));
                        right = sums.eq(undone.sums[block..block + count].iter().copied());
                    }
                }
                block += count;
            }
            if right {
                // As with the log: what was read is not durable for having been read.
                file.sync_data().await.map_err(at(&path))?;
            }
            right
        }
    };
    tracing::info!(partition = %id, base, from, right, "a direct run that was under way");
    Replay::settle_undone(replayed, right).map_err(|error| OpenError::Damaged {
        file: path,
        position: from,
        what: error.to_string(),
    })
}

/// Whether a file of this size can be a file of the log: whole blocks, one for a group and one for the file's end.
fn is_usable(size_bytes: u64) -> bool {
    size_bytes.is_multiple_of(BLOCK as u64) && size_bytes >= 2 * BLOCK as u64
}

/// The log as it goes on: in a file that no earlier incarnation has live groups in. And the files that are nobody's.
async fn begin_incarnation(
    config: &EngineConfig,
    id: u16,
    checkpoint: &Checkpoint,
    ring: &[RingFile],
    end: &LogEnd,
    replay: &Replay,
    mut used: VecDeque<UsedFile>,
) -> Result<(CommitLog, Vec<PathBuf>), OpenError> {
    let data_dir = &config.data_dir;
    // Files are needed from the first one on that a partition has unflushed bytes in.
    let ordinals = replay.partitions.values().flat_map(|replayed| {
        let inner = replayed.partition.state.borrow();
        inner.spans.first().map(|span| span.ordinal)
    });
    let needed = ordinals.min().unwrap_or(u64::MAX);
    let mut spare_states: Vec<LogFileState> = Vec::new();
    while used.front().is_some_and(|first| first.ordinal < needed) {
        let freed = used.pop_front().expect("just seen").file;
        if is_usable(freed.size) {
            spare_states.push(LogFileState {
                index: freed.index,
                file_use: freed.file_use,
                size_bytes: freed.size,
            });
        }
    }
    let mut leftover = Vec::new();
    for file in ring {
        let listed = checkpoint
            .body
            .files
            .iter()
            .find(|listed| listed.index == file.index);
        let is_used = used.iter().any(|used| used.file.index == file.index);
        let is_spare = spare_states.iter().any(|spare| spare.index == file.index);
        if is_used || is_spare {
            continue;
        }
        match listed {
            Some(listed) if listed.size_bytes == file.size_bytes && is_usable(file.size_bytes) => {
                spare_states.push(*listed);
            }
            // Made, perhaps not to its end, and never used; or cut by somebody.
            _ => leftover.push(
                DataPath::Log {
                    shard: id,
                    file: file.index,
                }
                .below(data_dir),
            ),
        }
    }
    // Uses that the checkpoint does not know of have other nonces, but the number should rise all the same.
    // The file that the log ended in comes last: a write of the process before may still be on its way to it.
    spare_states.sort_unstable_by_key(|state| (state.index == end.end.file, state.size_bytes));
    let mut next_index = ring.iter().map(|file| file.index + 1).max().unwrap_or(0);
    let mut spare: VecDeque<LogFile> = VecDeque::new();
    for state in &spare_states {
        let path = DataPath::Log {
            shard: id,
            file: state.index,
        }
        .below(data_dir);
        spare.push_back(open_file(data_dir, id, state).await.map_err(at(path))?);
    }
    let fresh = spare
        .front()
        .is_some_and(|file| file.index != end.end.file || end.clean);
    let ready = if fresh { spare.pop_front() } else { None };
    let current = match ready {
        Some(file) => file,
        None => {
            let size = u64::from(config.first_wal_file_bytes).max(2 * BLOCK as u64);
            let size = size.next_multiple_of(BLOCK as u64);
            next_index += 1;
            let path = DataPath::Log {
                shard: id,
                file: next_index - 1,
            }
            .below(data_dir);
            create_file(data_dir, id, next_index - 1, size)
                .await
                .map_err(at(path))?
        }
    };
    let mut earlier: Vec<LogExtent> = checkpoint.body.extents.clone();
    if let Some(last) = earlier.last_mut() {
        last.end = Some(end.end);
        last.durable_through = end.end.sequence - 1;
    }
    earlier.retain(|extent| {
        used.iter()
            .any(|file| file.incarnation == extent.incarnation)
    });
    let identity = LogIdentity {
        shard: id,
        incarnation: checkpoint.body.incarnation + u64::from(!on(Mutation::SameIncarnation)),
        nonce: match on(Mutation::SameIncarnation) {
            true => checkpoint.body.nonce,
            false => random_u64(),
        },
    };
    let sequence = end.end.sequence.max(1);
    let log = CommitLog::new(
        identity, sequence, earlier, used, current, spare, next_index,
    );
    Ok((log, leftover))
}

/// Brings a recovered partition into order: closes holes between direct runs, counts what is unflushed, notes what is due.
async fn settle(shard: &Rc<Shard>, replayed: &Replayed) -> Result<(), OpenError> {
    let partition = &replayed.partition;
    let id = partition.id;
    if partition.state.borrow().deleting {
        shard.end_delete(partition);
        return Ok(());
    }
    if let Some(base) = replayed.imaged {
        shard.drop_head_sum(partition, base);
    }
    {
        let mut log = shard.log.borrow_mut();
        for used in &mut log.used {
            if replayed.ordinals.contains(&used.ordinal) {
                used.partitions.push(partition.clone());
            }
        }
    }
    shard.take_memory(partition.state.borrow().tail.capacity());
    for hole in &replayed.holes {
        let path = DataPath::Segment {
            partition: id,
            base_offset: hole.segment,
            file: SegmentFile::Log,
        };
        shard
            .close_hole(partition, hole)
            .await
            .map_err(at(shard.path(path)))?;
    }
    let (is_rolled, unflushed) = {
        let mut inner = partition.state.borrow_mut();
        inner.settle_spans();
        (
            inner
                .segments
                .iter()
                .any(|segment| segment.rolled && !segment.sealed),
            inner.unflushed(),
        )
    };
    shard.unflushed.set(shard.unflushed.get() + unflushed);
    if is_rolled {
        shard.rolled.borrow_mut().push_back(partition.clone());
    }
    Ok(())
}

/// Removes the files of segments that were begun and of which nothing became durable. Before the first append, which may
/// begin a segment of the same name.
async fn remove_orphans(shard: &Rc<Shard>) -> io::Result<()> {
    let root = shard.path(DataPath::PartitionsRoot);
    for directory in fs::read_dir(&root).await? {
        let relative = format!("{}/{}", DataPath::PartitionsRoot.relative(), directory.name);
        let Some(DataPath::Partition(id)) = DataPath::parse(&relative) else {
            continue;
        };
        let Some(partition) = shard.partition(&id) else {
            continue;
        };
        for file in fs::read_dir(root.join(&directory.name)).await? {
            let Some(DataPath::Segment { base_offset, .. }) =
                DataPath::parse(&format!("{relative}/{}", file.name))
            else {
                continue;
            };
            if partition.state.borrow().segment(base_offset).is_none() {
                tracing::info!(partition = %id, file = file.name, "removing a file of a segment that never came to be");
                fs::remove_file(root.join(&directory.name).join(&file.name)).await?;
            }
        }
    }
    Ok(())
}

/// Makes the cut durable in both slots.
async fn persist_cut(shard: &Rc<Shard>, checkpoint: &Checkpoint) -> io::Result<()> {
    if checkpoint.closed {
        shard.close_slot(checkpoint.number, false).await?;
    }
    // Twice: the older slot must not lead into an incarnation that is over.
    shard.try_checkpoint().await?;
    shard.try_checkpoint().await
}
