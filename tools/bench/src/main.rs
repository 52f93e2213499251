//! `trireme-bench`: load for any Kafka broker, for the bare engine, and for the bare machine.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

mod batch;
mod consume;
mod engine;
mod limit;
mod pace;
mod produce;
mod report;
mod server;
mod wire;

use std::time::Instant;

use anyhow::{Result, bail, ensure};
use clap::{Parser, Subcommand};

use consume::{ConsumeArgs, Range, Received};
use produce::{ProduceArgs, Sent};
use report::{Report, Window};
use server::{Server, machine_cpu_seconds};

/// Measures a message broker that speaks Kafka's protocol (Trireme or another), Trireme's bare engine, and what the
/// machine itself can do with the same system calls.
///
/// Every run prints records/s, MB/s, records per batch and per sync, the broker's CPU seconds per million records, and
/// latencies. With --rate the load is open-loop: a record's latency counts from when it was due, not from when the
/// generator came round to sending it.
#[derive(Parser)]
#[command(version, max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// One line of JSON for each run
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Send records and wait for their acknowledgements
    Produce {
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        produce: ProduceArgs,
    },
    /// Read a topic from its start to its present end
    Consume {
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        consume: ConsumeArgs,
    },
    /// Produce and consume at once; latency is end to end, and everything sent must come back, once and in order
    Run {
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        produce: ProduceArgs,
        #[command(flatten)]
        consume: ConsumeArgs,
    },
    /// The storage engine alone, without sockets
    Engine(engine::EngineArgs),
    /// A bare pipeline of the same system calls on the same cores: what a broker could reach at most
    Limit(limit::LimitArgs),
    #[command(hide = true)]
    LimitServer(limit::ServerArgs),
}

#[derive(Clone, clap::Args)]
struct Target {
    /// Any Kafka broker
    #[arg(long, default_value = "127.0.0.1:9092")]
    bootstrap: String,
    #[arg(long, default_value = "trireme-bench")]
    topic: String,
    /// Partitions; the topic is created with them if it does not exist
    #[arg(long, default_value_t = 12)]
    partitions: i32,
    /// Delete and create the topic first
    #[arg(long)]
    fresh: bool,
    /// Configuration of a topic that is created, e.g. retention.ms=3600000
    #[arg(long = "config", value_parser = parse_config)]
    configs: Vec<(String, String)>,
    /// The broker's process, for its CPU time; found by itself where the broker runs on this machine
    #[arg(long)]
    server_pid: Option<u32>,
    /// Trireme's admin address, for its number of syncs
    #[arg(long)]
    admin: Option<String>,
}

fn parse_config(text: &str) -> Result<(String, String), String> {
    text.split_once('=')
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .ok_or_else(|| "name=value".into())
}

impl Target {
    /// Makes the topic as asked for; the offsets of its partitions as they are now.
    fn prepare(&self) -> Result<Vec<Range>> {
        let mut admin = wire::Admin::connect(&self.bootstrap)?;
        if self.fresh {
            admin.delete_topic(&self.topic)?;
        }
        // A deleted topic may take a moment to go.
        let mut tries = 0;
        while admin.partitions(&self.topic).is_err() || (self.fresh && tries == 0) {
            match admin.create_topic(&self.topic, self.partitions, &self.configs) {
                Ok(()) => tries += 1,
                Err(error) if tries > 100 => return Err(error),
                Err(_) => {
                    tries += 1;
                    std::thread::sleep(std::time::Duration::from_millis(50));
                    continue;
                }
            }
        }
        let count = admin.partitions(&self.topic)?;
        ensure!(
            count == self.partitions,
            "topic {} has {count} partitions: give --partitions {count}, --fresh, or another --topic",
            self.topic
        );
        let offsets = admin.offsets(&self.topic, count)?;
        Ok((0..)
            .zip(offsets)
            .map(|(partition, (next, end))| Range {
                partition,
                next,
                end,
            })
            .collect())
    }

    fn server(&self) -> Server {
        Server::find(self.server_pid, &self.bootstrap, self.admin.clone())
    }
}

/// Runs `work` with readings around it.
fn measure<T>(server: &Server, work: impl FnOnce(Instant) -> Result<T>) -> Result<(T, Window)> {
    let (before, machine_before) = (server.spent(), machine_cpu_seconds());
    let start = Instant::now();
    let value = work(start)?;
    let elapsed = start.elapsed();
    let (after, machine_after) = (server.spent(), machine_cpu_seconds());
    Ok((
        value,
        Window {
            before,
            after,
            machine_before,
            machine_after,
            elapsed,
        },
    ))
}

