//! From empty to stable and back: the join phase, the sync phase, and what ends them.

use super::*;

#[test]
fn first_generation_waits_for_the_initial_delay() {
    let mut world = World::new();
    let (_, first) = world.join_dynamic(&["t"]);
    assert_eq!(world.state(), State::PreparingRebalance);
    world.pass(DELAY_MS - 1);
    assert!(world.is_waiting(first));
    world.pass(1);
    let response = world.joined(first);
    assert_eq!((response.error_code, response.generation_id), (0, 1));
    assert_eq!(response.protocol_name, Some(ks("range")));
    assert_eq!(response.members.len(), 1);
    assert_eq!(world.state(), State::CompletingRebalance);
}

#[test]
fn initial_delay_is_extended_while_members_come_but_not_beyond_the_rebalance_timeout() {
    let mut world = World::new();
    let mut joins = vec![world.join_dynamic(&["t"])];
    // Somebody new within each delay, for longer than the rebalance time-out.
    for _ in 0..30 {
        world.pass(DELAY_MS - 500);
        if !world.is_waiting(joins[0].1) {
            break;
        }
        joins.push(world.join_dynamic(&["t"]));
    }
    let waited_ms = world.now.monotonic_ms - 1_000;
    assert!(
        (REBALANCE_MS as i64..REBALANCE_MS as i64 + DELAY_MS).contains(&waited_ms),
        "{waited_ms}"
    );
    assert_eq!(world.joined(joins[0].1).generation_id, 1);
}

#[test]
fn nobody_new_within_the_delay_ends_it() {
    let mut world = World::new();
    let (_, first) = world.join_dynamic(&["t"]);
    world.pass(1_000);
    let (_, second) = world.join_dynamic(&["t"]);
    world.pass(2_000);
    assert!(world.is_waiting(first), "somebody came, so another delay");
    world.pass(DELAY_MS);
    assert_eq!(world.joined(first).generation_id, 1);
    assert_eq!(world.joined(second).generation_id, 1);
}

#[test]
fn without_a_delay_the_first_member_starts_at_once() {
    let mut world = World::with(GroupConfig {
        initial_rebalance_delay_ms: 0,
        ..GroupConfig::default()
    });
    let (_, token) = world.join_dynamic(&["t"]);
    world.pass(0);
    assert_eq!(world.joined(token).generation_id, 1);
}

#[test]
fn only_the_leader_hears_of_the_members() {
    let mut world = World::new();
    let joins: Vec<_> = (0..3).map(|_| world.join_dynamic(&["t"])).collect();
    world.pass(2 * DELAY_MS);
    let mut leaders = 0;
    for (id, token) in joins {
        let response = world.joined(token);
        let is_leader = response.leader.as_str() == id;
        leaders += usize::from(is_leader);
        assert_eq!(response.members.len(), if is_leader { 3 } else { 0 });
        assert!(
            response
                .members
                .iter()
                .all(|m| m.metadata == subscription(&["t"]))
        );
    }
    assert_eq!(leaders, 1);
}

#[test]
fn a_joining_member_makes_the_others_rejoin() {
    let mut world = World::new();
    let ids = world.stable(2);
    let (new, newcomer) = world.join_dynamic(&["t"]);
    assert_eq!(world.state(), State::PreparingRebalance);
    assert_eq!(world.heartbeat(&ids[0], 1), error::REBALANCE_IN_PROGRESS);
    let sync = world.sync(&ids[0], 1, &[]);
    assert_eq!(sync.error_code, error::REBALANCE_IN_PROGRESS);
    let first = world.join(join_request(&ids[0], &["t"]));
    assert!(world.is_waiting(first));
    let second = world.join(join_request(&ids[1], &["t"]));
    for token in [newcomer, first, second] {
        let response = world.joined(token);
        assert_eq!((response.error_code, response.generation_id), (0, 2));
        assert_eq!(response.leader.as_str(), ids[0], "the leader stays");
    }
    let followers = [
        world.sync_token(&new, 2, &[]),
        world.sync_token(&ids[1], 2, &[]),
    ];
    let response = world.sync(
        &ids[0],
        2,
        &[(&new, "n"), (&ids[0], "0"), ("a stranger", "x")],
    );
    assert_eq!(response.assignment, "0");
    assert_eq!(world.synced(followers[0]).assignment, "n");
    assert_eq!(
        world.synced(followers[1]).assignment,
        "",
        "the leader forgot it"
    );
    assert_eq!(world.heartbeat(&new, 1), error::ILLEGAL_GENERATION);
    assert_eq!(world.heartbeat(&new, 2), 0);
}

#[test]
fn who_does_not_rejoin_within_the_rebalance_timeout_is_out() {
    let mut world = World::new();
    let ids = world.stable(3);
    let token = world.join(join_request(&ids[0], &["t", "u"]));
    // The others keep their sessions alive but do not rejoin.
    for _ in 0..11 {
        world.pass(5_000);
        assert_eq!(world.heartbeat(&ids[1], 1), error::REBALANCE_IN_PROGRESS);
        assert_eq!(world.heartbeat(&ids[2], 1), error::REBALANCE_IN_PROGRESS);
    }
    assert!(world.is_waiting(token));
    world.pass(5_000);
    let response = world.joined(token);
    assert_eq!((response.generation_id, response.members.len()), (2, 1));
    assert_eq!(world.heartbeat(&ids[1], 1), error::UNKNOWN_MEMBER_ID);
}

