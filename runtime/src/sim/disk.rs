//! A disk: its tree of names, and the files they lead to.
//!
//! Creating, renaming and removing are lost until a sync of the directory; of what was not synced a crash keeps a beginning,
//! as a journal does. Files keep what was written apart from what is durable themselves, see [`FileData`].

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};
use std::path::{Component, Path};
use std::rc::{Rc, Weak};

use super::data::{Fate, FileData};
use crate::fs::DirEntry;

const ROOT: u64 = 0;
/// A file takes whole blocks of the disk.
const BLOCK: u64 = 4096;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Entry {
    id: u64,
    is_dir: bool,
}

#[derive(Clone, Default)]
pub(super) struct Dir {
    live: BTreeMap<String, Entry>,
    durable: BTreeMap<String, Entry>,
}

/// A change of names that a crash keeps or loses as a whole: directory, name, what it names from then on.
#[derive(Clone)]
pub(super) struct NameChange(Vec<(u64, String, Option<Entry>)>);

pub(super) type FileRef = Rc<RefCell<FileData>>;

pub(super) struct Disk {
    next_id: u64,
    dirs: BTreeMap<u64, Dir>,
    files: BTreeMap<u64, FileRef>,
    /// All that were ever made, removed ones as well: what [`Disk::wipe`] empties.
    made: Vec<Weak<RefCell<FileData>>>,
    pending: Vec<NameChange>,
}

/// A disk at a moment, apart from any simulation.
#[derive(Clone)]
pub(super) struct Image {
    next_id: u64,
    dirs: BTreeMap<u64, Dir>,
    files: BTreeMap<u64, FileData>,
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
            made: Vec::new(),
            pending: Vec::new(),
        }
    }

    /// The simulation is over. Something of a process that was killed may live on, as its parts may hold each other, and keep
    /// its open files; thousands of simulations in one process must not keep what these hold.
    pub(super) fn wipe(&mut self) {
        let made = std::mem::take(&mut self.made);
        for file in made.iter().filter_map(Weak::upgrade) {
            *file.borrow_mut() = FileData::default();
        }
        self.files.clear();
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
        self.made.push(Rc::downgrade(&file));
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

    /// Bytes that a file of this length takes.
    pub(super) fn taken(len: u64) -> u64 {
        len.next_multiple_of(BLOCK)
    }

    /// Bytes that files take: those that have a name, and those that are open.
    pub(super) fn used(&self) -> u64 {
        let named = self.named();
        let takes_space = |(id, file): (&u64, &FileRef)| {
            (named.contains(id) || Rc::strong_count(file) > 1)
                .then(|| Disk::taken(file.borrow().len()))
        };
        self.files.iter().filter_map(takes_space).sum()
    }

    /// The process that held them has ended.
    pub(super) fn release_locks(&mut self) {
        for file in self.files.values() {
            file.borrow_mut().locked_by = None;
        }
    }

    /// Power cut.
    pub(super) fn crash(&mut self, fate: &mut dyn Fate) {
        let kept = match self.pending.len() {
            0 => 0,
            changes => fate.kept(changes),
        };
        for change in self.pending.drain(..).take(kept).collect::<Vec<_>>() {
            self.make_durable(change);
        }
        for dir in self.dirs.values_mut() {
            dir.live = dir.durable.clone();
        }
        self.collect_garbage();
        for file in self.files.values() {
            file.borrow_mut().crash(fate);
        }
    }

    /// Ids of what names lead to.
    fn named(&self) -> BTreeSet<u64> {
        let mut found = BTreeSet::from([ROOT]);
        let mut todo = vec![ROOT];
        while let Some(dir) = todo.pop() {
            for entry in self.dirs[&dir].live.values() {
                if found.insert(entry.id) && entry.is_dir {
                    todo.push(entry.id);
                }
            }
        }
        found
    }

    /// Forgets what no name leads to any more. Only after a crash: before, it may be open, or come back by one.
    fn collect_garbage(&mut self) {
        let found = self.named();
        self.dirs.retain(|id, _| found.contains(id));
        self.files.retain(|id, _| found.contains(id));
    }

    /// All files and their paths, in the order of the paths' names.
    pub(super) fn all_files(&self) -> Vec<(String, FileRef)> {
        let mut files = Vec::new();
        let mut todo = vec![(ROOT, String::new())];
        while let Some((dir, path)) = todo.pop() {
            for (name, entry) in &self.dirs[&dir].live {
                let path = format!("{path}/{name}");
                match entry.is_dir {
                    true => todo.push((entry.id, path)),
                    false => files.push((path, self.files[&entry.id].clone())),
                }
            }
        }
        files.sort_by(|a, b| a.0.cmp(&b.0));
        files
    }

    /// Paths of all directories but the root, in order.
    pub(super) fn all_directories(&self) -> Vec<String> {
        let mut paths = Vec::new();
        let mut todo = vec![(ROOT, String::new())];
        while let Some((dir, path)) = todo.pop() {
            for (name, entry) in self.dirs[&dir]
                .live
                .iter()
                .filter(|(_, entry)| entry.is_dir)
            {
                todo.push((entry.id, format!("{path}/{name}")));
                paths.push(format!("{path}/{name}"));
            }
        }
        paths.sort();
        paths
    }

    pub(super) fn image(&self) -> Image {
        let files = self.files.iter();
        Image {
            next_id: self.next_id,
            dirs: self.dirs.clone(),
            files: files
                .map(|(id, file)| (*id, file.borrow().clone()))
                .collect(),
            pending: self.pending.clone(),
        }
    }

    pub(super) fn of_image(image: Image) -> Disk {
        let files = image.files.into_iter();
        let files: BTreeMap<u64, FileRef> = files
            .map(|(id, file)| (id, Rc::new(RefCell::new(file))))
            .collect();
        Disk {
            next_id: image.next_id,
            dirs: image.dirs,
            made: files.values().map(Rc::downgrade).collect(),
            files,
            pending: image.pending,
        }
    }
}

impl Image {
    pub(super) fn is_durable(&self) -> bool {
        self.pending.is_empty() && self.files.values().all(FileData::is_durable)
    }

    pub(super) fn unsynced_sectors(&self) -> u64 {
        self.files.values().map(FileData::unsynced_sectors).sum()
    }
}
