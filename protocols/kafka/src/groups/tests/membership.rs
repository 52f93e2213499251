//! Who is a member, for how long, and how it ends.

use super::*;

#[test]
fn dynamic_members_need_an_id_from_version_4_on() {
    let mut world = World::new();
    world.version = 3;
    let token = world.join(join_request("", &["t"]));
    assert!(world.is_waiting(token));
    world.pass(DELAY_MS);
    let response = world.joined(token);
    assert_eq!(response.error_code, 0);
    assert!(
        response
            .member_id
            .as_str()
            .starts_with("client-01010101-0101-4101-8101-"),
        "{}",
        response.member_id
    );
}

#[test]
fn version_0_takes_its_session_timeout_for_the_rebalance_timeout() {
    let mut world = World::new();
    world.version = 0;
    world.join(JoinGroupRequestData {
        rebalance_timeout_ms: -1,
        ..join_request("", &["t"])
    });
    let group = world.coordinator.group(GROUP).unwrap();
    assert_eq!(group.rebalance_timeout_ms(), i64::from(SESSION_MS));
}

#[test]
fn unknown_members_and_groups_are_told_so() {
    let mut world = World::new();
    let token = world.join(join_request("ghost", &["t"]));
    assert_eq!(world.joined(token).error_code, error::UNKNOWN_MEMBER_ID);
    assert_eq!(world.heartbeat("ghost", 1), error::UNKNOWN_MEMBER_ID);
    let response = world.leave(&[("ghost", None)]);
    assert_eq!(
        (response.error_code, response.members[0].error_code),
        (0, error::UNKNOWN_MEMBER_ID)
    );
    world.stable(1);
    let token = world.join(join_request("ghost", &["t"]));
    assert_eq!(world.joined(token).error_code, error::UNKNOWN_MEMBER_ID);
    assert_eq!(world.heartbeat("ghost", 1), error::UNKNOWN_MEMBER_ID);
}

#[test]
fn group_id_and_session_timeout_are_checked_first() {
    let mut world = World::new();
    for group_id in [ks(""), ks(&"x".repeat(40_000))] {
        let token = world.join(JoinGroupRequestData {
            group_id,
            ..join_request("", &["t"])
        });
        assert_eq!(world.joined(token).error_code, error::INVALID_GROUP_ID);
    }
    for session_timeout_ms in [-1, 5_999, 1_800_001] {
        let token = world.join(JoinGroupRequestData {
            session_timeout_ms,
            ..join_request("", &["t"])
        });
        assert_eq!(
            world.joined(token).error_code,
            error::INVALID_SESSION_TIMEOUT
        );
    }
    let long = JoinGroupRequestData {
        group_instance_id: Some(ks(&"i".repeat(40_000))),
        ..join_request("", &["t"])
    };
    let token = world.join(long);
    assert_eq!(
        world.joined(token).error_code,
        error::INCONSISTENT_GROUP_PROTOCOL
    );
    assert!(world.coordinator.group(GROUP).is_none());
}

#[test]
fn an_id_that_is_not_used_expires_and_does_not_hold_up_the_others() {
    let mut world = World::new();
    let ids = world.stable(1);
    let token = world.join(join_request("", &["t"]));
    let unused = world.joined(token).member_id.as_str().to_owned();
    let token = world.join(join_request(&ids[0], &["t"]));
    assert!(world.is_waiting(token), "somebody has an id and may come");
    world.pass(SESSION_MS.into());
    assert_eq!(world.joined(token).generation_id, 2);
    let token = world.join(join_request(&unused, &["t"]));
    assert_eq!(world.joined(token).error_code, error::UNKNOWN_MEMBER_ID);
}

#[test]
fn a_member_to_be_may_leave() {
    let mut world = World::new();
    let token = world.join(join_request("", &["t"]));
    let id = world.joined(token).member_id.as_str().to_owned();
    assert_eq!(world.leave(&[(&id, None)]).members[0].error_code, 0);
    let token = world.join(join_request(&id, &["t"]));
    assert_eq!(world.joined(token).error_code, error::UNKNOWN_MEMBER_ID);
    assert_eq!(world.coordinator.timers(), 0);
}

