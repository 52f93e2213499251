//! Where a repair works: new files are made beside the live ones, and change places with them all at once.
//!
//! ```text
//! quarantine/repair-0001/            one of these for each repair
//!     partitions/… wal/…             what was taken out of the directory, by the path it had
//!     ….log.FROM-TO                  bytes that were cut off behind the end of a file
//!     new/…                          files that are to take their places
//!     moves.json                     what goes where; moves.done.json afterwards
//!     format.new                     the format file to end with
//!     report.json                    what was found and done
//! ```
//!
//! Invariants:
//! - Bytes are never deleted: what is replaced is moved aside first, what is cut off is copied first.
//! - Before the commit, live files only grow behind their end, or lose what is zero or was copied: the old state is as good
//!   as it was. The commit is the moment when the format file becomes the mark of a repair: from then on no broker starts, and
//!   whoever runs the repair again first carries out the moves, which can be done any number of times.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use serde::{Deserialize, Serialize};
use trireme_engine::layout::format_file::UNDER_REPAIR;
use trireme_engine::layout::paths::FORMAT;

use crate::tree::QUARANTINE;

const MOVES: &str = "moves.json";
const MOVES_DONE: &str = "moves.done.json";
const FORMAT_NEW: &str = "format.new";
const NEW: &str = "new";
const COPY_BYTES: usize = 1 << 20;

/// A rename, both paths relative to the data directory.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Move {
    from: String,
    to: String,
}

/// One repair of one directory. A dry run writes nothing.
pub struct Workshop {
    root: PathBuf,
    /// `quarantine/repair-NNNN`.
    name: String,
    pub dry_run: bool,
    aside: Mutex<Vec<Move>>,
    placed: Mutex<Vec<Move>>,
    /// What was done to live files and is worth telling.
    log: Mutex<Vec<String>>,
}

