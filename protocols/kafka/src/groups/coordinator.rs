//! The groups of one group partition: requests in, replies and mutations out.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use kacrab_protocol::KafkaString;
use kacrab_protocol::generated::delete_groups_response::DeletableGroupResult;
use kacrab_protocol::generated::join_group_request::JoinGroupRequestData;
use kacrab_protocol::generated::leave_group_response::{LeaveGroupResponseData, MemberResponse};
use kacrab_protocol::generated::list_groups_response::ListGroupsResponseData;
use kacrab_protocol::generated::offset_commit_request::OffsetCommitRequestData;

use super::codec::{DecodeError, Key, Mutation, decode_group, decode_key, decode_offset};
use super::effects::{Effects, Now, PersistError, Then, Token};
use super::group::Group;
use super::timers::Due;
use super::{
    Client, GroupConfig, GroupReply, GroupRequest, MAX_GROUP_SIZE, MAX_GROUPS_PER_PARTITION,
    classic, error, offsets, view,
};

/// Longest name that a group, an instance or a protocol may have. Kafka's strings end at 32,767 bytes.
const MAX_NAME_BYTES: usize = 32_767 - 64;

/// State machine of all groups of one group partition. See the [module](super).
pub struct Coordinator {
    groups: BTreeMap<Arc<str>, Group>,
    fx: Effects,
}

impl Coordinator {
    /// Empty. Feed it the table's entries with [`load`](Self::load), then call [`start`](Self::start).
    pub fn new(mut config: GroupConfig) -> Self {
        config.max_size = config.max_size.min(MAX_GROUP_SIZE);
        config.offset_metadata_max_bytes = config.offset_metadata_max_bytes.min(MAX_NAME_BYTES);
        Self {
            groups: BTreeMap::new(),
            fx: Effects::new(config),
        }
    }

    /// Takes one entry of the table, in any order.
    pub fn load(&mut self, key: &[u8], value: &[u8]) -> Result<(), DecodeError> {
        match decode_key(key)? {
            Key::Group(id) => self.loading(id).restore(decode_group(value)?),
            Key::Offset {
                group,
                topic,
                partition,
            } => {
                let value = decode_offset(value)?;
                let group = self.loading(group);
                let topic = match group.offsets.get_key_value(&topic) {
                    Some((name, _)) => name.clone(),
                    None => topic,
                };
                group
                    .offsets
                    .entry(topic)
                    .or_default()
                    .insert(partition, value);
                Ok(())
            }
        }
    }

    fn loading(&mut self, id: Arc<str>) -> &mut Group {
        self.groups
            .entry(id)
            .or_insert_with_key(|id| Group::new(id.clone(), 0))
    }

    /// All entries are loaded: members' sessions begin now, so that heartbeats are all they need to go on.
    pub fn start(&mut self, now: Now) {
        self.fx.now = now;
        for group in self.groups.values_mut() {
            let ids: Vec<_> = group.members.keys().cloned().collect();
            for id in ids {
                classic::reschedule_session(group, &mut self.fx, &id);
            }
            if group.members.len() > self.fx.config.max_size {
                classic::prepare_rebalance(group, &mut self.fx);
            }
        }
    }

    /// Replaces the settings; timers that run keep theirs.
    pub fn configure(&mut self, mut config: GroupConfig) {
        config.max_size = config.max_size.min(MAX_GROUP_SIZE);
        config.offset_metadata_max_bytes = config.offset_metadata_max_bytes.min(MAX_NAME_BYTES);
        self.fx.config = config;
    }

