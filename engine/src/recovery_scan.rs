//! How the commit log ends: the one follower that recovery and the offline checker share, so that they cannot disagree.
//!
//! It does no I/O: it says which bytes it wants ([`LogScan::want`]), takes them ([`LogScan::supply`]) and gives the groups
//! back in order. The rules:
//!
//! 1. The checkpoint's extents are followed in order. A group is the next one if it stands where it should (file, use,
//!    position), has the next sequence, and names its predecessor's header CRC.
//! 2. An extent with an end must reach it exactly; anything broken before is damage.
//! 3. The last extent of a log that was not cleanly shut ends at the first group that is broken. Then the rest of the ring is
//!    scanned for headers of this incarnation with that or a later sequence, and the highest `durable_through` of all
//!    headers and of the checkpoint decides: if the broken group is at or below it, it was known durable once, so this is
//!    **damage**, and nobody may start from here. Above it, it is the **torn end**: nothing behind it was acknowledged, and
//!    intact groups behind it are dropped.
//! 4. A group whose check sums hold but whose content is not understood is never skipped: stop.
//! 5. A file that a `FileEnd` names existed before that record was written: if it is gone, that is damage.

use crate::layout::BLOCK;
use crate::layout::checkpoint::{CheckpointBody, LogExtent, LogPosition};
use crate::layout::entry::RecordType;
use crate::layout::group::{GroupError, GroupHeader, GroupView, parse_group, probe_header};
use crate::layout::payload::{FileEnd, PayloadError};

/// A file of the log as it is found in the directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingFile {
    pub index: u32,
    pub size_bytes: u64,
}

/// What the scan needs next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// The bytes of `file` from `position` on: at best [`GROUP_BYTES_MAX`](crate::layout::GROUP_BYTES_MAX) or more of them,
    /// fewer where the file ends.
    Group { file: u32, position: u64 },
    /// `len` bytes of `file` from `position` on, in pieces of any number of whole blocks.
    Probe { file: u32, position: u64, len: u64 },
    /// Nothing: [`LogScan::finish`].
    Done,
}

/// What came of the bytes supplied.
#[derive(Debug)]
pub enum Supplied<'a> {
    /// The next group, which begins at the first byte supplied; go on behind it.
    Group(GroupView<'a>),
    /// The group is longer than what was supplied, and the file goes on: supply more from the same position.
    More,
    /// The group is not there, or blocks were probed: ask [`LogScan::want`] again.
    Next,
}

/// Where and why the log cannot be trusted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("log file {file} at byte {position}, group {sequence}: {kind}")]
pub struct LogDamage {
    pub file: u32,
    pub position: u64,
    /// Of the group that should stand there.
    pub sequence: u64,
    pub kind: LogDamageKind,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LogDamageKind {
    #[error("{0}, but the log is known to go on to group {1}")]
    Broken(BreakReason, u64),
    #[error("{0}, but all groups up to {1} were durable")]
    BelowDurable(BreakReason, u64),
    #[error("{0}")]
    NotUnderstood(GroupError),
    #[error("the file is missing")]
    FileMissing,
    #[error("the record that names the next file: {0}")]
    FileEnd(PayloadError),
    #[error("the log does not end where the checkpoint says")]
    WrongEnd,
}

/// Why the next group is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BreakReason {
    #[error("{0}")]
    Group(#[from] GroupError),
    #[error("group {0} stands here")]
    Sequence(u64),
    #[error("the group does not follow its predecessor (chain of header check sums)")]
    Chain,
}

/// The end of a log that can be trusted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEnd {
    /// Behind the last group.
    pub end: LogPosition,
    /// Incarnation of the last extent.
    pub incarnation: u64,
    pub groups: u64,
    pub bytes: u64,
    /// The highest sequence known to have been durable.
    pub durable_through: u64,
    /// The log was cleanly shut: the checkpoint knew its end.
    pub clean: bool,
    /// What was found of groups that do not count: the torn one, and intact ones behind it.
    pub torn: Option<Torn>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Torn {
    /// Why the group at the end is none.
    pub reason: BreakReason,
    /// Its header is intact, so it was submitted.
    pub header_intact: bool,
    /// Intact headers of groups behind it.
    pub dropped: u64,
}

/// See the module's description.
#[derive(Debug)]
pub struct LogScan {
    shard: u16,
    extents: Vec<LogExtent>,
    current: usize,
    next: LogPosition,
    ring: Vec<RingFile>,
    /// What was followed in the last extent: file, from, to.
    followed: Vec<(u32, u64, u64)>,
    state: State,
    groups: u64,
    bytes: u64,
    durable_through: u64,
}

#[derive(Debug)]
enum State {
    Follow,
    Probe {
        reason: BreakReason,
        header_intact: bool,
        dropped: u64,
        ranges: Vec<(u32, u64, u64)>,
    },
    Finished(Option<Torn>),
    Failed(LogDamage),
}

/// The end of a log that need not be read, because a clean shutdown brought everything to segments.
pub fn settled_end(checkpoint: &CheckpointBody) -> Option<LogEnd> {
    let last = checkpoint.extents.last()?;
    Some(LogEnd {
        end: last.end.filter(|_| checkpoint.clean)?,
        incarnation: last.incarnation,
        groups: 0,
        bytes: 0,
        durable_through: last.durable_through,
        clean: true,
        torn: None,
    })
}

impl LogScan {
    /// Follows the log that `checkpoint` describes; `ring` are the log files that exist.
    pub fn new(shard: u16, checkpoint: &CheckpointBody, mut ring: Vec<RingFile>) -> LogScan {
        // A file that something cut may end within a block; whoever supplies whole blocks can supply none of that one.
        for file in &mut ring {
            file.size_bytes -= file.size_bytes % BLOCK as u64;
        }
        let mut scan = LogScan {
            shard,
            extents: checkpoint.extents.clone(),
            current: 0,
            next: LogPosition {
                file: 0,
                file_use: 0,
                position: 0,
                sequence: 0,
                previous_header_crc: 0,
            },
            ring,
            followed: Vec::new(),
            state: State::Finished(None),
            groups: 0,
            bytes: 0,
            durable_through: 0,
        };
        if !scan.extents.is_empty() {
            scan.state = State::Follow;
            scan.enter(0);
        }
        scan
    }

