use std::io;
use std::os::fd::{IntoRawFd, OwnedFd};
use std::path::Path;
use std::rc::Rc;

use super::OpenOptions;
use crate::buf::{IoBuf, IoBufMut};
use crate::core::{Backend, with_core};
use crate::sim::{SharedSimFile, SimFile};
use crate::uring::{Driver, UringFile};

/// An open file. Clones are the same open file; it is closed, asynchronously, when the last one is dropped.
#[derive(Clone)]
pub struct File {
    inner: Inner,
}

#[derive(Clone)]
enum Inner {
    Uring(UringFile),
    Sim(SimFile),
}

/// An open file on its way to another core (its own descriptor).
pub struct SharedFile {
    inner: SharedInner,
}

enum SharedInner {
    Uring(OwnedFd),
    Sim(SharedSimFile),
}

/// What `result` says, after a loop of short operations.
fn ended(error: io::ErrorKind, what: &str) -> io::Error {
    io::Error::new(error, what)
}

impl File {
    pub async fn open(path: impl AsRef<Path>, options: OpenOptions) -> io::Result<File> {
        let path = path.as_ref();
        let inner = match super::dir::backend() {
            super::dir::Via::Uring(driver) => {
                Inner::Uring(crate::uring::paths::open(&driver, path, options).await?)
            }
            super::dir::Via::Sim(sim) => Inner::Sim(sim.open(path, options).await?),
        };
        Ok(File { inner })
    }

    /// A file of the core with this driver.
    pub(super) fn from_descriptor(descriptor: OwnedFd, driver: Rc<Driver>) -> File {
        File {
            inner: Inner::Uring(UringFile::new(descriptor.into_raw_fd(), driver)),
        }
    }

    /// Reads at most `len` bytes at `pos` to the start of `buf` and sets its length to what came; 0 is the end of the file.
    /// Panics if `len` is more than the buffer's capacity.
    pub async fn read_at<B: IoBufMut>(
        &self,
        buf: B,
        pos: u64,
        len: usize,
    ) -> (io::Result<usize>, B) {
        let (result, mut buf) = self.read_part(buf, 0, pos, len).await;
        if let Ok(count) = result {
            // SAFETY: `count` bytes from the start were just read.
            unsafe { buf.io_set_len(count) };
        }
        (result, buf)
    }

    /// Reads to `buf[at..at + len]` without touching its length.
    async fn read_part<B: IoBufMut>(
        &self,
        buf: B,
        at: usize,
        pos: u64,
        len: usize,
    ) -> (io::Result<usize>, B) {
        assert!(at + len <= buf.io_capacity(), "read beyond the buffer");
        match &self.inner {
            Inner::Uring(file) => file.read(buf, at, pos, len).await,
            Inner::Sim(file) => file.read(buf, at, pos, len).await,
        }
    }

    /// Reads exactly `len` bytes, or fails with `UnexpectedEof` (the buffer then holds what there was).
    pub async fn read_exact_at<B: IoBufMut>(
        &self,
        mut buf: B,
        pos: u64,
        len: usize,
    ) -> (io::Result<()>, B) {
        let mut at = 0;
        while at < len {
            let (result, back) = self.read_part(buf, at, pos + at as u64, len - at).await;
            buf = back;
            match result {
                Ok(0) => {
                    // SAFETY: `at` bytes from the start were read.
                    unsafe { buf.io_set_len(at) };
                    return (
                        Err(ended(io::ErrorKind::UnexpectedEof, "the file is shorter")),
                        buf,
                    );
                }
                Ok(count) => at += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => (),
                Err(error) => return (Err(error), buf),
            }
        }
        // SAFETY: all `len` bytes from the start were read.
        unsafe { buf.io_set_len(len) };
        (Ok(()), buf)
    }

    /// Writes at least a part of `buf`.
    pub async fn write_at<B: IoBuf>(&self, buf: B, pos: u64) -> (io::Result<usize>, B) {
        self.write_part(buf, 0, pos, false).await
    }

    async fn write_part<B: IoBuf>(
        &self,
        buf: B,
        at: usize,
        pos: u64,
        durable: bool,
    ) -> (io::Result<usize>, B) {
        match &self.inner {
            Inner::Uring(file) => file.write(buf, at, pos, durable).await,
            Inner::Sim(file) => file.write(buf, at, pos, durable).await,
        }
    }

    async fn write_all<B: IoBuf>(
        &self,
        mut buf: B,
        pos: u64,
        durable: bool,
    ) -> (io::Result<()>, B) {
        let mut at = 0;
        while at < buf.io_len() {
            let (result, back) = self.write_part(buf, at, pos + at as u64, durable).await;
            buf = back;
            match result {
                Ok(0) => {
                    return (
                        Err(ended(io::ErrorKind::WriteZero, "the file takes no more")),
                        buf,
                    );
                }
                Ok(count) => at += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => (),
                Err(error) => return (Err(error), buf),
            }
        }
        (Ok(()), buf)
    }

    async fn write_all_vectored<B: IoBuf>(
        &self,
        mut bufs: Vec<B>,
        pos: u64,
        durable: bool,
    ) -> (io::Result<()>, Vec<B>) {
        let total: usize = bufs.iter().map(IoBuf::io_len).sum();
        let mut at = 0;
        while at < total {
            let (result, back) = match &self.inner {
                Inner::Uring(file) => {
                    file.write_vectored(bufs, at, pos + at as u64, durable)
                        .await
                }
                Inner::Sim(file) => {
                    file.write_vectored(bufs, at, pos + at as u64, durable)
                        .await
                }
            };
            bufs = back;
            match result {
                Ok(0) => {
                    return (
                        Err(ended(io::ErrorKind::WriteZero, "the file takes no more")),
                        bufs,
                    );
                }
                Ok(count) => at += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => (),
                Err(error) => return (Err(error), bufs),
            }
        }
        (Ok(()), bufs)
    }

