//! The whole check: root, shards, segments, partitions, leftovers. Its parts are independent of each other given what they
//! are handed, so all cores work on them, and what one part finds stands whatever the others say.

use std::collections::BTreeMap;
use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use trireme_engine::PartitionId;
use trireme_engine::layout::checkpoint::parse_checkpoint;
use trireme_engine::layout::format_file::Format;
use trireme_engine::layout::paths::DataPath;

use crate::partition::{check_partition, segments_to_check};
use crate::plan::PartitionPlan;
use crate::report::{Report, Severity};
use crate::segment::{SegmentSummary, check_segment};
use crate::shard::{Shard, check_shard};
use crate::source::{Buffer, Source};
use crate::tree::{Tree, check_root};

/// While one of them computes, the other one reads.
const THREADS_PER_CORE: usize = 2;

/// How to check.
pub struct Options<'a> {
    pub threads: usize,
    /// Told of bytes as they are read.
    pub progress: &'a (dyn Fn(u64) + Sync),
}

impl Default for Options<'_> {
    fn default() -> Self {
        Options::with_threads(None, &|_| {})
    }
}

impl<'a> Options<'a> {
    /// With that many threads, or as many as keep all cores and the drive busy: a reader waits for either of them.
    pub fn with_threads(threads: Option<usize>, progress: &'a (dyn Fn(u64) + Sync)) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Options {
            threads: threads.unwrap_or(cores * THREADS_PER_CORE),
            progress,
        }
    }
}

/// Checks everything. Errors: the directory cannot be listed.
pub fn verify(source: &dyn Source, options: &Options<'_>) -> io::Result<Report> {
    let tree = Tree::of(source.list()?);
    let mut report = Report::default();
    report.counts.files = tree.files.len() as u64;
    let Some(format) = check_root(source, &tree, &mut report) else {
        if is_first_start(source, &tree) {
            report.findings.clear();
            report.add(
                Severity::Torn,
                DataPath::Format.relative(),
                0,
                0,
                "missing: the first start was not finished, nothing is stored yet",
            );
        }
        return Ok(report);
    };
    let shards = each(options.threads, (0..format.shards).collect(), |shard| {
        let mut report = Report::default();
        let found = check_shard(source, &tree, &format, shard, options.progress, &mut report);
        (found, report)
    });
    let mut found = Vec::new();
    for (shard, part) in shards {
        report.merge(part);
        found.push(shard);
    }
    let plans = plans(&found, &mut report);
    check_partitions(source, &tree, &plans, options, &mut report);
    check_leftovers(&tree, &format, &found, &plans, &mut report);
    Ok(report)
}

/// Whether the directory was never in use: the format file is written when the first two checkpoints of the shards are
/// durable, before anything else.
fn is_first_start(source: &dyn Source, tree: &Tree) -> bool {
    let mut buffer = Buffer::default();
    tree.files.iter().all(|(path, size)| match path {
        DataPath::Lock => true,
        DataPath::Checkpoint { shard, slot } => {
            match source.read(&path.relative(), 0, *size as usize, &mut buffer) {
                Ok(bytes) => {
                    parse_checkpoint(*shard, *slot, bytes).is_ok_and(|found| found.number < 2)
                        || *size == 0
                }
                Err(_) => false,
            }
        }
        _ => false,
    })
}

/// The partitions of all shards whose logs are complete.
fn plans<'a>(
    shards: &'a [Option<Shard>],
    report: &mut Report,
) -> BTreeMap<PartitionId, &'a PartitionPlan> {
    let mut plans: BTreeMap<PartitionId, &PartitionPlan> = BTreeMap::new();
    for plan in shards
        .iter()
        .flatten()
        .filter(|shard| shard.complete)
        .flat_map(|shard| shard.partitions.values())
    {
        if let Some(other) = plans.insert(plan.state.id, plan)
            && !(other.deleted || plan.deleted)
        {
            report.damage(
                DataPath::Shard(plan.shard).relative() + "/checkpoint",
                0,
                0,
                format_args!(
                    "partition {} is in shard {} too",
                    plan.state.id, other.shard
                ),
            );
        }
    }
    plans
}

fn check_partitions(
    source: &dyn Source,
    tree: &Tree,
    plans: &BTreeMap<PartitionId, &PartitionPlan>,
    options: &Options<'_>,
    report: &mut Report,
) {
    // One job for each segment, so that one large partition keeps all cores busy too.
    let jobs: Vec<(&PartitionPlan, i64)> = plans
        .values()
        .flat_map(|plan| {
            segments_to_check(plan)
                .into_iter()
                .map(move |base| (*plan, base))
        })
        .collect();
    let results = each(options.threads, jobs, |(plan, base)| {
        let mut report = Report::default();
        let summary = check_segment(source, tree, plan, base, options.progress, &mut report);
        (plan.state.id, summary, report)
    });
    let mut summaries: BTreeMap<PartitionId, Vec<SegmentSummary>> = BTreeMap::new();
    for (partition, summary, part) in results {
        report.merge(part);
        summaries.entry(partition).or_default().push(summary);
    }
    for (id, plan) in plans {
        let summaries = summaries.get(id).map_or(&[][..], Vec::as_slice);
        check_partition(tree, plan, summaries, report);
    }
}

/// Files and directories that nothing knows of.
fn check_leftovers(
    tree: &Tree,
    format: &Format,
    shards: &[Option<Shard>],
    plans: &BTreeMap<PartitionId, &PartitionPlan>,
    report: &mut Report,
) {
    for path in &tree.unknown {
        if path.contains('/') {
            report.damage(path, 0, 0, "not a file of a data directory");
        } else {
            report
                .notes
                .push(format!("{path}: not a file of a data directory"));
        }
    }
    for directory in &tree.directories {
        match directory {
            DataPath::Shard(shard) if *shard >= format.shards => {
                // Made before the format file tells of it.
                report.notes.push(format!(
                    "{}: a shard that is not in use yet",
                    directory.relative()
                ));
            }
            DataPath::Partition(partition) if !plans.contains_key(partition) => {
                let all_known = shards
                    .iter()
                    .all(|shard| shard.as_ref().is_some_and(|shard| shard.complete));
                let all_clean = shards.iter().flatten().all(|shard| shard.clean);
                if all_known && all_clean && tree.segment_files(*partition).next().is_some() {
                    report.damage(
                        directory.relative(),
                        0,
                        0,
                        "a partition that no shard knows",
                    );
                } else if all_known {
                    report.notes.push(format!(
                        "{}: of a partition that exists no more",
                        directory.relative()
                    ));
                }
            }
            _ => {}
        }
    }
}

/// Runs `work` on every item, on several threads; results in the order of the items.
pub fn each<T: Sync + Clone, R: Send>(
    threads: usize,
    items: Vec<T>,
    work: impl Fn(T) -> R + Sync,
) -> Vec<R> {
    if threads <= 1 || items.len() <= 1 {
        return items.into_iter().map(work).collect();
    }
    let next = AtomicUsize::new(0);
    let results: Vec<Mutex<Option<R>>> = items.iter().map(|_| Mutex::new(None)).collect();
    std::thread::scope(|scope| {
        for _ in 0..threads.min(items.len()) {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(item) = items.get(index) else { break };
                    *results[index].lock().expect("no panic while it is held") =
                        Some(work(item.clone()));
                }
            });
        }
    });
    let done = |result: Mutex<Option<R>>| {
        result
            .into_inner()
            .ok()
            .flatten()
            .expect("every item was worked on")
    };
    results.into_iter().map(done).collect()
}
