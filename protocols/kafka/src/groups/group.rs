//! One group: its members, its generation, and the questions the protocol asks about them. No request is answered here;
//! see [`classic`](super::classic) for what happens when.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use kacrab_protocol::generated::join_group_request::JoinGroupRequestProtocol;

use super::CONSUMER_PROTOCOL_TYPE;
use super::codec::{CommittedOffset, DecodeError, GroupEntry, MemberEntry};
use super::effects::Token;
use super::error;
use super::subscription::topics_of;
use super::timers::TimerId;

/// Where a group is between two generations.
///
/// `Empty` → `PreparingRebalance` (members join) → `CompletingRebalance` (members wait for the leader's assignment) →
/// `Stable`; any change of membership leads back to `PreparingRebalance`, no member at all to `Empty`. A group that Kafka
/// calls dead does not exist here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Empty,
    PreparingRebalance,
    CompletingRebalance,
    Stable,
}

impl State {
    pub(super) fn name(self) -> &'static str {
        match self {
            State::Empty => "Empty",
            State::PreparingRebalance => "PreparingRebalance",
            State::CompletingRebalance => "CompletingRebalance",
            State::Stable => "Stable",
        }
    }
}

/// An assignor that a member supports, with what it has to say to the leader under it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Protocol {
    pub(super) name: Arc<str>,
    pub(super) metadata: Bytes,
}

/// Copies: a request's own bytes would keep its whole frame alive.
pub(super) fn protocols_of(request: &[JoinGroupRequestProtocol]) -> Vec<Protocol> {
    request
        .iter()
        .map(|p| Protocol {
            name: p.name.as_str().into(),
            metadata: Bytes::copy_from_slice(&p.metadata),
        })
        .collect()
}

#[derive(Debug)]
pub(super) struct Member {
    pub(super) id: Arc<str>,
    pub(super) instance_id: Option<Arc<str>>,
    pub(super) client_id: Box<str>,
    pub(super) client_host: Box<str>,
    pub(super) rebalance_timeout_ms: i32,
    pub(super) session_timeout_ms: i32,
    /// In the order of the member's preference, at least one.
    pub(super) protocols: Vec<Protocol>,
    pub(super) assignment: Bytes,
    pub(super) awaiting_join: Option<Token>,
    pub(super) awaiting_sync: Option<Token>,
    /// Has not completed a join phase yet: its session may expire while its JoinGroup is parked.
    pub(super) is_new: bool,
    /// When its session ends; `timer` may be armed for an earlier moment.
    pub(super) deadline_ms: i64,
    pub(super) timer: Option<TimerId>,
}

impl Member {
    pub(super) fn metadata(&self, protocol: &str) -> Option<&Bytes> {
        self.protocols
            .iter()
            .find(|p| &*p.name == protocol)
            .map(|p| &p.metadata)
    }

    pub(super) fn supports_same(&self, protocols: &[JoinGroupRequestProtocol]) -> bool {
        self.protocols.len() == protocols.len()
            && self
                .protocols
                .iter()
                .zip(protocols)
                .all(|(a, b)| *a.name == *b.name.as_str() && a.metadata == b.metadata)
    }
}

/// What a static member looked like before its instance came back under a new member id; to go back to if that cannot be
/// persisted.
#[derive(Debug)]
pub(super) struct Replaced {
    pub(super) old_id: Arc<str>,
    pub(super) protocols: Vec<Protocol>,
    pub(super) rebalance_timeout_ms: i32,
    pub(super) session_timeout_ms: i32,
    pub(super) leader: Option<Arc<str>>,
}

#[derive(Debug)]
pub(super) struct Group {
    pub(super) id: Arc<str>,
    pub(super) state: State,
    /// Wall clock time of the last change of state; None for one loaded without.
    pub(super) state_since_unix_ms: Option<i64>,
    pub(super) generation: i32,
    pub(super) protocol_type: Option<Arc<str>>,
    pub(super) protocol: Option<Arc<str>>,
    pub(super) leader: Option<Arc<str>>,
    pub(super) members: BTreeMap<Arc<str>, Member>,
    /// Instance id to member id.
    pub(super) static_members: BTreeMap<Arc<str>, Arc<str>>,
    /// Ids given out with MEMBER_ID_REQUIRED that have not come back yet.
    pub(super) pending_join: BTreeMap<Arc<str>, Option<TimerId>>,
    /// Members of the current generation that have not asked for their assignment yet.
    pub(super) pending_sync: BTreeSet<Arc<str>>,
    /// Members with a parked JoinGroup.
    pub(super) awaiting_join: usize,
    /// How many members support a protocol.
    supported: BTreeMap<Arc<str>, usize>,
    /// Topics that the stable generation's members subscribe to; None when that is not known.
    pub(super) subscribed: Option<BTreeSet<Arc<str>>>,
    /// Somebody joined during the initial delay.
    pub(super) new_member_added: bool,
    pub(super) join_timer: Option<TimerId>,
    pub(super) sync_timer: Option<TimerId>,
    /// While the initial delay runs: its length and how much it may still be extended.
    pub(super) initial_delay_ms: Option<(i64, i64)>,
    /// Committed offsets, durable ones only.
    pub(super) offsets: BTreeMap<Arc<str>, BTreeMap<i32, CommittedOffset>>,
    /// Continuations of this group that wait for their mutations to be durable.
    pub(super) pending_writes: u32,
    /// The table has an entry of the group itself.
    pub(super) persisted: bool,
}

