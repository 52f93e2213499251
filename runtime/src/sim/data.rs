//! A file's bytes: what was written, what is durable, and every change that is the one and not yet the other.
//!
//! What Linux promises, and no more:
//! - A DSYNC write that has returned is durable in its own range, with the size that takes; nothing is said of others.
//! - While it is under way, and for any other write until a sync, each of its sectors may be there or not; of a sector that
//!   was written several times any version may be there.
//! - Sizes change in order, as a journal has them. Bytes that a cut has cut are zeros when the file grows again, and what was
//!   written there after a cut that is lost is lost with it.
//! - A sync that fails leaves what it should have written as it was. What lies in the page cache is written by no later one
//!   either: the kernel takes its pages for clean. (O_DIRECT has no pages; there a later sync makes good.)

use std::ops::Range;

use super::pages::{Pages, Version, sectors};

/// Number of a change of a file; the order in which they took effect.
pub(super) type Sequence = u64;

/// A change that is not durable.
#[derive(Clone)]
struct Change {
    sequence: Sequence,
    what: What,
    /// A sync that should have written it failed.
    abandoned: bool,
}

#[derive(Clone)]
enum What {
    Write {
        /// What is not durable of it.
        sectors: Vec<Range<u64>>,
        /// The sectors as this write left them.
        version: Version,
        /// Through the page cache.
        is_buffered: bool,
    },
    Size {
        from: u64,
        to: u64,
    },
}

#[derive(Clone, Default)]
pub(super) struct FileData {
    live: Pages,
    durable: Pages,
    changes: Vec<Change>,
    next: Sequence,
    /// Where misdirected writes have gone, or not gone: what a page cache has of these ranges is not what the disk has.
    hit: Vec<Range<u64>>,
    /// The open file that holds the lock.
    pub(super) locked_by: Option<u64>,
    pub(super) modified_ms: i64,
}

/// Decides what a power cut leaves of the changes that are not durable. Writes come in their order, each with its sectors.
pub(super) trait Fate {
    /// How many of so many changes of the size, or of names, it keeps: always the first ones.
    fn kept(&mut self, changes: usize) -> usize;
    /// Before the sectors of a write.
    fn write(&mut self, sectors: u64);
    /// Whether it keeps the next sector of that write.
    fn keeps_sector(&mut self) -> bool;
}

impl FileData {
    pub(super) fn len(&self) -> u64 {
        self.live.len()
    }

    /// Appends what is there at `pos` to `out`.
    pub(super) fn read(&self, pos: u64, out: &mut Vec<u8>, len: usize) {
        self.live.read(pos, out, len);
    }

    fn push(&mut self, what: What) -> Sequence {
        self.next += 1;
        self.changes.push(Change {
            sequence: self.next,
            what,
            abandoned: false,
        });
        self.next
    }

    /// A write that was meant for another place.
    pub(super) fn write_astray(&mut self, pos: u64, bytes: &[u8]) -> Sequence {
        self.mark_hit(pos, bytes.len() as u64);
        self.write(pos, bytes, false)
    }

    pub(super) fn mark_hit(&mut self, pos: u64, len: u64) {
        self.hit.push(pos..pos + len);
    }

    pub(super) fn is_hit(&self, pos: u64, len: u64) -> bool {
        let overlaps = |hit: &Range<u64>| hit.start < pos + len && pos < hit.end;
        self.hit.iter().any(overlaps)
    }

    /// Writes, not durably, through the page cache or past it.
    pub(super) fn write(&mut self, pos: u64, bytes: &[u8], is_buffered: bool) -> Sequence {
        let end = pos + bytes.len() as u64;
        if end > self.len() {
            self.set_len(end);
        }
        self.live.write(pos, bytes);
        let sectors = sectors(pos..end);
        let version = self.live.version(pos..end);
        self.push(What::Write {
            sectors: vec![sectors],
            version,
            is_buffered,
        })
    }

    pub(super) fn set_len(&mut self, len: u64) {
        let from = self.live.len();
        if len != from {
            self.live.set_len(len);
            self.push(What::Size { from, to: len });
        }
    }

    /// Makes a write durable that is [`FileData::write`]'s, with the size as far as it needs that.
    pub(super) fn make_durable(&mut self, sequence: Sequence, end: u64) {
        // A size that fell and rose again is journalled as a whole; one that only rose need not be.
        let fell = |change: &Change| {
            change.sequence <= sequence
                && matches!(change.what, What::Size { from, to } if to < from)
        };
        if self.changes.iter().any(fell) {
            self.settle_sizes(sequence);
        }
        let Some(at) = self.changes.iter().position(|c| c.sequence == sequence) else {
            return; // a sync was faster
        };
        if self.durable.len() < end {
            self.durable.set_len(end);
        }
        let What::Write {
            sectors, version, ..
        } = self.changes.remove(at).what
        else {
            unreachable!("sequences name writes")
        };
        for range in &sectors {
            self.durable.take(&version, range.clone());
        }
        for older in &mut self.changes[..at] {
            if let What::Write {
                sectors: theirs, ..
            } = &mut older.what
            {
                for range in &sectors {
                    *theirs = theirs.iter().flat_map(|t| without(t, range)).collect();
                }
            }
        }
        self.changes.retain(
            |change| !matches!(&change.what, What::Write { sectors, .. } if sectors.is_empty()),
        );
    }

