//! What a seed decides before anything runs: sizes, topics, clients, and how rough the night gets.

use std::ops::RangeInclusive;

use trireme_engine::batch::Codec;

use crate::history::Shape;
use crate::records::mix;

/// Records that a run acknowledges at least.
const RECORDS: RangeInclusive<u64> = 5_000..=6_500;

/// One run in so many writes so many times as much.
const HEAVY_ONE_IN: u64 = 12;
/// So many runs end with misdirected writes.
const MISDIRECTS_ONE_IN: u64 = 8;
const HEAVY: u64 = 6;

/// A generator of its own, so that what is drawn here does not depend on what the simulation draws.
#[derive(Clone)]
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Dice {
        Dice(mix(seed ^ 0xD1CE))
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        mix(self.0)
    }

    pub fn of(&mut self, range: RangeInclusive<u64>) -> u64 {
        range.start() + self.next() % (range.end() - range.start() + 1)
    }

    pub fn one_in(&mut self, n: u64) -> bool {
        self.next().is_multiple_of(n)
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.next() as usize % from.len()]
    }
}

#[derive(Clone, Debug)]
pub struct TopicDraw {
    pub name: String,
    pub partitions: i32,
    pub shape: Shape,
    pub configs: Vec<(&'static str, String)>,
    /// DeleteRecords is sent for it.
    pub is_trimmed: bool,
}

#[derive(Clone, Debug)]
pub struct WriterDraw {
    pub is_idempotent: bool,
    pub acks: i16,
    pub in_flight: usize,
    pub codec: Codec,
    pub batch_records: RangeInclusive<u64>,
    pub value_bytes: RangeInclusive<u64>,
    /// Batches for so many partitions travel in one request.
    pub partitions_per_request: u64,
    pub pause_us_max: u64,
    pub produce_version: i16,
    /// Index of the topic; all partitions of it.
    pub topics: Vec<usize>,
    pub records: u64,
}

#[derive(Clone, Debug)]
pub struct GroupDraw {
    pub name: String,
    pub topics: Vec<usize>,
    pub members: usize,
    pub has_static_members: bool,
    pub session_timeout_ms: i32,
}

/// Bounds of the engine, small so that a short run meets them all.
#[derive(Clone, Debug)]
pub struct EngineDraw {
    pub unflushed_max_bytes: u64,
    pub log_file_bytes: u32,
    pub first_log_file_bytes: u32,
    pub group_max_bytes: u32,
    pub direct_min_bytes: u32,
    pub tail_memory_bytes: u64,
    pub segment_divisor: u64,
    pub retention_check_interval_ms: u64,
    pub open_files: usize,
}

/// A run.
#[derive(Clone, Debug)]
pub struct Mix {
    pub cores: usize,
    pub engine: EngineDraw,
    pub topics: Vec<TopicDraw>,
    pub writers: Vec<WriterDraw>,
    pub readers: usize,
    pub groups: Vec<GroupDraw>,
    /// What befalls the broker, so many times.
    pub blows: u64,
    /// Records to acknowledge.
    pub records: u64,
    /// At the end some of the disk rots.
    pub rots: bool,
    /// The run ends with a disk that writes to wrong places.
    pub misdirects: bool,
    pub disk_faults: bool,
    pub net_faults: bool,
}

impl Mix {
    pub fn draw(seed: u64) -> Mix {
        let mut dice = Dice::new(seed);
        let dice = &mut dice;
        let records = match dice.one_in(HEAVY_ONE_IN) {
            true => HEAVY * dice.of(RECORDS),
            false => dice.of(RECORDS),
        };
        let topics: Vec<TopicDraw> = (0..dice.of(2..=4)).map(|n| topic(dice, n)).collect();
        let misdirects = dice.one_in(MISDIRECTS_ONE_IN);
        // Writers still write when the disk begins to.
        let to_write = if misdirects { records * 3 / 2 } else { records };
        let writers = writers(dice, to_write, &topics);
        let groups = (0..dice.of(1..=2))
            .map(|n| group(dice, n, &topics))
            .collect();
        Mix {
            cores: dice.of(2..=3) as usize,
            engine: engine(dice),
            writers,
            readers: dice.of(1..=2) as usize,
            groups,
            blows: dice.of(3..=6),
            records,
            topics,
            rots: dice.one_in(4),
            disk_faults: dice.one_in(2),
            net_faults: dice.one_in(2),
            misdirects,
        }
    }

