//! Commits, fetches, deletions and expiry of offsets.

use super::*;
use kacrab_protocol::generated::offset_delete_request::{
    OffsetDeleteRequestData, OffsetDeleteRequestPartition, OffsetDeleteRequestTopic,
};

const DAY_MS: i64 = 24 * 60 * 60_000;

fn delete_offsets(world: &mut World, topic: &str, partitions: &[i32]) -> (i16, Vec<i16>) {
    let partition = |&partition_index: &i32| OffsetDeleteRequestPartition {
        partition_index,
        ..Default::default()
    };
    let topics = vec![OffsetDeleteRequestTopic {
        name: ks(topic),
        partitions: partitions.iter().map(partition).collect(),
        ..Default::default()
    }];
    let request = OffsetDeleteRequestData {
        group_id: ks(GROUP),
        topics,
        ..Default::default()
    };
    let GroupReply::DeleteOffsets(response) = world.ask(GroupRequest::DeleteOffsets(request))
    else {
        panic!()
    };
    (
        response.error_code,
        response
            .topics
            .iter()
            .flat_map(|t| &t.partitions)
            .map(|p| p.error_code)
            .collect(),
    )
}

fn expire(world: &mut World) {
    world.coordinator.expire_offsets(world.now);
    world.settle();
}

#[test]
fn a_simple_consumer_commits_without_a_group() {
    let mut world = World::new();
    assert_eq!(world.fetch("t", &[0]), [-1]);
    assert_eq!(world.commit("", -1, &[("t", 0, 5), ("u", 3, 6)]), [0, 0]);
    assert_eq!(world.fetch("t", &[0, 1]), [5, -1]);
    assert_eq!(world.state(), State::Empty);
    let token = world.fetch_token("t", &[0], false);
    let GroupReply::Fetch(group) = world.reply(token) else {
        panic!()
    };
    let partition = &group.topics[0].partitions[0];
    assert_eq!(
        (partition.committed_leader_epoch, &partition.metadata),
        (7, &Some(ks("m")))
    );
    let all = OffsetFetchRequestGroup {
        group_id: ks(GROUP),
        topics: None,
        ..Default::default()
    };
    let GroupReply::Fetch(group) = world.ask(GroupRequest::Fetch {
        group: all,
        require_stable: false,
    }) else {
        panic!()
    };
    let topics: Vec<_> = group
        .topics
        .iter()
        .map(|t| (t.name.as_str(), t.partitions[0].committed_offset))
        .collect();
    assert_eq!(topics, [("t", 5), ("u", 6)]);
}

#[test]
fn who_may_commit() {
    let mut world = World::new();
    assert_eq!(
        world.commit("x", 0, &[("t", 0, 1)]),
        [error::GROUP_ID_NOT_FOUND]
    );
    world.version = 8;
    assert_eq!(
        world.commit("x", 0, &[("t", 0, 1)]),
        [error::ILLEGAL_GENERATION]
    );
    assert!(world.coordinator.group(GROUP).is_none());
    world.version = 9;
    let ids = world.stable(2);
    assert_eq!(world.commit(&ids[1], 1, &[("t", 0, 1)]), [0]);
    assert_eq!(
        world.commit(&ids[1], 0, &[("t", 0, 2)]),
        [error::ILLEGAL_GENERATION]
    );
    assert_eq!(
        world.commit("x", 1, &[("t", 0, 2)]),
        [error::UNKNOWN_MEMBER_ID]
    );
    assert_eq!(
        world.commit("", -1, &[("t", 0, 2)]),
        [error::UNKNOWN_MEMBER_ID]
    );
    // While the others rejoin, what was processed may still be committed; not when the next generation is known.
    let token = world.join(join_request(&ids[0], &["t"]));
    assert_eq!(world.commit(&ids[1], 1, &[("t", 0, 3)]), [0]);
    let other = world.join(join_request(&ids[1], &["t"]));
    assert_eq!(world.joined(token).generation_id, 2);
    assert_eq!(world.joined(other).generation_id, 2);
    assert_eq!(
        world.commit(&ids[1], 2, &[("t", 0, 4)]),
        [error::REBALANCE_IN_PROGRESS]
    );
    assert_eq!(world.fetch("t", &[0]), [3]);
}

