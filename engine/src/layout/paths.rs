//! The one place that builds and parses paths below a data directory.
//!
//! ```text
//! LOCK                                              empty; locked (flock) while a broker runs
//! format                                            see format_file
//! wal/SSS/checkpoint.0 | checkpoint.1               SSS = shard
//! wal/SSS/FFF.wal                                   FFF = file number in the log
//! partitions/<topic id, 32 hex>-<index>/<base offset, 20 digits>.log | .sum | .index | .timeindex
//! ```

use std::path::{Path, PathBuf};

use crate::ids::{PartitionId, TopicId};

pub const LOCK: &str = "LOCK";
pub const FORMAT: &str = "format";
pub const WAL: &str = "wal";
pub const PARTITIONS: &str = "partitions";

/// The files of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SegmentFile {
    /// Record batches, nothing else.
    Log,
    Sum,
    Index,
    TimeIndex,
}

impl SegmentFile {
    pub const ALL: [SegmentFile; 4] = [
        SegmentFile::Log,
        SegmentFile::Sum,
        SegmentFile::Index,
        SegmentFile::TimeIndex,
    ];

    pub fn extension(self) -> &'static str {
        match self {
            SegmentFile::Log => "log",
            SegmentFile::Sum => "sum",
            SegmentFile::Index => "index",
            SegmentFile::TimeIndex => "timeindex",
        }
    }
}

/// What a path below the data directory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DataPath {
    Lock,
    Format,
    WalRoot,
    Shard(u16),
    Checkpoint {
        shard: u16,
        slot: u8,
    },
    Log {
        shard: u16,
        file: u32,
    },
    PartitionsRoot,
    Partition(PartitionId),
    Segment {
        partition: PartitionId,
        base_offset: i64,
        file: SegmentFile,
    },
}

impl DataPath {
    /// The path relative to the data directory.
    pub fn relative(&self) -> String {
        match self {
            DataPath::Lock => LOCK.to_owned(),
            DataPath::Format => FORMAT.to_owned(),
            DataPath::WalRoot => WAL.to_owned(),
            DataPath::Shard(shard) => format!("{WAL}/{shard:03}"),
            DataPath::Checkpoint { shard, slot } => format!("{WAL}/{shard:03}/checkpoint.{slot}"),
            DataPath::Log { shard, file } => format!("{WAL}/{shard:03}/{file:03}.wal"),
            DataPath::PartitionsRoot => PARTITIONS.to_owned(),
            DataPath::Partition(partition) => format!("{PARTITIONS}/{partition}"),
            DataPath::Segment {
                partition,
                base_offset,
                file,
            } => {
                format!(
                    "{PARTITIONS}/{partition}/{base_offset:020}.{}",
                    file.extension()
                )
            }
        }
    }

    pub fn below(&self, data_dir: &Path) -> PathBuf {
        data_dir.join(self.relative())
    }

    /// What `relative` is; `None` for everything that this module would not have built.
    pub fn parse(relative: &str) -> Option<DataPath> {
        let parts: Vec<&str> = relative.split('/').collect();
        let path = match parts.as_slice() {
            [LOCK] => DataPath::Lock,
            [FORMAT] => DataPath::Format,
            [WAL] => DataPath::WalRoot,
            [PARTITIONS] => DataPath::PartitionsRoot,
            [WAL, shard] => DataPath::Shard(shard.parse().ok()?),
            [WAL, shard, name] => {
                let shard = shard.parse().ok()?;
                match name.strip_prefix("checkpoint.") {
                    Some(slot) => DataPath::Checkpoint {
                        shard,
                        slot: slot.parse().ok().filter(|slot| *slot < 2)?,
                    },
                    None => DataPath::Log {
                        shard,
                        file: name.strip_suffix(".wal")?.parse().ok()?,
                    },
                }
            }
            [PARTITIONS, partition] => DataPath::Partition(parse_partition(partition)?),
            [PARTITIONS, partition, name] => {
                let (base, extension) = name.split_once('.')?;
                DataPath::Segment {
                    partition: parse_partition(partition)?,
                    base_offset: base.parse().ok().filter(|base| *base >= 0)?,
                    file: SegmentFile::ALL
                        .into_iter()
                        .find(|file| file.extension() == extension)?,
                }
            }
            _ => return None,
        };
        // Only the spelling that we write: no signs, no other number of digits, no capitals.
        (path.relative() == relative).then_some(path)
    }
}

fn parse_partition(name: &str) -> Option<PartitionId> {
    let (topic, index) = name.split_once('-')?;
    if topic.len() != 32 || !topic.is_ascii() {
        return None;
    }
    let mut id = [0; 16];
    for (byte, digits) in id.iter_mut().zip(topic.as_bytes().chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(PartitionId {
        topic: TopicId(id),
        index: index.parse().ok()?,
    })
}
