//! A disk that keeps what was written apart from what is durable.
//!
//! Data: a crash decides for each unsynced sector by seed whether it made it (so a write of several sectors can be torn).
//! Sizes: those of plain writes, `allocate` and `truncate` are lost until a sync of the file; a durable write makes the
//! size durable that it needs itself. Names: creating, renaming and removing are lost until a sync of the directory; of
//! what was not synced a crash keeps a beginning, as a journal does.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::path::{Component, Path};
use std::rc::Rc;

use super::SECTOR;
use super::world::World;
use crate::fs::DirEntry;

const ROOT: u64 = 0;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Entry {
    id: u64,
    is_dir: bool,
}

#[derive(Default)]
struct Dir {
    live: BTreeMap<String, Entry>,
    durable: BTreeMap<String, Entry>,
}

/// A change of names that a crash keeps or loses as a whole: directory, name, what it names from then on.
struct NameChange(Vec<(u64, String, Option<Entry>)>);

#[derive(Default)]
pub(super) struct FileData {
    live: Vec<u8>,
    durable: Vec<u8>,
    /// Sectors that were changed since they became durable.
    dirty: BTreeSet<u64>,
    /// The open file that holds the lock.
    pub(super) locked_by: Option<u64>,
    pub(super) modified_ms: i64,
}

pub(super) type FileRef = Rc<RefCell<FileData>>;

pub(super) struct Disk {
    next_id: u64,
    dirs: BTreeMap<u64, Dir>,
    files: BTreeMap<u64, FileRef>,
    pending: Vec<NameChange>,
}

/// What a path leads to.
pub(super) enum Found {
    Dir(u64),
    File(FileRef),
}

impl Disk {
    pub(super) fn new() -> Disk {
        let dirs = BTreeMap::from([(ROOT, Dir::default())]);
        Disk {
            next_id: ROOT + 1,
            dirs,
            files: BTreeMap::new(),
            pending: Vec::new(),
        }
    }

    /// The directory that holds the path's last name, and that name; `None` for the root.
    fn split(&self, path: &Path) -> io::Result<Option<(u64, String)>> {
        let mut names = Vec::new();
        for component in path.components() {
            match component {
                Component::RootDir | Component::CurDir => (),
                Component::Normal(name) => {
                    names.push(name.to_str().ok_or(ErrorKind::InvalidInput)?)
                }
                Component::ParentDir | Component::Prefix(_) => {
                    return Err(ErrorKind::InvalidInput.into());
                }
            }
        }
        let Some(last) = names.pop() else {
            return Ok(None);
        };
        let mut dir = ROOT;
        for name in names {
            match self.dirs[&dir].live.get(name) {
                Some(Entry { id, is_dir: true }) => dir = *id,
                Some(_) => return Err(ErrorKind::NotADirectory.into()),
                None => return Err(ErrorKind::NotFound.into()),
            }
        }
        Ok(Some((dir, last.to_owned())))
    }

    fn entry(&self, dir: u64, name: &str) -> Option<Entry> {
        self.dirs[&dir].live.get(name).copied()
    }

    pub(super) fn find(&self, path: &Path) -> io::Result<Found> {
        let Some((dir, name)) = self.split(path)? else {
            return Ok(Found::Dir(ROOT));
        };
        match self.entry(dir, &name).ok_or(ErrorKind::NotFound)? {
            Entry { id, is_dir: true } => Ok(Found::Dir(id)),
            Entry { id, is_dir: false } => Ok(Found::File(self.files[&id].clone())),
        }
    }

    fn change(&mut self, changes: Vec<(u64, String, Option<Entry>)>) {
        for (dir, name, entry) in &changes {
            let live = &mut self
                .dirs
                .get_mut(dir)
                .expect("directories stay in the table")
                .live;
            match entry {
                Some(entry) => live.insert(name.clone(), *entry),
                None => live.remove(name),
            };
        }
        self.pending.push(NameChange(changes));
    }

