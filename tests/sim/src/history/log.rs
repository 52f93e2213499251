//! The claims about one partition of one topic's life.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::{Checker, History};
use crate::records::{Incoming, Name};

/// One partition from its topic's creation to its deletion.
pub type LogId = usize;

/// What matters of a topic's configuration.
#[derive(Clone, Copy, Debug, Default)]
pub struct Shape {
    /// Acknowledged from memory.
    pub relaxed: bool,
    pub log_append_time: bool,
    pub retention_ms: Option<i64>,
    pub retention_bytes: Option<i64>,
}

/// What was known when a request was sent; its answer may not say less.
#[derive(Clone, Copy, Debug)]
pub struct Floor {
    pub watermark: i64,
    pub start: i64,
    /// Unclean ends so far.
    unclean_ends: u32,
    /// Number of the broker's process.
    process: u32,
}

#[derive(Clone, Copy, Default)]
struct Slot {
    name: Option<Name>,
    /// A reader has had it.
    seen: bool,
    acknowledged: bool,
    /// Unclean ends when its acknowledgement was asked for.
    unclean_ends: u32,
    /// The process that acknowledged it.
    process: Option<u32>,
}

pub(super) struct Log {
    topic: String,
    topic_id: Uuid,
    partition: i32,
    shape: Shape,
    slots: Vec<Slot>,
    watermark: i64,
    start: i64,
    /// The highest that DeleteRecords was asked for.
    delete_to: i64,
    /// Of a leader epoch that was read: the processes that acknowledged what bears it, first and last.
    epochs: BTreeMap<i32, (u32, u32)>,
}

impl Log {
    fn name(&self) -> String {
        format!("{}-{}", self.topic, self.partition)
    }

    /// Whether the acknowledgement in a slot promises nothing any more.
    fn is_void(&self, slot: &Slot, unclean_ends: u32) -> bool {
        !slot.seen && self.shape.relaxed && slot.unclean_ends < unclean_ends
    }
}

impl History {
    pub fn new_log(&mut self, topic: &str, topic_id: Uuid, partition: i32, shape: Shape) -> LogId {
        self.logs.push(Log {
            topic: topic.to_owned(),
            topic_id,
            partition,
            shape,
            slots: Vec::new(),
            watermark: 0,
            start: 0,
            delete_to: 0,
            epochs: BTreeMap::new(),
        });
        self.logs.len() - 1
    }

    pub fn log_name(&self, log: LogId) -> String {
        self.logs[log].name()
    }

    /// Topic, its id, the partition.
    pub fn place(&self, log: LogId) -> (String, Uuid, i32) {
        let log = &self.logs[log];
        (log.topic.clone(), log.topic_id, log.partition)
    }

    pub fn floor(&self, log: LogId) -> Floor {
        let (unclean_ends, process) = (self.unclean_ends, self.ends);
        let log = &self.logs[log];
        Floor {
            watermark: log.watermark,
            start: log.start,
            unclean_ends,
            process,
        }
    }

    /// Whether a producer's state may have got lost since then: a relaxed log's, by an unclean end.
    pub fn may_have_forgotten(&self, log: LogId, since: Floor) -> bool {
        self.logs[log].shape.relaxed && since.unclean_ends < self.unclean_ends
    }

    /// Records `numbers` of `writer` were acknowledged to begin at `base`. `first` is from before their first attempt, `last`
    /// from before the one that was answered.
    pub fn told_ack(
        &mut self,
        log: LogId,
        base: i64,
        writer: u16,
        numbers: std::ops::Range<u32>,
        first: Floor,
        last: Floor,
    ) {
        let count = i64::from(numbers.end - numbers.start);
        self.note(base as u64 ^ (count as u64) << 40, || {
            format!(
                "ack   {:<14} {base}..{} {writer}#{}..{}",
                self_name(log),
                base + count,
                numbers.start,
                numbers.end
            )
        });
        self.counts.acknowledged += count as u64;
        if base < first.watermark {
            let what = format!(
                "{}: {writer}#{} was acknowledged at {base}; the log had reached {} before it was sent",
                self.log_name(log),
                numbers.start,
                first.watermark
            );
            return self.broken(Checker::Order, what);
        }
        for (at, number) in numbers.enumerate() {
            let name = Name { writer, number };
            self.assign(log, base + at as i64, name, Some((first, last)));
        }
        let state = &mut self.logs[log];
        if !state.shape.relaxed {
            state.watermark = state.watermark.max(base + count);
        }
    }

