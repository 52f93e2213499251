//! Load on the bare engine: appends of ready-made batches on its own core, with a bounded number under way, no sockets.
//! The batches are checked (CRC) before each append, as a connection's core would.

use std::cell::Cell;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Instant;

use anyhow::{Result, anyhow};
use bytes::Bytes;
use trireme_engine::Engine;
use trireme_engine::api::{
    Ack, Append, EngineConfig, Isolation, PartitionConfig, PartitionId, PartitionRef, ReadRequest,
    TopicId,
};
use trireme_engine::batch;
use trireme_runtime::sync::{Semaphore, WaitGroup};
use trireme_runtime::{NodeConfig, PerCore, run_node, service, spawn};

use crate::batch::{BatchMaker, Compression, Stamp};
use crate::report::{Report, Window, histogram};
use crate::server::{Spent, cpu_seconds, machine_cpu_seconds};

#[derive(clap::Args, Clone)]
pub struct EngineArgs {
    /// Records to append in all
    #[arg(long, default_value_t = 5_000_000)]
    records: u64,
    #[arg(long, default_value_t = 1000)]
    record_size: usize,
    #[arg(long, default_value_t = 65_536)]
    batch_bytes: usize,
    #[arg(long, default_value_t = 12)]
    partitions: u32,
    /// Appends under way
    #[arg(long, default_value_t = 64)]
    in_flight: u64,
    /// Never send a run straight to its segment: everything through the commit log
    #[arg(long)]
    no_direct: bool,
    /// Read everything back afterwards
    #[arg(long)]
    read: bool,
    /// Where the engine writes; must not exist
    #[arg(long, default_value = "./engine-data")]
    dir: PathBuf,
}

pub fn run(args: &EngineArgs) -> Result<Report> {
    let (out, result) = std::sync::mpsc::channel();
    let mail = PerCore::new(service(1));
    let work = args.clone();
    run_node(NodeConfig::with_cores(1), move |core| {
        let (mail, out, args) = (mail.take(core), out.clone(), work.clone());
        async move {
            let _ = out.send(bench(args, mail).await);
        }
    })?;
    let report = result.recv()?;
    std::fs::remove_dir_all(&args.dir)?;
    report
}

async fn bench(
    args: EngineArgs,
    mail: trireme_runtime::Service<
        trireme_engine::api::ShardRequest,
        trireme_engine::api::ShardReply,
    >,
) -> Result<Report> {
    let mut config = EngineConfig::new(&args.dir);
    if args.no_direct {
        config.direct_min_bytes = u32::MAX;
    }
    Engine::prepare(&config).await?;
    let engine = Engine::open(config, 0, 1, mail).await?;
    let partitions: Vec<PartitionRef> = (0..args.partitions)
        .map(|index| PartitionRef {
            id: PartitionId {
                topic: TopicId([7; 16]),
                index,
            },
            shard: 0,
        })
        .collect();
    for result in engine
        .create(
            partitions
                .iter()
                .map(|p| (*p, PartitionConfig::default()))
                .collect(),
        )
        .await
    {
        result?;
    }

    let maker = BatchMaker::new(args.record_size, args.batch_bytes, Compression::None)?;
    let mut bytes = Vec::new();
    let per_batch = maker.append(
        &mut bytes,
        Stamp {
            producer: 0,
            sequence: 0,
            due_ns: 0,
        },
        u64::MAX,
        trireme_runtime::unix_ms(),
    )? as u64;
    let bytes = Bytes::from(bytes);
    let batches = args.records.div_ceil(per_batch);

    let pid = std::process::id();
    let spent = |engine: &Engine| Spent {
        cpu_seconds: cpu_seconds(pid).unwrap_or(f64::NAN),
        syncs: Some(engine.stats().groups as f64),
    };
    let (before, machine_before, start) = (spent(&engine), machine_cpu_seconds(), Instant::now());
    let room = Rc::new(Semaphore::new(args.in_flight));
    let under_way = WaitGroup::new();
    let latency = Rc::new(std::cell::RefCell::new(histogram()));
    let failed: Rc<Cell<Option<String>>> = Rc::default();
    for n in 0..batches {
        room.acquire(1).await.forget();
        batch::validate(&bytes, &batch::Limits::client(bytes.len())).map_err(|e| anyhow!("{e}"))?;
        let partition = partitions[(n % u64::from(args.partitions)) as usize];
        let sent = Instant::now();
        let append = engine.append(vec![Append {
            partition,
            batches: bytes.clone(),
            ack: Ack::Committed,
            may_use_reserve: false,
        }]);
        let (room, latency, failed, guard) = (
            room.clone(),
            latency.clone(),
            failed.clone(),
            under_way.enter(),
        );
        spawn(async move {
            if let Some(Err(error)) = append.await.into_iter().next() {
                failed.set(Some(error.to_string()));
            }
            latency
                .borrow_mut()
                .saturating_record_n(sent.elapsed().as_nanos() as u64, per_batch);
            room.release(1);
            drop(guard);
        })
        .detach();
    }
    under_way.wait().await;
    let elapsed = start.elapsed();
    let window = Window {
        before,
        after: spent(&engine),
        machine_before,
        machine_after: machine_cpu_seconds(),
        elapsed,
    };
    if let Some(error) = failed.take() {
        return Err(anyhow!("append: {error}"));
    }
    let what = format!(
        "bare engine{}: {} partitions, records of {} B, batches of {} B, {} under way, every acknowledgement on disk",
        if args.no_direct {
            ", commit log only"
        } else {
            ""
        },
        args.partitions,
        args.record_size,
        args.batch_bytes,
        args.in_flight
    );
    let mut report = Report::new(
        what,
        batches * per_batch,
        batches,
        batches * bytes.len() as u64,
        &window,
    )
    .with_latency(&latency.borrow());
    let stats = engine.stats();
    report.verified = Some(format!(
        "direct {:.1} MB in {} runs, through the log {:.1} MB in {} groups, flushed {:.1} MB",
        stats.direct_bytes as f64 / 1e6,
        stats.direct_runs,
        stats.group_bytes as f64 / 1e6,
        stats.groups,
        stats.flushed_bytes as f64 / 1e6
    ));
    if args.read {
        let start = Instant::now();
        let mut read = 0;
        for partition in &partitions {
            let mut offset = 0;
            loop {
                let request = ReadRequest {
                    partition: *partition,
                    offset,
                    max_bytes: 1 << 20,
                    at_least_one: true,
                    isolation: Isolation::HighWatermark,
                    leader_epoch: None,
                };
                let result = engine.read(vec![request]).await.remove(0)?;
                if result.bytes == 0 {
                    break;
                }
                read += u64::from(result.bytes);
                offset = result.next_offset;
            }
        }
        let text = report.verified.take().unwrap_or_default();
        report.verified = Some(format!(
            "{text}; read back {:.1} MB/s",
            read as f64 / start.elapsed().as_secs_f64() / 1e6
        ));
    }
    engine.shutdown().await;
    Ok(report)
}