    fn fresh_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id - 1
    }

    pub(super) fn create_file(&mut self, path: &Path) -> io::Result<FileRef> {
        let (dir, name) = self.split(path)?.ok_or(ErrorKind::IsADirectory)?;
        if self.entry(dir, &name).is_some() {
            return Err(ErrorKind::AlreadyExists.into());
        }
        let id = self.fresh_id();
        let file = FileRef::default();
        self.files.insert(id, file.clone());
        self.change(vec![(dir, name, Some(Entry { id, is_dir: false }))]);
        Ok(file)
    }

    pub(super) fn create_dir(&mut self, path: &Path) -> io::Result<()> {
        let (dir, name) = self.split(path)?.ok_or(ErrorKind::AlreadyExists)?;
        if self.entry(dir, &name).is_some() {
            return Err(ErrorKind::AlreadyExists.into());
        }
        let id = self.fresh_id();
        self.dirs.insert(id, Dir::default());
        self.change(vec![(dir, name, Some(Entry { id, is_dir: true }))]);
        Ok(())
    }

    pub(super) fn unlink(&mut self, path: &Path, want_dir: bool) -> io::Result<()> {
        let (dir, name) = self.split(path)?.ok_or(ErrorKind::PermissionDenied)?;
        let entry = self.entry(dir, &name).ok_or(ErrorKind::NotFound)?;
        match (entry.is_dir, want_dir) {
            (true, false) => return Err(ErrorKind::IsADirectory.into()),
            (false, true) => return Err(ErrorKind::NotADirectory.into()),
            (true, true) if !self.dirs[&entry.id].live.is_empty() => {
                return Err(ErrorKind::DirectoryNotEmpty.into());
            }
            _ => (),
        }
        self.change(vec![(dir, name, None)]);
        Ok(())
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let (from_dir, from_name) = self.split(from)?.ok_or(ErrorKind::PermissionDenied)?;
        let (to_dir, to_name) = self.split(to)?.ok_or(ErrorKind::PermissionDenied)?;
        let entry = self
            .entry(from_dir, &from_name)
            .ok_or(ErrorKind::NotFound)?;
        if let Some(old) = self.entry(to_dir, &to_name) {
            match (entry.is_dir, old.is_dir) {
                _ if old == entry => return Ok(()),
                (false, true) => return Err(ErrorKind::IsADirectory.into()),
                (true, false) => return Err(ErrorKind::NotADirectory.into()),
                (true, true) if !self.dirs[&old.id].live.is_empty() => {
                    return Err(ErrorKind::DirectoryNotEmpty.into());
                }
                _ => (),
            }
        }
        self.change(vec![
            (from_dir, from_name, None),
            (to_dir, to_name, Some(entry)),
        ]);
        Ok(())
    }

    pub(super) fn read_dir(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        let Found::Dir(dir) = self.find(path)? else {
            return Err(ErrorKind::NotADirectory.into());
        };
        let entry = |(name, entry): (&String, &Entry)| DirEntry {
            name: name.clone(),
            is_dir: entry.is_dir,
            size: if entry.is_dir {
                0
            } else {
                self.files[&entry.id].borrow().len()
            },
        };
        Ok(self.dirs[&dir].live.iter().map(entry).collect())
    }

    /// Makes the changes of a directory durable, and the earlier ones that they build on.
    pub(super) fn sync_dir(&mut self, path: &Path) -> io::Result<()> {
        let Found::Dir(dir) = self.find(path)? else {
            return Err(ErrorKind::NotADirectory.into());
        };
        let mut needed: BTreeSet<(u64, String)> = BTreeSet::new();
        let mut synced = Vec::new();
        for at in (0..self.pending.len()).rev() {
            let changes = &self.pending[at].0;
            if changes
                .iter()
                .any(|(d, name, _)| *d == dir || needed.contains(&(*d, name.clone())))
            {
                needed.extend(changes.iter().map(|(d, name, _)| (*d, name.clone())));
                synced.push(self.pending.remove(at));
            }
        }
        synced
            .into_iter()
            .rev()
            .for_each(|change| self.make_durable(change));
        Ok(())
    }

    fn make_durable(&mut self, change: NameChange) {
        for (dir, name, entry) in change.0 {
            let durable = &mut self
                .dirs
                .get_mut(&dir)
                .expect("directories stay in the table")
                .durable;
            match entry {
                Some(entry) => durable.insert(name, entry),
                None => durable.remove(&name),
            };
        }
    }

    /// Bytes of all files.
    pub(super) fn used(&self) -> u64 {
        self.files.values().map(|file| file.borrow().len()).sum()
    }

    /// The process that held them has ended.
    pub(super) fn release_locks(&mut self) {
        for file in self.files.values() {
            file.borrow_mut().locked_by = None;
        }
    }

    /// Power cut.
    pub(super) fn crash(&mut self, world: &World) {
        let kept = world.below(self.pending.len() as u64 + 1) as usize;
        for change in self.pending.drain(..).take(kept).collect::<Vec<_>>() {
            self.make_durable(change);
        }
        for dir in self.dirs.values_mut() {
            dir.live = dir.durable.clone();
        }
        self.collect_garbage();
        for file in self.files.values() {
            file.borrow_mut().crash(world);
        }
    }

    /// Forgets what no name leads to any more. Only after a crash: before, it may be open.
    fn collect_garbage(&mut self) {
        let mut found = BTreeSet::from([ROOT]);
        let mut todo = vec![ROOT];
        while let Some(dir) = todo.pop() {
            for entry in self.dirs[&dir].live.values() {
                if found.insert(entry.id) && entry.is_dir {
                    todo.push(entry.id);
                }
            }
        }
        self.dirs.retain(|id, _| found.contains(id));
        self.files.retain(|id, _| found.contains(id));
    }
}