    /// Takes a request. Its reply comes out of [`take_replies`](Self::take_replies) under `token`, now or later.
    /// `random` goes into the id of a new member.
    pub fn handle(&mut self, token: Token, request: GroupRequest, now: Now, random: [u8; 16]) {
        self.fx.now = now;
        let fx = &mut self.fx;
        match request {
            GroupRequest::Join(client, request) => self.join(token, client, request, random),
            GroupRequest::Sync(request) => match self.groups.get_mut(request.group_id.as_str()) {
                _ if request.group_id.is_empty() => {
                    fx.reply(token, classic::sync_error(error::INVALID_GROUP_ID))
                }
                Some(group) => classic::sync(group, fx, token, &request),
                None => fx.reply(token, classic::sync_error(error::UNKNOWN_MEMBER_ID)),
            },
            GroupRequest::Heartbeat(request) => {
                let code = match self.groups.get_mut(request.group_id.as_str()) {
                    _ if request.group_id.is_empty() => error::INVALID_GROUP_ID,
                    Some(group) => classic::heartbeat(group, fx, &request),
                    None => error::UNKNOWN_MEMBER_ID,
                };
                fx.reply(token, GroupReply::Heartbeat(code));
            }
            GroupRequest::Leave(request) => {
                let reply = match self.groups.get_mut(request.group_id.as_str()) {
                    _ if request.group_id.is_empty() => LeaveGroupResponseData {
                        error_code: error::INVALID_GROUP_ID,
                        ..Default::default()
                    },
                    Some(group) => classic::leave(group, fx, &request),
                    None => {
                        let members = request.members.iter().map(|who| MemberResponse {
                            member_id: classic::string(who.member_id.as_str()),
                            group_instance_id: who
                                .group_instance_id
                                .as_ref()
                                .map(|i| classic::string(i.as_str())),
                            error_code: error::UNKNOWN_MEMBER_ID,
                            ..Default::default()
                        });
                        LeaveGroupResponseData {
                            members: members.collect(),
                            ..Default::default()
                        }
                    }
                };
                fx.reply(token, GroupReply::Leave(reply));
            }
            GroupRequest::Commit(client, request) => self.commit(token, &client, &request),
            GroupRequest::Fetch {
                group: request,
                require_stable,
            } => {
                let group = self.groups.get(request.group_id.as_str());
                if require_stable
                    && group.is_some_and(|group| group.pending_writes > 0)
                    && fx.is_pending()
                {
                    fx.then(Then::Fetch {
                        token,
                        group: request,
                    });
                } else {
                    fx.reply(token, GroupReply::Fetch(offsets::fetch(group, &request)));
                }
            }
            GroupRequest::DeleteOffsets(request) => {
                match self.groups.get_mut(request.group_id.as_str()) {
                    _ if request.group_id.is_empty() => {
                        fx.reply(token, offsets::delete_error(error::INVALID_GROUP_ID))
                    }
                    Some(group) => offsets::delete(group, fx, token, &request),
                    None => fx.reply(token, offsets::delete_error(error::GROUP_ID_NOT_FOUND)),
                }
            }
            GroupRequest::List { states, types } => {
                let groups = self
                    .groups
                    .values()
                    .filter(|group| view::is_listed(group, &states, &types));
                let groups = groups.map(view::listed).collect();
                fx.reply(
                    token,
                    GroupReply::List(ListGroupsResponseData {
                        groups,
                        ..Default::default()
                    }),
                );
            }
            GroupRequest::Describe(id) => {
                let reply = match self.groups.get(id.as_str()) {
                    Some(group) => view::described(group),
                    None => view::unknown(&id),
                };
                fx.reply(token, GroupReply::Describe(reply));
            }
            GroupRequest::Delete(id) => self.delete(token, &id),
        }
    }

