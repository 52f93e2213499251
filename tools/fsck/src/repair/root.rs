//! What lies in the data directory itself: the lock, and the format file, without which nothing else can be read.

use std::io;

use trireme_engine::layout::format_file::Format;
use trireme_engine::layout::paths::DataPath;

use super::shard;
use super::workshop::Workshop;
use crate::source::{Buffer, Directory, Item, Source};
use crate::tree::Tree;

/// Files of the directory itself, and files that are none of ours.
pub fn mend_root(source: &dyn Source, tree: &Tree, shop: &Workshop) -> io::Result<()> {
    let lock = DataPath::Lock.relative();
    match tree.size(DataPath::Lock) {
        None => shop.replace(&lock, &[])?,
        Some(0) => {}
        Some(size) => {
            let mut buffer = Buffer::default();
            let _ = source.read(&lock, 0, size as usize, &mut buffer)?;
            shop.fit(&lock, size, 0)?;
        }
    }
    for path in tree.unknown.iter().filter(|path| path.contains('/')) {
        shop.move_aside(path);
    }
    Ok(())
}

/// The directory with a format file that is right: its own, or one made from what else is there.
pub fn with_format<'a>(
    source: &'a Directory,
    tree: &Tree,
) -> anyhow::Result<(Format, WithFormat<'a>)> {
    let path = DataPath::Format.relative();
    let size = tree.size(DataPath::Format).unwrap_or(0) as usize;
    let mut buffer = Buffer::default();
    let parsed = source.read(&path, 0, size, &mut buffer).map(Format::parse);
    let (format, replaced) = match parsed {
        Ok(Ok(format)) => (format, false),
        _ => {
            let shards = tree.directories.iter().filter_map(|path| match path {
                DataPath::Shard(shard) => Some(*shard),
                _ => None,
            });
            let Some(last) = shards.max() else {
                anyhow::bail!(
                    "neither a format file nor a commit log is left: there is nothing to repair from"
                );
            };
            let checkpoint = (0..=last)
                .flat_map(|shard| shard::valid_checkpoints(source, tree, shard, None))
                .next();
            let mut directory = [0; 16];
            getrandom::fill(&mut directory)?;
            let format = Format {
                directory: checkpoint.map_or(directory, |checkpoint| checkpoint.directory),
                shards: last + 1,
                created_unix_ms: 0,
            };
            (format, true)
        }
    };
    let bytes = format.encode().to_vec();
    let source = WithFormat {
        source,
        bytes,
        replaced,
    };
    Ok((format, source))
}

/// See [`with_format`].
pub struct WithFormat<'a> {
    source: &'a Directory,
    bytes: Vec<u8>,
    /// The directory's own is missing or broken.
    pub replaced: bool,
}

impl Source for WithFormat<'_> {
    fn list(&self) -> io::Result<Vec<Item>> {
        let format = DataPath::Format.relative();
        let mut items = self.source.list()?;
        items.retain(|item| item.path != format);
        items.push(Item {
            path: format,
            is_dir: false,
            size: self.bytes.len() as u64,
        });
        Ok(items)
    }

    fn read<'a>(
        &'a self,
        path: &str,
        position: u64,
        len: usize,
        buffer: &'a mut Buffer,
    ) -> io::Result<&'a [u8]> {
        if path == DataPath::Format.relative() {
            let from = (position as usize).min(self.bytes.len());
            return Ok(&self.bytes[from..(from + len).min(self.bytes.len())]);
        }
        self.source.read(path, position, len, buffer)
    }
}
