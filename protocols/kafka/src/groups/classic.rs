//! The classic group protocol: what JoinGroup, SyncGroup, Heartbeat, LeaveGroup and the passing of time do to a group.
//!
//! Every function takes the group and the coordinator's [`Effects`]; a request's token is answered, parked in the member
//! that it belongs to, or handed to a continuation. A token that a member's newer request displaces is answered too, with
//! REBALANCE_IN_PROGRESS: its client has given up on it, but its connection may still be waiting to answer in order.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use kacrab_protocol::KafkaString;
use kacrab_protocol::generated::heartbeat_request::HeartbeatRequestData;
use kacrab_protocol::generated::join_group_request::JoinGroupRequestData;
use kacrab_protocol::generated::join_group_response::{JoinGroupResponseData, JoinGroupResponseMember};
use kacrab_protocol::generated::leave_group_request::LeaveGroupRequestData;
use kacrab_protocol::generated::leave_group_response::{LeaveGroupResponseData, MemberResponse};
use kacrab_protocol::generated::sync_group_request::SyncGroupRequestData;
use kacrab_protocol::generated::sync_group_response::SyncGroupResponseData;

use super::codec::entry_bytes;
use super::effects::{Effects, PersistError, Then, Token};
use super::group::{Group, Member, Replaced, State, protocols_of};
use super::timers::Due;
use super::{Client, GroupReply, MAX_GROUP_ENTRY_BYTES, NEW_MEMBER_JOIN_TIMEOUT_MS, error};

/// First version of JoinGroup whose new dynamic members must come back with the id they were given.
const JOIN_MEMBER_ID_REQUIRED: i16 = 4;
/// First version of JoinGroup that can tell a leader to skip the assignment.
const JOIN_SKIP_ASSIGNMENT: i16 = 9;
/// A join phase that nobody joined is looked at again after the rebalance time-out, which may be 0, but not sooner.
const MIN_JOIN_RETRY_MS: i64 = 1_000;
/// Bytes of a client id that go into member ids and descriptions.
const MAX_CLIENT_ID_BYTES: usize = 1_024;

pub(super) fn string(s: &str) -> KafkaString {
    KafkaString::from(s.to_owned())
}

fn optional(s: Option<&Arc<str>>) -> Option<KafkaString> {
    s.map(|s| string(s))
}

/// A JoinGroup answer that is nothing but an error.
pub(super) fn join_error(member_id: &str, error_code: i16) -> GroupReply {
    GroupReply::Join(JoinGroupResponseData { error_code, member_id: string(member_id), ..Default::default() })
}

pub(super) fn sync_error(error_code: i16) -> GroupReply {
    GroupReply::Sync(SyncGroupResponseData { error_code, ..Default::default() })
}

/// What a client sees when its group's state could not be persisted.
pub(super) fn persist_error(cause: PersistError) -> i16 {
    match cause {
        PersistError::Refused => error::COORDINATOR_NOT_AVAILABLE,
        PersistError::ShuttingDown => error::NOT_COORDINATOR,
    }
}

/// `prefix-` and 16 random bytes in the usual form of a UUID.
fn member_id(prefix: &str, random: [u8; 16]) -> Arc<str> {
    let mut cut = prefix.len().min(MAX_CLIENT_ID_BYTES);
    while !prefix.is_char_boundary(cut) {
        cut -= 1;
    }
    let r = u128::from_be_bytes(random);
    format!(
        "{}-{:08x}-{:04x}-4{:03x}-{:04x}-{:012x}",
        &prefix[..cut],
        (r >> 96) as u32,
        (r >> 80) as u16,
        (r >> 64) as u16 & 0xfff,
        (r >> 48) as u16 & 0x3fff | 0x8000,
        r as u64 & 0xffff_ffff_ffff,
    )
    .into()
}

/// A JoinGroup whose session time-out and names have been checked.
pub(super) fn join(
    group: &mut Group,
    fx: &mut Effects,
    token: Token,
    client: &Client,
    request: &JoinGroupRequestData,
    random: [u8; 16],
) {
    let id = request.member_id.as_str();
    if !accepts(group, fx, id) {
        remove_pending(group, fx, id);
        if let Some(member) = group.remove(id) {
            end_member(fx, member, error::UNKNOWN_MEMBER_ID);
        }
        fx.reply(token, join_error("", error::GROUP_MAX_SIZE_REACHED));
    } else if !group.supports(request.protocol_type.as_str(), &request.protocols) {
        fx.reply(token, join_error(id, error::INCONSISTENT_GROUP_PROTOCOL));
    } else if id.is_empty() {
        join_new(group, fx, token, client, request, random);
    } else {
        join_known(group, fx, token, client, request);
    }
}