#[test]
fn an_absent_leader_is_replaced() {
    let mut world = World::new();
    let ids = world.stable(2);
    let token = world.join(join_request(&ids[1], &["u"]));
    for _ in 0..12 {
        world.pass(5_000);
        world.heartbeat(&ids[0], 1);
    }
    let response = world.joined(token);
    assert_eq!(
        (response.generation_id, response.leader.as_str()),
        (2, ids[1].as_str())
    );
}

#[test]
fn a_leader_forces_a_rebalance_by_rejoining_a_follower_only_with_news() {
    let mut world = World::new();
    let ids = world.stable(2);
    let token = world.join(join_request(&ids[1], &["t"]));
    let response = world.joined(token);
    assert_eq!(
        (
            response.error_code,
            response.generation_id,
            response.members.len()
        ),
        (0, 1, 0)
    );
    assert_eq!(world.state(), State::Stable);
    assert_eq!(world.sync(&ids[1], 1, &[]).assignment, ids[1].as_bytes());
    let token = world.join(join_request(&ids[0], &["t"]));
    assert!(world.is_waiting(token));
    assert_eq!(world.state(), State::PreparingRebalance);
}

#[test]
fn rejoining_in_the_sync_phase_repeats_the_answer_unless_there_is_news() {
    let mut world = World::new();
    let joins: Vec<_> = (0..2).map(|_| world.join_dynamic(&["t"])).collect();
    world.pass(2 * DELAY_MS);
    for (id, _) in &joins {
        let token = world.join(join_request(id, &["t"]));
        let response = world.joined(token);
        assert_eq!((response.error_code, response.generation_id), (0, 1));
        assert_eq!(
            response.members.len(),
            if response.leader.as_str() == id { 2 } else { 0 }
        );
    }
    let waiting = world.sync_token(&joins[0].0, 1, &[]);
    let answered_early = !world.is_waiting(waiting);
    let token = world.join(join_request(&joins[1].0, &["t", "u"]));
    assert!(world.is_waiting(token));
    if !answered_early {
        assert_eq!(
            world.synced(waiting).error_code,
            error::REBALANCE_IN_PROGRESS
        );
    }
}

#[test]
fn who_does_not_ask_for_its_assignment_is_out() {
    let mut world = World::new();
    let joins: Vec<_> = (0..2).map(|_| world.join_dynamic(&["t"])).collect();
    world.pass(2 * DELAY_MS);
    let (_, token) = &joins[0];
    let leader = world.joined(*token).leader.as_str().to_owned();
    let lazy = joins
        .iter()
        .map(|(id, _)| id.clone())
        .find(|id| *id != leader)
        .expect("two members");
    assert_eq!(
        world
            .sync(&leader, 1, &[(&lazy, "x"), (&leader, "y")])
            .assignment,
        "y"
    );
    for _ in 0..11 {
        world.pass(5_000);
        assert_eq!(world.heartbeat(&leader, 1), 0);
        assert_eq!(world.heartbeat(&lazy, 1), 0);
    }
    world.pass(5_000);
    assert_eq!(world.heartbeat(&lazy, 1), error::UNKNOWN_MEMBER_ID);
    assert_eq!(world.heartbeat(&leader, 1), error::REBALANCE_IN_PROGRESS);
}

#[test]
fn sync_checks_who_asks_for_what() {
    let mut world = World::new();
    let ids = world.stable(1);
    assert_eq!(
        world.sync("stranger", 1, &[]).error_code,
        error::UNKNOWN_MEMBER_ID
    );
    assert_eq!(
        world.sync(&ids[0], 2, &[]).error_code,
        error::ILLEGAL_GENERATION
    );
    for (kind, name) in [("connect", "range"), ("consumer", "sticky")] {
        let mut request = sync_request(&ids[0], 1, &[]);
        (request.protocol_type, request.protocol_name) = (Some(ks(kind)), Some(ks(name)));
        let GroupReply::Sync(response) = world.ask(GroupRequest::Sync(request)) else {
            panic!()
        };
        assert_eq!(response.error_code, error::INCONSISTENT_GROUP_PROTOCOL);
    }
    let mut request = sync_request(&ids[0], 1, &[]);
    (request.protocol_type, request.protocol_name) = (None, None);
    let GroupReply::Sync(response) = world.ask(GroupRequest::Sync(request)) else {
        panic!()
    };
    assert_eq!(
        (response.error_code, response.assignment),
        (0, ids[0].clone().into())
    );
    let request = SyncGroupRequestData {
        group_id: ks("other"),
        ..sync_request(&ids[0], 1, &[])
    };
    let GroupReply::Sync(response) = world.ask(GroupRequest::Sync(request)) else {
        panic!()
    };
    assert_eq!(response.error_code, error::UNKNOWN_MEMBER_ID);
}

