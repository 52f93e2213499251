//! Files. Paths are real paths below a data directory; the simulator has a tree of its own per node.
//!
//! Every operation takes its buffer and gives it back, also with an error. A dropped future leaves its buffer with the
//! kernel and its operation may still take effect. Reads and plain writes may be short.

mod dir;
mod file;

pub use dir::{
    PrepareFile, SYNC_WHOLE_MIN, create_dir_all, exists, metadata, prepare_files, read_dir,
    read_file, remove_dir, remove_file, rename, replace_file, statvfs, sync_dir, sync_dirs,
};
pub use file::{File, SharedFile};

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