    /// Writes all of `buf`. Not durable before a sync.
    pub async fn write_all_at<B: IoBuf>(&self, buf: B, pos: u64) -> (io::Result<()>, B) {
        self.write_all(buf, pos, false).await
    }

    /// Writes all of `bufs`, one after the other, from `pos` on. Not durable before a sync.
    pub async fn write_all_vectored_at<B: IoBuf>(
        &self,
        bufs: Vec<B>,
        pos: u64,
    ) -> (io::Result<()>, Vec<B>) {
        self.write_all_vectored(bufs, pos, false).await
    }

    /// Writes all of `buf` with RWF_DSYNC: on `Ok` these bytes are durable (and of earlier writes nothing is said).
    pub async fn write_durable_at<B: IoBuf>(&self, buf: B, pos: u64) -> (io::Result<()>, B) {
        self.write_all(buf, pos, true).await
    }

    /// [`File::write_durable_at`] for several buffers in a row.
    pub async fn write_durable_vectored_at<B: IoBuf>(
        &self,
        bufs: Vec<B>,
        pos: u64,
    ) -> (io::Result<()>, Vec<B>) {
        self.write_all_vectored(bufs, pos, true).await
    }

    /// fdatasync: on `Ok` all completed writes, and the size, are durable. After an error the data may be gone: stop.
    pub async fn sync_data(&self) -> io::Result<()> {
        match &self.inner {
            Inner::Uring(file) => file.sync(true).await,
            Inner::Sim(file) => file.sync().await,
        }
    }

    pub async fn sync_all(&self) -> io::Result<()> {
        match &self.inner {
            Inner::Uring(file) => file.sync(false).await,
            Inner::Sim(file) => file.sync().await,
        }
    }

    /// fallocate mode 0: space for the range, and the file at least that long. Durable after a sync.
    pub async fn allocate(&self, pos: u64, len: u64) -> io::Result<()> {
        match &self.inner {
            Inner::Uring(file) => file.allocate(pos, len).await,
            Inner::Sim(file) => file.allocate(pos, len).await,
        }
    }

    /// Cuts or extends (with zeros) to `len`. Durable after a sync.
    pub async fn truncate(&self, len: u64) -> io::Result<()> {
        match &self.inner {
            Inner::Uring(file) => file.truncate(len).await,
            Inner::Sim(file) => file.truncate(len).await,
        }
    }

    pub async fn size(&self) -> io::Result<u64> {
        match &self.inner {
            Inner::Uring(file) => file.size().await,
            Inner::Sim(file) => file.size().await,
        }
    }

    /// What O_DIRECT wants positions and lengths to be a multiple of; `None` where the file system does not say.
    pub async fn dio_alignment(&self) -> io::Result<Option<u32>> {
        match &self.inner {
            Inner::Uring(file) => file.dio_alignment().await,
            Inner::Sim(_) => Ok(Some(crate::sim::SECTOR as u32)),
        }
    }

    /// Reads only if it need not wait for the disk; `None` if it would. Synchronous; may be short.
    pub fn try_read_resident<B: IoBufMut>(
        &self,
        buf: B,
        pos: u64,
        len: usize,
    ) -> (io::Result<Option<usize>>, B) {
        match &self.inner {
            Inner::Uring(file) => file.read_resident(buf, pos, len),
            Inner::Sim(file) => file.read_resident(buf, pos, len),
        }
    }

    /// Whether the page cache holds the whole range (a snapshot: it may be evicted at once).
    pub fn is_resident(&self, pos: u64, len: u64) -> io::Result<bool> {
        match &self.inner {
            Inner::Uring(file) => file.is_resident(pos, len),
            Inner::Sim(file) => Ok(file.is_resident(pos, len)),
        }
    }

    /// Tries to take an exclusive lock on the file (flock); `false` if somebody else holds it. Held until the file is closed.
    pub fn lock_exclusive(&self) -> io::Result<bool> {
        match &self.inner {
            Inner::Uring(file) => file.lock_exclusive(),
            Inner::Sim(file) => Ok(file.lock_exclusive()),
        }
    }

    /// The same open file for another core.
    pub fn share(&self) -> io::Result<SharedFile> {
        let inner = match &self.inner {
            Inner::Uring(file) => SharedInner::Uring(file.duplicate()?),
            Inner::Sim(file) => SharedInner::Sim(file.share()),
        };
        Ok(SharedFile { inner })
    }

    /// A file of the current core.
    pub fn from_shared(shared: SharedFile) -> File {
        let inner = match shared.inner {
            SharedInner::Uring(fd) => {
                let driver =
                    with_core(|core| core.driver().cloned()).expect("a file of the same backend");
                return File::from_descriptor(fd, driver);
            }
            SharedInner::Sim(shared) => Inner::Sim(with_core(|core| match &core.backend {
                Backend::Sim(sim) => sim.attach(shared),
                Backend::Uring(_) => panic!("a file of the same backend"),
            })),
        };
        File { inner }
    }

    pub(crate) fn uring(&self) -> Option<&UringFile> {
        match &self.inner {
            Inner::Uring(file) => Some(file),
            Inner::Sim(_) => None,
        }
    }

    pub(crate) fn sim(&self) -> Option<&SimFile> {
        match &self.inner {
            Inner::Sim(file) => Some(file),
            Inner::Uring(_) => None,
        }
    }
}