impl Group {
    pub(super) fn new(id: Arc<str>, unix_ms: i64) -> Self {
        Self {
            id,
            state: State::Empty,
            state_since_unix_ms: Some(unix_ms),
            generation: 0,
            protocol_type: None,
            protocol: None,
            leader: None,
            members: BTreeMap::new(),
            static_members: BTreeMap::new(),
            pending_join: BTreeMap::new(),
            pending_sync: BTreeSet::new(),
            awaiting_join: 0,
            supported: BTreeMap::new(),
            subscribed: None,
            new_member_added: false,
            join_timer: None,
            sync_timer: None,
            initial_delay_ms: None,
            offsets: BTreeMap::new(),
            pending_writes: 0,
            persisted: false,
        }
    }

    /// Without members: it may be deleted, and simple consumers may commit.
    pub(super) fn is_empty(&self) -> bool {
        self.state == State::Empty
    }

    /// Nothing speaks of this group, neither a client nor the table: it need not exist.
    pub(super) fn is_vacant(&self) -> bool {
        self.is_empty()
            && self.pending_join.is_empty()
            && self.offsets.is_empty()
            && self.pending_writes == 0
            && !self.persisted
    }

    /// From its persisted entry: stable with its members, or empty. Sessions are to be started by the caller.
    pub(super) fn restore(&mut self, entry: GroupEntry) -> Result<(), DecodeError> {
        self.persisted = true;
        self.generation = entry.generation;
        self.state_since_unix_ms = entry.state_since_unix_ms;
        self.protocol_type = entry.protocol_type;
        self.protocol = entry.protocol;
        self.state = if entry.members.is_empty() {
            State::Empty
        } else {
            State::Stable
        };
        for member in entry.members {
            let name = self
                .protocol
                .clone()
                .ok_or(DecodeError::Inconsistent("members without a protocol"))?;
            let member = Member {
                id: member.id,
                instance_id: member.instance_id,
                client_id: member.client_id,
                client_host: member.client_host,
                rebalance_timeout_ms: member.rebalance_timeout_ms,
                session_timeout_ms: member.session_timeout_ms,
                protocols: vec![Protocol {
                    name,
                    metadata: member.subscription,
                }],
                assignment: member.assignment,
                awaiting_join: None,
                awaiting_sync: None,
                is_new: false,
                deadline_ms: 0,
                timer: None,
            };
            let twin = member
                .instance_id
                .as_ref()
                .is_some_and(|instance| self.static_members.contains_key(instance));
            if twin || self.members.contains_key(&member.id) {
                return Err(DecodeError::Inconsistent("a member twice"));
            }
            self.add(member);
        }
        if entry
            .leader
            .as_ref()
            .is_some_and(|leader| !self.members.contains_key(leader))
        {
            return Err(DecodeError::Inconsistent("the leader is no member"));
        }
        if !self.members.is_empty() {
            self.leader = entry.leader.or(self.leader.take());
        }
        self.subscribed = self.subscriptions();
        Ok(())
    }

    /// The entry to persist, with `assignment` instead of the members' own where it is given (then none means empty).
    pub(super) fn entry(&self, assignment: Option<&BTreeMap<Arc<str>, Bytes>>) -> GroupEntry {
        let protocol = self.protocol.as_deref();
        let members = self.members.values().map(|member| MemberEntry {
            id: member.id.clone(),
            instance_id: member.instance_id.clone(),
            client_id: member.client_id.clone(),
            client_host: member.client_host.clone(),
            rebalance_timeout_ms: member.rebalance_timeout_ms,
            session_timeout_ms: member.session_timeout_ms,
            subscription: protocol
                .and_then(|p| member.metadata(p))
                .cloned()
                .unwrap_or_default(),
            assignment: match assignment {
                Some(assignment) => assignment.get(&member.id).cloned().unwrap_or_default(),
                None => member.assignment.clone(),
            },
        });
        GroupEntry {
            generation: self.generation,
            state_since_unix_ms: self.state_since_unix_ms,
            protocol_type: self.protocol_type.clone(),
            protocol: self.protocol.clone(),
            leader: self.leader.clone(),
            members: members.collect(),
        }
    }

