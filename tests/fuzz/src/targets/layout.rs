//! The engine's own formats: each input as it is, and with its check sums made right.

use std::cell::Cell;

use trireme_engine::layout::checkpoint::{
    CheckpointBody, IndexEntry, LogExtent, LogFile, LogPosition, PartitionState, SegmentState,
    TimeIndexEntry, encode_checkpoint, parse_checkpoint,
};
use trireme_engine::layout::entry::{Entry, RecordType};
use trireme_engine::layout::format_file::Format;
use trireme_engine::layout::group::{
    GroupContext, GroupView, LogIdentity, PendingRecord, encode_group, group_len, identity_of,
    parse_group, probe_header,
};
use trireme_engine::layout::payload::{
    BatchSummary, Direct, DirectSplit, FileEnd, encode_direct, encode_producers, parse_producers,
};
use trireme_engine::layout::sidecar::{SidecarEntry, SumEntry, encode_blocks, parse_block};
use trireme_engine::layout::slots::read_slots;
use trireme_engine::layout::{BLOCK, SUM_BLOCK, reseal};
use trireme_engine::producer::{ProducerBatch, ProducerSnapshot};
use trireme_engine::recovery_scan::{LogScan, RingFile, Supplied, Want};
use trireme_engine::{PartitionId, TopicId};

use crate::seeds;

const IDENTITY: LogIdentity = LogIdentity {
    shard: 0,
    incarnation: 3,
    nonce: 0x0123_4567_89ab_cdef,
};
const FILE_BYTES: usize = 4 * BLOCK;
const FILES: u32 = 4;
/// A scan that takes more steps than this does not end.
const STEPS_MAX: usize = 10_000;

fn partition() -> PartitionId {
    PartitionId {
        topic: TopicId([7; 16]),
        index: 1,
    }
}

pub fn group(input: &[u8]) {
    let mut bytes = input.to_vec();
    bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
    read_group(&bytes);
    let _ = identity_of(0, 0, &bytes);
    reseal::group(&IDENTITY, 1, &mut bytes);
    read_group(&bytes);
    if let Some(found) = identity_of(0, 0, &bytes) {
        let header = probe_header(&found, &bytes).expect("its identity was found in it");
        assert!(parse_group(&found, 0, header.file_use, 0, &bytes).is_ok());
    }
}

fn read_group(bytes: &[u8]) {
    let _ = probe_header(&IDENTITY, bytes);
    if let Ok(group) = parse_group(&IDENTITY, 0, 1, 0, bytes) {
        read_records(&group);
    }
}

fn read_records(group: &GroupView<'_>) {
    for (index, record) in group.records().enumerate() {
        let entry = &record.entry;
        let _ = group.entry_position(index);
        match entry.kind {
            RecordType::Direct => {
                if let Ok(direct) = Direct::parse(record.payload, entry.position, entry.len) {
                    let _ = direct.sums().count() + direct.summaries().count();
                }
            }
            RecordType::ProducerSnapshot => drop(parse_producers(record.payload)),
            RecordType::FileEnd => drop(FileEnd::parse(record.payload)),
            _ => {}
        }
    }
}

/// The ring's files one after the other, each group made right; the first bytes say what the checkpoint says.
pub fn scan(input: &[u8]) {
    let Some((knobs, bytes)) = input.split_at_checked(4) else {
        return;
    };
    let mut ring: Vec<Vec<u8>> = (0..FILES as usize)
        .map(|file| {
            let from = (file * FILE_BYTES).min(bytes.len());
            let to = ((file + 1) * FILE_BYTES).min(bytes.len());
            let mut bytes = bytes[from..to].to_vec();
            bytes.resize(FILE_BYTES, 0);
            bytes
        })
        .collect();
    if knobs[0] & 1 == 0 {
        for file in &mut ring {
            let mut at = 0;
            while at < file.len() {
                let file_use = u32::from_le_bytes(file[at + 36..at + 40].try_into().expect("four"));
                at += reseal::group(&IDENTITY, file_use, &mut file[at..]).max(BLOCK);
            }
        }
    }
    let start = LogPosition {
        file: u32::from(knobs[1]) % FILES,
        file_use: 1,
        position: 0,
        sequence: 10,
        previous_header_crc: 0,
    };
    let body = CheckpointBody {
        incarnation: IDENTITY.incarnation,
        nonce: IDENTITY.nonce,
        extents: vec![LogExtent {
            incarnation: IDENTITY.incarnation,
            nonce: IDENTITY.nonce,
            first: start,
            end: (knobs[2] > 128).then_some(LogPosition {
                sequence: 10 + u64::from(knobs[2] % 128),
                ..start
            }),
            durable_through: u64::from(knobs[3]),
        }],
        ..CheckpointBody::default()
    };
    let files = (0..FILES)
        .map(|index| RingFile {
            index,
            size_bytes: FILE_BYTES as u64,
        })
        .collect();
    let mut scan = LogScan::new(0, &body, files);
    let steps = Cell::new(0);
    loop {
        steps.set(steps.get() + 1);
        assert!(steps.get() < STEPS_MAX, "the scan does not end");
        let bytes = match scan.want() {
            Want::Done => break,
            Want::Group { file, position } => &ring[file as usize][position as usize..],
            Want::Probe {
                file,
                position,
                len,
            } => &ring[file as usize][position as usize..][..len as usize],
        };
        if let Supplied::Group(group) = scan.supply(bytes) {
            read_records(&group);
        }
    }
    let _ = scan.finish();
}

