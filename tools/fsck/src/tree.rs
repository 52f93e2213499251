//! The files of a data directory, by what they are.

use std::collections::{BTreeMap, BTreeSet};

use trireme_engine::PartitionId;
use trireme_engine::layout::format_file::Format;
use trireme_engine::layout::paths::{DataPath, SegmentFile};

use crate::report::Report;
use crate::source::{Buffer, Item, Source};

/// Where a repair puts what it takes out of the directory.
pub const QUARANTINE: &str = "quarantine";
/// Names in the data directory itself that hold nothing live: a file system's own, and what repairs set aside.
pub const FOREIGN: [&str; 2] = ["lost+found", QUARANTINE];

/// What is there.
#[derive(Clone, Debug, Default)]
pub struct Tree {
    pub files: BTreeMap<DataPath, u64>,
    pub directories: BTreeSet<DataPath>,
    /// Paths that are none of ours.
    pub unknown: Vec<String>,
}

impl Tree {
    pub fn of(items: Vec<Item>) -> Tree {
        let mut tree = Tree::default();
        for item in items {
            let is_foreign = FOREIGN
                .iter()
                .any(|name| item.path.split('/').next() == Some(name));
            match DataPath::parse(&item.path) {
                _ if is_foreign => {}
                Some(path) if item.is_dir == is_directory(&path) => {
                    if item.is_dir {
                        tree.directories.insert(path);
                    } else {
                        tree.files.insert(path, item.size);
                    }
                }
                _ => tree.unknown.push(item.path),
            }
        }
        tree
    }

    pub fn size(&self, path: DataPath) -> Option<u64> {
        self.files.get(&path).copied()
    }

    /// The files of a partition's segments that are there.
    pub fn segment_files(
        &self,
        partition: PartitionId,
    ) -> impl Iterator<Item = (i64, SegmentFile, u64)> {
        let from = DataPath::Segment {
            partition,
            base_offset: 0,
            file: SegmentFile::Log,
        };
        let to = DataPath::Segment {
            partition,
            base_offset: i64::MAX,
            file: SegmentFile::TimeIndex,
        };
        self.files
            .range(from..=to)
            .filter_map(|(path, size)| match path {
                DataPath::Segment {
                    base_offset, file, ..
                } => Some((*base_offset, *file, *size)),
                _ => None,
            })
    }

    /// The commit log files of a shard that are there, with their sizes.
    pub fn log_files(&self, shard: u16) -> impl Iterator<Item = (u32, u64)> {
        let range = DataPath::Log { shard, file: 0 }..=DataPath::Log {
            shard,
            file: u32::MAX,
        };
        self.files
            .range(range)
            .filter_map(|(path, size)| match path {
                DataPath::Log { file, .. } => Some((*file, *size)),
                _ => None,
            })
    }
}

fn is_directory(path: &DataPath) -> bool {
    matches!(
        path,
        DataPath::WalRoot | DataPath::Shard(_) | DataPath::PartitionsRoot | DataPath::Partition(_)
    )
}

/// Checks `LOCK` and `format`.
pub fn check_root(source: &dyn Source, tree: &Tree, report: &mut Report) -> Option<Format> {
    match tree.size(DataPath::Lock) {
        None => report.damage(DataPath::Lock.relative(), 0, 0, "missing"),
        Some(0) => {}
        Some(size) => report.damage(DataPath::Lock.relative(), 0, size, "not empty"),
    }
    let path = DataPath::Format.relative();
    let size = tree.size(DataPath::Format).unwrap_or(0) as usize;
    let mut buffer = Buffer::default();
    match source.read(&path, 0, size, &mut buffer) {
        Err(error) => report.unreadable(path, 0, error),
        Ok(bytes) => match Format::parse(bytes) {
            Ok(format) => return Some(format),
            Err(error) => report.damage(path, 0, bytes.len() as u64, error),
        },
    }
    None
}
