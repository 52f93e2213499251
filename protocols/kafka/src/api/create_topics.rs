//! CreateTopics. A topic that is answered without error is durable and exists on every core.

use std::collections::BTreeMap;

use kacrab_protocol::generated::create_topics_request::CreatableTopic;
use kacrab_protocol::generated::create_topics_response::{
    CreatableTopicConfigs, CreatableTopicResult,
};
use kacrab_protocol::generated::{CreateTopicsRequestData, CreateTopicsResponseData, ErrorCode};
use trireme_replication::{MetadataImage, NewTopic, Topic, check_topic_name, names_collide};

use crate::cluster::{self, text, to_uuid};
use crate::configs::{Values, topic as topic_configs};
use crate::dispatch::{self, Answer, Api, Call, Order};

pub const API: Api = Api {
    key: 19,
    name: "CreateTopics",
    min: 2,
    max: 7,
    flexible: 5,
    order: Order::Serial,
    start: |request| dispatch::typed(request, handle),
};

type Refusal = (ErrorCode, String);

async fn handle(call: Call, request: CreateTopicsRequestData) -> Answer<CreateTopicsResponseData> {
    let door = &call.door;
    let image = door.metadata.image();
    let mut occurrences: BTreeMap<&str, usize> = BTreeMap::new();
    for topic in &request.topics {
        *occurrences.entry(topic.name.as_str()).or_default() += 1;
    }
    let mut results = Vec::with_capacity(request.topics.len());
    let mut new = Vec::new();
    let mut waiting = Vec::new();
    for topic in &request.topics {
        let name = topic.name.as_str();
        if occurrences.get(name).is_some_and(|&count| count > 1) {
            // One answer for all of them.
            if occurrences.insert(name, 0) != Some(0) {
                results.push(refused(
                    name,
                    (ErrorCode::InvalidRequest, "Duplicate topic name.".into()),
                ));
            }
            continue;
        }
        if occurrences.get(name) == Some(&0) {
            continue;
        }
        match check(topic, &image, door.config.num_partitions) {
            Err(refusal) => results.push(refused(name, refusal)),
            Ok(checked) if request.validate_only => {
                results.push(describe(
                    &call,
                    name,
                    checked.partitions as usize,
                    &checked.configs,
                ));
            }
            Ok(checked) => {
                waiting.push(results.len());
                results.push(CreatableTopicResult::default());
                new.push(checked);
            }
        }
    }
    drop(occurrences);
    drop(request);
    if !new.is_empty() {
        let names: Vec<_> = new.iter().map(|topic| topic.name.clone()).collect();
        let created = door.metadata.create_topics(new).await;
        for ((place, name), created) in waiting.into_iter().zip(names).zip(created) {
            results[place] = match created {
                Ok(topic) => created_topic(&call, &topic),
                Err(error) => refused(&name, cluster::refused(&error)),
            };
        }
    }
    Ok(CreateTopicsResponseData::default().with_topics(results))
}

fn refused(name: &str, (code, message): Refusal) -> CreatableTopicResult {
    CreatableTopicResult::default()
        .with_name(text(name))
        .with_error_code(code.code())
        .with_error_message(Some(text(message)))
}

fn created_topic(call: &Call, topic: &Topic) -> CreatableTopicResult {
    describe(call, &topic.name, topic.partitions.len(), &topic.configs)
        .with_topic_id(to_uuid(topic.id))
}

/// The good answer, from version 5 on with everything that holds for the topic.
fn describe(call: &Call, name: &str, partitions: usize, configs: &Values) -> CreatableTopicResult {
    let mut result = CreatableTopicResult::default().with_name(text(name));
    if call.version() >= 5 {
        let brokers = call.door.broker_values();
        let entry = |described: super::describe_configs::Described| {
            CreatableTopicConfigs::default()
                .with_name(text(described.name))
                .with_value(described.value.map(text))
                .with_config_source(described.source)
                .with_is_sensitive(described.sensitive)
        };
        result.num_partitions = partitions as i32;
        result.replication_factor = 1;
        result.configs = Some(
            super::describe_configs::topic(configs, &brokers)
                .map(entry)
                .collect(),
        );
    }
    result
}

