//! `/metrics`: every core tells its numbers when asked, and they become OpenMetrics text. Nothing is counted for it that the
//! parts do not count anyway.

use super::Admin;
use hdrhistogram::Histogram;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;
use std::fmt::Error;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use trireme_engine::api::{Isolation, OffsetAnswer, OffsetQuery, ShardStats};
use trireme_net::DoorCounters;
use trireme_runtime::CoreStats;
use trireme_runtime::fs::{File, OpenOptions};

/// Asks a core for its numbers.
pub struct ReportRequest;

/// A core's numbers.
#[derive(Debug)]
pub struct CoreReport {
    pub runtime: CoreStats,
    pub engine: ShardStats,
    pub kafka: KafkaReport,
    pub lags: Vec<Lag>,
    /// The core's doors by name.
    pub doors: Vec<(&'static str, Arc<DoorCounters>)>,
}

/// The Kafka door's numbers.
#[derive(Debug, Default)]
pub struct KafkaReport {
    pub produced_batches: u64,
    pub produced_records: u64,
    pub produced_bytes: u64,
    pub produce_errors: u64,
    pub fetched_bytes: u64,
    pub fetched_file_bytes: u64,
    pub fetch_errors: u64,
    pub unknown_requests: u64,
    /// API key, requests, request bytes, response bytes.
    pub apis: Vec<(i16, u64, u64, u64)>,
}

impl KafkaReport {
    pub fn of(metrics: &trireme_kafka::metrics::Metrics) -> Self {
        let used = |(key, api): (usize, &trireme_kafka::metrics::ApiCounters)| {
            let requests = api.requests.get();
            (requests > 0).then(|| {
                (
                    key as i16,
                    requests,
                    api.request_bytes.get(),
                    api.response_bytes.get(),
                )
            })
        };
        KafkaReport {
            produced_batches: metrics.produced_batches.get(),
            produced_records: metrics.produced_records.get(),
            produced_bytes: metrics.produced_bytes.get(),
            produce_errors: metrics.produce_errors.get(),
            fetched_bytes: metrics.fetched_bytes.get(),
            fetched_file_bytes: metrics.fetched_file_bytes.get(),
            fetch_errors: metrics.fetch_errors.get(),
            unknown_requests: metrics.unknown_requests.get(),
            apis: metrics.apis.iter().enumerate().filter_map(used).collect(),
        }
    }
}

/// Partitions of one core's groups whose lag is told; a page must not grow without bound.
const MAX_LAGS: usize = 10_000;

/// How far a group's committed offset is behind the high watermark of a partition.
#[derive(Debug)]
pub struct Lag {
    pub group: String,
    pub topic: Arc<str>,
    pub partition: i32,
    pub records: u64,
}

/// This core's numbers, on the core.
pub async fn report(
    kafka: Rc<trireme_kafka::Door>,
    doors: Vec<(&'static str, Arc<DoorCounters>)>,
) -> CoreReport {
    CoreReport {
        runtime: trireme_runtime::stats(),
        engine: kafka.engine.stats(),
        kafka: KafkaReport::of(&kafka.metrics),
        lags: lags(&kafka).await,
        doors,
    }
}

/// Of the groups that this core coordinates.
async fn lags(kafka: &trireme_kafka::Door) -> Vec<Lag> {
    let image = kafka.metadata.image();
    let home = |topic: &str, partition: i32| {
        let partitions = &image.topics.get(topic)?.partitions;
        partitions.get(usize::try_from(partition).ok()?).copied()
    };
    let committed = kafka.groups.committed(MAX_LAGS).into_iter();
    let (commits, queries): (Vec<_>, Vec<_>) = committed
        .filter_map(|commit| {
            let home = home(&commit.1, commit.2)?;
            Some((
                commit,
                (home, OffsetQuery::Latest, Isolation::HighWatermark),
            ))
        })
        .unzip();
    if queries.is_empty() {
        return Vec::new();
    }
    let ends = kafka.engine.offsets(queries).await;
    let lag =
        |((group, topic, partition, offset), end): ((_, _, _, i64), Result<OffsetAnswer, _>)| {
            let records = u64::try_from(end.ok()?.offset - offset).unwrap_or(0);
            Some(Lag {
                group,
                topic,
                partition,
                records,
            })
        };
    commits.into_iter().zip(ends).filter_map(lag).collect()
}

/// Numbers of the process as a whole.
#[derive(Debug, Default)]
struct Process {
    resident_bytes: Option<u64>,
    cpu_seconds: Option<f64>,
    uptime_seconds: f64,
    receive_memory: Vec<u64>,
}

pub async fn encode(reports: Vec<CoreReport>, admin: &Admin) -> String {
    let process = Process {
        resident_bytes: resident_bytes().await,
        cpu_seconds: cpu_seconds(),
        uptime_seconds: admin.started.elapsed().as_secs_f64(),
        receive_memory: admin
            .receive_memory
            .iter()
            .map(|used| used.load(Relaxed) as u64)
            .collect(),
    };
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Snapshot { reports, process }));
    let mut text = String::new();
    match prometheus_client::encoding::text::encode(&mut text, &registry) {
        Ok(()) => text,
        Err(error) => format!("# {error}\n# EOF\n"),
    }
}

