//! The group coordinator: Kafka's classic consumer groups and their committed offsets.
//!
//! [`Coordinator`] is a sans-I/O state machine for all groups of one group partition: requests go in with the time and a
//! few random bytes, and out come replies addressed to request [`Token`]s, mutations to persist and the next moment at
//! which it wants to be called. It never waits: a reply that promises something durable is kept back until the shell
//! reports, with [`Coordinator::written`], that the mutations before it are durable. [`service`] is the asynchronous shell
//! around it: one coordinator per group partition, on the core that serves the partition's shard.
//!
//! What is kept (see [`codec`]): one entry per group (generation, protocol, members with their subscription and
//! assignment), written when a generation becomes stable, when a static member is replaced and when a group becomes
//! empty; and one entry per committed offset. So after a restart consumers go on with nothing but heartbeats.
//!
//! Invariants:
//! - Every token that comes in is answered exactly once, unless the coordinator is dropped.
//! - An OffsetFetch sees only durable offsets; one that requires stable offsets waits for the commits before it.
//! - A generation's assignment is durable before the first member learns of it.

mod classic;
mod codec;
mod coordinator;
mod effects;
mod group;
mod offsets;
pub mod service;
mod subscription;
mod timers;
mod view;

pub use codec::{DecodeError, Mutation};
pub use coordinator::Coordinator;
pub use effects::{Now, PersistError, Token};

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use kacrab_protocol::KafkaString;
use kacrab_protocol::generated::{
    delete_groups_response, describe_groups_response, heartbeat_request, join_group_request,
    join_group_response, leave_group_request, leave_group_response, list_groups_response,
    offset_commit_request, offset_commit_response, offset_delete_request, offset_delete_response,
    offset_fetch_request, offset_fetch_response, sync_group_request, sync_group_response,
};

/// Kafka's broker settings that govern groups, under their Kafka names and with its defaults.
#[derive(Debug, Clone)]
pub struct GroupConfig {
    /// `group.min.session.timeout.ms`
    pub min_session_timeout_ms: i32,
    /// `group.max.session.timeout.ms`
    pub max_session_timeout_ms: i32,
    /// `group.initial.rebalance.delay.ms`: how long an empty group waits for more members before its first generation.
    pub initial_rebalance_delay_ms: i32,
    /// `group.max.size`, never above [`MAX_GROUP_SIZE`].
    pub max_size: usize,
    /// `offset.metadata.max.bytes`
    pub offset_metadata_max_bytes: usize,
    /// `offsets.retention.minutes`, in milliseconds.
    pub offsets_retention_ms: i64,
    /// `offsets.retention.check.interval.ms`
    pub offsets_retention_check_interval_ms: i64,
    /// One for all cores of a node.
    pub in_use: InUse,
}

/// Whether anybody has asked for a coordinator, or a group is kept from before: from then on the groups' internal topic is
/// listed, as in Kafka, which makes it at that moment. Only ever turns true, so cores may share it.
#[derive(Clone, Debug, Default)]
pub struct InUse(Arc<AtomicBool>);

