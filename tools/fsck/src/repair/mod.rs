//! `repair`: what can be trusted is put together again, what cannot is set aside.
//!
//! The result is always the same kind of directory: one that was cleanly shut. So there is one way to it, whatever is broken:
//! 1. Check everything ([`crate::verify`]). A clean directory, or one with a torn end, needs nothing.
//! 2. Of each shard that has damage: read its newest valid checkpoint, if there is one, and everything of its log that is
//!    intact ([`log`], [`replay`]).
//! 3. Of each partition there: walk its segments ([`partition`], [`segment`], [`runs`]), where their bytes are broken over what
//!    the log has of them ([`overlay`]). Offsets that are gone are left out *between* segments.
//! 4. Name again what lost its name ([`names`]), and write checkpoints that say so ([`shard`]).
//! 5. All of that beside the live files; then everything changes places at once ([`workshop`]). Check again.

mod log;
mod names;
mod outcome;
mod overlay;
mod partition;
mod replay;
mod root;
mod runs;
mod segment;
mod shard;
mod workshop;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use trireme_engine::PartitionId;
use trireme_engine::layout::checkpoint::{Checkpoint, PartitionState};
use trireme_engine::layout::format_file::Format;
use trireme_engine::layout::paths::DataPath;
use trireme_replication::metadata_partition_id;

use crate::report::{Report, Severity, Verdict};
use crate::source::{Directory, Source};
use crate::tree::Tree;
use crate::verify::{Options, each, verify};
use log::{IntactLog, intact_log};
use names::Names;
pub use outcome::{Ending, GoneGroups, Outcome, SCHEMA};
pub use partition::Gone;
use replay::Salvage;
use root::{mend_root, with_format};
use segment::Place;
use workshop::Workshop;

/// A shard as it was found.
struct Found {
    checkpoints: Vec<Checkpoint>,
    log: IntactLog,
    partitions: BTreeMap<PartitionId, Salvage>,
}

/// Repairs the data directory at `root`, which the caller has locked. Errors: something cannot be read or written; then
/// nothing has changed, or running it again goes on where it stopped.
pub fn repair(root: &Path, dry_run: bool, options: &Options<'_>) -> anyhow::Result<Outcome> {
    if dry_run && workshop::is_interrupted(root) {
        anyhow::bail!("a repair was interrupted: run it without --dry-run to finish it");
    }
    let finished = workshop::finish_interrupted(root)?;
    let source = Directory::new(root);
    let tree = Tree::of(source.list()?);
    let (format, source) = with_format(&source, &tree)?;
    let report = verify(&source, options)?;
    let mut outcome = Outcome {
        schema: SCHEMA,
        ending: Ending::Sound,
        dry_run,
        finished,
        quarantine: None,
        damage: report
            .findings
            .iter()
            .filter(|finding| finding.severity != Severity::Torn)
            .cloned()
            .collect(),
        gone: Vec::new(),
        gone_groups: Vec::new(),
        remarks: Vec::new(),
        steps: Vec::new(),
        verdict: None,
    };
    if source.replaced {
        outcome
            .remarks
            .push("the format file was made anew".to_owned());
    }
    if outcome.damage.is_empty() && !source.replaced {
        outcome.verdict = Some(report.verdict());
        return Ok(outcome);
    }
    let shop = Workshop::new(root, dry_run)?;
    outcome.quarantine = Some(shop.name().to_owned());
    mend(
        &source,
        &tree,
        &format,
        &report,
        &shop,
        options,
        &mut outcome,
    )?;
    outcome.ending = if outcome.gone.is_empty() && outcome.gone_groups.is_empty() {
        Ending::Sound
    } else {
        Ending::Lost
    };
    outcome.steps = shop.notes();
    shop.keep_report(&serde_json::to_string_pretty(&outcome)?)?;
    shop.commit(&format.encode())?;
    if !dry_run {
        let after = verify(&Directory::new(root), options)?;
        outcome.verdict = Some(after.verdict());
        if !matches!(after.verdict(), Verdict::Clean | Verdict::TornTail) {
            outcome.ending = Ending::Damaged;
            let still = after.findings.iter().map(|finding| {
                format!(
                    "still: {} at byte {}: {}",
                    finding.file, finding.position, finding.what
                )
            });
            outcome.remarks.extend(still);
        }
    }
    Ok(outcome)
}