    pub(super) fn transition(&mut self, state: State, unix_ms: i64) {
        let valid = match state {
            State::Empty | State::CompletingRebalance => self.state == State::PreparingRebalance,
            State::PreparingRebalance => self.state != State::PreparingRebalance,
            State::Stable => self.state == State::CompletingRebalance,
        };
        assert!(
            valid,
            "group {}: no way from {:?} to {state:?}",
            self.id, self.state
        );
        self.state = state;
        self.state_since_unix_ms = Some(unix_ms);
    }

    pub(super) fn add(&mut self, member: Member) {
        if let Some(instance) = &member.instance_id {
            let twin = self
                .static_members
                .insert(instance.clone(), member.id.clone());
            assert!(
                twin.is_none(),
                "group {}: a second member for instance {instance}",
                self.id
            );
        }
        if self.leader.is_none() {
            self.leader = Some(member.id.clone());
        }
        self.count(&member.protocols, true);
        self.awaiting_join += usize::from(member.awaiting_join.is_some());
        let twin = self.members.insert(member.id.clone(), member);
        assert!(twin.is_none(), "group {}: a member added twice", self.id);
    }

    /// Takes a member out; its parked requests and its timer are the caller's to end.
    pub(super) fn remove(&mut self, id: &str) -> Option<Member> {
        let member = self.members.remove(id)?;
        self.count(&member.protocols, false);
        self.awaiting_join -= usize::from(member.awaiting_join.is_some());
        if let Some(instance) = &member.instance_id {
            self.static_members.remove(instance);
        }
        if self.is_leader(id) {
            self.leader = self.members.keys().next().cloned();
        }
        self.pending_sync.remove(id);
        Some(member)
    }

    /// Gives the member of `instance` a new id, with everything else as it was, and leadership if it had it.
    pub(super) fn rename(&mut self, instance: &Arc<str>, old_id: &str, new_id: Arc<str>) {
        let mut member = self
            .members
            .remove(old_id)
            .expect("a static member's id is that of a member");
        member.id = new_id.clone();
        self.pending_sync.remove(old_id);
        if self.is_leader(old_id) {
            self.leader = Some(new_id.clone());
        }
        self.members.insert(new_id.clone(), member);
        self.static_members.insert(instance.clone(), new_id);
    }

    /// New protocols, time-outs and parked JoinGroup of a member. Returns the token that was parked before.
    pub(super) fn update(
        &mut self,
        id: &str,
        protocols: Vec<Protocol>,
        rebalance_timeout_ms: i32,
        session_timeout_ms: i32,
        awaiting_join: Option<Token>,
    ) -> Option<Token> {
        let member = self.members.get_mut(id).expect("only members are updated");
        let old = std::mem::replace(&mut member.protocols, protocols);
        member.rebalance_timeout_ms = rebalance_timeout_ms;
        member.session_timeout_ms = session_timeout_ms;
        let parked = std::mem::replace(&mut member.awaiting_join, awaiting_join);
        let new = member.protocols.clone();
        self.count(&old, false);
        self.count(&new, true);
        self.awaiting_join += usize::from(awaiting_join.is_some());
        self.awaiting_join -= usize::from(parked.is_some());
        parked
    }

    /// The parked JoinGroup of a member, if there is one.
    pub(super) fn take_join(&mut self, id: &str) -> Option<Token> {
        let token = self.members.get_mut(id)?.awaiting_join.take();
        self.awaiting_join -= usize::from(token.is_some());
        token
    }

    /// A protocol that a member names twice counts once.
    fn count(&mut self, protocols: &[Protocol], up: bool) {
        for (i, protocol) in protocols.iter().enumerate() {
            if protocols[..i].iter().any(|p| p.name == protocol.name) {
                continue;
            }
            let count = self.supported.entry(protocol.name.clone()).or_insert(0);
            if up {
                *count += 1;
            } else {
                *count -= 1;
                if *count == 0 {
                    self.supported.remove(&protocol.name);
                }
            }
        }
    }

    /// Whether somebody with this protocol type and these protocols can be a member beside the present ones.
    pub(super) fn supports(
        &self,
        protocol_type: &str,
        protocols: &[JoinGroupRequestProtocol],
    ) -> bool {
        if self.state == State::Empty {
            return !protocol_type.is_empty() && !protocols.is_empty();
        }
        if self.members.is_empty() {
            // Only members-to-be are left: whoever comes first decides.
            return !protocol_type.is_empty() && !protocols.is_empty();
        }
        self.protocol_type.as_deref() == Some(protocol_type)
            && protocols
                .iter()
                .any(|p| self.supported.get(p.name.as_str()) == Some(&self.members.len()))
    }

