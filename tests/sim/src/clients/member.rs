//! A member of a consumer group by the classic protocol: join, sync, fetch, commit, heartbeat, leave.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::leave_group_request::MemberIdentity;
use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::offset_fetch_request::{
    OffsetFetchRequestGroup, OffsetFetchRequestTopics,
};
use kafka_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use kafka_protocol::messages::{
    FindCoordinatorRequest, GroupId, HeartbeatRequest, JoinGroupRequest, JoinGroupResponse,
    LeaveGroupRequest, OffsetCommitRequest, OffsetFetchRequest, SyncGroupRequest, TopicName,
};
use kafka_protocol::protocol::StrBytes;
use trireme_runtime::{Instant, now, random_u64};

use super::fetch::Fetcher;
use super::{Client, code, is_passing, one_in, pause};
use crate::draw::GroupDraw;
use crate::history::LogId;
use crate::stage::{Phase, Stage};

const PROTOCOL: &str = "round-robin";
/// Last versions that name topics and not their ids.
const COMMIT_BY_NAME: i16 = 9;
const FETCH_BY_NAME: i16 = 9;
/// One turn in so many leaves the group for a while.
const LEAVES_ONE_IN: u64 = 25;
const FETCH_BYTES: i32 = 64 << 10;

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

fn group_id(group: &str) -> GroupId {
    GroupId(text(group))
}

struct Member {
    client: Client,
    draw: GroupDraw,
    logs: Vec<LogId>,
    id: StrBytes,
    instance: Option<StrBytes>,
}

/// What the leader gives a member.
struct Dealt {
    member: String,
    name: String,
    assignment: Vec<u8>,
}

/// A static member keeps its assignment under another member id.
fn member_name(member: &str, instance: &Option<StrBytes>) -> String {
    match instance {
        Some(instance) => instance.to_string(),
        None => member.to_owned(),
    }
}

/// A generation that the member is in.
struct Joined {
    generation: i32,
    assigned: Vec<LogId>,
}

pub async fn run(stage: Rc<Stage>, draw: GroupDraw, name: String) {
    while stage.phase.get() == Phase::Setup {
        pause(50_000).await;
    }
    let mut member = Member {
        logs: stage.logs_of(&draw.topics),
        instance: draw.has_static_members.then(|| text(&name)),
        client: Client::new(&stage, name),
        draw,
        id: StrBytes::default(),
    };
    while !stage.is_closing() {
        let Some(joined) = member.join().await else {
            continue;
        };
        let Some(positions) =
            fetch_offsets(&member.client, &member.draw.name, &joined.assigned).await
        else {
            continue;
        };
        let mut fetcher = Fetcher::new(positions);
        while !stage.is_closing() && member.turn(&joined, &mut fetcher).await {}
    }
    member.leave().await;
}

impl Member {
    async fn join(&mut self) -> Option<Joined> {
        let coordinator = FindCoordinatorRequest::default()
            .with_key_type(0)
            .with_coordinator_keys(vec![text(&self.draw.name)]);
        let answer = self.client.call(coordinator).await?;
        let error = answer
            .coordinators
            .first()
            .map_or(answer.error_code, |one| one.error_code);
        if error != code::NONE {
            if !is_passing(error) {
                self.client.unexpected("FindCoordinator", error);
            }
            pause(50_000).await;
            return None;
        }
        self.client.connection().await;
        let process = self.client.stage.history().ends;
        let answer = self.join_group().await?;
        let generation = answer.generation_id;
        let group = self.draw.name.clone();
        let name = member_name(&answer.member_id, &self.instance);
        let is_leader = answer.leader == answer.member_id;
        // A static leader that comes back may have another id than it led by.
        let leader = match self.instance.is_some() {
            true => None,
            false => Some(answer.leader.as_str()),
        };
        let dealt = match is_leader && !answer.skip_assignment {
            true => self.assign(&answer),
            false => Vec::new(),
        };
        {
            let mut history = self.client.stage.history();
            history.told_joined(process, &group, generation, leader, &name);
            let dealt = dealt
                .iter()
                .map(|one| (one.name.clone(), one.assignment.clone()));
            history.assigning(&group, generation, dealt);
        }
        let request = SyncGroupRequest::default()
            .with_group_id(group_id(&group))
            .with_generation_id(generation)
            .with_member_id(self.id.clone())
            .with_group_instance_id(self.instance.clone())
            .with_protocol_type(Some(text("consumer")))
            .with_protocol_name(Some(text(PROTOCOL)))
            .with_assignments(
                dealt
                    .into_iter()
                    .map(|one| {
                        SyncGroupRequestAssignment::default()
                            .with_member_id(text(&one.member))
                            .with_assignment(one.assignment.into())
                    })
                    .collect(),
            );
        let answer = self.client.call(request).await?;
        if !self.goes_on("SyncGroup", answer.error_code) {
            return None;
        }
        let assigned: Vec<LogId> = answer
            .assignment
            .chunks_exact(4)
            .map(|log| u32::from_be_bytes(log.try_into().expect("four bytes")) as LogId)
            .collect();
        self.client.stage.history().told_assigned(
            &group,
            generation,
            &name,
            &answer.assignment,
            &assigned,
        );
        Some(Joined {
            generation,
            assigned,
        })
    }

