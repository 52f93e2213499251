//! ListOffsets: the first, the last, the newest record, or the first one at or after a time. Nothing beyond the high watermark is
//! reported.

use std::collections::BTreeSet;

use kacrab_protocol::generated::{
    ErrorCode, ListOffsetsPartition, ListOffsetsPartitionResponse, ListOffsetsRequestData,
    ListOffsetsResponseData, ListOffsetsTopicResponse,
};
use trireme_engine::{Isolation, OffsetAnswer, OffsetQuery, ReadError};

use crate::cluster;
use crate::dispatch::{self, Answer, Api, Call, Order};
use crate::door::Door;

pub const API: Api = Api {
    key: 2,
    name: "ListOffsets",
    min: 1,
    max: 11,
    flexible: 6,
    order: Order::Serial,
    start: |request| dispatch::typed(request, handle),
};

/// What a negative timestamp stands for.
const LATEST: i64 = -1;
const EARLIEST: i64 = -2;
const MAX_TIMESTAMP: i64 = -3;
const EARLIEST_LOCAL: i64 = -4;
const LATEST_TIERED: i64 = -5;
const EARLIEST_PENDING_UPLOAD: i64 = -6;

/// What is looked for; `None` has no answer here, because nothing is kept elsewhere.
fn query(timestamp: i64, version: i16) -> Result<Option<OffsetQuery>, ErrorCode> {
    match timestamp {
        LATEST => Ok(Some(OffsetQuery::Latest)),
        EARLIEST => Ok(Some(OffsetQuery::Earliest)),
        MAX_TIMESTAMP if version >= 7 => Ok(Some(OffsetQuery::MaxTimestamp)),
        EARLIEST_LOCAL if version >= 8 => Ok(Some(OffsetQuery::Earliest)),
        LATEST_TIERED if version >= 9 => Ok(None),
        EARLIEST_PENDING_UPLOAD if version >= 11 => Ok(None),
        time if time >= 0 => Ok(Some(OffsetQuery::ByTime(time))),
        _ => Err(ErrorCode::UnsupportedVersion),
    }
}

async fn handle(call: Call, request: ListOffsetsRequestData) -> Answer<ListOffsetsResponseData> {
    let isolation = if request.isolation_level == 1 {
        Isolation::Committed
    } else {
        Isolation::HighWatermark
    };
    let image = call.door.metadata.image();
    let mut queries = Vec::new();
    let mut seen = BTreeSet::new();
    let mut topics = Vec::with_capacity(request.topics.len());
    // What the engine is asked for is filled in afterwards, by topic and place.
    let mut waiting = Vec::new();
    for (t, topic) in request.topics.iter().enumerate() {
        let known = cluster::readable(&image, topic.name.as_str());
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
            let checked = || {
                if !seen.insert((topic.name.as_str(), asked.partition_index)) {
                    return Err(ErrorCode::InvalidRequest);
                }
                let partition = known
                    .as_deref()
                    .and_then(|known| cluster::partition(known, asked.partition_index))
                    .ok_or(ErrorCode::UnknownTopicOrPartition)?;
                let current = epochs
                    .get(asked.partition_index as usize)
                    .copied()
                    .unwrap_or(-1);
                Door::check_epoch(current, asked.current_leader_epoch)?;
                Ok((partition, query(asked.timestamp, call.version())?))
            };
            let mut checked = checked;
            answers.push(match checked() {
                Err(code) => error(asked, code),
                Ok((_, None)) => error(asked, ErrorCode::None),
                Ok((partition, Some(query))) => {
                    waiting.push((t, answers.len()));
                    queries.push((partition, query, isolation));
                    error(asked, ErrorCode::UnknownServerError)
                }
            });
        }
        topics.push(
            ListOffsetsTopicResponse::default()
                .with_name(topic.name.clone())
                .with_partitions(answers),
        );
    }
    if !queries.is_empty() {
        let results = call.door.engine.offsets(queries).await;
        for ((t, p), result) in waiting.into_iter().zip(results) {
            fill(&mut topics[t].partitions[p], result, call.version());
        }
    }
    Ok(ListOffsetsResponseData::default().with_topics(topics))
}

fn error(asked: &ListOffsetsPartition, code: ErrorCode) -> ListOffsetsPartitionResponse {
    ListOffsetsPartitionResponse::default()
        .with_partition_index(asked.partition_index)
        .with_error_code(code.code())
}

fn fill(
    answer: &mut ListOffsetsPartitionResponse,
    result: Result<OffsetAnswer, ReadError>,
    version: i16,
) {
    match result {
        Ok(found) => {
            answer.error_code = ErrorCode::None.code();
            answer.offset = found.offset;
            answer.timestamp = found.timestamp_ms;
            if version >= 4 {
                answer.leader_epoch = found.leader_epoch;
            }
        }
        Err(error) => answer.error_code = super::read_error(&error).code(),
    }
}