    /// The protocol with the most votes: each member votes for the first of its own that all members support. A tie goes to
    /// the one that the leader prefers, else to the first by name.
    pub(super) fn select_protocol(&self) -> Option<Arc<str>> {
        let candidate = |p: &&Protocol| self.supported.get(&p.name) == Some(&self.members.len());
        let mut votes: BTreeMap<&Arc<str>, usize> = BTreeMap::new();
        for member in self.members.values() {
            *votes
                .entry(&member.protocols.iter().find(candidate)?.name)
                .or_default() += 1;
        }
        let most = *votes.values().max()?;
        let leader = self.leader.as_ref().and_then(|id| self.members.get(id));
        let preferred = leader.and_then(|l| {
            l.protocols
                .iter()
                .find(|p| votes.get(&p.name) == Some(&most))
        });
        match preferred {
            Some(protocol) => Some(protocol.name.clone()),
            None => votes
                .into_iter()
                .find(|&(_, count)| count == most)
                .map(|(name, _)| name.clone()),
        }
    }

    pub(super) fn is_leader(&self, id: &str) -> bool {
        self.leader.as_deref() == Some(id)
    }

    pub(super) fn all_joined(&self) -> bool {
        self.awaiting_join == self.members.len() && self.pending_join.is_empty()
    }

    /// A leader that has a parked JoinGroup; elects one if the present one has none. False: nobody joined.
    pub(super) fn elect_joined_leader(&mut self) -> bool {
        let Some(leader) = &self.leader else {
            return false;
        };
        if self
            .members
            .get(leader)
            .is_some_and(|member| member.awaiting_join.is_some())
        {
            return true;
        }
        match self
            .members
            .values()
            .find(|member| member.awaiting_join.is_some())
        {
            Some(member) => {
                self.leader = Some(member.id.clone());
                true
            }
            None => false,
        }
    }

    /// The longest of the members' rebalance time-outs.
    pub(super) fn rebalance_timeout_ms(&self) -> i64 {
        self.members
            .values()
            .map(|m| i64::from(m.rebalance_timeout_ms))
            .max()
            .unwrap_or(0)
            .max(0)
    }

    /// Whether `id` (and instance) is a member; else the error to answer.
    pub(super) fn check_member(&self, id: &str, instance: Option<&str>) -> Result<(), i16> {
        if let Some(instance) = instance {
            match self.static_members.get(instance) {
                None => return Err(error::UNKNOWN_MEMBER_ID),
                Some(current) if **current != *id => return Err(error::FENCED_INSTANCE_ID),
                Some(_) => {}
            }
        }
        if self.members.contains_key(id) {
            Ok(())
        } else {
            Err(error::UNKNOWN_MEMBER_ID)
        }
    }

    /// Next generation: its protocol, and the topics its members subscribe to.
    pub(super) fn next_generation(&mut self, unix_ms: i64) {
        // A generation is an i32 that only rises; Kafka's clients treat negative ones as none.
        self.generation = self.generation.checked_add(1).unwrap_or(1);
        if self.members.is_empty() {
            self.protocol = None;
            self.transition(State::Empty, unix_ms);
        } else {
            self.protocol = self.select_protocol();
            assert!(
                self.protocol.is_some(),
                "group {}: members without a common protocol",
                self.id
            );
            self.transition(State::CompletingRebalance, unix_ms);
        }
        self.subscribed = self.subscriptions();
        self.pending_sync.clear();
    }

    pub(super) fn uses_consumer_protocol(&self) -> bool {
        self.protocol_type.as_deref() == Some(CONSUMER_PROTOCOL_TYPE)
    }

    fn subscriptions(&self) -> Option<BTreeSet<Arc<str>>> {
        if !self.uses_consumer_protocol() {
            return None;
        }
        let mut topics = BTreeSet::new();
        if self.members.is_empty() {
            return Some(topics);
        }
        let protocol = self.protocol.as_deref()?;
        let known = self.members.values().all(|m| {
            m.metadata(protocol)
                .is_some_and(|s| topics_of(s, &mut topics))
        });
        known.then_some(topics)
    }

    pub(super) fn is_subscribed(&self, topic: &str) -> bool {
        self.subscribed
            .as_ref()
            .map_or(self.uses_consumer_protocol(), |topics| {
                topics.contains(topic)
            })
    }
}
