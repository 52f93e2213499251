//! Operations of a simulated process on an open file.

use std::io::{self, ErrorKind};
use std::rc::Rc;

use super::SECTOR;
use super::calls::{Call, CallKind};
use super::core::SimCore;
use super::data::Sequence;
use super::disk::FileRef;
use super::faults::{DiskError, Fault};
use crate::buf::{IoBuf, IoBufMut};
use crate::fs::OpenOptions;

/// Longest delays of a healthy disk, in ns.
pub(super) const READ_MAX: u64 = 2_000_000;
pub(super) const WRITE_MAX: u64 = 1_000_000;
pub(super) const SYNC_MAX: u64 = 10_000_000;
pub(super) const NAME_MAX: u64 = 1_000_000;
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
    /// As it was opened; for people.
    path: String,
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

/// A write that has taken place, and where.
struct Written {
    file: FileRef,
    sequence: Sequence,
    end: u64,
}

/// An open file under way between cores. It has to be `Send`, so it only names the file.
pub(crate) struct SharedSimFile(u64);

impl SimCore {
    pub(crate) fn attach(&self, shared: SharedSimFile) -> SimFile {
        let open = self.world.shared_files.borrow_mut().remove(&shared.0);
        SimFile {
            open: open.expect("a file is attached once"),
            core: self.clone(),
        }
    }
}