/// The kernel counts pages of this size on every machine we run on.
const PAGE_BYTES: u64 = 4096;

async fn resident_bytes() -> Option<u64> {
    let file = File::open("/proc/self/statm", OpenOptions::READ)
        .await
        .ok()?;
    let (read, text) = file.read_at(Vec::with_capacity(256), 0, 256).await;
    read.ok()?;
    let text = String::from_utf8(text).ok()?;
    let pages: u64 = text.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some(pages * PAGE_BYTES)
}

fn cpu_seconds() -> Option<f64> {
    let usage = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_SELF).ok()?;
    let seconds =
        |time: nix::sys::time::TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
    Some(seconds(usage.user_time()) + seconds(usage.system_time()))
}

#[derive(Debug)]
struct Snapshot {
    reports: Vec<CoreReport>,
    process: Process,
}

/// A value with the labels that tell it from others of its name.
type Labelled = (Vec<(&'static str, String)>, u64);

struct Page<'a>(DescriptorEncoder<'a>);

impl Page<'_> {
    fn values(
        &mut self,
        kind: MetricType,
        name: &str,
        help: &str,
        values: Vec<Labelled>,
    ) -> Result<(), Error> {
        let mut metric = self.0.encode_descriptor(name, help, None, kind)?;
        for (labels, value) in values {
            let labels = labels.as_slice();
            let mut one = metric.encode_family(&labels)?;
            match kind {
                MetricType::Counter => one.encode_counter::<NoLabelSet, _, u64>(&value, None)?,
                _ => one.encode_gauge(&value)?,
            }
        }
        Ok(())
    }

    fn single(
        &mut self,
        kind: MetricType,
        name: &str,
        help: &str,
        value: f64,
    ) -> Result<(), Error> {
        let mut metric = self.0.encode_descriptor(name, help, None, kind)?;
        match kind {
            MetricType::Counter => metric.encode_counter::<NoLabelSet, _, u64>(&value, None),
            _ => metric.encode_gauge(&value),
        }
    }

    /// `unit`: what a value of the histogram is in the unit of the name.
    fn histogram(
        &mut self,
        name: &str,
        help: &str,
        bounds: &[u64],
        unit: f64,
        cores: &[CoreReport],
        get: impl Fn(&CoreReport) -> &Histogram<u64>,
    ) -> Result<(), Error> {
        let mut metric = self
            .0
            .encode_descriptor(name, help, None, MetricType::Histogram)?;
        for (core, report) in cores.iter().enumerate() {
            let histogram = get(report);
            let mut buckets = Vec::with_capacity(bounds.len() + 1);
            let mut from = 0;
            for bound in bounds {
                buckets.push((*bound as f64 * unit, histogram.count_between(from, *bound)));
                from = bound + 1;
            }
            buckets.push((f64::INFINITY, histogram.count_between(from, u64::MAX)));
            let sum = histogram.mean() * histogram.len() as f64 * unit;
            let labels = [("core", core.to_string())];
            let labels = labels.as_slice();
            metric
                .encode_family(&labels)?
                .encode_histogram::<NoLabelSet>(sum, histogram.len(), &buckets, None)?;
        }
        Ok(())
    }
}