    /// This record is at this offset: a reader has had it, or (with what was known when that was asked for) it was acknowledged.
    fn assign(
        &mut self,
        log: LogId,
        offset: i64,
        name: Name,
        acknowledged: Option<(Floor, Floor)>,
    ) {
        let unclean_ends = self.unclean_ends;
        let state = &mut self.logs[log];
        if offset < 0 {
            let what = format!("{}: {name} is at {offset}", state.name());
            return self.broken(Checker::Protocol, what);
        }
        let at = offset as usize;
        if at >= state.slots.len() {
            state.slots.resize(at + 1, Slot::default());
        }
        let slot = state.slots[at];
        let is_void = state.is_void(&slot, unclean_ends);
        match slot.name {
            Some(other) if other != name && !is_void => {
                let checker = match (slot.seen, acknowledged) {
                    (true, _) => Checker::Undone,
                    (false, None) => Checker::Durability,
                    (false, Some(_)) => Checker::Reused,
                };
                let how = if slot.seen { "read" } else { "acknowledged" };
                let what = format!(
                    "{}: offset {offset} was {how} as {other} and is now {name}",
                    state.name()
                );
                return self.broken(checker, what);
            }
            _ => (),
        }
        let is_new_copy = acknowledged.is_none() && (!slot.seen || slot.name != Some(name));
        let slot = &mut state.slots[at];
        if slot.name != Some(name) {
            *slot = Slot::default();
        }
        *slot = Slot {
            name: Some(name),
            seen: slot.seen || acknowledged.is_none(),
            acknowledged: slot.acknowledged || acknowledged.is_some(),
            unclean_ends: acknowledged.map_or(slot.unclean_ends, |(_, last)| last.unclean_ends),
            process: acknowledged.map_or(slot.process, |(first, last)| {
                // Of a try that was repeated elsewhere nobody knows which process wrote it.
                (first.process == last.process).then_some(last.process)
            }),
        };
        self.check_copies(log, offset, name, is_new_copy);
    }

    fn check_copies(&mut self, log: LogId, offset: i64, name: Name, is_new_copy: bool) {
        let Some(is_idempotent) = self
            .writers
            .get(&name.writer)
            .map(|writer| writer.is_idempotent)
        else {
            return;
        };
        let unclean_ends = self.unclean_ends;
        let Some(sent) = self.sent(name).copied() else {
            return;
        };
        let log_name = self.log_name(log);
        if is_idempotent && !sent.may_double && sent.offset >= 0 && sent.offset != offset {
            let state = &self.logs[sent.log];
            let elsewhere = &state.slots[sent.offset as usize];
            if elsewhere.name == Some(name) && !state.is_void(elsewhere, unclean_ends) {
                let what = format!("{log_name}: {name} is at {} and at {offset}", sent.offset);
                return self.broken(Checker::Once, what);
            }
        }
        let copies = sent.copies + u16::from(is_new_copy);
        if copies > sent.attempts {
            let what = format!(
                "{log_name}: {name} is there {copies} times and was sent {} times",
                sent.attempts
            );
            return self.broken(Checker::Once, what);
        }
        let sent = self.sent(name).expect("just seen");
        sent.offset = offset;
        sent.copies = copies;
    }

    /// A fetch from `offset` gave these records (those before `offset` are left out here).
    pub fn told_records(&mut self, log: LogId, offset: i64, watermark: i64, records: &[Incoming]) {
        self.counts.read += records.len() as u64;
        let mut next = offset;
        for record in records.iter().filter(|record| record.offset >= offset) {
            if record.offset != next {
                let what = format!(
                    "{}: after {} comes {} where {next} is",
                    self.log_name(log),
                    next - 1,
                    record.offset
                );
                return self.broken(Checker::Durability, what);
            }
            next += 1;
            self.check_sent(log, record);
            self.assign(log, record.offset, record.name, None);
            self.check_epoch(log, record);
        }
        if next > watermark && next > offset {
            let what = format!(
                "{}: read up to {next}, the high watermark is {watermark}",
                self.log_name(log)
            );
            self.broken(Checker::Watermark, what);
        }
        self.note(next as u64, || {
            format!(
                "fetch {:<14} {offset}..{next} of {watermark}",
                self_name(log)
            )
        });
        let state = &mut self.logs[log];
        state.watermark = state.watermark.max(next);
    }