/// Finds out what has to be done, and prepares all of it.
fn mend(
    source: &dyn Source,
    tree: &Tree,
    format: &Format,
    report: &Report,
    shop: &Workshop,
    options: &Options<'_>,
    outcome: &mut Outcome,
) -> anyhow::Result<()> {
    let now_ms = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_millis() as i64);
    mend_root(source, tree, shop)?;
    let shards: Vec<u16> = (0..format.shards).collect();
    let mut found: BTreeMap<u16, Found> = BTreeMap::new();
    let parts = each(options.threads, shards.clone(), |shard| {
        gather(source, tree, format, shard, options)
    });
    for (shard, part) in shards.iter().zip(parts) {
        found.insert(*shard, part?);
    }
    let sick = sick_shards(report, &found);
    let sound_known = report.counts.unlisted_findings == 0;
    let bad: BTreeSet<(PartitionId, i64)> = bad_segments(report);
    // Where the log could not be followed, the check did not go on to the segments.
    let unfollowed: BTreeSet<u16> = report
        .findings
        .iter()
        .filter_map(|finding| match DataPath::parse(&finding.file)? {
            DataPath::Checkpoint { shard, .. } | DataPath::Log { shard, .. } => Some(shard),
            _ => None,
        })
        .collect();
    let bad_partitions: BTreeSet<PartitionId> = bad.iter().map(|(id, _)| *id).collect();

    // The metadata first: it says where partitions belong that nobody else knows.
    let names = read_names(source, tree, &found, now_ms)?;
    adopt(tree, &names, &mut found, shop);
    let topics = names.by_id();
    let mut jobs: Vec<(u16, PartitionId)> = Vec::new();
    for shard in &sick {
        let of_shard = found[shard].partitions.keys().map(|id| (*shard, *id));
        jobs.extend(of_shard);
    }
    let anew_shards: BTreeSet<u16> = report
        .findings
        .iter()
        .filter_map(|finding| {
            finding
                .file
                .strip_prefix("wal/")?
                .strip_suffix("/checkpoint")?
                .parse()
                .ok()
        })
        .collect();
    let repaired = each(options.threads, jobs.clone(), |(shard, id)| {
        let shard_found = &found[&shard];
        let salvage = &shard_found.partitions[&id];
        let place = Place {
            source,
            tree,
            shop,
            salvage,
            log_is_whole: shard_found.log.gone.is_empty() && !shard_found.checkpoints.is_empty(),
        };
        let anew = salvage.known.is_none()
            || !sound_known
            || anew_shards.contains(&shard)
            || bad_partitions.contains(&id);
        let was_checked = sound_known && !unfollowed.contains(&shard);
        let sound: BTreeSet<i64> = tree
            .segment_files(id)
            .map(|(base, _, _)| base)
            .filter(|base| was_checked && !bad.contains(&(id, *base)))
            .collect();
        partition::repair(&place, &sound, anew, now_ms, &mut |_| {})
    });
    let mut states: BTreeMap<u16, BTreeMap<PartitionId, PartitionState>> =
        sick.iter().map(|shard| (*shard, BTreeMap::new())).collect();
    let mut epoch_max = 0;
    for ((shard, id), repaired) in jobs.into_iter().zip(repaired) {
        let repaired = repaired?;
        epoch_max = epoch_max.max(repaired.epoch_max);
        outcome
            .gone
            .extend(partition::named(&repaired.gone, id, &topics));
        states.entry(shard).or_default().insert(id, repaired.state);
    }
    for (shard, found) in &found {
        let gone = found.log.gone.iter().map(|(from, to)| GoneGroups {
            shard: *shard,
            from_sequence: *from,
            to_sequence: (*to < u64::MAX).then_some(*to),
        });
        outcome.gone_groups.extend(gone);
        if found.checkpoints.is_empty() {
            outcome.remarks.push(format!(
                "shard {shard}: no checkpoint was left; deleted records may be back, and partitions of which neither a file nor a log record is left begin at offset 0 again"
            ));
        }
    }
    let known_epoch = found
        .values()
        .flat_map(|found| &found.checkpoints)
        .map(|checkpoint| checkpoint.body.node_epoch)
        .max()
        .unwrap_or(0);
    // A new leader epoch, so that clients find out what is gone.
    let node_epoch = known_epoch.max(epoch_max.max(0) as u32) + 1;
    if sick.contains(&0) {
        rename_nameless(
            shop,
            &names,
            &found,
            &mut states,
            node_epoch,
            now_ms,
            outcome,
        )?;
    }
    for (shard, partitions) in states {
        let found = &found[&shard];
        let settled = shard::Settled {
            shard,
            directory: format.directory,
            node_epoch,
            nonce: getrandom::u64()?,
            unix_ms: now_ms,
            partitions: partitions.into_values().collect(),
        };
        shard::place_checkpoints(shop, tree, &found.checkpoints, &found.log, settled)?;
    }
    Ok(())
}

