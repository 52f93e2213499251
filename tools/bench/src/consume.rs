//! Load on the fetch side: each connection reads its share of the partitions, from given offsets up to given ends.

use std::collections::BTreeMap;
use std::io::Write;
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use hdrhistogram::Histogram;

use crate::batch::next_batch;
use crate::report::histogram;
use crate::wire::{self, FETCH, Request, Response};

#[derive(Clone, clap::Args, Debug)]
pub struct ConsumeArgs {
    /// Connections; the partitions are dealt out to them
    #[arg(long, default_value_t = 1)]
    pub consumers: usize,
    /// Most bytes of one partition in one fetch
    #[arg(long, default_value_t = 1 << 20)]
    pub partition_bytes: i32,
    /// Most bytes of one fetch
    #[arg(long, default_value_t = 50 << 20)]
    pub fetch_bytes: i32,
    /// How long the broker may hold a fetch that finds nothing
    #[arg(long, default_value_t = 500)]
    pub max_wait_ms: i32,
    /// Check every batch's CRC and every record's stamp
    #[arg(long)]
    pub verify: bool,
}

/// Which records of each producer came, and in which order per partition.
#[derive(Default)]
pub struct Seen {
    /// A bit for each sequence, by producer.
    bits: BTreeMap<u16, Vec<u64>>,
    /// Newest sequence by (producer, partition).
    newest: BTreeMap<(u16, i32), u64>,
    pub records: u64,
    pub doubled: u64,
    pub disordered: u64,
}

impl Seen {
    fn note(&mut self, producer: u16, partition: i32, sequence: u64) {
        let bits = self.bits.entry(producer).or_default();
        let word = (sequence / 64) as usize;
        if bits.len() <= word {
            bits.resize(word + 1, 0);
        }
        let bit = 1 << (sequence % 64);
        self.doubled += u64::from(bits[word] & bit != 0);
        bits[word] |= bit;
        self.records += 1;
        if let Some(before) = self.newest.insert((producer, partition), sequence) {
            self.disordered += u64::from(before >= sequence);
        }
    }

    pub fn merge(&mut self, other: Seen) {
        for (producer, bits) in other.bits {
            let mine = self.bits.entry(producer).or_default();
            mine.resize(mine.len().max(bits.len()), 0);
            for (a, b) in mine.iter_mut().zip(bits) {
                self.doubled += u64::from((*a & b).count_ones());
                *a |= b;
            }
        }
        self.records += other.records;
        self.doubled += other.doubled;
        self.disordered += other.disordered;
    }

    /// How many of `producer`'s first `count` records did not come.
    pub fn missing(&self, producer: u16, count: u64) -> u64 {
        let came: u64 = self.bits.get(&producer).map_or(0, |bits| {
            bits.iter().map(|b| u64::from(b.count_ones())).sum()
        });
        count.saturating_sub(came)
    }
}

pub struct Received {
    pub records: u64,
    pub batches: u64,
    pub bytes: u64,
    pub seen: Seen,
    /// From a record's due time to its receipt; only where the producers ran in this process and stamps were read.
    pub latency: Histogram<u64>,
}

/// One partition's range: read from `next` until `end`.
#[derive(Clone, Copy, Debug)]
pub struct Range {
    pub partition: i32,
    pub next: i64,
    pub end: i64,
}