fn check(
    topic: &CreatableTopic,
    image: &MetadataImage,
    default_partitions: u32,
) -> Result<NewTopic, Refusal> {
    let name = topic.name.as_str();
    check_topic_name(name).map_err(|error| {
        (
            ErrorCode::InvalidTopicException,
            format!("Topic name is invalid: {error}"),
        )
    })?;
    if image.topic(name).is_some() || cluster::is_internal(name) {
        return Err((
            ErrorCode::TopicAlreadyExists,
            format!("Topic '{name}' already exists."),
        ));
    }
    if let Some(other) = image.topics.keys().find(|other| names_collide(name, other)) {
        let message = format!("Topic '{name}' collides with existing topic: {other}");
        return Err((ErrorCode::InvalidTopicException, message));
    }
    let partitions = match topic.assignments.is_empty() {
        true => counted(topic, default_partitions)?,
        false => assigned(topic, image.node_id)?,
    };
    let mut configs = Values::new();
    for config in &topic.configs {
        let (name, value) = (
            config.name.as_str(),
            config.value.as_ref().map(|value| value.as_str().trim()),
        );
        let value = value.ok_or_else(|| {
            (
                ErrorCode::InvalidConfig,
                format!("Null value for configuration {name}"),
            )
        })?;
        topic_configs::check(name, value).map_err(|why| (ErrorCode::InvalidConfig, why))?;
        configs.insert(name.into(), value.into());
    }
    Ok(NewTopic {
        name: name.into(),
        partitions,
        configs,
    })
}

fn counted(topic: &CreatableTopic, default_partitions: u32) -> Result<u32, Refusal> {
    match topic.replication_factor {
        -1 | 1 => {}
        factor if factor < 1 => {
            let message =
                "Replication factor must be larger than 0, or -1 to use the default value.";
            return Err((ErrorCode::InvalidReplicationFactor, message.into()));
        }
        factor => {
            let message = format!(
                "Unable to replicate the partition {factor} time(s): The target replication factor of {factor} cannot be reached \
                 because only 1 broker(s) are registered."
            );
            return Err((ErrorCode::InvalidReplicationFactor, message));
        }
    }
    match topic.num_partitions {
        -1 => Ok(default_partitions),
        count => u32::try_from(count)
            .ok()
            .filter(|&count| count > 0)
            .ok_or_else(|| {
                let message = "Number of partitions was set to an invalid non-positive value.";
                (ErrorCode::InvalidPartitions, message.into())
            }),
    }
}

/// The number of partitions of a manual assignment, which can only name this node.
fn assigned(topic: &CreatableTopic, node: i32) -> Result<u32, Refusal> {
    if topic.num_partitions != -1 || topic.replication_factor != -1 {
        let message = "A manual partition assignment was specified, but numPartitions and replicationFactor were not set to -1.";
        return Err((ErrorCode::InvalidRequest, message.into()));
    }
    let invalid = |message: String| Err((ErrorCode::InvalidReplicaAssignment, message));
    let mut indexes: Vec<_> = topic
        .assignments
        .iter()
        .map(|assignment| assignment.partition_index)
        .collect();
    indexes.sort_unstable();
    if indexes
        .iter()
        .enumerate()
        .any(|(place, &index)| place as i32 != index)
    {
        return invalid("partitions should be a consecutive 0-based integer sequence".into());
    }
    for assignment in &topic.assignments {
        if assignment.broker_ids != [node] {
            let brokers = &assignment.broker_ids;
            return invalid(format!(
                "The manual partition assignment {brokers:?} is not possible: broker {node} is the only one."
            ));
        }
    }
    Ok(indexes.len() as u32)
}