const SYNC_BOUNDS_US: [u64; 16] = [
    50, 100, 150, 200, 300, 500, 750, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000,
    500_000, 1_000_000,
];
const GROUP_BOUNDS_BYTES: [u64; 9] = [
    4 << 10,
    8 << 10,
    16 << 10,
    32 << 10,
    64 << 10,
    128 << 10,
    256 << 10,
    512 << 10,
    1 << 20,
];

/// Name, help, value of a core.
type Column<T> = (&'static str, &'static str, fn(&T) -> u64);

const RUNTIME_COUNTERS: &[Column<CoreStats>] = &[
    (
        "trireme_runtime_turns",
        "Turns of a core's run queue",
        |s| s.turns,
    ),
    (
        "trireme_runtime_enters",
        "System calls that hand operations to the kernel and reap completions",
        |s| s.enters,
    ),
    (
        "trireme_runtime_sleeps",
        "Of these, the ones that waited for something to happen",
        |s| s.sleeps,
    ),
    (
        "trireme_runtime_submissions",
        "Operations handed to the kernel",
        |s| s.submissions,
    ),
    ("trireme_runtime_tasks_polled", "Polls of tasks", |s| {
        s.tasks_polled
    }),
    (
        "trireme_runtime_mail_sent",
        "Messages to other cores",
        |s| s.mail_sent,
    ),
    ("trireme_runtime_wakes_sent", "Wakes of other cores", |s| {
        s.wakes_sent
    }),
    (
        "trireme_runtime_net_received_bytes",
        "Bytes received from sockets",
        |s| s.net_bytes_in,
    ),
    (
        "trireme_runtime_net_sent_bytes",
        "Bytes sent to sockets",
        |s| s.net_bytes_out,
    ),
    (
        "trireme_runtime_file_read_bytes",
        "Bytes read from files",
        |s| s.file_bytes_in,
    ),
    (
        "trireme_runtime_file_written_bytes",
        "Bytes written to files",
        |s| s.file_bytes_out,
    ),
    (
        "trireme_runtime_recv_buffers_exhausted",
        "Receives that found no buffer in the ring",
        |s| s.recv_buffers_exhausted,
    ),
];
const RUNTIME_GAUGES: &[Column<CoreStats>] = &[
    (
        "trireme_runtime_recv_buffers_in_use",
        "Receive buffers not in the ring now",
        |s| s.recv_buffers_in_use,
    ),
    (
        "trireme_runtime_operations",
        "Operations in the kernel now",
        |s| s.ops_in_flight,
    ),
];
const ENGINE_COUNTERS: &[Column<ShardStats>] = &[
    (
        "trireme_commit_groups",
        "Groups written to the commit log, one durable write each",
        |s| s.groups,
    ),
    ("trireme_commit_group_bytes", "Bytes of these groups", |s| {
        s.group_bytes
    }),
    (
        "trireme_commit_marks",
        "Commit marks written when idle",
        |s| s.marks,
    ),
    ("trireme_appended_batches", "Batches appended", |s| {
        s.appended_batches
    }),
    ("trireme_appended_records", "Records appended", |s| {
        s.appended_records
    }),
    ("trireme_appended_bytes", "Bytes appended", |s| {
        s.appended_bytes
    }),
    ("trireme_read_bytes", "Bytes read", |s| s.read_bytes),
    (
        "trireme_read_file_bytes",
        "Of these, from segments and not from memory",
        |s| s.read_from_file_bytes,
    ),
    (
        "trireme_direct_runs",
        "Runs written straight to their segment",
        |s| s.direct_runs,
    ),
    ("trireme_direct_bytes", "Bytes of these runs", |s| {
        s.direct_bytes
    }),
    ("trireme_flushes", "Writes of tails to segments", |s| {
        s.flushes
    }),
    ("trireme_flushed_bytes", "Bytes of these writes", |s| {
        s.flushed_bytes
    }),
    (
        "trireme_carried_bytes",
        "Bytes written to the commit log again so that a file of it can be reused",
        |s| s.carried_bytes,
    ),
    ("trireme_checkpoints", "Checkpoints written", |s| {
        s.checkpoints
    }),
    (
        "trireme_refused_storage_full",
        "Appends refused because the disk is full",
        |s| s.refused_storage_full,
    ),
    (
        "trireme_refused_overloaded",
        "Appends refused because too much is unflushed",
        |s| s.refused_overloaded,
    ),
    (
        "trireme_unclean_starts",
        "Shards opened after an unclean end",
        |s| s.unclean_starts,
    ),
    (
        "trireme_recovered_bytes",
        "Bytes of the commit log read at start",
        |s| s.recovered_bytes,
    ),
    (
        "trireme_scrubbed_bytes",
        "Bytes of segments read through and checked",
        |s| s.scrubbed_bytes,
    ),
    (
        "trireme_scrub_passes",
        "Times that a shard's segments were read through",
        |s| s.scrub_passes,
    ),
    (
        "trireme_scrub_damage",
        "Damaged blocks and batches that were found by that, each in every pass",
        |s| s.scrub_damage,
    ),
];
const ENGINE_GAUGES: &[Column<ShardStats>] = &[
    ("trireme_partitions", "Partitions", |s| s.partitions),
    (
        "trireme_unflushed_bytes",
        "Durable in the commit log and not in a segment yet",
        |s| s.unflushed_bytes,
    ),
    (
        "trireme_tail_memory_bytes",
        "Memory of tails and read cache",
        |s| s.tail_memory_bytes,
    ),
    (
        "trireme_scrub_damaged",
        "Damaged blocks and batches that the last pass over the segments found; not 0: repair",
        |s| s.scrub_damage_last_pass,
    ),
    (
        "trireme_scrub_last_pass_timestamp_seconds",
        "When all segments had last been read through, in Unix time; 0: not yet since the start",
        |s| (s.scrub_last_pass_ms.max(0) / 1000) as u64,
    ),
];
const KAFKA_COUNTERS: &[Column<KafkaReport>] = &[
    (
        "trireme_kafka_produced_batches",
        "Batches accepted from producers",
        |k| k.produced_batches,
    ),
    (
        "trireme_kafka_produced_records",
        "Records accepted from producers",
        |k| k.produced_records,
    ),
    (
        "trireme_kafka_produced_bytes",
        "Bytes accepted from producers",
        |k| k.produced_bytes,
    ),
    (
        "trireme_kafka_produce_errors",
        "Partitions of Produce requests answered with an error",
        |k| k.produce_errors,
    ),
    (
        "trireme_kafka_fetched_bytes",
        "Bytes of batches handed to consumers",
        |k| k.fetched_bytes,
    ),
    (
        "trireme_kafka_fetched_file_bytes",
        "Of these, straight from a file",
        |k| k.fetched_file_bytes,
    ),
    (
        "trireme_kafka_fetch_errors",
        "Partitions of Fetch requests answered with an error",
        |k| k.fetch_errors,
    ),
    (
        "trireme_kafka_unknown_requests",
        "Requests of an API or version that is not served",
        |k| k.unknown_requests,
    ),
];
const DOOR_COUNTERS: &[Column<DoorCounters>] = &[
    (
        "trireme_connections_accepted",
        "Connections accepted",
        |d| d.accepted.get(),
    ),
    (
        "trireme_connections_refused",
        "Of these, closed at once because of the connection limit",
        |d| d.refused.get(),
    ),
    ("trireme_accept_errors", "Accepts that failed", |d| {
        d.accept_errors.get()
    }),
    ("trireme_frames", "Whole frames received", |d| {
        d.frames.get()
    }),
    ("trireme_received_bytes", "Bytes received", |d| {
        d.received_bytes.get()
    }),
    ("trireme_sent_bytes", "Bytes sent", |d| d.sent_bytes.get()),
    (
        "trireme_bad_frames",
        "Frames with an impossible length",
        |d| d.bad_frames.get(),
    ),
    (
        "trireme_closed_idle",
        "Connections closed because nothing came for too long",
        |d| d.closed_idle.get(),
    ),
    (
        "trireme_closed_stalled_frame",
        "Connections closed because a frame was begun and not continued",
        |d| d.closed_stalled_frame.get(),
    ),
    (
        "trireme_closed_stalled_reader",
        "Connections closed because the peer did not read",
        |d| d.closed_stalled_reader.get(),
    ),
    (
        "trireme_closed_memory",
        "Connections closed to free receive memory",
        |d| d.closed_memory.get(),
    ),
];
const DOOR_GAUGES: &[Column<DoorCounters>] =
    &[("trireme_connections", "Open connections", |d| d.open.get())];

