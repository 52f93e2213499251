//! Static members: `group.instance.id`.

use super::*;

/// A stable group of two static members: (instance, member id), the leader first.
fn stable_static(world: &mut World) -> Vec<(&'static str, String)> {
    let tokens =
        ["one", "two"].map(|instance| (instance, world.join(static_request(instance, ""))));
    world.pass(2 * DELAY_MS);
    let mut members = Vec::new();
    let mut leader = String::new();
    for (instance, token) in tokens {
        let response = world.joined(token);
        assert_eq!((response.error_code, response.generation_id), (0, 1));
        assert!(response.member_id.as_str().starts_with(instance));
        leader = response.leader.as_str().to_owned();
        members.push((instance, response.member_id.as_str().to_owned()));
    }
    members.sort_by_key(|(_, id)| *id != leader);
    let follower = world.sync_token(&members[1].1, 1, &[]);
    world.sync(
        &members[0].1,
        1,
        &[(&members[0].1, "L"), (&members[1].1, "F")],
    );
    assert_eq!(world.synced(follower).assignment, "F");
    members
}

#[test]
fn a_static_member_needs_no_id_first() {
    let mut world = World::new();
    let token = world.join(static_request("one", ""));
    assert!(world.is_waiting(token));
}

#[test]
fn a_static_member_comes_back_without_a_rebalance() {
    let mut world = World::new();
    let members = stable_static(&mut world);
    let (instance, old) = members[1].clone();
    let token = world.join(static_request(instance, ""));
    let response = world.joined(token);
    assert_eq!((response.error_code, response.generation_id), (0, 1));
    assert!(!response.skip_assignment && response.members.is_empty());
    let new = response.member_id.as_str().to_owned();
    assert_ne!(new, old);
    assert_eq!(world.sync(&new, 1, &[]).assignment, "F");
    assert_eq!(
        world.heartbeat(&members[0].1, 1),
        0,
        "the others notice nothing"
    );

    // The old one is fenced wherever it names its instance, and unknown where it does not.
    let mut heartbeat = HeartbeatRequestData {
        group_id: ks(GROUP),
        generation_id: 1,
        member_id: ks(&old),
        ..Default::default()
    };
    assert_eq!(
        world.ask(GroupRequest::Heartbeat(heartbeat.clone())),
        GroupReply::Heartbeat(error::UNKNOWN_MEMBER_ID)
    );
    heartbeat.group_instance_id = Some(ks(instance));
    assert_eq!(
        world.ask(GroupRequest::Heartbeat(heartbeat)),
        GroupReply::Heartbeat(error::FENCED_INSTANCE_ID)
    );
    let token = world.join(static_request(instance, &old));
    assert_eq!(world.joined(token).error_code, error::FENCED_INSTANCE_ID);
    let mut sync = sync_request(&old, 1, &[]);
    sync.group_instance_id = Some(ks(instance));
    let GroupReply::Sync(response) = world.ask(GroupRequest::Sync(sync)) else {
        panic!()
    };
    assert_eq!(response.error_code, error::FENCED_INSTANCE_ID);
    assert_eq!(
        world.leave(&[(&old, Some(instance))]).members[0].error_code,
        error::FENCED_INSTANCE_ID
    );
    let GroupRequest::Commit(client, mut commit) = world.commit_request(&old, 1, &[("t", 0, 1)])
    else {
        panic!()
    };
    commit.group_instance_id = Some(ks(instance));
    let token = world.send(GroupRequest::Commit(client, commit));
    assert_eq!(world.commit_codes(token), [error::FENCED_INSTANCE_ID]);
}

#[test]
fn a_static_leader_that_comes_back_is_told_to_skip_the_assignment() {
    let mut world = World::new();
    let members = stable_static(&mut world);
    let token = world.join(static_request(members[0].0, ""));
    let response = world.joined(token);
    assert!(response.skip_assignment);
    assert_eq!(response.leader, response.member_id);
    assert_eq!(response.members.len(), 2);
}

#[test]
fn before_version_9_it_is_told_that_its_old_self_leads() {
    let mut world = World::new();
    let members = stable_static(&mut world);
    world.version = 8;
    let token = world.join(static_request(members[0].0, ""));
    let response = world.joined(token);
    assert_eq!(response.leader.as_str(), members[0].1);
    assert!(!response.skip_assignment && response.members.is_empty());
    assert_eq!(
        world.sync(response.member_id.as_str(), 1, &[]).assignment,
        "L"
    );
}

#[test]
fn a_changed_protocol_does_rebalance() {
    let mut world = World::new();
    let members = stable_static(&mut world);
    let mut request = static_request(members[1].0, "");
    request.protocols.retain(|p| p.name.as_str() == "sticky");
    let token = world.join(request);
    assert!(world.is_waiting(token));
    assert_eq!(
        world.heartbeat(&members[0].1, 1),
        error::REBALANCE_IN_PROGRESS
    );
}

