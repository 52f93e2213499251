//! Load on the produce side: each connection has a thread that sends and one that takes the answers, in order.

use std::io::Write;
use std::net::TcpStream;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use hdrhistogram::Histogram;

use crate::batch::{BatchMaker, Compression, Stamp};
use crate::pace::Pace;
use crate::report::histogram;
use crate::wire::{self, PRODUCE, Request, Response};

#[derive(Clone, clap::Args, Debug)]
pub struct ProduceArgs {
    /// Records to send in all
    #[arg(long, default_value_t = 5_000_000)]
    pub records: u64,
    /// Bytes of a record's value
    #[arg(long, default_value_t = 100)]
    pub record_size: usize,
    /// Largest batch, before compression
    #[arg(long, default_value_t = 65_536)]
    pub batch_bytes: usize,
    /// Batches, of as many partitions, in one request
    #[arg(long, default_value_t = 1)]
    pub batches_per_request: usize,
    /// Unanswered requests of a connection
    #[arg(long, default_value_t = 5)]
    pub in_flight: usize,
    /// Connections; the partitions are dealt out to them
    #[arg(long, default_value_t = 1)]
    pub connections: usize,
    /// 0, 1 or all
    #[arg(long, default_value = "all", value_parser = parse_acks)]
    pub acks: i16,
    #[arg(long, value_enum, default_value = "none")]
    pub compression: Compression,
    /// Records per second in all (open loop); without it as fast as answers come (closed loop)
    #[arg(long)]
    pub rate: Option<f64>,
}

fn parse_acks(text: &str) -> Result<i16, String> {
    match text {
        "0" => Ok(0),
        "1" => Ok(1),
        "all" | "-1" => Ok(-1),
        _ => Err("0, 1 or all".into()),
    }
}

/// What one connection sent; everything was acknowledged (with acks=0: sent).
pub struct Sent {
    pub producer: u16,
    pub records: u64,
    pub batches: u64,
    pub bytes: u64,
    pub latency: Histogram<u64>,
}

/// Which partitions connection `n` of `connections` sends to, and how many records.
fn share(n: usize, connections: usize, partitions: i32, records: u64) -> (Vec<i32>, u64) {
    let mine = (0..partitions)
        .filter(|p| *p as usize % connections == n)
        .collect();
    (
        mine,
        records / connections as u64 + u64::from((n as u64) < records % connections as u64),
    )
}

/// How many records [`run`] will send to each partition.
pub fn plan(partitions: i32, args: &ProduceArgs) -> Result<Vec<u64>> {
    let per_batch =
        BatchMaker::new(args.record_size, args.batch_bytes, args.compression)?.records() as u64;
    let connections = args.connections.clamp(1, partitions as usize);
    let mut counts = vec![0; partitions as usize];
    for n in 0..connections {
        let (mine, mut left) = share(n, connections, partitions, args.records);
        for partition in mine.iter().cycle() {
            if left == 0 {
                break;
            }
            let batch = per_batch.min(left);
            counts[*partition as usize] += batch;
            left -= batch;
        }
    }
    Ok(counts)
}

/// A request under way: when it was due and what it holds.
struct Under {
    due_ns: u64,
    records: u64,
}

/// Sends everything; returns when the last answer is there. `start` is the zero of all stamps.
pub fn run(
    bootstrap: &str,
    topic: &str,
    partitions: i32,
    args: &ProduceArgs,
    start: Instant,
) -> Result<Vec<Sent>> {
    let connections = args.connections.clamp(1, partitions as usize);
    let threads: Vec<_> = (0..connections)
        .map(|n| {
            let (mine, records) = share(n, connections, partitions, args.records);
            let (bootstrap, topic, args) = (bootstrap.to_owned(), topic.to_owned(), args.clone());
            thread::spawn(move || {
                connection(
                    &bootstrap,
                    &topic,
                    n as u16,
                    &mine,
                    records,
                    connections,
                    &args,
                    start,
                )
            })
        })
        .collect();
    threads
        .into_iter()
        .map(|t| t.join().expect("a sender panicked"))
        .collect()
}

