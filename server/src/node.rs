//! A node: what is wired to what, from the first core's start to the last one's end. It runs on whatever the runtime runs
//! on; what a process does besides (ports, limits, signals' consequences) is its launcher's.

use crate::admin::{self, Admin, CoreReport, ReportRequest};
use crate::config::{Config, HostPort};
use crate::lifecycle::{Crew, Note};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;
use trireme_engine::Engine;
use trireme_engine::api::{EngineConfig, OpenError, ShardReply, ShardRequest};
use trireme_kafka::groups::service::{GroupMail, GroupMailReply, Groups};
use trireme_kafka::groups::{GroupConfig, InUse};
use trireme_net::{ConnectionLimit, Door, DoorConfig, DoorCounters, ReceiveMemory, Timeouts};
use trireme_replication::{
    ControllerReply, ControllerRequest, Metadata, MetadataOptions, ToPartitionConfig,
};
use trireme_runtime::{Instant, PerCore, Port, Service};

/// Why the node did not start, or ended otherwise than asked for. One line.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct NodeError(String);

impl NodeError {
    pub fn new(why: impl Into<String>) -> NodeError {
        NodeError(why.into())
    }
}

/// What the process around the node does when the node has come so far. Core 0 calls it.
#[derive(Clone, Copy)]
pub struct Hooks {
    pub ready: fn(),
    pub stopping: fn(),
    /// Asked a second time to stop.
    pub hurry: fn(),
}

/// What every core gets; one process's life long.
#[derive(Clone)]
pub struct Plan {
    config: Arc<Config>,
    engine: EngineConfig,
    cores: usize,
    kafka: SocketAddr,
    admin: Option<SocketAddr>,
    advertised: HostPort,
    limit: ConnectionLimit,
    receive_memory: Vec<Arc<AtomicUsize>>,
    groups_in_use: InUse,
    hooks: Hooks,
    to_partition_config: ToPartitionConfig,
}

/// Where a node is reached.
#[derive(Clone)]
pub struct Addresses {
    /// With its real port.
    pub kafka: SocketAddr,
    pub admin: Option<SocketAddr>,
    /// Where Kafka clients are told to connect.
    pub advertised: HostPort,
}

impl Plan {
    /// `engine` as [`engine_config`] makes it, or with other bounds. `config.data_dir` is told to clients: absolute.
    pub fn new(
        config: Config,
        engine: EngineConfig,
        cores: usize,
        addresses: Addresses,
        hooks: Hooks,
    ) -> Plan {
        Plan {
            cores,
            kafka: addresses.kafka,
            admin: addresses.admin,
            advertised: addresses.advertised,
            limit: ConnectionLimit::new(config.max_connections),
            receive_memory: (0..cores).map(|_| Arc::default()).collect(),
            groups_in_use: InUse::default(),
            engine,
            hooks,
            to_partition_config: trireme_kafka::configs::to_partition_config,
            config: Arc::new(config),
        }
    }