/// `group.max.size`: while members join, those that have joined count, so that the slowest ones are kept out; otherwise the
/// members do. Ids given out count as well, where Kafka lets any number of them wait.
fn accepts(group: &Group, fx: &Effects, id: &str) -> bool {
    let max = fx.config.max_size;
    if !group.pending_join.contains_key(id) && group.pending_join.len() >= max {
        return group.members.contains_key(id);
    }
    match group.state {
        State::Empty => true,
        State::PreparingRebalance => {
            group.members.get(id).is_some_and(|member| member.awaiting_join.is_some()) || group.awaiting_join < max
        }
        State::CompletingRebalance | State::Stable => group.members.contains_key(id) || group.members.len() < max,
    }
}

fn join_new(
    group: &mut Group,
    fx: &mut Effects,
    token: Token,
    client: &Client,
    request: &JoinGroupRequestData,
    random: [u8; 16],
) {
    match request.group_instance_id.as_ref().map(KafkaString::as_str) {
        Some(instance) => {
            let new_id = member_id(instance, random);
            match group.static_members.get_key_value(instance).map(|(i, m)| (i.clone(), m.clone())) {
                Some((instance, old_id)) => {
                    replace_static(group, fx, token, client, request, instance, old_id, new_id);
                }
                None => add_member(group, fx, token, client, request, new_id),
            }
        }
        None => {
            let new_id = member_id(&client.client_id, random);
            if client.api_version < JOIN_MEMBER_ID_REQUIRED {
                return add_member(group, fx, token, client, request, new_id);
            }
            let deadline_ms = fx.now.monotonic_ms + i64::from(request.session_timeout_ms);
            let timer = fx.timers.arm(deadline_ms, Due::Session { group: group.id.clone(), member: new_id.clone() });
            fx.reply(token, join_error(&new_id, error::MEMBER_ID_REQUIRED));
            group.pending_join.insert(new_id, Some(timer));
        }
    }
}

fn join_known(group: &mut Group, fx: &mut Effects, token: Token, client: &Client, request: &JoinGroupRequestData) {
    let id = request.member_id.as_str();
    let instance = request.group_instance_id.as_ref().map(KafkaString::as_str);
    if let Some((id, _)) = group.pending_join.get_key_value(id) {
        // An id that was given out belongs to a dynamic member.
        if instance.is_some() {
            return fx.reply(token, join_error(id, error::UNKNOWN_MEMBER_ID));
        }
        let id = id.clone();
        return add_member(group, fx, token, client, request, id);
    }
    if let Err(code) = group.check_member(id, instance) {
        return fx.reply(token, join_error(id, code));
    }
    let member = &group.members[id];
    let (id, same) = (member.id.clone(), member.supports_same(&request.protocols));
    match group.state {
        // The leader may rejoin because of what only it sees, like new partitions; a follower without news only lost an
        // answer, and gets it again.
        State::CompletingRebalance if same => {
            let reply = joined(group, &id);
            fx.reply(token, reply);
        }
        State::Stable if same && !group.is_leader(&id) => {
            let reply = joined(group, &id);
            fx.reply(token, reply);
        }
        State::PreparingRebalance | State::CompletingRebalance | State::Stable => {
            let protocols = protocols_of(&request.protocols);
            let parked =
                group.update(&id, protocols, rebalance_timeout_ms(client, request), request.session_timeout_ms, Some(token));
            displace_join(fx, parked, &id);
            rebalance_or_complete(group, fx);
        }
        State::Empty => fx.reply(token, join_error(&id, error::UNKNOWN_MEMBER_ID)),
    }
}

/// Version 0 has no rebalance time-out of its own.
fn rebalance_timeout_ms(client: &Client, request: &JoinGroupRequestData) -> i32 {
    if client.api_version == 0 { request.session_timeout_ms } else { request.rebalance_timeout_ms }
}

fn displace_join(fx: &mut Effects, parked: Option<Token>, id: &str) {
    if let Some(parked) = parked {
        fx.reply(parked, join_error(id, error::REBALANCE_IN_PROGRESS));
    }
}

