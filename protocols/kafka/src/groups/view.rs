//! What administrators see of groups: ListGroups and DescribeGroups.

use kacrab_protocol::KafkaString;
use kacrab_protocol::generated::describe_groups_response::{DescribedGroup, DescribedGroupMember};
use kacrab_protocol::generated::list_groups_response::ListedGroup;

use super::classic::string;
use super::error;
use super::group::{Group, State};

const GROUP_TYPE: &str = "classic";

/// Whether a group passes the filters of ListGroups; an empty filter passes all.
pub(super) fn is_listed(group: &Group, states: &[KafkaString], types: &[KafkaString]) -> bool {
    let names = |filter: &[KafkaString], name: &str| {
        filter.is_empty()
            || filter
                .iter()
                .any(|f| f.as_str().trim().eq_ignore_ascii_case(name))
    };
    names(states, group.state.name()) && names(types, GROUP_TYPE)
}

pub(super) fn listed(group: &Group) -> ListedGroup {
    ListedGroup {
        group_id: string(&group.id),
        protocol_type: group
            .protocol_type
            .as_deref()
            .map(string)
            .unwrap_or_default(),
        group_state: string(group.state.name()),
        group_type: string(GROUP_TYPE),
        ..Default::default()
    }
}

/// Subscriptions are shown in a stable generation only, because before it there is no protocol they would belong to.
pub(super) fn described(group: &Group) -> DescribedGroup {
    let protocol = group
        .protocol
        .as_deref()
        .filter(|_| group.state == State::Stable);
    let members = group.members.values().map(|member| DescribedGroupMember {
        member_id: string(&member.id),
        group_instance_id: member.instance_id.as_deref().map(string),
        client_id: string(&member.client_id),
        client_host: string(&member.client_host),
        member_metadata: protocol
            .and_then(|p| member.metadata(p))
            .cloned()
            .unwrap_or_default(),
        member_assignment: member.assignment.clone(),
        ..Default::default()
    });
    DescribedGroup {
        group_id: string(&group.id),
        group_state: string(group.state.name()),
        protocol_type: group
            .protocol_type
            .as_deref()
            .map(string)
            .unwrap_or_default(),
        protocol_data: protocol.map(string).unwrap_or_default(),
        members: members.collect(),
        ..Default::default()
    }
}

/// A group that does not exist: versions before 6 show it as dead, without an error.
pub(super) fn unknown(group: &KafkaString) -> DescribedGroup {
    DescribedGroup {
        error_code: error::GROUP_ID_NOT_FOUND,
        error_message: Some(KafkaString::from(format!("Group {group} not found."))),
        group_id: string(group.as_str()),
        group_state: string("Dead"),
        ..Default::default()
    }
}
