//! Properties of the formats: what was written comes back, any flipped bit is noticed, and nothing else is ever taken for it.

use proptest::prelude::*;

use super::checkpoint::*;
use super::entry::*;
use super::format_file::*;
use super::group::*;
use super::paths::*;
use super::payload::*;
use super::seed::*;
use super::sidecar::*;
use super::*;
use crate::epochs::EpochEntry;
use crate::ids::{PartitionId, TopicId};
use crate::producer::{ProducerBatch, ProducerSnapshot};

fn partition() -> impl Strategy<Value = PartitionId> {
    (any::<[u8; 16]>(), any::<u32>()).prop_map(|(topic, index)| PartitionId {
        topic: TopicId(topic),
        index,
    })
}

/// An entry of any type with fitting fields, and its payload.
fn record() -> impl Strategy<Value = (Entry, Vec<u8>)> {
    (
        1u8..=12,
        partition(),
        prop::collection::vec(any::<u8>(), 1..6000),
        0..i64::MAX / 2,
        0..1i64 << 40,
        any::<(i32, u32)>(),
    )
        .prop_map(
            |(
                kind,
                partition,
                mut payload,
                base_offset,
                position,
                (leader_epoch, record_count),
            )| {
                let kind = RecordType::from_byte(kind).unwrap();
                if !kind.has_payload() {
                    payload.clear();
                }
                let partition = if kind.names_partition() {
                    partition
                } else {
                    PartitionId::default()
                };
                let entry = Entry {
                    leader_epoch,
                    base_offset,
                    last_offset: base_offset + i64::from(record_count),
                    segment_base: base_offset / 2,
                    position: position as u64,
                    len: payload.len() as u32,
                    record_count,
                    batch_count: 1 + record_count / 2,
                    ..Entry::new(kind, partition)
                };
                (entry, payload)
            },
        )
}

fn context() -> impl Strategy<Value = GroupContext> {
    (
        any::<(u16, u64, u64)>(),
        any::<(u32, u32)>(),
        0..1u64 << 40,
        any::<(u64, u32, u64, i64)>(),
    )
        .prop_map(
            |(
                (shard, incarnation, nonce),
                (file, file_use),
                block,
                (sequence, previous_header_crc, durable_through, unix_ms),
            )| {
                GroupContext {
                    identity: LogIdentity {
                        shard,
                        incarnation,
                        nonce,
                    },
                    file,
                    file_use,
                    position: block * BLOCK as u64,
                    sequence,
                    previous_header_crc,
                    durable_through,
                    unix_ms,
                }
            },
        )
}

fn encode(context: &GroupContext, records: &[(Entry, Vec<u8>)]) -> Vec<u8> {
    let payload_len = records.iter().map(|(_, payload)| payload.len()).sum();
    // Dirty memory: the encoder must not rely on zeros.
    let mut out = vec![0xEE; group_len(records.len(), payload_len)];
    let pending: Vec<_> = records
        .iter()
        .map(|(entry, payload)| {
            // In two pieces, as from two chunks of memory.
            let (head, tail) = payload.split_at(payload.len() / 3);
            let mut record = PendingRecord::new(*entry);
            record.payload.extend([head, tail]);
            record
        })
        .collect();
    let info = encode_group(context, &pending, &mut out);
    assert_eq!(info.len, out.len());
    out
}

