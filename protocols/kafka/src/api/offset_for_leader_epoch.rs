//! OffsetForLeaderEpoch: where an epoch ended, so that a consumer notices what an unclean start has cut off.

use kacrab_protocol::generated::offset_for_leader_epoch_response::EpochEndOffset;
use kacrab_protocol::generated::{
    ErrorCode, OffsetForLeaderEpochRequestData, OffsetForLeaderEpochResponseData,
    OffsetForLeaderTopicResult,
};
use trireme_engine::{Isolation, OffsetQuery};

use crate::cluster;
use crate::dispatch::{self, Answer, Api, Call, Order};
use crate::door::Door;

pub const API: Api = Api {
    key: 23,
    name: "OffsetForLeaderEpoch",
    min: 2,
    max: 4,
    flexible: 4,
    order: Order::Serial,
    start: |request| dispatch::typed(request, handle),
};

async fn handle(
    call: Call,
    request: OffsetForLeaderEpochRequestData,
) -> Answer<OffsetForLeaderEpochResponseData> {
    let image = call.door.metadata.image();
    let mut queries = Vec::new();
    let mut waiting = Vec::new();
    let mut topics = Vec::with_capacity(request.topics.len());
    for (t, topic) in request.topics.iter().enumerate() {
        let known = cluster::readable(&image, topic.topic.as_str());
        let epochs = match &known {
            Some(known) => call
                .door
                .leader_epochs(std::slice::from_ref(known))
                .await
                .pop(),
            None => None,
        }
        .unwrap_or_default();
        let mut answers = Vec::with_capacity(topic.partitions.len());
        for asked in &topic.partitions {
            let answer = EpochEndOffset::default().with_partition(asked.partition);
            let partition = known
                .as_deref()
                .and_then(|known| cluster::partition(known, asked.partition));
            let checked = partition
                .ok_or(ErrorCode::UnknownTopicOrPartition)
                .and_then(|partition| {
                    let current = epochs.get(asked.partition as usize).copied().unwrap_or(-1);
                    Door::check_epoch(current, asked.current_leader_epoch)
                        .map(|()| (partition, current))
                });
            match checked {
                // Of an epoch that has not begun nothing is known.
                Ok((_, current)) if asked.leader_epoch > current => answers.push(answer),
                Ok((partition, _)) => {
                    waiting.push((t, answers.len()));
                    queries.push((
                        partition,
                        OffsetQuery::EpochEnd(asked.leader_epoch),
                        Isolation::HighWatermark,
                    ));
                    answers.push(answer);
                }
                Err(code) => answers.push(answer.with_error_code(code.code())),
            }
        }
        topics.push(
            OffsetForLeaderTopicResult::default()
                .with_topic(topic.topic.clone())
                .with_partitions(answers),
        );
    }
    if !queries.is_empty() {
        let results = call.door.engine.offsets(queries).await;
        for ((t, p), result) in waiting.into_iter().zip(results) {
            let answer = &mut topics[t].partitions[p];
            match result {
                Ok(found) => {
                    answer.leader_epoch = found.leader_epoch;
                    answer.end_offset = found.offset;
                }
                Err(error) => answer.error_code = super::read_error(&error).code(),
            }
        }
    }
    Ok(OffsetForLeaderEpochResponseData::default().with_topics(topics))
}
