//! AlterReplicaLogDirs: there is one data directory, so every replica is where it can be.

use std::collections::BTreeMap;

use kacrab_protocol::generated::alter_replica_log_dirs_response::*;
use kacrab_protocol::generated::{AlterReplicaLogDirsRequestData, ErrorCode};

use crate::cluster::{self, text};
use crate::dispatch::{self, Answer, Api, Call, Order};

pub const API: Api = Api {
    key: 34,
    name: "AlterReplicaLogDirs",
    min: 1,
    max: 2,
    flexible: 2,
    order: Order::Serial,
    start: |request| dispatch::typed(request, handle),
};

async fn handle(
    call: Call,
    request: AlterReplicaLogDirsRequestData,
) -> Answer<AlterReplicaLogDirsResponseData> {
    let image = call.door.metadata.image();
    let mut results: BTreeMap<&str, Vec<AlterReplicaLogDirPartitionResult>> = BTreeMap::new();
    for dir in &request.dirs {
        for topic in &dir.topics {
            for &index in &topic.partitions {
                let code = if cluster::find_readable(&image, topic.name.as_str(), index).is_none() {
                    ErrorCode::UnknownTopicOrPartition
                } else if dir.path.as_str() != call.door.config.data_dir {
                    ErrorCode::LogDirNotFound
                } else {
                    ErrorCode::None
                };
                let result = AlterReplicaLogDirPartitionResult::default()
                    .with_partition_index(index)
                    .with_error_code(code.code());
                results.entry(topic.name.as_str()).or_default().push(result);
            }
        }
    }
    let results = results
        .into_iter()
        .map(|(name, partitions)| {
            AlterReplicaLogDirTopicResult::default()
                .with_topic_name(text(name))
                .with_partitions(partitions)
        })
        .collect();
    Ok(AlterReplicaLogDirsResponseData::default().with_results(results))
}
