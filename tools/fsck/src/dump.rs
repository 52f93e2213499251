//! Shows what is in files, for people.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use trireme_engine::PartitionId;
use trireme_engine::batch::{BatchError, Limits, RawBatch, validate};
use trireme_engine::layout::BLOCK;
use trireme_engine::layout::checkpoint::{
    Checkpoint, IndexEntry, TimeIndexEntry, parse_checkpoint,
};
use trireme_engine::layout::entry::RecordType;
use trireme_engine::layout::format_file::Format;
use trireme_engine::layout::group::{GroupView, LogIdentity, parse_group, probe_header};
use trireme_engine::layout::paths::{DataPath, SegmentFile};
use trireme_engine::layout::payload::{Direct, FileEnd, parse_producers};
use trireme_engine::layout::sidecar::{SidecarEntry, SumEntry, parse_block};
use trireme_engine::layout::slots::read_slots;
use trireme_engine::records::{RecordLimits, Records};

/// Bytes of a key or value that are shown.
const SHOWN_MAX: usize = 100;

/// What is to be shown beside the default.
#[derive(Clone, Copy, Debug, Default)]
pub struct What {
    pub records: bool,
    pub groups: bool,
    pub checkpoint: bool,
}

/// Shows a data directory or a file of one. False if something in it was broken.
pub fn dump(path: &Path, what: &What, out: &mut dyn Write) -> anyhow::Result<bool> {
    if path.is_dir() {
        dump_directory(path, what, out)
    } else {
        dump_file(path, what, out)
    }
}

fn dump_directory(root: &Path, what: &What, out: &mut dyn Write) -> anyhow::Result<bool> {
    let mut whole = true;
    let mut paths = Vec::new();
    collect(root, &mut paths)?;
    paths.sort();
    let only_some = what.groups || what.checkpoint;
    for path in paths {
        let relative = relative_to(root, &path);
        let wanted = match DataPath::parse(&relative) {
            Some(DataPath::Log { .. }) => what.groups,
            Some(DataPath::Checkpoint { .. }) => what.checkpoint,
            Some(DataPath::Segment {
                file: SegmentFile::Log,
                ..
            }) => what.records || !only_some,
            _ => false,
        };
        if wanted {
            whole &= dump_file(&path, what, out)?;
        }
    }
    Ok(whole)
}

fn collect(path: &Path, paths: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in std::fs::read_dir(path)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, paths)?
        } else {
            paths.push(path)
        }
    }
    Ok(())
}

fn relative_to(root: &Path, path: &Path) -> String {
    path.strip_prefix(root)
        .unwrap_or(path)
        .to_string_lossy()
        .into_owned()
}

/// The data directory that a file is in, and what it is there.
fn place(path: &Path) -> anyhow::Result<(PathBuf, DataPath)> {
    let path = path
        .canonicalize()
        .with_context(|| path.display().to_string())?;
    for root in path.ancestors().skip(1) {
        if let Some(place) = DataPath::parse(&relative_to(root, &path)) {
            return Ok((root.to_owned(), place));
        }
    }
    anyhow::bail!(
        "{}: not a file of a data directory, by its name",
        path.display()
    )
}

fn dump_file(path: &Path, what: &What, out: &mut dyn Write) -> anyhow::Result<bool> {
    let (root, place) = place(path)?;
    let bytes = std::fs::read(path).with_context(|| path.display().to_string())?;
    writeln!(out, "# {}", place.relative())?;
    match place {
        DataPath::Format => match Format::parse(&bytes) {
            Ok(format) => writeln!(out, "{format:?}")?,
            Err(error) => return broken(out, 0, &error),
        },
        DataPath::Checkpoint { shard, slot } => match parse_checkpoint(shard, slot, &bytes) {
            Ok(checkpoint) => dump_checkpoint(&checkpoint, out)?,
            Err(error) => return broken(out, error.position(), &error),
        },
        DataPath::Log { shard, file } => return dump_log(&root, shard, file, &bytes, out),
        DataPath::Segment {
            file: SegmentFile::Log,
            ..
        } => return dump_batches(&bytes, what.records, out),
        DataPath::Segment {
            partition,
            base_offset,
            file,
        } => {
            return match file {
                SegmentFile::Sum => dump_sidecar::<SumEntry>(partition, base_offset, &bytes, out),
                SegmentFile::Index => {
                    dump_sidecar::<IndexEntry>(partition, base_offset, &bytes, out)
                }
                _ => dump_sidecar::<TimeIndexEntry>(partition, base_offset, &bytes, out),
            };
        }
        _ => {}
    }
    Ok(true)
}

fn broken(
    out: &mut dyn Write,
    position: u64,
    error: &dyn std::fmt::Display,
) -> anyhow::Result<bool> {
    writeln!(out, "BROKEN at byte {position}: {error}")?;
    Ok(false)
}

