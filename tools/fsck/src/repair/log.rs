//! The commit log of a shard, group by group, as far as anything of it is intact: what a repair reads where recovery stops.
//!
//! Recovery follows the log from one group to the next and must stop where one is missing. A repair looks at every block, so
//! that what lies behind a broken group counts too. Without a checkpoint nobody knows the nonce that seeds the check sums; it
//! is then found from the groups themselves ([`identity_of`]), and what most bytes of an incarnation agree on is taken.

use std::collections::BTreeMap;

use trireme_engine::layout::checkpoint::{Checkpoint, CheckpointBody, LogExtent};
use trireme_engine::layout::group::{GroupHeader, LogIdentity, identity_of, parse_group};
use trireme_engine::layout::paths::DataPath;
use trireme_engine::layout::{BLOCK, GROUP_BYTES_MAX};

use crate::source::{Buffer, READ_BYTES, Source};
use crate::tree::Tree;

/// An intact group and where it stands.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    pub identity: LogIdentity,
    pub header: GroupHeader,
}

/// What is intact of a shard's log.
#[derive(Clone, Debug, Default)]
pub struct IntactLog {
    /// In the order in which they were written.
    pub groups: Vec<Place>,
    /// Sequences of groups that were durable, may hold what nothing else does, and are gone: first and last.
    pub gone: Vec<(u64, u64)>,
    /// Any group is gone.
    pub is_broken: bool,
    /// The highest sequence and incarnation met anywhere.
    pub sequence_max: u64,
    pub incarnation_max: u64,
    /// Number of the present use of each file.
    pub uses: BTreeMap<u32, u32>,
}

/// Looks for groups in all log files of `shard`. `checkpoints` are its valid ones, the newest first.
pub fn intact_log(
    source: &dyn Source,
    tree: &Tree,
    shard: u16,
    checkpoints: &[Checkpoint],
    progress: &dyn Fn(u64),
) -> IntactLog {
    let known: Vec<LogIdentity> = checkpoints
        .iter()
        .flat_map(|checkpoint| &checkpoint.body.extents)
        .map(|extent| extent.identity(shard))
        .collect();
    let mut found = Vec::new();
    for (file, size) in tree.log_files(shard) {
        for (from, to) in pieces(size) {
            scan(source, shard, file, (from, to, size), &known, &mut found);
            progress(to - from);
        }
    }
    if known.is_empty() {
        agree(&mut found);
    }
    let mut log = IntactLog::default();
    for checkpoint in checkpoints {
        let body = &checkpoint.body;
        log.incarnation_max = log.incarnation_max.max(body.incarnation);
        for extent in &body.extents {
            log.sequence_max = log
                .sequence_max
                .max(extent.durable_through)
                .max(extent.end.map_or(0, |end| end.sequence));
        }
        for file in &body.files {
            let known = log.uses.entry(file.index).or_default();
            *known = (*known).max(file.file_use);
        }
    }
    keep_present_uses(&mut found, &mut log);
    let extents = checkpoints
        .first()
        .map_or(&[][..], |newest| &newest.body.extents);
    if !extents.is_empty() {
        found.retain(|place| {
            extents.iter().any(|extent| {
                extent.incarnation == place.identity.incarnation
                    && place.header.sequence >= extent.first.sequence
            })
        });
    }
    in_order(found, extents, &mut log);
    log.is_broken = !log.gone.is_empty();
    if let Some(newest) = checkpoints.first() {
        let needed = first_needed(&newest.body);
        log.gone.retain(|(_, last)| *last >= needed);
    }
    log
}

/// The first group that may hold what is neither in the segments nor in the checkpoint.
fn first_needed(body: &CheckpointBody) -> u64 {
    if body.clean {
        return u64::MAX;
    }
    let known_through = body.extents.last().map_or(0, |last| last.durable_through);
    let replayed = body
        .partitions
        .iter()
        .map(|state| state.replay_from_sequence);
    replayed.min().unwrap_or(u64::MAX).min(known_through + 1)
}

/// Pieces to be read: the last group of one may reach into the next.
fn pieces(size: u64) -> impl Iterator<Item = (u64, u64)> {
    (0..size)
        .step_by(READ_BYTES)
        .map(move |from| (from, (from + READ_BYTES as u64).min(size)))
}