    /// Two processes, the first of which ended uncleanly, do not write under one leader epoch.
    fn check_epoch(&mut self, log: LogId, record: &Incoming) {
        let state = &mut self.logs[log];
        let slot = state.slots.get(record.offset as usize);
        let Some(process) = slot.and_then(|slot| slot.process) else {
            return;
        };
        let (first, last) = state
            .epochs
            .entry(record.leader_epoch)
            .or_insert((process, process));
        (*first, *last) = ((*first).min(process), (*last).max(process));
        let (first, last) = (*first, *last);
        // The first one has written to the log, so that its unclean end cannot pass unseen.
        if first != last && self.ended_uncleanly[first as usize] {
            let what = format!(
                "{}: leader epoch {} is on what was written before an unclean end and on what was written after it (offset {})",
                self.log_name(log),
                record.leader_epoch,
                record.offset
            );
            self.broken(Checker::Epochs, what);
        }
    }

    /// Whether a record was sent, there, with this time.
    fn check_sent(&mut self, log: LogId, record: &Incoming) {
        let name = record.name;
        let shape = self.logs[log].shape;
        let what = match self.sent(name).copied() {
            None => format!("{name} was never sent"),
            Some(sent) if sent.log != log => {
                format!("{name} was sent to {}", self.log_name(sent.log))
            }
            Some(sent) if sent.attempts == 0 => format!("{name} was not sent yet"),
            Some(sent) if sent.value_len as usize != record.value_len => {
                format!(
                    "{name} has {} bytes and was sent with {}",
                    record.value_len, sent.value_len
                )
            }
            Some(_) if shape.log_append_time != record.log_append_time => {
                format!("{name} has the wrong kind of timestamp")
            }
            Some(sent) if !shape.log_append_time && sent.timestamp_ms != record.timestamp_ms => {
                format!(
                    "{name} has time {} and was sent with {}",
                    record.timestamp_ms, sent.timestamp_ms
                )
            }
            Some(_) => return,
        };
        let what = format!("{} offset {}: {what}", self.log_name(log), record.offset);
        self.broken(Checker::Invented, what);
    }

    /// A high watermark was told; `floor` is from before it was asked for.
    pub fn told_watermark(&mut self, log: LogId, watermark: i64, floor: Floor) {
        if watermark < floor.watermark {
            let what = format!(
                "{}: high watermark {watermark}, and {} before it was asked for",
                self.log_name(log),
                floor.watermark
            );
            self.broken(Checker::Watermark, what);
        }
        let state = &mut self.logs[log];
        state.watermark = state.watermark.max(watermark);
    }

    /// DeleteRecords is about to be asked for.
    pub fn deleting_to(&mut self, log: LogId, offset: i64) {
        let state = &mut self.logs[log];
        state.delete_to = state.delete_to.max(offset);
    }

    /// A log start was told; `floor` is from before it was asked for.
    pub fn told_start(&mut self, log: LogId, start: i64, floor: Floor, now_ms: i64) {
        let state = &self.logs[log];
        if start < floor.start {
            let what = format!(
                "{}: log start {start}, and {} before it was asked for",
                state.name(),
                floor.start
            );
            return self.broken(Checker::LogStart, what);
        }
        if start <= state.start {
            return;
        }
        let (old, delete_to, shape) = (state.start, state.delete_to, state.shape);
        self.note(start as u64, || {
            format!("start {:<14} {start}", self_name(log))
        });
        let by_retention = old.max(delete_to)..start;
        if !by_retention.is_empty()
            && shape.retention_ms.is_none()
            && shape.retention_bytes.is_none()
        {
            let what = format!(
                "{}: log start {start}, records were deleted up to {delete_to} only",
                self.log_name(log)
            );
            return self.broken(Checker::LogStart, what);
        }
        if let (Some(retention_ms), None, false) = (
            shape.retention_ms,
            shape.retention_bytes,
            shape.log_append_time,
        ) {
            let slots = self.logs[log].slots.iter().enumerate();
            let removed = slots.take(start as usize).skip(by_retention.start as usize);
            let names: Vec<_> = removed
                .filter_map(|(at, slot)| Some((at, slot.name?)))
                .collect();
            for (at, name) in names {
                let too_young = self
                    .sent(name)
                    .is_some_and(|sent| sent.timestamp_ms + retention_ms > now_ms);
                if too_young {
                    let what = format!(
                        "{}: log start {start}, and {name} at {at} is younger than {retention_ms} ms",
                        self.log_name(log)
                    );
                    return self.broken(Checker::LogStart, what);
                }
            }
        }
        let state = &mut self.logs[log];
        state.start = start;
        state.watermark = state.watermark.max(start);
    }

