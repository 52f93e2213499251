//! The whole broker on a simulated node: what the binary starts, with small bounds.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;

use trireme::config::{Config, HostPort};
use trireme::node::{Addresses, Ends, Hooks, Plan, core_main, engine_config};
use trireme_engine::api::{EngineConfig, PartitionConfig};
use trireme_runtime::sim::{NodeId, Simulation};

use crate::draw::EngineDraw;
use crate::stage::Stage;

pub const PORT: u16 = 9092;
pub const DATA_DIR: &str = "/data";

const HOOKS: Hooks = Hooks {
    ready: || (),
    stopping: || (),
    hurry: || (),
};

pub fn address(node: NodeId) -> SocketAddr {
    SocketAddr::new(Simulation::node_ip(node), PORT)
}

/// Main of a process of the broker with so many cores.
pub fn main(stage: &Rc<Stage>, cores: usize) -> impl Fn(usize) -> MainFuture + 'static {
    let plan = plan(stage, cores);
    let ends = Ends::of(cores);
    let stage = stage.clone();
    *stage.broker_ended.borrow_mut() = None;
    move |core| {
        let (plan, ends, stage) = (plan.clone(), ends.clone(), stage.clone());
        Box::pin(async move {
            let ended = core_main(core, plan, ends.take(core)).await;
            if core == 0 {
                *stage.broker_ended.borrow_mut() = Some(ended);
            }
        })
    }
}

pub type MainFuture = std::pin::Pin<Box<dyn Future<Output = ()>>>;

fn plan(stage: &Stage, cores: usize) -> Plan {
    let mut config = Config {
        data_dir: DATA_DIR.into(),
        kafka_listen: SocketAddr::from(([0, 0, 0, 0], PORT)),
        admin_listen: None,
        max_connections: 200,
        receive_memory_bytes: 32 << 20,
        drain_timeout: std::time::Duration::from_secs(2),
        ..Config::default()
    };
    let draw = &stage.mix.engine;
    let settings = [
        ("auto.create.topics.enable", "false".to_owned()),
        ("group.initial.rebalance.delay.ms", "50".to_owned()),
        ("group.min.session.timeout.ms", "100".to_owned()),
        (
            "log.retention.check.interval.ms",
            draw.retention_check_interval_ms.to_string(),
        ),
    ];
    config
        .kafka_broker
        .extend(settings.map(|(name, value)| (name.to_owned(), value)));
    let engine = EngineConfig {
        unflushed_max_bytes: draw.unflushed_max_bytes,
        wal_file_bytes: draw.log_file_bytes,
        first_wal_file_bytes: draw.first_log_file_bytes,
        group_max_bytes: draw.group_max_bytes,
        direct_min_bytes: draw.direct_min_bytes,
        tail_memory_bytes: draw.tail_memory_bytes,
        fd_cache: draw.open_files,
        reserve_bytes: 0,
        ..engine_config(&config, draw.tail_memory_bytes)
    };
    let addresses = Addresses {
        kafka: config.kafka_listen,
        admin: None,
        advertised: HostPort {
            host: stage.broker.ip().to_string(),
            port: PORT,
        },
    };
    Plan::new(config, engine, cores, addresses, HOOKS)
        .with_partition_config(to_partition_config(draw))
}

type Values = BTreeMap<String, String>;

/// Kafka's smallest segment is 1 MiB, which a short run hardly fills: the engine is given a part of it.
fn to_partition_config(draw: &EngineDraw) -> fn(&Values, &Values) -> PartitionConfig {
    match draw.segment_divisor {
        1 => trireme_kafka::configs::to_partition_config,
        4 => divided::<4>,
        _ => divided::<16>,
    }
}

fn divided<const BY: u64>(topic: &Values, broker: &Values) -> PartitionConfig {
    let config = trireme_kafka::configs::to_partition_config(topic, broker);
    PartitionConfig {
        segment_bytes: config.segment_bytes / BY,
        ..config
    }
}
