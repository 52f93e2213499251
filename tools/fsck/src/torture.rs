//! Breaks a cleanly shut data directory, in memory, in every possible way, and checks that the check finds it, says in which
//! file and at which byte: every live bit flipped, every cut, every removed file.
//!
//! A whole check for each of millions of bits would take hours. The check consists of parts (see [`crate::verify`]) that depend
//! on nothing but their own bytes and what unbroken bytes elsewhere say, so a bit is judged by the part it belongs to: the format
//! file, the slots of a shard, the log from its group on (the follower's state there comes from the groups before), the block of a
//! segment, the sidecar file. What such a part finds the whole check finds too, as its report is the sum of theirs; that
//! is not only claimed: every [`WHOLE_EVERY`]th bit goes through the whole check as well, and so do all removals and cuts.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};

use trireme_engine::PartitionId;
use trireme_engine::layout::BLOCK;
use trireme_engine::layout::checkpoint::{CheckpointBody, LogExtent};
use trireme_engine::layout::format_file::Format;
use trireme_engine::layout::paths::DataPath;
use trireme_engine::recovery_scan::{LogScan, RingFile};

use crate::plan::PartitionPlan;
use crate::report::{Report, Severity, Verdict};
use crate::segment::check_part;
use crate::shard::{Shard, check_shard, check_slots, follow};
use crate::source::{Memory, Source};
use crate::tree::{Tree, check_root};
use crate::verify::{Options, each, verify};

/// One in so many flipped bits is judged by the whole check too.
pub const WHOLE_EVERY: u64 = 4001;
/// Files up to this size are cut at every byte.
const CUT_AT_EVERY_BYTE: usize = 16 * 1024;
/// Larger ones around every multiple of this.
const CUT_STEP: usize = 4096;
/// Bytes that are not live and are tried, to see that they do not matter.
const DEAD_TRIED: usize = 500;
/// Misses that are listed.
const MISSED_LISTED: usize = 50;
/// Bytes of one job.
const PIECE: usize = 2048;

/// How it went.
#[derive(Debug, Default)]
pub struct Outcome {
    pub files: usize,
    pub live_bytes: u64,
    pub flips: u64,
    pub flips_judged_whole: u64,
    pub cuts: u64,
    pub removals: u64,
    pub dead_flips: u64,
    pub missed: Vec<String>,
    pub missed_count: u64,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for missed in &self.missed {
            writeln!(f, "MISSED: {missed}")?;
        }
        writeln!(
            f,
            "{} files with {} live bytes",
            self.files, self.live_bytes
        )?;
        writeln!(
            f,
            "flipped bits tried {} ({} of them through the whole check too), cuts tried {}, removals tried {}; missed in all: {}",
            self.flips, self.flips_judged_whole, self.cuts, self.removals, self.missed_count
        )?;
        write!(
            f,
            "caught, with file and byte: {} of {}; bytes of a former use flipped without effect: {}",
            self.flips + self.cuts + self.removals
                - self
                    .missed_count
                    .min(self.flips + self.cuts + self.removals),
            self.flips + self.cuts + self.removals,
            self.dead_flips
        )
    }
}

/// What is known of the unbroken directory.
struct Known {
    tree: Tree,
    format: Format,
    shards: Vec<Shard>,
    plans: BTreeMap<PartitionId, PartitionPlan>,
}

/// Bytes of a file in which every bit is to be flipped.
#[derive(Clone, Debug)]
struct Piece {
    path: DataPath,
    from: usize,
    to: usize,
    live: bool,
}