fn parse<'a>(context: &GroupContext, bytes: &'a [u8]) -> Result<GroupView<'a>, GroupError> {
    parse_group(
        &context.identity,
        context.file,
        context.file_use,
        context.position,
        bytes,
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn a_group_comes_back(context in context(), records in prop::collection::vec(record(), 1..20)) {
        let bytes = encode(&context, &records);
        let group = parse(&context, &bytes).unwrap();
        prop_assert_eq!(group.header.sequence, context.sequence);
        prop_assert_eq!(group.header.previous_header_crc, context.previous_header_crc);
        prop_assert_eq!(group.header.durable_through, context.durable_through);
        prop_assert_eq!(group.header.unix_ms, context.unix_ms);
        prop_assert_eq!(group.records().len(), records.len());
        for (view, (entry, payload)) in group.records().zip(&records) {
            prop_assert_eq!(&view.entry, entry);
            prop_assert_eq!(view.payload, &payload[..]);
            prop_assert_eq!(&bytes[view.payload_at as usize..][..payload.len()], &payload[..]);
        }
        prop_assert_eq!(probe_header(&context.identity, &bytes[..BLOCK]).unwrap(), group.header);
        // What stands behind it does not matter, a missing byte does.
        let mut longer = bytes.clone();
        longer.extend_from_slice(&bytes);
        prop_assert!(parse(&context, &longer).is_ok());
        prop_assert_eq!(parse(&context, &bytes[..bytes.len() - 1]).unwrap_err(), GroupError::Short);
    }

    #[test]
    fn a_group_is_valid_only_where_when_and_by_whom_it_was_written(
        context in context(), records in prop::collection::vec(record(), 1..4), bit in 0u32..32,
    ) {
        let bytes = encode(&context, &records);
        let flip = 1u64 << bit;
        let others = [
            GroupContext { identity: LogIdentity { nonce: context.identity.nonce ^ flip, ..context.identity }, ..context },
            GroupContext { identity: LogIdentity { nonce: context.identity.nonce ^ flip << 32, ..context.identity }, ..context },
            GroupContext { identity: LogIdentity { incarnation: context.identity.incarnation ^ flip, ..context.identity }, ..context },
            GroupContext { identity: LogIdentity { shard: context.identity.shard ^ 1 << (bit % 16), ..context.identity }, ..context },
            GroupContext { file: context.file ^ flip as u32, ..context },
            GroupContext { file_use: context.file_use ^ flip as u32, ..context },
            GroupContext { position: context.position ^ flip << 12, ..context },
        ];
        for other in others {
            prop_assert!(parse(&other, &bytes).is_err(), "{:?}", other);
        }
        // A former use that claims to be this one: only the header's number was changed.
        let mut claimed = bytes.clone();
        claimed[36..40].copy_from_slice(&(context.file_use ^ flip as u32).to_le_bytes());
        let present = GroupContext { file_use: context.file_use ^ flip as u32, ..context };
        prop_assert_eq!(parse(&present, &claimed).unwrap_err(), GroupError::HeaderCrc);
    }

    #[test]
    fn a_block_of_another_group_does_not_fit(context in context(), mut records in prop::collection::vec(record(), 8..12)) {
        let entry = Entry { len: 40_000, ..Entry::new(RecordType::Carried, PartitionId::default()) };
        records.push((entry, vec![1; 40_000]));
        let first = encode(&context, &records);
        records.last_mut().unwrap().1.fill(2);
        let second = encode(&context, &records);
        for block in 0..first.len() / BLOCK {
            let range = block * BLOCK..(block + 1) * BLOCK;
            if first[range.clone()] != second[range.clone()] {
                let mut mixed = first.clone();
                mixed[range.clone()].copy_from_slice(&second[range]);
                prop_assert!(parse(&context, &mixed).is_err());
            }
        }
    }

    #[test]
    fn hostile_bytes_never_panic(context in context(), mut bytes in prop::collection::vec(any::<u8>(), 0..9000), records in prop::collection::vec(record(), 1..3)) {
        prop_assert!(parse(&context, &bytes).is_err());
        if bytes.len() > 100 {
            bytes[..8].copy_from_slice(&group::MAGIC);
            prop_assert!(parse(&context, &bytes).is_err());
            bytes[..8].copy_from_slice(&checkpoint::MAGIC);
            prop_assert!(parse_checkpoint(0, 0, &bytes).is_err());
        }
        let _ = Direct::parse(&bytes, context.position, records.len() as u32);
        let _ = parse_producers(&bytes);
        let _ = parse_block::<SumEntry>(PartitionId::default(), 0, 0, &bytes, &mut Vec::new());
    }

    #[test]
    fn a_direct_payload_comes_back(position in 0u64..1 << 40, sizes in prop::collection::vec(61u32..200_000, 1..30)) {
        let len = sizes.iter().sum();
        let split = DirectSplit::of(position, len);
        prop_assert_eq!(split.head_len + split.tail_len + split.blocks_len() as u32, len);
        let sums: Vec<u32> = (0..split.block_count).map(|block| block * 7).collect();
        let mut next = position;
        let summaries: Vec<BatchSummary> = sizes.iter().enumerate().map(|(index, size)| {
            let summary = BatchSummary {
                base_offset: index as i64 * 10, position: next, size: *size, record_count: 10, base_timestamp: -1,
                max_timestamp: i64::MAX, producer_id: -1, last_offset_delta: 9, base_sequence: -1, leader_epoch: 3,
                producer_epoch: -1, attributes: 0x17,
            };
            next += u64::from(*size);
            summary
        }).collect();
        let mut payload = Vec::new();
        encode_direct(&split, &sums, &summaries, &mut payload);
        let (head, tail) = (vec![1; split.head_len as usize], vec![2; split.tail_len as usize]);
        payload.extend_from_slice(&head);
        payload.extend_from_slice(&tail);
        prop_assert_eq!(payload.len(), direct_payload_len(&split, summaries.len()));
        let direct = Direct::parse(&payload, position, len).unwrap();
        prop_assert_eq!(direct.split, split);
        prop_assert_eq!(direct.sums().collect::<Vec<_>>(), sums);
        prop_assert_eq!(direct.summaries().collect::<Vec<_>>(), summaries);
        prop_assert_eq!((direct.head, direct.tail), (&head[..], &tail[..]));
        prop_assert!(Direct::parse(&payload, position + 1, len).is_err());
        prop_assert!(Direct::parse(&payload[..payload.len() - 1], position, len).is_err());
    }

    #[test]
    fn sidecar_blocks_come_back(partition in partition(), base in 0i64..1 << 50, count in 1usize..2100, block in 0u32..1000) {
        let sums: Vec<SumEntry> = (0..count as u32).map(SumEntry).collect();
        let mut bytes = Vec::new();
        encode_blocks(partition, base, block, &sums, &mut bytes);
        prop_assert_eq!(bytes.len() as u64, file_len::<SumEntry>(count));
        let mut back: Vec<SumEntry> = Vec::new();
        for (number, bytes) in (block..).zip(bytes.chunks(BLOCK)) {
            parse_block(partition, base, number, bytes, &mut back).unwrap();
        }
        prop_assert_eq!(back, sums);
        let first = &bytes[..BLOCK];
        let mut none = Vec::<SumEntry>::new();
        let sibling = PartitionId { index: partition.index ^ 1, ..partition };
        prop_assert!(parse_block(sibling, base, block, first, &mut none).is_err());
        prop_assert!(parse_block(partition, base + 1, block, first, &mut none).is_err());
        prop_assert_eq!(parse_block(partition, base, block + 1, first, &mut none), Err(SidecarError::Elsewhere));
        prop_assert!(none.is_empty());
        prop_assert!(parse_block::<IndexEntry>(partition, base, block, first, &mut Vec::new()).is_err());
    }

    #[test]
    fn paths_come_back(partition in partition(), shard: u16, file: u32, base in 0i64..i64::MAX) {
        let mut paths = vec![
            DataPath::Lock, DataPath::Format, DataPath::WalRoot, DataPath::PartitionsRoot, DataPath::Shard(shard),
            DataPath::Checkpoint { shard, slot: 1 }, DataPath::Log { shard, file }, DataPath::Partition(partition),
        ];
        paths.extend(SegmentFile::ALL.map(|file| DataPath::Segment { partition, base_offset: base, file }));
        for path in paths {
            prop_assert_eq!(DataPath::parse(&path.relative()), Some(path));
        }
    }
}

