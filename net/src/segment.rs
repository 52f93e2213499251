//! What an answer is made of: memory and ranges of files, sent in order.

use bytes::Bytes;
use std::any::Any;
use trireme_runtime::fs::SharedFile;

/// One piece of an answer.
pub enum Segment {
    Memory(Bytes),
    File(FileRange),
}

impl Segment {
    /// Bytes it puts on the wire.
    pub fn len(&self) -> u64 {
        match self {
            Segment::Memory(bytes) => bytes.len() as u64,
            Segment::File(range) => u64::from(range.len),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl From<Bytes> for Segment {
    fn from(bytes: Bytes) -> Self {
        Segment::Memory(bytes)
    }
}

/// A range of a file, sent without passing through user space.
pub struct FileRange {
    pub file: SharedFile,
    pub position: u64,
    pub len: u32,
    /// Held until the range is sent: keeps the file from being unlinked or reused.
    pub lease: Option<Box<dyn Any + Send>>,
}