fn add_member(
    group: &mut Group,
    fx: &mut Effects,
    token: Token,
    client: &Client,
    request: &JoinGroupRequestData,
    id: Arc<str>,
) {
    remove_pending(group, fx, &id);
    let mut cut = client.client_id.len().min(MAX_CLIENT_ID_BYTES);
    while !client.client_id.is_char_boundary(cut) {
        cut -= 1;
    }
    let member = Member {
        id: id.clone(),
        instance_id: request.group_instance_id.as_ref().map(|s| s.as_str().into()),
        client_id: client.client_id[..cut].into(),
        client_host: client.host.as_str().into(),
        rebalance_timeout_ms: rebalance_timeout_ms(client, request),
        session_timeout_ms: request.session_timeout_ms,
        protocols: protocols_of(&request.protocols),
        assignment: Bytes::new(),
        awaiting_join: Some(token),
        awaiting_sync: None,
        is_new: true,
        deadline_ms: 0,
        timer: None,
    };
    if group.members.is_empty() {
        group.protocol_type = Some(request.protocol_type.as_str().into());
    }
    if group.initial_delay_ms.is_some() {
        group.new_member_added = true;
    }
    group.add(member);
    schedule_session(group, fx, &id, NEW_MEMBER_JOIN_TIMEOUT_MS);
    rebalance_or_complete(group, fx);
}

/// A static member came back without its id: it gets a new one, and the old one is fenced. When the group is stable and
/// would choose the same protocol again, the others need not notice.
#[allow(clippy::too_many_arguments)]
fn replace_static(
    group: &mut Group,
    fx: &mut Effects,
    token: Token,
    client: &Client,
    request: &JoinGroupRequestData,
    instance: Arc<str>,
    old_id: Arc<str>,
    new_id: Arc<str>,
) {
    let leader = group.leader.clone();
    if let Some(parked) = group.take_join(&old_id) {
        fx.reply(parked, join_error(&old_id, error::FENCED_INSTANCE_ID));
    }
    let member = group.members.get_mut(&old_id).expect("a static member's id is that of a member");
    if let Some(parked) = member.awaiting_sync.take() {
        fx.reply(parked, sync_error(error::FENCED_INSTANCE_ID));
    }
    fx.timers.cancel(&mut member.timer);
    let replaced = Replaced {
        old_id: old_id.clone(),
        protocols: member.protocols.clone(),
        rebalance_timeout_ms: member.rebalance_timeout_ms,
        session_timeout_ms: member.session_timeout_ms,
        leader,
    };
    group.rename(&instance, &old_id, new_id.clone());
    let protocols = protocols_of(&request.protocols);
    let timeout_ms = rebalance_timeout_ms(client, request);
    group.update(&new_id, protocols, timeout_ms, request.session_timeout_ms, Some(token));
    schedule_session(group, fx, &new_id, i64::from(request.session_timeout_ms));
    match group.state {
        State::Stable if group.select_protocol() == group.protocol => {
            let entry = group.entry(None);
            if entry_bytes(&entry) > MAX_GROUP_ENTRY_BYTES {
                return prepare_rebalance(group, fx);
            }
            let mutation = fx.encoder.put_group(&group.id, &entry);
            fx.mutate(mutation);
            group.pending_writes += 1;
            fx.then(Then::Replaced {
                group: group.id.clone(),
                member: new_id,
                previous: Box::new(replaced),
                api_version: client.api_version,
            });
        }
        // The leader may be computing with the old id.
        State::Stable | State::CompletingRebalance => prepare_rebalance(group, fx),
        State::PreparingRebalance => complete_if_all_joined(group, fx),
        State::Empty => unreachable!("an empty group has no static member"),
    }
}