#[test]
fn a_commit_keeps_the_session_alive() {
    let mut world = World::new();
    let ids = world.stable(1);
    for offset in 0..5 {
        world.pass(i64::from(SESSION_MS) - 1);
        assert_eq!(world.commit(&ids[0], 1, &[("t", 0, offset)]), [0]);
    }
}

#[test]
fn metadata_has_a_limit_and_the_other_partitions_go_through() {
    let mut world = World::with(GroupConfig {
        offset_metadata_max_bytes: 3,
        ..GroupConfig::default()
    });
    let GroupRequest::Commit(client, mut request) =
        world.commit_request("", -1, &[("t", 0, 1), ("t", 1, 2)])
    else {
        panic!()
    };
    request.topics[0].partitions[0].committed_metadata = Some(ks("long"));
    let token = world.send(GroupRequest::Commit(client, request));
    assert_eq!(
        world.commit_codes(token),
        [error::OFFSET_METADATA_TOO_LARGE, 0]
    );
    assert_eq!(world.fetch("t", &[0, 1]), [-1, 2]);
}

#[test]
fn a_commit_is_visible_when_it_is_durable_and_a_stable_fetch_waits_for_it() {
    let mut world = World::new();
    world.commit("", -1, &[("t", 0, 1)]);
    world.hold_writes = true;
    let commit = world.send(world.commit_request("", -1, &[("t", 0, 2)]));
    let stable = world.fetch_token("t", &[0], true);
    let dirty = world.fetch_token("t", &[0], false);
    assert!(world.is_waiting(commit) && world.is_waiting(stable));
    assert_eq!(world.fetched(dirty), [1]);
    world.resume();
    assert_eq!(world.commit_codes(commit), [0]);
    assert_eq!(world.fetched(stable), [2]);
}

#[test]
fn a_refused_commit_leaves_nothing_behind() {
    let mut world = World::new();
    world.hold_writes = true;
    let commit = world.send(world.commit_request("", -1, &[("t", 0, 2)]));
    let stable = world.fetch_token("t", &[0], true);
    world.refuse();
    assert_eq!(
        world.commit_codes(commit),
        [error::COORDINATOR_NOT_AVAILABLE]
    );
    assert_eq!(world.fetched(stable), [-1]);
    assert!(world.coordinator.group(GROUP).is_none());
}

#[test]
fn a_commit_in_several_batches_needs_all_of_them() {
    for refused in 0..3 {
        let mut world = World::new();
        let offsets: Vec<_> = (0..3).map(|p| ("t", p, 9)).collect();
        let request = world.commit_request("", -1, &offsets);
        world.token += 1;
        let token = world.token;
        world.coordinator.handle(token, request, world.now, [0; 16]);
        for i in 0..3 {
            let (number, mutations) = world
                .coordinator
                .take_batch(1)
                .expect("one batch per mutation");
            assert_eq!(mutations.len(), 1);
            assert!(world.coordinator.take_replies().is_empty());
            let result = if i == refused {
                Err(PersistError::Refused)
            } else {
                Ok(())
            };
            world.coordinator.written(number, result, world.now);
        }
        world.settle();
        assert_eq!(
            world.commit_codes(token),
            [error::COORDINATOR_NOT_AVAILABLE; 3]
        );
        assert_eq!(
            world.commit("", -1, &[("t", 0, 1)]),
            [0],
            "the next one is not touched by it"
        );
    }
}