impl Snapshot {
    fn per_core<T>(
        &self,
        page: &mut Page<'_>,
        kind: MetricType,
        columns: &[Column<T>],
        part: impl Fn(&CoreReport) -> &T,
    ) -> Result<(), Error> {
        for (name, help, get) in columns {
            let value =
                |(core, report)| (vec![("core", usize::to_string(&core))], get(part(report)));
            page.values(
                kind,
                name,
                help,
                self.reports.iter().enumerate().map(value).collect(),
            )?;
        }
        Ok(())
    }

    fn per_door(
        &self,
        page: &mut Page<'_>,
        kind: MetricType,
        columns: &[Column<DoorCounters>],
    ) -> Result<(), Error> {
        for (name, help, get) in columns {
            let mut values = Vec::new();
            for (core, report) in self.reports.iter().enumerate() {
                for (door, counters) in &report.doors {
                    values.push((
                        vec![("core", core.to_string()), ("door", door.to_string())],
                        get(counters),
                    ));
                }
            }
            page.values(kind, name, help, values)?;
        }
        Ok(())
    }

    fn per_api(
        &self,
        page: &mut Page<'_>,
        name: &str,
        help: &str,
        get: fn(&(i16, u64, u64, u64)) -> u64,
    ) -> Result<(), Error> {
        let mut values = Vec::new();
        for (core, report) in self.reports.iter().enumerate() {
            for api in &report.kafka.apis {
                values.push((
                    vec![("core", core.to_string()), ("api_key", api.0.to_string())],
                    get(api),
                ));
            }
        }
        page.values(MetricType::Counter, name, help, values)
    }
}