#[test]
fn only_our_own_spelling_of_a_path_is_known() {
    let topic = "0123456789abcdef0123456789abcdef";
    for strange in [
        "",
        "lock",
        "wal/0",
        "wal/+00",
        "wal/000/checkpoint.2",
        "wal/000/00.wal",
        "wal/000/0000.wal",
        "wal/70000",
        "partitions/x",
        "wal/000/000.wal/x",
        "other",
        &format!("partitions/{topic}-01"),
        &format!("partitions/{}-1", topic.to_uppercase()),
        &format!("partitions/{topic}-1/1.log"),
        &format!("partitions/{topic}-1/00000000000000000001.txt"),
        &format!("partitions/{topic}-1/00000000000000000001.log.tmp"),
        &format!("partitions/{topic}-1/-0000000000000000001.log"),
    ] {
        assert_eq!(DataPath::parse(strange), None, "{strange}");
    }
    assert!(DataPath::parse(&format!("partitions/{topic}-1/00000000000000000001.log")).is_some());
}

fn example_records() -> Vec<(Entry, Vec<u8>)> {
    let partition = PartitionId {
        topic: TopicId(*b"0123456789abcdef"),
        index: 4,
    };
    let append = Entry {
        len: 5000,
        base_offset: 10,
        last_offset: 29,
        position: 123,
        record_count: 20,
        batch_count: 2,
        leader_epoch: 1,
        ..Entry::new(RecordType::Append, partition)
    };
    vec![
        (Entry::new(RecordType::Create, partition), Vec::new()),
        (append, (0..5000).map(|index| index as u8).collect()),
        (
            Entry {
                base_offset: 5,
                ..Entry::new(RecordType::LogStart, partition)
            },
            Vec::new(),
        ),
    ]
}

