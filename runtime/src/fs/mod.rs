//! Files. Paths are real paths below a data directory; the simulator has a tree of its own per node.
//!
//! Every operation takes its buffer and gives it back, also with an error. A dropped future leaves its buffer with the
//! kernel and its operation may still take effect. Reads and plain writes may be short.

use std::io;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use crate::buf::{IoBuf, IoBufMut};

/// How to open a file; `OpenOptions::default()` opens nothing until `read` or `write` is set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OpenOptions {
    pub read: bool,
    pub write: bool,
    /// Create if missing.
    pub create: bool,
    /// Create, fail with `AlreadyExists` if it is there.
    pub create_new: bool,
    /// Cut to no bytes at opening.
    pub truncate: bool,
    /// O_DIRECT: positions, lengths and memory must be aligned. `InvalidInput` where the file system refuses.
    pub direct: bool,
}

impl OpenOptions {
    pub const READ: OpenOptions = OpenOptions {
        read: true,
        write: false,
        create: false,
        create_new: false,
        truncate: false,
        direct: false,
    };
    pub const READ_WRITE: OpenOptions = OpenOptions {
        write: true,
        ..OpenOptions::READ
    };
    pub const CREATE: OpenOptions = OpenOptions {
        create: true,
        ..OpenOptions::READ_WRITE
    };
    pub const CREATE_NEW: OpenOptions = OpenOptions {
        create_new: true,
        ..OpenOptions::CREATE
    };

    /// The same with O_DIRECT.
    pub const fn direct(self) -> Self {
        OpenOptions {
            direct: true,
            ..self
        }
    }
}

/// An open file. Clones are the same open file; it is closed, asynchronously, when the last one is dropped.
#[derive(Clone)]
pub struct File(PhantomData<Rc<()>>);

/// An open file on its way to another core (its own descriptor).
pub struct SharedFile(());

impl File {
    pub async fn open(path: impl AsRef<Path>, options: OpenOptions) -> io::Result<File> {
        let _ = (path, options);
        unimplemented!()
    }

    /// Reads at most `len` bytes at `pos` to the start of `buf` and sets its length to what came; 0 is the end of the file.
    /// Panics if `len` is more than the buffer's capacity.
    pub async fn read_at<B: IoBufMut>(
        &self,
        buf: B,
        pos: u64,
        len: usize,
    ) -> (io::Result<usize>, B) {
        let _ = (buf, pos, len);
        unimplemented!()
    }

    /// Reads exactly `len` bytes, or fails with `UnexpectedEof` (the buffer then holds what there was).
    pub async fn read_exact_at<B: IoBufMut>(
        &self,
        buf: B,
        pos: u64,
        len: usize,
    ) -> (io::Result<()>, B) {
        let _ = (buf, pos, len);
        unimplemented!()
    }

    /// Writes at least a part of `buf`.
    pub async fn write_at<B: IoBuf>(&self, buf: B, pos: u64) -> (io::Result<usize>, B) {
        let _ = (buf, pos);
        unimplemented!()
    }

    /// Writes all of `buf`. Not durable before a sync.
    pub async fn write_all_at<B: IoBuf>(&self, buf: B, pos: u64) -> (io::Result<()>, B) {
        let _ = (buf, pos);
        unimplemented!()
    }

    /// Writes all of `bufs`, one after the other, from `pos` on. Not durable before a sync.
    pub async fn write_all_vectored_at<B: IoBuf>(
        &self,
        bufs: Vec<B>,
        pos: u64,
    ) -> (io::Result<()>, Vec<B>) {
        let _ = (bufs, pos);
        unimplemented!()
    }

    /// Writes all of `buf` with RWF_DSYNC: on `Ok` these bytes are durable (and of earlier writes nothing is said).
    pub async fn write_durable_at<B: IoBuf>(&self, buf: B, pos: u64) -> (io::Result<()>, B) {
        let _ = (buf, pos);
        unimplemented!()
    }

    /// [`File::write_durable_at`] for several buffers in a row.
    pub async fn write_durable_vectored_at<B: IoBuf>(
        &self,
        bufs: Vec<B>,
        pos: u64,
    ) -> (io::Result<()>, Vec<B>) {
        let _ = (bufs, pos);
        unimplemented!()
    }

    /// fdatasync: on `Ok` all completed writes, and the size, are durable. After an error the data may be gone: stop.
    pub async fn sync_data(&self) -> io::Result<()> {
        unimplemented!()
    }