impl InUse {
    pub fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    pub fn get(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl Default for GroupConfig {
    fn default() -> Self {
        Self {
            min_session_timeout_ms: 6_000,
            max_session_timeout_ms: 1_800_000,
            initial_rebalance_delay_ms: 3_000,
            max_size: MAX_GROUP_SIZE,
            offset_metadata_max_bytes: 4_096,
            offsets_retention_ms: 7 * 24 * 60 * 60_000,
            offsets_retention_check_interval_ms: 600_000,
            in_use: InUse::default(),
        }
    }
}

impl GroupConfig {
    /// From Kafka's broker settings by name; what is not there has its default, other settings are not looked at.
    pub fn from_settings(settings: &BTreeMap<String, String>) -> Result<Self, String> {
        fn number(
            settings: &BTreeMap<String, String>,
            name: &str,
            default: i64,
            at_least: i64,
        ) -> Result<i64, String> {
            let Some(text) = settings.get(name) else {
                return Ok(default);
            };
            let value = text
                .trim()
                .parse()
                .ok()
                .filter(|&value| (at_least..=i64::from(i32::MAX)).contains(&value));
            value.ok_or_else(|| format!("{name}: {text:?} is not a number of at least {at_least}"))
        }
        let default = Self::default();
        let ms = |name, default: i32, at_least| {
            number(settings, name, default.into(), at_least).map(|ms| ms as i32)
        };
        let minutes = number(
            settings,
            "offsets.retention.minutes",
            default.offsets_retention_ms / 60_000,
            1,
        )?;
        let max_metadata = default.offset_metadata_max_bytes as i64;
        let check = "offsets.retention.check.interval.ms";
        Ok(Self {
            min_session_timeout_ms: ms(
                "group.min.session.timeout.ms",
                default.min_session_timeout_ms,
                0,
            )?,
            max_session_timeout_ms: ms(
                "group.max.session.timeout.ms",
                default.max_session_timeout_ms,
                0,
            )?,
            initial_rebalance_delay_ms: ms(
                "group.initial.rebalance.delay.ms",
                default.initial_rebalance_delay_ms,
                0,
            )?,
            max_size: number(settings, "group.max.size", default.max_size as i64, 1)? as usize,
            offset_metadata_max_bytes: number(
                settings,
                "offset.metadata.max.bytes",
                max_metadata,
                0,
            )? as usize,
            offsets_retention_ms: minutes * 60_000,
            offsets_retention_check_interval_ms: number(
                settings,
                check,
                default.offsets_retention_check_interval_ms,
                1,
            )?,
            in_use: InUse::default(),
        })
    }
}

/// Members and members-to-be of one group; `group.max.size` has no bound in Kafka, here a peer must not choose it.
pub const MAX_GROUP_SIZE: usize = 16_384;

/// Groups of one group partition. Above it a new group is refused with COORDINATOR_NOT_AVAILABLE.
pub const MAX_GROUPS_PER_PARTITION: usize = 131_072;

/// Bytes of one group's persisted entry (subscriptions and assignments of all its members). A SyncGroup that would need
/// more is answered with UNKNOWN_SERVER_ERROR, as in Kafka when the record exceeds the log's largest message.
pub const MAX_GROUP_ENTRY_BYTES: usize = 768 * 1024;

/// A new member has no id yet and can send no heartbeats, so its first JoinGroup may stay parked this long.
pub const NEW_MEMBER_JOIN_TIMEOUT_MS: i64 = 5 * 60 * 1000;

/// The protocol type that Java-compatible consumers use; only its subscriptions are understood.
pub const CONSUMER_PROTOCOL_TYPE: &str = "consumer";

/// Who sent a request: what the coordinator keeps of it and shows in DescribeGroups.
#[derive(Debug, Clone)]
pub struct Client {
    pub client_id: String,
    /// As Kafka shows it: `/127.0.0.1`.
    pub host: String,
    /// Version of the request's API.
    pub api_version: i16,
}

/// A request for one group partition. All its parts are Send: it is mailed to the core that owns the partition.
#[derive(Debug)]
pub enum GroupRequest {
    Join(Client, join_group_request::JoinGroupRequestData),
    Sync(sync_group_request::SyncGroupRequestData),
    Heartbeat(heartbeat_request::HeartbeatRequestData),
    Leave(leave_group_request::LeaveGroupRequestData),
    /// Only existing topic partitions, names resolved.
    Commit(Client, offset_commit_request::OffsetCommitRequestData),
    /// Names resolved; `require_stable` as in the request.
    Fetch {
        group: offset_fetch_request::OffsetFetchRequestGroup,
        require_stable: bool,
    },
    DeleteOffsets(offset_delete_request::OffsetDeleteRequestData),
    /// Filters as in ListGroups: states and types, compared without case; empty = all.
    List {
        states: Vec<KafkaString>,
        types: Vec<KafkaString>,
    },
    Describe(KafkaString),
    Delete(KafkaString),
}

impl GroupRequest {
    /// The group that it is about; empty for a list.
    pub fn group(&self) -> &str {
        let group = match self {
            GroupRequest::Join(_, request) => &request.group_id,
            GroupRequest::Sync(request) => &request.group_id,
            GroupRequest::Heartbeat(request) => &request.group_id,
            GroupRequest::Leave(request) => &request.group_id,
            GroupRequest::Commit(_, request) => &request.group_id,
            GroupRequest::Fetch { group, .. } => &group.group_id,
            GroupRequest::DeleteOffsets(request) => &request.group_id,
            GroupRequest::List { .. } => return "",
            GroupRequest::Describe(group) | GroupRequest::Delete(group) => group,
        };
        group.as_str()
    }
}

/// The answer to a [`GroupRequest`], by the same name.
#[derive(Debug, Clone, PartialEq)]
pub enum GroupReply {
    Join(join_group_response::JoinGroupResponseData),
    Sync(sync_group_response::SyncGroupResponseData),
    /// Error code.
    Heartbeat(i16),
    Leave(leave_group_response::LeaveGroupResponseData),
    Commit(offset_commit_response::OffsetCommitResponseData),
    Fetch(offset_fetch_response::OffsetFetchResponseGroup),
    DeleteOffsets(offset_delete_response::OffsetDeleteResponseData),
    List(list_groups_response::ListGroupsResponseData),
    Describe(describe_groups_response::DescribedGroup),
    Delete(delete_groups_response::DeletableGroupResult),
}

/// The answer to a request that no coordinator takes now.
pub fn refusal(request: &GroupRequest, code: i16) -> GroupReply {
    match request {
        GroupRequest::Join(_, request) => classic::join_error(request.member_id.as_str(), code),
        GroupRequest::Sync(_) => classic::sync_error(code),
        // A member that is not known yet must not take itself for lost.
        GroupRequest::Heartbeat(_) if code == error::COORDINATOR_LOAD_IN_PROGRESS => {
            GroupReply::Heartbeat(error::NONE)
        }
        GroupRequest::Heartbeat(_) => GroupReply::Heartbeat(code),
        GroupRequest::Leave(_) => GroupReply::Leave(leave_group_response::LeaveGroupResponseData {
            error_code: code,
            ..Default::default()
        }),
        GroupRequest::Commit(_, request) => offsets::commit_error(request, code),
        GroupRequest::Fetch { group, .. } => {
            GroupReply::Fetch(offset_fetch_response::OffsetFetchResponseGroup {
                group_id: classic::string(group.group_id.as_str()),
                error_code: code,
                ..Default::default()
            })
        }
        GroupRequest::DeleteOffsets(_) => offsets::delete_error(code),
        GroupRequest::List { .. } => {
            GroupReply::List(list_groups_response::ListGroupsResponseData {
                error_code: code,
                ..Default::default()
            })
        }
        GroupRequest::Describe(group) => {
            GroupReply::Describe(describe_groups_response::DescribedGroup {
                group_id: classic::string(group.as_str()),
                error_code: code,
                ..Default::default()
            })
        }
        GroupRequest::Delete(group) => {
            GroupReply::Delete(delete_groups_response::DeletableGroupResult {
                group_id: classic::string(group.as_str()),
                error_code: code,
                ..Default::default()
            })
        }
    }
}

/// Kafka's error codes that the coordinator gives.
pub(crate) mod error {
    pub const NONE: i16 = 0;
    pub const UNKNOWN_SERVER_ERROR: i16 = -1;
    pub const OFFSET_METADATA_TOO_LARGE: i16 = 12;
    pub const COORDINATOR_LOAD_IN_PROGRESS: i16 = 14;
    pub const COORDINATOR_NOT_AVAILABLE: i16 = 15;
    pub const NOT_COORDINATOR: i16 = 16;
    pub const ILLEGAL_GENERATION: i16 = 22;
    pub const INCONSISTENT_GROUP_PROTOCOL: i16 = 23;
    pub const INVALID_GROUP_ID: i16 = 24;
    pub const UNKNOWN_MEMBER_ID: i16 = 25;
    pub const INVALID_SESSION_TIMEOUT: i16 = 26;
    pub const REBALANCE_IN_PROGRESS: i16 = 27;
    pub const NON_EMPTY_GROUP: i16 = 68;
    pub const GROUP_ID_NOT_FOUND: i16 = 69;
    pub const MEMBER_ID_REQUIRED: i16 = 79;
    pub const GROUP_MAX_SIZE_REACHED: i16 = 81;
    pub const FENCED_INSTANCE_ID: i16 = 82;
    pub const GROUP_SUBSCRIBED_TO_TOPIC: i16 = 86;
}

#[cfg(test)]
mod tests;
