//! A shard: its checkpoint slots, its log files, its log.

use std::collections::BTreeMap;
use std::io;

use trireme_engine::PartitionId;
use trireme_engine::layout::checkpoint::{Checkpoint, CheckpointError, ENVELOPE_BYTES, LogExtent};
use trireme_engine::layout::entry::RecordType;
use trireme_engine::layout::format_file::Format;
use trireme_engine::layout::group::{GroupError, GroupView};
use trireme_engine::layout::paths::DataPath;
use trireme_engine::layout::slots::{SlotError, read_slots};
use trireme_engine::layout::{BLOCK, GROUP_BYTES_MAX};
use trireme_engine::recovery_scan::{
    BreakReason, LogDamageKind, LogScan, RingFile, Supplied, Want,
};

use crate::plan::PartitionPlan;
use crate::report::{Report, Severity};
use crate::source::{Buffer, READ_BYTES, Source};
use crate::tree::Tree;

/// What a shard says its partitions are.
#[derive(Clone, Debug, Default)]
pub struct Shard {
    pub clean: bool,
    pub partitions: BTreeMap<PartitionId, PartitionPlan>,
    /// The log was followed to an end that can be trusted; without that, no partition is complete.
    pub complete: bool,
    /// Live parts of log files: file, from, to.
    pub live: Vec<(u32, u64, u64)>,
    /// Everything up to here is in the checkpoint: a partition it does not know was deleted.
    pub known_through: u64,
    /// Each group of the log: the rest of its extent, from it on.
    pub groups: Vec<LogExtent>,
}

/// Checks slots, log files and log of a shard. `progress` is told of bytes read.
pub fn check_shard(
    source: &dyn Source,
    tree: &Tree,
    format: &Format,
    shard: u16,
    progress: &dyn Fn(u64),
    report: &mut Report,
) -> Option<Shard> {
    report.counts.shards += 1;
    let checkpoint = check_slots(source, tree, format, shard, report)?;
    let body = &checkpoint.body;
    check_log_files(source, tree, shard, &checkpoint, report);

    let partitions = body
        .partitions
        .iter()
        .map(|state| {
            (
                state.id,
                PartitionPlan::of_checkpoint(shard, body.clean, state),
            )
        })
        .collect();
    let known_through = body
        .extents
        .last()
        .map_or(0, |extent| extent.durable_through);
    let mut state = Shard {
        clean: body.clean,
        partitions,
        known_through,
        ..Shard::default()
    };
    report.counts.shards_cleanly_shut += u64::from(checkpoint.closed);
    let ring = tree
        .log_files(shard)
        .map(|(index, size_bytes)| RingFile { index, size_bytes })
        .collect();
    follow(
        source,
        shard,
        LogScan::new(shard, body, ring),
        progress,
        &mut state,
        report,
    );

    let live = state
        .live
        .iter()
        .map(|(_, from, to)| to - from)
        .sum::<u64>();
    report.counts.log_live_bytes += live;
    report.counts.log_former_bytes += tree
        .log_files(shard)
        .map(|(_, size)| size)
        .sum::<u64>()
        .saturating_sub(live);
    Some(state)
}

