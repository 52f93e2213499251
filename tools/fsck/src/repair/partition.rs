//! One partition, repaired: its segments one after the other, and what the checkpoint is to say of it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use serde::Serialize;
use trireme_engine::PartitionId;
use trireme_engine::epochs::LeaderEpochs;
use trireme_engine::layout::checkpoint::{PartitionState, SegmentState};
use trireme_engine::layout::paths::SegmentFile;
use trireme_engine::producer::{Producers, Sequenced};

use super::segment::Place;

/// Offsets that are gone: nothing of them could be trusted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Gone {
    /// Topic id and index.
    pub partition: String,
    /// The topic's name, where the metadata still has it.
    pub topic: Option<String>,
    pub from_offset: i64,
    /// The last one that is gone.
    pub to_offset: i64,
}

/// A partition as it will be.
pub struct Repaired {
    pub state: PartitionState,
    /// Offsets that are gone, first and behind the last.
    pub gone: Vec<(i64, i64)>,
    /// The highest leader epoch met.
    pub epoch_max: i32,
}

/// Repairs a partition. `sound` are segments in which the check found nothing: those that are sealed stay as they are,
/// unless `anew`: the partition's state is to be made from its batches alone.
/// `sink` is told of the bytes of every batch that is walked.
pub fn repair(
    place: &Place<'_>,
    sound: &BTreeSet<i64>,
    anew: bool,
    now_ms: i64,
    sink: &mut dyn FnMut(&[u8]),
) -> io::Result<Repaired> {
    let salvage = place.salvage;
    let id = salvage.id;
    let known = salvage.known.as_ref();
    if salvage.deleted {
        return Ok(deleted(place));
    }
    let bases = bases(place);
    let old_epochs = known.map_or_else(LeaderEpochs::new, |known| {
        LeaderEpochs::restore(known.epochs.iter().copied()).unwrap_or_default()
    });
    let epoch_at = |offset| {
        known
            .filter(|known| offset < known.next_offset)
            .and_then(|_| old_epochs.epoch_at(offset))
    };
    let (mut epochs, mut producers) = match known {
        Some(known) if !anew => (
            old_epochs.clone(),
            Producers::restore(known.producers.iter().cloned()).unwrap_or_default(),
        ),
        _ => (LeaderEpochs::new(), Producers::new()),
    };
    let known_below = match known {
        Some(known) if !anew => known.next_offset,
        _ => 0,
    };
    let mut snapshot = salvage.snapshot.clone();
    let mut epoch_max = old_epochs.latest().map_or(0, |last| last.epoch);
    let mut segments: Vec<SegmentState> = Vec::new();
    let mut broken = false;
    let mut last_epoch = None;
    // Without a checkpoint the log starts with the first segment there is, unless the log knows better.
    let log_start = match (known, bases.first()) {
        (None, Some(first)) => salvage.log_start.max(*first),
        _ => salvage.log_start,
    };
    for (index, base) in bases.iter().enumerate() {
        let next = bases.get(index + 1).copied();
        if next.is_some_and(|next| next <= log_start) {
            place.move_aside(*base, &[]);
            continue;
        }
        let state = known.and_then(|known| {
            known
                .segments
                .iter()
                .find(|segment| segment.base_offset == *base)
        });
        if let Some(state) = state
            && state.sealed
            && sound.contains(base)
            && !anew
        {
            segments.push(state.clone());
            last_epoch = epoch_at(state.end_offset - 1);
            continue;
        }
        let from = segments.last().map_or(*base, |last| last.end_offset);
        let repaired = place.repair(*base, from, last_epoch, &epoch_at, &mut |raw| {
            sink(raw.bytes());
            let header = raw.header();
            let offset = header.base_offset();
            epoch_max = epoch_max.max(header.leader_epoch());
            if offset < known_below {
                return;
            }
            if let Some((_, snapshot)) =
                snapshot.take_if(|(at, _)| *at <= offset && *at >= known_below)
            {
                producers = Producers::restore(snapshot).unwrap_or_default();
            }
            epochs.assign(header.leader_epoch(), offset);
            if let Some(sequenced) = Sequenced::of(header) {
                producers.replay(&sequenced, offset, now_ms);
            }
        })?;
        broken |= !repaired.broken.is_empty();
        last_epoch = repaired.last_epoch;
        segments.extend(repaired.states);
    }
    let next_offset = segments
        .last()
        .map_or(0, |last| last.end_offset)
        .max(bases.last().copied().unwrap_or(0))
        .max(salvage.next_offset)
        .max(log_start);
    let mut gone = gaps(&segments, log_start, next_offset);
    if let Some(known) = known {
        // What an earlier repair left out is no news.
        let old = gaps(&known.segments, known.log_start, known.next_offset);
        gone.retain(|gap| !old.iter().any(|old| old.0 <= gap.0 && gap.1 <= old.1));
    }
    let log_start = segments
        .iter()
        .find(|segment| segment.end_offset > log_start)
        .map_or(next_offset, |segment| segment.base_offset.max(log_start));
    epochs.truncate_start(log_start);
    let mut state = PartitionState {
        id,
        created_epoch: salvage.created_epoch,
        log_start,
        next_offset,
        replay_from_sequence: 0,
        segments,
        epochs: epochs.entries().to_vec(),
        producers: producers.snapshot().collect(),
        deleting: false,
    };
    if broken || !gone.is_empty() {
        forget_gone(&mut state, &gone);
    }
    Ok(Repaired {
        state,
        gone,
        epoch_max,
    })
}

