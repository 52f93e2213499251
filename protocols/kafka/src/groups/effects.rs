//! What a coordinator wants done: replies to send, mutations to persist, and what follows when they are durable.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;

use super::codec::{CommittedOffset, Encoder, Mutation};
use super::timers::Timers;
use super::{GroupConfig, GroupReply};

/// What the log adds to a mutation at most (record framing), for counting a batch's size.
const MUTATION_OVERHEAD_BYTES: usize = 32;

/// Names a request until it is answered; chosen by the shell.
pub type Token = u64;

/// The two clocks: deadlines live on the one that never jumps, timestamps on the one that people read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    pub monotonic_ms: i64,
    pub unix_ms: i64,
}

/// Why mutations could not be persisted. Nothing of them is in the log then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PersistError {
    /// No space, or too much in flight: worth a retry.
    Refused,
    /// The broker is shutting down.
    ShuttingDown,
}

/// What happens once a mutation is durable (or was refused).
#[derive(Debug)]
pub(super) enum Then {
    /// Nobody waits: a group became empty.
    Nothing { group: Arc<str> },
    /// Offsets take effect and their commit is answered.
    Commit {
        token: Token,
        group: Arc<str>,
        offsets: Vec<(Arc<str>, i32, CommittedOffset)>,
        reply: GroupReply,
    },
    /// Offsets vanish; `reply` to whoever asked for it.
    Forget {
        group: Arc<str>,
        offsets: Vec<(Arc<str>, i32)>,
        reply: Option<(Token, GroupReply)>,
    },
    /// The group itself vanishes with its offsets.
    Delete {
        group: Arc<str>,
        reply: Option<(Token, GroupReply)>,
    },
    /// The leader's assignment is durable: tell the members.
    Assigned {
        group: Arc<str>,
        generation: i32,
        assignments: BTreeMap<Arc<str>, Bytes>,
    },
    /// A static member came back under a new id without a rebalance: answer its JoinGroup.
    Replaced {
        group: Arc<str>,
        member: Arc<str>,
        previous: Box<super::group::Replaced>,
        api_version: i16,
    },
    /// An OffsetFetch that waited for the commits before it.
    Fetch {
        token: Token,
        group: super::offset_fetch_request::OffsetFetchRequestGroup,
    },
}

#[derive(Debug)]
struct Pending {
    /// The newest mutation before its own.
    after: u64,
    /// Its newest mutation.
    sequence: u64,
    then: Then,
}

/// Shared by all groups of a coordinator.
#[derive(Debug)]
pub(super) struct Effects {
    pub(super) config: GroupConfig,
    pub(super) now: Now,
    pub(super) timers: Timers,
    pub(super) replies: Vec<(Token, GroupReply)>,
    pub(super) encoder: Encoder,
    batch: VecDeque<Mutation>,
    /// In the order of `sequence`, which is the order of the log.
    pending: VecDeque<Pending>,
    /// Of the newest mutation.
    sequence: u64,
    /// The newest mutation that something already waits for.
    claimed: u64,
    /// The newest mutation that was refused.
    refused: u64,
}

impl Effects {
    pub(super) fn new(config: GroupConfig) -> Self {
        Self {
            config,
            now: Now {
                monotonic_ms: 0,
                unix_ms: 0,
            },
            timers: Timers::default(),
            replies: Vec::new(),
            encoder: Encoder::default(),
            batch: VecDeque::new(),
            pending: VecDeque::new(),
            sequence: 0,
            claimed: 0,
            refused: 0,
        }
    }

    pub(super) fn reply(&mut self, token: Token, reply: GroupReply) {
        self.replies.push((token, reply));
    }

    /// Adds a mutation; [`then`](Self::then) says what follows it and the others since the last `then`.
    pub(super) fn mutate(&mut self, mutation: Mutation) {
        self.batch.push_back(mutation);
        self.sequence += 1;
    }

    /// `then` happens when everything mutated so far is durable, and after all that was asked for before it.
    pub(super) fn then(&mut self, then: Then) {
        self.pending.push_back(Pending {
            after: self.claimed,
            sequence: self.sequence,
            then,
        });
        self.claimed = self.sequence;
    }

    pub(super) fn has_batch(&self) -> bool {
        !self.batch.is_empty()
    }

    pub(super) fn is_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    pub(super) fn pending(&self) -> impl Iterator<Item = &Then> {
        self.pending.iter().map(|pending| &pending.then)
    }

    /// The oldest mutations that were not taken yet, at most `max_bytes` of them (but at least one), with the number to
    /// report when they are durable. Of several for one key only the last is given out: a batch is all or nothing, so nobody
    /// can see the others, and a busy group's commits cost the log one entry per partition and write.
    pub(super) fn take_batch(&mut self, max_bytes: usize) -> Option<(u64, Vec<Mutation>)> {
        let mut bytes = 0;
        let fits = |m: &&Mutation| {
            bytes +=
                MUTATION_OVERHEAD_BYTES + m.key.len() + m.value.as_ref().map_or(0, |v| v.len());
            bytes <= max_bytes
        };
        let count = self
            .batch
            .iter()
            .take_while(fits)
            .count()
            .max(1)
            .min(self.batch.len());
        if count == 0 {
            return None;
        }
        let last: BTreeMap<_, _> = self
            .batch
            .drain(..count)
            .map(|m| (m.key, m.value))
            .collect();
        let batch = last
            .into_iter()
            .map(|(key, value)| Mutation { key, value })
            .collect();
        Some((self.sequence - self.batch.len() as u64, batch))
    }

    /// What a refusal of the batch `number` means is decided by [`next_durable`](Self::next_durable).
    pub(super) fn refuse(&mut self, number: u64) {
        self.refused = self.refused.max(number);
    }

    /// The oldest continuation whose mutations are all settled when those up to `number` are, and whether they are durable:
    /// one whose mutations went out in several batches needs all of them.
    pub(super) fn next_durable(&mut self, number: u64) -> Option<(Then, bool)> {
        if self.pending.front()?.sequence > number {
            return None;
        }
        let Pending {
            after,
            then,
            sequence,
        } = self.pending.pop_front()?;
        Some((then, sequence == after || self.refused <= after))
    }
}