    fn enter(&mut self, extent: usize) {
        self.current = extent;
        self.next = self.extents[extent].first;
        self.durable_through = self.extents[extent].durable_through;
        self.followed.clear();
        self.arrive();
    }

    /// At a new place: is it the end of the extent, and does the file exist?
    fn arrive(&mut self) {
        if let Some(end) = self.extents[self.current].end
            && self.next.sequence >= end.sequence
        {
            if self.next != end || self.durable_through >= end.sequence {
                return self.fail(LogDamageKind::WrongEnd);
            }
            if self.current + 1 < self.extents.len() {
                return self.enter(self.current + 1);
            }
            self.state = State::Finished(None);
            return;
        }
        if !self.ring.iter().any(|file| file.index == self.next.file) {
            self.fail(LogDamageKind::FileMissing);
        }
    }

    fn fail(&mut self, kind: LogDamageKind) {
        self.state = State::Failed(LogDamage {
            file: self.next.file,
            position: self.next.position,
            sequence: self.next.sequence,
            kind,
        });
    }

    /// What to supply next.
    pub fn want(&self) -> Want {
        match &self.state {
            State::Follow => Want::Group {
                file: self.next.file,
                position: self.next.position,
            },
            State::Probe { ranges, .. } => match ranges.last() {
                Some((file, from, to)) => Want::Probe {
                    file: *file,
                    position: *from,
                    len: to - from,
                },
                None => Want::Done,
            },
            State::Finished(_) | State::Failed(_) => Want::Done,
        }
    }

    /// The extent whose groups are being given back, and the incarnation they are of.
    pub fn extent(&self) -> Option<&LogExtent> {
        self.extents.get(self.current)
    }

