//! File operations of a simulated process.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::SECTOR;
use super::core::SimCore;
use super::disk::{FileRef, Found};
use crate::buf::{IoBuf, IoBufMut};
use crate::fs::{DirEntry, FsSpace, Metadata, OpenOptions};

/// Longest delays, in ns.
const READ_MAX: u64 = 2_000_000;
const WRITE_MAX: u64 = 1_000_000;
const SYNC_MAX: u64 = 10_000_000;
const NAME_MAX: u64 = 1_000_000;
/// Size of a simulated disk.
const DISK_BYTES: u64 = 1 << 40;
/// Largest simulated file: files live in memory.
const FILE_BYTES_MAX: u64 = 1 << 32;

pub(crate) struct SimFile {
    open: Rc<OpenFile>,
    core: SimCore,
}

impl Clone for SimFile {
    fn clone(&self) -> Self {
        SimFile {
            open: self.open.clone(),
            core: self.core.clone(),
        }
    }
}

/// An open file: what a lock belongs to.
pub(super) struct OpenFile {
    id: u64,
    file: FileRef,
    options: OpenOptions,
    core: SimCore,
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        // A crash has released all locks; what is left of the process must not release somebody else's.
        if self.core.alive() {
            let mut file = self.file.borrow_mut();
            if file.locked_by == Some(self.id) {
                file.locked_by = None;
            }
        }
    }
}

/// An open file under way between cores. It has to be `Send`, so it only names the file.
pub(crate) struct SharedSimFile(u64);

impl SimCore {
    /// An operation on names.
    async fn on_names<T: 'static>(
        &self,
        f: impl FnOnce(&mut super::disk::Disk) -> io::Result<T> + 'static,
    ) -> io::Result<T> {
        let machine = self.machine();
        self.world.note(0x4E);
        self.later(NAME_MAX, move || f(&mut machine.disk.borrow_mut()))
            .await
    }

    pub(crate) async fn open(&self, path: &Path, options: OpenOptions) -> io::Result<SimFile> {
        let path = path.to_owned();
        let now_ms = self.unix_ms();
        let file = self
            .on_names(move |disk| {
                let file = match disk.find(&path) {
                    Ok(_) if options.create_new => return Err(ErrorKind::AlreadyExists.into()),
                    Ok(Found::File(file)) => file,
                    Ok(Found::Dir(_)) => return Err(ErrorKind::IsADirectory.into()),
                    Err(error)
                        if error.kind() == ErrorKind::NotFound
                            && (options.create || options.create_new) =>
                    {
                        disk.create_file(&path)?
                    }
                    Err(error) => return Err(error),
                };
                if options.truncate {
                    file.borrow_mut().set_len(0);
                    file.borrow_mut().modified_ms = now_ms;
                }
                Ok(file)
            })
            .await?;
        let open = OpenFile {
            id: self.world.random(),
            file,
            options,
            core: self.clone(),
        };
        Ok(SimFile {
            open: Rc::new(open),
            core: self.clone(),
        })
    }

    pub(crate) fn attach(&self, shared: SharedSimFile) -> SimFile {
        let open = self.world.shared_files.borrow_mut().remove(&shared.0);
        SimFile {
            open: open.expect("a file is attached once"),
            core: self.clone(),
        }
    }

    pub(crate) async fn create_dir(&self, path: &Path) -> io::Result<()> {
        let path = path.to_owned();
        self.on_names(move |disk| disk.create_dir(&path)).await
    }

    pub(crate) async fn unlink(&self, path: &Path, dir: bool) -> io::Result<()> {
        let path = path.to_owned();
        self.on_names(move |disk| disk.unlink(&path, dir)).await
    }

    pub(crate) async fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let (from, to) = (from.to_owned(), to.to_owned());
        self.on_names(move |disk| disk.rename(&from, &to)).await
    }

    pub(crate) async fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let machine = self.machine();
        let path: PathBuf = path.to_owned();
        self.world.note(0x53);
        self.later(SYNC_MAX, move || machine.disk.borrow_mut().sync_dir(&path))
            .await
    }

    pub(crate) async fn read_dir(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        let path = path.to_owned();
        self.on_names(move |disk| disk.read_dir(&path)).await
    }

    pub(crate) async fn metadata(&self, path: &Path) -> io::Result<Metadata> {
        let path = path.to_owned();
        self.on_names(move |disk| {
            Ok(match disk.find(&path)? {
                Found::Dir(_) => Metadata {
                    is_dir: true,
                    size: 0,
                    modified_ms: 0,
                },
                Found::File(file) => {
                    let file = file.borrow();
                    Metadata {
                        is_dir: false,
                        size: file.len(),
                        modified_ms: file.modified_ms,
                    }
                }
            })
        })
        .await
    }

    pub(crate) fn space(&self) -> FsSpace {
        let used = self.machine().disk.borrow().used();
        FsSpace {
            free_bytes: DISK_BYTES.saturating_sub(used),
            total_bytes: DISK_BYTES,
        }
    }
}

