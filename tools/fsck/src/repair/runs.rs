//! The walk over what is left of a segment: which of its batches can be trusted, and what the partition takes from them.
//!
//! A batch counts if its CRC is right, if its offset follows, and, since the CRC covers neither the offset nor the leader
//! epoch, if the block that its header lies in is right by its sum or both are what they have to be. Behind a broken one the
//! walk goes on where something other than a guess says that a batch begins: the broken one's own length, if a whole batch
//! follows there, an index entry, or the log.

use std::collections::BTreeMap;
use std::io;

use trireme_engine::batch::{BatchError, Limits, RawBatch, validate};
use trireme_engine::layout::SUM_BLOCK;

use super::overlay::Overlay;

/// Batches without a gap: bytes and offsets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    pub from: u64,
    pub to: u64,
    pub first_offset: i64,
    pub next_offset: i64,
}

/// Bytes that are no batches of the partition any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    pub from: u64,
    pub to: u64,
    pub why: String,
}

/// What a walk found.
#[derive(Clone, Debug, Default)]
pub struct Walked {
    pub runs: Vec<Run>,
    pub broken: Vec<Broken>,
}

/// How far the walk is allowed to trust what it meets.
pub struct Rules<'a> {
    /// Bytes at which batches begin, with their offsets.
    pub starts: &'a BTreeMap<u64, i64>,
    /// The leader epoch of an offset, where it is known.
    pub epoch_at: &'a dyn Fn(i64) -> Option<i32>,
}

/// Walks a segment whose first batch should have offset `expected`, behind a batch of `last_epoch`. `batch` is told of every
/// batch that counts, and of the byte where it begins.
pub fn walk(
    overlay: &mut Overlay<'_>,
    expected: i64,
    last_epoch: Option<i32>,
    rules: &Rules<'_>,
    batch: &mut dyn FnMut(u64, RawBatch<'_>),
) -> io::Result<Walked> {
    let mut walked = Walked::default();
    let mut state = State {
        expected,
        promised: None,
        may_skip: false,
        last_epoch,
    };
    let mut at = 0;
    while at < overlay.end() {
        match judge(overlay, at, &state, rules)? {
            Judged::Sound {
                len,
                first_offset,
                next_offset,
                epoch,
            } => {
                match walked.runs.last_mut() {
                    Some(run) if run.to == at && run.next_offset == first_offset => {
                        (run.to, run.next_offset) = (at + len, next_offset);
                    }
                    _ => walked.runs.push(Run {
                        from: at,
                        to: at + len,
                        first_offset,
                        next_offset,
                    }),
                }
                let bytes = overlay.bytes(at, len as usize)?;
                batch(at, RawBatch::first(bytes).expect("it was judged"));
                state = State {
                    expected: next_offset,
                    promised: None,
                    may_skip: false,
                    last_epoch: Some(epoch),
                };
                at += len;
            }
            Judged::Broken {
                why,
                next,
                promised,
            } => {
                state.may_skip = true;
                state.promised = promised;
                let mut candidates: Vec<u64> = next.into_iter().collect();
                candidates.extend(rules.starts.range(at + 1..).map(|(start, _)| *start));
                let mut to = overlay.end();
                for candidate in candidates {
                    if candidate < overlay.end()
                        && matches!(
                            judge(overlay, candidate, &state, rules)?,
                            Judged::Sound { .. }
                        )
                    {
                        to = candidate;
                        break;
                    }
                }
                let is_end = to == overlay.end();
                if !is_end || !is_zero(overlay, at)? {
                    walked.broken.push(Broken { from: at, to, why });
                }
                at = to;
            }
        }
    }
    Ok(walked)
}

/// What the walk knows of the batch to come.
struct State {
    expected: i64,
    /// The offset behind a broken batch, if its header is to be believed.
    promised: Option<i64>,
    /// Offsets may be left out: behind a gap.
    may_skip: bool,
    last_epoch: Option<i32>,
}

enum Judged {
    Sound {
        len: u64,
        first_offset: i64,
        next_offset: i64,
        epoch: i32,
    },
    Broken {
        why: String,
        /// Where it would end, if its length is right.
        next: Option<u64>,
        /// And the offset behind it.
        promised: Option<i64>,
    },
}

fn judge(
    overlay: &mut Overlay<'_>,
    at: u64,
    state: &State,
    rules: &Rules<'_>,
) -> io::Result<Judged> {
    let end = overlay.end();
    let broken = |why: String, next: Option<(u64, i64)>| {
        Ok(Judged::Broken {
            why,
            next: next.map(|(next, _)| next),
            promised: next.map(|(_, offset)| offset),
        })
    };
    let expected = state.expected;
    let header_bytes = trireme_engine::batch::HEADER_BYTES;
    let needed = match RawBatch::first(overlay.bytes(at, header_bytes)?) {
        Ok(batch) => batch.bytes().len(),
        Err(BatchError::Truncated { needed, .. }) => needed,
        Err(error) => return broken(error.to_string(), None),
    };
    let next = at + needed as u64;
    if next > end {
        return broken("a batch that does not end".to_owned(), None);
    }
    let header_block = at / SUM_BLOCK as u64;
    let header_end_block = (at + header_bytes as u64 - 1) / SUM_BLOCK as u64;
    let bytes = overlay.bytes(at, needed)?;
    let batch = match RawBatch::first(bytes) {
        Ok(batch) => batch,
        Err(error) => return broken(error.to_string(), None),
    };
    if let Err(error) = validate(batch.bytes(), &Limits::log(usize::MAX)) {
        return broken(
            error.to_string(),
            Some((next, batch.header().next_offset())),
        );
    }
    let header = batch.header();
    let (first_offset, next_offset, epoch) = (
        header.base_offset(),
        header.next_offset(),
        header.leader_epoch(),
    );
    let follows = first_offset == expected || (state.may_skip && first_offset > expected);
    let fits_log = rules
        .starts
        .get(&at)
        .is_none_or(|offset| *offset == first_offset);
    if !follows || !fits_log || next_offset <= first_offset {
        return broken(
            format!("a batch with offset {first_offset} instead of {expected}"),
            Some((next, next_offset)),
        );
    }
    let last_epoch = state.last_epoch;
    let is_later = last_epoch.is_none_or(|last| epoch >= last);
    let is_suspect = overlay.broken.contains_key(&header_block)
        || overlay.broken.contains_key(&header_end_block);
    let is_known = (rules.epoch_at)(first_offset).or(last_epoch) == Some(epoch);
    let is_due = first_offset == expected
        || state.promised == Some(first_offset)
        || rules.starts.contains_key(&at);
    if epoch < 0 || !is_later || (is_suspect && !(is_known && is_due)) {
        return broken(
            format!(
                "leader epoch {epoch} of the batch with offset {first_offset} cannot be trusted"
            ),
            Some((next, next_offset)),
        );
    }
    Ok(Judged::Sound {
        len: needed as u64,
        first_offset,
        next_offset,
        epoch,
    })
}

/// Whether everything from `at` on is zero: allocated, and never written.
fn is_zero(overlay: &mut Overlay<'_>, mut at: u64) -> io::Result<bool> {
    const STEP: usize = 1 << 20;
    while at < overlay.end() {
        let bytes = overlay.bytes(at, STEP)?;
        if bytes.iter().any(|byte| *byte != 0) {
            return Ok(false);
        }
        at += bytes.len() as u64;
    }
    Ok(true)
}
