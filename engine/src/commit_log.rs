//! The files of a shard's commit log and where in them the next group goes. What is in a group is the
//! [`committer`](crate::committer)'s business.
//!
//! Invariants:
//! - A file is written from its beginning, group behind group, and only after zeros were really written to all of it.
//! - Every use of a file has an ordinal. Files of this incarnation and of earlier ones that are still needed lie in `used`,
//!   oldest first; the last one is written to. A file is reused only when both checkpoint slots can do without that use.
//! - The last block of a file is kept for the group that names the next file.
//! - Files of an earlier incarnation are never appended to.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use trireme_runtime::AlignedBuf;
use trireme_runtime::fs::{self, File, OpenOptions};

use crate::files::open_direct;
use crate::layout::BLOCK;
use crate::layout::checkpoint::{LogExtent, LogFile as LogFileState, LogPosition};
use crate::layout::group::LogIdentity;
use crate::layout::paths::DataPath;
use crate::mutations::{Mutation, on};
use crate::partition::Partition;

/// Zeros are written in pieces of this size.
const ZERO_BYTES: usize = 1 << 20;

/// A file of the log, open for direct writes.
#[derive(Clone)]
pub(crate) struct LogFile {
    pub index: u32,
    /// Number of its present or last use.
    pub file_use: u32,
    pub size: u64,
    pub file: File,
}

/// One use of a file.
pub(crate) struct UsedFile {
    pub ordinal: u64,
    pub file: LogFile,
    pub incarnation: u64,
    /// Where its first group stands.
    pub first: LogPosition,
    /// Partitions with unflushed bytes in it (or that had some).
    pub partitions: Vec<Rc<Partition>>,
}

pub(crate) struct CommitLog {
    pub identity: LogIdentity,
    /// The extents of earlier incarnations that are still needed; `first` is taken from their first used file.
    pub earlier: Vec<LogExtent>,
    pub used: VecDeque<UsedFile>,
    pub spare: VecDeque<LogFile>,
    /// Where the next group goes.
    pub next: LogPosition,
    pub durable_through: u64,
    /// The newest group is an empty one, so there is nothing to mark.
    pub marked: bool,
    next_ordinal: u64,
    next_index: u32,
    /// Where each of the two checkpoint slots begins to need the log, as an ordinal.
    pub slots: [u64; 2],
}

impl CommitLog {
    /// A log whose first group goes to the beginning of `file`. `used` are the files of earlier incarnations, oldest first.
    pub fn new(
        identity: LogIdentity,
        sequence: u64,
        earlier: Vec<LogExtent>,
        used: VecDeque<UsedFile>,
        mut file: LogFile,
        spare: VecDeque<LogFile>,
        next_index: u32,
    ) -> Self {
        file.file_use += 1;
        let next = LogPosition {
            file: file.index,
            file_use: file.file_use,
            position: 0,
            sequence,
            previous_header_crc: 0,
        };
        let next_ordinal = used.back().map_or(0, |last| last.ordinal + 1);
        let oldest = used.front().map_or(next_ordinal, |first| first.ordinal);
        let mut log = Self {
            identity,
            earlier,
            used,
            spare,
            next,
            durable_through: sequence - 1,
            marked: true,
            next_ordinal,
            next_index,
            slots: [oldest; 2],
        };
        log.push_used(file);
        log
    }

    fn push_used(&mut self, file: LogFile) {
        self.used.push_back(UsedFile {
            ordinal: self.next_ordinal,
            file,
            incarnation: self.identity.incarnation,
            first: self.next,
            partitions: Vec::new(),
        });
        self.next_ordinal += 1;
    }

    pub fn current(&self) -> &UsedFile {
        self.used.back().expect("there is always a current file")
    }

    /// Bytes that a group may have in the current file.
    pub fn room(&self) -> usize {
        (self.current().file.size - self.next.position) as usize - BLOCK
    }

    /// The uses that the newest checkpoint still needs, oldest first; the current one is always among them.
    pub fn needed(&self) -> impl Iterator<Item = &UsedFile> {
        let newest = self.slots[0].max(self.slots[1]);
        self.used.iter().filter(move |used| used.ordinal >= newest)
    }

    /// Moves on behind a group of `len` bytes that was written.
    pub fn advance(&mut self, len: usize, header_crc: u32) {
        self.next.position += len as u64;
        self.next.sequence += 1;
        self.next.previous_header_crc = header_crc;
    }

    /// The next file, and the number of its use to come.
    pub fn peek_spare(&self) -> Option<(u32, u32)> {
        self.spare
            .front()
            .map(|file| (file.index, file.file_use + 1))
    }