#[test]
fn a_session_ends_without_heartbeats_and_goes_on_with_them() {
    let mut world = World::new();
    let ids = world.stable(2);
    for _ in 0..10 {
        world.pass(i64::from(SESSION_MS) - 1);
        assert_eq!(
            world.heartbeat(&ids[0], 1),
            if world.state() == State::Stable {
                0
            } else {
                27
            }
        );
        if world.state() == State::Stable {
            assert_eq!(world.heartbeat(&ids[1], 1), 0);
        }
    }
    assert_eq!(world.state(), State::Stable);
    world.pass(i64::from(SESSION_MS) - 1);
    world.heartbeat(&ids[0], 1);
    world.pass(1);
    assert_eq!(world.heartbeat(&ids[1], 1), error::UNKNOWN_MEMBER_ID);
    assert_eq!(world.heartbeat(&ids[0], 1), error::REBALANCE_IN_PROGRESS);
    world.pass(i64::from(SESSION_MS));
    assert_eq!(world.state(), State::Empty);
}

#[test]
fn a_parked_member_does_not_expire_but_a_new_one_does_after_five_minutes() {
    let mut world = World::new();
    let ids = world.stable(2);
    let long = |id: &str| JoinGroupRequestData {
        rebalance_timeout_ms: 1_000_000,
        ..join_request(id, &["t", "u"])
    };
    let parked = world.join(long(&ids[0]));
    let token = world.join(join_request("", &["t"]));
    let new = world.joined(token).member_id.as_str().to_owned();
    let newcomer = world.join(long(&new));
    // The other member lives but does not rejoin.
    for _ in 0..60 {
        world.pass(5_000);
        world.heartbeat(&ids[1], 1);
    }
    assert!(
        world.is_waiting(parked),
        "its session is over, but it waits for us"
    );
    assert_eq!(world.joined(newcomer).error_code, error::UNKNOWN_MEMBER_ID);
}

#[test]
fn leaving_rebalances_the_rest_and_the_last_one_leaves_the_group_empty() {
    let mut world = World::new();
    let ids = world.stable(2);
    let response = world.leave(&[(&ids[1], None)]);
    assert_eq!(response.members[0].error_code, 0);
    assert_eq!(world.heartbeat(&ids[0], 1), error::REBALANCE_IN_PROGRESS);
    let token = world.join(join_request(&ids[0], &["t"]));
    assert_eq!(world.joined(token).generation_id, 2);
    assert_eq!(world.sync(&ids[0], 2, &[(&ids[0], "x")]).error_code, 0);
    world.leave(&[(&ids[0], None)]);
    assert_eq!(world.state(), State::Empty);
    assert_eq!(world.coordinator.group(GROUP).unwrap().generation, 3);
    assert_eq!(world.heartbeat(&ids[0], 2), error::UNKNOWN_MEMBER_ID);
    assert_eq!(world.coordinator.timers(), 0, "nothing is left to wait for");
}

#[test]
fn leaving_while_parked_ends_the_wait() {
    let mut world = World::new();
    let ids = world.stable(2);
    let parked = world.join(join_request(&ids[0], &["u"]));
    let response = world.leave(&[(&ids[0], None), ("ghost", None), (&ids[1], None)]);
    let codes: Vec<_> = response.members.iter().map(|m| m.error_code).collect();
    assert_eq!(codes, [0, error::UNKNOWN_MEMBER_ID, 0]);
    assert_eq!(world.joined(parked).error_code, error::UNKNOWN_MEMBER_ID);
    assert_eq!(world.state(), State::Empty);
}