/// Tries everything on a copy of `source`, flipping every `every`th bit. Errors: it cannot be read, or is not clean.
pub fn torture(source: &dyn Source, threads: usize, every: usize) -> anyhow::Result<Outcome> {
    let memory = Memory::copy_of(source)?;
    let report = verify(
        &memory,
        &Options {
            threads,
            ..Options::default()
        },
    )?;
    if report.verdict() != Verdict::Clean
        || report.counts.shards_cleanly_shut != report.counts.shards
    {
        anyhow::bail!("this needs a clean, cleanly shut directory:\n{report}");
    }
    let known = Known::of(&memory)?;
    let outcome = Mutex::new(Outcome {
        files: known.live_files().len(),
        ..Outcome::default()
    });
    let flips = AtomicU64::new(0);
    let whole = AtomicU64::new(0);

    // A copy of the directory for each thread, to be broken and mended.
    let copies: Vec<Mutex<Memory>> = (0..threads.max(1))
        .map(|_| Mutex::new(memory.clone()))
        .collect();
    let copy = || -> MutexGuard<'_, Memory> {
        loop {
            if let Some(free) = copies.iter().find_map(|copy| copy.try_lock().ok()) {
                return free;
            }
            std::thread::yield_now();
        }
    };
    let miss = |what: String| {
        let mut outcome = outcome.lock().expect("no panic while it is held");
        outcome.missed_count += 1;
        if outcome.missed.len() < MISSED_LISTED {
            outcome.missed.push(what);
        }
    };

    let pieces = known.pieces(&memory);
    let live_bytes = pieces
        .iter()
        .filter(|piece| piece.live)
        .map(|piece| (piece.to - piece.from) as u64)
        .sum();
    let mut dead_flips = 0;
    each(
        threads,
        pieces.iter().filter(|piece| piece.live).cloned().collect(),
        |piece| {
            let memory = &mut *copy();
            let name = piece.path.relative();
            for bit in (piece.from * 8..piece.to * 8).filter(|bit| bit % every.max(1) == 0) {
                let (byte, mask) = (bit / 8, 1u8 << (bit % 8));
                memory.files.get_mut(&name).expect("known")[byte] ^= mask;
                if !names(&known.check_part(memory, piece.path, byte), &name, byte) {
                    miss(format!("bit {} of byte {byte} of {name}", bit % 8));
                }
                if flips
                    .fetch_add(1, Ordering::Relaxed)
                    .is_multiple_of(WHOLE_EVERY)
                {
                    whole.fetch_add(1, Ordering::Relaxed);
                    match verify(
                        memory,
                        &Options {
                            threads: 1,
                            ..Options::default()
                        },
                    ) {
                        Ok(report)
                            if names(&report, &name, byte)
                                && report.verdict() == Verdict::Damaged => {}
                        _ => miss(format!(
                            "bit {} of byte {byte} of {name}, by the whole check",
                            bit % 8
                        )),
                    }
                }
                memory.files.get_mut(&name).expect("known")[byte] ^= mask;
            }
        },
    );
    let dead: Vec<&Piece> = pieces.iter().filter(|piece| !piece.live).collect();
    for piece in dead.iter().step_by(dead.len().div_ceil(DEAD_TRIED).max(1)) {
        let memory = &mut *copy();
        let name = piece.path.relative();
        memory.files.get_mut(&name).expect("known")[piece.from] ^= 1;
        dead_flips += 1;
        let report = verify(
            memory,
            &Options {
                threads: 1,
                ..Options::default()
            },
        )?;
        if report.verdict() != Verdict::Clean {
            miss(format!(
                "byte {} of {name} is not live, but: {report}",
                piece.from
            ));
        }
        memory.files.get_mut(&name).expect("known")[piece.from] ^= 1;
    }

    let cuts = AtomicU64::new(0);
    each(threads, known.live_files(), |path| {
        let memory = &mut *copy();
        let name = path.relative();
        let whole = memory.files[&name].clone();
        // From long to short, so that each is a cut of the one before.
        for len in cut_lengths(whole.len()) {
            memory.files.get_mut(&name).expect("known").truncate(len);
            cuts.fetch_add(1, Ordering::Relaxed);
            let report = known.check_cut(memory, path, len);
            if !names_cut(&report, &name, len) {
                miss(format!("{name} cut to {len} bytes"));
            }
        }
        memory.files.insert(name, whole);
    });

    let removals = AtomicU64::new(0);
    each(threads, known.live_files(), |path| {
        let memory = &mut *copy();
        let name = path.relative();
        let bytes = memory.files.remove(&name).expect("known");
        removals.fetch_add(1, Ordering::Relaxed);
        let found = verify(
            memory,
            &Options {
                threads: 1,
                ..Options::default()
            },
        )
        .is_ok_and(|report| report.verdict() == Verdict::Damaged && names_cut(&report, &name, 0));
        if !found {
            miss(format!("{name} removed"));
        }
        memory.files.insert(name, bytes);
    });

    let mut outcome = outcome.into_inner().expect("no panic while it was held");
    outcome.live_bytes = live_bytes;
    outcome.flips = flips.into_inner();
    outcome.flips_judged_whole = whole.into_inner();
    outcome.cuts = cuts.into_inner();
    outcome.removals = removals.into_inner();
    outcome.dead_flips = dead_flips;
    Ok(outcome)
}

/// Whether a damage is reported in the file, in a range that holds the byte.
fn names(report: &Report, name: &str, byte: usize) -> bool {
    report.findings.iter().any(|finding| {
        let range = finding.position..finding.position + finding.len;
        finding.severity == Severity::Damage
            && finding.file == name
            && range.contains(&(byte as u64))
    })
}

/// Whether a damage is reported in the file, at or before the cut.
fn names_cut(report: &Report, name: &str, len: usize) -> bool {
    report.findings.iter().any(|finding| {
        finding.severity == Severity::Damage
            && finding.file == name
            && finding.position <= len as u64
    })
}

fn cut_lengths(len: usize) -> Vec<usize> {
    let mut lengths: Vec<usize> = if len <= CUT_AT_EVERY_BYTE {
        (0..len).collect()
    } else {
        (0..len)
            .step_by(CUT_STEP)
            .flat_map(|at| [at.saturating_sub(1), at, at + 1])
            .chain([len - 1])
            .filter(|at| *at < len)
            .collect()
    };
    lengths.sort_unstable_by(|a, b| b.cmp(a));
    lengths.dedup();
    lengths
}

