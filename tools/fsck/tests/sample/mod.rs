//! Data directories in memory, written with the engine's layout code alone: every kind of file and record, without a broker.

#![allow(dead_code)]

use std::collections::BTreeMap;

use trireme_engine::batch::{BatchHeader, Codec, assign};
use trireme_engine::epochs::EpochEntry;
use trireme_engine::layout::checkpoint::*;
use trireme_engine::layout::entry::{Entry, RecordType};
use trireme_engine::layout::format_file::Format;
use trireme_engine::layout::group::*;
use trireme_engine::layout::paths::{DataPath, SegmentFile};
use trireme_engine::layout::payload::*;
use trireme_engine::layout::seed::{block_sum, segment_seed};
use trireme_engine::layout::sidecar::{SidecarEntry, SumEntry, encode_blocks};
use trireme_engine::layout::{BLOCK, SUM_BLOCK};
use trireme_engine::producer::{Producers, Sequenced};
use trireme_engine::records::{BatchBuilder, NewRecord, Producer};
use trireme_engine::{PartitionId, TopicId};
use trireme_fsck::Memory;

pub const CODECS: [Codec; 5] = [
    Codec::None,
    Codec::Gzip,
    Codec::Snappy,
    Codec::Lz4,
    Codec::Zstd,
];
const LOG_FILE_BYTES: usize = 128 * 1024;
const LOG_FILES: usize = 4;
const INDEX_INTERVAL: u64 = 4096;
const DIRECTORY: [u8; 16] = *b"a data directory";
const INCARNATION: u64 = 7;
const NONCE: u64 = 0x5eed_5eed_0bad_cafe;
const EPOCH: i32 = 2;

#[derive(Default)]
pub struct Segment {
    base: i64,
    bytes: Vec<u8>,
    flushed: u64,
    sealed: bool,
    index: Vec<IndexEntry>,
    time_index: Vec<TimeIndexEntry>,
    max_timestamp: i64,
    max_timestamp_offset: i64,
    first_timestamp: i64,
    /// Entries that the last checkpoint (or seal) put into files.
    in_file: [usize; 3],
}

pub struct Partition {
    pub id: PartitionId,
    pub next_offset: i64,
    segments: Vec<Segment>,
    producers: Producers,
    sequences: BTreeMap<i64, i32>,
    log_start: i64,
}

pub struct Sample {
    pub memory: Memory,
    pub partitions: Vec<Partition>,
    shard: u16,
    next: LogPosition,
    uses: Vec<u32>,
    pending: Vec<(Entry, Vec<u8>)>,
    number: u64,
    random: u64,
    pub batches: usize,
    /// Files and positions of all groups.
    pub groups: Vec<(String, u64)>,
}

const FIRST: LogPosition = LogPosition {
    file: 0,
    file_use: 1,
    position: 0,
    sequence: 100,
    previous_header_crc: 0,
};

impl Sample {
    pub fn new() -> Sample {
        let mut memory = Memory::default();
        memory
            .directories
            .extend(["wal", "wal/000", "partitions"].map(str::to_owned));
        memory.files.insert("LOCK".into(), Vec::new());
        let format = Format {
            directory: DIRECTORY,
            shards: 1,
            created_unix_ms: 1,
        };
        memory
            .files
            .insert("format".into(), format.encode().to_vec());
        for file in 0..LOG_FILES as u32 {
            memory.files.insert(
                DataPath::Log { shard: 0, file }.relative(),
                vec![0; LOG_FILE_BYTES],
            );
        }
        let mut sample = Sample {
            memory,
            partitions: Vec::new(),
            shard: 0,
            next: FIRST,
            uses: vec![1, 0, 0, 0],
            pending: Vec::new(),
            number: 0,
            random: 42,
            batches: 0,
            groups: Vec::new(),
        };
        sample.checkpoint();
        sample.checkpoint();
        sample
    }