pub fn checkpoint(input: &[u8]) {
    let mut bytes = input.to_vec();
    for _ in 0..2 {
        let _ = parse_checkpoint(0, 0, &bytes);
        let half = bytes.len() / 2;
        let slots = read_slots(0, [Some(&bytes[..half]), Some(&bytes[half..])]);
        assert!(slots.newest.is_some() || !slots.damaged.is_empty());
        if let Ok(checkpoint) = parse_checkpoint(0, 0, &bytes) {
            assert_eq!(checkpoint.body.check(), Ok(()));
            let again =
                encode_checkpoint(0, checkpoint.directory, checkpoint.number, &checkpoint.body);
            let again = parse_checkpoint(0, 0, &again).expect("what was encoded");
            assert_eq!(again.body, checkpoint.body);
        }
        reseal::checkpoint(&mut bytes);
    }
}

pub fn sidecar(input: &[u8]) {
    let _ = Format::parse(input);
    let mut format = input.to_vec();
    reseal::format(&mut format);
    let _ = Format::parse(&format);
    let mut block = [0; BLOCK];
    let len = input.len().min(BLOCK);
    block[..len].copy_from_slice(&input[..len]);
    for kind in 0..4 {
        if kind > 0 {
            reseal::sidecar(partition(), 100, kind, &mut block);
        }
        read_sidecar::<SumEntry>(&block);
        read_sidecar::<IndexEntry>(&block);
        read_sidecar::<TimeIndexEntry>(&block);
    }
}

fn read_sidecar<E: SidecarEntry>(block: &[u8; BLOCK]) {
    let mut entries = Vec::new();
    if let Ok(count) = parse_block::<E>(partition(), 100, 0, block, &mut entries) {
        assert!(count == entries.len() && (1..=E::PER_BLOCK).contains(&count));
    }
}

/// A group with a record of every kind.
fn encoded(
    sequence: u64,
    previous_header_crc: u32,
    place: (u32, u64),
    last: bool,
) -> (Vec<u8>, u32) {
    let batch = seeds::batch(trireme_engine::batch::Codec::None, 2, 30);
    let entry = |kind| Entry::new(kind, partition());
    let append = Entry {
        len: batch.len() as u32,
        last_offset: 1,
        record_count: 2,
        batch_count: 1,
        ..entry(RecordType::Append)
    };
    let run_len = SUM_BLOCK as u32 + 300;
    let split = DirectSplit::of(100, run_len);
    let summary = BatchSummary {
        base_offset: 2,
        position: 100,
        size: run_len,
        record_count: 1,
        base_timestamp: 5,
        max_timestamp: 6,
        producer_id: 7,
        last_offset_delta: 0,
        base_sequence: 1,
        leader_epoch: 0,
        producer_epoch: 0,
        attributes: 0,
    };
    let sums = vec![1; split.block_count as usize];
    let mut direct_payload = Vec::new();
    encode_direct(&split, &sums, &[summary], &mut direct_payload);
    direct_payload.resize(
        direct_payload.len() + (split.head_len + split.tail_len) as usize,
        0,
    );
    let direct = Entry {
        position: 100,
        len: run_len,
        base_offset: 2,
        last_offset: 2,
        record_count: 1,
        batch_count: 1,
        ..entry(RecordType::Direct)
    };
    let mut producers = Vec::new();
    let snapshot = ProducerSnapshot {
        producer_id: 7,
        epoch: 0,
        last_seen_ms: 9,
        batches: vec![ProducerBatch::default()],
    };
    encode_producers(&[snapshot], &mut producers);
    let file_end = FileEnd {
        next_file: place.0 + 1,
        next_file_use: 1,
    }
    .encode();
    let mut records = vec![
        PendingRecord::with_payload(append, &batch),
        PendingRecord::with_payload(direct, &direct_payload),
        PendingRecord::new(Entry {
            position: 100,
            ..entry(RecordType::Done)
        }),
        PendingRecord::with_payload(entry(RecordType::ProducerSnapshot), &producers),
        PendingRecord::new(entry(RecordType::Create)),
        PendingRecord::new(entry(RecordType::LogStart)),
        PendingRecord::new(entry(RecordType::Delete)),
        PendingRecord::new(Entry::new(RecordType::Mark, PartitionId::default())),
    ];
    if last {
        let entry = Entry::new(RecordType::FileEnd, PartitionId::default());
        records.push(PendingRecord::with_payload(entry, &file_end));
    }
    let context = GroupContext {
        identity: IDENTITY,
        file: place.0,
        file_use: 1,
        position: place.1,
        sequence,
        previous_header_crc,
        durable_through: sequence - 1,
        unix_ms: 1,
    };
    let payload_len = records.iter().map(PendingRecord::payload_len).sum();
    // Whatever fits: the direct run's fragments are most of it.
    let mut out = vec![0; group_len(records.len(), payload_len)];
    let info = encode_group(&context, &records, &mut out);
    (out, info.header_crc)
}

