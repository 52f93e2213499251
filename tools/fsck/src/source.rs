//! Where the bytes come from: a directory, or memory. Read-only by construction.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use memmap2::{Advice, MmapMut};

/// Bytes read at a time: large enough for the drive's full speed without read-ahead.
pub const READ_BYTES: usize = 4 << 20;

const ALIGN: usize = 4096;
/// Reads of at least so many bytes use a ring of memory.
const RING_FROM_BYTES: usize = 512 << 10;
/// The ring of a reader.
const RING_BYTES: usize = 8 << 20;
const HUGE_PAGE_BYTES: usize = 2 << 20;

/// Something below the data directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// Relative, with `/`.
    pub path: String,
    pub is_dir: bool,
    pub size: u64,
}

/// A data directory that can be read.
pub trait Source: Sync {
    /// Everything in it, in any order.
    fn list(&self) -> io::Result<Vec<Item>>;

    /// Up to `len` bytes of a file from `position` on: fewer only where the file ends.
    fn read<'a>(
        &'a self,
        path: &str,
        position: u64,
        len: usize,
        buffer: &'a mut Buffer,
    ) -> io::Result<&'a [u8]>;
}

/// Memory of one reader, and the file it read last.
#[derive(Default)]
pub struct Buffer {
    memory: Vec<u8>,
    ring: Option<Ring>,
    open: Option<(String, File)>,
}

/// Memory that large reads go through in turn, in huge pages. Each read into the same small piece instead, which a core has
/// just summed up and holds in its cache, halves what the drive gives: whoever writes the bytes there (the host, of a virtual
/// machine) has to take each line from that cache first, and ordinary pages cut a read into hundreds of parts.
struct Ring {
    memory: MmapMut,
    /// Of the first huge page in it.
    start: usize,
    /// From the start to where the next read goes.
    next: usize,
}

impl Ring {
    fn new() -> io::Result<Ring> {
        let memory = MmapMut::map_anon(RING_BYTES + HUGE_PAGE_BYTES)?;
        // A kernel without huge pages does without.
        let _ = memory.advise(Advice::HugePage);
        let start = memory.as_ptr().align_offset(HUGE_PAGE_BYTES);
        Ok(Ring {
            memory,
            start,
            next: 0,
        })
    }

    /// So many bytes, at most [`RING_BYTES`].
    fn take(&mut self, len: usize) -> &mut [u8] {
        if self.next + len > RING_BYTES {
            self.next = 0;
        }
        let from = self.start + self.next;
        self.next += len;
        &mut self.memory[from..from + len]
    }
}

/// A directory of a file system. Reads bypass the page cache where the file system lets them.
pub struct Directory {
    root: PathBuf,
}

impl Directory {
    pub fn new(root: impl Into<PathBuf>) -> Directory {
        Directory { root: root.into() }
    }

    fn collect(&self, relative: &str, items: &mut Vec<Item>) -> io::Result<()> {
        for entry in std::fs::read_dir(self.root.join(relative))? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let path = if relative.is_empty() {
                name
            } else {
                format!("{relative}/{name}")
            };
            let metadata = match entry.metadata() {
                // Removed meanwhile, or below a directory that is not ours to read (lost+found).
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                metadata => metadata?,
            };
            items.push(Item {
                path: path.clone(),
                is_dir: metadata.is_dir(),
                size: metadata.len(),
            });
            if metadata.is_dir() && !crate::tree::FOREIGN.contains(&path.as_str()) {
                self.collect(&path, items)?;
            }
        }
        Ok(())
    }
}

fn open(path: &Path) -> io::Result<File> {
    match OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_DIRECT)
        .open(path)
    {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => File::open(path),
        result => result,
    }
}

impl Source for Directory {
    fn list(&self) -> io::Result<Vec<Item>> {
        let mut items = Vec::new();
        self.collect("", &mut items)?;
        Ok(items)
    }

    fn read<'a>(
        &'a self,
        path: &str,
        position: u64,
        len: usize,
        buffer: &'a mut Buffer,
    ) -> io::Result<&'a [u8]> {
        if buffer.open.as_ref().is_none_or(|(open, _)| open != path) {
            buffer.open = Some((path.to_owned(), open(&self.root.join(path))?));
        }
        let Some((_, file)) = &buffer.open else {
            unreachable!()
        };
        // Aligned memory, position and length, as O_DIRECT wants them.
        let before = (position % ALIGN as u64) as usize;
        let wanted = (before + len).next_multiple_of(ALIGN);
        let memory = if (RING_FROM_BYTES..=RING_BYTES).contains(&wanted) {
            let ring = match &mut buffer.ring {
                Some(ring) => ring,
                none => none.insert(Ring::new()?),
            };
            ring.take(wanted)
        } else {
            if buffer.memory.len() < wanted + ALIGN {
                buffer.memory.resize(wanted + ALIGN, 0);
            }
            let shift = buffer.memory.as_ptr().align_offset(ALIGN);
            &mut buffer.memory[shift..shift + wanted]
        };
        let mut filled = 0;
        while filled < wanted {
            match file.read_at(
                &mut memory[filled..],
                position - before as u64 + filled as u64,
            ) {
                Ok(0) => break,
                Ok(read) => {
                    filled += read;
                    // Only the end of the file is not aligned, and behind it O_DIRECT may refuse to read.
                    if read % ALIGN != 0 {
                        break;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(&memory[before.min(filled)..filled.min(before + len)])
    }
}

/// A directory in memory: for tests that break it in millions of ways.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    pub files: BTreeMap<String, Vec<u8>>,
    pub directories: Vec<String>,
}

impl Memory {
    /// A copy of all of a source.
    pub fn copy_of(source: &dyn Source) -> io::Result<Memory> {
        let mut memory = Memory::default();
        let mut buffer = Buffer::default();
        for item in source.list()? {
            if item.is_dir {
                memory.directories.push(item.path);
            } else {
                let bytes = source
                    .read(&item.path, 0, item.size as usize, &mut buffer)?
                    .to_vec();
                memory.files.insert(item.path, bytes);
            }
        }
        Ok(memory)
    }
}

impl Source for Memory {
    fn list(&self) -> io::Result<Vec<Item>> {
        let directories = self.directories.iter().map(|path| Item {
            path: path.clone(),
            is_dir: true,
            size: 0,
        });
        let files = self.files.iter().map(|(path, bytes)| Item {
            path: path.clone(),
            is_dir: false,
            size: bytes.len() as u64,
        });
        Ok(directories.chain(files).collect())
    }

    fn read<'a>(
        &'a self,
        path: &str,
        position: u64,
        len: usize,
        _: &'a mut Buffer,
    ) -> io::Result<&'a [u8]> {
        let bytes = self.files.get(path).ok_or(io::ErrorKind::NotFound)?;
        let from = (position as usize).min(bytes.len());
        Ok(&bytes[from..from.saturating_add(len).min(bytes.len())])
    }
}