/// Checks both checkpoint slots; gives the newest valid checkpoint.
pub fn check_slots(
    source: &dyn Source,
    tree: &Tree,
    format: &Format,
    shard: u16,
    report: &mut Report,
) -> Option<Checkpoint> {
    let path = |slot| DataPath::Checkpoint { shard, slot };
    let mut buffers = [Buffer::default(), Buffer::default()];
    let [first, second] = &mut buffers;
    let mut files = [None, None];
    for (slot, buffer) in [(0, first), (1, second)] {
        let Some(size) = tree.size(path(slot)) else {
            continue;
        };
        match source.read(&path(slot).relative(), 0, size as usize, buffer) {
            Ok(bytes) => files[usize::from(slot)] = Some(bytes),
            Err(error) => report.unreadable(path(slot).relative(), 0, error),
        }
    }
    let slots = read_slots(shard, files);
    let len_of = |slot: u8, error: &SlotError| {
        let size = tree.size(path(slot)).unwrap_or(0);
        match error {
            SlotError::Invalid(CheckpointError::BodyCrc | CheckpointError::Content(_)) => {
                size.saturating_sub(ENVELOPE_BYTES as u64)
            }
            SlotError::Invalid(CheckpointError::Padding { .. }) => 1,
            SlotError::Invalid(CheckpointError::Short) | SlotError::Missing => 0,
            _ => ENVELOPE_BYTES as u64,
        }
    };
    // A slot that is cut off is found broken where it ends.
    let position_of = |slot: u8, error: &SlotError| match error {
        SlotError::Invalid(CheckpointError::Short) => tree.size(path(slot)).unwrap_or(0),
        SlotError::Invalid(CheckpointError::EnvelopeCrc) => 0,
        error => error.position(),
    };
    for (slot, error) in &slots.damaged {
        report.damage(
            path(*slot).relative(),
            position_of(*slot, error),
            len_of(*slot, error),
            error,
        );
    }
    if let Some((slot, error)) = &slots.torn {
        report.add(
            Severity::Torn,
            path(*slot).relative(),
            position_of(*slot, error),
            len_of(*slot, error),
            format_args!("checkpoint was being written: {error}"),
        );
    }
    let newest = slots.newest?;
    for checkpoint in [&Some(newest.clone()), &slots.older].into_iter().flatten() {
        let path = path((checkpoint.number % 2) as u8);
        let size = tree.size(path).unwrap_or(0);
        if checkpoint.directory != format.directory {
            report.damage(
                path.relative(),
                24,
                16,
                "a checkpoint of another data directory",
            );
        }
        // Behind a slot that was cut after a longer one, only a crash leaves anything.
        if checkpoint.closed && size != checkpoint.slot_len as u64 {
            report.damage(
                path.relative(),
                checkpoint.slot_len as u64,
                size - checkpoint.slot_len as u64,
                format_args!(
                    "the file is {size} bytes long instead of {}",
                    checkpoint.slot_len
                ),
            );
        }
    }
    if let Some(older) = &slots.older
        && newest.closed
        && older.body != newest.body
    {
        report.damage(
            path((older.number % 2) as u8).relative(),
            ENVELOPE_BYTES as u64,
            0,
            "not the same as the other slot, although the shard was cleanly shut",
        );
    }
    Some(newest)
}

/// Checks that the log files are there and as long as the checkpoint says.
pub fn check_log_files(
    source: &dyn Source,
    tree: &Tree,
    shard: u16,
    checkpoint: &Checkpoint,
    report: &mut Report,
) {
    let body = &checkpoint.body;
    for file in &body.files {
        let path = DataPath::Log {
            shard,
            file: file.index,
        };
        match tree.size(path) {
            None => report.damage(path.relative(), 0, 0, "missing"),
            Some(size) if size != file.size_bytes => report.damage(
                path.relative(),
                size.min(file.size_bytes),
                0,
                format_args!("{size} bytes long instead of {}", file.size_bytes),
            ),
            Some(_) => {}
        }
    }
    for (file, size) in tree.log_files(shard) {
        let path = DataPath::Log { shard, file };
        // A file that is being made is not in the checkpoint yet.
        if !body.clean || body.files.iter().any(|known| known.index == file) {
            continue;
        }
        let name = path.relative();
        match is_zero(source, &name, size) {
            Ok(true) => {
                let what =
                    "a log file that a start made which was cut short: nothing was logged yet";
                report.add(Severity::Torn, name, 0, size, what);
            }
            Ok(false) => report.damage(
                name,
                0,
                size,
                "a log file that the checkpoint does not know",
            ),
            Err(error) => report.unreadable(&name, 0, error),
        }
    }
}

