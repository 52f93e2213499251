//! What a client of the engine knows: what it asked for and what it was told. A run is a list of events; whatever a disk
//! is recovered from, it is held against the events up to that moment.

use std::collections::BTreeMap;

use trireme_engine::records::{BatchBuilder, NewRecord, Producer};
use trireme_engine::{Offset, PartitionConfig, PartitionId, PartitionRef, TopicId, batch};

/// Smallest value of a record: it begins with its batch's tag and its index in there.
pub const VALUE_BYTES_MIN: u32 = 16;

pub fn partition(index: u32) -> PartitionRef {
    PartitionRef {
        id: PartitionId {
            topic: TopicId([7; 16]),
            index,
        },
        shard: 0,
    }
}

/// Every third partition is kept to a size.
pub fn retention_bytes(index: u32) -> Option<u64> {
    index.is_multiple_of(3).then_some(120 << 10)
}

pub fn partition_config(index: u32) -> PartitionConfig {
    PartitionConfig {
        segment_bytes: if index.is_multiple_of(2) {
            60 << 10
        } else {
            400 << 10
        },
        max_batch_bytes: 1 << 20,
        retention_ms: None,
        retention_bytes: retention_bytes(index),
        file_delete_delay_ms: 0,
        timestamp_after_max_ms: i64::MAX,
        ..PartitionConfig::default()
    }
}

/// A batch that was sent; its bytes follow from this.
#[derive(Clone, Copy, Debug)]
pub struct Sent {
    pub tag: u64,
    pub partition: u32,
    pub records: u32,
    pub value_bytes: u32,
    /// Of an idempotent producer.
    pub sequence: Option<i32>,
}

impl Sent {
    pub fn timestamp_ms(&self) -> i64 {
        1_700_000_000_000 + self.tag as i64
    }

    pub fn value(&self, index: u32) -> Vec<u8> {
        let mut value = vec![
            (self.tag as u8).wrapping_mul(31).wrapping_add(index as u8);
            self.value_bytes as usize
        ];
        value[..8].copy_from_slice(&self.tag.to_le_bytes());
        value[8..16].copy_from_slice(&u64::from(index).to_le_bytes());
        value
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut builder = BatchBuilder::new(batch::Codec::None);
        if let Some(base_sequence) = self.sequence {
            builder = builder.producer(Producer {
                id: producer_id(self.partition),
                epoch: 0,
                base_sequence,
            });
        }
        for index in 0..self.records {
            let value = self.value(index);
            builder.push(&NewRecord {
                timestamp_ms: self.timestamp_ms(),
                key: None,
                value: Some(&value),
                headers: &[],
            });
        }
        builder.finish()
    }
}

/// Each partition has one idempotent producer.
pub fn producer_id(partition: u32) -> i64 {
    1000 + i64::from(partition)
}

/// What was asked and what was answered.
#[derive(Clone, Debug)]
pub enum Event {
    CreateAsked(u32),
    Created(u32),
    DeleteAsked(u32),
    Deleted(u32),
    Sent(Sent),
    /// The batch is acknowledged, or was read: it begins at this offset.
    Known(u64, Offset),
    /// Nothing of the batch was appended.
    Refused(u64),
    LogStartAsked(u32, Offset),
    LogStart(u32, Offset),
    Epoch(i32),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Answered {
    #[default]
    NotAsked,
    Asked,
    Yes,
}

#[derive(Clone, Debug, Default)]
pub struct Known {
    pub created: Answered,
    pub deleted: Answered,
    /// Batches by their first offset: never to change.
    pub batches: BTreeMap<Offset, u64>,
    pub log_start: Offset,
    /// The furthest log start that was asked for.
    pub log_start_max: Offset,
    pub next_sequence: i32,
    /// The producer's batches that were neither acknowledged nor refused; sent again before any other.
    pub unanswered: Vec<u64>,
}

impl Known {
    /// Behind the last known record.
    pub fn end(&self, sent: &BTreeMap<u64, Batch>) -> Offset {
        let last = self.batches.last_key_value();
        last.map_or(0, |(base, tag)| base + i64::from(sent[tag].sent.records))
    }

    pub fn lives(&self) -> bool {
        self.created == Answered::Yes && self.deleted == Answered::NotAsked
    }
}

#[derive(Clone, Debug)]
pub struct Batch {
    pub sent: Sent,
    pub is_refused: bool,
    pub base: Option<Offset>,
}

#[derive(Clone, Debug, Default)]
pub struct Knowledge {
    pub partitions: BTreeMap<u32, Known>,
    pub batches: BTreeMap<u64, Batch>,
    pub epoch: i32,
}

impl Knowledge {
    pub fn next_tag(&self) -> u64 {
        self.batches.last_key_value().map_or(1, |(tag, _)| tag + 1)
    }

    fn partition(&mut self, index: u32) -> &mut Known {
        self.partitions.entry(index).or_default()
    }

    pub fn apply(&mut self, event: &Event) {
        match event {
            Event::CreateAsked(index) => self.partition(*index).created = Answered::Asked,
            Event::Created(index) => self.partition(*index).created = Answered::Yes,
            Event::DeleteAsked(index) => self.partition(*index).deleted = Answered::Asked,
            Event::Deleted(index) => self.partition(*index).deleted = Answered::Yes,
            Event::Sent(sent) => {
                let known = self.partition(sent.partition);
                if let Some(sequence) = sent.sequence {
                    known.next_sequence = known.next_sequence.max(sequence + sent.records as i32);
                    known.unanswered.push(sent.tag);
                }
                self.batches.insert(
                    sent.tag,
                    Batch {
                        sent: *sent,
                        is_refused: false,
                        base: None,
                    },
                );
            }
            Event::Known(tag, base) => {
                let batch = self.batches.get_mut(tag).expect("it was sent");
                batch.base = Some(*base);
                let known = self.partition(self.batches[tag].sent.partition);
                known.batches.insert(*base, *tag);
                known.unanswered.retain(|unanswered| unanswered != tag);
            }
            Event::Refused(tag) => {
                let batch = self.batches.get_mut(tag).expect("it was sent");
                batch.is_refused = true;
                let (index, sequence) = (batch.sent.partition, batch.sent.sequence);
                let known = self.partition(index);
                known.unanswered.retain(|unanswered| unanswered != tag);
                if let Some(sequence) = sequence {
                    known.next_sequence = sequence;
                }
            }
            Event::LogStartAsked(index, offset) => {
                let known = self.partition(*index);
                known.log_start_max = known.log_start_max.max(*offset);
            }
            Event::LogStart(index, offset) => {
                let known = self.partition(*index);
                known.log_start = known.log_start.max(*offset);
            }
            Event::Epoch(epoch) => self.epoch = self.epoch.max(*epoch),
        }
    }
}