fn sectors(range: Range<u64>) -> Range<u64> {
    let sector = SECTOR as u64;
    range.start / sector..range.end.div_ceil(sector)
}

/// Copies a sector as far as both reach.
fn copy_sector(from: &[u8], to: &mut [u8], sector: u64) {
    let start = sector as usize * SECTOR;
    let end = (start + SECTOR).min(from.len()).min(to.len());
    if start < end {
        to[start..end].copy_from_slice(&from[start..end]);
    }
}

impl FileData {
    pub(super) fn len(&self) -> u64 {
        self.live.len() as u64
    }

    /// Copies what is there at `pos` and says how much that was.
    pub(super) fn read(&self, pos: u64, out: &mut Vec<u8>, len: usize) {
        let start = usize::try_from(pos)
            .unwrap_or(usize::MAX)
            .min(self.live.len());
        let end = start.saturating_add(len).min(self.live.len());
        out.extend_from_slice(&self.live[start..end]);
    }

    pub(super) fn write(&mut self, pos: u64, bytes: &[u8]) {
        let start = pos as usize;
        let end = start + bytes.len();
        if end > self.live.len() {
            self.live.resize(end, 0);
        }
        self.live[start..end].copy_from_slice(bytes);
        self.dirty.extend(sectors(pos..end as u64));
    }

    pub(super) fn set_len(&mut self, len: u64) {
        let old = self.live.len() as u64;
        self.live.resize(len as usize, 0);
        self.dirty.extend(sectors(old.min(len)..old.max(len)));
    }

    /// Makes the sectors of a range durable, and the size as far as the range needs it.
    pub(super) fn make_durable(&mut self, range: Range<u64>) {
        let needed = range.end.min(self.len()) as usize;
        if self.durable.len() < needed {
            self.durable.resize(needed, 0);
        }
        for sector in sectors(range) {
            copy_sector(&self.live, &mut self.durable, sector);
            self.dirty.remove(&sector);
        }
    }

    /// What a sync that begins now has to cover.
    pub(super) fn begin_sync(&self) -> (u64, BTreeSet<u64>) {
        (self.len(), self.dirty.clone())
    }

    pub(super) fn end_sync(&mut self, (len, dirty): (u64, BTreeSet<u64>)) {
        self.durable.resize(len as usize, 0);
        for sector in dirty {
            copy_sector(&self.live, &mut self.durable, sector);
            self.dirty.remove(&sector);
        }
    }

    fn crash(&mut self, world: &World) {
        self.locked_by = None;
        if self.live.len() != self.durable.len() && world.one_in(2) {
            self.durable.resize(self.live.len(), 0);
        }
        // All, none, or some of it by the sector.
        let fate = world.below(3);
        for sector in std::mem::take(&mut self.dirty) {
            if fate == 0 || fate == 1 && world.one_in(2) {
                copy_sector(&self.live, &mut self.durable, sector);
            }
        }
        self.live = self.durable.clone();
    }
}