    fn settle_sizes(&mut self, through: Sequence) {
        let durable = &mut self.durable;
        self.changes.retain(|change| match change.what {
            What::Size { from, to } if change.sequence <= through => {
                resize(durable, from, to);
                false
            }
            _ => true,
        });
    }

    /// What a sync that begins now has to cover.
    pub(super) fn newest(&self) -> Sequence {
        self.next
    }

    /// A sync has done its work.
    pub(super) fn synced(&mut self, through: Sequence) {
        let durable = &mut self.durable;
        self.changes.retain(|change| {
            if change.sequence > through {
                return true;
            }
            match &change.what {
                What::Size { from, to } => resize(durable, *from, *to),
                What::Write { .. } if change.abandoned => return true,
                What::Write {
                    sectors, version, ..
                } => sectors
                    .iter()
                    .for_each(|range| durable.take(version, range.clone())),
            }
            false
        });
    }

    /// A sync has failed: no later one writes what it should have written.
    pub(super) fn sync_failed(&mut self, through: Sequence) {
        for change in &mut self.changes {
            let is_buffered = matches!(
                change.what,
                What::Write {
                    is_buffered: true,
                    ..
                }
            );
            change.abandoned |= is_buffered && change.sequence <= through;
        }
    }

    pub(super) fn is_durable(&self) -> bool {
        self.changes.is_empty()
    }

    /// Sectors of writes that are not durable, one for each version.
    pub(super) fn unsynced_sectors(&self) -> u64 {
        let of = |change: &Change| match &change.what {
            What::Write { sectors, .. } => {
                sectors.iter().map(|range| range.end - range.start).sum()
            }
            What::Size { .. } => 0u64,
        };
        self.changes.iter().map(of).sum()
    }

    /// Power cut.
    pub(super) fn crash(&mut self, fate: &mut dyn Fate) {
        self.locked_by = None;
        let changes = std::mem::take(&mut self.changes);
        let sizes = changes
            .iter()
            .filter(|change| matches!(change.what, What::Size { .. }))
            .count();
        let mut sizes_left = if sizes > 0 { fate.kept(sizes) } else { 0 };
        // Sectors from here on were written into space that a lost cut did not free.
        let mut lost_from = u64::MAX;
        for change in changes {
            match change.what {
                What::Size { from, to } if sizes_left > 0 => {
                    sizes_left -= 1;
                    resize(&mut self.durable, from, to);
                }
                What::Size { from, to } if to < from => {
                    lost_from = lost_from.min(sectors(0..to).end);
                }
                What::Size { .. } => (),
                What::Write {
                    sectors, version, ..
                } => {
                    fate.write(sectors.iter().map(|range| range.end - range.start).sum());
                    for sector in sectors.into_iter().flatten() {
                        if fate.keeps_sector() && sector < lost_from {
                            self.durable.take(&version, sector..sector + 1);
                        }
                    }
                }
            }
        }
        self.live = self.durable.clone();
    }

    /// Turns a bit round, of what was written and of what is durable alike.
    pub(super) fn flip_bit(&mut self, byte: u64, bit: u32) {
        self.live.flip_bit(byte, bit);
        if byte < self.durable.len() {
            self.durable.flip_bit(byte, bit);
        }
    }

    /// Overwrites what was written and what is durable alike, within the file.
    pub(super) fn overwrite(&mut self, pos: u64, bytes: &[u8]) {
        self.live.write(pos, bytes);
        self.durable
            .set_len(self.durable.len().max(self.live.len()));
        self.durable.write(pos, bytes);
    }

    /// Cuts or extends what was written and what is durable alike.
    pub(super) fn resize_at_rest(&mut self, len: u64) {
        self.live.set_len(len);
        self.durable.set_len(len);
    }
}

/// A change of the size becomes durable. A write behind it may have made the file longer already.
fn resize(durable: &mut Pages, from: u64, to: u64) {
    if to < from || to > durable.len() {
        durable.set_len(to);
    }
}

/// What is left of `range` without `cut`.
fn without(range: &Range<u64>, cut: &Range<u64>) -> impl Iterator<Item = Range<u64>> {
    let before = range.start..range.end.min(cut.start);
    let after = range.start.max(cut.end)..range.end;
    [before, after]
        .into_iter()
        .filter(|part| part.start < part.end)
}
