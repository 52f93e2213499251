//! One core's Kafka door: what every connection of the core shares.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use trireme_engine::Engine;
use trireme_net::Connection;
use trireme_replication::Metadata;

use crate::api::init_producer_id::ProducerIds;
use crate::cluster::LeaderEpochs;
use crate::configs::{Values, broker};
use crate::fetch_session;
use crate::groups::service::Groups;
use crate::metrics::Metrics;

/// What the server decides.
#[derive(Clone, Debug)]
pub struct DoorConfig {
    /// Where clients are told to connect.
    pub advertised_host: String,
    pub advertised_port: u16,
    /// Largest request frame (`socket.request.max.bytes`).
    pub max_request_bytes: usize,
    /// Whether Metadata creates topics that it is asked for (`auto.create.topics.enable`).
    pub auto_create_topics: bool,
    /// Partitions of topics created without a count (`num.partitions`).
    pub num_partitions: u32,
    /// As DescribeLogDirs names it.
    pub data_dir: String,
    /// Broker configs that the server's configuration sets, by Kafka's names (see [`crate::configs::broker`]).
    pub broker_configs: Values,
}

impl Default for DoorConfig {
    fn default() -> Self {
        DoorConfig {
            advertised_host: "127.0.0.1".into(),
            advertised_port: 9092,
            max_request_bytes: 100 << 20,
            auto_create_topics: true,
            num_partitions: 1,
            data_dir: "./data".into(),
            broker_configs: Default::default(),
        }
    }
}

impl DoorConfig {
    /// From the server's configuration, by Kafka's names. A value that does not fit its type is an error in words.
    pub fn from_settings(
        advertised_host: String,
        advertised_port: u16,
        data_dir: String,
        settings: &Values,
    ) -> Result<DoorConfig, String> {
        for (name, value) in settings {
            let Some(known) = broker::find(name) else {
                continue;
            };
            known
                .kind
                .check(value)
                .map_err(|why| format!("{name} = {value}: {why}"))?;
        }
        let default = DoorConfig::default();
        let number = |name: &str| {
            settings
                .get(name)
                .and_then(|value| value.parse::<u32>().ok())
        };
        Ok(DoorConfig {
            advertised_host,
            advertised_port,
            max_request_bytes: number("socket.request.max.bytes")
                .map_or(default.max_request_bytes, |n| n as usize),
            auto_create_topics: settings
                .get("auto.create.topics.enable")
                .map_or(default.auto_create_topics, |value| {
                    value.eq_ignore_ascii_case("true")
                }),
            num_partitions: number("num.partitions").unwrap_or(default.num_partitions),
            data_dir,
            broker_configs: settings.clone(),
        })
    }
}

/// Lives on one core; connections hold it by `Rc`.
pub struct Door {
    pub config: DoorConfig,
    pub metrics: Metrics,
    pub engine: Engine,
    pub metadata: Metadata,
    pub groups: Groups,
    pub producer_ids: ProducerIds,
    pub fetch_sessions: RefCell<fetch_session::Cache>,
    /// Bytes of fetched records that wait in memory for their peers.
    pub fetch_memory: Rc<Cell<u64>>,
    pub(crate) leader_epochs: RefCell<LeaderEpochs>,
    connection_ids: Cell<u64>,
}

impl Door {
    pub fn new(config: DoorConfig, engine: Engine, metadata: Metadata, groups: Groups) -> Rc<Door> {
        let sessions = fetch_session::MAX_SESSIONS.div_ceil(trireme_runtime::core_count());
        Rc::new(Door {
            config,
            metrics: Metrics::default(),
            engine,
            metadata,
            groups,
            producer_ids: ProducerIds::default(),
            fetch_sessions: RefCell::new(fetch_session::Cache::new(sessions)),
            fetch_memory: Rc::default(),
            leader_epochs: RefCell::default(),
            connection_ids: Cell::new(0),
        })
    }

    /// Serves one connection to its end.
    pub async fn serve(self: Rc<Self>, connection: Connection) {
        crate::connection::serve(self, connection).await;
    }

    pub(crate) fn next_connection_id(&self) -> u64 {
        self.connection_ids.replace(self.connection_ids.get() + 1)
    }
}
