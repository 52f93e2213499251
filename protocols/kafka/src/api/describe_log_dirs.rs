//! DescribeLogDirs: the data directory, its space, and the size of each partition.

use std::collections::{BTreeMap, BTreeSet};

use kacrab_protocol::generated::DescribeLogDirsRequestData;
use kacrab_protocol::generated::describe_log_dirs_response::*;

use crate::cluster::{self, text};
use crate::dispatch::{self, Answer, Api, Call, Order};

pub const API: Api = Api {
    key: 35,
    name: "DescribeLogDirs",
    min: 1,
    max: 5,
    flexible: 2,
    order: Order::Serial,
    start: |request| dispatch::typed(request, handle),
};

async fn handle(
    call: Call,
    request: DescribeLogDirsRequestData,
) -> Answer<DescribeLogDirsResponseData> {
    let door = &call.door;
    let image = door.metadata.image();
    let mut wanted: BTreeMap<String, BTreeSet<i32>> = BTreeMap::new();
    match &request.topics {
        None => {
            for topic in cluster::readable_topics(&image, door.groups.in_use()) {
                wanted.insert(
                    topic.name.to_string(),
                    (0..topic.partitions.len() as i32).collect(),
                );
            }
        }
        Some(topics) => {
            for topic in topics {
                wanted
                    .entry(topic.topic.as_str().to_owned())
                    .or_default()
                    .extend(&topic.partitions);
            }
        }
    }
    drop(request);
    let mut partitions = Vec::new();
    let mut places = Vec::new();
    for (name, indexes) in &wanted {
        let found = indexes
            .iter()
            .filter_map(|&index| Some((index, cluster::find_readable(&image, name, index)?)));
        for (index, partition) in found {
            partitions.push(partition);
            places.push((name, index));
        }
    }
    let described = match partitions.is_empty() {
        true => Vec::new(),
        false => door.engine.describe(partitions).await,
    };
    let mut topics: Vec<DescribeLogDirsTopic> = Vec::new();
    for ((name, index), info) in places.into_iter().zip(described) {
        let Ok(info) = info else { continue };
        if topics
            .last()
            .is_none_or(|topic| topic.name.as_str() != name)
        {
            topics.push(DescribeLogDirsTopic::default().with_name(text(&**name)));
        }
        let partition = DescribeLogDirsPartition::default()
            .with_partition_index(index)
            .with_partition_size(i64::try_from(info.size_bytes).unwrap_or(i64::MAX));
        if let Some(topic) = topics.last_mut() {
            topic.partitions.push(partition);
        }
    }
    let mut result = DescribeLogDirsResult::default()
        .with_log_dir(text(&*door.config.data_dir))
        .with_topics(topics);
    match trireme_runtime::fs::statvfs(&door.config.data_dir).await {
        Ok(space) if call.version() >= 4 => {
            result.total_bytes = space.total_bytes as i64;
            result.usable_bytes = space.free_bytes as i64;
        }
        Ok(_) => {}
        // The space stays unknown (-1).
        Err(error) => tracing::warn!(%error, "space of the data directory is not known"),
    }
    Ok(DescribeLogDirsResponseData::default().with_results(vec![result]))
}
