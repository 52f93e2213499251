//! Operations on paths, over the backend of the current core.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::{DirEntry, File, FsSpace, Metadata, OpenOptions};
use crate::buf::IoBuf;
use crate::core::{Backend, with_core};
use crate::sim::SimCore;
use crate::task::run_blocking;
use crate::uring::{Driver, paths};

/// So many directories are synced by a sync of the whole file system.
pub const SYNC_WHOLE_MIN: usize = 16;

pub(super) enum Via {
    Uring(Rc<Driver>),
    Sim(SimCore),
}

pub(super) fn backend() -> Via {
    with_core(|core| match &core.backend {
        Backend::Uring(uring) => Via::Uring(uring.driver.clone()),
        Backend::Sim(sim) => Via::Sim(sim.clone()),
    })
}

async fn create_dir(path: &Path) -> io::Result<()> {
    match backend() {
        Via::Uring(driver) => paths::create_dir(&driver, path).await,
        Via::Sim(sim) => sim.create_dir(path).await,
    }
}

/// Creates the directory and its missing parents. Durable after [`sync_dir`] of each parent.
pub async fn create_dir_all(path: impl AsRef<Path>) -> io::Result<()> {
    let path = path.as_ref();
    let mut missing: Vec<&Path> = Vec::new();
    let mut at = path;
    loop {
        match create_dir(at).await {
            Ok(()) => break,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                missing.push(at);
                at = at.parent().ok_or(error)?;
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                if !metadata(at).await?.is_dir {
                    return Err(error);
                }
                break;
            }
            Err(error) => return Err(error),
        }
    }
    for path in missing.into_iter().rev() {
        match create_dir(path).await {
            // Somebody else was there between.
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => (),
        }
    }
    Ok(())
}

async fn unlink(path: &Path, dir: bool) -> io::Result<()> {
    match backend() {
        Via::Uring(driver) => paths::unlink(&driver, path, dir).await,
        Via::Sim(sim) => sim.unlink(path, dir).await,
    }
}

pub async fn remove_file(path: impl AsRef<Path>) -> io::Result<()> {
    unlink(path.as_ref(), false).await
}

/// Removes an empty directory.
pub async fn remove_dir(path: impl AsRef<Path>) -> io::Result<()> {
    unlink(path.as_ref(), true).await
}

pub async fn rename(from: impl AsRef<Path>, to: impl AsRef<Path>) -> io::Result<()> {
    match backend() {
        Via::Uring(driver) => paths::rename(&driver, from.as_ref(), to.as_ref()).await,
        Via::Sim(sim) => sim.rename(from.as_ref(), to.as_ref()).await,
    }
}

/// fsync of a directory: creations, renames and removals in it are durable.
pub async fn sync_dir(path: impl AsRef<Path>) -> io::Result<()> {
    match backend() {
        Via::Uring(driver) => paths::sync_dir(&driver, path.as_ref()).await,
        Via::Sim(sim) => sim.sync_dir(path.as_ref()).await,
    }
}

/// Makes the names in all these directories durable; one that does not exist (any more) is passed over. From
/// [`SYNC_WHOLE_MIN`] directories on by one sync of their file system, which costs one flush of the device instead of one
/// for each directory, and takes other programs' unwritten data along.
pub async fn sync_dirs(paths: Vec<PathBuf>) -> io::Result<()> {
    match backend() {
        Via::Uring(_) => run_blocking(move || sync_dirs_now(&paths)).await,
        Via::Sim(sim) => {
            for path in paths {
                match sim.sync_dir(&path).await {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => (),
                }
            }
            Ok(())
        }
    }
}

fn sync_dirs_now(paths: &[PathBuf]) -> io::Result<()> {
    let mut synced = BTreeSet::new();
    for path in paths {
        let dir = match std::fs::File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            opened => opened?,
        };
        if paths.len() < SYNC_WHOLE_MIN {
            dir.sync_all()?;
        } else if synced.insert(dir.metadata()?.dev()) {
            nix::unistd::syncfs(&dir)?;
        }
    }
    Ok(())
}

/// A file that [`prepare_files`] makes ready.
#[derive(Clone, Debug)]
pub struct PrepareFile {
    pub path: PathBuf,
    pub options: OpenOptions,
    /// Make the directory it lies in first, if that is missing.
    pub with_directory: bool,
    /// The file gets space for so many bytes from its start.
    pub allocate_bytes: u64,
}

/// Makes, opens and allocates files, in the order given, together: one trip to a helper thread instead of three through the
/// ring for each. One result for each file. Nothing of it is durable yet.
pub async fn prepare_files(files: Vec<PrepareFile>) -> Vec<io::Result<File>> {
    match backend() {
        Via::Uring(driver) => {
            let prepared =
                run_blocking(move || files.iter().map(prepare_now).collect::<Vec<_>>()).await;
            prepared
                .into_iter()
                .map(|fd| Ok(File::from_descriptor(fd?, driver.clone())))
                .collect()
        }
        Via::Sim(_) => {
            let mut prepared = Vec::with_capacity(files.len());
            for file in files {
                prepared.push(prepare_one(file).await);
            }
            prepared
        }
    }
}

