//! What clients were told, and whether it can all be true.
//!
//! The checkers know nothing of the broker's inside: requests as they were sent, answers as they came, and when a process
//! of the broker ended. A claim is held against every later one. "Later" is real time: an answer to a request that was sent
//! after another answer had come may not contradict it; answers to requests that overlap may come in any order.

mod commits;
mod groups;
mod log;
mod topics;

use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};

use trireme_runtime::Instant;

pub use log::{Floor, LogId, Shape};
pub use topics::Existence;

use crate::records::{Name, mix};
use commits::Commits;
use groups::Groups;
use log::Log;

/// Lines of the readable trace that a failure prints.
const TRACE_LINES_MAX: usize = 400;

/// What a violation breaks.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[cfg_attr(feature = "mutations", derive(clap::ValueEnum))]
pub enum Checker {
    /// Acknowledged is there.
    Durability,
    /// What was shown once stays.
    Undone,
    /// An offset is one record's for ever.
    Reused,
    Order,
    /// What was written after an unclean end has a higher leader epoch than what was written before.
    Epochs,
    Once,
    /// Every record read was sent, byte for byte.
    Invented,
    /// High watermark and log start never go back, and leave out nothing.
    Watermark,
    LogStart,
    /// A look-up by time finds the first record.
    Lookup,
    /// Committed offsets never go back.
    Commits,
    /// One leader, one assignment, one owner for each generation.
    Groups,
    /// Acknowledged creations and deletions hold.
    Topics,
    /// A producer id is given once; sequences are remembered.
    Producers,
    /// The broker starts on what it left behind.
    Recovery,
    /// The broker panicked.
    Panic,
    /// Answers follow Kafka's protocol, errors have a reason.
    Protocol,
    /// With all faults healed, everybody gets done.
    Liveness,
    /// trireme-fsck calls no directory damaged that a crash or a clean stop has left.
    Fsck,
}

thread_local! {
    static ONLY: Cell<Option<Checker>> = const { Cell::new(None) };
}

/// Histories that begin on this thread from now on listen to one checker, to try it by itself, or to all.
#[cfg(feature = "mutations")]
pub fn listen_to(only: Option<Checker>) {
    ONLY.set(only);
}

impl std::fmt::Display for Checker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&format!("{self:?}").to_lowercase())
    }
}

#[derive(Clone, Debug)]
pub struct Violation {
    pub checker: Checker,
    pub what: String,
}

/// What a run was made of.
#[derive(Clone, Copy, Default, Debug)]
pub struct Counts {
    pub acknowledged: u64,
    pub read: u64,
    pub commits: u64,
    pub rebalances: u64,
    pub topics_made: u64,
    pub topics_deleted: u64,
    pub records_deleted: u64,
}

impl Counts {
    pub fn add(&mut self, other: &Counts) {
        self.acknowledged += other.acknowledged;
        self.read += other.read;
        self.commits += other.commits;
        self.rebalances += other.rebalances;
        self.topics_made += other.topics_made;
        self.topics_deleted += other.topics_deleted;
        self.records_deleted += other.records_deleted;
    }
}

/// A record as it was sent.
#[derive(Clone, Copy)]
struct Sent {
    log: LogId,
    timestamp_ms: i64,
    value_len: u32,
    /// The how-manieth of its writer in this log.
    place: u32,
    attempts: u16,
    copies: u16,
    /// It was sent under two producer ids, of which the broker cannot know that they are one.
    may_double: bool,
    /// Where an acknowledgement or a reader saw it (the last one told), -1 if nowhere.
    offset: i64,
}

#[derive(Default)]
struct Writer {
    is_idempotent: bool,
    sent: Vec<Sent>,
    in_log: BTreeMap<LogId, u32>,
}

