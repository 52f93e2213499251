//! Any sequence of requests, passing time, slow and refused writes and restarts keeps the coordinator's promises.

use std::collections::BTreeSet;

use super::*;
use proptest::prelude::*;

#[derive(Debug, Clone)]
enum Act {
    /// Actor joins under its id (none at first), with a wish that changes its subscription.
    Join {
        actor: usize,
        wish: u8,
    },
    Sync {
        actor: usize,
    },
    Heartbeat {
        actor: usize,
    },
    Leave {
        actor: usize,
    },
    Commit {
        actor: usize,
        partition: i32,
    },
    Fetch {
        partition: i32,
    },
    Delete,
    Pass {
        ms: u32,
    },
    HoldWrites,
    Write,
    Refuse,
    Restart,
}

fn act() -> impl Strategy<Value = Act> {
    let actor = 0..4_usize;
    prop_oneof![
        6 => (actor.clone(), 0..3_u8).prop_map(|(actor, wish)| Act::Join { actor, wish }),
        5 => actor.clone().prop_map(|actor| Act::Sync { actor }),
        3 => actor.clone().prop_map(|actor| Act::Heartbeat { actor }),
        1 => actor.clone().prop_map(|actor| Act::Leave { actor }),
        3 => (actor, 0..3_i32).prop_map(|(actor, partition)| Act::Commit { actor, partition }),
        1 => (0..3_i32).prop_map(|partition| Act::Fetch { partition }),
        1 => Just(Act::Delete),
        4 => prop_oneof![0..4_000_u32, 0..70_000_u32].prop_map(|ms| Act::Pass { ms }),
        1 => Just(Act::HoldWrites),
        2 => Just(Act::Write),
        1 => Just(Act::Refuse),
        1 => Just(Act::Restart),
    ]
}

#[derive(Default, Clone)]
struct Actor {
    id: String,
    generation: i32,
    leader: bool,
    members: Vec<String>,
}

/// What clients were told, to be held against everything they are told later.
#[derive(Default)]
struct Told {
    /// Assignment by generation and member. A new life may give a generation again that nobody was told of.
    assignments: BTreeMap<(i32, String), Bytes>,
    /// Highest generation whose assignment somebody has.
    generation: i32,
    /// Newest acknowledged offset per partition, and those sent after it.
    committed: BTreeMap<i32, i64>,
    sent: BTreeMap<i32, BTreeSet<i64>>,
}

struct Run {
    world: World,
    actors: Vec<Actor>,
    waiting: BTreeMap<Token, (usize, Act)>,
    told: Told,
    next_offset: i64,
}

impl Run {
    fn new() -> Run {
        Run {
            world: World::new(),
            actors: vec![Actor::default(); 4],
            waiting: BTreeMap::new(),
            told: Told::default(),
            next_offset: 1,
        }
    }

    /// Actors 0 and 1 are static members.
    fn instance(actor: usize) -> Option<KafkaString> {
        (actor < 2).then(|| ks(&format!("i{actor}")))
    }

    fn step(&mut self, act: &Act) {
        let wait = |run: &mut Run, actor: usize, token: Token| {
            run.waiting.insert(token, (actor, act.clone()));
        };
        match *act {
            Act::Join { actor, wish } => {
                let topics: &[&str] = [&["t"][..], &["t", "u"], &["t", "v"]][usize::from(wish)];
                let mut request = join_request(&self.actors[actor].id, topics);
                request.group_instance_id = Run::instance(actor);
                // An id that was given out belongs to no instance.
                let token = self.world.join(request);
                wait(self, actor, token);
            }
            Act::Sync { actor } => {
                let who = self.actors[actor].clone();
                let assignments: Vec<(String, String)> = match who.leader {
                    true => who
                        .members
                        .iter()
                        .map(|m| {
                            (
                                m.clone(),
                                format!("{}@{}#{}", m, who.generation, self.next_offset),
                            )
                        })
                        .collect(),
                    false => Vec::new(),
                };
                self.next_offset += 1;
                let borrowed: Vec<_> = assignments
                    .iter()
                    .map(|(m, a)| (m.as_str(), a.as_str()))
                    .collect();
                let mut request = sync_request(&who.id, who.generation, &borrowed);
                request.group_instance_id = Run::instance(actor);
                let token = self.world.send(GroupRequest::Sync(request));
                wait(self, actor, token);
            }
            Act::Heartbeat { actor } => {
                let (id, generation) =
                    (self.actors[actor].id.clone(), self.actors[actor].generation);
                self.world.heartbeat(&id, generation);
            }
            Act::Leave { actor } => {
                let id = std::mem::take(&mut self.actors[actor].id);
                self.world.leave(&[(&id, None)]);
            }
            Act::Commit { actor, partition } => {
                let (id, generation) =
                    (self.actors[actor].id.clone(), self.actors[actor].generation);
                let offset = self.next_offset;
                self.next_offset += 1;
                let generation = if id.is_empty() { -1 } else { generation };
                let token = self.world.send(self.world.commit_request(
                    &id,
                    generation,
                    &[("t", partition, offset)],
                ));
                self.told.sent.entry(partition).or_default().insert(offset);
                self.waiting
                    .insert(token, (offset as usize, Act::Commit { actor, partition }));
            }
            Act::Fetch { partition } => {
                let token = self.world.fetch_token("t", &[partition], true);
                wait(self, 0, token);
            }
            Act::Delete => {
                let token = self.world.send(GroupRequest::Delete(ks(GROUP)));
                wait(self, 0, token);
            }
            Act::Pass { ms } => self.world.pass(ms.into()),
            Act::HoldWrites => self.world.hold_writes = true,
            Act::Write => self.world.resume(),
            Act::Refuse => {
                self.world.refuse();
                self.world.hold_writes = false;
            }
            Act::Restart => {
                self.world.hold_writes = false;
                self.waiting.clear();
                self.world.restart();
            }
        }
        self.hear();
        self.check();
    }