fn gather(
    source: &dyn Source,
    tree: &Tree,
    format: &Format,
    shard: u16,
    options: &Options<'_>,
) -> io::Result<Found> {
    let checkpoints = shard::valid_checkpoints(source, tree, shard, Some(format.directory));
    let mut log = intact_log(source, tree, shard, &checkpoints, options.progress);
    let newest = checkpoints.first().map(|checkpoint| &checkpoint.body);
    let (partitions, next_file) = replay::replay(source, shard, newest, &log)?;
    let is_clean = newest.is_some_and(|body| body.clean);
    if let Some(file) = next_file
        && tree.size(DataPath::Log { shard, file }).is_none()
        && !is_clean
    {
        // The log went on in a file that is not there: nobody knows how far.
        let from = log.groups.last().map_or(0, |last| last.header.sequence + 1);
        log.is_broken = true;
        log.gone.retain(|(first, _)| *first < from);
        log.gone.push((from, u64::MAX));
    }
    Ok(Found {
        checkpoints,
        log,
        partitions,
    })
}

/// The shards with anything that has to be repaired.
fn sick_shards(report: &Report, found: &BTreeMap<u16, Found>) -> BTreeSet<u16> {
    let mut sick: BTreeSet<u16> = found
        .iter()
        .filter(|(_, found)| found.checkpoints.is_empty() || !found.log.gone.is_empty())
        .map(|(shard, _)| *shard)
        .collect();
    let shard_of = |id: &PartitionId| {
        found
            .iter()
            .find(|(_, found)| found.partitions.contains_key(id))
            .map(|(shard, _)| *shard)
    };
    for finding in report
        .findings
        .iter()
        .filter(|finding| finding.severity != Severity::Torn)
    {
        let path = DataPath::parse(&finding.file)
            .or_else(|| DataPath::parse(finding.file.strip_suffix("/checkpoint")?));
        sick.extend(match path {
            Some(
                DataPath::Shard(shard)
                | DataPath::Checkpoint { shard, .. }
                | DataPath::Log { shard, .. },
            ) => Some(shard),
            Some(DataPath::Partition(id) | DataPath::Segment { partition: id, .. }) => {
                shard_of(&id)
            }
            _ => None,
        });
    }
    if report.counts.unlisted_findings > 0 {
        sick.extend(found.keys());
    }
    sick.retain(|shard| found.contains_key(shard));
    sick
}

fn bad_segments(report: &Report) -> BTreeSet<(PartitionId, i64)> {
    report
        .findings
        .iter()
        .filter(|finding| finding.severity != Severity::Torn)
        .filter_map(|finding| match DataPath::parse(&finding.file)? {
            DataPath::Segment {
                partition,
                base_offset,
                ..
            } => Some((partition, base_offset)),
            _ => None,
        })
        .collect()
}