/// The new id of a static member is durable, or could not be made so.
pub(super) fn replaced(
    group: &mut Group,
    fx: &mut Effects,
    id: &Arc<str>,
    previous: Replaced,
    api_version: i16,
    result: Result<(), PersistError>,
) {
    // In any other state the parked JoinGroup is answered by the rebalance that has begun since.
    if group.state != State::Stable {
        return;
    }
    let Some(token) = group.take_join(id) else { return };
    match result {
        Ok(()) => {
            let GroupReply::Join(mut reply) = joined(group, id) else { unreachable!("joined() answers JoinGroup") };
            if api_version >= JOIN_SKIP_ASSIGNMENT {
                reply.skip_assignment = group.is_leader(id);
            } else {
                // Told that the old id leads, the member does not compute an assignment that nobody asked for.
                reply.leader = previous.leader.as_deref().map(string).unwrap_or_default();
                reply.members = Vec::new();
            }
            fx.reply(token, GroupReply::Join(reply));
        }
        Err(cause) => {
            let Some(member) = group.members.get_mut(id) else { return };
            fx.timers.cancel(&mut member.timer);
            let instance = member.instance_id.clone().expect("only static members are replaced");
            group.rename(&instance, id, previous.old_id.clone());
            group.update(
                &previous.old_id,
                previous.protocols,
                previous.rebalance_timeout_ms,
                previous.session_timeout_ms,
                None,
            );
            schedule_session(group, fx, &previous.old_id, i64::from(previous.session_timeout_ms));
            fx.reply(token, join_error("", persist_error(cause)));
        }
    }
}

/// The present generation as a JoinGroup answer to a member.
fn joined(group: &Group, id: &str) -> GroupReply {
    let protocol = group.protocol.as_deref().unwrap_or("");
    let members = if group.is_leader(id) {
        let member = |m: &Member| JoinGroupResponseMember {
            member_id: string(&m.id),
            group_instance_id: optional(m.instance_id.as_ref()),
            metadata: m.metadata(protocol).cloned().unwrap_or_default(),
            ..Default::default()
        };
        group.members.values().map(member).collect()
    } else {
        Vec::new()
    };
    GroupReply::Join(JoinGroupResponseData {
        generation_id: group.generation,
        protocol_type: optional(group.protocol_type.as_ref()),
        protocol_name: optional(group.protocol.as_ref()),
        leader: group.leader.as_deref().map(string).unwrap_or_default(),
        member_id: string(id),
        members,
        ..Default::default()
    })
}

/// Membership has changed: start over, or see whether the join phase is over.
pub(super) fn rebalance_or_complete(group: &mut Group, fx: &mut Effects) {
    if group.state == State::PreparingRebalance {
        complete_if_all_joined(group, fx);
    } else {
        prepare_rebalance(group, fx);
    }
}

/// The first generation of an empty group waits for its delay in any case.
fn complete_if_all_joined(group: &mut Group, fx: &mut Effects) {
    if group.state == State::PreparingRebalance && group.initial_delay_ms.is_none() && group.all_joined() {
        complete_join(group, fx);
    }
}

pub(super) fn prepare_rebalance(group: &mut Group, fx: &mut Effects) {
    if group.state == State::CompletingRebalance {
        let ids: Vec<_> = group.members.keys().cloned().collect();
        for id in ids {
            let member = group.members.get_mut(&id).expect("ids of members");
            member.assignment = Bytes::new();
            if let Some(token) = member.awaiting_sync.take() {
                fx.reply(token, sync_error(error::REBALANCE_IN_PROGRESS));
                reschedule_session(group, fx, &id);
            }
        }
    }
    group.pending_sync.clear();
    fx.timers.cancel(&mut group.sync_timer);
    let initial = group.state == State::Empty;
    group.transition(State::PreparingRebalance, fx.now.unix_ms);
    if initial {
        group.new_member_added = false;
        let delay_ms = i64::from(fx.config.initial_rebalance_delay_ms.max(0));
        let remaining_ms = (group.rebalance_timeout_ms() - delay_ms).max(0);
        group.initial_delay_ms = Some((delay_ms, remaining_ms));
        arm_join(group, fx, delay_ms);
    } else if group.all_joined() {
        complete_join(group, fx);
    } else {
        let timeout_ms = group.rebalance_timeout_ms();
        arm_join(group, fx, timeout_ms);
    }
}

fn arm_join(group: &mut Group, fx: &mut Effects, after_ms: i64) {
    fx.timers.cancel(&mut group.join_timer);
    let due = Due::Join { group: group.id.clone() };
    group.join_timer = Some(fx.timers.arm(fx.now.monotonic_ms + after_ms, due));
}

/// The initial delay or the rebalance time-out is over.
pub(super) fn join_due(group: &mut Group, fx: &mut Effects) {
    group.join_timer = None;
    if group.state != State::PreparingRebalance {
        return;
    }
    if let Some((delay_ms, remaining_ms)) = group.initial_delay_ms
        && group.new_member_added
        && remaining_ms > 0
    {
        group.new_member_added = false;
        let next_ms = i64::from(fx.config.initial_rebalance_delay_ms.max(0)).min(remaining_ms);
        group.initial_delay_ms = Some((next_ms, (remaining_ms - delay_ms).max(0)));
        return arm_join(group, fx, next_ms);
    }
    complete_join(group, fx);
}