    fn join(
        &mut self,
        token: Token,
        client: Client,
        request: JoinGroupRequestData,
        random: [u8; 16],
    ) {
        let fx = &mut self.fx;
        let (id, member) = (request.group_id.as_str(), request.member_id.as_str());
        let long = |s: &KafkaString| s.len() > MAX_NAME_BYTES;
        let names_too_long = long(&request.protocol_type)
            || request.group_instance_id.as_ref().is_some_and(long)
            || request.protocols.iter().any(|p| long(&p.name));
        let code = if id.is_empty() || long(&request.group_id) {
            error::INVALID_GROUP_ID
        } else if request.session_timeout_ms < fx.config.min_session_timeout_ms
            || request.session_timeout_ms > fx.config.max_session_timeout_ms
        {
            error::INVALID_SESSION_TIMEOUT
        } else if names_too_long {
            error::INCONSISTENT_GROUP_PROTOCOL
        } else if self.groups.contains_key(id) {
            error::NONE
        } else if !member.is_empty() {
            error::UNKNOWN_MEMBER_ID
        } else if self.groups.len() >= MAX_GROUPS_PER_PARTITION {
            error::COORDINATOR_NOT_AVAILABLE
        } else {
            error::NONE
        };
        if code != error::NONE {
            return fx.reply(token, classic::join_error(member, code));
        }
        let group = get_or_create(&mut self.groups, id, fx.now);
        classic::join(group, fx, token, &client, &request, random);
        if group.is_vacant() {
            self.groups.remove(id);
        }
    }

    fn commit(&mut self, token: Token, client: &Client, request: &OffsetCommitRequestData) {
        let fx = &mut self.fx;
        let id = request.group_id.as_str();
        if !self.groups.contains_key(id) {
            let checked = if request.group_id.len() > MAX_NAME_BYTES {
                Err(error::INVALID_GROUP_ID)
            } else if self.groups.len() >= MAX_GROUPS_PER_PARTITION {
                Err(error::COORDINATOR_NOT_AVAILABLE)
            } else {
                offsets::check_unknown_group(client, request)
            };
            if let Err(code) = checked {
                return fx.reply(token, offsets::commit_error(request, code));
            }
        }
        let group = get_or_create(&mut self.groups, id, fx.now);
        offsets::commit(group, fx, token, request);
        if group.is_vacant() {
            self.groups.remove(id);
        }
    }

    fn delete(&mut self, token: Token, id: &KafkaString) {
        let fx = &mut self.fx;
        let reply = |error_code| {
            let group_id = classic::string(id.as_str());
            GroupReply::Delete(DeletableGroupResult {
                group_id,
                error_code,
                ..Default::default()
            })
        };
        match self.groups.get_mut(id.as_str()) {
            None => fx.reply(token, reply(error::GROUP_ID_NOT_FOUND)),
            Some(group) if !group.is_empty() => fx.reply(token, reply(error::NON_EMPTY_GROUP)),
            Some(group) => remove_group(group, fx, Some((token, reply(error::NONE)))),
        }
    }

    /// The topic is gone: forgets the offsets committed for it.
    pub fn topic_deleted(&mut self, topic: &str, now: Now) {
        self.fx.now = now;
        for group in self.groups.values_mut() {
            let gone: Vec<_> = offsets::all_offsets(group, &self.fx, Some(topic))
                .into_iter()
                .collect();
            forget(group, &mut self.fx, gone);
        }
    }

    /// Forgets offsets of topics that do not exist; for those that were deleted while nobody looked.
    pub fn retain_topics(&mut self, exists: impl Fn(&str) -> bool, now: Now) {
        let topics = self.groups.values().flat_map(|group| group.offsets.keys());
        let gone: BTreeSet<Arc<str>> = topics.filter(|topic| !exists(topic)).cloned().collect();
        for topic in gone {
            self.topic_deleted(&topic, now);
        }
    }

    /// Forgets offsets past their retention, and groups that have neither members nor offsets. Call it every
    /// `offsets.retention.check.interval.ms`.
    pub fn expire_offsets(&mut self, now: Now) {
        self.fx.now = now;
        let fx = &mut self.fx;
        for group in self
            .groups
            .values_mut()
            .filter(|group| group.pending_writes == 0)
        {
            let (expired, all) =
                offsets::expired(group, now.unix_ms, fx.config.offsets_retention_ms);
            if all && group.is_empty() {
                remove_group(group, fx, None);
            } else {
                forget(group, fx, expired);
            }
        }
    }