fn example_context() -> GroupContext {
    GroupContext {
        identity: LogIdentity {
            shard: 1,
            incarnation: 2,
            nonce: 0xfeed_f00d_dead_beef,
        },
        file: 3,
        file_use: 4,
        position: 5 * BLOCK as u64,
        sequence: 6,
        previous_header_crc: 7,
        durable_through: 5,
        unix_ms: 1_700_000_000_000,
    }
}

/// Calls `valid` with every single bit flipped; returns how many were tried.
fn every_bit(bytes: &[u8], mut valid: impl FnMut(&[u8]) -> bool) -> usize {
    let mut bytes = bytes.to_vec();
    assert!(valid(&bytes));
    for bit in 0..bytes.len() * 8 {
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert!(
            !valid(&bytes),
            "bit {} of byte {} was not noticed",
            bit % 8,
            bit / 8
        );
        bytes[bit / 8] ^= 1 << (bit % 8);
    }
    bytes.len() * 8
}

#[test]
fn every_flipped_bit_is_noticed() {
    let context = example_context();
    let group = encode(&context, &example_records());
    assert_eq!(
        every_bit(&group, |bytes| parse(&context, bytes).is_ok()),
        8192 * 8
    );

    let checkpoint = encode_checkpoint(1, [9; 16], 42, &example_body());
    assert_eq!(
        every_bit(&checkpoint, |bytes| parse_checkpoint(1, 0, bytes).is_ok()),
        4096 * 8
    );

    let partition = example_body().partitions[0].id;
    let mut block = [0; BLOCK];
    encode_block(
        partition,
        77,
        3,
        &[IndexEntry {
            offset: 80,
            position: 4000,
        }; 9],
        &mut block,
    );
    every_bit(&block, |bytes| {
        parse_block::<IndexEntry>(partition, 77, 3, bytes, &mut Vec::new()).is_ok()
    });
    encode_block(partition, 77, 3, &[SumEntry(0); 1000], &mut block);
    every_bit(&block, |bytes| {
        parse_block::<SumEntry>(partition, 77, 3, bytes, &mut Vec::new()).is_ok()
    });

    let format = Format {
        directory: [3; 16],
        shards: 2,
        created_unix_ms: 99,
    };
    every_bit(&format.encode(), |bytes| Format::parse(bytes).is_ok());
    assert_eq!(Format::parse(&format.encode()), Ok(format));
}

#[test]
fn dirty_padding_under_a_right_check_sum_is_refused() {
    // What a writer that forgets to zero would produce: all CRCs hold.
    let context = example_context();
    let mut group = encode(&context, &example_records());
    let last = group.len() - 1;
    group[last] = 1;
    let seed = log_seed(context.identity.nonce, context.file_use);
    let crc = crate::crc::crc32(seed, &group[BLOCK..]);
    group[HEADER_BYTES + 4..HEADER_BYTES + 8].copy_from_slice(&crc.to_le_bytes());
    let table_end = HEADER_BYTES + 8;
    let crc = crate::crc::crc32(crate::crc::crc32(seed, &group[..92]), &group[96..table_end]);
    group[92..96].copy_from_slice(&crc.to_le_bytes());
    let error = parse(&context, &group).unwrap_err();
    assert_eq!(error, GroupError::Padding { at: last as u32 });
    assert!(error.is_intact());
}