    /// Goes on in the first spare file.
    pub fn switch_file(&mut self) {
        let mut file = self.spare.pop_front().expect("there is a spare file");
        file.file_use += 1;
        self.next.file = file.index;
        self.next.file_use = file.file_use;
        self.next.position = 0;
        self.push_used(file);
    }

    /// Where a checkpoint that needs the log from `ordinal` on begins to read it, and the extents it names. `end` is where
    /// the log ends if it is cleanly shut: then nobody needs it, but the checker can say whether its last file is whole.
    pub fn extents(&self, ordinal: u64, end: Option<LogPosition>) -> Vec<LogExtent> {
        let first_of = |incarnation| {
            self.used
                .iter()
                .find(|used| used.incarnation == incarnation && used.ordinal >= ordinal)
                .map(|used| used.first)
        };
        let mut extents: Vec<LogExtent> = self
            .earlier
            .iter()
            .filter_map(|extent| {
                Some(LogExtent {
                    first: first_of(extent.incarnation)?,
                    ..*extent
                })
            })
            .collect();
        let first = first_of(self.identity.incarnation).unwrap_or(self.current().first);
        extents.push(LogExtent {
            incarnation: self.identity.incarnation,
            nonce: self.identity.nonce,
            first,
            end,
            durable_through: self
                .durable_through
                .min(end.map_or(u64::MAX, |end| end.sequence - 1)),
        });
        extents
    }

    /// The files as a checkpoint lists them.
    pub fn file_states(&self) -> Vec<LogFileState> {
        let used = self.used.iter().map(|used| &used.file);
        let mut files: Vec<LogFileState> = used
            .chain(&self.spare)
            .map(|file| LogFileState {
                index: file.index,
                file_use: file.file_use,
                size_bytes: file.size,
            })
            .collect();
        files.sort_unstable_by_key(|file| file.index);
        files
    }

    /// Notes that a slot now needs the log from `ordinal` on only; files that neither slot needs become spare.
    pub fn release(&mut self, slot: u8, ordinal: u64) {
        self.slots[usize::from(slot)] = ordinal;
        let needed = match on(Mutation::EarlyRecycle) {
            true => u64::MAX,
            false => self.slots[0].min(self.slots[1]),
        };
        while self.used.len() > 1 && self.used[0].ordinal < needed {
            let used = self.used.pop_front().expect("not empty");
            self.spare.push_back(used.file);
        }
        let used = &self.used;
        self.earlier.retain(|extent| {
            used.iter()
                .any(|file| file.incarnation == extent.incarnation)
        });
    }

    pub fn take_index(&mut self) -> u32 {
        self.next_index += 1;
        self.next_index - 1
    }

    /// Size of the file to be made next: each four times the largest so far, up to `max`.
    pub fn next_size(&self, max: u64) -> u64 {
        let largest = self
            .used
            .iter()
            .map(|used| used.file.size)
            .chain(self.spare.iter().map(|file| file.size))
            .max();
        largest.map_or(max, |largest| (largest * 4).min(max))
    }
}

/// Creates a log file and really writes zeros to all of it. Durable, name included, when it returns.
pub(crate) async fn create_file(
    data_dir: &Path,
    shard: u16,
    index: u32,
    size: u64,
) -> io::Result<LogFile> {
    let path = DataPath::Log { shard, file: index }.below(data_dir);
    if fs::exists(&path).await? {
        fs::remove_file(&path).await?;
    }
    let file = open_direct(&path, OpenOptions::CREATE_NEW).await?;
    file.allocate(0, size).await?;
    let mut zeros = AlignedBuf::zeroed(ZERO_BYTES.min(size as usize));
    let mut at = 0;
    while at < size {
        zeros.truncate((size - at).min(ZERO_BYTES as u64) as usize);
        let (result, buf) = file.write_all_at(zeros, at).await;
        result?;
        at += buf.len() as u64;
        zeros = buf;
    }
    file.sync_all().await?;
    fs::sync_dir(path.parent().unwrap_or(data_dir)).await?;
    Ok(LogFile {
        index,
        file_use: 0,
        size,
        file,
    })
}

/// Opens a log file that exists.
pub(crate) async fn open_file(
    data_dir: &Path,
    shard: u16,
    state: &LogFileState,
) -> io::Result<LogFile> {
    let path: PathBuf = DataPath::Log {
        shard,
        file: state.index,
    }
    .below(data_dir);
    let file = open_direct(&path, OpenOptions::READ_WRITE).await?;
    Ok(LogFile {
        index: state.index,
        file_use: state.file_use,
        size: state.size_bytes,
        file,
    })
}