    /// Takes another view of what a topic's configuration means to the engine: the simulator's segments are smaller than
    /// Kafka lets anybody ask for.
    pub fn with_partition_config(self, to_partition_config: ToPartitionConfig) -> Plan {
        Plan {
            to_partition_config,
            ..self
        }
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The data directory as clients are told it.
    fn data_dir(&self) -> String {
        self.config.data_dir.display().to_string()
    }

    /// Kafka's broker settings: what is given, and what follows from this node.
    fn broker_configs(&self) -> BTreeMap<String, String> {
        let mut configs = self.config.kafka_broker.clone();
        let own = [
            (
                "advertised.listeners",
                format!("PLAINTEXT://{}", self.advertised),
            ),
            ("listeners", format!("PLAINTEXT://{}", self.kafka)),
            ("log.dirs", self.data_dir()),
        ];
        configs.extend(own.map(|(name, value)| (name.to_owned(), value)));
        configs
    }
}

/// A core's ends of everything between cores.
pub struct Ends {
    crew: Port<Note<Step>>,
    engine: Service<ShardRequest, ShardReply>,
    metadata: Service<ControllerRequest, ControllerReply>,
    groups: Service<GroupMail, GroupMailReply>,
    reports: Service<ReportRequest, CoreReport>,
}

impl Ends {
    /// Those of all cores; each takes its own.
    pub fn of(cores: usize) -> PerCore<Ends> {
        let ends = trireme_runtime::mesh(cores)
            .into_iter()
            .zip(trireme_runtime::service(cores))
            .zip(trireme_runtime::service(cores))
            .zip(trireme_runtime::service(cores))
            .zip(trireme_runtime::service(cores))
            .map(|((((crew, engine), metadata), groups), reports)| Ends {
                crew,
                engine,
                metadata,
                groups,
                reports,
            });
        PerCore::new(ends)
    }
}

/// What core 0 has everybody do next.
#[derive(Clone, Copy)]
enum Step {
    /// Recover the shards; so many exist.
    Open { shards: u16 },
    /// Metadata, doors.
    Serve,
    /// No connection is left anywhere: close the coordinators, which may still write.
    CloseGroups,
    /// Nobody writes any more: close the engine.
    CloseEngine,
}

/// One core of a node, until the node has stopped. Core 0's result is the node's.
pub async fn core_main(core: usize, plan: Plan, ends: Ends) -> Result<(), NodeError> {
    let Ends {
        crew,
        engine,
        metadata,
        groups,
        reports,
    } = ends;
    let crew = Crew::new(crew, core, plan.cores);
    let captain = (core == 0).then(|| trireme_runtime::spawn(lead(crew.clone(), plan.clone())));
    let stop = crew.stop_token().clone();
    let hand = Hand { core, crew, plan };
    // A start that fails somewhere leaves others waiting for it, so the stop ends them.
    if let Some(Some(opened)) = stop
        .run_until_canceled(hand.start(engine, metadata, groups, reports))
        .await
    {
        hand.serve(opened).await;
    }
    match captain {
        Some(captain) => captain.await,
        None => Ok(()),
    }
}

/// Core 0's part: has everybody take the next step when all have taken the last one.
async fn lead(crew: Rc<Crew<Step>>, plan: Plan) -> Result<(), NodeError> {
    let started = trireme_runtime::now();
    match lead_start(&crew, &plan).await {
        Ok(()) => {}
        Err(error) => {
            crew.stop_all();
            return Err(error);
        }
    }
    let failed = |failed: crate::lifecycle::Failed| NodeError(failed.0);
    announce(&plan, started);
    trireme_runtime::signal::terminated().await;
    let stopping = trireme_runtime::now();
    tracing::info!("stopping: finishing what was accepted");
    let hooks = plan.hooks;
    (hooks.stopping)();
    trireme_runtime::spawn(async move {
        trireme_runtime::signal::terminated().await;
        (hooks.hurry)();
    })
    .detach();
    crew.stop_all();
    crew.all_done().await.map_err(failed)?;
    for step in [Step::CloseGroups, Step::CloseEngine] {
        crew.lead(step);
        crew.all_done().await.map_err(failed)?;
    }
    tracing::info!(ms = stopping.elapsed().as_millis() as u64, "stopped");
    Ok(())
}

async fn lead_start(crew: &Crew<Step>, plan: &Plan) -> Result<(), NodeError> {
    let engine = EngineConfig {
        shards: plan.cores as u16,
        ..plan.engine.clone()
    };
    let shards = Engine::prepare(&engine)
        .await
        .map_err(|error| NodeError(explain_open(&error, plan)))?;
    for step in [Step::Open { shards }, Step::Serve] {
        if matches!(step, Step::Serve) {
            // Whoever reaches us may end us, and is to see a clean stop. A long recovery before that may be broken off.
            trireme_runtime::signal::hold();
        }
        crew.lead(step);
        crew.all_done()
            .await
            .map_err(|failed| NodeError(failed.0))?;
    }
    Ok(())
}

fn announce(plan: &Plan, started: Instant) {
    let admin = plan
        .admin
        .map_or("off".to_owned(), |address| address.to_string());
    tracing::info!(
        kafka = %plan.kafka,
        advertised = %plan.advertised,
        admin,
        data = %plan.config.data_dir.display(),
        cores = plan.cores,
        ms = started.elapsed().as_millis() as u64,
        "ready"
    );
    (plan.hooks.ready)();
}

/// The engine as the configuration wants it; `tail_memory_bytes` holds where that leaves it to the machine.
pub fn engine_config(config: &Config, tail_memory_bytes: u64) -> EngineConfig {
    EngineConfig {
        tail_memory_bytes: config.tail_memory_bytes.unwrap_or(tail_memory_bytes),
        unflushed_max_bytes: config.unflushed_max_bytes,
        wal_file_bytes: config.wal_file_bytes,
        fd_cache: config.open_files,
        reserve_bytes: config.reserve_bytes,
        scrub_period_ms: config.scrub_period.as_millis() as u64,
        scrub_bytes_per_second: config.scrub_bytes_per_second,
        retention_check_interval_ms: config.kafka("log.retention.check.interval.ms"),
        producer_id_expiration_ms: config.kafka("producer.id.expiration.ms"),
        ..EngineConfig::new(&config.data_dir)
    }
}

/// One line that says what to do about a data directory that does not open.
fn explain_open(error: &OpenError, plan: &Plan) -> String {
    let dir = plan.config.data_dir.display();
    match error {
        OpenError::Locked => format!("data directory {dir} is in use by another process"),
        OpenError::Damaged { .. } => {
            format!(
                "data directory {dir}: {error}; nothing was changed; `trireme-fsck verify {dir}` says more, `trireme-fsck repair {dir}` keeps what can be trusted"
            )
        }
        _ => format!("data directory {dir}: {error}"),
    }
}

/// A data directory is of the node that began it: its partitions name it as their replica.
fn same_node(plan: &Plan, kept: i32) -> Result<(), String> {
    match plan.config.kafka_broker.get("node.id") {
        Some(given) if *given != kept.to_string() => Err(format!(
            "kafka.node.id = {given}, but data directory {} is of node {kept}",
            plan.config.data_dir.display()
        )),
        _ => Ok(()),
    }
}

/// One core's part.
struct Hand {
    core: usize,
    crew: Rc<Crew<Step>>,
    plan: Plan,
}

/// What a core has opened.
struct Opened {
    engine: Engine,
    groups: Groups,
    kafka: Rc<trireme_kafka::Door>,
    kafka_door: Door,
    admin: Option<(Rc<Admin>, Door)>,
}

impl Hand {
    /// Opens everything; `None` if somebody failed.
    async fn start(
        &self,
        engine_mail: Service<ShardRequest, ShardReply>,
        metadata_mail: Service<ControllerRequest, ControllerReply>,
        group_mail: Service<GroupMail, GroupMailReply>,
        reports: Service<ReportRequest, CoreReport>,
    ) -> Option<Opened> {
        let Step::Open { shards } = self.crew.follow().await? else {
            unreachable!("the first step is to open")
        };
        let config = EngineConfig {
            shards,
            ..self.plan.engine.clone()
        };
        let engine = match Engine::open(config, self.core, self.plan.cores, engine_mail).await {
            Ok(engine) => engine,
            Err(error) => return self.fail(explain_open(&error, &self.plan)),
        };
        self.crew.report(Ok(()));
        self.crew.follow().await?;
        let options = MetadataOptions {
            node_id: self.plan.config.kafka("node.id"),
            broker_defaults: self.plan.config.kafka_broker.clone(),
            to_partition_config: self.plan.to_partition_config,
            shards,
        };
        let metadata = match Metadata::open(
            engine.clone(),
            self.core,
            self.plan.cores,
            metadata_mail,
            options,
        )
        .await
        {
            Ok(metadata) => metadata,
            Err(error) => return self.fail(format!("metadata: {error}")),
        };
        if let Err(error) = same_node(&self.plan, metadata.image().node_id) {
            return self.fail(error);
        }
        let settings = match GroupConfig::from_settings(&self.plan.config.kafka_broker) {
            Ok(settings) => GroupConfig {
                in_use: self.plan.groups_in_use.clone(),
                ..settings
            },
            Err(error) => return self.fail(error),
        };
        let (core, cores) = (self.core, self.plan.cores);
        let groups = Groups::open(
            engine.clone(),
            metadata.clone(),
            group_mail,
            core,
            cores,
            settings,
        );
        let opened = match self.open_doors(engine, metadata, groups, Rc::new(reports)) {
            Ok(opened) => opened,
            Err(error) => return self.fail(error),
        };
        self.crew.report(Ok(()));
        Some(opened)
    }