    /// Clients take what has been answered.
    fn hear(&mut self) {
        for (token, reply) in std::mem::take(&mut self.world.replies) {
            let Some((number, act)) = self.waiting.remove(&token) else {
                panic!("unexpected {reply:?}")
            };
            match reply {
                GroupReply::Join(join) => {
                    let actor = &mut self.actors[number];
                    match join.error_code {
                        0 => {
                            *actor = Actor {
                                id: join.member_id.as_str().into(),
                                generation: join.generation_id,
                                leader: join.leader == join.member_id && !join.skip_assignment,
                                members: join
                                    .members
                                    .iter()
                                    .map(|m| m.member_id.as_str().into())
                                    .collect(),
                            };
                            assert!(join.generation_id > 0);
                            assert!(!actor.leader || actor.members.contains(&actor.id));
                        }
                        error::MEMBER_ID_REQUIRED => actor.id = join.member_id.as_str().into(),
                        error::UNKNOWN_MEMBER_ID | error::FENCED_INSTANCE_ID => {
                            actor.id = String::new()
                        }
                        _ => {}
                    }
                }
                GroupReply::Sync(sync) if sync.error_code == 0 => {
                    let who = &self.actors[number];
                    // The answer may be to a request of an earlier self.
                    let key = (who.generation, who.id.clone());
                    let same = |old: &Bytes| *old == sync.assignment;
                    assert!(
                        self.told.assignments.get(&key).is_none_or(same),
                        "two assignments in one generation"
                    );
                    self.told.assignments.insert(key, sync.assignment);
                    self.told.generation = self.told.generation.max(who.generation);
                }
                GroupReply::Commit(commit) => {
                    let Act::Commit { partition, .. } = act else {
                        panic!()
                    };
                    if commit.topics[0].partitions[0].error_code == 0 {
                        self.told.committed.insert(partition, number as i64);
                    }
                }
                GroupReply::Fetch(group) => {
                    let Act::Fetch { partition } = act else {
                        panic!()
                    };
                    let offset = group.topics[0].partitions[0].committed_offset;
                    if offset != -1 {
                        assert!(
                            self.told.sent[&partition].contains(&offset),
                            "an offset that nobody committed"
                        );
                    }
                    if let Some(&committed) = self.told.committed.get(&partition) {
                        assert!(
                            offset >= committed,
                            "acknowledged {committed}, fetched {offset}"
                        );
                    }
                }
                GroupReply::Delete(result) if result.error_code == 0 => {
                    // The generation may begin again, and offsets are gone.
                    self.told = Told {
                        sent: std::mem::take(&mut self.told.sent),
                        ..Told::default()
                    };
                }
                _ => {}
            }
        }
    }

    fn check(&self) {
        let Some(group) = self.world.coordinator.group(GROUP) else {
            return;
        };
        let parked = group
            .members
            .values()
            .filter(|m| m.awaiting_join.is_some())
            .count();
        assert_eq!(group.awaiting_join, parked);
        assert_eq!(group.members.is_empty(), group.leader.is_none());
        assert!(
            group
                .leader
                .as_ref()
                .is_none_or(|leader| group.members.contains_key(leader))
        );
        assert!(
            group
                .pending_sync
                .iter()
                .all(|id| group.members.contains_key(id))
        );
        let statics: BTreeMap<_, _> = group
            .members
            .values()
            .filter_map(|m| Some((m.instance_id.clone()?, m.id.clone())))
            .collect();
        assert_eq!(group.static_members, statics);
        for member in group.members.values() {
            let waits = member.awaiting_join.is_some() || member.awaiting_sync.is_some();
            assert!(
                member.timer.is_some() || waits,
                "a member that nothing will ever remove"
            );
            assert!(member.awaiting_sync.is_none() || group.state == State::CompletingRebalance);
        }
        match group.state {
            State::Empty => assert!(group.members.is_empty()),
            State::PreparingRebalance => {
                assert!(group.join_timer.is_some(), "nothing ends the join phase")
            }
            State::CompletingRebalance => {
                assert!(group.sync_timer.is_some() || group.pending_sync.is_empty())
            }
            State::Stable => assert!(!group.members.is_empty()),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    #[test]
    fn promises_hold(acts in proptest::collection::vec(act(), 1..120)) {
        let mut run = Run::new();
        for act in &acts {
            run.step(act);
        }
        // In the end everybody is answered: time passes, writes go through.
        run.world.resume();
        run.hear();
        for _ in 0..100 {
            run.world.pass(70_000);
            run.hear();
        }
        prop_assert!(run.waiting.is_empty(), "never answered: {:?}", run.waiting.len());
        run.world.coordinator.release();
        run.check();
    }
}