impl Known {
    fn of(memory: &Memory) -> anyhow::Result<Known> {
        let tree = Tree::of(memory.list()?);
        let mut report = Report::default();
        let format = check_root(memory, &tree, &mut report)
            .ok_or_else(|| anyhow::anyhow!("no format file"))?;
        let shards: Vec<Shard> = (0..format.shards)
            .filter_map(|shard| check_shard(memory, &tree, &format, shard, &|_| {}, &mut report))
            .collect();
        let plans = shards
            .iter()
            .flat_map(|shard| shard.partitions.clone())
            .collect();
        Ok(Known {
            tree,
            format,
            shards,
            plans,
        })
    }

    /// Not of a partition or segment that is only waiting to be removed.
    fn is_live(&self, path: &DataPath) -> bool {
        match path {
            DataPath::Segment {
                partition,
                base_offset,
                ..
            } => self.plans.get(partition).is_some_and(|plan| {
                !plan.deleted
                    && plan.segments.contains_key(base_offset)
                    && !plan.is_dead(*base_offset)
            }),
            _ => true,
        }
    }

    fn live_files(&self) -> Vec<DataPath> {
        self.tree
            .files
            .keys()
            .copied()
            .filter(|path| self.is_live(path))
            .collect()
    }

    /// All bytes of all files, in pieces; of log files only what the log is made of is live.
    fn pieces(&self, memory: &Memory) -> Vec<Piece> {
        let mut pieces = Vec::new();
        for path in self.tree.files.keys() {
            let len = memory.files[&path.relative()].len();
            let mut ranges = vec![(0, len, self.is_live(path))];
            if let DataPath::Log { shard, file } = path {
                ranges.clear();
                let mut live: Vec<_> = self.shards[usize::from(*shard)]
                    .live
                    .iter()
                    .filter(|(index, _, _)| index == file)
                    .map(|(_, from, to)| (*from as usize, *to as usize))
                    .collect();
                live.sort_unstable();
                let mut at = 0;
                for (from, to) in live {
                    ranges.extend([(at, from, false), (from, to, true)]);
                    at = to;
                }
                ranges.push((at, len, false));
            }
            for (from, to, live) in ranges {
                for begin in (from..to).step_by(PIECE) {
                    pieces.push(Piece {
                        path: *path,
                        from: begin,
                        to: (begin + PIECE).min(to),
                        live,
                    });
                }
            }
        }
        pieces
    }

    /// The part of the check that a byte belongs to.
    fn check_part(&self, memory: &Memory, path: DataPath, byte: usize) -> Report {
        let mut report = Report::default();
        match path {
            DataPath::Lock | DataPath::Format => {
                check_root(memory, &self.tree, &mut report);
            }
            DataPath::Checkpoint { shard, .. } => {
                check_slots(memory, &self.tree, &self.format, shard, &mut report);
            }
            DataPath::Log { shard, file } => {
                let groups = &self.shards[usize::from(shard)].groups;
                let group = groups
                    .iter()
                    .rfind(|group| group.first.file == file && group.first.position <= byte as u64);
                let Some(group) = group else { return report };
                let scan = self.scan_from(shard, group);
                follow(
                    memory,
                    shard,
                    scan,
                    &|_| {},
                    &mut Shard {
                        known_through: u64::MAX,
                        ..Shard::default()
                    },
                    &mut report,
                );
            }
            DataPath::Segment {
                partition,
                base_offset,
                file,
            } => {
                check_part(
                    memory,
                    &self.tree,
                    &self.plans[&partition],
                    base_offset,
                    file,
                    byte as u64,
                    &mut report,
                );
            }
            _ => {}
        }
        report
    }

    /// The scan as it arrives at a group.
    fn scan_from(&self, shard: u16, group: &LogExtent) -> LogScan {
        let body = CheckpointBody {
            incarnation: group.incarnation,
            nonce: group.nonce,
            clean: true,
            extents: vec![*group],
            ..CheckpointBody::default()
        };
        let ring = self
            .tree
            .log_files(shard)
            .map(|(index, size_bytes)| RingFile { index, size_bytes })
            .collect();
        LogScan::new(shard, &body, ring)
    }

    /// The part of the check that a file's length belongs to.
    fn check_cut(&self, memory: &Memory, path: DataPath, len: usize) -> Report {
        let mut tree = self.tree.clone();
        tree.files.insert(path, len as u64);
        let mut report = Report::default();
        match path {
            DataPath::Log { shard, .. } | DataPath::Checkpoint { shard, .. }
                if len.is_multiple_of(64 * BLOCK) =>
            {
                check_shard(memory, &tree, &self.format, shard, &|_| {}, &mut report);
            }
            DataPath::Log { shard, .. } => {
                if let Some(checkpoint) =
                    check_slots(memory, &tree, &self.format, shard, &mut report)
                {
                    crate::shard::check_log_files(memory, &tree, shard, &checkpoint, &mut report);
                }
            }
            DataPath::Segment {
                partition,
                base_offset,
                file,
            } => {
                check_part(
                    memory,
                    &tree,
                    &self.plans[&partition],
                    base_offset,
                    file,
                    0,
                    &mut report,
                );
            }
            _ => {
                return Known {
                    tree,
                    format: self.format,
                    shards: Vec::new(),
                    plans: BTreeMap::new(),
                }
                .check_part(memory, path, 0);
            }
        }
        report
    }
}