#[test]
fn group_len_is_exact_and_payload_len_max_fits() {
    for records in [1, 2, 13, 500] {
        for payload in [1, 3900, 3996, 3997, 4000, 4092, 4096, 8092, 100_000] {
            let len = group_len(records, payload);
            let content = HEADER_BYTES + records * ENTRY_BYTES + payload;
            let blocks = len / BLOCK;
            assert!(
                content + 4 * blocks <= len && content + 4 * (blocks - 1) > len - BLOCK,
                "{records} {payload}"
            );
        }
        assert_eq!(
            group_len(records, payload_len_max(records)),
            GROUP_BYTES_MAX
        );
        assert!(group_len(records, payload_len_max(records) + 1) > GROUP_BYTES_MAX);
    }
}

#[test]
fn a_sum_says_whose_block_it_is() {
    let id = |index| PartitionId {
        topic: TopicId([1; 16]),
        index,
    };
    let bytes = vec![5; SUM_BLOCK];
    let sum = block_sum(segment_seed(id(1), 100), 2, &bytes);
    assert_ne!(sum, block_sum(segment_seed(id(2), 100), 2, &bytes));
    assert_ne!(sum, block_sum(segment_seed(id(1), 101), 2, &bytes));
    assert_ne!(sum, block_sum(segment_seed(id(1), 100), 3, &bytes));
    assert_ne!(sum, block_sum(segment_seed(id(1), 100), 2, &bytes[1..]));
    assert_eq!(sum, block_sum(segment_seed(id(1), 100), 2, &bytes));
}

#[test]
fn a_producer_snapshot_comes_back() {
    let producers = example_body().partitions[0].producers.clone();
    let mut payload = Vec::new();
    encode_producers(&producers, &mut payload);
    assert_eq!(parse_producers(&payload), Ok(producers));
    assert_eq!(
        parse_producers(&payload[..payload.len() - 1]),
        Err(PayloadError::Length)
    );
    payload.push(0);
    assert_eq!(parse_producers(&payload), Err(PayloadError::Length));
    let mut none = Vec::new();
    encode_producers(&[], &mut none);
    assert_eq!(parse_producers(&none), Ok(Vec::new()));
    assert!(
        !none.is_empty(),
        "a snapshot without producers is a record with a payload too"
    );
}

fn example_body() -> CheckpointBody {
    let position = LogPosition {
        file: 1,
        file_use: 2,
        position: 8192,
        sequence: 30,
        previous_header_crc: 0xabcd,
    };
    CheckpointBody {
        incarnation: 4,
        nonce: 0x0102_0304_0506_0708,
        node_epoch: 3,
        clean: false,
        unix_ms: 1_700_000_000_000,
        extents: vec![LogExtent {
            incarnation: 4,
            nonce: 0x0102_0304_0506_0708,
            first: position,
            end: None,
            durable_through: 29,
        }],
        files: vec![
            LogFile {
                index: 0,
                file_use: 0,
                size_bytes: 65536,
            },
            LogFile {
                index: 1,
                file_use: 2,
                size_bytes: 65536,
            },
        ],
        partitions: vec![PartitionState {
            id: PartitionId {
                topic: TopicId(*b"0123456789abcdef"),
                index: 4,
            },
            created_epoch: 1,
            log_start: 5,
            next_offset: 200,
            replay_from_sequence: 12,
            segments: vec![SegmentState {
                base_offset: 0,
                end_offset: 200,
                flushed_bytes: 32768,
                length_bytes: 40000,
                sealed: false,
                max_timestamp: 1000,
                max_timestamp_offset: 150,
                first_timestamp: 900,
                created_ms: 950,
                sums_in_file: 0,
                pending_sums: vec![0x3333_4444, 0x1111_2222],
                index_in_file: 0,
                pending_index: vec![IndexEntry {
                    offset: 100,
                    position: 20000,
                }],
                time_index_in_file: 0,
                pending_time_index: vec![TimeIndexEntry {
                    max_timestamp: 990,
                    offset: 100,
                }],
            }],
            epochs: vec![EpochEntry {
                epoch: 1,
                start_offset: 0,
            }],
            producers: vec![ProducerSnapshot {
                producer_id: 1000,
                epoch: 1,
                last_seen_ms: 1_700_000_000_000,
                batches: vec![ProducerBatch {
                    first_sequence: 0,
                    last_sequence: 9,
                    base_offset: 190,
                    timestamp_ms: -1,
                }],
            }],
            deleting: false,
        }],
    }
}

