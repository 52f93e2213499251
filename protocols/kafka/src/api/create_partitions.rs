//! CreatePartitions: more partitions for a topic.

use std::collections::BTreeMap;

use kacrab_protocol::generated::create_partitions_request::CreatePartitionsTopic;
use kacrab_protocol::generated::{
    CreatePartitionsRequestData, CreatePartitionsResponseData, CreatePartitionsTopicResult,
    ErrorCode,
};
use trireme_engine::TopicId;
use trireme_replication::MetadataImage;

use crate::cluster::{self, text};
use crate::dispatch::{self, Answer, Api, Call, Order};

pub const API: Api = Api {
    key: 37,
    name: "CreatePartitions",
    min: 0,
    max: 3,
    flexible: 2,
    order: Order::Serial,
    start: |request| dispatch::typed(request, handle),
};

async fn handle(
    call: Call,
    request: CreatePartitionsRequestData,
) -> Answer<CreatePartitionsResponseData> {
    let mut occurrences: BTreeMap<&str, usize> = BTreeMap::new();
    for topic in &request.topics {
        *occurrences.entry(topic.name.as_str()).or_default() += 1;
    }
    let mut results = Vec::new();
    for topic in &request.topics {
        let name = topic.name.as_str();
        let result = match occurrences.get(name) {
            None => continue,
            Some(&count) if count > 1 => {
                occurrences.remove(name);
                Err((
                    ErrorCode::InvalidRequest,
                    "Duplicate topic name.".to_owned(),
                ))
            }
            _ => match check(topic, &call.door.metadata.image()) {
                Ok(_) if request.validate_only => Ok(()),
                Ok((id, count)) => match call.door.metadata.create_partitions(id, count).await {
                    Ok(_) => Ok(()),
                    Err(error) => Err(cluster::refused(&error)),
                },
                Err(refusal) => Err(refusal),
            },
        };
        let mut answer = CreatePartitionsTopicResult::default().with_name(topic.name.clone());
        if let Err((code, message)) = result {
            answer.error_code = code.code();
            answer.error_message = Some(text(message));
        }
        results.push(answer);
    }
    Ok(CreatePartitionsResponseData::default().with_results(results))
}

fn check(
    topic: &CreatePartitionsTopic,
    image: &MetadataImage,
) -> Result<(TopicId, u32), (ErrorCode, String)> {
    cluster::refuse_internal(topic.name.as_str())?;
    let known = image.topic(topic.name.as_str()).ok_or((
        ErrorCode::UnknownTopicOrPartition,
        "This server does not host this topic-partition.".to_owned(),
    ))?;
    let current = known.partitions.len();
    let invalid = |message: String| Err((ErrorCode::InvalidPartitions, message));
    let Ok(count) = u32::try_from(topic.count) else {
        return invalid(format!("The topic cannot have {} partitions.", topic.count));
    };
    if (count as usize) < current {
        return invalid(format!(
            "The topic {} currently has {current} partition(s); {count} would not be an increase.",
            topic.name
        ));
    }
    if count as usize == current {
        return invalid(format!("Topic already has {current} partition(s)."));
    }
    if let Some(assignments) = &topic.assignments {
        let added = count as usize - current;
        let invalid = |message: String| Err((ErrorCode::InvalidReplicaAssignment, message));
        if assignments.len() != added {
            let given = assignments.len();
            return invalid(format!(
                "Attempted to add {added} additional partition(s), but only {given} assignment(s) were specified."
            ));
        }
        if let Some(wrong) = assignments
            .iter()
            .find(|assignment| assignment.broker_ids != [image.node_id])
        {
            let (brokers, node) = (&wrong.broker_ids, image.node_id);
            return invalid(format!(
                "The manual partition assignment {brokers:?} is not possible: broker {node} is the only one."
            ));
        }
    }
    Ok((known.id, count))
}