#[test]
fn group_max_size_keeps_the_last_ones_out() {
    let mut world = World::with(GroupConfig {
        max_size: 2,
        ..GroupConfig::default()
    });
    let joins: Vec<_> = (0..2).map(|_| world.join_dynamic(&["t"])).collect();
    let token = world.join(join_request("", &["t"]));
    assert_eq!(
        world.joined(token).error_code,
        error::GROUP_MAX_SIZE_REACHED
    );
    world.pass(2 * DELAY_MS);
    assert!(joins.iter().all(|(_, token)| !world.is_waiting(*token)));
    let token = world.join(join_request("", &["t"]));
    assert_eq!(
        world.joined(token).error_code,
        error::GROUP_MAX_SIZE_REACHED
    );
    let token = world.join(join_request(&joins[0].0, &["t"]));
    assert_eq!(world.joined(token).error_code, 0, "a member may come back");
}

#[test]
fn ids_given_out_are_bounded_too() {
    let mut world = World::with(GroupConfig {
        max_size: 3,
        ..GroupConfig::default()
    });
    for _ in 0..3 {
        let token = world.join(join_request("", &["t"]));
        assert_eq!(world.joined(token).error_code, error::MEMBER_ID_REQUIRED);
    }
    let token = world.join(join_request("", &["t"]));
    assert_eq!(
        world.joined(token).error_code,
        error::GROUP_MAX_SIZE_REACHED
    );
}

#[test]
fn release_sends_everybody_who_waits_away() {
    let mut world = World::new();
    let (_, parked) = world.join_dynamic(&["t"]);
    world.coordinator.release();
    world.settle();
    assert_eq!(world.joined(parked).error_code, error::NOT_COORDINATOR);
    world.pass(DELAY_MS);
}

#[test]
fn lists_and_descriptions() {
    let mut world = World::new();
    let ids = world.stable(1);
    world.send(world.commit_request("", -1, &[]));
    let list = |world: &mut World, states: &[&str], types: &[&str]| {
        let filter = |names: &[&str]| names.iter().map(|s| ks(s)).collect();
        let request = GroupRequest::List {
            states: filter(states),
            types: filter(types),
        };
        let GroupReply::List(list) = world.ask(request) else {
            panic!()
        };
        list.groups
    };
    assert_eq!(list(&mut world, &[], &[]).len(), 1);
    assert_eq!(list(&mut world, &["stable"], &["CLASSIC"]).len(), 1);
    assert_eq!(list(&mut world, &["Empty"], &[]).len(), 0);
    assert_eq!(list(&mut world, &[], &["consumer"]).len(), 0);
    let group = &list(&mut world, &["Empty", "Stable"], &[])[0];
    let shown = [
        &group.group_id,
        &group.protocol_type,
        &group.group_state,
        &group.group_type,
    ]
    .map(|s| s.as_str());
    assert_eq!(shown, [GROUP, "consumer", "Stable", "classic"]);

    let describe = |world: &mut World, id: &str| {
        let GroupReply::Describe(group) = world.ask(GroupRequest::Describe(ks(id))) else {
            panic!()
        };
        group
    };
    let group = describe(&mut world, GROUP);
    assert_eq!(
        (
            group.error_code,
            group.protocol_data.as_str(),
            group.members.len()
        ),
        (0, "range", 1)
    );
    let member = &group.members[0];
    assert_eq!(
        (member.member_id.as_str(), member.client_host.as_str()),
        (ids[0].as_str(), "/127.0.0.1")
    );
    assert_eq!(
        (&member.member_metadata, &member.member_assignment),
        (&subscription(&["t"]), &ids[0].clone().into())
    );
    world.join(join_request(&ids[0], &["u"]));
    let _ = world.join(join_request("", &["t"]));
    let group = describe(&mut world, GROUP);
    assert_eq!(
        (group.group_state.as_str(), group.protocol_data.as_str()),
        ("CompletingRebalance", "")
    );
    assert!(group.members[0].member_metadata.is_empty());
    let group = describe(&mut world, "ghost");
    assert_eq!(
        (group.error_code, group.group_state.as_str()),
        (error::GROUP_ID_NOT_FOUND, "Dead")
    );
}