/// A deleted partition: the engine removes what is left of it.
fn deleted(place: &Place<'_>) -> Repaired {
    let salvage = place.salvage;
    let state = PartitionState {
        id: salvage.id,
        created_epoch: salvage.created_epoch,
        deleting: true,
        ..PartitionState::default()
    };
    Repaired {
        state,
        gone: Vec::new(),
        epoch_max: 0,
    }
}

/// The segments to be looked at, oldest first. Files of others are moved aside.
fn bases(place: &Place<'_>) -> Vec<i64> {
    let salvage = place.salvage;
    let mut with_log = BTreeSet::new();
    let mut with_files = BTreeSet::new();
    for (base, file, _) in place.tree.segment_files(salvage.id) {
        with_files.insert(base);
        if file == SegmentFile::Log {
            with_log.insert(base);
        }
    }
    let in_log: BTreeSet<i64> = salvage.patches.keys().copied().collect();
    let bases: BTreeSet<i64> = match &salvage.known {
        Some(known) => {
            let listed = known.segments.iter().map(|segment| segment.base_offset);
            let is_new = |base: &i64| *base >= known.next_offset;
            let logged = in_log.iter().copied().filter(is_new);
            // Where log records are gone, a file may be all that is left of them.
            let orphans = with_log
                .iter()
                .copied()
                .filter(|base| is_new(base) && !place.log_is_whole);
            listed.chain(logged).chain(orphans).collect()
        }
        None => {
            let last = with_log.last().copied();
            let logged = in_log
                .iter()
                .copied()
                .filter(|base| last.is_none_or(|last| *base > last));
            with_log.iter().copied().chain(logged).collect()
        }
    };
    for base in with_files.difference(&bases) {
        place.move_aside(*base, &[]);
    }
    bases.into_iter().collect()
}

/// What lies between the segments, and before and behind them.
fn gaps(segments: &[SegmentState], log_start: i64, next_offset: i64) -> Vec<(i64, i64)> {
    let mut gaps = Vec::new();
    let mut at = log_start;
    for segment in segments {
        if segment.base_offset > at {
            gaps.push((at, segment.base_offset));
        }
        at = at.max(segment.end_offset);
    }
    if at < next_offset {
        gaps.push((at, next_offset));
    }
    gaps
}

/// Lets producers send again what is gone of them.
fn forget_gone(state: &mut PartitionState, gone: &[(i64, i64)]) {
    let is_gone = |offset: i64| gone.iter().any(|(from, to)| (*from..*to).contains(&offset));
    for producer in &mut state.producers {
        producer.batches.retain(|batch| !is_gone(batch.base_offset));
    }
    state
        .producers
        .retain(|producer| !producer.batches.is_empty());
}

/// The name of a topic's partition, for reports.
pub fn named(
    gone: &[(i64, i64)],
    id: PartitionId,
    topics: &BTreeMap<[u8; 16], String>,
) -> Vec<Gone> {
    gone.iter()
        .map(|(from, to)| Gone {
            partition: id.to_string(),
            topic: topics.get(&id.topic.0).cloned(),
            from_offset: *from,
            to_offset: to - 1,
        })
        .collect()
}