#[test]
fn a_repeated_sync_or_join_displaces_the_first() {
    let mut world = World::new();
    let joins: Vec<_> = (0..2).map(|_| world.join_dynamic(&["t"])).collect();
    let again = world.join(join_request(&joins[0].0, &["t"]));
    assert_eq!(
        world.joined(joins[0].1).error_code,
        error::REBALANCE_IN_PROGRESS
    );
    world.pass(2 * DELAY_MS);
    let leader = world.joined(again).leader.as_str().to_owned();
    let follower = joins
        .iter()
        .map(|(id, _)| id.clone())
        .find(|id| *id != leader)
        .expect("two members");
    let first = world.sync_token(&follower, 1, &[]);
    let second = world.sync_token(&follower, 1, &[]);
    assert_eq!(world.synced(first).error_code, error::REBALANCE_IN_PROGRESS);
    world.sync(&leader, 1, &[(&follower, "f")]);
    assert_eq!(world.synced(second).assignment, "f");
}

#[test]
fn votes_choose_the_protocol() {
    let mut world = World::new();
    let wishes = [["a", "b", "c"], ["b", "a", "x"], ["b", "y", "a"]];
    let mut tokens = Vec::new();
    for names in wishes {
        let mut request = join_request("", &["t"]);
        request.protocols = names
            .iter()
            .map(|name| protocol(name, Bytes::from(name.to_string())))
            .collect();
        let token = world.join(request.clone());
        request.member_id = world.joined(token).member_id;
        tokens.push(world.join(request));
    }
    world.pass(2 * DELAY_MS);
    let response = world.joined(tokens[0]);
    assert_eq!(
        response.protocol_name,
        Some(ks("b")),
        "all support a and b, two prefer b"
    );
    assert!(response.members.iter().all(|member| member.metadata == "b"));
}

#[test]
fn protocols_must_fit_those_of_the_members() {
    let mut world = World::new();
    world.stable(1);
    let mut request = join_request("", &["t"]);
    request.protocols = vec![protocol("roundrobin", Bytes::new())];
    let token = world.join(request);
    assert_eq!(
        world.joined(token).error_code,
        error::INCONSISTENT_GROUP_PROTOCOL
    );
    let token = world.join(JoinGroupRequestData {
        protocol_type: ks("connect"),
        ..join_request("", &["t"])
    });
    assert_eq!(
        world.joined(token).error_code,
        error::INCONSISTENT_GROUP_PROTOCOL
    );
}

#[test]
fn an_empty_group_takes_any_protocol_but_not_none() {
    let mut world = World::new();
    let token = world.join(JoinGroupRequestData {
        protocols: vec![],
        ..join_request("", &["t"])
    });
    assert_eq!(
        world.joined(token).error_code,
        error::INCONSISTENT_GROUP_PROTOCOL
    );
    let token = world.join(JoinGroupRequestData {
        protocol_type: ks(""),
        ..join_request("", &["t"])
    });
    assert_eq!(
        world.joined(token).error_code,
        error::INCONSISTENT_GROUP_PROTOCOL
    );
    assert!(
        world.coordinator.group(GROUP).is_none(),
        "nothing is left of a group that nobody could join"
    );
    let ids = world.stable(1);
    world.leave(&[(&ids[0], None)]);
    let token = world.join(JoinGroupRequestData {
        protocol_type: ks("connect"),
        ..join_request("", &["t"])
    });
    assert_eq!(world.joined(token).error_code, error::MEMBER_ID_REQUIRED);
}

#[test]
fn a_write_that_is_refused_sends_the_generation_back() {
    let mut world = World::new();
    let (id, token) = world.join_dynamic(&["t"]);
    world.pass(DELAY_MS);
    world.joined(token);
    world.hold_writes = true;
    let token = world.sync_token(&id, 1, &[(&id, "x")]);
    assert!(world.is_waiting(token), "not durable yet");
    assert_eq!(world.heartbeat(&id, 1), 0);
    world.refuse();
    assert_eq!(
        world.synced(token).error_code,
        error::COORDINATOR_NOT_AVAILABLE
    );
    assert_eq!(world.state(), State::PreparingRebalance);
}

#[test]
fn a_member_that_comes_while_the_assignment_is_written_wins() {
    let mut world = World::new();
    let (id, token) = world.join_dynamic(&["t"]);
    world.pass(DELAY_MS);
    world.joined(token);
    world.hold_writes = true;
    let token = world.sync_token(&id, 1, &[(&id, "x")]);
    let (_, newcomer) = world.join_dynamic(&["t"]);
    assert_eq!(world.synced(token).error_code, error::REBALANCE_IN_PROGRESS);
    world.resume();
    assert_eq!(world.state(), State::PreparingRebalance);
    let token = world.join(join_request(&id, &["t"]));
    assert_eq!(world.joined(token).generation_id, 2);
    assert_eq!(world.joined(newcomer).generation_id, 2);
}