fn scan(
    source: &dyn Source,
    shard: u16,
    file: u32,
    (from, to, size): (u64, u64, u64),
    known: &[LogIdentity],
    found: &mut Vec<Place>,
) {
    let mut buffer = Buffer::default();
    let path = DataPath::Log { shard, file }.relative();
    let len = (to - from + GROUP_BYTES_MAX as u64).min(size - from) as usize;
    let mut patched = Vec::new();
    let bytes = match source.read(&path, from, len, &mut buffer) {
        Ok(bytes) => bytes,
        Err(_) => {
            // A block that cannot be read is gone like one that is broken; the others are not.
            for at in (from..from + len as u64).step_by(BLOCK) {
                match source.read(&path, at, BLOCK, &mut buffer) {
                    Ok(block) => patched.extend_from_slice(block),
                    Err(_) => patched.resize(patched.len() + BLOCK, 0),
                }
            }
            &patched
        }
    };
    // A group that began in the piece before covers the beginning of this one.
    let mut at = found
        .last()
        .filter(|last| last.header.file == file)
        .map_or(0, |last| {
            (last.header.position + u64::from(last.header.length)).saturating_sub(from) as usize
        });
    while at < (to - from) as usize && at + BLOCK <= bytes.len() {
        let here = &bytes[at..];
        let position = from + at as u64;
        let identities = if known.is_empty() {
            identity_of(file, position, here)
                .filter(|identity| identity.shard == shard)
                .into_iter()
                .collect()
        } else {
            known.to_vec()
        };
        let group = identities.iter().find_map(|identity| {
            let file_use = trireme_engine::layout::group::probe_header(identity, here)
                .ok()?
                .file_use;
            let group = parse_group(identity, file, file_use, position, here).ok()?;
            Some(Place {
                identity: *identity,
                header: group.header,
            })
        });
        at += group.map_or(BLOCK, |place| place.header.length as usize);
        found.extend(group);
    }
}

/// Without a checkpoint: of each incarnation, keeps the groups with the nonce that most of its bytes have. A payload can be
/// made to look like a group, but it lies inside of a real one.
fn agree(found: &mut Vec<Place>) {
    let mut bytes: BTreeMap<(u64, u64), u64> = BTreeMap::new();
    for place in found.iter() {
        let identity = &place.identity;
        *bytes
            .entry((identity.incarnation, identity.nonce))
            .or_default() += u64::from(place.header.length);
    }
    let mut best: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
    for ((incarnation, nonce), bytes) in bytes {
        let best = best.entry(incarnation).or_default();
        *best = (*best).max((bytes, nonce));
    }
    found.retain(|place| best[&place.identity.incarnation].1 == place.identity.nonce);
}

/// Drops what files hold of their former uses.
fn keep_present_uses(found: &mut Vec<Place>, log: &mut IntactLog) {
    let mut present: BTreeMap<u32, (u64, u32)> = BTreeMap::new();
    for place in found.iter() {
        let present = present.entry(place.header.file).or_default();
        *present = (*present).max((place.identity.incarnation, place.header.file_use));
        log.sequence_max = log.sequence_max.max(place.header.sequence);
        log.incarnation_max = log.incarnation_max.max(place.identity.incarnation);
    }
    found.retain(|place| {
        present[&place.header.file] == (place.identity.incarnation, place.header.file_use)
    });
    for (file, (_, file_use)) in present {
        let known = log.uses.entry(file).or_default();
        *known = (*known).max(file_use);
    }
}

/// Sorts the groups, drops those beyond the end of their incarnation, and notes what is missing between them.
fn in_order(mut found: Vec<Place>, extents: &[LogExtent], log: &mut IntactLog) {
    found.sort_by_key(|place| (place.identity.incarnation, place.header.sequence));
    let incarnations: Vec<u64> = {
        let mut all: Vec<u64> = found
            .iter()
            .map(|place| place.identity.incarnation)
            .chain(extents.iter().map(|extent| extent.incarnation))
            .collect();
        all.sort_unstable();
        all.dedup();
        all
    };
    for (index, incarnation) in incarnations.iter().enumerate() {
        let extent = extents
            .iter()
            .find(|extent| extent.incarnation == *incarnation);
        let mine = |place: &&Place| place.identity.incarnation == *incarnation;
        // A later incarnation goes on where this one was found to end.
        let later = found
            .iter()
            .filter(|place| place.identity.incarnation > *incarnation)
            .map(|place| place.header.sequence)
            .min();
        let end = extent
            .and_then(|extent| extent.end)
            .map(|end| end.sequence)
            .or(later);
        let is_last = index + 1 == incarnations.len();
        let durable_through = found
            .iter()
            .filter(mine)
            .map(|place| place.header.durable_through)
            .chain(extent.map(|extent| extent.durable_through))
            .max()
            .unwrap_or(0);
        let mut expected = extent.map(|extent| extent.first.sequence);
        for place in found.iter().filter(mine) {
            let sequence = place.header.sequence;
            if end.is_some_and(|end| sequence >= end) {
                break;
            }
            let from = expected.unwrap_or(sequence);
            if sequence > from {
                if is_last && end.is_none() && from > durable_through {
                    // The torn end: nothing from here on was acknowledged.
                    break;
                }
                log.gone.push((from, sequence - 1));
            }
            if sequence >= from {
                log.groups.push(*place);
                expected = Some(sequence + 1);
            }
        }
        let through = end.map_or(durable_through, |end| end.saturating_sub(1));
        if let Some(expected) = expected.filter(|expected| *expected <= through) {
            log.gone.push((expected, through));
        }
    }
}
