//! The log cut at every 512 bytes of its last 64 KiB: what stands before the cut is there, of what it goes through nothing.

use trireme_engine::layout::format_file::Format;
use trireme_fsck::shard::check_shard;
use trireme_fsck::tree::{Tree, check_root};
use trireme_fsck::{Report, Source};
use trireme_runtime::sim::{DiskImage, Survivors};

use crate::cases::*;
use crate::knowledge::{Event, Knowledge};
use crate::trace::Trace;

const CUT_BYTES: u64 = 64 << 10;
const STEP: u64 = 512;
/// Lives whose logs are cut, every day; those with the longest logs.
const LIVES_EVERY_DAY: usize = 2;

/// A group of the log, where it stands and what was known before it was written.
#[derive(Clone, Debug)]
struct Group {
    file: u32,
    from: u64,
    to: u64,
    events: usize,
}

/// What stands behind the cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Behind {
    Zeros,
    Noise,
    /// The file ends there.
    Nothing,
}

struct Case<'a> {
    life: usize,
    disk: &'a DiskImage,
    groups: &'a [Group],
    /// The group that the cut goes through or stands before.
    group: usize,
    position: u64,
    behind: Behind,
    all_events: usize,
}

pub fn log_path(file: u32) -> String {
    use trireme_engine::layout::paths::DataPath;
    format!("/data/{}", DataPath::Log { shard: 0, file }.relative())
}

/// The log as the checker follows it.
fn groups(disk: &DiskImage) -> Vec<Group> {
    let memory = data_dir(disk);
    let tree = Tree::of(memory.list().expect("memory"));
    let mut report = Report::default();
    let format: Format = check_root(&memory, &tree, &mut report).expect("a format file");
    let shard = check_shard(&memory, &tree, &format, 0, &|_| {}, &mut report).expect("a shard");
    let mut groups: Vec<Group> = Vec::new();
    for extent in &shard.groups {
        let (file, from) = (extent.first.file, extent.first.position);
        if let Some(last) = groups.last_mut()
            && last.file == file
        {
            last.to = from;
        }
        let of_file = shard.live.iter().filter(|live| live.0 == file);
        let to = of_file.map(|live| live.2).filter(|to| *to > from).max();
        groups.push(Group {
            file,
            from,
            to: to.unwrap_or(from),
            events: 0,
        });
    }
    groups
}

/// What was acknowledged before the group was written, and all that was ever asked for.
fn knowledge(trace: &Trace, events: usize, all: usize) -> Knowledge {
    let mut knowledge = trace.knowledge(events);
    for event in &trace.events[events..all] {
        let is_question = matches!(
            event,
            Event::CreateAsked(_)
                | Event::DeleteAsked(_)
                | Event::Sent(_)
                | Event::LogStartAsked(..)
        );
        if is_question {
            knowledge.apply(event);
        }
    }
    knowledge
}

pub fn test(trace: &Trace) -> Tally {
    let mut lives: Vec<_> = (0..trace.lives.len())
        .map(|life| {
            let mut backwards = trace.points.iter().rev();
            let last = backwards.find(|point| point.life == life);
            let last = last.expect("a life writes");
            let mut disk = last.disk.clone();
            disk.crash(Survivors::Everything);
            let mut groups = groups(&disk);
            for group in &mut groups {
                let path = log_path(group.file);
                let mut written = trace.points.iter().rev().filter(|point| {
                    point.what == "write" && point.path == path && point.range.start == group.from
                });
                group.events = written
                    .find(|point| point.life <= life)
                    .map_or(0, |p| p.events);
            }
            (life, disk, groups, last.events)
        })
        .collect();
    let log_bytes = |groups: &[Group]| {
        groups
            .iter()
            .map(|group| group.to - group.from)
            .sum::<u64>()
    };
    lives.sort_by_key(|(life, _, groups, _)| (u64::MAX - log_bytes(groups).min(CUT_BYTES), *life));
    if percent(0.0) < 100.0 {
        lives.truncate(LIVES_EVERY_DAY);
    }
    let mut cases = Vec::new();
    let mut cuts = 0;
    for (life, disk, groups, events) in &lives {
        let mut left = CUT_BYTES;
        for (number, group) in groups.iter().enumerate().rev() {
            let mut position = group.to;
            while position > group.from && left > 0 {
                position -= STEP;
                left -= STEP;
                cuts += 1;
                for behind in [Behind::Zeros, Behind::Noise, Behind::Nothing] {
                    cases.push(Case {
                        life: *life,
                        disk,
                        groups,
                        group: number,
                        position,
                        behind,
                        all_events: *events,
                    });
                }
            }
        }
    }
    println!("cuts: {cuts} places in the logs of {} lives", lives.len());
    try_all(
        "cuts",
        &cases,
        || None,
        |case| {
            format!(
                "life {} cut at {} of log file {}, {:?} behind it",
                case.life, case.position, case.groups[case.group].file, case.behind
            )
        },
        |last: &mut Option<((usize, usize), Knowledge)>, case| {
            let cut = &case.groups[case.group];
            let mut disk = case.disk.clone();
            for group in &case.groups[case.group..] {
                let from = match group.from == cut.from && group.file == cut.file {
                    true => case.position,
                    false => group.from,
                };
                let len = (group.to - from) as usize;
                let bytes: Vec<u8> = match case.behind {
                    Behind::Noise => (0..len)
                        .map(|at| (at as u32).wrapping_mul(0x9E37_79B1).to_be_bytes()[0])
                        .collect(),
                    Behind::Zeros | Behind::Nothing => vec![0; len],
                };
                disk.overwrite(&log_path(group.file), from, &bytes);
            }
            if case.behind == Behind::Nothing {
                disk.set_len(&log_path(cut.file), case.position);
            }
            let key = (case.life, case.group);
            if last.as_ref().is_none_or(|(known, _)| *known != key) {
                *last = Some((key, knowledge(trace, cut.events, case.all_events)));
            }
            let (_, knowledge) = last.as_ref().expect("just made");
            recover(disk, knowledge, case.position, Depth::Read)
        },
    )
}
