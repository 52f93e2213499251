//! How long a member stays one: heartbeats, leaving, sessions that end.

use std::sync::Arc;

use kacrab_protocol::KafkaString;
use kacrab_protocol::generated::heartbeat_request::HeartbeatRequestData;
use kacrab_protocol::generated::leave_group_request::LeaveGroupRequestData;
use kacrab_protocol::generated::leave_group_response::{LeaveGroupResponseData, MemberResponse};

use super::rebalance::{complete_if_all_joined, prepare_rebalance, rebalance_or_complete};
use super::{join_error, string, sync_error};
use crate::groups::effects::Effects;
use crate::groups::error;
use crate::groups::group::{Group, Member, State};
use crate::groups::timers::Due;

/// Error code of a Heartbeat.
pub(in crate::groups) fn heartbeat(
    group: &mut Group,
    fx: &mut Effects,
    request: &HeartbeatRequestData,
) -> i16 {
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

pub(in crate::groups) fn leave(
    group: &mut Group,
    fx: &mut Effects,
    request: &LeaveGroupRequestData,
) -> LeaveGroupResponseData {
    let mut members = Vec::with_capacity(request.members.len());
    let mut anybody = false;
    for who in &request.members {
        let (id, instance) = (
            who.member_id.as_str(),
            who.group_instance_id.as_ref().map(KafkaString::as_str),
        );
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
    LeaveGroupResponseData {
        members,
        ..Default::default()
    }
}

/// An administrator removes static members by instance id alone.
fn leave_one(
    group: &mut Group,
    fx: &mut Effects,
    id: &str,
    instance: Option<&str>,
) -> Result<(), i16> {
    if remove_pending(group, fx, id) {
        return Ok(());
    }
    let id = if id.is_empty() {
        instance
            .and_then(|i| group.static_members.get(i))
            .cloned()
            .ok_or(error::UNKNOWN_MEMBER_ID)?
    } else {
        group.check_member(id, instance)?;
        Arc::from(id)
    };
    let member = group.remove(&id).ok_or(error::UNKNOWN_MEMBER_ID)?;
    end_member(fx, member, error::UNKNOWN_MEMBER_ID);
    Ok(())
}

/// A session, or the time for a member-to-be to come back, may be over.
pub(in crate::groups) fn session_due(group: &mut Group, fx: &mut Effects, id: &Arc<str>) {
    if group.pending_join.remove(id).is_some() {
        return complete_if_all_joined(group, fx);
    }
    let Some(member) = group.members.get_mut(id) else {
        return;
    };
    member.timer = None;
    if member.deadline_ms > fx.now.monotonic_ms {
        let due = Due::Session {
            group: group.id.clone(),
            member: id.clone(),
        };
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
pub(super) fn end_member(fx: &mut Effects, mut member: Member, code: i16) {
    fx.timers.cancel(&mut member.timer);
    if let Some(token) = member.awaiting_join.take() {
        fx.reply(token, join_error("", code));
    }
    if let Some(token) = member.awaiting_sync.take() {
        fx.reply(token, sync_error(code));
    }
}

pub(super) fn remove_pending(group: &mut Group, fx: &mut Effects, id: &str) -> bool {
    match group.pending_join.remove(id) {
        Some(mut timer) => {
            fx.timers.cancel(&mut timer);
            true
        }
        None => false,
    }
}

/// A member has been heard of.
pub(in crate::groups) fn reschedule_session(group: &mut Group, fx: &mut Effects, id: &str) {
    if let Some(member) = group.members.get(id) {
        let after_ms = i64::from(member.session_timeout_ms);
        schedule_session(group, fx, id, after_ms);
    }
}

pub(super) fn schedule_session(group: &mut Group, fx: &mut Effects, id: &str, after_ms: i64) {
    let Some(member) = group.members.get_mut(id) else {
        return;
    };
    member.deadline_ms = fx.now.monotonic_ms + after_ms.max(0);
    // Armed for an earlier moment is as good: it is armed again then.
    if member
        .timer
        .is_some_and(|timer| timer.deadline_ms() <= member.deadline_ms)
    {
        return;
    }
    fx.timers.cancel(&mut member.timer);
    let due = Due::Session {
        group: group.id.clone(),
        member: member.id.clone(),
    };
    member.timer = Some(fx.timers.arm(member.deadline_ms, due));
}

/// The broker stops: whoever waits is sent to look for another coordinator.
pub(in crate::groups) fn release(group: &mut Group, fx: &mut Effects) {
    let ids: Vec<_> = group.members.keys().cloned().collect();
    for id in ids {
        if let Some(token) = group.take_join(&id) {
            fx.reply(token, join_error(&id, error::NOT_COORDINATOR));
        }
        if let Some(token) = group
            .members
            .get_mut(&id)
            .and_then(|m| m.awaiting_sync.take())
        {
            fx.reply(token, sync_error(error::NOT_COORDINATOR));
        }
    }
}
