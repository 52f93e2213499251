//! Holds a recovered engine against what its client knows.

use std::collections::BTreeMap;
use std::fmt;

use trireme_engine::batch::{Batches, Limits, validate};
use trireme_engine::records::{RecordLimits, Records};
use trireme_engine::*;

use crate::knowledge::*;

/// What must never happen.
#[derive(Clone, Debug)]
pub enum Problem {
    /// Acknowledged and not there.
    Lost(String),
    /// There and never sent, or twice, or changed.
    Invented(String),
    /// Neither: a wrong answer, a panic, a standstill.
    Wrong(String),
    /// A damage was found, and said. No problem where there is one.
    Damaged(String),
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Problem::Lost(what) => write!(f, "lost: {what}"),
            Problem::Invented(what) => write!(f, "invented: {what}"),
            Problem::Wrong(what) => write!(f, "wrong: {what}"),
            Problem::Damaged(what) => write!(f, "damaged: {what}"),
        }
    }
}

/// Reads everything and compares it. What it learned beyond what was known.
pub async fn check(
    engine: &Engine,
    knowledge: &Knowledge,
    read_bytes: u32,
) -> Result<Vec<Event>, Problem> {
    let mut learned = Vec::new();
    let listed = engine.list().await;
    for reference in &listed {
        match knowledge.partitions.get(&reference.id.index) {
            Some(known) if known.deleted == Answered::Yes => {
                return Err(Problem::Invented(format!("{} was deleted", reference.id)));
            }
            Some(_) => (),
            None => {
                return Err(Problem::Invented(format!(
                    "{} was never created",
                    reference.id
                )));
            }
        }
    }
    for (index, known) in &knowledge.partitions {
        if !listed.contains(&partition(*index)) {
            if known.lives() {
                return Err(Problem::Lost(format!("partition {index}")));
            }
            // It is gone for good.
            if known.deleted != Answered::Yes {
                learned.push(Event::Deleted(*index));
            }
            continue;
        }
        if known.created != Answered::Yes {
            learned.push(Event::Created(*index));
        }
        check_partition(engine, knowledge, *index, known, read_bytes, &mut learned).await?;
    }
    Ok(learned)
}

async fn check_partition(
    engine: &Engine,
    knowledge: &Knowledge,
    index: u32,
    known: &Known,
    read_bytes: u32,
    learned: &mut Vec<Event>,
) -> Result<(), Problem> {
    let described = engine.describe(vec![partition(index)]).await.remove(0);
    let info = match described {
        Ok(info) => info,
        // Deleted in the meantime, after its deletion was asked for before the crash.
        Err(ReadError::UnknownPartition) if known.deleted == Answered::Asked => {
            learned.push(Event::Deleted(index));
            return Ok(());
        }
        Err(error) => return Err(Problem::Wrong(format!("partition {index}: {error}"))),
    };
    if info.log_start < known.log_start {
        return Err(Problem::Invented(format!(
            "partition {index}: the log start went back from {} to {}",
            known.log_start, info.log_start
        )));
    }
    let end = known.end(&knowledge.batches);
    if info.high_watermark < end {
        return Err(Problem::Lost(format!(
            "partition {index} ends at {}, acknowledged is {end}",
            info.high_watermark
        )));
    }
    if retention_bytes(index).is_none() && info.log_start > known.log_start_max {
        return Err(Problem::Lost(format!(
            "partition {index} begins at {}, {} was asked for",
            info.log_start, known.log_start_max
        )));
    }
    if info.leader_epoch < knowledge.epoch {
        return Err(Problem::Wrong(format!(
            "epoch {} after {}",
            info.leader_epoch, knowledge.epoch
        )));
    }
    let found = read_all(engine, index, info.log_start, read_bytes).await?;
    compare(knowledge, index, known, &info, &found, learned)?;
    check_producer(knowledge, index, known, &info, &found)?;
    check_times(engine, index, &found).await?;
    learned.push(Event::LogStart(index, info.log_start));
    learned.push(Event::Epoch(info.leader_epoch));
    Ok(())
}

/// A batch as it was read.
struct Found {
    base: Offset,
    header_sequence: i32,
    header_producer: i64,
    timestamp_ms: i64,
    bytes: u64,
    values: Vec<Vec<u8>>,
}

