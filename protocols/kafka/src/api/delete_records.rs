//! DeleteRecords: moves log starts forward, durably.

use kacrab_protocol::generated::{
    DeleteRecordsPartitionResult, DeleteRecordsRequestData, DeleteRecordsResponseData,
    DeleteRecordsTopicResult, ErrorCode,
};

use crate::cluster;
use crate::dispatch::{self, Answer, Api, Call, Order};

pub const API: Api = Api {
    key: 21,
    name: "DeleteRecords",
    min: 0,
    max: 2,
    flexible: 2,
    order: Order::Serial,
    start: |request| dispatch::typed(request, handle),
};

/// Stands for the high watermark.
const TO_HIGH_WATERMARK: i64 = -1;

async fn handle(
    call: Call,
    request: DeleteRecordsRequestData,
) -> Answer<DeleteRecordsResponseData> {
    let image = call.door.metadata.image();
    let mut work = Vec::new();
    let mut waiting = Vec::new();
    let mut topics = Vec::with_capacity(request.topics.len());
    for (t, topic) in request.topics.iter().enumerate() {
        let mut answers = Vec::with_capacity(topic.partitions.len());
        for asked in &topic.partitions {
            let answer = DeleteRecordsPartitionResult::default()
                .with_partition_index(asked.partition_index)
                .with_low_watermark(-1);
            let code = match cluster::find(&image, topic.name.as_str(), asked.partition_index) {
                None => ErrorCode::UnknownTopicOrPartition,
                Some(_) if asked.offset < TO_HIGH_WATERMARK => ErrorCode::OffsetOutOfRange,
                Some(partition) => {
                    waiting.push((t, answers.len()));
                    work.push((partition, asked.offset));
                    ErrorCode::None
                }
            };
            answers.push(answer.with_error_code(code.code()));
        }
        topics.push(
            DeleteRecordsTopicResult::default()
                .with_name(topic.name.clone())
                .with_partitions(answers),
        );
    }
    if !work.is_empty() {
        let results = call.door.engine.delete_records(work).await;
        for ((t, p), result) in waiting.into_iter().zip(results) {
            let answer = &mut topics[t].partitions[p];
            match result {
                Ok(log_start) => answer.low_watermark = log_start,
                Err(error) => answer.error_code = super::read_error(&error).code(),
            }
        }
    }
    Ok(DeleteRecordsResponseData::default().with_topics(topics))
}