    /// Takes the bytes that [`LogScan::want`] asked for.
    pub fn supply<'a>(&mut self, bytes: &'a [u8]) -> Supplied<'a> {
        match &self.state {
            State::Follow => self.follow(bytes),
            State::Probe { .. } => {
                self.probe(bytes);
                Supplied::Next
            }
            State::Finished(_) | State::Failed(_) => Supplied::Next,
        }
    }

    fn follow<'a>(&mut self, bytes: &'a [u8]) -> Supplied<'a> {
        let next = self.next;
        let identity = self.extents[self.current].identity(self.shard);
        // Of a file that was cut within a block, the whole blocks count: nobody can supply more than those.
        let size = self
            .ring
            .iter()
            .find(|file| file.index == next.file)
            .map_or(0, |file| file.size_bytes / BLOCK as u64 * BLOCK as u64);
        let group = match parse_group(&identity, next.file, next.file_use, next.position, bytes) {
            Ok(group) => group,
            Err(GroupError::Short) if next.position + (bytes.len() as u64) < size => {
                return Supplied::More;
            }
            Err(error) => {
                self.broken(error.into(), bytes);
                return Supplied::Next;
            }
        };
        let header = group.header;
        if header.sequence != next.sequence {
            self.broken(BreakReason::Sequence(header.sequence), bytes);
            return Supplied::Next;
        }
        if header.previous_header_crc != next.previous_header_crc {
            self.broken(BreakReason::Chain, bytes);
            return Supplied::Next;
        }
        let file_end = group
            .records()
            .filter(|record| record.entry.kind == RecordType::FileEnd)
            .last();
        let file_end = match file_end
            .map(|record| FileEnd::parse(record.payload))
            .transpose()
        {
            Ok(file_end) => file_end,
            Err(error) => {
                self.fail(LogDamageKind::FileEnd(error));
                return Supplied::Next;
            }
        };
        self.groups += 1;
        self.bytes += u64::from(header.length);
        self.durable_through = self.durable_through.max(header.durable_through);
        let end = next.position + u64::from(header.length);
        match self.followed.last_mut() {
            Some((file, _, to)) if *file == next.file && *to == next.position => *to = end,
            _ => self.followed.push((next.file, next.position, end)),
        }
        self.next = LogPosition {
            file: file_end.map_or(next.file, |end| end.next_file),
            file_use: file_end.map_or(next.file_use, |end| end.next_file_use),
            position: if file_end.is_some() { 0 } else { end },
            sequence: next.sequence + 1,
            previous_header_crc: header.header_crc,
        };
        self.arrive();
        Supplied::Group(group)
    }

    fn broken(&mut self, reason: BreakReason, bytes: &[u8]) {
        if let BreakReason::Group(error) = reason
            && error.is_intact()
        {
            return self.fail(LogDamageKind::NotUnderstood(error));
        }
        let extent = &self.extents[self.current];
        if let Some(end) = extent.end {
            return self.fail(LogDamageKind::Broken(reason, end.sequence - 1));
        }
        if self.durable_through >= self.next.sequence {
            return self.fail(LogDamageKind::BelowDurable(reason, self.durable_through));
        }
        let header_intact = probe_header(&extent.identity(self.shard), bytes)
            .is_ok_and(|header| self.is_behind(&header));
        // Popped from the end, so the files in reverse; their order does not matter.
        let mut ranges = Vec::new();
        for file in &self.ring {
            let mut from = 0;
            let mut followed: Vec<_> = self
                .followed
                .iter()
                .filter(|(index, _, _)| *index == file.index)
                .collect();
            followed.sort_unstable();
            for (_, begin, end) in followed {
                ranges.push((file.index, from, *begin));
                from = *end;
            }
            ranges.push((file.index, from, file.size_bytes));
        }
        ranges.retain(|(_, from, to)| from < to);
        self.state = State::Probe {
            reason,
            header_intact,
            dropped: 0,
            ranges,
        };
        self.settle();
    }

    /// Whether a valid header of this incarnation is of the group that is missing or of one behind it.
    fn is_behind(&self, header: &GroupHeader) -> bool {
        header.sequence >= self.next.sequence
    }

    fn probe(&mut self, bytes: &[u8]) {
        let identity = self.extents[self.current].identity(self.shard);
        let end = self.next;
        let State::Probe {
            dropped, ranges, ..
        } = &mut self.state
        else {
            return;
        };
        let Some((file, from, to)) = ranges.last_mut() else {
            return;
        };
        for block in bytes.chunks_exact(BLOCK) {
            if *from >= *to {
                break;
            }
            if let Ok(header) = probe_header(&identity, block)
                && (header.file, header.position) == (*file, *from)
                && header.sequence >= end.sequence
            {
                self.durable_through = self.durable_through.max(header.durable_through);
                if (header.file, header.position) != (end.file, end.position) {
                    *dropped += 1;
                }
            }
            *from += BLOCK as u64;
        }
        if *from >= *to || bytes.len() < BLOCK {
            // Shorter than its size said: the file was cut meanwhile, or cannot be read there.
            ranges.pop();
        }
        self.settle();
    }

    /// Decides once everything is probed.
    fn settle(&mut self) {
        let State::Probe {
            reason,
            header_intact,
            dropped,
            ranges,
        } = &self.state
        else {
            return;
        };
        if !ranges.is_empty() {
            return;
        }
        if self.durable_through >= self.next.sequence {
            return self.fail(LogDamageKind::BelowDurable(*reason, self.durable_through));
        }
        let torn = Torn {
            reason: *reason,
            header_intact: *header_intact,
            dropped: *dropped,
        };
        self.state = State::Finished((torn.header_intact || torn.dropped > 0).then_some(torn));
    }

    /// The verdict, once [`LogScan::want`] says [`Want::Done`].
    ///
    /// # Panics
    /// If the scan is not done.
    pub fn finish(self) -> Result<LogEnd, LogDamage> {
        match self.state {
            State::Failed(damage) => Err(damage),
            State::Finished(torn) => Ok(LogEnd {
                end: self.next,
                incarnation: self
                    .extents
                    .get(self.current)
                    .map_or(0, |extent| extent.incarnation),
                groups: self.groups,
                bytes: self.bytes,
                durable_through: self.durable_through,
                clean: self
                    .extents
                    .last()
                    .is_none_or(|extent| extent.end.is_some()),
                torn,
            }),
            State::Follow | State::Probe { .. } => panic!("the log was not followed to its end"),
        }
    }

    /// The broken or missing group, once its position is known: for messages.
    pub fn position(&self) -> LogPosition {
        self.next
    }
}

#[cfg(test)]
mod tests;
