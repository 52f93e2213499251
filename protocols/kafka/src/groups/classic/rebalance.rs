//! From one generation to the next: the join phase, its delays and time-outs, and the time-out of the sync phase.

use bytes::Bytes;

use super::join::joined;
use super::session::{end_member, reschedule_session};
use super::sync_error;
use crate::groups::effects::{Effects, Then};
use crate::groups::error;
use crate::groups::group::{Group, Member, State};
use crate::groups::timers::Due;

/// A join phase that nobody joined is looked at again after the rebalance time-out, which may be 0, but not sooner.
const MIN_JOIN_RETRY_MS: i64 = 1_000;

/// Membership has changed: start over, or see whether the join phase is over.
pub(super) fn rebalance_or_complete(group: &mut Group, fx: &mut Effects) {
    if group.state == State::PreparingRebalance {
        complete_if_all_joined(group, fx);
    } else {
        prepare_rebalance(group, fx);
    }
}

/// The first generation of an empty group waits for its delay in any case.
pub(super) fn complete_if_all_joined(group: &mut Group, fx: &mut Effects) {
    if group.state == State::PreparingRebalance
        && group.initial_delay_ms.is_none()
        && group.all_joined()
    {
        complete_join(group, fx);
    }
}

pub(in crate::groups) fn prepare_rebalance(group: &mut Group, fx: &mut Effects) {
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
    let due = Due::Join {
        group: group.id.clone(),
    };
    group.join_timer = Some(fx.timers.arm(fx.now.monotonic_ms + after_ms, due));
}

/// The initial delay or the rebalance time-out is over.
pub(in crate::groups) fn join_due(group: &mut Group, fx: &mut Effects) {
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
    let absent: Vec<_> = group
        .members
        .values()
        .filter(absent)
        .map(|m| m.id.clone())
        .collect();
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
        fx.then(Then::Nothing {
            group: group.id.clone(),
        });
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
    let due = Due::Sync {
        group: group.id.clone(),
        generation: group.generation,
    };
    group.sync_timer = Some(fx.timers.arm(deadline_ms, due));
}

/// Whoever has not asked for its assignment within the rebalance time-out is out.
pub(in crate::groups) fn sync_due(group: &mut Group, fx: &mut Effects, generation: i32) {
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