#[derive(Default)]
pub struct History {
    writers: BTreeMap<u16, Writer>,
    logs: Vec<Log>,
    commits: Commits,
    groups: Groups,
    producer_ids: BTreeMap<i64, i16>,
    /// Processes of the broker that have ended; and those of them that took their memory along unwritten.
    pub ends: u32,
    pub unclean_ends: u32,
    /// Of each process that has ended, whether it did so uncleanly.
    ended_uncleanly: Vec<bool>,
    /// Bits of files were flipped: a read may be refused, and so may a start. What is served has to be right nevertheless.
    pub is_rotten: bool,
    pub counts: Counts,
    violation: Option<Violation>,
    /// What others say is ignored.
    only: Option<Checker>,
    hash: u64,
    trace: Option<VecDeque<String>>,
}

impl History {
    pub fn new(traced: bool) -> History {
        History {
            trace: traced.then(VecDeque::new),
            only: ONLY.get(),
            ..History::default()
        }
    }

    /// The first violation is the one that counts: what follows may follow from it.
    pub fn violation(&self) -> Option<&Violation> {
        self.violation.as_ref()
    }

    pub fn broken(&mut self, checker: Checker, what: impl Into<String>) {
        if self.only.is_some_and(|only| only != checker) {
            return;
        }
        let what = what.into();
        self.note(0xBAD, || format!("VIOLATION of {checker}: {what}"));
        self.violation.get_or_insert(Violation { checker, what });
    }

    /// Goes into the hash of the run, and into its readable trace if there is one.
    pub fn note(&mut self, what: u64, line: impl FnOnce() -> String) {
        self.hash = mix(self.hash ^ what);
        if let Some(trace) = &mut self.trace {
            if trace.len() == TRACE_LINES_MAX {
                trace.pop_front();
            }
            let line = line();
            crate::trace::line(&line);
            trace.push_back(format!("{} {line}", crate::trace::clock()));
        }
    }

    pub fn hash(&self) -> u64 {
        self.hash
    }

    pub fn into_trace(self) -> Vec<String> {
        self.trace.into_iter().flatten().collect()
    }

    /// A process of the broker is gone.
    pub fn process_ended(&mut self, cleanly: bool, now: Instant) {
        self.ends += 1;
        self.unclean_ends += u32::from(!cleanly);
        self.ended_uncleanly.push(!cleanly);
        self.commits.process_ended(now);
    }

    pub fn new_writer(&mut self, is_idempotent: bool) -> u16 {
        let writer = self.writers.len() as u16 + 1;
        let state = Writer {
            is_idempotent,
            ..Writer::default()
        };
        self.writers.insert(writer, state);
        writer
    }

    /// A record is about to be sent for the first time.
    pub fn sending(
        &mut self,
        writer: u16,
        log: LogId,
        timestamp_ms: i64,
        value_len: usize,
    ) -> Name {
        let state = self.writers.get_mut(&writer).expect("a writer");
        let place = state.in_log.entry(log).or_default();
        state.sent.push(Sent {
            log,
            timestamp_ms,
            value_len: value_len as u32,
            place: *place,
            attempts: 0,
            copies: 0,
            may_double: false,
            offset: -1,
        });
        *place += 1;
        Name {
            writer,
            number: state.sent.len() as u32 - 1,
        }
    }

    pub fn attempt(&mut self, writer: u16, numbers: std::ops::Range<u32>) {
        let state = self.writers.get_mut(&writer).expect("a writer");
        for number in numbers {
            state.sent[number as usize].attempts += 1;
        }
    }

    /// Records that may be in the log already will be sent under another producer id.
    pub fn renumbering(&mut self, writer: u16, numbers: std::ops::Range<u32>) {
        let state = self.writers.get_mut(&writer).expect("a writer");
        for number in numbers {
            state.sent[number as usize].may_double = true;
        }
    }

    fn sent(&mut self, name: Name) -> Option<&mut Sent> {
        self.writers
            .get_mut(&name.writer)?
            .sent
            .get_mut(name.number as usize)
    }

    /// InitProducerId was answered.
    pub fn told_producer_id(&mut self, id: i64, epoch: i16) {
        self.note(id as u64, || format!("producer id {id} epoch {epoch}"));
        if self.producer_ids.insert(id, epoch) == Some(epoch) {
            self.broken(
                Checker::Producers,
                format!("producer id {id} epoch {epoch} was given twice"),
            );
        }
    }
}