impl Workshop {
    /// A place for the next repair of the directory. What interrupted ones had prepared is removed: copies, all of it.
    pub fn new(root: &Path, dry_run: bool) -> io::Result<Workshop> {
        let quarantine = root.join(QUARANTINE);
        let mut number = 1;
        let name = loop {
            let name = format!("{QUARANTINE}/repair-{number:04}");
            if !root.join(&name).exists() {
                break name;
            }
            let left = root.join(&name).join(NEW);
            if !dry_run && left.exists() {
                fs::remove_dir_all(left)?;
            }
            number += 1;
        };
        if !dry_run {
            fs::create_dir_all(root.join(&name))?;
            sync_dir(&quarantine)?;
            sync_dir(root)?;
        }
        Ok(Workshop {
            root: root.to_owned(),
            name,
            dry_run,
            aside: Mutex::default(),
            placed: Mutex::default(),
            log: Mutex::default(),
        })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn note(&self, what: String) {
        self.log.lock().expect("no panic while held").push(what);
    }

    /// What was noted, in order of the files.
    pub fn notes(&self) -> Vec<String> {
        let mut notes = self.log.lock().expect("no panic while held").clone();
        notes.sort();
        notes
    }

    /// At the commit, `path` goes into quarantine.
    pub fn move_aside(&self, path: &str) {
        let to = format!("{}/{path}", self.name);
        self.note(format!("{path}: moved to {to}"));
        let from = path.to_owned();
        let mut aside = self.aside.lock().expect("no panic while held");
        let step = Move { from, to };
        if !aside.contains(&step) {
            aside.push(step);
        }
    }

    /// A new file that takes the place of `path` at the commit; what is there then has to be moved aside. It is written by
    /// `write` (not in a dry run), and durable when this returns.
    pub fn place(
        &self,
        path: &str,
        write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> io::Result<()> {
        self.note(format!("{path}: written anew"));
        if self.dry_run {
            return Ok(());
        }
        let from = format!("{}/{NEW}/{path}", self.name);
        let new = self.root.join(&from);
        let parent = new.parent().expect("it lies in a directory");
        fs::create_dir_all(parent)?;
        let mut file = io::BufWriter::with_capacity(COPY_BYTES, File::create(&new)?);
        write(&mut file)?;
        file.flush()?;
        file.get_ref().sync_all()?;
        sync_dir(parent)?;
        let to = path.to_owned();
        self.placed
            .lock()
            .expect("no panic while held")
            .push(Move { from, to });
        Ok(())
    }

    /// The same for a file that is there already, if it does not hold these bytes.
    pub fn replace(&self, path: &str, bytes: &[u8]) -> io::Result<()> {
        match fs::read(self.root.join(path)) {
            Ok(old) if old == bytes => return Ok(()),
            Ok(_) => self.move_aside(path),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            // It cannot be read: aside with it.
            Err(_) => self.move_aside(path),
        }
        self.place(path, |out| out.write_all(bytes))
    }

    /// Makes a live file `end` bytes long, of which up to `own` bytes were its own. What it has behind `end` and is not zero
    /// is copied into quarantine first. Durable when this returns, with all that was written to it.
    pub fn fit(&self, path: &str, own: u64, end: u64) -> io::Result<()> {
        let live = self.root.join(path);
        if own > end {
            let mut file = File::open(&live)?;
            if is_zero_from(&mut file, end)? {
                self.note(format!("{path}: cut to {end} bytes, zeros behind them"));
            } else {
                let kept = format!("{}/{path}.{end}-{own}", self.name);
                self.note(format!(
                    "{path}: bytes {end} to {own} copied to {kept} and cut off"
                ));
                if !self.dry_run {
                    self.copy_range(&mut file, end, &self.root.join(kept))?;
                }
            }
        }
        if self.dry_run {
            return Ok(());
        }
        let file = OpenOptions::new().write(true).open(&live)?;
        file.set_len(end)?;
        file.sync_all()
    }

    /// Writes into a live file; durable with [`fit`](Self::fit).
    pub fn write_at(&self, path: &str, at: u64, bytes: &[u8]) -> io::Result<()> {
        if self.dry_run {
            return Ok(());
        }
        OpenOptions::new()
            .write(true)
            .open(self.root.join(path))?
            .write_all_at(bytes, at)
    }

    fn copy_range(&self, file: &mut File, from: u64, to: &Path) -> io::Result<()> {
        let parent = to.parent().expect("it lies in a directory");
        fs::create_dir_all(parent)?;
        file.seek(SeekFrom::Start(from))?;
        let mut copy = File::create(to)?;
        io::copy(file, &mut copy)?;
        copy.sync_all()?;
        sync_ancestors(parent, &self.root)
    }

    /// Keeps a report beside what was set aside.
    pub fn keep_report(&self, text: &str) -> io::Result<()> {
        if self.dry_run {
            return Ok(());
        }
        write_durably(
            &self.root.join(&self.name).join("report.json"),
            text.as_bytes(),
        )
    }

    /// Carries everything out: after this the directory is the new one. `format` is the format file to end with.
    pub fn commit(self, format: &[u8]) -> io::Result<()> {
        if self.dry_run {
            return Ok(());
        }
        let (root, name) = (self.root.clone(), self.name.clone());
        self.mark(format)?;
        carry_out(&root, &name, usize::MAX)
    }

    /// The commit itself: when the mark is in the place of the format file, the repair will be carried out.
    fn mark(self, format: &[u8]) -> io::Result<()> {
        let mut moves = self.aside.into_inner().expect("no panic while held");
        moves.sort();
        moves.extend(self.placed.into_inner().expect("no panic while held"));
        let shop = self.root.join(&self.name);
        sync_tree(&shop)?;
        sync_ancestors(&shop, &self.root)?;
        let text = serde_json::to_vec_pretty(&moves).expect("plain data");
        write_durably(&shop.join(MOVES), &text)?;
        write_durably(&shop.join(FORMAT_NEW), format)?;
        if let Ok(old) = fs::read(self.root.join(FORMAT))
            && old != format
        {
            write_durably(&shop.join(FORMAT), &old)?;
        }
        let mark = [UNDER_REPAIR, self.name.as_bytes(), b"\n"].concat();
        write_durably(&shop.join("mark"), &mark)?;
        fs::rename(shop.join("mark"), self.root.join(FORMAT))?;
        sync_dir(&self.root)
    }
}

/// Finishes a repair that was interrupted behind its commit; its name, if there was one.
pub fn finish_interrupted(root: &Path) -> io::Result<Option<String>> {
    let Ok(mark) = fs::read(root.join(FORMAT)) else {
        return Ok(None);
    };
    let Some(name) = mark.strip_prefix(UNDER_REPAIR) else {
        return Ok(None);
    };
    let name = String::from_utf8_lossy(name).trim().to_owned();
    carry_out(root, &name, usize::MAX)?;
    Ok(Some(name))
}

/// Whether a repair was interrupted behind its commit.
pub fn is_interrupted(root: &Path) -> bool {
    fs::read(root.join(FORMAT)).is_ok_and(|mark| mark.starts_with(UNDER_REPAIR))
}

/// Does the moves; a test stops it after some of them.
fn carry_out(root: &Path, name: &str, stop_after: usize) -> io::Result<()> {
    let shop = root.join(name);
    let moves: Vec<Move> = serde_json::from_slice(&fs::read(shop.join(MOVES))?)?;
    let mut directories = std::collections::BTreeSet::new();
    for (done, Move { from, to }) in moves.iter().enumerate() {
        if done == stop_after {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let (from, to) = (root.join(from), root.join(to));
        // What is in its new place was moved before an interruption: the old place may have its successor by now.
        if from.exists() && !to.exists() {
            let parent = to.parent().expect("it lies in a directory");
            if !parent.exists() {
                fs::create_dir_all(parent)?;
                sync_ancestors(parent, root)?;
            }
            fs::rename(&from, &to)?;
        }
        for path in [&from, &to] {
            directories.extend(path.parent().map(Path::to_owned));
        }
    }
    for directory in directories.iter().filter(|directory| directory.exists()) {
        sync_dir(directory)?;
    }
    fs::rename(shop.join(FORMAT_NEW), root.join(FORMAT))?;
    sync_dir(root)?;
    fs::rename(shop.join(MOVES), shop.join(MOVES_DONE))?;
    let left = shop.join(NEW);
    if left.exists() {
        fs::remove_dir_all(left)?;
    }
    sync_dir(&shop)
}

fn is_zero_from(file: &mut File, from: u64) -> io::Result<bool> {
    file.seek(SeekFrom::Start(from))?;
    let mut bytes = vec![0; COPY_BYTES];
    loop {
        match file.read(&mut bytes)? {
            0 => return Ok(true),
            read if bytes[..read].iter().any(|byte| *byte != 0) => return Ok(false),
            _ => {}
        }
    }
}

fn write_durably(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    sync_dir(path.parent().expect("it lies in a directory"))
}

fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Syncs `path` and the directories above it, up to `root`.
fn sync_ancestors(path: &Path, root: &Path) -> io::Result<()> {
    let below = path
        .ancestors()
        .take_while(|ancestor| ancestor.starts_with(root));
    below.into_iter().try_for_each(sync_dir)
}

fn sync_tree(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync_tree(&entry.path())?;
        }
    }
    sync_dir(path)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use trireme_engine::layout::format_file::{Format, FormatError};

    use super::*;

    fn content(root: &Path) -> BTreeMap<String, Vec<u8>> {
        let mut all = BTreeMap::new();
        let mut left = vec![root.to_owned()];
        while let Some(directory) = left.pop() {
            for entry in fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    left.push(path);
                } else {
                    let name = path.strip_prefix(root).unwrap().display().to_string();
                    all.insert(name, fs::read(path).unwrap());
                }
            }
        }
        all
    }

    fn prepare(root: &Path) -> Workshop {
        fs::create_dir_all(root.join("partitions/a")).unwrap();
        fs::write(root.join("format"), b"old format").unwrap();
        for name in ["1.log", "1.sum", "2.log"] {
            fs::write(root.join("partitions/a").join(name), format!("old {name}")).unwrap();
        }
        let shop = Workshop::new(root, false).unwrap();
        for name in ["1.log", "1.sum", "2.log"] {
            shop.move_aside(&format!("partitions/a/{name}"));
        }
        for name in ["a/1.log", "a/1.sum", "b/7.log"] {
            let path = format!("partitions/{name}");
            let bytes = format!("new {name}").into_bytes();
            shop.place(&path, |out| out.write_all(&bytes)).unwrap();
        }
        shop
    }

    #[test]
    fn interrupted_anywhere_it_comes_to_the_same() {
        let whole = tempfile::tempdir().unwrap();
        prepare(whole.path()).commit(b"new format").unwrap();
        let expected = content(whole.path());
        assert_eq!(expected["partitions/a/1.log"], b"new a/1.log");
        assert_eq!(expected["partitions/b/7.log"], b"new b/7.log");
        assert_eq!(expected["format"], b"new format");
        assert!(!expected.contains_key("partitions/a/2.log"));
        for (kept, bytes) in [
            ("partitions/a/2.log", &b"old 2.log"[..]),
            ("format", b"old format"),
        ] {
            assert_eq!(expected[&format!("quarantine/repair-0001/{kept}")], bytes);
        }
        for stop_after in 0..6 {
            let dir = tempfile::tempdir().unwrap();
            let root = dir.path();
            let shop = prepare(root);
            let name = shop.name().to_owned();
            shop.mark(b"new format").unwrap();
            carry_out(root, &name, stop_after).unwrap_err();
            // Nothing starts from it.
            let mark = Format::parse(&fs::read(root.join("format")).unwrap());
            assert_eq!(mark, Err(FormatError::UnderRepair));
            assert!(is_interrupted(root));
            assert_eq!(finish_interrupted(root).unwrap(), Some(name));
            assert_eq!(content(root), expected, "stopped after {stop_after} moves");
            assert_eq!(finish_interrupted(root).unwrap(), None);
        }
    }

    #[test]
    fn before_the_commit_nothing_has_changed() {
        let dir = tempfile::tempdir().unwrap();
        drop(prepare(dir.path()));
        let live: Vec<String> = content(dir.path())
            .into_keys()
            .filter(|path| !path.starts_with(QUARANTINE))
            .collect();
        assert_eq!(
            live,
            [
                "format",
                "partitions/a/1.log",
                "partitions/a/1.sum",
                "partitions/a/2.log"
            ]
        );
        assert_eq!(finish_interrupted(dir.path()).unwrap(), None);
        // The next one begins anew, and removes the copies that were prepared.
        let next = Workshop::new(dir.path(), false).unwrap();
        assert_eq!(next.name(), "quarantine/repair-0002");
        assert!(!dir.path().join("quarantine/repair-0001/new").exists());
    }

    #[test]
    fn what_is_cut_off_is_copied_first() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("x"), b"0123456789\0\0\0").unwrap();
        let shop = Workshop::new(dir.path(), false).unwrap();
        shop.fit("x", 13, 10).unwrap();
        assert_eq!(fs::read(dir.path().join("x")).unwrap(), b"0123456789");
        shop.fit("x", 10, 4).unwrap();
        assert_eq!(fs::read(dir.path().join("x")).unwrap(), b"0123");
        let kept = fs::read(dir.path().join("quarantine/repair-0001/x.4-10")).unwrap();
        assert_eq!(kept, b"456789");
    }
}
