//! Scripts and properties of the coordinator, against a world with a clock and a table that obey.

mod membership;
mod offsets;
mod persistence;
mod properties;
mod rebalance;
mod statics;

use std::collections::BTreeMap;

use bytes::{BufMut, Bytes, BytesMut};
use kacrab_protocol::KafkaString;
use kacrab_protocol::generated::heartbeat_request::HeartbeatRequestData;
use kacrab_protocol::generated::join_group_request::{
    JoinGroupRequestData, JoinGroupRequestProtocol,
};
use kacrab_protocol::generated::join_group_response::JoinGroupResponseData;
use kacrab_protocol::generated::leave_group_request::{LeaveGroupRequestData, MemberIdentity};
use kacrab_protocol::generated::leave_group_response::LeaveGroupResponseData;
use kacrab_protocol::generated::offset_commit_request::{
    OffsetCommitRequestData, OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kacrab_protocol::generated::offset_fetch_request::{
    OffsetFetchRequestGroup, OffsetFetchRequestTopics,
};
use kacrab_protocol::generated::sync_group_request::{
    SyncGroupRequestAssignment, SyncGroupRequestData,
};
use kacrab_protocol::generated::sync_group_response::SyncGroupResponseData;

use super::group::State;
use super::*;

const GROUP: &str = "g";
const SESSION_MS: i32 = 10_000;
const REBALANCE_MS: i32 = 60_000;
const DELAY_MS: i64 = 3_000;

/// A coordinator, its clock, its table and the replies that came out of it.
struct World {
    coordinator: Coordinator,
    now: Now,
    token: Token,
    replies: BTreeMap<Token, GroupReply>,
    table: BTreeMap<Bytes, Bytes>,
    /// Batches taken and not settled yet, when `hold_writes`.
    in_flight: Vec<(u64, Vec<Mutation>)>,
    hold_writes: bool,
    random: u8,
    version: i16,
    config: GroupConfig,
}

impl World {
    fn new() -> World {
        World::with(GroupConfig::default())
    }

    fn with(config: GroupConfig) -> World {
        World {
            coordinator: Coordinator::new(config.clone()),
            now: Now {
                monotonic_ms: 1_000,
                unix_ms: 1_700_000_000_000,
            },
            token: 0,
            replies: BTreeMap::new(),
            table: BTreeMap::new(),
            in_flight: Vec::new(),
            hold_writes: false,
            random: 0,
            version: 9,
            config,
        }
    }

    /// The process is gone: what is left is the table. Tokens of the old life are never answered.
    fn restart(&mut self) {
        self.coordinator = Coordinator::new(self.config.clone());
        self.in_flight.clear();
        self.replies.clear();
        self.now.monotonic_ms = 5;
        for (key, value) in &self.table {
            self.coordinator
                .load(key, value)
                .expect("what was written can be read");
        }
        self.coordinator.start(self.now);
        self.settle();
    }

    fn settle(&mut self) {
        loop {
            for (token, reply) in self.coordinator.take_replies() {
                assert!(token <= self.token, "a token that was never given out");
                assert!(
                    self.replies.insert(token, reply).is_none(),
                    "answered twice"
                );
            }
            let Some(batch) = self.coordinator.take_batch(1 << 20) else {
                return;
            };
            self.in_flight.push(batch);
            if !self.hold_writes {
                self.write();
            }
        }
    }

    /// Everything in flight becomes durable.
    fn write(&mut self) {
        for (number, mutations) in std::mem::take(&mut self.in_flight) {
            for mutation in mutations {
                match mutation.value {
                    Some(value) => self.table.insert(mutation.key, value),
                    None => self.table.remove(&mutation.key),
                };
            }
            self.coordinator.written(number, Ok(()), self.now);
        }
    }

    /// Everything in flight is refused.
    fn refuse(&mut self) {
        for (number, _) in std::mem::take(&mut self.in_flight) {
            self.coordinator
                .written(number, Err(PersistError::Refused), self.now);
        }
        self.settle();
    }

    fn resume(&mut self) {
        self.hold_writes = false;
        self.write();
        self.settle();
    }

    fn send(&mut self, request: GroupRequest) -> Token {
        self.token += 1;
        self.random = self.random.wrapping_add(1);
        self.coordinator
            .handle(self.token, request, self.now, [self.random; 16]);
        self.settle();
        self.token
    }

    fn ask(&mut self, request: GroupRequest) -> GroupReply {
        let token = self.send(request);
        self.reply(token)
    }

    fn reply(&mut self, token: Token) -> GroupReply {
        self.replies.remove(&token).expect("not answered")
    }

    fn is_waiting(&self, token: Token) -> bool {
        !self.replies.contains_key(&token)
    }

    /// Lets time pass, every deadline in its turn.
    fn pass(&mut self, ms: i64) {
        let end = self.now.monotonic_ms + ms;
        loop {
            let next = self
                .coordinator
                .next_deadline_ms()
                .filter(|&next| next <= end);
            let step = next.unwrap_or(end).max(self.now.monotonic_ms) - self.now.monotonic_ms;
            self.now.monotonic_ms += step;
            self.now.unix_ms += step;
            if next.is_none() {
                return;
            }
            self.coordinator.tick(self.now);
            self.settle();
        }
    }

    fn client(&self) -> Client {
        Client {
            client_id: "client".into(),
            host: "/127.0.0.1".into(),
            api_version: self.version,
        }
    }

    fn join(&mut self, request: JoinGroupRequestData) -> Token {
        self.send(GroupRequest::Join(self.client(), request))
    }

    fn joined(&mut self, token: Token) -> JoinGroupResponseData {
        match self.reply(token) {
            GroupReply::Join(response) => response,
            other => panic!("{other:?}"),
        }
    }

    /// Gets an id with MEMBER_ID_REQUIRED and comes back with it.
    fn join_dynamic(&mut self, topics: &[&str]) -> (String, Token) {
        let token = self.join(join_request("", topics));
        let response = self.joined(token);
        assert_eq!(response.error_code, error::MEMBER_ID_REQUIRED);
        let id = response.member_id.as_str().to_owned();
        let token = self.join(join_request(&id, topics));
        (id, token)
    }

    fn sync_token(&mut self, id: &str, generation: i32, assignments: &[(&str, &str)]) -> Token {
        self.send(GroupRequest::Sync(sync_request(
            id,
            generation,
            assignments,
        )))
    }

    fn synced(&mut self, token: Token) -> SyncGroupResponseData {
        match self.reply(token) {
            GroupReply::Sync(response) => response,
            other => panic!("{other:?}"),
        }
    }

    fn sync(
        &mut self,
        id: &str,
        generation: i32,
        assignments: &[(&str, &str)],
    ) -> SyncGroupResponseData {
        let token = self.sync_token(id, generation, assignments);
        self.synced(token)
    }

    fn heartbeat(&mut self, id: &str, generation: i32) -> i16 {
        let request = HeartbeatRequestData {
            group_id: ks(GROUP),
            generation_id: generation,
            member_id: ks(id),
            ..Default::default()
        };
        match self.ask(GroupRequest::Heartbeat(request)) {
            GroupReply::Heartbeat(code) => code,
            other => panic!("{other:?}"),
        }
    }

    fn leave(&mut self, members: &[(&str, Option<&str>)]) -> LeaveGroupResponseData {
        let members = members.iter().map(|(id, instance)| MemberIdentity {
            member_id: ks(id),
            group_instance_id: instance.map(ks),
            ..Default::default()
        });
        let request = LeaveGroupRequestData {
            group_id: ks(GROUP),
            members: members.collect(),
            ..Default::default()
        };
        match self.ask(GroupRequest::Leave(request)) {
            GroupReply::Leave(response) => response,
            other => panic!("{other:?}"),
        }
    }

    fn state(&self) -> State {
        self.coordinator
            .group(GROUP)
            .expect("the group exists")
            .state
    }

    /// A stable group of `count` members, the leader first; generation 1.
    fn stable(&mut self, count: usize) -> Vec<String> {
        let joins: Vec<_> = (0..count).map(|_| self.join_dynamic(&["t"])).collect();
        self.pass(2 * DELAY_MS);
        let mut ids = Vec::new();
        let mut leader = String::new();
        for (id, token) in joins {
            let response = self.joined(token);
            assert_eq!(response.error_code, 0);
            assert_eq!(response.generation_id, 1);
            leader = response.leader.as_str().to_owned();
            ids.push(id);
        }
        ids.sort_by_key(|id| *id != leader);
        let assignments: Vec<_> = ids.iter().map(|id| (id.as_str(), id.as_str())).collect();
        let waiting: Vec<_> = ids
            .iter()
            .skip(1)
            .map(|id| self.sync_token(id, 1, &[]))
            .collect();
        assert!(waiting.iter().all(|&token| self.is_waiting(token)));
        assert_eq!(
            self.sync(&ids[0], 1, &assignments).assignment,
            ids[0].as_bytes()
        );
        for (id, token) in ids.iter().skip(1).zip(waiting) {
            assert_eq!(self.synced(token).assignment, id.as_bytes());
        }
        assert_eq!(self.state(), State::Stable);
        ids
    }

    fn commit_request(
        &self,
        id: &str,
        generation: i32,
        offsets: &[(&str, i32, i64)],
    ) -> GroupRequest {
        let topics = offsets
            .iter()
            .map(|(topic, partition, offset)| OffsetCommitRequestTopic {
                name: ks(topic),
                partitions: vec![OffsetCommitRequestPartition {
                    partition_index: *partition,
                    committed_offset: *offset,
                    committed_leader_epoch: 7,
                    committed_metadata: Some(ks("m")),
                    ..Default::default()
                }],
                ..Default::default()
            });
        let request = OffsetCommitRequestData {
            group_id: ks(GROUP),
            generation_id_or_member_epoch: generation,
            member_id: ks(id),
            topics: topics.collect(),
            ..Default::default()
        };
        GroupRequest::Commit(self.client(), request)
    }

    fn commit_codes(&mut self, token: Token) -> Vec<i16> {
        match self.reply(token) {
            GroupReply::Commit(response) => response
                .topics
                .iter()
                .flat_map(|t| &t.partitions)
                .map(|p| p.error_code)
                .collect(),
            other => panic!("{other:?}"),
        }
    }

    fn commit(&mut self, id: &str, generation: i32, offsets: &[(&str, i32, i64)]) -> Vec<i16> {
        let token = self.send(self.commit_request(id, generation, offsets));
        self.commit_codes(token)
    }

    fn fetch_token(&mut self, topic: &str, partitions: &[i32], require_stable: bool) -> Token {
        let topics = vec![OffsetFetchRequestTopics {
            name: ks(topic),
            partition_indexes: partitions.to_vec(),
            ..Default::default()
        }];
        let group = OffsetFetchRequestGroup {
            group_id: ks(GROUP),
            topics: Some(topics),
            ..Default::default()
        };
        self.send(GroupRequest::Fetch {
            group,
            require_stable,
        })
    }

    fn fetched(&mut self, token: Token) -> Vec<i64> {
        match self.reply(token) {
            GroupReply::Fetch(group) => group
                .topics
                .iter()
                .flat_map(|t| &t.partitions)
                .map(|p| p.committed_offset)
                .collect(),
            other => panic!("{other:?}"),
        }
    }

    fn fetch(&mut self, topic: &str, partitions: &[i32]) -> Vec<i64> {
        let token = self.fetch_token(topic, partitions, true);
        self.fetched(token)
    }

    fn delete_group(&mut self) -> i16 {
        match self.ask(GroupRequest::Delete(ks(GROUP))) {
            GroupReply::Delete(result) => result.error_code,
            other => panic!("{other:?}"),
        }
    }
}

fn ks(s: &str) -> KafkaString {
    KafkaString::from(s.to_owned())
}

/// A subscription of the consumer protocol, version 1.
fn subscription(topics: &[&str]) -> Bytes {
    let mut bytes = BytesMut::new();
    bytes.put_i16(1);
    bytes.put_i32(topics.len() as i32);
    for topic in topics {
        bytes.put_i16(topic.len() as i16);
        bytes.put_slice(topic.as_bytes());
    }
    bytes.put_i32(-1);
    bytes.put_i32(0);
    bytes.freeze()
}

fn protocol(name: &str, metadata: Bytes) -> JoinGroupRequestProtocol {
    JoinGroupRequestProtocol {
        name: ks(name),
        metadata,
        ..Default::default()
    }
}

fn join_request(id: &str, topics: &[&str]) -> JoinGroupRequestData {
    JoinGroupRequestData {
        group_id: ks(GROUP),
        session_timeout_ms: SESSION_MS,
        rebalance_timeout_ms: REBALANCE_MS,
        member_id: ks(id),
        protocol_type: ks("consumer"),
        protocols: vec![
            protocol("range", subscription(topics)),
            protocol("sticky", subscription(topics)),
        ],
        ..Default::default()
    }
}

fn static_request(instance: &str, id: &str) -> JoinGroupRequestData {
    JoinGroupRequestData {
        group_instance_id: Some(ks(instance)),
        ..join_request(id, &["t"])
    }
}

fn sync_request(id: &str, generation: i32, assignments: &[(&str, &str)]) -> SyncGroupRequestData {
    let assignments = assignments
        .iter()
        .map(|(id, assignment)| SyncGroupRequestAssignment {
            member_id: ks(id),
            assignment: Bytes::copy_from_slice(assignment.as_bytes()),
            ..Default::default()
        });
    SyncGroupRequestData {
        group_id: ks(GROUP),
        generation_id: generation,
        member_id: ks(id),
        protocol_type: Some(ks("consumer")),
        protocol_name: Some(ks("range")),
        assignments: assignments.collect(),
        ..Default::default()
    }
}
