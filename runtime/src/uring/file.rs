//! Operations on an open file.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::rc::Rc;

use io_uring::{opcode, types};

use super::driver::Driver;
use super::op::Fd;
use super::paths::{read_statx, statx_entry};
use super::slots::Leaves;
use crate::buf::{IoBuf, IoBufMut};

/// What one write operation takes at most; longer ones are continued.
const IO_LEN_MAX: usize = 1 << 30;
/// Buffers of one vectored write (the kernel's IOV_MAX).
const IOV_MAX: usize = 1024;
/// Linux 6.5; the same number on every architecture.
const SYS_CACHESTAT: libc::c_long = 451;

#[derive(Clone)]
pub(crate) struct UringFile {
    fd: Rc<Fd>,
}

impl UringFile {
    pub(crate) fn new(raw: RawFd, driver: Rc<Driver>) -> UringFile {
        UringFile {
            fd: Fd::new(raw, driver, true),
        }
    }

    pub(crate) fn raw(&self) -> RawFd {
        self.fd.raw()
    }

    /// Keeps the descriptor open as long as the result lives.
    pub(super) fn hold(&self) -> Rc<Fd> {
        self.fd.clone()
    }

    /// Reads to `buf[at..at + len]`; the caller has checked the capacity.
    pub(crate) async fn read<B: IoBufMut>(
        &self,
        mut buf: B,
        at: usize,
        pos: u64,
        len: usize,
    ) -> (io::Result<usize>, B) {
        assert!(at + len <= buf.io_capacity(), "read beyond the buffer");
        // SAFETY: inside the buffer by the assertion.
        let target = unsafe { buf.io_mut_ptr().add(at) };
        let entry = opcode::Read::new(self.fd.target(), target, len.min(IO_LEN_MAX) as u32)
            .offset(pos)
            .build();
        let driver = &self.fd.driver;
        let (completion, (_fd, buf)) = driver
            .start(Leaves::Nothing, (self.fd.clone(), buf), entry)
            .await;
        let result = completion.value();
        if let Ok(count) = result {
            driver.counters.file_bytes_in.add(count as u64);
        }
        (result, buf)
    }

    /// Writes `buf[at..]`, or the first part of it.
    pub(crate) async fn write<B: IoBuf>(
        &self,
        buf: B,
        at: usize,
        pos: u64,
        durable: bool,
    ) -> (io::Result<usize>, B) {
        let len = buf.io_len().checked_sub(at).expect("inside the buffer");
        // SAFETY: `at` is at most the length.
        let source = unsafe { buf.io_ptr().add(at) };
        let entry = opcode::Write::new(self.fd.target(), source, len.min(IO_LEN_MAX) as u32)
            .offset(pos)
            .rw_flags(write_flags(durable))
            .build();
        let driver = &self.fd.driver;
        let (completion, (_fd, buf)) = driver
            .start(Leaves::Nothing, (self.fd.clone(), buf), entry)
            .await;
        let result = completion.value();
        if let Ok(count) = result {
            driver.counters.file_bytes_out.add(count as u64);
        }
        (result, buf)
    }

    /// Writes `bufs` without their first `skip` bytes, or the first part of that.
    pub(crate) async fn write_vectored<B: IoBuf>(
        &self,
        bufs: Vec<B>,
        skip: usize,
        pos: u64,
        durable: bool,
    ) -> (io::Result<usize>, Vec<B>) {
        let iovecs = iovecs(&bufs, skip);
        let entry = opcode::Writev::new(self.fd.target(), iovecs.as_ptr(), iovecs.len() as u32)
            .offset(pos)
            .rw_flags(write_flags(durable))
            .build();
        let driver = &self.fd.driver;
        let resources = (self.fd.clone(), bufs, iovecs);
        let (completion, (_fd, bufs, _iovecs)) =
            driver.start(Leaves::Nothing, resources, entry).await;
        let result = completion.value();
        if let Ok(count) = result {
            driver.counters.file_bytes_out.add(count as u64);
        }
        (result, bufs)
    }

    pub(crate) async fn sync(&self, data_only: bool) -> io::Result<()> {
        if NO_SYNC {
            return Ok(());
        }
        let flags = if data_only {
            types::FsyncFlags::DATASYNC
        } else {
            types::FsyncFlags::empty()
        };
        let entry = opcode::Fsync::new(self.fd.target()).flags(flags).build();
        let (completion, _) = self
            .fd
            .driver
            .start(Leaves::Nothing, self.fd.clone(), entry)
            .await;
        completion.value().map(|_| ())
    }

    pub(crate) async fn allocate(&self, pos: u64, len: u64) -> io::Result<()> {
        let entry = opcode::Fallocate::new(self.fd.target(), len)
            .offset(pos)
            .build();
        let (completion, _) = self
            .fd
            .driver
            .start(Leaves::Nothing, self.fd.clone(), entry)
            .await;
        completion.value().map(|_| ())
    }

    pub(crate) async fn truncate(&self, len: u64) -> io::Result<()> {
        let entry = opcode::Ftruncate::new(self.fd.target(), len).build();
        let (completion, _) = self
            .fd
            .driver
            .start(Leaves::Nothing, self.fd.clone(), entry)
            .await;
        if !completion.is_errno(libc::EINVAL) {
            return completion.value().map(|_| ());
        }
        // Before Linux 6.9 there is no such operation; a bad length gives the same error again.
        let shared = self.duplicate()?;
        crate::task::run_blocking(move || {
            nix::unistd::ftruncate(&shared, len as i64).map_err(io::Error::from)
        })
        .await
    }