    pub fn clients(&self) -> usize {
        let members: usize = self.groups.iter().map(|group| group.members).sum();
        self.writers.len() + self.readers + members + 1
    }
}

fn topic(dice: &mut Dice, n: u64) -> TopicDraw {
    let mut shape = Shape {
        // The first topic is as most topics are.
        relaxed: n > 0 && dice.one_in(4),
        log_append_time: n > 0 && dice.one_in(5),
        ..Shape::default()
    };
    let mut configs = vec![
        ("segment.bytes", (dice.of(1..=4) << 20).to_string()),
        ("file.delete.delay.ms", dice.of(1..=500).to_string()),
        ("index.interval.bytes", dice.of(1..=32_768).to_string()),
    ];
    if dice.one_in(2) {
        configs.push(("segment.ms", dice.of(100..=3_000).to_string()));
    }
    if n > 0 && dice.one_in(3) {
        let retention_ms = dice.of(500..=5_000) as i64;
        shape.retention_ms = Some(retention_ms);
        configs.push(("retention.ms", retention_ms.to_string()));
    } else {
        configs.push(("retention.ms", "-1".into()));
        if n > 0 && dice.one_in(4) {
            let retention_bytes = dice.of(30_000..=300_000) as i64;
            shape.retention_bytes = Some(retention_bytes);
            configs.push(("retention.bytes", retention_bytes.to_string()));
        }
    }
    if shape.relaxed {
        configs.push(("flush.messages", "1000".into()));
    }
    if shape.log_append_time {
        configs.push(("message.timestamp.type", "LogAppendTime".into()));
    }
    TopicDraw {
        name: format!("topic-{n}"),
        partitions: dice.of(1..=4) as i32,
        shape,
        configs,
        is_trimmed: dice.one_in(3),
    }
}

fn writers(dice: &mut Dice, records: u64, topics: &[TopicDraw]) -> Vec<WriterDraw> {
    let count = dice.of(2..=4);
    let mut writers: Vec<WriterDraw> = (0..count)
        .map(|n| writer(dice, n, topics, records.div_ceil(count)))
        .collect();
    if dice.one_in(3) {
        writers.push(WriterDraw {
            acks: 0,
            is_idempotent: false,
            records: 500,
            ..writer(dice, count, topics, 0)
        });
    }
    writers
}

fn writer(dice: &mut Dice, n: u64, topics: &[TopicDraw], records: u64) -> WriterDraw {
    // Some write large batches, which take the direct path.
    let is_large = dice.one_in(4);
    let is_idempotent = dice.one_in(2);
    let first = n as usize % topics.len();
    let mut chosen = vec![first];
    if dice.one_in(2) && topics.len() > 1 {
        chosen.push((first + 1) % topics.len());
    }
    WriterDraw {
        is_idempotent,
        acks: if is_idempotent || dice.one_in(2) {
            -1
        } else {
            1
        },
        in_flight: dice.of(1..=5) as usize,
        codec: match dice.of(0..=9) {
            0 => Codec::Gzip,
            1 => Codec::Snappy,
            2 => Codec::Lz4,
            3 => Codec::Zstd,
            _ => Codec::None,
        },
        batch_records: if is_large {
            40..=60
        } else {
            match dice.of(0..=2) {
                0 => 1..=10,
                1 => 5..=40,
                _ => 30..=80,
            }
        },
        value_bytes: if is_large {
            500..=2_500
        } else {
            8..=dice.of(20..=300)
        },
        partitions_per_request: dice.of(1..=3),
        pause_us_max: dice.pick(&[0, 1_000, 20_000]),
        produce_version: dice.of(9..=13) as i16,
        topics: chosen,
        records,
    }
}

fn group(dice: &mut Dice, n: u64, topics: &[TopicDraw]) -> GroupDraw {
    let first = n as usize % topics.len();
    let mut chosen = vec![first];
    if dice.one_in(2) && topics.len() > 1 {
        chosen.push((first + 1) % topics.len());
    }
    GroupDraw {
        name: format!("group-{n}"),
        topics: chosen,
        members: dice.of(2..=3) as usize,
        has_static_members: dice.one_in(4),
        session_timeout_ms: dice.of(1_000..=4_000) as i32,
    }
}

fn engine(dice: &mut Dice) -> EngineDraw {
    let log_file_bytes = dice.pick(&[256 << 10, 512 << 10, 1 << 20, 2 << 20]);
    EngineDraw {
        unflushed_max_bytes: dice.pick(&[512 << 10, 1 << 20, 4 << 20]),
        log_file_bytes,
        first_log_file_bytes: dice.pick(&[64 << 10, 128 << 10, 256 << 10]),
        group_max_bytes: dice.pick(&[16 << 10, 64 << 10, 1 << 20]),
        direct_min_bytes: dice.pick(&[32 << 10, 64 << 10, 256 << 10]),
        tail_memory_bytes: dice.pick(&[4 << 20, 16 << 20]),
        segment_divisor: dice.pick(&[1, 4, 16]),
        retention_check_interval_ms: dice.of(50..=1_000),
        open_files: dice.pick(&[16, 64, 1024]),
    }
}