    fn fail<T>(&self, reason: String) -> Option<T> {
        self.crew.report(Err(reason));
        None
    }

    /// From here on the kernel completes connections.
    fn open_doors(
        &self,
        engine: Engine,
        metadata: Metadata,
        groups: Groups,
        reports: Rc<Service<ReportRequest, CoreReport>>,
    ) -> Result<Opened, String> {
        let plan = &self.plan;
        let kafka_config = trireme_kafka::DoorConfig::from_settings(
            plan.advertised.host.clone(),
            plan.advertised.port,
            plan.data_dir(),
            &plan.broker_configs(),
        )?;
        let kafka =
            trireme_kafka::Door::new(kafka_config, engine.clone(), metadata, groups.clone());
        let gauge = plan.receive_memory[self.core].clone();
        let limit = plan.config.receive_memory_bytes / plan.cores;
        let memory = ReceiveMemory::with_gauge(limit, kafka.config.max_request_bytes, gauge);
        let kafka_door = Door::bind(DoorConfig {
            addr: plan.kafka,
            limit: plan.limit.clone(),
            timeouts: Timeouts {
                frame: plan.config.frame_timeout,
                write: plan.config.write_timeout,
                drain: plan.config.drain_timeout,
                idle: Duration::from_millis(plan.config.kafka("connections.max.idle.ms")),
            },
            memory: memory.clone(),
            counters: Arc::default(),
        })
        .map_err(|error| format!("kafka.listen {}: {error}", plan.kafka))?;
        let admin = match plan.admin {
            Some(addr) if self.core == 0 => {
                let door = Door::bind(DoorConfig {
                    addr,
                    limit: ConnectionLimit::new(admin::MAX_CONNECTIONS),
                    timeouts: admin::TIMEOUTS,
                    memory,
                    counters: Arc::default(),
                })
                .map_err(|error| format!("admin.listen {addr}: {error}"))?;
                let admin = Admin {
                    cores: plan.cores,
                    reports: reports.clone(),
                    stop: self.crew.stop_token().clone(),
                    started: trireme_runtime::now(),
                    receive_memory: plan.receive_memory.clone(),
                };
                Some((Rc::new(admin), door))
            }
            _ => None,
        };
        let mut doors: Vec<(&'static str, Arc<DoorCounters>)> =
            vec![("kafka", kafka_door.counters())];
        doors.extend(admin.iter().map(|(_, door)| ("admin", door.counters())));
        let reporter = kafka.clone();
        trireme_runtime::spawn(async move {
            reports
                .serve(|_, ReportRequest| admin::report(reporter.clone(), doors.clone()))
                .await;
        })
        .detach();
        Ok(Opened {
            engine,
            groups,
            kafka,
            kafka_door,
            admin,
        })
    }

    /// Serves until the stop, then closes together with the other cores.
    async fn serve(&self, opened: Opened) {
        let Opened {
            engine,
            groups,
            kafka,
            kafka_door,
            admin,
        } = opened;
        let stop = self.crew.stop_token().clone();
        let admin = admin.map(|(admin, door)| {
            let serving = door.serve(stop.clone(), move |connection| {
                admin::serve(admin.clone(), connection)
            });
            trireme_runtime::spawn(serving)
        });
        let (stopping, waiting) = (stop.clone(), groups.clone());
        trireme_runtime::spawn(async move {
            stopping.canceled().await;
            waiting.release();
        })
        .detach();
        kafka_door
            .serve(stop, move |connection| kafka.clone().serve(connection))
            .await;
        if let Some(admin) = admin {
            admin.await;
        }
        self.crew.report(Ok(()));
        loop {
            match self.crew.next_step().await {
                Step::CloseGroups => groups.shutdown().await,
                Step::CloseEngine => break,
                Step::Open { .. } | Step::Serve => unreachable!("this core serves already"),
            }
            self.crew.report(Ok(()));
        }
        engine.shutdown().await;
        self.crew.report(Ok(()));
    }
}