#[test]
fn commits_of_one_turn_are_one_batch() {
    let mut world = World::new();
    for partition in 0..100 {
        world.token += 1;
        let request = world.commit_request("", -1, &[("t", partition, 1)]);
        world
            .coordinator
            .handle(world.token, request, world.now, [0; 16]);
    }
    let (number, mutations) = world.coordinator.take_batch(1 << 20).expect("mutations");
    assert_eq!(mutations.len(), 100);
    assert!(world.coordinator.take_batch(1 << 20).is_none());
    assert!(world.coordinator.take_replies().is_empty());
    world.coordinator.written(number, Ok(()), world.now);
    assert_eq!(world.coordinator.take_replies().len(), 100);
}

#[test]
fn of_many_commits_in_a_batch_only_the_last_is_written() {
    let mut world = World::new();
    for offset in 0..100 {
        world.token += 1;
        let request = world.commit_request("", -1, &[("t", 0, offset), ("t", 1, -offset)]);
        world
            .coordinator
            .handle(world.token, request, world.now, [0; 16]);
    }
    let (number, mutations) = world.coordinator.take_batch(1 << 20).expect("mutations");
    assert_eq!(mutations.len(), 2);
    world.in_flight.push((number, mutations));
    world.resume();
    assert_eq!(world.replies.len(), 100);
    assert_eq!(world.fetch("t", &[0, 1]), [99, -99]);
    world.restart();
    assert_eq!(world.fetch("t", &[0, 1]), [99, -99]);
}

#[test]
fn deleting_offsets_spares_subscribed_topics() {
    let mut world = World::new();
    assert_eq!(
        delete_offsets(&mut world, "t", &[0]).0,
        error::GROUP_ID_NOT_FOUND
    );
    let ids = world.stable(1);
    world.commit(&ids[0], 1, &[("t", 0, 1), ("u", 0, 2)]);
    assert_eq!(
        delete_offsets(&mut world, "t", &[0, 1]),
        (0, vec![error::GROUP_SUBSCRIBED_TO_TOPIC; 2])
    );
    assert_eq!(delete_offsets(&mut world, "u", &[0, 1]), (0, vec![0, 0]));
    assert_eq!(world.fetch("t", &[0]), [1]);
    assert_eq!(world.fetch("u", &[0]), [-1]);
}

#[test]
fn offsets_of_another_protocol_type_are_deleted_only_without_members() {
    let mut world = World::new();
    let connect = |id: &str| JoinGroupRequestData {
        protocol_type: ks("connect"),
        ..join_request(id, &[])
    };
    let token = world.join(connect(""));
    let id = world.joined(token).member_id.as_str().to_owned();
    world.join(connect(&id));
    assert_eq!(
        delete_offsets(&mut world, "t", &[0]).0,
        error::NON_EMPTY_GROUP
    );
}

#[test]
fn deleting_a_group_takes_its_offsets_even_those_on_their_way() {
    let mut world = World::new();
    assert_eq!(world.delete_group(), error::GROUP_ID_NOT_FOUND);
    world.commit("", -1, &[("t", 0, 1)]);
    world.hold_writes = true;
    let commit = world.send(world.commit_request("", -1, &[("t", 1, 2)]));
    let delete = world.send(GroupRequest::Delete(ks(GROUP)));
    assert!(world.is_waiting(delete));
    world.resume();
    assert_eq!(world.commit_codes(commit), [0]);
    let GroupReply::Delete(result) = world.reply(delete) else {
        panic!()
    };
    assert_eq!(result.error_code, 0);
    assert!(world.coordinator.group(GROUP).is_none());
    assert!(world.table.is_empty());
    assert_eq!(world.fetch("t", &[0, 1]), [-1, -1]);
}

#[test]
fn a_group_with_members_is_not_deleted() {
    let mut world = World::new();
    let ids = world.stable(1);
    assert_eq!(world.delete_group(), error::NON_EMPTY_GROUP);
    world.leave(&[(&ids[0], None)]);
    assert_eq!(world.delete_group(), 0);
    assert!(world.table.is_empty());
}