impl Collector for Snapshot {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let mut page = Page(encoder);
        let process = &self.process;
        page.single(
            MetricType::Gauge,
            "trireme_uptime_seconds",
            "Seconds since the start",
            process.uptime_seconds,
        )?;
        if let Some(bytes) = process.resident_bytes {
            page.single(
                MetricType::Gauge,
                "process_resident_memory_bytes",
                "Resident memory",
                bytes as f64,
            )?;
        }
        if let Some(seconds) = process.cpu_seconds {
            page.single(
                MetricType::Counter,
                "process_cpu_seconds",
                "CPU time",
                seconds,
            )?;
        }
        let memory = process.receive_memory.iter().enumerate();
        let memory = memory
            .map(|(core, used)| (vec![("core", core.to_string())], *used))
            .collect();
        page.values(
            MetricType::Gauge,
            "trireme_receive_memory_bytes",
            "Memory of requests that have arrived",
            memory,
        )?;
        self.per_core(&mut page, MetricType::Counter, RUNTIME_COUNTERS, |report| {
            &report.runtime
        })?;
        self.per_core(&mut page, MetricType::Gauge, RUNTIME_GAUGES, |report| {
            &report.runtime
        })?;
        self.per_core(&mut page, MetricType::Counter, ENGINE_COUNTERS, |report| {
            &report.engine
        })?;
        self.per_core(&mut page, MetricType::Gauge, ENGINE_GAUGES, |report| {
            &report.engine
        })?;
        self.per_core(&mut page, MetricType::Counter, KAFKA_COUNTERS, |report| {
            &report.kafka
        })?;
        self.per_api(
            &mut page,
            "trireme_kafka_requests",
            "Requests by API key",
            |api| api.1,
        )?;
        self.per_api(
            &mut page,
            "trireme_kafka_request_bytes",
            "Bytes of requests by API key",
            |api| api.2,
        )?;
        self.per_api(
            &mut page,
            "trireme_kafka_response_bytes",
            "Bytes of responses by API key",
            |api| api.3,
        )?;
        self.per_door(&mut page, MetricType::Counter, DOOR_COUNTERS)?;
        self.per_door(&mut page, MetricType::Gauge, DOOR_GAUGES)?;
        let lags = self.reports.iter().flat_map(|report| &report.lags);
        let lags = lags.map(|lag| {
            let labels = vec![
                ("group", lag.group.clone()),
                ("topic", lag.topic.to_string()),
                ("partition", lag.partition.to_string()),
            ];
            (labels, lag.records)
        });
        page.values(
            MetricType::Gauge,
            "trireme_consumer_lag_records",
            "Records between a group's committed offset and the high watermark",
            lags.collect(),
        )?;
        page.histogram(
            "trireme_commit_sync_seconds",
            "Time until a group of the commit log is durable",
            &SYNC_BOUNDS_US,
            1e-6,
            &self.reports,
            |report| &report.engine.sync_latency_us,
        )?;
        page.histogram(
            "trireme_commit_group_size_bytes",
            "Size of a group of the commit log",
            &GROUP_BOUNDS_BYTES,
            1.0,
            &self.reports,
            |report| &report.engine.group_size_bytes,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_every_core_door_and_histogram_and_ends_properly() {
        let report = |groups| {
            let mut engine = ShardStats {
                groups,
                ..Default::default()
            };
            engine.sync_latency_us.record(120).unwrap();
            engine.sync_latency_us.record(700_000).unwrap();
            engine.sync_latency_us.record(30_000_000).unwrap();
            let door = Arc::new(DoorCounters::default());
            door.accepted.add(3);
            CoreReport {
                runtime: Default::default(),
                engine,
                kafka: KafkaReport {
                    apis: vec![(18, 5, 100, 200)],
                    ..Default::default()
                },
                lags: vec![Lag {
                    group: "g \"1\"".into(),
                    topic: "t".into(),
                    partition: 3,
                    records: 9,
                }],
                doors: vec![("kafka", door)],
            }
        };
        let snapshot = Snapshot {
            reports: vec![report(7), report(8)],
            process: Process {
                cpu_seconds: Some(1.5),
                receive_memory: vec![1, 2],
                ..Default::default()
            },
        };
        let mut registry = Registry::default();
        registry.register_collector(Box::new(snapshot));
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for line in [
            "trireme_commit_groups_total{core=\"0\"} 7",
            "trireme_commit_groups_total{core=\"1\"} 8",
            "trireme_connections_accepted_total{core=\"1\",door=\"kafka\"} 3",
            "trireme_kafka_requests_total{core=\"0\",api_key=\"18\"} 5",
            "trireme_commit_sync_seconds_count{core=\"0\"} 3",
            "trireme_commit_sync_seconds_bucket{le=\"0.00015\",core=\"0\"} 1",
            "trireme_commit_sync_seconds_bucket{le=\"1.0\",core=\"0\"} 2",
            "trireme_commit_sync_seconds_bucket{le=\"+Inf\",core=\"0\"} 3",
            "trireme_consumer_lag_records{group=\"g \\\"1\\\"\",topic=\"t\",partition=\"3\"} 9",
            "process_cpu_seconds_total 1.5",
            "trireme_receive_memory_bytes{core=\"1\"} 2",
        ] {
            assert!(
                text.lines().any(|l| l == line),
                "{line} is missing in\n{text}"
            );
        }
        assert!(text.ends_with("# EOF\n"));
    }
}