#[test]
fn a_checkpoint_comes_back_and_only_in_its_place() {
    let body = example_body();
    let mut bytes = encode_checkpoint(1, [9; 16], 42, &body);
    let slot_len = bytes.len();
    assert_eq!(slot_len % BLOCK, 0);
    bytes.resize(slot_len + 5000, 0xEE);
    let back = parse_checkpoint(1, 0, &bytes).unwrap();
    assert_eq!(
        back,
        Checkpoint {
            number: 42,
            directory: [9; 16],
            closed: false,
            body,
            slot_len
        }
    );
    assert_eq!(
        parse_checkpoint(1, 1, &bytes),
        Err(CheckpointError::Elsewhere)
    );
    assert_eq!(
        parse_checkpoint(2, 0, &bytes),
        Err(CheckpointError::Elsewhere)
    );
    for len in [0, 63, 64, 100, slot_len - 1] {
        assert_eq!(
            parse_checkpoint(1, 0, &bytes[..len]),
            Err(CheckpointError::Short),
            "{len}"
        );
    }
}

#[test]
fn a_checkpoint_that_contradicts_itself_is_refused() {
    let contradictions: [fn(&mut CheckpointBody); 8] = [
        |body| body.clean = true,
        |body| body.extents[0].nonce ^= 1,
        |body| body.partitions[0].log_start = 201,
        |body| body.partitions[0].segments[0].flushed_bytes = 40001,
        |body| body.partitions[0].segments[0].pending_sums.clear(),
        |body| body.partitions[0].segments[0].sealed = true,
        |body| body.partitions.push(body.partitions[0].clone()),
        |body| body.files.swap(0, 1),
    ];
    example_body().check().unwrap();
    for (index, contradict) in contradictions.into_iter().enumerate() {
        let mut body = example_body();
        contradict(&mut body);
        assert!(body.check().is_err(), "{index}");
    }
}

/// The body's bytes follow from cargo features of one crate (byte order, alignment, pointer width), which unify over the
/// whole build: this notices when somebody changes them, or the structures without the version.
#[test]
fn the_bytes_of_a_checkpoint_are_what_they_were() {
    let bytes = encode_checkpoint(1, [9; 16], 42, &example_body());
    let length = bytes.len() - bytes.iter().rev().take_while(|byte| **byte == 0).count();
    let lines: Vec<String> = bytes[..length]
        .chunks(32)
        .map(|line| line.iter().map(|byte| format!("{byte:02x}")).collect())
        .collect();
    let golden: Vec<&str> = include_str!("checkpoint.golden")
        .split_whitespace()
        .collect();
    assert_eq!(lines, golden, "now:\n{}", lines.join("\n"));
}

mod slots_of_a_shard {
    use super::super::slots::*;
    use super::*;

    fn settled() -> CheckpointBody {
        let mut body = example_body();
        body.clean = true;
        body.partitions.clear();
        body.extents[0].end = Some(LogPosition {
            position: 12288,
            sequence: 31,
            ..body.extents[0].first
        });
        body
    }

    fn slot(number: u64, body: &CheckpointBody) -> Vec<u8> {
        encode_checkpoint(1, [9; 16], number, body)
    }

    fn read(slots: &[Vec<u8>; 2]) -> Slots {
        read_slots(1, [Some(&slots[0]), Some(&slots[1])])
    }

    /// Whether a crash can have left the slots so.
    fn is_sound(slots: &[Vec<u8>; 2]) -> bool {
        let read = read(slots);
        read.damaged.is_empty() && read.newest.is_some()
    }

    #[test]
    fn the_newest_valid_slot_counts() {
        let body = example_body();
        let read = read(&[slot(8, &body), slot(7, &body)]);
        assert_eq!(
            (read.newest.unwrap().number, read.older.unwrap().number),
            (8, 7)
        );
        assert_eq!((read.torn, read.damaged), (None, Vec::new()));
        let gap = read_slots(1, [Some(&slot(8, &body)), Some(&slot(11, &body))]);
        assert_eq!(gap.damaged, [(0, SlotError::Numbers(8, 11))]);
        let missing = read_slots(1, [Some(&slot(8, &body)), None]);
        assert_eq!(missing.damaged, [(1, SlotError::Missing)]);
        assert_eq!(read_slots(1, [None, None]).damaged.len(), 2);
    }