fn is_zero(source: &dyn Source, name: &str, size: u64) -> io::Result<bool> {
    let mut buffer = Buffer::default();
    for position in (0..size).step_by(READ_BYTES) {
        let bytes = source.read(name, position, READ_BYTES, &mut buffer)?;
        if bytes.iter().any(|byte| *byte != 0) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Follows the log and replays it into the partitions' plans.
pub fn follow(
    source: &dyn Source,
    shard: u16,
    mut scan: LogScan,
    progress: &dyn Fn(u64),
    state: &mut Shard,
    report: &mut Report,
) {
    let mut buffer = Buffer::default();
    let mut unknown_records = 0u64;
    loop {
        match scan.want() {
            Want::Done => break,
            Want::Group { file, position } => {
                let path = DataPath::Log { shard, file }.relative();
                let bytes = match source.read(&path, position, READ_BYTES, &mut buffer) {
                    Ok(bytes) => bytes,
                    Err(error) => return report.unreadable(path, position, error),
                };
                let is_end = bytes.len() < READ_BYTES;
                let mut used = 0;
                // All groups of this piece, until the next one might not be in it whole.
                loop {
                    let here = &bytes[used..];
                    let from_here = scan.extent().map(|extent| LogExtent {
                        first: scan.position(),
                        ..*extent
                    });
                    match scan.supply(here) {
                        Supplied::Group(group) => {
                            state.groups.extend(from_here);
                            let at = position + used as u64;
                            used += group.header.length as usize;
                            progress(u64::from(group.header.length));
                            take_group(
                                shard,
                                file,
                                at,
                                &group,
                                state,
                                &mut unknown_records,
                                report,
                            );
                        }
                        Supplied::More if is_end => {
                            // The file is shorter than it was when it was listed.
                            return report.damage(
                                path,
                                position + bytes.len() as u64,
                                0,
                                "the file became shorter",
                            );
                        }
                        Supplied::More | Supplied::Next => break,
                    }
                    let next = Want::Group {
                        file,
                        position: position + used as u64,
                    };
                    if scan.want() != next || (!is_end && bytes.len() - used < GROUP_BYTES_MAX) {
                        break;
                    }
                }
            }
            Want::Probe {
                file,
                position,
                len,
            } => {
                let path = DataPath::Log { shard, file }.relative();
                let len = len.min(READ_BYTES as u64) as usize;
                let bytes = match source.read(&path, position, len, &mut buffer) {
                    Ok(bytes) => bytes,
                    Err(error) => return report.unreadable(path, position, error),
                };
                progress(bytes.len() as u64);
                scan.supply(bytes);
            }
        }
    }
    match scan.finish() {
        Ok(end) => {
            state.complete = true;
            if let Some(torn) = end.torn {
                report.add(
                    Severity::Torn,
                    DataPath::Log { shard, file: end.end.file }.relative(),
                    end.end.position,
                    0,
                    format_args!(
                        "the log ends here, before group {}: {} ({} intact groups behind it are dropped)",
                        end.end.sequence, torn.reason, torn.dropped
                    ),
                );
            } else if !end.clean {
                report.notes.push(format!(
                    "shard {shard} was not cleanly shut; its log ends whole, with group {}",
                    end.end.sequence.saturating_sub(1)
                ));
            }
        }
        Err(damage) => {
            let within = match &damage.kind {
                LogDamageKind::Broken(BreakReason::Group(error), _)
                | LogDamageKind::BelowDurable(BreakReason::Group(error), _)
                | LogDamageKind::NotUnderstood(error) => match error {
                    GroupError::BlockCrc { .. } | GroupError::Padding { .. } => {
                        error.position_in_group()
                    }
                    _ => 0,
                },
                _ => 0,
            };
            report.damage(
                DataPath::Log {
                    shard,
                    file: damage.file,
                }
                .relative(),
                damage.position + within,
                BLOCK as u64,
                format_args!(
                    "group {} at byte {}: {}",
                    damage.sequence, damage.position, damage.kind
                ),
            );
        }
    }
    if unknown_records > 0 {
        report.notes.push(format!(
            "shard {shard}: {unknown_records} log records of partitions that exist no more"
        ));
    }
}

fn take_group(
    shard: u16,
    file: u32,
    at: u64,
    group: &GroupView<'_>,
    state: &mut Shard,
    unknown_records: &mut u64,
    report: &mut Report,
) {
    report.counts.log_groups += 1;
    let end = at + u64::from(group.header.length);
    match state.live.last_mut() {
        Some((last, _, to)) if *last == file && *to == at => *to = end,
        _ => state.live.push((file, at, end)),
    }
    let clean = state.clean;
    for (index, record) in group.records().enumerate() {
        report.counts.log_records += 1;
        let entry = &record.entry;
        if !entry.kind.names_partition() {
            continue;
        }
        // What the checkpoint knew of and does not name any more was deleted.
        let is_past = group.header.sequence <= state.known_through;
        if entry.kind == RecordType::Create && !is_past {
            state
                .partitions
                .entry(entry.partition)
                .or_insert_with(|| PartitionPlan::of_create(shard, clean, entry));
        }
        let Some(plan) = state.partitions.get_mut(&entry.partition) else {
            if is_past {
                *unknown_records += 1;
            } else {
                report.damage(
                    DataPath::Log { shard, file }.relative(),
                    at + group.entry_position(index),
                    0,
                    format_args!(
                        "group {}, record {index} ({:?}): no partition {}",
                        group.header.sequence, entry.kind, entry.partition
                    ),
                );
            }
            continue;
        };
        if let Err(error) = plan.apply(group.header.sequence, &record) {
            report.damage(
                DataPath::Log { shard, file }.relative(),
                at + group.entry_position(index),
                u64::from(group.header.length),
                format_args!(
                    "group {}, record {index} ({:?} of {}): {error}",
                    group.header.sequence, entry.kind, entry.partition
                ),
            );
        }
    }
}
