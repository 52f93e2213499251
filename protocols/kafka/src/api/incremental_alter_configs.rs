//! IncrementalAlterConfigs: set, remove, append to and subtract from single values. What is answered without error is durable and in
//! effect.

use std::collections::BTreeSet;

use kacrab_protocol::generated::incremental_alter_configs_request::AlterableConfig;
use kacrab_protocol::generated::incremental_alter_configs_response::AlterConfigsResourceResponse;
use kacrab_protocol::generated::{
    ErrorCode, IncrementalAlterConfigsRequestData, IncrementalAlterConfigsResponseData,
};
use trireme_replication::{ConfigChanges, ConfigTarget};

use super::describe_configs::{BROKER, BrokerValues, TOPIC};
use crate::cluster::{self, text};
use crate::configs::partition::effective;
use crate::configs::value::{Kind, list};
use crate::configs::{Values, broker, topic};
use crate::dispatch::{self, Answer, Api, Call, Order};
use crate::door::Door;

pub const API: Api = Api {
    key: 44,
    name: "IncrementalAlterConfigs",
    min: 0,
    max: 1,
    flexible: 1,
    order: Order::Serial,
    start: |request| dispatch::typed(request, handle),
};

const SET: i8 = 0;
const DELETE: i8 = 1;
const APPEND: i8 = 2;
const SUBTRACT: i8 = 3;

pub type Refusal = (ErrorCode, String);

async fn handle(
    call: Call,
    request: IncrementalAlterConfigsRequestData,
) -> Answer<IncrementalAlterConfigsResponseData> {
    let door = &call.door;
    let mut responses = Vec::with_capacity(request.resources.len());
    let mut seen = BTreeSet::new();
    for resource in &request.resources {
        let name = resource.resource_name.as_str();
        let result = if !seen.insert((resource.resource_type, name)) {
            Err((
                ErrorCode::InvalidRequest,
                "Each resource must appear at most once.".into(),
            ))
        } else {
            match changes(door, resource.resource_type, name, &resource.configs) {
                Ok((target, changes)) => apply(door, target, changes, request.validate_only).await,
                Err(refusal) => Err(refusal),
            }
        };
        let mut response = AlterConfigsResourceResponse::default()
            .with_resource_type(resource.resource_type)
            .with_resource_name(resource.resource_name.clone());
        if let Err((code, message)) = result {
            response.error_code = code.code();
            response.error_message = Some(text(message));
        }
        responses.push(response);
    }
    Ok(IncrementalAlterConfigsResponseData::default().with_responses(responses))
}

/// Whose configuration a resource is, and the values it has of its own.
pub fn target(door: &Door, kind: i8, name: &str) -> Result<(ConfigTarget, Values), Refusal> {
    let image = door.metadata.image();
    if kind == TOPIC {
        cluster::refuse_internal(name)?;
    }
    match kind {
        TOPIC => match image.topic(name) {
            Some(topic) => Ok((ConfigTarget::Topic(topic.id), topic.configs.clone())),
            None => Err((
                ErrorCode::UnknownTopicOrPartition,
                format!("The topic '{name}' does not exist."),
            )),
        },
        BROKER if name.is_empty() || name == image.node_id.to_string() => {
            Ok((ConfigTarget::Broker, image.broker_configs.clone()))
        }
        BROKER => Err((
            ErrorCode::InvalidRequest,
            format!(
                "Unexpected broker id, expected {}, but received {name}",
                image.node_id
            ),
        )),
        other => Err((
            ErrorCode::InvalidRequest,
            format!("Resources of type {other} cannot be configured."),
        )),
    }
}

/// Checks a value and gives its type.
pub fn check(target: ConfigTarget, name: &str, value: &str) -> Result<Kind, Refusal> {
    match target {
        ConfigTarget::Topic(_) => topic::check(name, value).map(|config| config.kind),
        ConfigTarget::Broker => broker::check(name, value).map(|config| config.kind),
    }
    .map_err(|why| (ErrorCode::InvalidConfig, why))
}

/// Makes the changes durable, unless they were only to be checked.
pub async fn apply(
    door: &Door,
    target: ConfigTarget,
    changes: ConfigChanges,
    validate_only: bool,
) -> Result<(), Refusal> {
    if validate_only || changes.is_empty() {
        return Ok(());
    }
    door.metadata
        .set_configs(target, changes)
        .await
        .map_err(|error| cluster::refused(&error))
}

fn changes(
    door: &Door,
    kind: i8,
    resource: &str,
    configs: &[AlterableConfig],
) -> Result<(ConfigTarget, ConfigChanges), Refusal> {
    let (target, own) = target(door, kind, resource)?;
    let brokers = door.broker_values();
    let mut names = BTreeSet::new();
    let mut changes = Vec::with_capacity(configs.len());
    for config in configs {
        let name = config.name.as_str();
        if !names.insert(name) {
            return Err((
                ErrorCode::InvalidRequest,
                format!("Error due to duplicate config keys: {name}"),
            ));
        }
        let value = config.value.as_ref().map(|value| value.as_str().trim());
        let value = match (config.config_operation, value) {
            (DELETE, _) => {
                changes.push((name.to_owned(), None));
                continue;
            }
            (SET | APPEND | SUBTRACT, None) => {
                return Err((
                    ErrorCode::InvalidRequest,
                    format!("Null value not supported for config {name}"),
                ));
            }
            (SET, Some(value)) => value.to_owned(),
            (operation @ (APPEND | SUBTRACT), Some(value)) => {
                let current = current(target, name, &own, &brokers)?;
                combined(&current, value, operation == APPEND)
            }
            (operation, _) => {
                return Err((
                    ErrorCode::InvalidRequest,
                    format!("Unknown operation type {operation}"),
                ));
            }
        };
        check(target, name, &value)?;
        changes.push((name.to_owned(), Some(value)));
    }
    Ok((target, changes))
}

/// The value that a list operation begins with.
fn current(
    target: ConfigTarget,
    name: &str,
    own: &Values,
    brokers: &BrokerValues,
) -> Result<String, Refusal> {
    let unknown = || {
        (
            ErrorCode::InvalidConfig,
            format!("Unknown config name: {name}"),
        )
    };
    let (kind, value) = match target {
        ConfigTarget::Topic(_) => {
            let config = topic::find(name).ok_or_else(unknown)?;
            (config.kind, effective(config, own, &brokers.merged).value)
        }
        ConfigTarget::Broker => {
            let config = broker::find(name).ok_or_else(unknown)?;
            (
                config.kind,
                brokers
                    .merged
                    .get(name)
                    .cloned()
                    .unwrap_or_else(|| config.default.into()),
            )
        }
    };
    if !kind.is_list() {
        return Err((
            ErrorCode::InvalidConfig,
            format!("Can't APPEND or SUBTRACT to key {name} because its type is not LIST."),
        ));
    }
    Ok(value)
}

fn combined(current: &str, value: &str, append: bool) -> String {
    let mut items: Vec<&str> = list(current).collect();
    for item in list(value) {
        match append {
            true if !items.contains(&item) => items.push(item),
            true => {}
            false => items.retain(|kept| *kept != item),
        }
    }
    items.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_combined() {
        assert_eq!(combined("a,b", "b, c", true), "a,b,c");
        assert_eq!(combined("a,b,c", "b", false), "a,c");
        assert_eq!(combined("", "a", true), "a");
        assert_eq!(combined("a", "a", false), "");
    }
}