#[allow(clippy::too_many_arguments)]
fn connection(
    bootstrap: &str,
    topic: &str,
    producer: u16,
    partitions: &[i32],
    records: u64,
    connections: usize,
    args: &ProduceArgs,
    start: Instant,
) -> Result<Sent> {
    let mut stream = wire::connect(bootstrap)?;
    let maker = BatchMaker::new(args.record_size, args.batch_bytes, args.compression)?;
    let (under, answers) = sync_channel::<Under>(args.in_flight.max(1) - 1);
    let reader = {
        let stream = stream.try_clone()?;
        let acks = args.acks;
        thread::spawn(move || take_answers(stream, answers, acks, start))
    };

    let mut sent = Sent {
        producer,
        records: 0,
        batches: 0,
        bytes: 0,
        latency: histogram(),
    };
    let mut pace = Pace::new(start, args.rate.map(|r| r / connections as f64));
    let mut request = Request::new(PRODUCE, 0);
    let mut correlation = 0;
    let mut turn = partitions.iter().cycle();
    while sent.records < records {
        let batches = args.batches_per_request.clamp(1, partitions.len());
        let due_ns = pace.wait((maker.records() * batches) as u64);
        let now_ms = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis() as i64;
        correlation += 1;
        request.start(PRODUCE, correlation);
        request.i16(-1);
        request.i16(args.acks);
        request.i32(30_000);
        request.i32(1);
        request.string(topic);
        request.i32(0);
        let count_at = request.bytes.len() - 4;
        let (mut count, mut in_request) = (0, 0);
        while count < batches && sent.records < records {
            request.i32(*turn.next().context("no partitions")?);
            request.i32(0);
            let at = request.bytes.len();
            let stamp = Stamp {
                producer,
                sequence: sent.records,
                due_ns,
            };
            let n = maker.append(&mut request.bytes, stamp, records - sent.records, now_ms)? as u64;
            let len = (request.bytes.len() - at) as i32;
            request.bytes[at - 4..at].copy_from_slice(&len.to_be_bytes());
            (sent.records, in_request, count) = (sent.records + n, in_request + n, count + 1);
            sent.bytes += len as u64;
        }
        request.bytes[count_at..count_at + 4].copy_from_slice(&(count as i32).to_be_bytes());
        sent.batches += count as u64;
        stream
            .write_all(request.finish())
            .context("the broker closed the connection")?;
        // Blocks while too many are unanswered; an error means that the reader has one to tell.
        if args.acks != 0
            && under
                .send(Under {
                    due_ns,
                    records: in_request,
                })
                .is_err()
        {
            break;
        }
    }
    drop(under);
    sent.latency = reader.join().expect("a reader panicked")?;
    Ok(sent)
}

fn take_answers(
    mut stream: TcpStream,
    under: Receiver<Under>,
    acks: i16,
    start: Instant,
) -> Result<Histogram<u64>> {
    let mut latency = histogram();
    if acks == 0 {
        return Ok(latency);
    }
    let mut buffer = Vec::new();
    let mut correlation = 0;
    for request in under {
        wire::receive(&mut stream, &mut buffer)?;
        let now_ns = start.elapsed().as_nanos() as u64;
        correlation += 1;
        let mut r = Response(&buffer);
        ensure!(r.i32()? == correlation, "answers out of order");
        for _ in 0..r.len()? {
            let topic = r.string()?;
            for _ in 0..r.len()? {
                let (partition, error) = (r.i32()?, r.i16()?);
                ensure!(
                    error == 0,
                    "produce to {topic:?}-{partition}: error {error}"
                );
                r.i64()?;
                r.i64()?;
                r.i64()?;
            }
        }
        latency.saturating_record_n(now_ns.saturating_sub(request.due_ns), request.records);
    }
    Ok(latency)
}
