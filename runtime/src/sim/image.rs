//! A disk apart from a simulation: taken at any moment of a run, crashed in any way, looked at, put into another node.

use std::cell::RefCell;
use std::fmt;
use std::ops::Range;
use std::path::Path;

use super::data::Fate;
use super::disk::{Disk, Found, Image};
use super::faults::{Fault, FaultCounts};
use crate::random;

/// What is told before each change of a disk.
pub(super) type BoundaryHook = Box<dyn FnMut(&Boundary<'_>)>;

/// A moment just before a disk changes: a write takes effect, or something written becomes durable.
pub struct Boundary<'a> {
    /// Disk calls that the node has submitted so far.
    pub calls: u64,
    /// What is about to happen: "write", "durable", "sync", "open", "rename", ...
    pub what: &'static str,
    pub path: &'a str,
    /// The bytes of the file that it is about, if it is about some.
    pub range: Range<u64>,
    pub(super) disk: &'a RefCell<Disk>,
}

impl Boundary<'_> {
    /// The disk as it is, before the change. Cheap: pages are shared.
    pub fn image(&self) -> DiskImage {
        DiskImage(self.disk.borrow().image())
    }
}

/// A whole disk, what is durable and what is not. It may go to another thread; copies share what is equal.
#[derive(Clone)]
pub struct DiskImage(pub(super) Image);

impl fmt::Debug for DiskImage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DiskImage({} unsynced sectors)", self.unsynced_sectors())
    }
}

/// What a power cut leaves of what is not durable.
pub enum Survivors<'a> {
    /// Everything is lost that may be.
    Nothing,
    /// Everything is there, as if the last moment before had been synced.
    Everything,
    /// Writes are lost, torn or kept by this seed; names and sizes up to some point.
    Seeded(u64),
    /// The n-th unsynced sector (they are numbered by file and then in the order of the writes) is kept if the function says so;
    /// all names and sizes are.
    Sectors(&'a mut dyn FnMut(u64) -> bool),
}

/// An empty disk.
impl Default for DiskImage {
    fn default() -> Self {
        DiskImage(Disk::new().image())
    }
}

impl DiskImage {
    fn disk<T>(&mut self, f: impl FnOnce(&mut Disk) -> T) -> T {
        let mut disk = Disk::of_image(self.0.clone());
        let result = f(&mut disk);
        self.0 = disk.image();
        result
    }

    /// Cuts the power.
    pub fn crash(&mut self, survivors: Survivors<'_>) -> FaultCounts {
        let mut counts = FaultCounts::default();
        self.disk(|disk| match survivors {
            Survivors::Nothing => disk.crash(&mut Whole(false)),
            Survivors::Everything => disk.crash(&mut Whole(true)),
            Survivors::Seeded(seed) => {
                let mut fate = SeededFate::new(seed);
                disk.crash(&mut fate);
                counts = fate.into_counts();
            }
            Survivors::Sectors(keeps) => disk.crash(&mut Chosen { keeps, next: 0 }),
        });
        counts
    }

    /// Sectors that were written and are not durable; a sector counts once for each such write.
    pub fn unsynced_sectors(&self) -> u64 {
        self.0.unsynced_sectors()
    }

    /// Whether a power cut would change nothing.
    pub fn is_durable(&self) -> bool {
        self.0.is_durable()
    }

    /// Paths of all directories, sorted, without the root.
    pub fn directories(&self) -> Vec<String> {
        Disk::of_image(self.0.clone()).all_directories()
    }

    /// All files with their bytes as written, sorted by path.
    pub fn files(&self) -> Vec<(String, Vec<u8>)> {
        let files = Disk::of_image(self.0.clone()).all_files();
        files
            .into_iter()
            .map(|(path, file)| {
                let (file, mut bytes) = (file.borrow(), Vec::new());
                file.read(0, &mut bytes, usize::MAX);
                (path, bytes)
            })
            .collect()
    }

    /// Turns round one bit of a file, at rest. Panics if there is no such byte.
    pub fn flip_bit(&mut self, path: &str, byte: u64, bit: u32) {
        self.on_file(path, |file| file.flip_bit(byte, bit));
    }

    /// Overwrites a part of a file, at rest.
    pub fn overwrite(&mut self, path: &str, position: u64, bytes: &[u8]) {
        self.on_file(path, |file| file.overwrite(position, bytes));
    }

