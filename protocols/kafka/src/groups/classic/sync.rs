//! SyncGroup: the leader's assignment, made durable and handed to the members.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use kacrab_protocol::KafkaString;
use kacrab_protocol::generated::sync_group_request::SyncGroupRequestData;
use kacrab_protocol::generated::sync_group_response::SyncGroupResponseData;

use super::rebalance::prepare_rebalance;
use super::session::reschedule_session;
use super::{optional, persist_error, sync_error};
use crate::groups::codec::entry_bytes;
use crate::groups::effects::{Effects, PersistError, Then, Token};
use crate::groups::group::{Group, State};
use crate::groups::{GroupReply, MAX_GROUP_ENTRY_BYTES, error};

pub(in crate::groups) fn sync(
    group: &mut Group,
    fx: &mut Effects,
    token: Token,
    request: &SyncGroupRequestData,
) {
    let id = request.member_id.as_str();
    let instance = request.group_instance_id.as_ref().map(KafkaString::as_str);
    let differs = |theirs: &Option<KafkaString>, ours: &Option<Arc<str>>| {
        theirs
            .as_ref()
            .zip(ours.as_ref())
            .is_some_and(|(theirs, ours)| *theirs.as_str() != **ours)
    };
    let checked = if group.state == State::Empty {
        Err(error::UNKNOWN_MEMBER_ID)
    } else if let Err(code) = group.check_member(id, instance) {
        Err(code)
    } else if request.generation_id != group.generation {
        Err(error::ILLEGAL_GENERATION)
    } else if differs(&request.protocol_type, &group.protocol_type)
        || differs(&request.protocol_name, &group.protocol)
    {
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
        let reply = synced(
            group.protocol_type.as_ref(),
            group.protocol.as_ref(),
            member.assignment.clone(),
        );
        return fx.reply(token, reply);
    }
    if let Some(parked) = member.awaiting_sync.replace(token) {
        fx.reply(parked, sync_error(error::REBALANCE_IN_PROGRESS));
    }
    if is_leader {
        persist_assignment(group, fx, request);
    }
}

fn synced(
    protocol_type: Option<&Arc<str>>,
    protocol: Option<&Arc<str>>,
    assignment: Bytes,
) -> GroupReply {
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
    fx.then(Then::Assigned {
        group: group.id.clone(),
        generation,
        assignments: assignment,
    });
}

/// The leader's assignment is durable, or could not be made so.
pub(in crate::groups) fn assigned(
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
            let reply = synced(
                group.protocol_type.as_ref(),
                group.protocol.as_ref(),
                member.assignment.clone(),
            );
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
