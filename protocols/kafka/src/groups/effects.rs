//! What a coordinator wants done: replies to send, mutations to persist, and what follows when they are durable.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use super::codec::{CommittedOffset, Encoder, Mutation};
use super::timers::Timers;
use super::{GroupConfig, GroupReply};

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
    Commit { token: Token, group: Arc<str>, offsets: Vec<(Arc<str>, i32, CommittedOffset)>, reply: GroupReply },
    /// Offsets vanish; `reply` to whoever asked for it.
    Forget { group: Arc<str>, offsets: Vec<(Arc<str>, i32)>, reply: Option<(Token, GroupReply)> },
    /// The group itself vanishes with its offsets.
    Delete { group: Arc<str>, reply: Option<(Token, GroupReply)> },
    /// The leader's assignment is durable: tell the members.
    Assigned { group: Arc<str>, generation: i32, assignments: Vec<(Arc<str>, Bytes)> },
    /// A static member came back under a new id without a rebalance: answer its JoinGroup.
    Replaced { group: Arc<str>, member: Arc<str>, previous: Box<super::group::Replaced>, api_version: i16 },
    /// An OffsetFetch that waited for the commits before it.
    Fetch { token: Token, group: super::offset_fetch_request::OffsetFetchRequestGroup },
}

#[derive(Debug)]
pub(super) struct Pending {
    pub(super) sequence: u64,
    pub(super) then: Then,
}

/// Shared by all groups of a coordinator.
#[derive(Debug)]
pub(super) struct Effects {
    pub(super) config: GroupConfig,
    pub(super) now: Now,
    pub(super) timers: Timers,
    pub(super) replies: Vec<(Token, GroupReply)>,
    pub(super) encoder: Encoder,
    batch: Vec<Mutation>,
    /// In the order of `sequence`, which is the order of the log.
    pending: VecDeque<Pending>,
    /// Of the newest mutation.
    sequence: u64,
}

impl Effects {
    pub(super) fn new(config: GroupConfig) -> Self {
        Self {
            config,
            now: Now { monotonic_ms: 0, unix_ms: 0 },
            timers: Timers::default(),
            replies: Vec::new(),
            encoder: Encoder::default(),
            batch: Vec::new(),
            pending: VecDeque::new(),
            sequence: 0,
        }
    }

    pub(super) fn reply(&mut self, token: Token, reply: GroupReply) {
        self.replies.push((token, reply));
    }

    /// Adds a mutation to the batch under construction.
    pub(super) fn mutate(&mut self, mutation: Mutation) {
        self.batch.push(mutation);
        self.sequence += 1;
    }

    /// `then` happens when everything mutated so far is durable, and after all that was asked for before it.
    pub(super) fn then(&mut self, then: Then) {
        self.pending.push_back(Pending { sequence: self.sequence, then });
    }

    pub(super) fn is_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    pub(super) fn pending(&self) -> impl Iterator<Item = &Then> {
        self.pending.iter().map(|pending| &pending.then)
    }

    /// The mutations since the last call, with the sequence number to report when they are durable.
    pub(super) fn take_batch(&mut self) -> Option<(u64, Vec<Mutation>)> {
        if self.batch.is_empty() {
            return None;
        }
        Some((self.sequence, std::mem::take(&mut self.batch)))
    }

    /// The oldest continuation at or below `sequence`.
    pub(super) fn next_durable(&mut self, sequence: u64) -> Option<Then> {
        if self.pending.front()?.sequence > sequence {
            return None;
        }
        self.pending.pop_front().map(|pending| pending.then)
    }
}