    /// A fetch or look-up was refused as out of range, and afterwards the log was told to be this.
    pub fn told_out_of_range(&mut self, log: LogId, offset: i64, floor: Floor, start: i64) {
        if offset >= start && offset <= floor.watermark {
            let what = format!(
                "{}: offset {offset} is out of range, and the log reaches from {start} to at least {}",
                self.log_name(log),
                floor.watermark
            );
            self.broken(Checker::Watermark, what);
        }
    }

    /// Everything from `start` to `end` was read: whatever is claimed of the log has to be in it.
    pub fn told_all(&mut self, log: LogId, start: i64, end: i64) {
        let unclean_ends = self.unclean_ends;
        let state = &self.logs[log];
        for (offset, slot) in state.slots.iter().enumerate().skip(end.max(start) as usize) {
            let Some(name) = slot.name else { continue };
            if state.is_void(slot, unclean_ends) {
                continue;
            }
            let (checker, how) = match slot.seen {
                true => (Checker::Undone, "read"),
                false => (Checker::Durability, "acknowledged"),
            };
            let what = format!(
                "{}: {name} was {how} at {offset}, and the log ends at {end}",
                state.name()
            );
            return self.broken(checker, what);
        }
        let mut places: BTreeMap<u16, (u32, Name)> = BTreeMap::new();
        for at in start..end {
            let Some(name) = self.logs[log].slots[at as usize].name else {
                continue;
            };
            let writer = &self.writers[&name.writer];
            if !writer.is_idempotent {
                continue;
            }
            let sent = &writer.sent[name.number as usize];
            if sent.may_double {
                places.remove(&name.writer);
                continue;
            }
            let place = sent.place;
            if let Some((before, other)) = places.insert(name.writer, (place, name)) {
                let may_skip = self.logs[log].shape.relaxed;
                if place <= before || place != before + 1 && !may_skip {
                    let what = format!("{}: at {at} {name} follows {other}", self.log_name(log));
                    return self.broken(Checker::Order, what);
                }
            }
        }
    }

    /// A look-up by time was answered. Only held against logs that lose nothing, where the answer is certain.
    pub fn told_by_time(
        &mut self,
        log: LogId,
        time_ms: i64,
        offset: i64,
        timestamp_ms: i64,
        floor: Floor,
    ) {
        let state = &self.logs[log];
        let shape = state.shape;
        let is_cut =
            shape.retention_ms.is_some() || shape.retention_bytes.is_some() || state.delete_to > 0;
        if shape.log_append_time || shape.relaxed || is_cut {
            return;
        }
        let slots: Vec<Option<Name>> = state.slots.iter().map(|slot| slot.name).collect();
        for (at, name) in slots.into_iter().enumerate().take(floor.watermark as usize) {
            let at = at as i64;
            let Some(name) = name else { continue };
            let Some(sent) = self.sent(name).copied() else {
                continue;
            };
            if at == offset && sent.timestamp_ms != timestamp_ms {
                let what = format!(
                    "{}: {name} at {at} has time {}, not {timestamp_ms}",
                    self.log_name(log),
                    sent.timestamp_ms
                );
                return self.broken(Checker::Lookup, what);
            }
            if sent.timestamp_ms >= time_ms && (offset < 0 || at < offset) {
                let what = format!(
                    "{}: time {time_ms} is at {offset}, and {name} at {at} has {}",
                    self.log_name(log),
                    sent.timestamp_ms
                );
                return self.broken(Checker::Lookup, what);
            }
        }
    }
}

/// Names in the trace are numbers of logs; a log's first line says what it is.
fn self_name(log: LogId) -> String {
    format!("log {log}")
}