    /// Lets time pass: sessions and rebalances that are due end.
    pub fn tick(&mut self, now: Now) {
        self.fx.now = now;
        while let Some(due) = self.fx.timers.fire(now.monotonic_ms) {
            let (Due::Session { group: id, .. }
            | Due::Join { group: id }
            | Due::Sync { group: id, .. }) = &due;
            let Some(group) = self.groups.get_mut(id) else {
                continue;
            };
            match &due {
                Due::Session { member, .. } => classic::session_due(group, &mut self.fx, member),
                Due::Join { .. } => classic::join_due(group, &mut self.fx),
                Due::Sync { generation, .. } => classic::sync_due(group, &mut self.fx, *generation),
            }
        }
    }

    /// When [`tick`](Self::tick) wants to be called next, on the monotonic clock.
    pub fn next_deadline_ms(&self) -> Option<i64> {
        self.fx.timers.next_deadline_ms()
    }

    /// Replies that may go out now.
    pub fn take_replies(&mut self) -> Vec<(Token, GroupReply)> {
        std::mem::take(&mut self.fx.replies)
    }

    /// Whether [`take_batch`](Self::take_batch) would give something.
    pub fn has_batch(&self) -> bool {
        self.fx.has_batch()
    }

    /// The oldest mutations not taken yet, some `max_bytes` of them, to be appended as one batch behind the earlier ones,
    /// with the number to report in [`written`](Self::written).
    pub fn take_batch(&mut self, max_bytes: usize) -> Option<(u64, Vec<Mutation>)> {
        self.fx.take_batch(max_bytes)
    }

    /// The batch `number` and all before it are settled: it is durable, or was refused and left no trace. To be called once
    /// for each batch, in order.
    pub fn written(&mut self, number: u64, result: Result<(), PersistError>, now: Now) {
        self.fx.now = now;
        if result.is_err() {
            self.fx.refuse(number);
        }
        while let Some((then, durable)) = self.fx.next_durable(number) {
            let result = if durable {
                Ok(())
            } else {
                Err(result.err().unwrap_or(PersistError::Refused))
            };
            self.continue_with(then, result);
        }
    }

    fn continue_with(&mut self, then: Then, result: Result<(), PersistError>) {
        let fx = &mut self.fx;
        match then {
            Then::Nothing { group } => {
                if let Some(group) = settled(&mut self.groups, &group) {
                    group.persisted |= result.is_ok();
                }
            }
            Then::Commit {
                token,
                group: id,
                offsets: values,
                reply,
            } => {
                let group = settled(&mut self.groups, &id);
                offsets::committed(group, fx, token, values, reply, result);
                if self.groups.get(&id).is_some_and(Group::is_vacant) {
                    self.groups.remove(&id);
                }
            }
            Then::Forget {
                group,
                offsets: gone,
                reply,
            } => {
                if let Some(group) = settled(&mut self.groups, &group)
                    && result.is_ok()
                {
                    offsets::forgotten(group, &gone);
                }
                match (reply, result) {
                    (Some((token, reply)), Ok(())) => fx.reply(token, reply),
                    (Some((token, _)), Err(cause)) => {
                        fx.reply(token, offsets::delete_error(classic::persist_error(cause)));
                    }
                    (None, _) => {}
                }
            }
            Then::Delete { group: id, reply } => {
                let group = settled(&mut self.groups, &id);
                if result.is_ok()
                    && let Some(group) = group
                {
                    group.offsets.clear();
                    group.persisted = false;
                    // Somebody may have joined since, or committed behind the deletion: then the group goes on.
                    if group.is_vacant() {
                        self.groups.remove(&id);
                    }
                }
                if let Some((token, mut reply)) = reply {
                    if let (GroupReply::Delete(reply), Err(cause)) = (&mut reply, result) {
                        reply.error_code = classic::persist_error(cause);
                    }
                    fx.reply(token, reply);
                }
            }
            Then::Assigned {
                group,
                generation,
                assignments,
            } => {
                if let Some(group) = settled(&mut self.groups, &group) {
                    group.persisted |= result.is_ok();
                    classic::assigned(group, fx, generation, assignments, result);
                }
            }
            Then::Replaced {
                group,
                member,
                previous,
                api_version,
            } => {
                if let Some(group) = settled(&mut self.groups, &group) {
                    classic::replaced(group, fx, &member, *previous, api_version, result);
                }
            }
            Then::Fetch {
                token,
                group: request,
            } => {
                let group = self.groups.get(request.group_id.as_str());
                fx.reply(token, GroupReply::Fetch(offsets::fetch(group, &request)));
            }
        }
    }