    async fn join_group(&mut self) -> Option<JoinGroupResponse> {
        let protocol = JoinGroupRequestProtocol::default()
            .with_name(text(PROTOCOL))
            .with_metadata(Bytes::from_static(b"\0\0\0\0\0\0\0\0\0\0"));
        let request = JoinGroupRequest::default()
            .with_group_id(group_id(&self.draw.name))
            .with_session_timeout_ms(self.draw.session_timeout_ms)
            .with_rebalance_timeout_ms(self.draw.session_timeout_ms)
            .with_member_id(self.id.clone())
            .with_group_instance_id(self.instance.clone())
            .with_protocol_type(text("consumer"))
            .with_protocols(vec![protocol]);
        let answer = self.client.call(request).await?;
        if answer.error_code == code::MEMBER_ID_REQUIRED {
            self.id = answer.member_id;
            return None;
        }
        if !self.goes_on("JoinGroup", answer.error_code) {
            return None;
        }
        self.id = answer.member_id.clone();
        Some(answer)
    }

    /// The leader deals the logs out, beginning with another member each time.
    fn assign(&self, answer: &JoinGroupResponse) -> Vec<Dealt> {
        // The same each time it is asked for, as an answer that got lost makes it deal again.
        let first = answer.generation_id as usize;
        let mut dealt: Vec<Dealt> = answer
            .members
            .iter()
            .map(|member| Dealt {
                member: member.member_id.to_string(),
                name: member_name(&member.member_id, &member.group_instance_id),
                assignment: Vec::new(),
            })
            .collect();
        dealt.sort_by(|a, b| a.member.cmp(&b.member));
        let count = dealt.len();
        for (at, log) in self.logs.iter().enumerate() {
            let logs = &mut dealt[(first + at) % count].assignment;
            logs.extend_from_slice(&(*log as u32).to_be_bytes());
        }
        dealt
    }

    /// Whether an error code lets the member go on in its generation; forgets its id where it has to.
    fn goes_on(&mut self, what: &str, error: i16) -> bool {
        match error {
            code::NONE => return true,
            code::UNKNOWN_MEMBER_ID | code::FENCED_INSTANCE_ID => self.id = StrBytes::default(),
            code::ILLEGAL_GENERATION | code::REBALANCE_IN_PROGRESS => (),
            error if is_passing(error) => (),
            error => self.client.unexpected(what, error),
        }
        false
    }

    /// Fetches, commits, beats; false when the generation is over.
    async fn turn(&mut self, joined: &Joined, fetcher: &mut Fetcher) -> bool {
        if !fetcher.positions.is_empty() {
            let wait_ms = (random_u64() % 100) as i32;
            fetcher.fetch(&self.client, wait_ms, FETCH_BYTES).await;
        }
        if one_in(3)
            && !fetcher.positions.is_empty()
            && !self.commit(joined, &fetcher.positions).await
        {
            return false;
        }
        if one_in(LEAVES_ONE_IN) {
            self.leave().await;
            pause(500_000).await;
            return false;
        }
        pause(self.draw.session_timeout_ms as u64 * 1000 / 10).await;
        let request = HeartbeatRequest::default()
            .with_group_id(group_id(&self.draw.name))
            .with_generation_id(joined.generation)
            .with_member_id(self.id.clone())
            .with_group_instance_id(self.instance.clone());
        match self.client.call(request).await {
            Some(answer) => self.goes_on("Heartbeat", answer.error_code),
            // Nobody knows; the next call will say.
            None => true,
        }
    }