    pub async fn sync_all(&self) -> io::Result<()> {
        unimplemented!()
    }

    /// fallocate mode 0: space for the range, and the file at least that long. Durable after a sync.
    pub async fn allocate(&self, pos: u64, len: u64) -> io::Result<()> {
        let _ = (pos, len);
        unimplemented!()
    }

    /// Cuts or extends (with zeros) to `len`. Durable after a sync.
    pub async fn truncate(&self, len: u64) -> io::Result<()> {
        let _ = len;
        unimplemented!()
    }

    pub async fn size(&self) -> io::Result<u64> {
        unimplemented!()
    }

    /// What O_DIRECT wants positions and lengths to be a multiple of; `None` where the file system does not say.
    pub async fn dio_alignment(&self) -> io::Result<Option<u32>> {
        unimplemented!()
    }

    /// Reads only if it need not wait for the disk; `None` if it would. Synchronous; may be short.
    pub fn try_read_resident<B: IoBufMut>(
        &self,
        buf: B,
        pos: u64,
        len: usize,
    ) -> (io::Result<Option<usize>>, B) {
        let _ = (buf, pos, len);
        unimplemented!()
    }

    /// Whether the page cache holds the whole range (a snapshot: it may be evicted at once).
    pub fn is_resident(&self, pos: u64, len: u64) -> io::Result<bool> {
        let _ = (pos, len);
        unimplemented!()
    }

    /// Tries to take an exclusive lock on the file (flock); `false` if somebody else holds it. Held until the file is closed.
    pub fn lock_exclusive(&self) -> io::Result<bool> {
        unimplemented!()
    }

    /// The same open file for another core.
    pub fn share(&self) -> io::Result<SharedFile> {
        unimplemented!()
    }

    pub fn from_shared(shared: SharedFile) -> File {
        let _ = shared;
        unimplemented!()
    }
}

/// One entry of [`read_dir`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirEntry {
    /// File name without its directory. Names that are not UTF-8 are an error of `read_dir`.
    pub name: String,
    pub is_dir: bool,
    /// Bytes (0 for a directory).
    pub size: u64,
}

/// What [`metadata`] tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metadata {
    pub is_dir: bool,
    pub size: u64,
    /// Modification time, milliseconds since 1970.
    pub modified_ms: i64,
}

/// Space of a file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FsSpace {
    /// Bytes that this process may still take.
    pub free_bytes: u64,
    pub total_bytes: u64,
}

/// Creates the directory and its missing parents. Durable after [`sync_dir`] of each parent.
pub async fn create_dir_all(path: impl AsRef<Path>) -> io::Result<()> {
    let _ = path;
    unimplemented!()
}

pub async fn remove_file(path: impl AsRef<Path>) -> io::Result<()> {
    let _ = path;
    unimplemented!()
}

/// Removes an empty directory.
pub async fn remove_dir(path: impl AsRef<Path>) -> io::Result<()> {
    let _ = path;
    unimplemented!()
}

pub async fn rename(from: impl AsRef<Path>, to: impl AsRef<Path>) -> io::Result<()> {
    let _ = (from, to);
    unimplemented!()
}

/// fsync of a directory: creations, renames and removals in it are durable.
pub async fn sync_dir(path: impl AsRef<Path>) -> io::Result<()> {
    let _ = path;
    unimplemented!()
}

/// The directory's entries, sorted by name.
pub async fn read_dir(path: impl AsRef<Path>) -> io::Result<Vec<DirEntry>> {
    let _ = path;
    unimplemented!()
}

pub async fn metadata(path: impl AsRef<Path>) -> io::Result<Metadata> {
    let _ = path;
    unimplemented!()
}

pub async fn exists(path: impl AsRef<Path>) -> io::Result<bool> {
    let _ = path;
    unimplemented!()
}

pub async fn statvfs(path: impl AsRef<Path>) -> io::Result<FsSpace> {
    let _ = path;
    unimplemented!()
}

/// Replaces (or creates) a file as a whole: temporary file beside it, sync, rename, sync of the directory. Durable when
/// it returns; after a crash either the old or the new content is there.
pub async fn replace_file<B: IoBuf>(path: impl AsRef<Path>, bytes: B) -> io::Result<()> {
    let _ = (path, bytes);
    unimplemented!()
}

/// A whole file.
pub async fn read_file(path: impl AsRef<Path>) -> io::Result<Vec<u8>> {
    let _: (_, PathBuf) = (path.as_ref(), PathBuf::new());
    unimplemented!()
}