/// Reads the metadata table as far as it can be read, without changing anything.
fn read_names(
    source: &dyn Source,
    tree: &Tree,
    found: &BTreeMap<u16, Found>,
    now_ms: i64,
) -> io::Result<Names> {
    let id = metadata_partition_id();
    let orphan = Salvage::new(0, id);
    let home = found.get(&0);
    let salvage = home
        .and_then(|found| found.partitions.get(&id))
        .unwrap_or(&orphan);
    let dry = Workshop::new(Path::new(""), true)?;
    let place = Place {
        source,
        tree,
        shop: &dry,
        salvage,
        log_is_whole: home
            .is_some_and(|found| found.log.gone.is_empty() && !found.checkpoints.is_empty()),
    };
    let mut batches = Vec::new();
    partition::repair(&place, &BTreeSet::new(), true, now_ms, &mut |bytes| {
        batches.extend_from_slice(bytes);
    })?;
    Ok(Names::of(&batches))
}

/// Gives partitions that are on the disk and that no shard knows to the shard that may have forgotten them.
fn adopt(tree: &Tree, names: &Names, found: &mut BTreeMap<u16, Found>, shop: &Workshop) {
    let forgetful: Vec<u16> = found
        .iter()
        .filter(|(_, found)| found.checkpoints.is_empty())
        .map(|(shard, _)| *shard)
        .collect();
    let all_clean = found.values().all(|found| {
        found
            .checkpoints
            .first()
            .is_some_and(|newest| newest.body.clean)
    });
    for directory in &tree.directories {
        let DataPath::Partition(id) = directory else {
            continue;
        };
        let is_known = found
            .values()
            .any(|found| found.partitions.contains_key(id));
        if is_known || tree.segment_files(*id).next().is_none() {
            continue;
        }
        let home = match names.shard_of(id) {
            Some(shard) if forgetful.contains(&shard) => Some(shard),
            Some(_) => None,
            None => forgetful.first().copied(),
        };
        if let Some(shard) = home {
            let salvage = Salvage::new(shard, *id);
            let found = found.get_mut(&shard).expect("it is one of them");
            found.partitions.insert(*id, salvage);
        } else if all_clean {
            // Of a partition that was deleted; after a clean shutdown nothing of it should be here.
            shop.move_aside(&directory.relative());
        }
    }
}

/// Where the metadata lost something, gives names to what would be removed for having none.
fn rename_nameless(
    shop: &Workshop,
    names: &Names,
    found: &BTreeMap<u16, Found>,
    states: &mut BTreeMap<u16, BTreeMap<PartitionId, PartitionState>>,
    epoch: u32,
    now_ms: i64,
    outcome: &mut Outcome,
) -> io::Result<()> {
    let id = metadata_partition_id();
    let is_whole = !outcome
        .gone
        .iter()
        .any(|gone| gone.partition == id.to_string())
        && found[&0].log.gone.is_empty();
    let mut partitions: BTreeMap<PartitionId, u16> = BTreeMap::new();
    let mut producer_id_max = -1;
    for (shard, found) in found {
        for (id, salvage) in &found.partitions {
            if !salvage.deleted {
                partitions.insert(*id, *shard);
            }
        }
    }
    for state in states.values().flat_map(BTreeMap::values) {
        let ids = state.producers.iter().map(|producer| producer.producer_id);
        producer_id_max = producer_id_max.max(ids.max().unwrap_or(-1));
    }
    let has_metadata = partitions.contains_key(&id);
    if (is_whole && has_metadata) || partitions.is_empty() {
        return Ok(());
    }
    // A data directory without metadata is the bare engine's: it has no topics.
    if !has_metadata && names.topics.is_empty() && !partitions.keys().any(is_of_the_broker) {
        return Ok(());
    }
    let missing = names.missing(&partitions, producer_id_max);
    outcome.remarks.extend(missing.what.iter().cloned());
    let mine = states
        .entry(0)
        .or_default()
        .entry(id)
        .or_insert_with(|| PartitionState {
            id,
            ..PartitionState::default()
        });
    let (bytes, next_offset) = missing.batches(mine.next_offset, epoch as i32, now_ms);
    let segment = segment::place_new(shop, id, &bytes)?;
    mine.epochs.push(trireme_engine::epochs::EpochEntry {
        epoch: epoch as i32,
        start_offset: mine.next_offset,
    });
    mine.segments.push(segment);
    mine.next_offset = next_offset;
    Ok(())
}

fn is_of_the_broker(id: &PartitionId) -> bool {
    *id == trireme_replication::group_partition_id(id.index)
}
