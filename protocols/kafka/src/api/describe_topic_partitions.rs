//! DescribeTopicPartitions: partitions of topics, page by page.

use std::collections::BTreeSet;
use std::sync::Arc;

use kacrab_protocol::generated::describe_topic_partitions_response::*;
use kacrab_protocol::generated::{DescribeTopicPartitionsRequestData, ErrorCode};
use trireme_replication::{Topic, check_topic_name};

use crate::cluster::{self, text, to_uuid};
use crate::dispatch::{self, Answer, Api, Call, CloseConnection, Order};

pub const API: Api = Api {
    key: 75,
    name: "DescribeTopicPartitions",
    min: 0,
    max: 0,
    flexible: 0,
    order: Order::Serial,
    start: |request| dispatch::typed(request, handle),
};

/// Most partitions of one answer (Kafka's max.request.partition.size.limit).
const MAX_PARTITIONS: i32 = 2000;

async fn handle(
    call: Call,
    request: DescribeTopicPartitionsRequestData,
) -> Answer<DescribeTopicPartitionsResponseData> {
    let image = call.door.metadata.image();
    let node = image.node_id;
    let all = request.topics.is_empty();
    let cursor = request.cursor.as_ref();
    let first_name = cursor.map_or("", |cursor| cursor.topic_name.as_str());
    let first_partition = cursor.map_or(0, |cursor| cursor.partition_index);
    let known: Vec<_> = if all {
        cluster::readable_topics(&image, call.door.groups.in_use()).collect()
    } else {
        Vec::new()
    };
    let names: BTreeSet<&str> = match all {
        true => known.iter().map(|topic| &*topic.name).collect(),
        false => request
            .topics
            .iter()
            .map(|topic| topic.name.as_str())
            .collect(),
    };
    let cursor_is_wrong = !all && cursor.is_some() && !names.contains(first_name);
    if first_partition < 0 || cursor_is_wrong {
        return Err(CloseConnection);
    }

    let mut left = request.response_partition_limit.clamp(1, MAX_PARTITIONS) as usize;
    let mut topics = Vec::new();
    let mut next_cursor = None;
    for name in names.range(first_name..) {
        let begin = if *name == first_name {
            first_partition as usize
        } else {
            0
        };
        let Some(topic) = cluster::readable(&image, name) else {
            let code = match check_topic_name(name) {
                Ok(()) => ErrorCode::UnknownTopicOrPartition,
                Err(_) => ErrorCode::InvalidTopicException,
            };
            topics.push(
                DescribeTopicPartitionsResponseTopic::default()
                    .with_error_code(code.code())
                    .with_name(Some(text(*name)))
                    .with_topic_authorized_operations(cluster::ALL_TOPIC_OPERATIONS),
            );
            continue;
        };
        if left == 0 {
            next_cursor = Some((topic.name.clone(), 0));
            break;
        }
        let end = topic.partitions.len().min(begin.saturating_add(left));
        left -= end.saturating_sub(begin);
        topics.push(describe(&call, &topic, begin..end, node).await);
        if end < topic.partitions.len() {
            next_cursor = Some((topic.name.clone(), end));
            break;
        }
    }
    let mut response = DescribeTopicPartitionsResponseData::default().with_topics(topics);
    response.next_cursor = next_cursor.map(|(name, partition)| {
        Box::new(
            Cursor::default()
                .with_topic_name(text(&*name))
                .with_partition_index(partition as i32),
        )
    });
    Ok(response)
}

async fn describe(
    call: &Call,
    topic: &Arc<Topic>,
    range: std::ops::Range<usize>,
    node: i32,
) -> DescribeTopicPartitionsResponseTopic {
    let epochs = call
        .door
        .leader_epochs(std::slice::from_ref(topic))
        .await
        .pop()
        .unwrap_or_default();
    let partition = |index: usize| {
        DescribeTopicPartitionsResponsePartition::default()
            .with_partition_index(index as i32)
            .with_leader_id(node)
            .with_leader_epoch(epochs.get(index).copied().unwrap_or(-1))
            .with_replica_nodes(vec![node])
            .with_isr_nodes(vec![node])
            .with_eligible_leader_replicas(Some(Vec::new()))
            .with_last_known_elr(Some(Vec::new()))
    };
    DescribeTopicPartitionsResponseTopic::default()
        .with_name(Some(text(&*topic.name)))
        .with_topic_id(to_uuid(topic.id))
        .with_topic_authorized_operations(cluster::ALL_TOPIC_OPERATIONS)
        .with_is_internal(cluster::is_internal(&topic.name))
        .with_partitions(range.map(partition).collect())
}
