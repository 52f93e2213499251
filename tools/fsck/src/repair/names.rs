//! The metadata: which topics there are. A start removes partitions that no topic names, so where the repair of the metadata
//! had to leave something out, every partition that lost its name gets one: `recovered-` and the topic's id.

use std::collections::BTreeMap;

use trireme_engine::PartitionId;
use trireme_engine::batch::{Codec, assign};
use trireme_engine::records::{BatchBuilder, NewRecord};
use trireme_engine::table::Table;
use trireme_replication::{
    GROUP_PARTITIONS, Record, Topic, group_partition_id, metadata_partition_id,
};

/// Producer ids are given in blocks: this many are left out, so that none is given twice.
const PRODUCER_IDS_SKIPPED: i64 = 1 << 20;

/// What the metadata says.
#[derive(Debug, Default)]
pub struct Names {
    pub topics: BTreeMap<[u8; 16], Topic>,
    pub group_homes: Option<Vec<u16>>,
    pub next_producer_id: Option<i64>,
}

impl Names {
    /// Reads the table from its batches, as far as they make sense.
    pub fn of(batches: &[u8]) -> Names {
        let mut table = Table::new(0);
        let _ = table.apply(batches);
        let mut names = Names::default();
        for (key, value) in table.iter() {
            match Record::decode(key, value) {
                Ok(Record::Topic(topic)) => drop(names.topics.insert(topic.id.0, topic)),
                Ok(Record::GroupHomes(homes)) => names.group_homes = Some(homes),
                Ok(Record::NextProducerId(id)) => names.next_producer_id = Some(id),
                _ => {}
            }
        }
        names
    }

    /// The shard that a partition is recorded to live in.
    pub fn shard_of(&self, id: &PartitionId) -> Option<u16> {
        if *id == metadata_partition_id() {
            return Some(0);
        }
        if let Some(homes) = &self.group_homes
            && let Some(home) = homes.get(id.index as usize)
            && *id == group_partition_id(id.index)
        {
            return Some(*home);
        }
        let topic = self.topics.get(&id.topic.0)?;
        topic
            .partitions
            .iter()
            .find(|partition| partition.id == *id)
            .map(|partition| partition.shard)
    }

    pub fn by_id(&self) -> BTreeMap<[u8; 16], String> {
        self.topics
            .iter()
            .map(|(id, topic)| (*id, topic.name.to_string()))
            .collect()
    }

    /// The records that are missing for these partitions (with their shards), and what they say.
    pub fn missing(
        &self,
        partitions: &BTreeMap<PartitionId, u16>,
        producer_id_max: i64,
    ) -> Missing {
        let mut missing = Missing::default();
        let is_internal = |id: &PartitionId| {
            *id == metadata_partition_id() || *id == group_partition_id(id.index)
        };
        let mut nameless: BTreeMap<[u8; 16], BTreeMap<u32, u16>> = BTreeMap::new();
        for (id, shard) in partitions.iter().filter(|(id, _)| !is_internal(id)) {
            if self.shard_of(id) != Some(*shard) {
                nameless
                    .entry(id.topic.0)
                    .or_default()
                    .insert(id.index, *shard);
            }
        }
        for (topic, homes) in nameless {
            let old = self.topics.get(&topic);
            let count = homes
                .last_key_value()
                .map_or(0, |(index, _)| index + 1)
                .max(old.map_or(0, |old| old.partitions.len() as u32));
            let id = trireme_engine::TopicId(topic);
            let name = old.map_or_else(|| format!("recovered-{id}").into(), |old| old.name.clone());
            let partitions = (0..count)
                .map(|index| trireme_engine::PartitionRef {
                    id: PartitionId { topic: id, index },
                    shard: homes
                        .get(&index)
                        .copied()
                        .or_else(|| Some(old?.partitions.get(index as usize)?.shard))
                        .unwrap_or(0),
                })
                .collect();
            missing
                .what
                .push(format!("topic {id} is called {name} now"));
            missing.records.push(Record::Topic(Topic {
                id,
                name,
                partitions,
                configs: old.map(|old| old.configs.clone()).unwrap_or_default(),
            }));
        }
        if self.group_homes.is_none() {
            let homes = (0..GROUP_PARTITIONS)
                .map(|index| {
                    partitions
                        .get(&group_partition_id(index))
                        .copied()
                        .unwrap_or(0)
                })
                .collect();
            missing.records.push(Record::GroupHomes(homes));
        }
        let next = self.next_producer_id.unwrap_or(0).max(producer_id_max + 1);
        missing
            .records
            .push(Record::NextProducerId(next + PRODUCER_IDS_SKIPPED));
        missing
    }
}

/// Records to be appended to the metadata.
#[derive(Debug, Default)]
pub struct Missing {
    pub records: Vec<Record>,
    pub what: Vec<String>,
}

impl Missing {
    /// A batch of them for each, from `base_offset` on; and the offset behind the last.
    pub fn batches(&self, base_offset: i64, epoch: i32, now_ms: i64) -> (Vec<u8>, i64) {
        let (mut bytes, mut offset) = (Vec::new(), base_offset);
        for record in &self.records {
            let (key, value) = record.encode();
            let mut builder = BatchBuilder::new(Codec::None);
            builder.push(&NewRecord {
                timestamp_ms: now_ms,
                key: Some(&key),
                value: Some(&value),
                headers: &[],
            });
            let mut batch = builder.finish();
            assign(&mut batch, offset, epoch);
            bytes.extend_from_slice(&batch);
            offset += 1;
        }
        (bytes, offset)
    }
}