async fn read_all(
    engine: &Engine,
    index: u32,
    from: Offset,
    max_bytes: u32,
) -> Result<Vec<Found>, Problem> {
    let mut found: Vec<Found> = Vec::new();
    let mut offset = from;
    loop {
        let request = ReadRequest {
            partition: partition(index),
            offset,
            max_bytes,
            at_least_one: true,
            isolation: Isolation::HighWatermark,
            leader_epoch: None,
        };
        let result = match engine.read(vec![request]).await.remove(0) {
            Ok(result) => result,
            Err(error @ ReadError::Damaged { .. }) => {
                return Err(Problem::Damaged(error.to_string()));
            }
            Err(ReadError::OffsetOutOfRange { log_start, .. }) if log_start > offset => {
                // Retention was faster.
                found.clear();
                offset = log_start;
                continue;
            }
            Err(error) => {
                return Err(Problem::Wrong(format!(
                    "partition {index} offset {offset}: {error}"
                )));
            }
        };
        if result.bytes == 0 {
            if offset != result.high_watermark {
                return Err(Problem::Lost(format!(
                    "partition {index}: nothing at {offset}, below the high watermark"
                )));
            }
            return Ok(found);
        }
        let next_offset = result.next_offset;
        let bytes = collect(result).await?;
        for raw in Batches::new(&bytes) {
            let raw = raw.map_err(|error| Problem::Invented(format!("not a batch: {error}")))?;
            validate(raw.bytes(), &Limits::log(usize::MAX))
                .map_err(|error| Problem::Invented(format!("not a valid batch: {error}")))?;
            let header = raw.header();
            // The batch of a log start inside it comes whole.
            let is_expected = header.base_offset() == offset
                || offset == from
                    && (header.base_offset()..=header.last_offset()).contains(&offset);
            if !is_expected {
                return Err(Problem::Invented(format!(
                    "partition {index}: a batch at {} instead of {offset}",
                    header.base_offset()
                )));
            }
            let records = Records::open(raw.bytes(), &RecordLimits::default())
                .map_err(|error| Problem::Invented(format!("not records: {error}")))?;
            let mut values = Vec::new();
            for record in records.iter() {
                let record =
                    record.map_err(|error| Problem::Invented(format!("no record: {error}")))?;
                values.push(record.value.unwrap_or_default().to_vec());
            }
            found.push(Found {
                base: header.base_offset(),
                header_sequence: header.base_sequence(),
                header_producer: header.producer_id(),
                timestamp_ms: header.max_timestamp(),
                bytes: raw.bytes().len() as u64,
                values,
            });
            offset = header.next_offset();
        }
        if next_offset != offset {
            return Err(Problem::Wrong(format!(
                "next offset {next_offset} for {offset}"
            )));
        }
    }
}

async fn collect(result: ReadResult) -> Result<Vec<u8>, Problem> {
    let mut bytes = Vec::new();
    for part in result.parts {
        match part {
            ReadPart::Memory(memory) => bytes.extend_from_slice(&memory),
            ReadPart::File(range) => {
                let file = trireme_runtime::fs::File::from_shared(range.file);
                let (result, read) = file
                    .read_exact_at(
                        Vec::with_capacity(range.len as usize),
                        range.position,
                        range.len as usize,
                    )
                    .await;
                // Sendfile breaks the connection then; it gives nothing wrong.
                result.map_err(|error| Problem::Damaged(format!("a range: {error}")))?;
                bytes.extend_from_slice(&read);
            }
        }
    }
    Ok(bytes)
}