#[test]
fn in_the_sync_phase_it_does_too_and_the_old_self_is_fenced_at_once() {
    let mut world = World::new();
    let tokens = ["one", "two"].map(|instance| world.join(static_request(instance, "")));
    world.pass(2 * DELAY_MS);
    let first = world.joined(tokens[0]);
    let second = world.joined(tokens[1]);
    let follower = if first.leader == first.member_id {
        second
    } else {
        first
    };
    let instance = follower
        .member_id
        .as_str()
        .split('-')
        .next()
        .expect("starts with the instance")
        .to_owned();
    let parked = world.sync_token(follower.member_id.as_str(), 1, &[]);
    let again = world.join(static_request(&instance, ""));
    assert_eq!(world.synced(parked).error_code, error::FENCED_INSTANCE_ID);
    assert!(world.is_waiting(again));
    assert_eq!(world.state(), State::PreparingRebalance);
}

#[test]
fn in_the_join_phase_the_parked_old_self_is_fenced() {
    let mut world = World::new();
    let first = world.join(static_request("one", ""));
    let second = world.join(static_request("one", ""));
    assert_eq!(world.joined(first).error_code, error::FENCED_INSTANCE_ID);
    world.pass(DELAY_MS);
    assert_eq!(world.joined(second).error_code, 0);
}

#[test]
fn a_static_member_that_does_not_rejoin_stays_until_its_session_ends() {
    let mut world = World::new();
    let members = stable_static(&mut world);
    let leader = world.join(static_request(members[0].0, &members[0].1));
    for _ in 0..12 {
        world.pass(5_000);
        world.heartbeat(&members[1].1, 1);
    }
    let response = world.joined(leader);
    assert_eq!(
        (response.generation_id, response.members.len()),
        (2, 2),
        "it is still a member"
    );
    world.pass(SESSION_MS.into());
    assert_eq!(world.heartbeat(&members[1].1, 2), error::UNKNOWN_MEMBER_ID);
}

#[test]
fn if_nobody_rejoins_the_group_waits_for_sessions_to_end() {
    let mut world = World::new();
    let members = stable_static(&mut world);
    world.leave(&[("", Some(members[1].0))]);
    assert_eq!(world.state(), State::PreparingRebalance);
    for _ in 0..40 {
        world.pass(5_000);
        assert_eq!(
            world.heartbeat(&members[0].1, 1),
            error::REBALANCE_IN_PROGRESS
        );
    }
    let timers = world.coordinator.timers();
    assert!(timers <= 2, "{timers}");
    world.pass(i64::from(SESSION_MS));
    assert_eq!(world.state(), State::Empty);
}

#[test]
fn a_rebalance_timeout_of_0_does_not_make_time_stand_still() {
    let mut world = World::new();
    let hasty = world.join(JoinGroupRequestData {
        rebalance_timeout_ms: 0,
        ..static_request("one", "")
    });
    let other = world.join(static_request("two", ""));
    world.pass(2 * DELAY_MS);
    let [one, two] = [hasty, other].map(|token| world.joined(token).member_id.as_str().to_owned());
    world.sync(&one, 1, &[]);
    world.sync(&two, 1, &[]);
    world.leave(&[(&two, None)]);
    // Nobody is there to rejoin, again and again, but not at one and the same moment.
    for _ in 0..5 {
        world.pass(i64::from(SESSION_MS) - 1);
        assert_eq!(world.heartbeat(&one, 1), error::REBALANCE_IN_PROGRESS);
    }
    world.pass(i64::from(SESSION_MS));
    assert_eq!(world.state(), State::Empty);
}

#[test]
fn administrators_remove_by_instance_alone() {
    let mut world = World::new();
    let members = stable_static(&mut world);
    let response = world.leave(&[("", Some(members[1].0)), ("", Some("ghost")), ("", None)]);
    let codes: Vec<_> = response.members.iter().map(|m| m.error_code).collect();
    assert_eq!(
        codes,
        [0, error::UNKNOWN_MEMBER_ID, error::UNKNOWN_MEMBER_ID]
    );
}

#[test]
fn a_replacement_that_cannot_be_persisted_is_taken_back() {
    let mut world = World::new();
    let members = stable_static(&mut world);
    world.hold_writes = true;
    let token = world.join(static_request(members[0].0, ""));
    assert!(world.is_waiting(token));
    world.refuse();
    world.hold_writes = false;
    assert_eq!(
        world.joined(token).error_code,
        error::COORDINATOR_NOT_AVAILABLE
    );
    assert_eq!(
        world.heartbeat(&members[0].1, 1),
        0,
        "the old id is the member again"
    );
    let group = world.coordinator.group(GROUP).unwrap();
    assert_eq!(group.leader.as_deref(), Some(members[0].1.as_str()));
    world.pass(i64::from(SESSION_MS));
    assert_eq!(
        world.heartbeat(&members[0].1, 1),
        error::UNKNOWN_MEMBER_ID,
        "and its session counts"
    );
}