fn dump_checkpoint(checkpoint: &Checkpoint, out: &mut dyn Write) -> io::Result<()> {
    let body = &checkpoint.body;
    writeln!(
        out,
        "checkpoint {} closed {} clean {} incarnation {} node epoch {} written {} ms",
        checkpoint.number,
        checkpoint.closed,
        body.clean,
        body.incarnation,
        body.node_epoch,
        body.unix_ms
    )?;
    for extent in &body.extents {
        writeln!(out, "extent {extent:?}")?;
    }
    for file in &body.files {
        writeln!(
            out,
            "log file {:03} use {} of {} bytes",
            file.index, file.file_use, file.size_bytes
        )?;
    }
    for partition in &body.partitions {
        writeln!(
            out,
            "partition {} offsets {}..{} created in epoch {} replay from {}{}",
            partition.id,
            partition.log_start,
            partition.next_offset,
            partition.created_epoch,
            partition.replay_from_sequence,
            if partition.deleting { " deleting" } else { "" },
        )?;
        for segment in &partition.segments {
            writeln!(
                out,
                "  segment {} to {}: {} of {} bytes flushed{}, sums {}+{}, index {}+{}, time index {}+{}, max timestamp {} at {}",
                segment.base_offset,
                segment.end_offset,
                segment.flushed_bytes,
                segment.length_bytes,
                if segment.sealed { ", sealed" } else { "" },
                segment.sums_in_file,
                segment.pending_sums.len(),
                segment.index_in_file,
                segment.pending_index.len(),
                segment.time_index_in_file,
                segment.pending_time_index.len(),
                segment.max_timestamp,
                segment.max_timestamp_offset,
            )?;
        }
        for epoch in &partition.epochs {
            writeln!(
                out,
                "  epoch {} from offset {}",
                epoch.epoch, epoch.start_offset
            )?;
        }
        for producer in &partition.producers {
            writeln!(
                out,
                "  producer {} epoch {} last seen {} ms",
                producer.producer_id, producer.epoch, producer.last_seen_ms
            )?;
            for batch in &producer.batches {
                writeln!(
                    out,
                    "    sequences {}..={} offsets {}..={} timestamp {}",
                    batch.first_sequence,
                    batch.last_sequence,
                    batch.base_offset,
                    batch.last_offset(),
                    batch.timestamp_ms
                )?;
            }
        }
    }
    Ok(())
}

/// All groups of the incarnations that the checkpoints know, in the order they lie in the file: of former uses too.
fn dump_log(
    root: &Path,
    shard: u16,
    file: u32,
    bytes: &[u8],
    out: &mut dyn Write,
) -> anyhow::Result<bool> {
    let slot = |slot| std::fs::read(DataPath::Checkpoint { shard, slot }.below(root)).ok();
    let files = [slot(0), slot(1)];
    let slots = read_slots(shard, [files[0].as_deref(), files[1].as_deref()]);
    let mut identities: Vec<LogIdentity> = Vec::new();
    for checkpoint in [&slots.newest, &slots.older].into_iter().flatten() {
        for extent in &checkpoint.body.extents {
            if !identities.contains(&extent.identity(shard)) {
                identities.push(extent.identity(shard));
            }
        }
    }
    if identities.is_empty() {
        anyhow::bail!(
            "{}: without a checkpoint nothing in a log can be told from noise",
            root.display()
        );
    }
    let mut whole = true;
    let mut position = 0;
    while position + BLOCK <= bytes.len() {
        let here = &bytes[position..];
        let found = identities.iter().find_map(|identity| {
            probe_header(identity, here)
                .ok()
                .map(|header| (identity, header))
        });
        let Some((identity, header)) = found else {
            position += BLOCK;
            continue;
        };
        match parse_group(identity, file, header.file_use, position as u64, here) {
            Ok(group) => dump_group(identity, position, &group, out)?,
            Err(error) => {
                whole &= broken(out, position as u64 + error.position_in_group(), &error)?
            }
        }
        position += header.length as usize;
    }
    Ok(whole)
}