/// Reads everything in `ranges`. With `clock`, stamps are taken as times since then.
pub fn run(
    bootstrap: &str,
    topic: &str,
    ranges: &[Range],
    args: &ConsumeArgs,
    clock: Option<Instant>,
) -> Result<Received> {
    let consumers = args.consumers.clamp(1, ranges.len().max(1));
    let threads: Vec<_> = (0..consumers)
        .map(|n| {
            let mine: Vec<Range> = ranges.iter().skip(n).step_by(consumers).copied().collect();
            let (bootstrap, topic, args) = (bootstrap.to_owned(), topic.to_owned(), args.clone());
            thread::spawn(move || connection(&bootstrap, &topic, mine, &args, clock))
        })
        .collect();
    let mut all = Received {
        records: 0,
        batches: 0,
        bytes: 0,
        seen: Seen::default(),
        latency: histogram(),
    };
    for thread in threads {
        let one = thread.join().expect("a consumer panicked")?;
        all.records += one.records;
        all.batches += one.batches;
        all.bytes += one.bytes;
        all.seen.merge(one.seen);
        all.latency.add(&one.latency)?;
    }
    Ok(all)
}

fn connection(
    bootstrap: &str,
    topic: &str,
    mut ranges: Vec<Range>,
    args: &ConsumeArgs,
    clock: Option<Instant>,
) -> Result<Received> {
    let mut stream = wire::connect(bootstrap)?;
    let mut out = Received {
        records: 0,
        batches: 0,
        bytes: 0,
        seen: Seen::default(),
        latency: histogram(),
    };
    let mut request = Request::new(FETCH, 0);
    let mut buffer = Vec::new();
    let mut correlation = 0;
    ranges.retain(|r| r.next < r.end);
    while !ranges.is_empty() {
        correlation += 1;
        request.start(FETCH, correlation);
        request.i32(-1);
        request.i32(args.max_wait_ms);
        request.i32(1);
        request.i32(args.fetch_bytes);
        request.i8(0);
        request.i32(0);
        request.i32(-1);
        request.i32(1);
        request.string(topic);
        request.i32(ranges.len() as i32);
        for range in &ranges {
            request.i32(range.partition);
            request.i32(-1);
            request.i64(range.next);
            request.i64(-1);
            request.i32(args.partition_bytes);
        }
        request.i32(0);
        request.string("");
        stream
            .write_all(request.finish())
            .context("the broker closed the connection")?;
        wire::receive(&mut stream, &mut buffer)?;
        let now_ns = clock.map(|c| c.elapsed().as_nanos() as u64);

        let mut r = Response(&buffer);
        ensure!(r.i32()? == correlation, "answers out of order");
        r.i32()?;
        let error = r.i16()?;
        ensure!(error == 0, "fetch: error {error}");
        r.i32()?;
        for _ in 0..r.len()? {
            r.string()?;
            for _ in 0..r.len()? {
                let (partition, error) = (r.i32()?, r.i16()?);
                ensure!(error == 0, "fetch of {topic}-{partition}: error {error}");
                r.i64()?;
                r.i64()?;
                r.i64()?;
                for _ in 0..r.len()? {
                    r.i64()?;
                    r.i64()?;
                }
                r.i32()?;
                let mut records = r.bytes()?;
                out.bytes += records.len() as u64;
                let range = ranges
                    .iter_mut()
                    .find(|x| x.partition == partition)
                    .context("a partition that was not asked for")?;
                while let Some(batch) = next_batch(&mut records, args.verify)? {
                    let next = batch.base_offset + i64::from(batch.records);
                    if next <= range.next {
                        continue;
                    }
                    ensure!(
                        batch.base_offset <= range.next,
                        "{topic}-{partition}: gap before offset {}",
                        batch.base_offset
                    );
                    range.next = next;
                    out.records += u64::from(batch.records);
                    out.batches += 1;
                    if args.verify {
                        batch.stamps(|stamp| {
                            out.seen.note(stamp.producer, partition, stamp.sequence);
                            if let Some(now_ns) = now_ns {
                                out.latency
                                    .saturating_record(now_ns.saturating_sub(stamp.due_ns));
                            }
                            Ok(())
                        })?;
                    }
                }
            }
        }
        // In turn: what came last is asked for last, so that a fetch's byte limit starves no partition.
        ranges.retain(|r| r.next < r.end);
        let turn = 1.min(ranges.len());
        ranges.rotate_left(turn);
    }
    Ok(out)
}