    /// Cuts or extends a file, at rest.
    pub fn set_len(&mut self, path: &str, len: u64) {
        self.on_file(path, |file| file.resize_at_rest(len));
    }

    fn on_file(&mut self, path: &str, f: impl FnOnce(&mut super::data::FileData)) {
        self.disk(|disk| match disk.find(Path::new(path)) {
            Ok(Found::File(file)) => f(&mut file.borrow_mut()),
            _ => panic!("no file {path}"),
        });
    }
}

/// All or nothing.
struct Whole(bool);

impl Fate for Whole {
    fn kept(&mut self, changes: usize) -> usize {
        if self.0 { changes } else { 0 }
    }

    fn write(&mut self, _: u64) {}

    fn keeps_sector(&mut self) -> bool {
        self.0
    }
}

/// Sectors by their number.
struct Chosen<'a> {
    keeps: &'a mut dyn FnMut(u64) -> bool,
    next: u64,
}

impl Fate for Chosen<'_> {
    fn kept(&mut self, changes: usize) -> usize {
        changes
    }

    fn write(&mut self, _: u64) {}

    fn keeps_sector(&mut self) -> bool {
        self.next += 1;
        (self.keeps)(self.next - 1)
    }
}

/// Drawn from a seed: mostly a mixture, sometimes all or nothing.
pub(super) struct SeededFate {
    state: std::cell::Cell<u64>,
    mood: Mood,
    tear: Tear,
    /// Sectors of the write that is being decided: all, decided, kept.
    of: u64,
    decided: u64,
    kept: u64,
    counts: FaultCounts,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mood {
    Nothing,
    Everything,
    Mixed,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Tear {
    Lost,
    Kept,
    /// Up to a sector.
    Before(u64),
    /// From a sector on.
    From(u64),
    /// Each sector for itself.
    Any,
}

impl SeededFate {
    pub(super) fn new(seed: u64) -> SeededFate {
        let state = std::cell::Cell::new(random::mix(seed));
        let mood = match random::next(&state) % 6 {
            0 => Mood::Nothing,
            1 => Mood::Everything,
            _ => Mood::Mixed,
        };
        SeededFate {
            state,
            mood,
            tear: Tear::Lost,
            of: 0,
            decided: 0,
            kept: 0,
            counts: FaultCounts::default(),
        }
    }

    fn below(&self, bound: u64) -> u64 {
        random::next(&self.state) % bound
    }

    fn finish_write(&mut self) {
        if self.of > 0 {
            let fault = match self.kept {
                0 => Fault::WriteLost,
                kept if kept == self.of => Fault::WriteKept,
                _ => Fault::WriteTorn,
            };
            self.counts.count(fault, 1);
        }
        (self.of, self.decided, self.kept) = (0, 0, 0);
    }

    pub(super) fn into_counts(mut self) -> FaultCounts {
        self.finish_write();
        self.counts
    }
}

impl Fate for SeededFate {
    fn kept(&mut self, changes: usize) -> usize {
        // Names and sizes lie in a journal that has a mood of its own.
        let kept = match self.below(4) {
            0 => 0,
            1 => changes,
            _ => self.below(changes as u64 + 1) as usize,
        };
        self.counts.count(Fault::NameLost, (changes - kept) as u64);
        kept
    }

    fn write(&mut self, sectors: u64) {
        self.finish_write();
        self.of = sectors;
        self.tear = match self.mood {
            Mood::Nothing => Tear::Lost,
            Mood::Everything => Tear::Kept,
            Mood::Mixed => match self.below(8) {
                0 => Tear::Lost,
                1 => Tear::Kept,
                2 | 3 => Tear::Before(self.below(sectors + 1)),
                4 => Tear::From(self.below(sectors + 1)),
                _ => Tear::Any,
            },
        };
    }

    fn keeps_sector(&mut self) -> bool {
        let keeps = match self.tear {
            Tear::Lost => false,
            Tear::Kept => true,
            Tear::Before(sector) => self.decided < sector,
            Tear::From(sector) => self.decided >= sector,
            Tear::Any => self.below(2) == 0,
        };
        self.decided += 1;
        self.kept += u64::from(keeps);
        keeps
    }
}