    /// The broker stops: parked JoinGroups and SyncGroups are answered with NOT_COORDINATOR. What waits for durability is
    /// answered by [`written`](Self::written).
    pub fn release(&mut self) {
        for group in self.groups.values_mut() {
            classic::release(group, &mut self.fx);
        }
    }

    /// Groups and committed offsets, for metrics.
    pub fn counts(&self) -> (usize, usize) {
        let offsets = self
            .groups
            .values()
            .flat_map(|group| group.offsets.values())
            .map(BTreeMap::len)
            .sum();
        (self.groups.len(), offsets)
    }

    /// Group, topic, partition and offset of what is committed, for metrics.
    pub fn committed(&self) -> impl Iterator<Item = (&str, &Arc<str>, i32, i64)> {
        self.groups.values().flat_map(|group| {
            group.offsets.iter().flat_map(move |(topic, partitions)| {
                partitions.iter().map(move |(partition, committed)| {
                    (&*group.id, topic, *partition, committed.offset)
                })
            })
        })
    }

    #[cfg(test)]
    pub(super) fn group(&self, id: &str) -> Option<&Group> {
        self.groups.get(id)
    }

    #[cfg(test)]
    pub(super) fn timers(&self) -> usize {
        self.fx.timers.len()
    }
}

fn get_or_create<'a>(
    groups: &'a mut BTreeMap<Arc<str>, Group>,
    id: &str,
    now: Now,
) -> &'a mut Group {
    if !groups.contains_key(id) {
        let id: Arc<str> = id.into();
        groups.insert(id.clone(), Group::new(id, now.unix_ms));
    }
    groups.get_mut(id).expect("exists or was inserted")
}

/// The group of a write that is over. None: it was deleted meanwhile.
fn settled<'a>(groups: &'a mut BTreeMap<Arc<str>, Group>, id: &str) -> Option<&'a mut Group> {
    let group = groups.get_mut(id)?;
    group.pending_writes -= 1;
    Some(group)
}

fn forget(group: &mut Group, fx: &mut Effects, gone: Vec<(Arc<str>, i32)>) {
    if gone.is_empty() {
        return;
    }
    for (topic, partition) in &gone {
        let mutation = fx.encoder.delete_offset(&group.id, topic, *partition);
        fx.mutate(mutation);
    }
    group.pending_writes += 1;
    fx.then(Then::Forget {
        group: group.id.clone(),
        offsets: gone,
        reply: None,
    });
}

fn remove_group(group: &mut Group, fx: &mut Effects, reply: Option<(Token, GroupReply)>) {
    for (topic, partition) in offsets::all_offsets(group, fx, None) {
        let mutation = fx.encoder.delete_offset(&group.id, &topic, partition);
        fx.mutate(mutation);
    }
    let mutation = fx.encoder.delete_group(&group.id);
    fx.mutate(mutation);
    group.pending_writes += 1;
    fx.then(Then::Delete {
        group: group.id.clone(),
        reply,
    });
}
