//! Operations of a simulated process on names.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use super::calls::CallKind;
use super::core::SimCore;
use super::disk::{Disk, Found};
use super::file::{NAME_MAX, SYNC_MAX, SimFile};
use crate::fs::{DirEntry, FsSpace, Metadata, OpenOptions};

/// Whether an operation changes names.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Names {
    Looks,
    Changes { takes_space: bool },
}

impl SimCore {
    async fn on_names<T: 'static>(
        &self,
        what: &'static str,
        names: Names,
        path: &Path,
        f: impl FnOnce(&mut Disk) -> io::Result<T> + 'static,
    ) -> io::Result<T> {
        let machine = self.machine();
        let takes_space = names == Names::Changes { takes_space: true };
        self.world.note(0x4E);
        let call = self.submit(CallKind::Names { takes_space }, NAME_MAX);
        let this = self.clone();
        let path = path.display().to_string();
        let done = self.complete(call, move || {
            if names != Names::Looks {
                this.boundary(what, &path, 0..0);
            }
            let result = match call.error {
                Some(error) => Err(error.to_io()),
                None => f(&mut machine.disk.borrow_mut()),
            };
            this.record_call(call, format_args!("{what} {path}"), &result);
            result
        });
        done.await
    }

    pub(crate) async fn open(&self, path: &Path, options: OpenOptions) -> io::Result<SimFile> {
        let creates = (options.create || options.create_new)
            && self.machine().disk.borrow().find(path).is_err();
        let names = match creates || options.truncate {
            true => Names::Changes {
                takes_space: creates,
            },
            false => Names::Looks,
        };
        let now_ms = self.unix_ms();
        let (target, name) = (path.to_owned(), path.display().to_string());
        let file = self
            .on_names("open", names, path, move |disk| {
                let file = match disk.find(&target) {
                    Ok(_) if options.create_new => return Err(ErrorKind::AlreadyExists.into()),
                    Ok(Found::File(file)) => file,
                    Ok(Found::Dir(_)) => return Err(ErrorKind::IsADirectory.into()),
                    Err(error)
                        if error.kind() == ErrorKind::NotFound
                            && (options.create || options.create_new) =>
                    {
                        disk.create_file(&target)?
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
        Ok(SimFile::new(self.clone(), file, name, options))
    }

    pub(crate) async fn create_dir(&self, path: &Path) -> io::Result<()> {
        let target = path.to_owned();
        let names = Names::Changes { takes_space: true };
        self.on_names("mkdir", names, path, move |disk| disk.create_dir(&target))
            .await
    }

    pub(crate) async fn unlink(&self, path: &Path, dir: bool) -> io::Result<()> {
        let target = path.to_owned();
        let names = Names::Changes { takes_space: false };
        self.on_names("unlink", names, path, move |disk| disk.unlink(&target, dir))
            .await
    }

    pub(crate) async fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let (source, target) = (from.to_owned(), to.to_owned());
        let names = Names::Changes { takes_space: true };
        self.on_names("rename", names, from, move |disk| {
            disk.rename(&source, &target)
        })
        .await
    }

    pub(crate) async fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let machine = self.machine();
        let path: PathBuf = path.to_owned();
        self.world.note(0x53);
        let call = self.submit(CallKind::Sync, SYNC_MAX);
        let this = self.clone();
        let done = self.complete(call, move || {
            let name = path.display().to_string();
            this.boundary("sync_dir", &name, 0..0);
            let result = match call.error {
                Some(error) => Err(error.to_io()),
                None => machine.disk.borrow_mut().sync_dir(&path),
            };
            this.record_call(call, format_args!("sync_dir {name}"), &result);
            result
        });
        done.await
    }

    pub(crate) async fn read_dir(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        let target = path.to_owned();
        self.on_names("read_dir", Names::Looks, path, move |disk| {
            disk.read_dir(&target)
        })
        .await
    }

    pub(crate) async fn metadata(&self, path: &Path) -> io::Result<Metadata> {
        let target = path.to_owned();
        self.on_names("stat", Names::Looks, path, move |disk| {
            Ok(match disk.find(&target)? {
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
        let total_bytes = self.disk_bytes();
        FsSpace {
            free_bytes: total_bytes.saturating_sub(used),
            total_bytes,
        }
    }
}