impl SimFile {
    pub(super) fn new(core: SimCore, file: FileRef, path: String, options: OpenOptions) -> SimFile {
        let open = OpenFile {
            id: core.world.random(),
            file,
            path,
            options,
            core: core.clone(),
        };
        SimFile {
            open: Rc::new(open),
            core,
        }
    }

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
        let call = self.core.submit(CallKind::Read, READ_MAX);
        let this = self.clone();
        let done = self.core.complete(call, move || {
            let result = match call.error {
                Some(error) => Err(error.to_io()),
                None => Ok(read_into(&this.open.file, &mut buf, at, pos, len)),
            };
            let path = &this.open.path;
            this.core
                .record_call(call, format_args!("read {path} {pos}+{len}"), &result);
            (result, buf)
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
        let call = self.core.submit(CallKind::Write, WRITE_MAX);
        // An error may come before the bytes are there, or when they should become durable.
        let fails_late = durable && call.error == Some(DiskError::Io) && self.core.world.one_in(2);
        let now_ms = self.core.unix_ms();
        let this = self.clone();
        // First it is somewhere between memory and disk, where a crash may tear it; then it is done.
        let written = self.core.complete(call, move || {
            this.core
                .boundary("write", &this.open.path, pos..pos + len as u64);
            let bytes = &bytes[..len];
            let result = match call.error {
                Some(error) if !fails_late => {
                    if error == DiskError::Io {
                        this.write_some_sectors(pos, bytes);
                    }
                    Err(error.to_io())
                }
                _ => this.write_now(pos, bytes),
            };
            this.open.file.borrow_mut().modified_ms = now_ms;
            if result.is_err() || !durable {
                this.record_write(call, pos, len, durable, &result);
            }
            result
        });
        let written = match written.await {
            Ok(written) => written,
            Err(error) => return (Err(error), bufs),
        };
        if durable {
            let this = self.clone();
            let delay = self.core.delay(SYNC_MAX / 4);
            let synced = self.core.later(delay, move || {
                this.core
                    .boundary("durable", &this.open.path, pos..pos + len as u64);
                let result = match fails_late {
                    true => Err(DiskError::Io.to_io()),
                    false => Ok(()),
                };
                if result.is_ok() {
                    let mut file = written.file.borrow_mut();
                    file.make_durable(written.sequence, written.end);
                }
                this.record_write(call, pos, len, durable, &result);
                result
            });
            if let Err(error) = synced.await {
                return (Err(error), bufs);
            }
        }
        (Ok(len), bufs)
    }

    fn record_write<T>(
        &self,
        call: Call,
        pos: u64,
        len: usize,
        durable: bool,
        result: &io::Result<T>,
    ) {
        let (path, how) = (&self.open.path, if durable { ", durable" } else { "" });
        self.core
            .record_call(call, format_args!("write {path} {pos}+{len}{how}"), result);
    }

    /// The bytes arrive in the page cache or the disk's own: here, or where the disk thinks that this is.
    fn write_now(&self, pos: u64, bytes: &[u8]) -> io::Result<Written> {
        let machine = self.core.machine();
        let (old, end) = (self.open.file.borrow().len(), pos + bytes.len() as u64);
        self.core.make_room(&machine.disk, old, old.max(end))?;
        let misdirect_one_in = machine.disk_faults.borrow().misdirect_one_in;
        if self.core.world.chance(misdirect_one_in)
            && let Some((file, to)) = self.elsewhere(pos, bytes.len())
        {
            self.core.world.count(Fault::Misdirected, self.core.whose());
            if end > old {
                self.open.file.borrow_mut().set_len(end);
            }
            self.open
                .file
                .borrow_mut()
                .mark_hit(pos, bytes.len() as u64);
            let sequence = file.borrow_mut().write_astray(to, bytes);
            return Ok(Written {
                file,
                sequence,
                end: to + bytes.len() as u64,
            });
        }
        let file = self.open.file.clone();
        let sequence = file
            .borrow_mut()
            .write(pos, bytes, !self.open.options.direct);
        Ok(Written {
            file,
            sequence,
            end,
        })
    }

    /// Another place of the disk that has room for a write of whole sectors.
    fn elsewhere(&self, pos: u64, len: usize) -> Option<(FileRef, u64)> {
        let sector = SECTOR as u64;
        if len == 0 || !pos.is_multiple_of(sector) || !(len as u64).is_multiple_of(sector) {
            return None;
        }
        let mut files = self.core.machine().disk.borrow().all_files();
        files.retain(|(_, file)| file.borrow().len() >= len as u64);
        if files.is_empty() {
            return None;
        }
        let world = &self.core.world;
        let (path, file) = files.swap_remove(world.below(files.len() as u64) as usize);
        let last = (file.borrow().len() - len as u64) / sector;
        let to = world.below(last + 1) * sector;
        if Rc::ptr_eq(&file, &self.open.file) && to == pos {
            return None;
        }
        self.core
            .record(format_args!("what follows goes to {path} {to}"));
        Some((file, to))
    }

    /// A write that fails leaves each of its sectors as it was or not. It does not make the file longer.
    fn write_some_sectors(&self, pos: u64, bytes: &[u8]) {
        let mut file = self.open.file.borrow_mut();
        let mut at = pos;
        let end = (pos + bytes.len() as u64).min(file.len());
        while at < end {
            let next = ((at / SECTOR as u64 + 1) * SECTOR as u64).min(end);
            if self.core.world.one_in(2) {
                let sector = &bytes[(at - pos) as usize..(next - pos) as usize];
                file.write(at, sector, !self.open.options.direct);
            }
            at = next;
        }
    }

    pub(crate) async fn sync(&self) -> io::Result<()> {
        let covers = self.open.file.borrow().newest();
        self.core.world.note(covers);
        let call = self.core.submit(CallKind::Sync, SYNC_MAX);
        let this = self.clone();
        let done = self.core.complete(call, move || {
            this.core.boundary("sync", &this.open.path, 0..0);
            let mut file = this.open.file.borrow_mut();
            let result = match call.error {
                Some(error) => {
                    file.sync_failed(covers);
                    Err(error.to_io())
                }
                None => {
                    file.synced(covers);
                    Ok(())
                }
            };
            drop(file);
            let path = &this.open.path;
            this.core
                .record_call(call, format_args!("sync {path}"), &result);
            result
        });
        done.await
    }

    pub(crate) async fn allocate(&self, pos: u64, len: u64) -> io::Result<()> {
        let end = pos
            .checked_add(len)
            .filter(|end| *end <= FILE_BYTES_MAX)
            .ok_or(ErrorKind::FileTooLarge)?;
        self.resize("allocate", CallKind::Allocate, end, |old, new| old.max(new))
            .await
    }

    pub(crate) async fn truncate(&self, len: u64) -> io::Result<()> {
        if len > FILE_BYTES_MAX {
            return Err(ErrorKind::FileTooLarge.into());
        }
        self.resize(
            "truncate",
            CallKind::Names { takes_space: false },
            len,
            |_, new| new,
        )
        .await
    }

    async fn resize(
        &self,
        what: &'static str,
        kind: CallKind,
        len: u64,
        new_len: fn(u64, u64) -> u64,
    ) -> io::Result<()> {
        let call = self.core.submit(kind, WRITE_MAX);
        let this = self.clone();
        let done = self.core.complete(call, move || {
            this.core.boundary(what, &this.open.path, 0..len);
            let old = this.open.file.borrow().len();
            let new = new_len(old, len);
            let has_room = match (call.error, kind) {
                (Some(error), _) => Err(error.to_io()),
                // A longer file that was not allocated takes its space as it is written.
                (None, CallKind::Allocate) => {
                    this.core.make_room(&this.core.machine().disk, old, new)
                }
                (None, _) => Ok(()),
            };
            let result = has_room.map(|()| this.open.file.borrow_mut().set_len(new));
            let path = &this.open.path;
            this.core
                .record_call(call, format_args!("{what} {path} {len}"), &result);
            result
        });
        done.await
    }

    pub(crate) async fn size(&self) -> io::Result<u64> {
        let file = self.open.file.clone();
        let call = self
            .core
            .submit(CallKind::Names { takes_space: false }, NAME_MAX);
        let done = self.core.complete(call, move || match call.error {
            Some(error) => Err(error.to_io()),
            None => Ok(file.borrow().len()),
        });
        done.await
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

    /// By chance. Never what a misdirected write has hit: the page cache would have it as it was. Nor anything of a disk that
    /// refuses every read: so that one sees what that does.
    pub(crate) fn is_resident(&self, pos: u64, len: u64) -> bool {
        let file = self.open.file.borrow();
        pos.saturating_add(len) <= file.len()
            && !file.is_hit(pos, len)
            && !self.core.world.one_in(4)
            && self.core.machine().disk_faults.borrow().read_error_one_in != 1
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