    pub fn random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }

    pub fn create(&mut self) -> usize {
        let index = self.partitions.len() as u32;
        let id = PartitionId {
            topic: TopicId(*b"a topic with id."),
            index,
        };
        self.partitions.push(Partition {
            id,
            next_offset: 0,
            segments: Vec::new(),
            producers: Producers::new(),
            sequences: BTreeMap::new(),
            log_start: 0,
        });
        self.pending
            .push((Entry::new(RecordType::Create, id), Vec::new()));
        self.partitions.len() - 1
    }

    /// A batch with offsets and epoch, ready for the log.
    fn batch(
        &mut self,
        partition: usize,
        codec: Codec,
        records: usize,
        value_bytes: usize,
        producer: Option<i64>,
    ) -> Vec<u8> {
        let mut builder = BatchBuilder::new(codec);
        if let Some(id) = producer {
            let sequence = self.partitions[partition].sequences.entry(id).or_default();
            builder = builder.producer(Producer {
                id,
                epoch: 3,
                base_sequence: *sequence,
            });
            *sequence += records as i32;
        }
        for index in 0..records {
            let value: Vec<u8> = (0..value_bytes.div_ceil(8))
                .flat_map(|_| (self.random() % 1000).to_le_bytes())
                .collect();
            let timestamp_ms = 1_700_000_000_000 + (self.random() % 100_000) as i64;
            builder.push(&NewRecord {
                timestamp_ms,
                key: (index % 2 == 0).then_some(b"key"),
                value: Some(&value[..value_bytes]),
                headers: &[(b"h", None)],
            });
        }
        let mut bytes = builder.finish();
        assign(&mut bytes, self.partitions[partition].next_offset, EPOCH);
        bytes
    }

    /// Puts a batch behind the partition's last one; `true` rolls the segment first.
    fn take(&mut self, partition: usize, bytes: &[u8], roll: bool) -> (i64, u64) {
        self.batches += 1;
        let partition = &mut self.partitions[partition];
        let header = BatchHeader::view(bytes).unwrap();
        if roll || partition.segments.is_empty() {
            partition.segments.push(Segment {
                base: partition.next_offset,
                max_timestamp: -1,
                max_timestamp_offset: -1,
                first_timestamp: -1,
                ..Segment::default()
            });
        }
        let segment = partition.segments.last_mut().unwrap();
        let position = segment.bytes.len() as u64;
        segment.bytes.extend_from_slice(bytes);
        let timestamp = header.latest_timestamp();
        if segment.first_timestamp < 0 {
            segment.first_timestamp = timestamp;
        }
        if timestamp > segment.max_timestamp {
            segment.max_timestamp = timestamp;
            segment.max_timestamp_offset = header.last_offset();
        }
        if segment
            .index
            .last()
            .is_none_or(|last| position >= last.position + INDEX_INTERVAL)
        {
            segment.index.push(IndexEntry {
                offset: header.base_offset(),
                position,
            });
            segment.time_index.push(TimeIndexEntry {
                max_timestamp: segment.max_timestamp,
                offset: header.base_offset(),
            });
        }
        if Sequenced::of(header).is_some() {
            partition
                .producers
                .apply(header, header.base_offset(), 1_700_000_000_000);
        }
        partition.next_offset = header.next_offset();
        (segment.base, position)
    }

    pub fn append(
        &mut self,
        partition: usize,
        codec: Codec,
        records: usize,
        value_bytes: usize,
        producer: Option<i64>,
        roll: bool,
    ) {
        let bytes = self.batch(partition, codec, records, value_bytes, producer);
        let base_offset = self.partitions[partition].next_offset;
        let (segment_base, position) = self.take(partition, &bytes, roll);
        let entry = Entry {
            leader_epoch: EPOCH,
            base_offset,
            last_offset: self.partitions[partition].next_offset - 1,
            segment_base,
            position,
            len: bytes.len() as u32,
            record_count: records as u32,
            batch_count: 1,
            ..Entry::new(RecordType::Append, self.partitions[partition].id)
        };
        self.pending.push((entry, bytes));
    }

    /// A direct run of several batches; its blocks go to the file at once, unless `lost`.
    pub fn direct(
        &mut self,
        partition: usize,
        batches: usize,
        value_bytes: usize,
        done: bool,
        lost: bool,
    ) {
        let base_offset = self.partitions[partition].next_offset;
        let mut run = Vec::new();
        let mut summaries = Vec::new();
        let mut start = None;
        for _ in 0..batches {
            let bytes = self.batch(partition, Codec::None, 1, value_bytes, None);
            let header = *BatchHeader::view(&bytes).unwrap();
            let (segment, position) = self.take(partition, &bytes, false);
            start.get_or_insert((segment, position));
            summaries.push(BatchSummary {
                base_offset: header.base_offset(),
                position,
                size: bytes.len() as u32,
                record_count: 1,
                base_timestamp: header.base_timestamp(),
                max_timestamp: header.max_timestamp(),
                producer_id: header.producer_id(),
                last_offset_delta: header.last_offset_delta(),
                base_sequence: header.base_sequence(),
                leader_epoch: header.leader_epoch(),
                producer_epoch: header.producer_epoch(),
                attributes: header.attributes() as u16,
            });
            run.extend_from_slice(&bytes);
        }
        let (segment_base, position) = start.unwrap();
        let split = DirectSplit::of(position, run.len() as u32);
        let id = self.partitions[partition].id;
        let seed = segment_seed(id, segment_base);
        let head_end = split.head_len as usize;
        let blocks = &run[head_end..head_end + split.blocks_len()];
        let first = (position + head_end as u64) / SUM_BLOCK as u64;
        let sums: Vec<u32> = (first..)
            .zip(blocks.chunks(SUM_BLOCK))
            .map(|(block, bytes)| block_sum(seed, block, bytes))
            .collect();
        let mut payload = Vec::new();
        encode_direct(&split, &sums, &summaries, &mut payload);
        payload.extend_from_slice(&run[..head_end]);
        payload.extend_from_slice(&run[head_end + split.blocks_len()..]);
        let path = DataPath::Segment {
            partition: id,
            base_offset: segment_base,
            file: SegmentFile::Log,
        }
        .relative();
        let file = self.memory.files.entry(path).or_default();
        let at = (position + head_end as u64) as usize;
        file.resize(file.len().max(at + blocks.len()), 0);
        if !lost {
            file[at..at + blocks.len()].copy_from_slice(blocks);
        }
        let entry = Entry {
            leader_epoch: EPOCH,
            base_offset,
            last_offset: self.partitions[partition].next_offset - 1,
            segment_base,
            position,
            len: run.len() as u32,
            record_count: batches as u32,
            batch_count: batches as u32,
            ..Entry::new(RecordType::Direct, id)
        };
        self.pending.push((entry, payload));
        self.commit();
        if done {
            let entry = Entry {
                kind: RecordType::Done,
                record_count: 0,
                batch_count: 0,
                ..entry
            };
            self.pending.push((entry, Vec::new()));
        }
    }

    /// A direct run whose blocks were lost, and that the next start dropped: it stands in the log, and nothing is left of it.
    pub fn drop_direct(&mut self, partition: usize, batches: usize, value_bytes: usize) {
        let p = &self.partitions[partition];
        let (next_offset, len) = (p.next_offset, p.segments.last().unwrap().bytes.len());
        let segment = p.segments.last().unwrap();
        let before = (
            segment.index.len(),
            segment.max_timestamp,
            segment.max_timestamp_offset,
        );
        self.direct(partition, batches, value_bytes, false, true);
        self.batches -= batches;
        let p = &mut self.partitions[partition];
        p.next_offset = next_offset;
        let segment = p.segments.last_mut().unwrap();
        segment.bytes.truncate(len);
        segment.index.truncate(before.0);
        segment.time_index.truncate(before.0);
        (segment.max_timestamp, segment.max_timestamp_offset) = (before.1, before.2);
    }

    /// Carries the last `len` bytes of a partition's tail.
    pub fn carry(&mut self, partition: usize, len: usize) {
        let partition = &self.partitions[partition];
        let segment = partition.segments.last().unwrap();
        let position = segment.bytes.len() - len.min(segment.bytes.len());
        let entry = Entry {
            segment_base: segment.base,
            position: position as u64,
            len: (segment.bytes.len() - position) as u32,
            ..Entry::new(RecordType::Carried, partition.id)
        };
        self.pending
            .push((entry, segment.bytes[position..].to_vec()));
    }

    pub fn log_start(&mut self, partition: usize, offset: i64) {
        self.partitions[partition].log_start = offset;
        let entry = Entry {
            base_offset: offset,
            ..Entry::new(RecordType::LogStart, self.partitions[partition].id)
        };
        self.pending.push((entry, Vec::new()));
    }

    pub fn snapshot_producers(&mut self, partition: usize) {
        let partition = &self.partitions[partition];
        let mut payload = Vec::new();
        encode_producers(
            &partition.producers.snapshot().collect::<Vec<_>>(),
            &mut payload,
        );
        let entry = Entry {
            base_offset: partition.next_offset,
            ..Entry::new(RecordType::ProducerSnapshot, partition.id)
        };
        self.pending.push((entry, payload));
    }

    /// Writes a group of everything pending, knowing everything before it to be durable.
    pub fn commit(&mut self) {
        if self.pending.is_empty() {
            return;
        }
        let records = std::mem::take(&mut self.pending);
        let len = group_len(
            records.len(),
            records.iter().map(|(_, payload)| payload.len()).sum(),
        );
        if LOG_FILE_BYTES - (self.next.position as usize) < len + BLOCK {
            let next_file = (self.next.file + 1) % LOG_FILES as u32;
            self.uses[next_file as usize] += 1;
            let end = FileEnd {
                next_file,
                next_file_use: self.uses[next_file as usize],
            };
            let entry = Entry::new(RecordType::FileEnd, PartitionId::default());
            self.write_group(vec![(entry, end.encode().to_vec())]);
            (self.next.file, self.next.file_use, self.next.position) =
                (end.next_file, end.next_file_use, 0);
        }
        self.write_group(records);
    }

    fn write_group(&mut self, records: Vec<(Entry, Vec<u8>)>) {
        let context = GroupContext {
            identity: LogIdentity {
                shard: self.shard,
                incarnation: INCARNATION,
                nonce: NONCE,
            },
            file: self.next.file,
            file_use: self.next.file_use,
            position: self.next.position,
            sequence: self.next.sequence,
            previous_header_crc: self.next.previous_header_crc,
            durable_through: self.next.sequence - 1,
            unix_ms: 1_700_000_000_000,
        };
        let records: Vec<PendingRecord<'_>> = records
            .iter()
            .map(|(entry, payload)| match payload.is_empty() {
                true => PendingRecord::new(*entry),
                false => PendingRecord::with_payload(*entry, payload),
            })
            .collect();
        let path = DataPath::Log {
            shard: self.shard,
            file: self.next.file,
        }
        .relative();
        let file = self.memory.files.get_mut(&path).unwrap();
        let info = encode_group(&context, &records, &mut file[self.next.position as usize..]);
        self.groups.push((path, self.next.position));
        self.next.position += info.len as u64;
        self.next.sequence += 1;
        self.next.previous_header_crc = info.header_crc;
    }

    pub fn mark(&mut self) {
        self.commit();
        self.write_group(vec![(
            Entry::new(RecordType::Mark, PartitionId::default()),
            Vec::new(),
        )]);
    }

    /// Flushes: of the last segments whole blocks, or everything; of the others everything, and seals these.
    pub fn flush(&mut self, everything: bool) {
        for partition in &mut self.partitions {
            let count = partition.segments.len();
            for (index, segment) in partition.segments.iter_mut().enumerate() {
                let is_last = index + 1 == count;
                let len = segment.bytes.len();
                segment.sealed = !is_last;
                let flushed = if is_last && !everything {
                    len / SUM_BLOCK * SUM_BLOCK
                } else {
                    len
                };
                segment.flushed = segment.flushed.max(flushed as u64);
                let seed = segment_seed(partition.id, segment.base);
                let bytes = &segment.bytes[..segment.flushed as usize];
                let sums: Vec<SumEntry> = (0..)
                    .zip(bytes.chunks(SUM_BLOCK))
                    .map(|(block, bytes)| SumEntry(block_sum(seed, block, bytes)))
                    .collect();
                let path = |file| {
                    DataPath::Segment {
                        partition: partition.id,
                        base_offset: segment.base,
                        file,
                    }
                    .relative()
                };
                if !bytes.is_empty() {
                    let file = self.memory.files.entry(path(SegmentFile::Log)).or_default();
                    file.resize(file.len().max(bytes.len()), 0);
                    file[..bytes.len()].copy_from_slice(bytes);
                    if is_last && !everything {
                        // Allocated ahead.
                        file.resize(file.len().max(bytes.len() + 65536), 0);
                    } else {
                        file.truncate(len);
                    }
                }
                let exact = !is_last;
                let files = &mut self.memory.files;
                segment.in_file = [
                    sidecar(
                        files,
                        path(SegmentFile::Sum),
                        partition.id,
                        segment.base,
                        &sums,
                        exact,
                    ),
                    sidecar(
                        files,
                        path(SegmentFile::Index),
                        partition.id,
                        segment.base,
                        &segment.index,
                        exact,
                    ),
                    sidecar(
                        files,
                        path(SegmentFile::TimeIndex),
                        partition.id,
                        segment.base,
                        &segment.time_index,
                        exact,
                    ),
                ];
            }
        }
    }

    fn body(&self, clean: bool) -> CheckpointBody {
        let partitions = self.partitions.iter().map(|partition| {
            let segments = partition.segments.iter().map(|segment| {
                let seed = segment_seed(partition.id, segment.base);
                let bytes = &segment.bytes[..segment.flushed as usize];
                let sums: Vec<u32> = (0..)
                    .zip(bytes.chunks(SUM_BLOCK))
                    .map(|(block, bytes)| block_sum(seed, block, bytes))
                    .collect();
                SegmentState {
                    base_offset: segment.base,
                    end_offset: partition
                        .segments
                        .iter()
                        .find(|other| other.base > segment.base)
                        .map_or(partition.next_offset, |next| next.base),
                    flushed_bytes: segment.flushed,
                    length_bytes: segment.bytes.len() as u64,
                    sealed: segment.sealed,
                    max_timestamp: segment.max_timestamp,
                    max_timestamp_offset: segment.max_timestamp_offset,
                    first_timestamp: segment.first_timestamp,
                    created_ms: 1,
                    sums_in_file: segment.in_file[0] as u32,
                    pending_sums: sums[segment.in_file[0]..].to_vec(),
                    index_in_file: segment.in_file[1] as u32,
                    pending_index: segment.index[segment.in_file[1]..].to_vec(),
                    time_index_in_file: segment.in_file[2] as u32,
                    pending_time_index: segment.time_index[segment.in_file[2]..].to_vec(),
                }
            });
            PartitionState {
                id: partition.id,
                created_epoch: EPOCH as u32,
                log_start: partition.log_start,
                next_offset: partition.next_offset,
                replay_from_sequence: 0,
                segments: segments.collect(),
                epochs: if partition.next_offset > 0 {
                    vec![EpochEntry {
                        epoch: EPOCH,
                        start_offset: 0,
                    }]
                } else {
                    vec![]
                },
                producers: partition.producers.snapshot().collect(),
                deleting: false,
            }
        });
        let mut partitions: Vec<PartitionState> = partitions.collect();
        partitions.sort_by_key(|partition| partition.id);
        CheckpointBody {
            incarnation: INCARNATION,
            nonce: NONCE,
            node_epoch: EPOCH as u32,
            clean,
            unix_ms: 1,
            extents: vec![LogExtent {
                incarnation: INCARNATION,
                nonce: NONCE,
                first: FIRST,
                end: clean.then_some(self.next),
                durable_through: self.next.sequence - 1,
            }],
            files: (0..LOG_FILES as u32)
                .map(|index| LogFile {
                    index,
                    file_use: self.uses[index as usize],
                    size_bytes: LOG_FILE_BYTES as u64,
                })
                .collect(),
            partitions,
        }
    }

    /// Writes the next checkpoint.
    pub fn checkpoint(&mut self) {
        let body = self.body(false);
        self.write_slot(&body, false);
    }

    /// Flushes everything and writes a checkpoint: nothing before it is to be replayed.
    pub fn settle(&mut self) {
        self.flush(true);
        let mut body = self.body(false);
        for partition in &mut body.partitions {
            partition.replay_from_sequence = self.next.sequence;
        }
        self.write_slot(&body, false);
    }

    fn write_slot(&mut self, body: &CheckpointBody, closed: bool) {
        let mut bytes = encode_checkpoint(self.shard, DIRECTORY, self.number, body);
        set_closed(&mut bytes, closed);
        let path = DataPath::Checkpoint {
            shard: self.shard,
            slot: slot_of(self.number),
        };
        self.memory.files.insert(path.relative(), bytes);
        self.number += 1;
    }

    /// Shuts down with the bytes of the first segment changed on the way to the disk.
    pub fn shut_down_with(&mut self, change: impl FnOnce(&mut Vec<u8>)) {
        change(&mut self.partitions[0].segments[0].bytes);
        self.shut_down();
    }

    pub fn shut_down(&mut self) {
        self.mark();
        self.flush(true);
        let body = self.body(true);
        self.write_slot(&body, true);
        self.write_slot(&body, true);
    }
}

