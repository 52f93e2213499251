//! Metadata: the broker, the topics, their partitions. Creates topics that are asked for by name and missing, where that is allowed; they
//! exist on every core when the answer says so.

use std::collections::BTreeSet;
use std::sync::Arc;

use kacrab_protocol::generated::metadata_response::*;
use kacrab_protocol::generated::{ErrorCode, MetadataRequestData};
use trireme_engine::TopicId;
use trireme_replication::{NewTopic, Topic, check_topic_name};

use crate::cluster::{self, text, to_uuid};
use crate::dispatch::{self, Answer, Api, Call, CloseConnection, Order};

pub const API: Api = Api {
    key: 3,
    name: "Metadata",
    min: 0,
    max: 13,
    flexible: 9,
    order: Order::Serial,
    start: |request| dispatch::typed(request, handle),
};

/// First version whose topics may be named by id alone.
const FIRST_WITH_IDS: i16 = 12;

async fn handle(call: Call, request: MetadataRequestData) -> Answer<MetadataResponseData> {
    let (door, version) = (&call.door, call.version());
    let include_topic_operations = request.include_topic_authorized_operations;
    let include_cluster_operations = request.include_cluster_authorized_operations;
    let image = door.metadata.image();

    let mut found: Vec<Arc<Topic>> = Vec::new();
    let mut errors = Vec::new();
    let asked = request
        .topics
        .filter(|topics| version > 0 || !topics.is_empty());
    match asked {
        None => found.extend(cluster::readable_topics(&image, door.groups.in_use())),
        Some(topics) => {
            let mut names = BTreeSet::new();
            let mut ids = BTreeSet::new();
            for topic in &topics {
                if version < FIRST_WITH_IDS && (topic.name.is_none() || !topic.topic_id.is_nil()) {
                    return Err(CloseConnection);
                }
                if !topic.topic_id.is_nil() {
                    ids.insert(cluster::from_uuid(topic.topic_id));
                } else if let Some(name) = &topic.name {
                    names.insert(name.as_str().to_owned());
                }
            }
            drop(topics);
            if ids.is_empty() {
                by_name(
                    &call,
                    names,
                    request.allow_auto_topic_creation,
                    &mut found,
                    &mut errors,
                )
                .await;
            } else {
                // With one id in it the request is about ids.
                by_id(&call, ids, &mut found, &mut errors);
            }
        }
    }

    let operations = if include_topic_operations {
        cluster::ALL_TOPIC_OPERATIONS
    } else {
        cluster::OPERATIONS_OMITTED
    };
    let epochs = door.leader_epochs(&found).await;
    let mut topics = errors;
    for (topic, epochs) in found.iter().zip(&epochs) {
        topics.push(
            describe(topic, epochs, image.node_id).with_topic_authorized_operations(operations),
        );
    }
    let broker = MetadataResponseBroker::default()
        .with_node_id(image.node_id)
        .with_host(text(&*door.config.advertised_host))
        .with_port(i32::from(door.config.advertised_port));
    let mut response = MetadataResponseData::default()
        .with_brokers(vec![broker])
        .with_cluster_id(Some(text(&*image.cluster_id)))
        .with_controller_id(image.node_id)
        .with_topics(topics);
    if include_cluster_operations {
        response.cluster_authorized_operations = cluster::ALL_CLUSTER_OPERATIONS;
    }
    Ok(response)
}

fn describe(topic: &Topic, epochs: &[i32], node: i32) -> MetadataResponseTopic {
    let partition = |(index, &epoch): (usize, &i32)| {
        MetadataResponsePartition::default()
            .with_partition_index(index as i32)
            .with_leader_id(node)
            .with_leader_epoch(epoch)
            .with_replica_nodes(vec![node])
            .with_isr_nodes(vec![node])
    };
    MetadataResponseTopic::default()
        .with_name(Some(text(&*topic.name)))
        .with_topic_id(to_uuid(topic.id))
        .with_is_internal(cluster::is_internal(&topic.name))
        .with_partitions(epochs.iter().enumerate().map(partition).collect())
}

fn by_id(
    call: &Call,
    ids: BTreeSet<TopicId>,
    found: &mut Vec<Arc<Topic>>,
    errors: &mut Vec<MetadataResponseTopic>,
) {
    let image = call.door.metadata.image();
    for id in ids {
        match cluster::readable_by_id(&image, &id) {
            Some(topic) => found.push(topic),
            None => errors.push(
                MetadataResponseTopic::default()
                    .with_error_code(ErrorCode::UnknownTopicId.code())
                    .with_topic_id(to_uuid(id))
                    .with_name(None),
            ),
        }
    }
}

async fn by_name(
    call: &Call,
    names: BTreeSet<String>,
    allow_creation: bool,
    found: &mut Vec<Arc<Topic>>,
    errors: &mut Vec<MetadataResponseTopic>,
) {
    let door = &call.door;
    let image = door.metadata.image();
    let create = allow_creation && door.config.auto_create_topics;
    let mut error = |name: &str, code: ErrorCode| {
        errors.push(
            MetadataResponseTopic::default()
                .with_error_code(code.code())
                .with_name(Some(text(name))),
        );
    };
    let mut missing = Vec::new();
    for name in names {
        if let Some(topic) = cluster::readable(&image, &name) {
            found.push(topic);
        } else if check_topic_name(&name).is_err() {
            error(&name, ErrorCode::InvalidTopicException);
        } else if create && !cluster::is_internal(&name) {
            missing.push(name);
        } else {
            error(&name, ErrorCode::UnknownTopicOrPartition);
        }
    }
    if missing.is_empty() {
        return;
    }
    let partitions = door.config.num_partitions;
    let new = missing
        .iter()
        .map(|name| NewTopic {
            name: name.clone(),
            partitions,
            configs: Default::default(),
        })
        .collect();
    let created = door.metadata.create_topics(new).await;
    let image = door.metadata.image();
    for (name, created) in missing.iter().zip(created) {
        match (created, image.topic(name)) {
            (Ok(topic), _) => found.push(topic),
            // Somebody else was faster.
            (Err(_), Some(topic)) => found.push(topic.clone()),
            (Err(refusal), None) => {
                tracing::info!(topic = %name, error = %refusal, "topic not created");
                error(name, cluster::refused(&refusal).0);
            }
        }
    }
}