/// Ends the join phase: those who came make the next generation.
fn complete_join(group: &mut Group, fx: &mut Effects) {
    fx.timers.cancel(&mut group.join_timer);
    group.initial_delay_ms = None;
    group.new_member_added = false;
    let absent = |m: &&Member| m.awaiting_join.is_none() && m.instance_id.is_none();
    let absent: Vec<_> = group.members.values().filter(absent).map(|m| m.id.clone()).collect();
    for id in absent {
        if let Some(member) = group.remove(&id) {
            end_member(fx, member, error::UNKNOWN_MEMBER_ID);
        }
    }
    if !group.members.is_empty() && !group.elect_joined_leader() {
        // Only static members are left and none of them is there: wait until they join or their sessions end.
        let timeout_ms = group.rebalance_timeout_ms().max(MIN_JOIN_RETRY_MS);
        return arm_join(group, fx, timeout_ms);
    }
    group.next_generation(fx.now.unix_ms);
    if group.state == State::Empty {
        let entry = group.entry(None);
        let mutation = fx.encoder.put_group(&group.id, &entry);
        fx.mutate(mutation);
        // Nobody waits. If it is lost, the generation before it comes back, and its members' sessions end.
        group.pending_writes += 1;
        fx.then(Then::Nothing { group: group.id.clone() });
        return;
    }
    let ids: Vec<_> = group.members.keys().cloned().collect();
    for id in ids {
        if let Some(token) = group.take_join(&id) {
            let reply = joined(group, &id);
            fx.reply(token, reply);
        }
        if let Some(member) = group.members.get_mut(&id) {
            member.is_new = false;
        }
        reschedule_session(group, fx, &id);
        group.pending_sync.insert(id);
    }
    let deadline_ms = fx.now.monotonic_ms + group.rebalance_timeout_ms();
    let due = Due::Sync { group: group.id.clone(), generation: group.generation };
    group.sync_timer = Some(fx.timers.arm(deadline_ms, due));
}

/// Whoever has not asked for its assignment within the rebalance time-out is out.
pub(super) fn sync_due(group: &mut Group, fx: &mut Effects, generation: i32) {
    let waiting = matches!(group.state, State::CompletingRebalance | State::Stable);
    if generation != group.generation || !waiting {
        return;
    }
    group.sync_timer = None;
    let late: Vec<_> = group.pending_sync.iter().cloned().collect();
    if late.is_empty() {
        return;
    }
    for id in late {
        if let Some(member) = group.remove(&id) {
            end_member(fx, member, error::UNKNOWN_MEMBER_ID);
        }
    }
    prepare_rebalance(group, fx);
}

pub(super) fn sync(group: &mut Group, fx: &mut Effects, token: Token, request: &SyncGroupRequestData) {
    let id = request.member_id.as_str();
    let instance = request.group_instance_id.as_ref().map(KafkaString::as_str);
    let differs = |theirs: &Option<KafkaString>, ours: &Option<Arc<str>>| {
        theirs.as_ref().zip(ours.as_ref()).is_some_and(|(theirs, ours)| *theirs.as_str() != **ours)
    };
    let checked = if group.state == State::Empty {
        Err(error::UNKNOWN_MEMBER_ID)
    } else if let Err(code) = group.check_member(id, instance) {
        Err(code)
    } else if request.generation_id != group.generation {
        Err(error::ILLEGAL_GENERATION)
    } else if differs(&request.protocol_type, &group.protocol_type) || differs(&request.protocol_name, &group.protocol) {
        Err(error::INCONSISTENT_GROUP_PROTOCOL)
    } else if group.state == State::PreparingRebalance {
        Err(error::REBALANCE_IN_PROGRESS)
    } else {
        Ok(())
    };
    if let Err(code) = checked {
        return fx.reply(token, sync_error(code));
    }
    group.pending_sync.remove(id);
    if group.pending_sync.is_empty() {
        fx.timers.cancel(&mut group.sync_timer);
    }
    let is_leader = group.is_leader(id);
    let member = group.members.get_mut(id).expect("checked above");
    if group.state == State::Stable {
        let reply = synced(group.protocol_type.as_ref(), group.protocol.as_ref(), member.assignment.clone());
        return fx.reply(token, reply);
    }
    if let Some(parked) = member.awaiting_sync.replace(token) {
        fx.reply(parked, sync_error(error::REBALANCE_IN_PROGRESS));
    }
    if is_leader {
        persist_assignment(group, fx, request);
    }
}