/// Writes a sidecar's full blocks, or all of it; returns how many entries are in the file.
fn sidecar<E: SidecarEntry>(
    files: &mut BTreeMap<String, Vec<u8>>,
    path: String,
    id: PartitionId,
    base: i64,
    entries: &[E],
    exact: bool,
) -> usize {
    let count = if exact {
        entries.len()
    } else {
        entries.len() / E::PER_BLOCK * E::PER_BLOCK
    };
    if count > 0 {
        let mut bytes = Vec::new();
        encode_blocks(id, base, 0, &entries[..count], &mut bytes);
        files.insert(path, bytes);
    }
    count
}

/// Every kind of file and record, two sealed segments, every codec, more than 200 batches.
pub fn everything() -> Sample {
    let mut sample = Sample::new();
    let large = sample.create();
    let small = sample.create();
    sample.create();
    sample.commit();
    for index in 0..150 {
        let roll = index == 50 || index == 100;
        sample.append(
            large,
            CODECS[index % 5],
            1 + index % 7,
            300,
            Some(1000 + (index % 3) as i64),
            roll,
        );
        if index % 3 == 0 {
            sample.append(small, CODECS[index % 4 + 1], 2, 20, None, false);
        }
        if index % 4 == 3 {
            sample.commit();
        }
    }
    sample.direct(large, 20, 3000, true, false);
    sample.snapshot_producers(large);
    sample.carry(small, 500);
    sample.log_start(large, 17);
    sample.commit();
    sample.append(small, Codec::Zstd, 3, 30, Some(5), false);
    sample.commit();
    sample
}
