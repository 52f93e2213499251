//! AlterConfigs: replaces all of a resource's own values.

use std::collections::BTreeSet;

use kacrab_protocol::generated::alter_configs_request::AlterableConfig;
use kacrab_protocol::generated::alter_configs_response::AlterConfigsResourceResponse;
use kacrab_protocol::generated::{AlterConfigsRequestData, AlterConfigsResponseData, ErrorCode};
use trireme_replication::{ConfigChanges, ConfigTarget};

use super::incremental_alter_configs::{Refusal, apply, check, target};
use crate::cluster::text;
use crate::dispatch::{self, Answer, Api, Call, Order};
use crate::door::Door;

pub const API: Api = Api {
    key: 33,
    name: "AlterConfigs",
    min: 0,
    max: 2,
    flexible: 2,
    order: Order::Serial,
    start: |request| dispatch::typed(request, handle),
};

async fn handle(call: Call, request: AlterConfigsRequestData) -> Answer<AlterConfigsResponseData> {
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
    Ok(AlterConfigsResponseData::default().with_responses(responses))
}

fn changes(
    door: &Door,
    kind: i8,
    resource: &str,
    configs: &[AlterableConfig],
) -> Result<(ConfigTarget, ConfigChanges), Refusal> {
    let (target, own) = target(door, kind, resource)?;
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
        let Some(value) = config.value.as_ref().map(|value| value.as_str().trim()) else {
            return Err((
                ErrorCode::InvalidRequest,
                format!("Null value not supported for config {name}"),
            ));
        };
        check(target, name, value)?;
        changes.push((name.to_owned(), Some(value.to_owned())));
    }
    changes.extend(
        own.into_keys()
            .filter(|name| !names.contains(name.as_str()))
            .map(|name| (name, None)),
    );
    Ok((target, changes))
}