fn synced(protocol_type: Option<&Arc<str>>, protocol: Option<&Arc<str>>, assignment: Bytes) -> GroupReply {
    GroupReply::Sync(SyncGroupResponseData {
        protocol_type: optional(protocol_type),
        protocol_name: optional(protocol),
        assignment,
        ..Default::default()
    })
}

/// Members that the leader forgot get an empty assignment, those that it invented get nothing.
fn persist_assignment(group: &mut Group, fx: &mut Effects, request: &SyncGroupRequestData) {
    let mut assignment = BTreeMap::new();
    for theirs in &request.assignments {
        if let Some((id, _)) = group.members.get_key_value(theirs.member_id.as_str()) {
            assignment.insert(id.clone(), Bytes::copy_from_slice(&theirs.assignment));
        }
    }
    let entry = group.entry(Some(&assignment));
    if entry_bytes(&entry) > MAX_GROUP_ENTRY_BYTES {
        tracing::warn!(group = %group.id, bytes = entry_bytes(&entry), "the group's assignment is too large to keep");
        return assignment_failed(group, fx, error::UNKNOWN_SERVER_ERROR);
    }
    let mutation = fx.encoder.put_group(&group.id, &entry);
    fx.mutate(mutation);
    group.pending_writes += 1;
    let generation = group.generation;
    fx.then(Then::Assigned { group: group.id.clone(), generation, assignments: assignment });
}

/// The leader's assignment is durable, or could not be made so.
pub(super) fn assigned(
    group: &mut Group,
    fx: &mut Effects,
    generation: i32,
    mut assignments: BTreeMap<Arc<str>, Bytes>,
    result: Result<(), PersistError>,
) {
    // Somebody may have joined or left meanwhile; then this generation is over.
    if group.state != State::CompletingRebalance || generation != group.generation {
        return;
    }
    if let Err(cause) = result {
        return assignment_failed(group, fx, persist_error(cause));
    }
    let ids: Vec<_> = group.members.keys().cloned().collect();
    for id in ids {
        let member = group.members.get_mut(&id).expect("ids of members");
        member.assignment = assignments.remove(&id).unwrap_or_default();
        if let Some(token) = member.awaiting_sync.take() {
            let reply = synced(group.protocol_type.as_ref(), group.protocol.as_ref(), member.assignment.clone());
            fx.reply(token, reply);
            // A session that ended while the member waited was let pass.
            reschedule_session(group, fx, &id);
        }
    }
    group.transition(State::Stable, fx.now.unix_ms);
}

fn assignment_failed(group: &mut Group, fx: &mut Effects, code: i16) {
    for member in group.members.values_mut() {
        if let Some(token) = member.awaiting_sync.take() {
            fx.reply(token, sync_error(code));
        }
    }
    prepare_rebalance(group, fx);
}

/// Error code of a Heartbeat.
pub(super) fn heartbeat(group: &mut Group, fx: &mut Effects, request: &HeartbeatRequestData) -> i16 {
    let id = request.member_id.as_str();
    let instance = request.group_instance_id.as_ref().map(KafkaString::as_str);
    if let Err(code) = group.check_member(id, instance) {
        return code;
    }
    if request.generation_id != group.generation {
        return error::ILLEGAL_GENERATION;
    }
    reschedule_session(group, fx, id);
    match group.state {
        State::Empty => error::UNKNOWN_MEMBER_ID,
        State::PreparingRebalance => error::REBALANCE_IN_PROGRESS,
        State::CompletingRebalance | State::Stable => error::NONE,
    }
}

pub(super) fn leave(group: &mut Group, fx: &mut Effects, request: &LeaveGroupRequestData) -> LeaveGroupResponseData {
    let mut members = Vec::with_capacity(request.members.len());
    let mut anybody = false;
    for who in &request.members {
        let (id, instance) = (who.member_id.as_str(), who.group_instance_id.as_ref().map(KafkaString::as_str));
        let error_code = match leave_one(group, fx, id, instance) {
            Ok(()) => {
                anybody = true;
                error::NONE
            }
            Err(code) => code,
        };
        members.push(MemberResponse {
            member_id: string(id),
            group_instance_id: instance.map(string),
            error_code,
            ..Default::default()
        });
    }
    if anybody && group.state != State::Empty {
        rebalance_or_complete(group, fx);
    }
    LeaveGroupResponseData { members, ..Default::default() }
}