impl SimFile {
    /// O_DIRECT's rules.
    fn check(&self, address: *const u8, pos: u64, len: usize) -> io::Result<()> {
        let unaligned = |n: u64| !n.is_multiple_of(SECTOR as u64);
        if self.open.options.direct
            && (unaligned(pos) || unaligned(len as u64) || unaligned(address as u64))
        {
            return Err(ErrorKind::InvalidInput.into());
        }
        if pos.saturating_add(len as u64) > FILE_BYTES_MAX {
            return Err(ErrorKind::FileTooLarge.into());
        }
        Ok(())
    }

    /// Short operations are ordinary.
    fn shorten(&self, len: usize) -> usize {
        if len > SECTOR && self.core.world.one_in(32) {
            let sectors = len.div_ceil(SECTOR) as u64 - 1;
            return (1 + self.core.world.below(sectors) as usize) * SECTOR;
        }
        len
    }

    pub(crate) async fn read<B: IoBufMut>(
        &self,
        mut buf: B,
        at: usize,
        pos: u64,
        len: usize,
    ) -> (io::Result<usize>, B) {
        // SAFETY: `at` is inside the buffer, checked by the caller.
        let address = unsafe { buf.io_mut_ptr().add(at) };
        if let Err(error) = self.check(address, pos, len) {
            return (Err(error), buf);
        }
        if !self.open.options.read {
            return (Err(ErrorKind::PermissionDenied.into()), buf);
        }
        let len = self.shorten(len);
        self.core.world.note(pos ^ len as u64);
        let file = self.open.file.clone();
        let done = self.core.later(READ_MAX, move || {
            let count = read_into(&file, &mut buf, at, pos, len);
            (Ok(count), buf)
        });
        done.await
    }

    pub(crate) async fn write<B: IoBuf>(
        &self,
        buf: B,
        at: usize,
        pos: u64,
        durable: bool,
    ) -> (io::Result<usize>, B) {
        let (result, mut bufs) = self.write_vectored(vec![buf], at, pos, durable).await;
        (result, bufs.pop().expect("it went in"))
    }

    pub(crate) async fn write_vectored<B: IoBuf>(
        &self,
        bufs: Vec<B>,
        at: usize,
        pos: u64,
        durable: bool,
    ) -> (io::Result<usize>, Vec<B>) {
        let bytes = gather(&bufs, at);
        for buf in &bufs {
            // SAFETY: not read, only its alignment is looked at; the offset is inside or the whole buffer is skipped.
            let start = unsafe { buf.io_ptr().add(if bufs.len() == 1 { at } else { 0 }) };
            if let Err(error) = self.check(start, pos, bytes.len()) {
                return (Err(error), bufs);
            }
        }
        if !self.open.options.write {
            return (Err(ErrorKind::PermissionDenied.into()), bufs);
        }
        let len = self.shorten(bytes.len());
        self.core
            .world
            .note(pos ^ (len as u64) << 1 ^ u64::from(durable));
        let end = pos + len as u64;
        let now_ms = self.core.unix_ms();
        let file = self.open.file.clone();
        // First it is somewhere between memory and disk, where a crash may tear it; then it is done.
        self.core
            .later(WRITE_MAX, move || {
                let mut file = file.borrow_mut();
                file.write(pos, &bytes[..len]);
                file.modified_ms = now_ms;
            })
            .await;
        if durable {
            let file = self.open.file.clone();
            self.core
                .later(SYNC_MAX / 4, move || {
                    file.borrow_mut().make_durable(pos..end)
                })
                .await;
        }
        (Ok(len), bufs)
    }

