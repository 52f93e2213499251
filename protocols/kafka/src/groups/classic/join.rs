//! JoinGroup: new members, known members, and static members that come back.

use std::sync::Arc;

use bytes::Bytes;
use kacrab_protocol::KafkaString;
use kacrab_protocol::generated::join_group_request::JoinGroupRequestData;
use kacrab_protocol::generated::join_group_response::{
    JoinGroupResponseData, JoinGroupResponseMember,
};

use super::rebalance::{complete_if_all_joined, prepare_rebalance, rebalance_or_complete};
use super::session::{end_member, remove_pending, schedule_session};
use super::{join_error, optional, persist_error, string, sync_error};
use crate::groups::codec::entry_bytes;
use crate::groups::effects::{Effects, PersistError, Then, Token};
use crate::groups::group::{Group, Member, Replaced, State, protocols_of};
use crate::groups::timers::Due;
use crate::groups::{Client, GroupReply, MAX_GROUP_ENTRY_BYTES, NEW_MEMBER_JOIN_TIMEOUT_MS, error};

/// First version of JoinGroup whose new dynamic members must come back with the id they were given.
const JOIN_MEMBER_ID_REQUIRED: i16 = 4;

/// First version of JoinGroup that can tell a leader to skip the assignment.
const JOIN_SKIP_ASSIGNMENT: i16 = 9;

/// Bytes of a client id that go into member ids and descriptions.
const MAX_CLIENT_ID_BYTES: usize = 1_024;

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
pub(in crate::groups) fn join(
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
            group
                .members
                .get(id)
                .is_some_and(|member| member.awaiting_join.is_some())
                || group.awaiting_join < max
        }
        State::CompletingRebalance | State::Stable => {
            group.members.contains_key(id) || group.members.len() < max
        }
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
            match group
                .static_members
                .get_key_value(instance)
                .map(|(i, m)| (i.clone(), m.clone()))
            {
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
            let timer = fx.timers.arm(
                deadline_ms,
                Due::Session {
                    group: group.id.clone(),
                    member: new_id.clone(),
                },
            );
            fx.reply(token, join_error(&new_id, error::MEMBER_ID_REQUIRED));
            group.pending_join.insert(new_id, Some(timer));
        }
    }
}

fn join_known(
    group: &mut Group,
    fx: &mut Effects,
    token: Token,
    client: &Client,
    request: &JoinGroupRequestData,
) {
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
            let parked = group.update(
                &id,
                protocols,
                rebalance_timeout_ms(client, request),
                request.session_timeout_ms,
                Some(token),
            );
            displace_join(fx, parked, &id);
            rebalance_or_complete(group, fx);
        }
        State::Empty => fx.reply(token, join_error(&id, error::UNKNOWN_MEMBER_ID)),
    }
}

/// Version 0 has no rebalance time-out of its own.
fn rebalance_timeout_ms(client: &Client, request: &JoinGroupRequestData) -> i32 {
    if client.api_version == 0 {
        request.session_timeout_ms
    } else {
        request.rebalance_timeout_ms
    }
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
        instance_id: request
            .group_instance_id
            .as_ref()
            .map(|s| s.as_str().into()),
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
    let member = group
        .members
        .get_mut(&old_id)
        .expect("a static member's id is that of a member");
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
    group.update(
        &new_id,
        protocols,
        timeout_ms,
        request.session_timeout_ms,
        Some(token),
    );
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
pub(in crate::groups) fn replaced(
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
    let Some(token) = group.take_join(id) else {
        return;
    };
    match result {
        Ok(()) => {
            let GroupReply::Join(mut reply) = joined(group, id) else {
                unreachable!("joined() answers JoinGroup")
            };
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
            let Some(member) = group.members.get_mut(id) else {
                return;
            };
            fx.timers.cancel(&mut member.timer);
            let instance = member
                .instance_id
                .clone()
                .expect("only static members are replaced");
            group.rename(&instance, id, previous.old_id.clone());
            group.update(
                &previous.old_id,
                previous.protocols,
                previous.rebalance_timeout_ms,
                previous.session_timeout_ms,
                None,
            );
            schedule_session(
                group,
                fx,
                &previous.old_id,
                i64::from(previous.session_timeout_ms),
            );
            fx.reply(token, join_error("", persist_error(cause)));
        }
    }
}

/// The present generation as a JoinGroup answer to a member.
pub(super) fn joined(group: &Group, id: &str) -> GroupReply {
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