    /// A write of `new` over `old` that the power cut interrupts: any sector may have made it.
    fn tears(old: &[u8], new: &[u8]) -> Vec<Vec<u8>> {
        let mut tears = Vec::new();
        for cut in 0..=new.len() / 512 {
            let mut torn = old.to_vec();
            torn.resize(torn.len().max(new.len()), 0);
            torn[..cut * 512].copy_from_slice(&new[..cut * 512]);
            tears.push(torn);
            let mut torn = new.to_vec();
            torn.resize(torn.len().max(old.len()), 0);
            let cut = (cut * 512).min(old.len());
            torn[..cut].copy_from_slice(&old[..cut]);
            tears.push(torn);
        }
        tears
    }

    #[test]
    fn no_crash_during_shutdown_or_start_looks_like_damage() {
        let (mut open, mut body) = (example_body(), settled());
        // Bodies of many sectors, and of different lengths.
        for index in 0..200 {
            open.files.push(LogFile {
                index: 2 + index,
                file_use: 7,
                size_bytes: 4096,
            });
            body.files.push(LogFile {
                index: 2 + index,
                file_use: 9,
                size_bytes: 4096,
            });
        }
        let mut slots = [slot(6, &open), slot(7, &open)];
        open.files.truncate(100);
        let mut moments = 0;
        let mut write = |slots: &mut [Vec<u8>; 2], index: usize, new: Vec<u8>| {
            for torn in tears(&slots[index], &new) {
                let mut now = slots.clone();
                now[index] = torn;
                assert!(is_sound(&now));
                moments += 1;
            }
            slots[index] = new;
            assert!(is_sound(slots));
        };
        let closed = |bytes: &[u8], closed| {
            let mut bytes = bytes.to_vec();
            set_closed(&mut bytes[..BLOCK], closed);
            bytes
        };
        write(&mut slots, 0, slot(8, &body));
        write(&mut slots, 1, slot(9, &body));
        let first = closed(&slots[0], true);
        write(&mut slots, 0, first);
        let second = closed(&slots[1], true);
        write(&mut slots, 1, second);
        // The next start.
        let second = closed(&slots[1], false);
        write(&mut slots, 1, second);
        write(&mut slots, 0, slot(10, &open));
        write(&mut slots, 1, slot(11, &open));
        assert!(moments > 50);
    }

    #[test]
    fn once_closed_everything_that_is_broken_is_damage() {
        let body = settled();
        let mut slots = [slot(8, &body), slot(9, &body)];
        slots
            .iter_mut()
            .for_each(|slot| set_closed(&mut slot[..BLOCK], true));
        assert!(is_sound(&slots));
        for index in 0..2 {
            let other = slots.clone();
            every_bit(&slots[index], |bytes| {
                let mut slots = other.clone();
                slots[index] = bytes.to_vec();
                let read = read(&slots);
                read.damaged.is_empty() || {
                    assert!(
                        read.damaged
                            .iter()
                            .all(|(slot, _)| usize::from(*slot) == index)
                    );
                    false
                }
            });
            for len in 0..slots[index].len() {
                let mut slots = slots.clone();
                slots[index].truncate(len);
                assert!(!is_sound(&slots));
            }
        }
    }

    #[test]
    fn while_open_only_the_slot_under_way_may_be_torn() {
        let body = example_body();
        let mut slots = [slot(8, &body), slot(9, &body)];
        slots[0][100] ^= 1;
        assert_eq!(
            read(&slots).torn,
            Some((0, SlotError::Invalid(CheckpointError::BodyCrc)))
        );
        let mut slots = [slot(10, &body), slot(9, &body)];
        slots[0][100] ^= 1;
        assert_eq!(
            read(&slots).torn,
            Some((0, SlotError::Invalid(CheckpointError::BodyCrc)))
        );
        assert_eq!(read(&slots).newest.unwrap().number, 9);
    }
}
