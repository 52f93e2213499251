//! A partition: what its segments say together, and whether offsets, epochs, producers and files fit them.

use std::collections::BTreeMap;

use trireme_engine::layout::paths::DataPath;
use trireme_engine::layout::paths::SegmentFile;

use crate::plan::PartitionPlan;
use crate::report::Report;
use crate::segment::{ProducerTrace, SegmentSummary};
use crate::tree::Tree;

/// Segments that are to be checked: not those that are to be removed, or may be already.
pub fn segments_to_check(plan: &PartitionPlan) -> Vec<i64> {
    if plan.deleted {
        return Vec::new();
    }
    plan.segments
        .keys()
        .copied()
        .filter(|base| !plan.is_dead(*base))
        .collect()
}

/// The checks that need all segments. `summaries` are in order.
pub fn check_partition(
    tree: &Tree,
    plan: &PartitionPlan,
    summaries: &[SegmentSummary],
    report: &mut Report,
) {
    report.counts.partitions += 1;
    check_files(tree, plan, report);
    if plan.deleted {
        return;
    }
    let name = |base: i64| {
        DataPath::Segment {
            partition: plan.state.id,
            base_offset: base,
            file: SegmentFile::Log,
        }
        .relative()
    };
    for pair in summaries.windows(2) {
        if !pair[0].complete || pair[0].end_offset == pair[1].base_offset {
            continue;
        }
        if ends_where_recorded(plan, &pair[0]) && is_recorded(plan, pair[1].base_offset) {
            report.notes.push(format!(
                "{}: offsets {} to {} do not exist: a repair left them out",
                plan.state.id,
                pair[0].end_offset,
                pair[1].base_offset - 1
            ));
        } else {
            report.damage(
                name(pair[1].base_offset),
                0,
                0,
                format_args!(
                    "begins with offset {} where the one before ends with {}",
                    pair[1].base_offset, pair[0].end_offset
                ),
            );
        }
    }
    if let (Some(first), Some(last)) = (summaries.first(), summaries.last()) {
        if first.base_offset > plan.log_start {
            report.damage(
                name(first.base_offset),
                0,
                0,
                format_args!(
                    "the log start {} is before the first segment",
                    plan.log_start
                ),
            );
        }
        let is_last = plan
            .segments
            .last_key_value()
            .is_some_and(|(base, _)| *base == last.base_offset);
        let ends_early = is_last && last.complete && last.end_offset != plan.next_offset();
        if ends_early
            && ends_where_recorded(plan, last)
            && plan.next_offset() == plan.state.next_offset
        {
            report.notes.push(format!(
                "{}: offsets {} to {} do not exist: a repair left them out",
                plan.state.id,
                last.end_offset,
                plan.next_offset() - 1
            ));
        } else if ends_early {
            report.damage(
                name(last.base_offset),
                0,
                0,
                format_args!(
                    "ends with offset {}, the partition with {}",
                    last.end_offset,
                    plan.next_offset()
                ),
            );
        }
    }
    check_epochs(plan, summaries, &name, report);
    check_producers(plan, summaries, report);
}

/// Whether the segment ends, sealed, where the checkpoint says it does.
fn ends_where_recorded(plan: &PartitionPlan, segment: &SegmentSummary) -> bool {
    let state = plan
        .segments
        .get(&segment.base_offset)
        .and_then(|segment| segment.state.as_ref());
    state.is_some_and(|state| state.sealed && state.end_offset == segment.end_offset)
}

/// Whether the checkpoint says that a segment begins with this offset, or that the first one behind it would.
fn is_recorded(plan: &PartitionPlan, base_offset: i64) -> bool {
    base_offset == plan.state.next_offset
        || plan
            .segments
            .get(&base_offset)
            .is_some_and(|segment| segment.state.is_some())
}

/// Files that belong to no segment.
fn check_files(tree: &Tree, plan: &PartitionPlan, report: &mut Report) {
    if !plan.clean || plan.deleted {
        // A crash leaves files that were just made, or about to be removed.
        return;
    }
    for (base, file, size) in tree.segment_files(plan.state.id) {
        if !plan.segments.contains_key(&base) {
            let path = DataPath::Segment {
                partition: plan.state.id,
                base_offset: base,
                file,
            };
            report.damage(
                path.relative(),
                0,
                size,
                "a file of a segment that does not exist",
            );
        }
    }
}

fn check_epochs(
    plan: &PartitionPlan,
    summaries: &[SegmentSummary],
    name: &dyn Fn(i64) -> String,
    report: &mut Report,
) {
    let table = &plan.state.epochs;
    for summary in summaries {
        for (epoch, offset) in &summary.epochs {
            // Beyond it, the checkpoint does not know yet; before the log start, it need not know any more.
            if *offset >= plan.state.next_offset
                || *offset < plan.state.log_start
                || table.is_empty()
            {
                continue;
            }
            let known = table
                .iter()
                .rfind(|entry| entry.start_offset <= *offset)
                .map(|entry| entry.epoch);
            if known != Some(*epoch) {
                report.damage(
                    name(summary.base_offset),
                    0,
                    0,
                    format_args!(
                        "offset {offset} has leader epoch {epoch}, the checkpoint says {known:?}"
                    ),
                );
            }
        }
    }
}

/// What the checkpoint remembers of a producer must stand in the segments, where these still have it, and what the
/// segments have last of a producer must be what is remembered.
fn check_producers(plan: &PartitionPlan, summaries: &[SegmentSummary], report: &mut Report) {
    report.counts.producers += plan.state.producers.len() as u64;
    let checkpoint = DataPath::Shard(plan.shard).relative() + "/checkpoint";
    if summaries.iter().any(|summary| !summary.complete) {
        return;
    }
    let first_offset = summaries
        .first()
        .map_or(i64::MAX, |summary| summary.base_offset);
    let mut traces: BTreeMap<i64, Vec<ProducerTrace>> = BTreeMap::new();
    for summary in summaries {
        for (producer, found) in &summary.producers {
            traces
                .entry(*producer)
                .or_default()
                .extend_from_slice(found);
        }
    }
    for producer in &plan.state.producers {
        let found = traces
            .get(&producer.producer_id)
            .map_or(&[][..], Vec::as_slice);
        for batch in &producer.batches {
            if batch.base_offset < first_offset || batch.base_offset >= plan.next_offset() {
                continue;
            }
            let trace = ProducerTrace {
                epoch: producer.epoch,
                first_sequence: batch.first_sequence,
                last_sequence: batch.last_sequence,
                base_offset: batch.base_offset,
                last_offset: batch.last_offset(),
            };
            if !found.contains(&trace) {
                report.damage(
                    &checkpoint,
                    0,
                    0,
                    format_args!(
                        "{}: producer {} has no such batch: {trace:?}",
                        plan.state.id, producer.producer_id
                    ),
                );
            }
        }
        if let (Some(last), Some(known)) = (found.last(), producer.batches.last())
            && last.epoch == producer.epoch
            && last.base_offset > known.base_offset
        {
            report.damage(
                &checkpoint,
                0,
                0,
                format_args!(
                    "{}: producer {} wrote offset {} last, the checkpoint knows only up to {}",
                    plan.state.id, producer.producer_id, last.base_offset, known.base_offset
                ),
            );
        }
    }
}