fn prepare_now(file: &PrepareFile) -> io::Result<OwnedFd> {
    if file.with_directory {
        let directory = std::fs::DirBuilder::new()
            .mode(paths::DIR_MODE)
            .create(parent(&file.path));
        match directory {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => (),
        }
    }
    let options = file.options;
    let opened = std::fs::OpenOptions::new()
        .read(options.read)
        .write(options.write)
        .create(options.create)
        .create_new(options.create_new)
        .truncate(options.truncate)
        .mode(paths::FILE_MODE)
        .custom_flags(if options.direct { libc::O_DIRECT } else { 0 })
        .open(&file.path)?;
    let length = i64::try_from(file.allocate_bytes).map_err(|_| io::ErrorKind::FileTooLarge)?;
    if length > 0 {
        nix::fcntl::fallocate(&opened, nix::fcntl::FallocateFlags::empty(), 0, length)?;
    }
    Ok(opened.into())
}

async fn prepare_one(file: PrepareFile) -> io::Result<File> {
    if file.with_directory {
        match create_dir(parent(&file.path)).await {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => (),
        }
    }
    let opened = File::open(&file.path, file.options).await?;
    if file.allocate_bytes > 0 {
        opened.allocate(0, file.allocate_bytes).await?;
    }
    Ok(opened)
}

/// The directory's entries, sorted by name.
pub async fn read_dir(path: impl AsRef<Path>) -> io::Result<Vec<DirEntry>> {
    let path = path.as_ref().to_owned();
    match backend() {
        // The ring has no such operation.
        Via::Uring(_) => run_blocking(move || read_dir_now(&path)).await,
        Via::Sim(sim) => sim.read_dir(&path).await,
    }
}

fn read_dir_now(path: &Path) -> io::Result<Vec<DirEntry>> {
    let mut entries = Vec::new();
    for entry in std::fs::read_dir(path)? {
        let entry = entry?;
        let name = entry
            .file_name()
            .into_string()
            .map_err(|name| not_utf8(&name))?;
        let stat = match entry.metadata() {
            Ok(stat) => stat,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue, // removed meanwhile
            Err(error) => return Err(error),
        };
        let is_dir = stat.is_dir();
        entries.push(DirEntry {
            name,
            is_dir,
            size: if is_dir { 0 } else { stat.len() },
        });
    }
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(entries)
}

fn not_utf8(name: &OsString) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("file name {name:?} is not UTF-8"),
    )
}

pub async fn metadata(path: impl AsRef<Path>) -> io::Result<Metadata> {
    match backend() {
        Via::Uring(driver) => paths::metadata(&driver, path.as_ref()).await,
        Via::Sim(sim) => sim.metadata(path.as_ref()).await,
    }
}

pub async fn exists(path: impl AsRef<Path>) -> io::Result<bool> {
    match metadata(path).await {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

pub async fn statvfs(path: impl AsRef<Path>) -> io::Result<FsSpace> {
    let path = path.as_ref().to_owned();
    match backend() {
        Via::Uring(_) => {
            run_blocking(move || {
                let stat = nix::sys::statvfs::statvfs(&path)?;
                let unit = stat.fragment_size();
                Ok(FsSpace {
                    free_bytes: stat.blocks_available() * unit,
                    total_bytes: stat.blocks() * unit,
                })
            })
            .await
        }
        Via::Sim(sim) => Ok(sim.space()),
    }
}

/// Directory of a path; the current one for a bare name.
fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Replaces (or creates) a file as a whole: temporary file beside it (the name with `.tmp` appended), sync, rename, sync
/// of the directory. Durable when it returns; after a crash either the old or the new content is there, and perhaps the
/// temporary file.
pub async fn replace_file<B: IoBuf>(path: impl AsRef<Path>, bytes: B) -> io::Result<()> {
    let path = path.as_ref();
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".tmp");
    let temporary = PathBuf::from(temporary);
    let options = OpenOptions {
        write: true,
        create: true,
        truncate: true,
        ..OpenOptions::default()
    };
    let file = File::open(&temporary, options).await?;
    file.write_all_at(bytes, 0).await.0?;
    file.sync_all().await?;
    drop(file);
    rename(&temporary, path).await?;
    sync_dir(parent(path)).await
}

/// A whole file.
pub async fn read_file(path: impl AsRef<Path>) -> io::Result<Vec<u8>> {
    let file = File::open(path, OpenOptions::READ).await?;
    let size = usize::try_from(file.size().await?).map_err(|_| io::ErrorKind::FileTooLarge)?;
    let (result, bytes) = file.read_exact_at(Vec::with_capacity(size), 0, size).await;
    result.map(|()| bytes)
}
