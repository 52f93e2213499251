//! Open segment files of a core: a bounded cache, least recently used first out.
//!
//! A `.log` file is open up to twice: direct for writes, buffered for reads (never buffered for writes).

use std::cell::{Cell, RefCell};
use std::io;
use std::path::Path;
use std::rc::Rc;

use foldhash::fast::FixedState;
use hashbrown::HashMap;
use trireme_runtime::fs::{File, OpenOptions};

use crate::ids::{Offset, PartitionId};

/// How a segment file is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Mode {
    Read,
    Write,
}

type Key = (PartitionId, Offset, Mode);

#[derive(Clone)]
pub(crate) struct Files(Rc<Inner>);

struct Inner {
    capacity: usize,
    clock: Cell<u64>,
    open: RefCell<HashMap<Key, (File, u64), FixedState>>,
}

impl Files {
    pub fn new(capacity: usize) -> Self {
        Self(Rc::new(Inner {
            capacity: capacity.max(8),
            clock: Cell::new(0),
            open: RefCell::default(),
        }))
    }

    pub fn get(&self, partition: PartitionId, segment: Offset, mode: Mode) -> Option<File> {
        let now = self.0.clock.get() + 1;
        self.0.clock.set(now);
        let mut open = self.0.open.borrow_mut();
        let (file, used) = open.get_mut(&(partition, segment, mode))?;
        *used = now;
        Some(file.clone())
    }

    pub fn put(&self, partition: PartitionId, segment: Offset, mode: Mode, file: File) {
        let now = self.0.clock.get() + 1;
        self.0.clock.set(now);
        let mut open = self.0.open.borrow_mut();
        if open.len() >= self.0.capacity {
            // An eighth at once, so that the search for the oldest is not made for each.
            let mut times: Vec<u64> = open.values().map(|(_, used)| *used).collect();
            let eighth = times.len() / 8;
            let (_, limit, _) = times.select_nth_unstable(eighth);
            let limit = *limit;
            open.retain(|_, (_, used)| *used > limit);
        }
        open.insert((partition, segment, mode), (file, now));
    }

    /// Closes what is open of a segment.
    pub fn forget(&self, partition: PartitionId, segment: Offset) {
        let mut open = self.0.open.borrow_mut();
        open.remove(&(partition, segment, Mode::Read));
        open.remove(&(partition, segment, Mode::Write));
    }
}

/// Opens for direct I/O; where the file system refuses that, buffered (writes still carry DSYNC). `prepare` says so once.
pub(crate) async fn open_direct(path: &Path, options: OpenOptions) -> io::Result<File> {
    match File::open(path, options.direct()).await {
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
            File::open(
                path,
                OpenOptions {
                    create_new: false,
                    ..options
                },
            )
            .await
        }
        other => other,
    }
}
