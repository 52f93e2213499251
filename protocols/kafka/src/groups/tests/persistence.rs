//! What a restart finds.

use super::*;

#[test]
fn consumers_go_on_with_heartbeats_alone() {
    let mut world = World::new();
    let ids = world.stable(3);
    world.commit(&ids[1], 1, &[("t", 0, 42)]);
    world.restart();
    assert_eq!(world.state(), State::Stable);
    for id in &ids {
        assert_eq!(world.heartbeat(id, 1), 0);
        assert_eq!(world.sync(id, 1, &[]).assignment, id.as_bytes());
    }
    assert_eq!(world.commit(&ids[1], 1, &[("t", 0, 43)]), [0]);
    assert_eq!(world.fetch("t", &[0]), [43]);
    let group = world.coordinator.group(GROUP).unwrap();
    assert_eq!(group.leader.as_deref(), Some(ids[0].as_str()));
    assert!(group.is_subscribed("t") && !group.is_subscribed("u"));
    // Who does not come back is missed.
    world.pass(i64::from(SESSION_MS) - 1);
    assert_eq!(world.heartbeat(&ids[0], 1), 0);
    world.pass(1);
    assert_eq!(world.heartbeat(&ids[0], 1), error::REBALANCE_IN_PROGRESS);
}

#[test]
fn an_assignment_that_was_not_durable_is_not_known_to_anybody() {
    let mut world = World::new();
    let ids = world.stable(1);
    let (new, newcomer) = world.join_dynamic(&["t"]);
    let token = world.join(join_request(&ids[0], &["t"]));
    world.joined(token);
    world.joined(newcomer);
    world.hold_writes = true;
    let sync = world.sync_token(&ids[0], 2, &[(&new, "n")]);
    assert!(world.is_waiting(sync));
    world.restart();
    world.hold_writes = false;
    assert_eq!(world.heartbeat(&ids[0], 2), error::ILLEGAL_GENERATION);
    assert_eq!(world.heartbeat(&ids[0], 1), 0);
    assert_eq!(world.heartbeat(&new, 2), error::UNKNOWN_MEMBER_ID);
}

#[test]
fn static_members_keep_their_instance() {
    let mut world = World::new();
    let token = world.join(static_request("one", ""));
    world.pass(DELAY_MS);
    let id = world.joined(token).member_id.as_str().to_owned();
    world.sync(&id, 1, &[(&id, "x")]);
    let token = world.join(static_request("one", ""));
    let newer = world.joined(token).member_id.as_str().to_owned();
    world.restart();
    let token = world.join(static_request("one", &id));
    assert_eq!(world.joined(token).error_code, error::FENCED_INSTANCE_ID);
    assert_eq!(world.heartbeat(&newer, 1), 0);
    assert_eq!(world.sync(&newer, 1, &[]).assignment, "x");
}

#[test]
fn an_empty_group_keeps_its_generation() {
    let mut world = World::new();
    let ids = world.stable(1);
    world.leave(&[(&ids[0], None)]);
    world.restart();
    assert_eq!(world.state(), State::Empty);
    let (_, token) = world.join_dynamic(&["t"]);
    world.pass(DELAY_MS);
    assert_eq!(
        world.joined(token).generation_id,
        3,
        "generations only rise"
    );
}

#[test]
fn nothing_is_written_for_a_group_that_only_gave_out_ids() {
    let mut world = World::new();
    world.join_dynamic(&["t"]);
    assert!(world.table.is_empty());
    world.restart();
    assert!(world.coordinator.group(GROUP).is_none());
}

#[test]
fn an_assignment_too_large_to_keep_is_refused() {
    let mut world = World::new();
    let (id, token) = world.join_dynamic(&["t"]);
    world.pass(DELAY_MS);
    world.joined(token);
    let huge = "x".repeat(MAX_GROUP_ENTRY_BYTES);
    assert_eq!(
        world.sync(&id, 1, &[(&id, &huge)]).error_code,
        error::UNKNOWN_SERVER_ERROR
    );
    assert!(world.table.is_empty());
    let token = world.join(join_request(&id, &["t"]));
    assert_eq!(world.joined(token).generation_id, 2);
}

#[test]
fn damage_is_an_error_not_a_panic() {
    let mut world = World::new();
    world.stable(2);
    world.commit("", -1, &[]);
    for (key, value) in &world.table {
        for cut in 0..value.len() {
            assert!(
                Coordinator::new(GroupConfig::default())
                    .load(key, &value[..cut])
                    .is_err()
            );
        }
        for at in 0..value.len() {
            let mut flipped = value.to_vec();
            flipped[at] ^= 0x41;
            let mut coordinator = Coordinator::new(GroupConfig::default());
            if coordinator.load(key, &flipped).is_ok() {
                coordinator.start(world.now);
                coordinator.tick(Now {
                    monotonic_ms: i64::from(i32::MAX) * 2,
                    ..world.now
                });
            }
        }
    }
}
