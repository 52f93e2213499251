//! The classic group protocol: what JoinGroup, SyncGroup, Heartbeat, LeaveGroup and the passing of time do to a group.
//!
//! Every function takes the group and the coordinator's [`Effects`](super::effects::Effects); a request's token is answered,
//! parked in the member that it belongs to, or handed to a continuation. A token that a member's newer request displaces is
//! answered too, with REBALANCE_IN_PROGRESS: its client has given up on it, but its connection may still be waiting to
//! answer in order.

mod join;
mod rebalance;
mod session;
mod sync;

use std::sync::Arc;

use kacrab_protocol::KafkaString;
use kacrab_protocol::generated::join_group_response::JoinGroupResponseData;
use kacrab_protocol::generated::sync_group_response::SyncGroupResponseData;

use super::effects::PersistError;
use super::{GroupReply, error};

pub(super) use join::{join, replaced};
pub(super) use rebalance::{join_due, prepare_rebalance, sync_due};
pub(super) use session::{heartbeat, leave, release, reschedule_session, session_due};
pub(super) use sync::{assigned, sync};

pub(super) fn string(s: &str) -> KafkaString {
    KafkaString::from(s.to_owned())
}

fn optional(s: Option<&Arc<str>>) -> Option<KafkaString> {
    s.map(|s| string(s))
}

/// A JoinGroup answer that is nothing but an error.
pub(super) fn join_error(member_id: &str, error_code: i16) -> GroupReply {
    GroupReply::Join(JoinGroupResponseData {
        error_code,
        member_id: string(member_id),
        ..Default::default()
    })
}

pub(super) fn sync_error(error_code: i16) -> GroupReply {
    GroupReply::Sync(SyncGroupResponseData {
        error_code,
        ..Default::default()
    })
}

/// What a client sees when its group's state could not be persisted.
pub(super) fn persist_error(cause: PersistError) -> i16 {
    match cause {
        PersistError::Refused => error::COORDINATOR_NOT_AVAILABLE,
        PersistError::ShuttingDown => error::NOT_COORDINATOR,
    }
}