    async fn statx(&self, mask: u32) -> io::Result<libc::statx> {
        let mut resources = (self.fd.clone(), Vec::with_capacity(1));
        let entry = statx_entry(
            self.fd.target(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            mask,
            &mut resources.1,
        );
        let (completion, (_fd, buf)) = self
            .fd
            .driver
            .start(Leaves::Nothing, resources, entry)
            .await;
        Ok(read_statx(completion.value()?, buf))
    }

    pub(crate) async fn size(&self) -> io::Result<u64> {
        Ok(self.statx(libc::STATX_SIZE).await?.stx_size)
    }

    pub(crate) async fn dio_alignment(&self) -> io::Result<Option<u32>> {
        let stat = self.statx(libc::STATX_DIOALIGN).await?;
        let told = stat.stx_mask & libc::STATX_DIOALIGN != 0 && stat.stx_dio_offset_align != 0;
        Ok(told.then(|| stat.stx_dio_offset_align.max(stat.stx_dio_mem_align)))
    }

    pub(crate) fn read_resident<B: IoBufMut>(
        &self,
        mut buf: B,
        pos: u64,
        len: usize,
    ) -> (io::Result<Option<usize>>, B) {
        assert!(len <= buf.io_capacity(), "read beyond the buffer");
        let iov = libc::iovec {
            iov_base: buf.io_mut_ptr().cast(),
            iov_len: len,
        };
        // SAFETY: one iovec over `len` writable bytes that we own during the call.
        let count = unsafe { libc::preadv2(self.raw(), &iov, 1, pos as i64, libc::RWF_NOWAIT) };
        let result = match usize::try_from(count) {
            Ok(count) => {
                // SAFETY: the kernel has written `count` bytes from the start.
                unsafe { buf.io_set_len(count) };
                Ok(Some(count))
            }
            Err(_) => match io::Error::last_os_error() {
                error if error.raw_os_error() == Some(libc::EAGAIN) => Ok(None),
                error => Err(error),
            },
        };
        (result, buf)
    }

    pub(crate) fn is_resident(&self, pos: u64, len: u64) -> io::Result<bool> {
        if len == 0 {
            return Ok(true);
        }
        #[repr(C)]
        struct Range {
            pos: u64,
            len: u64,
        }
        #[repr(C)]
        #[derive(Default)]
        struct Stat {
            cached: u64,
            dirty: u64,
            writeback: u64,
            evicted: u64,
            recently_evicted: u64,
        }
        const PAGE: u64 = 4096;
        let range = Range { pos, len };
        let mut stat = Stat::default();
        // SAFETY: both structs have the kernel's layout and live through the call.
        let result = unsafe { libc::syscall(SYS_CACHESTAT, self.raw(), &range, &mut stat, 0) };
        if result == 0 {
            let pages = (pos + len).div_ceil(PAGE) - pos / PAGE;
            return Ok(stat.cached >= pages);
        }
        match io::Error::last_os_error() {
            error
                if matches!(
                    error.raw_os_error(),
                    Some(libc::ENOSYS | libc::EPERM | libc::EOPNOTSUPP)
                ) =>
            {
                self.probe_resident(pos, len)
            }
            error => Err(error),
        }
    }

    /// Without cachestat: whether one byte of each page could be read without waiting.
    fn probe_resident(&self, pos: u64, len: u64) -> io::Result<bool> {
        let mut at = pos;
        while at < pos + len {
            match self.read_resident(Vec::with_capacity(1), at, 1).0? {
                Some(1..) => at = (at / 4096 + 1) * 4096,
                Some(0) => return Ok(true), // the rest is behind the end of the file
                None => return Ok(false),
            }
        }
        Ok(true)
    }

    pub(crate) fn lock_exclusive(&self) -> io::Result<bool> {
        // SAFETY: flock takes no pointers.
        if unsafe { libc::flock(self.raw(), libc::LOCK_EX | libc::LOCK_NB) } == 0 {
            return Ok(true);
        }
        match io::Error::last_os_error() {
            error if error.raw_os_error() == Some(libc::EWOULDBLOCK) => Ok(false),
            error => Err(error),
        }
    }

    pub(crate) fn duplicate(&self) -> io::Result<OwnedFd> {
        duplicate(self.raw())
    }
}

pub(super) fn duplicate(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: no pointers; the result is checked.
    let fd = unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a fresh descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A broker that lies about durability, to show that the power-cut test notices: built by that test alone.
const NO_SYNC: bool = cfg!(feature = "unsafe-no-sync");

fn write_flags(durable: bool) -> i32 {
    if durable && !NO_SYNC {
        libc::RWF_DSYNC
    } else {
        0
    }
}

/// The parts of `bufs` behind the first `skip` bytes, at most as many as one operation takes.
pub(super) fn iovecs<B: IoBuf>(bufs: &[B], mut skip: usize) -> Vec<libc::iovec> {
    let mut iovecs = Vec::with_capacity(bufs.len().min(IOV_MAX));
    for buf in bufs {
        let len = buf.io_len();
        if skip >= len {
            skip -= len;
            continue;
        }
        if iovecs.len() == IOV_MAX {
            break;
        }
        // SAFETY: `skip` is less than the length.
        let start = unsafe { buf.io_ptr().add(skip) };
        iovecs.push(libc::iovec {
            iov_base: start.cast_mut().cast(),
            iov_len: len - skip,
        });
        skip = 0;
    }
    iovecs
}