fn produced(what: String, sent: &[Sent], window: &Window) -> Result<Report> {
    let sum = |f: fn(&Sent) -> u64| sent.iter().map(f).sum::<u64>();
    let mut latency = report::histogram();
    for one in sent {
        latency.add(&one.latency)?;
    }
    Ok(Report::new(
        what,
        sum(|s| s.records),
        sum(|s| s.batches),
        sum(|s| s.bytes),
        window,
    )
    .with_latency(&latency))
}

fn describe(target: &Target, args: &ProduceArgs) -> String {
    format!(
        "produce to {}, {} partitions, records of {} B, batches of {} B, acks={}, {:?}, {} connections, {}",
        target.bootstrap,
        target.partitions,
        args.record_size,
        args.batch_bytes,
        args.acks,
        args.compression,
        args.connections,
        args.rate
            .map_or("as fast as it answers".into(), |r| format!("{r} records/s")),
    )
}

fn consumed(what: String, got: &Received, window: &Window) -> Report {
    Report::new(what, got.records, got.batches, got.bytes, window).with_latency(&got.latency)
}

/// Whether what was sent came back; the sentence for the report.
fn verdict(sent: &[Sent], got: &Received) -> Result<String> {
    let missing: u64 = sent
        .iter()
        .map(|s| got.seen.missing(s.producer, s.records))
        .sum();
    let total: u64 = sent.iter().map(|s| s.records).sum();
    let seen = &got.seen;
    let text = format!(
        "sent {total}, came back {}: {missing} missing, {} doubled, {} out of order",
        seen.records, seen.doubled, seen.disordered
    );
    if missing + seen.doubled + seen.disordered > 0 {
        bail!("{text}");
    }
    Ok(text)
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    match cli.command {
        Command::Produce { target, produce } => {
            target.prepare()?;
            let (sent, window) = measure(&target.server(), |start| {
                produce::run(
                    &target.bootstrap,
                    &target.topic,
                    target.partitions,
                    &produce,
                    start,
                )
            })?;
            produced(describe(&target, &produce), &sent, &window)?.print(cli.json);
        }
        Command::Consume { target, consume } => {
            let ranges = target.prepare()?;
            let (got, window) = measure(&target.server(), |_| {
                consume::run(&target.bootstrap, &target.topic, &ranges, &consume, None)
            })?;
            consumed(
                format!(
                    "consume from {}, {} partitions",
                    target.bootstrap, target.partitions
                ),
                &got,
                &window,
            )
            .print(cli.json);
        }
        Command::Run {
            target,
            produce,
            mut consume,
        } => {
            consume.verify = true;
            let ranges = target.prepare()?;
            let server = target.server();
            let ((sent, got), window) = measure(&server, |start| {
                both(&target, &ranges, &produce, &consume, start)
            })?;
            produced(describe(&target, &produce), &sent, &window)?.print(cli.json);
            let mut report = consumed(
                "consume at the same time; latency is end to end".into(),
                &got,
                &window,
            );
            report.verified = Some(verdict(&sent, &got)?);
            report.print(cli.json);
        }
        Command::Engine(args) => engine::run(&args)?.print(cli.json),
        Command::Limit(args) => limit::run(&args, cli.json)?,
        Command::LimitServer(args) => limit::serve(&args)?,
    }
    Ok(())
}

/// How many records a producer will put where is decided by its round; the consumers' ends follow from it.
fn both(
    target: &Target,
    ranges: &[Range],
    produce: &ProduceArgs,
    consume: &ConsumeArgs,
    start: Instant,
) -> Result<(Vec<Sent>, Received)> {
    let counts = produce::plan(target.partitions, produce)?;
    let ranges: Vec<Range> = ranges
        .iter()
        .map(|r| Range {
            partition: r.partition,
            next: r.end,
            end: r.end + counts[r.partition as usize] as i64,
        })
        .collect();
    std::thread::scope(|scope| {
        let consumer = scope.spawn(|| {
            consume::run(
                &target.bootstrap,
                &target.topic,
                &ranges,
                consume,
                Some(start),
            )
        });
        let sent = produce::run(
            &target.bootstrap,
            &target.topic,
            target.partitions,
            produce,
            start,
        )?;
        let got = consumer.join().expect("the consumer panicked")?;
        Ok((sent, got))
    })
}