/// An administrator removes static members by instance id alone.
fn leave_one(group: &mut Group, fx: &mut Effects, id: &str, instance: Option<&str>) -> Result<(), i16> {
    if remove_pending(group, fx, id) {
        return Ok(());
    }
    let id = if id.is_empty() {
        instance.and_then(|i| group.static_members.get(i)).cloned().ok_or(error::UNKNOWN_MEMBER_ID)?
    } else {
        group.check_member(id, instance)?;
        Arc::from(id)
    };
    let member = group.remove(&id).ok_or(error::UNKNOWN_MEMBER_ID)?;
    end_member(fx, member, error::UNKNOWN_MEMBER_ID);
    Ok(())
}

/// A session, or the time for a member-to-be to come back, may be over.
pub(super) fn session_due(group: &mut Group, fx: &mut Effects, id: &Arc<str>) {
    if group.pending_join.remove(id).is_some() {
        return complete_if_all_joined(group, fx);
    }
    let Some(member) = group.members.get_mut(id) else { return };
    member.timer = None;
    if member.deadline_ms > fx.now.monotonic_ms {
        let due = Due::Session { group: group.id.clone(), member: id.clone() };
        member.timer = Some(fx.timers.arm(member.deadline_ms, due));
        return;
    }
    // While the coordinator lets a member wait, the member cannot be late; its session goes on with the answer.
    if !member.is_new && (member.awaiting_join.is_some() || member.awaiting_sync.is_some()) {
        return;
    }
    let member = group.remove(id).expect("found above");
    tracing::info!(group = %group.id, member = %id, "session of a group member has expired");
    end_member(fx, member, error::UNKNOWN_MEMBER_ID);
    match group.state {
        State::Stable | State::CompletingRebalance => prepare_rebalance(group, fx),
        State::PreparingRebalance => complete_if_all_joined(group, fx),
        State::Empty => {}
    }
}

/// Ends what a removed member left behind.
fn end_member(fx: &mut Effects, mut member: Member, code: i16) {
    fx.timers.cancel(&mut member.timer);
    if let Some(token) = member.awaiting_join.take() {
        fx.reply(token, join_error("", code));
    }
    if let Some(token) = member.awaiting_sync.take() {
        fx.reply(token, sync_error(code));
    }
}

fn remove_pending(group: &mut Group, fx: &mut Effects, id: &str) -> bool {
    match group.pending_join.remove(id) {
        Some(mut timer) => {
            fx.timers.cancel(&mut timer);
            true
        }
        None => false,
    }
}

/// A member has been heard of.
pub(super) fn reschedule_session(group: &mut Group, fx: &mut Effects, id: &str) {
    if let Some(member) = group.members.get(id) {
        let after_ms = i64::from(member.session_timeout_ms);
        schedule_session(group, fx, id, after_ms);
    }
}

fn schedule_session(group: &mut Group, fx: &mut Effects, id: &str, after_ms: i64) {
    let Some(member) = group.members.get_mut(id) else { return };
    member.deadline_ms = fx.now.monotonic_ms + after_ms.max(0);
    // Armed for an earlier moment is as good: it is armed again then.
    if member.timer.is_some_and(|timer| timer.deadline_ms() <= member.deadline_ms) {
        return;
    }
    fx.timers.cancel(&mut member.timer);
    let due = Due::Session { group: group.id.clone(), member: member.id.clone() };
    member.timer = Some(fx.timers.arm(member.deadline_ms, due));
}

/// The broker stops: whoever waits is sent to look for another coordinator.
pub(super) fn release(group: &mut Group, fx: &mut Effects) {
    let ids: Vec<_> = group.members.keys().cloned().collect();
    for id in ids {
        if let Some(token) = group.take_join(&id) {
            fx.reply(token, join_error(&id, error::NOT_COORDINATOR));
        }
        if let Some(token) = group.members.get_mut(&id).and_then(|m| m.awaiting_sync.take()) {
            fx.reply(token, sync_error(error::NOT_COORDINATOR));
        }
    }
}