fn dump_group(
    identity: &LogIdentity,
    position: usize,
    group: &GroupView<'_>,
    out: &mut dyn Write,
) -> anyhow::Result<()> {
    let header = &group.header;
    writeln!(
        out,
        "group {} at {position}: incarnation {} use {} length {} records {} durable through {} written {} ms crc {:08x} after {:08x}",
        header.sequence,
        identity.incarnation,
        header.file_use,
        header.length,
        header.record_count,
        header.durable_through,
        header.unix_ms,
        header.header_crc,
        header.previous_header_crc,
    )?;
    for record in group.records() {
        let entry = &record.entry;
        write!(out, "  {:?}", entry.kind)?;
        if entry.kind.names_partition() {
            write!(
                out,
                " {} offsets {}..={} segment {} bytes {}+{} epoch {} batches {} records {}",
                entry.partition,
                entry.base_offset,
                entry.last_offset,
                entry.segment_base,
                entry.position,
                entry.len,
                entry.leader_epoch,
                entry.batch_count,
                entry.record_count,
            )?;
        }
        match entry.kind {
            RecordType::FileEnd => write!(out, " {:?}", FileEnd::parse(record.payload)?)?,
            RecordType::Direct => {
                let direct = Direct::parse(record.payload, entry.position, entry.len)?;
                write!(out, " {:?}", direct.split)?;
            }
            RecordType::ProducerSnapshot => {
                write!(out, " {} producers", parse_producers(record.payload)?.len())?
            }
            _ => {}
        }
        writeln!(out)?;
    }
    Ok(())
}

fn dump_batches(bytes: &[u8], records: bool, out: &mut dyn Write) -> anyhow::Result<bool> {
    let mut whole = true;
    let mut position = 0;
    while position < bytes.len() {
        let batch = match RawBatch::first(&bytes[position..]) {
            Ok(batch) => batch,
            // What was allocated ahead.
            Err(BatchError::Magic(0) | BatchError::Truncated { .. })
                if bytes[position..].iter().all(|byte| *byte == 0) =>
            {
                writeln!(
                    out,
                    "{} bytes of zeros from byte {position} on",
                    bytes.len() - position
                )?;
                return Ok(whole);
            }
            Err(error) => return broken(out, position as u64, &error),
        };
        let header = batch.header();
        writeln!(
            out,
            "batch at {position}: offsets {}..={} records {} bytes {} codec {} timestamps {}..={}{} epoch {} producer {} epoch {} sequence {} crc {:08x}{}{}",
            header.base_offset(),
            header.last_offset(),
            header.records_count(),
            batch.bytes().len(),
            header
                .codec()
                .map_or("unknown".to_owned(), |codec| format!("{codec:?}")
                    .to_lowercase()),
            header.base_timestamp(),
            header.max_timestamp(),
            if header.timestamp_type() == trireme_engine::batch::TimestampType::LogAppendTime {
                " (append time)"
            } else {
                ""
            },
            header.leader_epoch(),
            header.producer_id(),
            header.producer_epoch(),
            header.base_sequence(),
            header.crc(),
            if header.is_transactional() {
                " transactional"
            } else {
                ""
            },
            if header.is_control() { " control" } else { "" },
        )?;
        if let Err(error) = validate(batch.bytes(), &Limits::log(usize::MAX)) {
            whole &= broken(out, position as u64, &error)?;
        } else if records {
            whole &= dump_records(batch.bytes(), position, out)?;
        }
        position += batch.bytes().len();
    }
    Ok(whole)
}

fn dump_records(batch: &[u8], position: usize, out: &mut dyn Write) -> anyhow::Result<bool> {
    let records = match Records::open(batch, &RecordLimits::default()) {
        Ok(records) => records,
        Err(error) => return broken(out, position as u64, &error),
    };
    for record in &records {
        let record = match record {
            Ok(record) => record,
            Err(error) => return broken(out, position as u64, &error),
        };
        write!(
            out,
            "  {} time {} key {} value {}",
            record.offset,
            record.timestamp_ms,
            show(record.key),
            show(record.value)
        )?;
        for (name, value) in record.headers.clone() {
            write!(out, " {}={}", show(Some(name)), show(value))?;
        }
        writeln!(out)?;
    }
    Ok(true)
}

/// Bytes as text where they are text, with their length where not all are shown.
fn show(bytes: Option<&[u8]>) -> String {
    match bytes {
        None => "null".to_owned(),
        Some(bytes) if bytes.len() > SHOWN_MAX => format!(
            "\"{}\"… ({} bytes)",
            bytes[..SHOWN_MAX].escape_ascii(),
            bytes.len()
        ),
        Some(bytes) => format!("\"{}\"", bytes.escape_ascii()),
    }
}

fn dump_sidecar<E: SidecarEntry + std::fmt::Debug>(
    partition: PartitionId,
    base_offset: i64,
    bytes: &[u8],
    out: &mut dyn Write,
) -> anyhow::Result<bool> {
    for (block, bytes) in bytes.chunks(BLOCK).enumerate() {
        let mut entries: Vec<E> = Vec::new();
        if let Err(error) = parse_block(partition, base_offset, block as u32, bytes, &mut entries) {
            return broken(out, (block * BLOCK) as u64, &error);
        }
        for (index, entry) in entries.iter().enumerate() {
            writeln!(out, "{} {entry:?}", block * E::PER_BLOCK + index)?;
        }
    }
    Ok(true)
}