fn compare(
    knowledge: &Knowledge,
    index: u32,
    known: &Known,
    info: &PartitionInfo,
    found: &[Found],
    learned: &mut Vec<Event>,
) -> Result<(), Problem> {
    let mut seen = BTreeMap::new();
    let mut last_plain_tag = 0;
    for found in found {
        let base = found.base;
        let at = || format!("partition {index} offset {base}");
        let tag = found.values[0].get(..8).map_or(0, |tag| {
            u64::from_le_bytes(tag.try_into().expect("8 bytes"))
        });
        let batch = match knowledge.batches.get(&tag) {
            Some(batch) if batch.sent.partition == index => batch,
            _ => return Err(Problem::Invented(format!("{}: {tag} was not sent", at()))),
        };
        let sent = &batch.sent;
        let is_whole = found.values.len() == sent.records as usize
            && (0..)
                .zip(&found.values)
                .all(|(index, value)| *value == sent.value(index));
        if !is_whole || found.timestamp_ms != sent.timestamp_ms() {
            return Err(Problem::Invented(format!("{}: {tag} is changed", at())));
        }
        if found.header_sequence != sent.sequence.unwrap_or(-1)
            || (found.header_producer >= 0) != sent.sequence.is_some()
        {
            return Err(Problem::Invented(format!("{}: not {tag}'s producer", at())));
        }
        if batch.is_refused {
            return Err(Problem::Invented(format!("{}: {tag} was refused", at())));
        }
        if batch.base.is_some_and(|was| was != base) {
            return Err(Problem::Invented(format!(
                "{}: {tag} was at {:?}",
                at(),
                batch.base
            )));
        }
        if let Some(other) = seen.insert(tag, base) {
            return Err(Problem::Invented(format!(
                "{}: {tag} is at {other} too",
                at()
            )));
        }
        if sent.sequence.is_none() {
            if tag < last_plain_tag {
                return Err(Problem::Wrong(format!(
                    "{}: {tag} after {last_plain_tag}",
                    at()
                )));
            }
            last_plain_tag = tag;
        }
        match known.batches.get(&base) {
            Some(was) if *was != tag => {
                return Err(Problem::Lost(format!("{}: {tag} instead of {was}", at())));
            }
            Some(_) => (),
            None => learned.push(Event::Known(tag, base)),
        }
    }
    let start = found
        .first()
        .map_or(info.high_watermark, |first| first.base);
    for (base, tag) in known.batches.range(start..) {
        if !seen.contains_key(tag) {
            return Err(Problem::Lost(format!(
                "partition {index} offset {base}: {tag}"
            )));
        }
    }
    // Retention keeps at least what it was told to keep.
    if let Some(limit) = retention_bytes(index) {
        let kept: u64 = found.iter().map(|found| found.bytes).sum();
        let first_lost = known.batches.range(..start).next_back();
        if kept < limit && known.log_start_max < start && first_lost.is_some() {
            return Err(Problem::Lost(format!(
                "partition {index}: retention left {kept} bytes"
            )));
        }
    }
    Ok(())
}

/// A producer's newest sequence is that of its newest batch.
fn check_producer(
    knowledge: &Knowledge,
    index: u32,
    known: &Known,
    info: &PartitionInfo,
    found: &[Found],
) -> Result<(), Problem> {
    let newest = |mut tags: Box<dyn Iterator<Item = &Sent> + '_>| {
        tags.find_map(|sent| Some(sent.sequence? + sent.records as i32 - 1))
    };
    let tag = |found: &Found| u64::from_le_bytes(found.values[0][..8].try_into().expect("8 bytes"));
    let read = newest(Box::new(
        found
            .iter()
            .rev()
            .map(|found| &knowledge.batches[&tag(found)].sent),
    ));
    let acknowledged = newest(Box::new(
        known
            .batches
            .values()
            .rev()
            .map(|tag| &knowledge.batches[tag].sent),
    ));
    let expected = read.max(acknowledged);
    let state = info
        .producers
        .iter()
        .find(|producer| producer.producer_id == producer_id(index))
        .map(|producer| producer.last_sequence);
    // Where the batch is deleted already, one that was never acknowledged may have been the last.
    match (state, expected) {
        (None, None) => Ok(()),
        (Some(state), Some(expected)) if state == expected => Ok(()),
        (Some(state), _) if read.is_none() && state >= expected.unwrap_or(-1) => Ok(()),
        _ => Err(Problem::Wrong(format!(
            "partition {index}: the producer is at {state:?}, its last batch at {expected:?}"
        ))),
    }
}

/// The time index finds what the log holds.
async fn check_times(engine: &Engine, index: u32, found: &[Found]) -> Result<(), Problem> {
    for wanted in [found.len() / 3, found.len().saturating_sub(1)] {
        let Some(wanted) = found.get(wanted) else {
            continue;
        };
        let time = wanted.timestamp_ms;
        let first = found
            .iter()
            .find(|found| found.timestamp_ms >= time)
            .expect("at least itself");
        let query = (
            partition(index),
            OffsetQuery::ByTime(time),
            Isolation::HighWatermark,
        );
        match engine.offsets(vec![query]).await.remove(0) {
            // The log start may lie inside the batch, and retention may have gone on.
            Ok(answer) if answer.offset >= first.base && answer.timestamp_ms >= time => (),
            Ok(answer) => {
                return Err(Problem::Wrong(format!(
                    "partition {index}: time {time} is at {answer:?}, not at {}",
                    first.base
                )));
            }
            Err(ReadError::Damaged { file, position }) => {
                return Err(Problem::Damaged(format!(
                    "{} at {position}",
                    file.display()
                )));
            }
            Err(error) => return Err(Problem::Wrong(format!("partition {index}: {error}"))),
        }
    }
    Ok(())
}
