//! DescribeProducers: the idempotent producers that partitions remember.

use kacrab_protocol::generated::describe_producers_response::{
    PartitionResponse, ProducerState, TopicResponse,
};
use kacrab_protocol::generated::{
    DescribeProducersRequestData, DescribeProducersResponseData, ErrorCode,
};

use crate::cluster::{self, text};
use crate::dispatch::{self, Answer, Api, Call, Order};

pub const API: Api = Api {
    key: 61,
    name: "DescribeProducers",
    min: 0,
    max: 0,
    flexible: 0,
    order: Order::Serial,
    start: |request| dispatch::typed(request, handle),
};

async fn handle(
    call: Call,
    request: DescribeProducersRequestData,
) -> Answer<DescribeProducersResponseData> {
    let image = call.door.metadata.image();
    let mut asked = Vec::new();
    let mut waiting = Vec::new();
    let mut topics = Vec::with_capacity(request.topics.len());
    for (t, topic) in request.topics.iter().enumerate() {
        let mut partitions = Vec::with_capacity(topic.partition_indexes.len());
        for &index in &topic.partition_indexes {
            let mut answer = PartitionResponse::default().with_partition_index(index);
            match cluster::find_readable(&image, topic.name.as_str(), index) {
                Some(partition) => {
                    waiting.push((t, partitions.len()));
                    asked.push(partition);
                }
                None => refuse(&mut answer, ErrorCode::UnknownTopicOrPartition),
            }
            partitions.push(answer);
        }
        topics.push(
            TopicResponse::default()
                .with_name(topic.name.clone())
                .with_partitions(partitions),
        );
    }
    if !asked.is_empty() {
        let described = call.door.engine.describe(asked).await;
        for ((t, p), described) in waiting.into_iter().zip(described) {
            let answer = &mut topics[t].partitions[p];
            match described {
                Err(error) => refuse(answer, super::read_error(&error)),
                Ok(info) => {
                    let producer = |producer: &trireme_engine::ProducerInfo| {
                        ProducerState::default()
                            .with_producer_id(producer.producer_id)
                            .with_producer_epoch(i32::from(producer.epoch))
                            .with_last_sequence(producer.last_sequence)
                            .with_last_timestamp(producer.last_timestamp_ms)
                            .with_coordinator_epoch(-1)
                            .with_current_txn_start_offset(-1)
                    };
                    answer.active_producers = info.producers.iter().map(producer).collect();
                }
            }
        }
    }
    Ok(DescribeProducersResponseData::default().with_topics(topics))
}

fn refuse(answer: &mut PartitionResponse, code: ErrorCode) {
    answer.error_code = code.code();
    answer.error_message = Some(text("This server does not host this topic-partition."));
}
