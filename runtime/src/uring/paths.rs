//! Operations on paths.

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::rc::Rc;

use io_uring::{opcode, squeue, types};

use super::driver::Driver;
use super::file::UringFile;
use super::slots::Leaves;
use crate::fs::{Metadata, OpenOptions};

const HERE: types::Fd = types::Fd(libc::AT_FDCWD);
pub(crate) const DIR_MODE: libc::mode_t = 0o755;
pub(crate) const FILE_MODE: libc::mode_t = 0o644;

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes())
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "path contains a zero byte"))
}

/// Runs an operation on one path. `entry` gets a pointer that is valid until the operation's end.
async fn on_path(
    driver: &Rc<Driver>,
    path: &Path,
    leaves: Leaves,
    entry: impl FnOnce(*const libc::c_char) -> squeue::Entry,
) -> io::Result<usize> {
    let path = c_path(path)?;
    let entry = entry(path.as_ptr()); // a CString's bytes are on the heap
    let (completion, _path) = driver.start(leaves, path, entry).await;
    completion.value()
}

pub(crate) async fn open(
    driver: &Rc<Driver>,
    path: &Path,
    options: OpenOptions,
) -> io::Result<UringFile> {
    let mut flags = match (options.read, options.write) {
        (true, true) => libc::O_RDWR,
        (false, true) => libc::O_WRONLY,
        _ => libc::O_RDONLY,
    };
    for (set, flag) in [
        (options.create, libc::O_CREAT),
        (options.create_new, libc::O_CREAT | libc::O_EXCL),
        (options.truncate, libc::O_TRUNC),
        (options.direct, libc::O_DIRECT),
    ] {
        if set {
            flags |= flag;
        }
    }
    let fd = on_path(driver, path, Leaves::Descriptor, |path| {
        opcode::OpenAt::new(HERE, path)
            .flags(flags | libc::O_CLOEXEC)
            .mode(FILE_MODE)
            .build()
    })
    .await?;
    Ok(UringFile::new(fd as i32, driver.clone()))
}

pub(crate) async fn create_dir(driver: &Rc<Driver>, path: &Path) -> io::Result<()> {
    on_path(driver, path, Leaves::Nothing, |path| {
        opcode::MkDirAt::new(HERE, path).mode(DIR_MODE).build()
    })
    .await?;
    Ok(())
}

pub(crate) async fn unlink(driver: &Rc<Driver>, path: &Path, dir: bool) -> io::Result<()> {
    let flags = if dir { libc::AT_REMOVEDIR } else { 0 };
    on_path(driver, path, Leaves::Nothing, |path| {
        opcode::UnlinkAt::new(HERE, path).flags(flags).build()
    })
    .await?;
    Ok(())
}

pub(crate) async fn rename(driver: &Rc<Driver>, from: &Path, to: &Path) -> io::Result<()> {
    let paths = (c_path(from)?, c_path(to)?);
    let entry = opcode::RenameAt::new(HERE, paths.0.as_ptr(), HERE, paths.1.as_ptr()).build();
    let (completion, _paths) = driver.start(Leaves::Nothing, paths, entry).await;
    completion.value()?;
    Ok(())
}

pub(crate) async fn sync_dir(driver: &Rc<Driver>, path: &Path) -> io::Result<()> {
    let flags = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC;
    let fd = on_path(driver, path, Leaves::Descriptor, |path| {
        opcode::OpenAt::new(HERE, path).flags(flags).build()
    })
    .await?;
    UringFile::new(fd as i32, driver.clone()).sync(false).await
}

pub(crate) async fn metadata(driver: &Rc<Driver>, path: &Path) -> io::Result<Metadata> {
    let path = c_path(path)?;
    let mut resources = (path, Vec::with_capacity(1));
    let entry = statx_entry(
        HERE,
        resources.0.as_ptr(),
        0,
        libc::STATX_BASIC_STATS,
        &mut resources.1,
    );
    let (completion, (_, buf)) = driver.start(Leaves::Nothing, resources, entry).await;
    let stat = read_statx(completion.value()?, buf);
    Ok(Metadata {
        is_dir: u32::from(stat.stx_mode) & libc::S_IFMT == libc::S_IFDIR,
        size: stat.stx_size,
        modified_ms: stat.stx_mtime.tv_sec * 1000 + i64::from(stat.stx_mtime.tv_nsec / 1_000_000),
    })
}

/// A statx into the spare room of `buf`, which must have been made with capacity 1.
pub(super) fn statx_entry(
    fd: types::Fd,
    path: *const libc::c_char,
    flags: i32,
    mask: u32,
    buf: &mut Vec<libc::statx>,
) -> squeue::Entry {
    assert!(buf.capacity() > 0, "room for the answer");
    opcode::Statx::new(fd, path, buf.as_mut_ptr().cast())
        .flags(flags)
        .mask(mask)
        .build()
}

/// The answer of a statx that succeeded (hence the result that is not looked at, but must have been checked).
pub(super) fn read_statx(_checked: usize, mut buf: Vec<libc::statx>) -> libc::statx {
    // SAFETY: the kernel fills the whole struct on success; the capacity is 1 (`statx_entry`).
    unsafe { buf.set_len(1) };
    buf[0]
}