pub fn group_seeds() -> Vec<Vec<u8>> {
    vec![
        encoded(10, 0, (0, 0), false).0,
        encoded(11, 5, (0, 0), true).0,
    ]
}

pub fn scan_seeds() -> Vec<Vec<u8>> {
    let mut input = vec![1, 0, 0, 9];
    let (mut sequence, mut crc) = (10, 0);
    for file in 0..FILES {
        let mut bytes = Vec::new();
        loop {
            let (group, next) =
                encoded(sequence, crc, (file, bytes.len() as u64), !bytes.is_empty());
            if bytes.len() + group.len() > FILE_BYTES {
                break;
            }
            bytes.extend_from_slice(&group);
            (sequence, crc) = (sequence + 1, next);
        }
        bytes.resize(FILE_BYTES, 0);
        input.extend_from_slice(&bytes);
    }
    let sealed = [&[0][..], &input[1..]].concat();
    vec![input, sealed]
}

pub fn checkpoint_seeds() -> Vec<Vec<u8>> {
    let position = LogPosition {
        file: 0,
        file_use: 1,
        position: 0,
        sequence: 10,
        previous_header_crc: 0,
    };
    let segment = SegmentState {
        end_offset: 9,
        flushed_bytes: SUM_BLOCK as u64,
        length_bytes: SUM_BLOCK as u64 + 77,
        pending_sums: vec![5],
        pending_index: vec![IndexEntry {
            offset: 0,
            position: 0,
        }],
        pending_time_index: vec![TimeIndexEntry {
            max_timestamp: 1,
            offset: 0,
        }],
        ..SegmentState::default()
    };
    let body = CheckpointBody {
        incarnation: 3,
        nonce: 4,
        extents: vec![LogExtent {
            incarnation: 3,
            nonce: 4,
            first: position,
            end: None,
            durable_through: 12,
        }],
        files: vec![LogFile {
            index: 0,
            file_use: 1,
            size_bytes: 1 << 20,
        }],
        partitions: vec![PartitionState {
            id: partition(),
            next_offset: 9,
            segments: vec![segment],
            producers: vec![ProducerSnapshot {
                producer_id: 1,
                epoch: 0,
                last_seen_ms: 1,
                batches: vec![ProducerBatch::default()],
            }],
            ..PartitionState::default()
        }],
        ..CheckpointBody::default()
    };
    let slots = [0, 1].map(|number| encode_checkpoint(0, [1; 16], number, &body));
    vec![slots[0].clone(), slots.concat()]
}

pub fn sidecar_seeds() -> Vec<Vec<u8>> {
    let (mut sums, mut index) = (Vec::new(), Vec::new());
    encode_blocks(partition(), 100, 0, &[SumEntry(1), SumEntry(2)], &mut sums);
    let entry = IndexEntry {
        offset: 100,
        position: 0,
    };
    encode_blocks(partition(), 100, 0, &[entry], &mut index);
    let format = Format {
        directory: [1; 16],
        shards: 2,
        created_unix_ms: 1,
    };
    vec![sums, index, format.encode().to_vec()]
}