#[test]
fn a_commit_behind_a_deletion_is_kept() {
    let mut world = World::new();
    world.commit("", -1, &[("t", 0, 1)]);
    world.hold_writes = true;
    world.send(GroupRequest::Delete(ks(GROUP)));
    let commit = world.send(world.commit_request("", -1, &[("t", 1, 2)]));
    world.resume();
    assert_eq!(world.commit_codes(commit), [0]);
    assert_eq!(world.fetch("t", &[0, 1]), [-1, 2]);
    world.restart();
    assert_eq!(world.fetch("t", &[0, 1]), [-1, 2]);
}

#[test]
fn offsets_of_deleted_topics_are_forgotten() {
    let mut world = World::new();
    let ids = world.stable(1);
    world.commit(&ids[0], 1, &[("t", 0, 1), ("u", 0, 2)]);
    world.coordinator.topic_deleted("t", world.now);
    world.settle();
    assert_eq!(world.fetch("t", &[0]), [-1]);
    assert_eq!(world.fetch("u", &[0]), [2]);
    world
        .coordinator
        .retain_topics(|topic| topic != "u", world.now);
    world.settle();
    assert_eq!(world.fetch("u", &[0]), [-1]);
}

#[test]
fn a_simple_consumers_offsets_expire_by_their_commit() {
    let mut world = World::new();
    world.commit("", -1, &[("t", 0, 1)]);
    world.pass(3 * DAY_MS);
    world.commit("", -1, &[("t", 1, 1)]);
    world.pass(4 * DAY_MS - 1);
    expire(&mut world);
    assert_eq!(world.fetch("t", &[0, 1]), [1, 1]);
    world.pass(1);
    expire(&mut world);
    assert_eq!(world.fetch("t", &[0, 1]), [-1, 1]);
    world.pass(3 * DAY_MS);
    expire(&mut world);
    assert!(world.coordinator.group(GROUP).is_none());
    assert!(world.table.is_empty());
}

#[test]
fn offsets_of_an_empty_group_expire_from_when_it_became_empty() {
    let mut world = World::new();
    let ids = world.stable(1);
    world.commit(&ids[0], 1, &[("t", 0, 1)]);
    for _ in 0..10 {
        // Subscribed topics do not expire, however old the commit is.
        for _ in 0..(DAY_MS / 9_000 + 1) {
            world.pass(9_000);
            world.heartbeat(&ids[0], 1);
        }
        expire(&mut world);
    }
    assert_eq!(world.fetch("t", &[0]), [1]);
    world.leave(&[(&ids[0], None)]);
    world.pass(7 * DAY_MS - 1);
    expire(&mut world);
    world.restart();
    assert_eq!(world.fetch("t", &[0]), [1]);
    world.pass(1);
    expire(&mut world);
    assert_eq!(world.fetch("t", &[0]), [-1]);
    assert!(world.table.is_empty());
}

#[test]
fn topics_that_a_stable_group_left_behind_expire() {
    let mut world = World::new();
    let ids = world.stable(1);
    world.commit(&ids[0], 1, &[("t", 0, 1), ("old", 0, 2)]);
    for _ in 0..(7 * DAY_MS / 9_000 + 1) {
        world.pass(9_000);
        world.heartbeat(&ids[0], 1);
    }
    expire(&mut world);
    assert_eq!(world.fetch("t", &[0]), [1]);
    assert_eq!(world.fetch("old", &[0]), [-1]);
    assert_eq!(world.state(), State::Stable);
}

#[test]
fn old_commits_may_bring_their_own_retention() {
    let mut world = World::new();
    world.version = 3;
    let GroupRequest::Commit(client, mut request) = world.commit_request("", -1, &[("t", 0, 1)])
    else {
        panic!()
    };
    request.retention_time_ms = 1_000;
    world.send(GroupRequest::Commit(client, request));
    world.pass(999);
    expire(&mut world);
    assert_eq!(world.fetch("t", &[0]), [1]);
    world.pass(1);
    expire(&mut world);
    assert_eq!(world.fetch("t", &[0]), [-1]);
}