    pub(crate) async fn sync(&self) -> io::Result<()> {
        let covers = self.open.file.borrow().begin_sync();
        let file = self.open.file.clone();
        self.core.world.note(covers.0);
        self.core
            .later(SYNC_MAX, move || file.borrow_mut().end_sync(covers))
            .await;
        Ok(())
    }

    pub(crate) async fn allocate(&self, pos: u64, len: u64) -> io::Result<()> {
        let end = pos
            .checked_add(len)
            .filter(|end| *end <= FILE_BYTES_MAX)
            .ok_or(ErrorKind::FileTooLarge)?;
        let file = self.open.file.clone();
        self.core
            .later(WRITE_MAX, move || {
                let mut file = file.borrow_mut();
                if file.len() < end {
                    file.set_len(end);
                }
            })
            .await;
        Ok(())
    }

    pub(crate) async fn truncate(&self, len: u64) -> io::Result<()> {
        if len > FILE_BYTES_MAX {
            return Err(ErrorKind::FileTooLarge.into());
        }
        let file = self.open.file.clone();
        self.core
            .later(WRITE_MAX, move || file.borrow_mut().set_len(len))
            .await;
        Ok(())
    }

    pub(crate) async fn size(&self) -> io::Result<u64> {
        let file = self.open.file.clone();
        Ok(self.core.later(NAME_MAX, move || file.borrow().len()).await)
    }

    pub(crate) fn read_resident<B: IoBufMut>(
        &self,
        mut buf: B,
        pos: u64,
        len: usize,
    ) -> (io::Result<Option<usize>>, B) {
        assert!(len <= buf.io_capacity(), "read beyond the buffer");
        if !self.is_resident(pos, len as u64) {
            return (Ok(None), buf);
        }
        let count = read_into(&self.open.file, &mut buf, 0, pos, len);
        // SAFETY: `count` bytes from the start were just written.
        unsafe { buf.io_set_len(count) };
        (Ok(Some(count)), buf)
    }

    /// By chance.
    pub(crate) fn is_resident(&self, pos: u64, len: u64) -> bool {
        pos.saturating_add(len) <= self.open.file.borrow().len() && !self.core.world.one_in(4)
    }

    pub(crate) fn lock_exclusive(&self) -> bool {
        let mut file = self.open.file.borrow_mut();
        let holder = *file.locked_by.get_or_insert(self.open.id);
        holder == self.open.id
    }

    pub(crate) fn share(&self) -> SharedSimFile {
        let id = self.core.world.random();
        let open = self.open.clone();
        self.core.world.shared_files.borrow_mut().insert(id, open);
        SharedSimFile(id)
    }

    /// For sendfile: bytes of a range, fewer at the end of the file.
    pub(super) fn peek(&self, pos: u64, len: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.open.file.borrow().read(pos, &mut bytes, len);
        bytes
    }
}

fn read_into<B: IoBufMut>(file: &FileRef, buf: &mut B, at: usize, pos: u64, len: usize) -> usize {
    let mut bytes = Vec::new();
    file.borrow().read(pos, &mut bytes, len);
    assert!(
        at + bytes.len() <= buf.io_capacity(),
        "read beyond the buffer"
    );
    // SAFETY: the target range is inside the buffer by the assertion, which we own; the source is another allocation.
    unsafe {
        buf.io_mut_ptr()
            .add(at)
            .copy_from_nonoverlapping(bytes.as_ptr(), bytes.len())
    };
    bytes.len()
}

fn gather<B: IoBuf>(bufs: &[B], skip: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    for buf in bufs {
        // SAFETY: an IoBuf's `io_len` bytes are initialised, and nobody writes to them while we hold the buffer.
        bytes.extend_from_slice(unsafe { std::slice::from_raw_parts(buf.io_ptr(), buf.io_len()) });
    }
    bytes.drain(..skip);
    bytes
}