    async fn commit(&mut self, joined: &Joined, positions: &BTreeMap<LogId, i64>) -> bool {
        let stage = self.client.stage.clone();
        let group = self.draw.name.clone();
        let mut ids = BTreeMap::new();
        let mut topics: BTreeMap<String, OffsetCommitRequestTopic> = BTreeMap::new();
        // The connection first: the commits count as under way from here on.
        self.client.connection().await;
        for (log, position) in positions {
            let mut history = stage.history();
            let id = history.committing(&group, *log, *position, now());
            ids.insert(*log, id);
            let (topic, _, partition) = history.place(*log);
            let entry = topics.entry(topic.clone()).or_insert_with(|| {
                OffsetCommitRequestTopic::default().with_name(TopicName(text(&topic)))
            });
            let partition = OffsetCommitRequestPartition::default()
                .with_partition_index(partition)
                .with_committed_offset(*position)
                .with_committed_leader_epoch(-1)
                .with_committed_metadata(Some(text(&id.to_string())));
            entry.partitions.push(partition);
        }
        let request = OffsetCommitRequest::default()
            .with_group_id(group_id(&group))
            .with_generation_id_or_member_epoch(joined.generation)
            .with_member_id(self.id.clone())
            .with_group_instance_id(self.instance.clone())
            .with_topics(topics.into_values().collect());
        let Some(answer) = self.client.call_at_most(COMMIT_BY_NAME, request).await else {
            return true;
        };
        let mut first_error = code::NONE;
        for topic in &answer.topics {
            for partition in &topic.partitions {
                let mut history = stage.history();
                let log = ids.keys().copied().find(|log| {
                    let (name, _, index) = history.place(*log);
                    name == topic.name.to_string() && index == partition.partition_index
                });
                let Some(log) = log else { continue };
                match partition.error_code {
                    code::NONE => history.told_committed(&group, log, ids[&log], now()),
                    error => {
                        first_error = error;
                        if !is_passing(error) {
                            history.told_not_committed(&group, log, ids[&log]);
                        }
                    }
                }
            }
        }
        self.goes_on("OffsetCommit", first_error)
    }

    async fn leave(&mut self) {
        let identity = MemberIdentity::default()
            .with_member_id(self.id.clone())
            .with_group_instance_id(self.instance.clone());
        let request = LeaveGroupRequest::default()
            .with_group_id(group_id(&self.draw.name))
            .with_members(vec![identity]);
        self.client.call(request).await;
        self.id = StrBytes::default();
    }
}

/// The group's committed offsets as positions to begin at; `None` if they cannot be had now.
pub async fn fetch_offsets(
    client: &Client,
    group: &str,
    logs: &[LogId],
) -> Option<BTreeMap<LogId, i64>> {
    let stage = client.stage.clone();
    let mut topics: BTreeMap<String, OffsetFetchRequestTopics> = BTreeMap::new();
    for log in logs {
        let (topic, _, partition) = stage.history().place(*log);
        let entry = topics.entry(topic.clone()).or_insert_with(|| {
            OffsetFetchRequestTopics::default().with_name(TopicName(text(&topic)))
        });
        entry.partition_indexes.push(partition);
    }
    let request = OffsetFetchRequest::default().with_groups(vec![
        OffsetFetchRequestGroup::default()
            .with_group_id(group_id(group))
            .with_member_id(None)
            .with_member_epoch(-1)
            .with_topics(Some(topics.into_values().collect())),
    ]);
    client.connection().await;
    let asked: Instant = now();
    let answer = client.call_at_most(FETCH_BY_NAME, request).await?;
    let Some(answer) = answer.groups.first() else {
        client.unexpected("OffsetFetch without a group", 0);
        return None;
    };
    if answer.error_code != code::NONE {
        if !is_passing(answer.error_code) {
            client.unexpected("OffsetFetch", answer.error_code);
        }
        trireme_runtime::sleep(Duration::from_millis(20)).await;
        return None;
    }
    let mut positions = BTreeMap::new();
    for topic in &answer.topics {
        for partition in &topic.partitions {
            let mut history = stage.history();
            let log = logs.iter().copied().find(|log| {
                let (name, _, index) = history.place(*log);
                name == topic.name.to_string() && index == partition.partition_index
            });
            let Some(log) = log else { continue };
            if partition.error_code != code::NONE {
                drop(history);
                client.unexpected("OffsetFetch of a partition", partition.error_code);
                return None;
            }
            let metadata = partition.metadata.as_ref().map_or("", |text| text.as_str());
            history.told_fetched(
                group,
                log,
                partition.committed_offset,
                metadata,
                asked,
                now(),
            );
            positions.insert(log, partition.committed_offset.max(0));
        }
    }
    Some(positions)
}
