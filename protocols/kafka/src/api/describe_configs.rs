//! DescribeConfigs: what holds for topics and for the broker, and where each value comes from.

use kacrab_protocol::generated::describe_configs_request::DescribeConfigsResource;
use kacrab_protocol::generated::describe_configs_response::*;
use kacrab_protocol::generated::{DescribeConfigsRequestData, ErrorCode};
use trireme_replication::check_topic_name;

use crate::cluster::{self, text};
use crate::configs::partition::{Source, effective};
use crate::configs::topic::{TOPIC_CONFIGS, TopicConfig};
use crate::configs::value::Kind;
use crate::configs::{Values, broker};
use crate::dispatch::{self, Answer, Api, Call, Order};
use crate::door::Door;

pub const API: Api = Api {
    key: 32,
    name: "DescribeConfigs",
    min: 1,
    max: 4,
    flexible: 4,
    order: Order::Serial,
    start: |request| dispatch::typed(request, handle),
};

/// Types of resources.
pub const TOPIC: i8 = 2;
pub const BROKER: i8 = 4;
pub const BROKER_LOGGER: i8 = 8;
pub const CLIENT_METRICS: i8 = 16;
pub const GROUP: i8 = 32;

/// Where a value comes from.
const SOURCE_TOPIC: i8 = 1;
const SOURCE_DYNAMIC_DEFAULT_BROKER: i8 = 3;
const SOURCE_STATIC_BROKER: i8 = 4;
const SOURCE_DEFAULT: i8 = 5;

/// The broker's configuration by its origin.
pub struct BrokerValues {
    /// Set by clients.
    pub dynamic: Values,
    /// From the server's configuration.
    pub fixed: Values,
    /// Both, the dynamic one first.
    pub merged: Values,
}

impl Door {
    pub fn broker_values(&self) -> BrokerValues {
        let dynamic = self.metadata.image().broker_configs.clone();
        let fixed = self.config.broker_configs.clone();
        let mut merged = fixed.clone();
        merged.extend(dynamic.clone());
        BrokerValues {
            dynamic,
            fixed,
            merged,
        }
    }
}

impl BrokerValues {
    fn source(&self, name: &str) -> i8 {
        if self.dynamic.contains_key(name) {
            SOURCE_DYNAMIC_DEFAULT_BROKER
        } else if self.fixed.contains_key(name) {
            SOURCE_STATIC_BROKER
        } else {
            SOURCE_DEFAULT
        }
    }

    /// Every origin of a broker config that has a value, the strongest first.
    fn synonyms(&self, name: &str) -> Vec<(String, String, i8)> {
        let mut found = Vec::new();
        if let Some(value) = self.dynamic.get(name) {
            found.push((name.into(), value.clone(), SOURCE_DYNAMIC_DEFAULT_BROKER));
        }
        if let Some(value) = self.fixed.get(name) {
            found.push((name.into(), value.clone(), SOURCE_STATIC_BROKER));
        }
        if let Some(config) = broker::find(name).filter(|config| !config.default.is_empty()) {
            found.push((name.into(), config.default.into(), SOURCE_DEFAULT));
        }
        found
    }
}

/// One described value.
pub struct Described {
    pub name: &'static str,
    pub value: Option<String>,
    pub source: i8,
    pub read_only: bool,
    pub sensitive: bool,
    pub synonyms: Vec<(String, String, i8)>,
    pub kind: Kind,
    pub documentation: &'static str,
}

/// Everything that holds for a topic with these values of its own.
pub fn topic(own: &Values, brokers: &BrokerValues) -> impl Iterator<Item = Described> {
    TOPIC_CONFIGS
        .iter()
        .map(|config| topic_config(config, own, brokers))
}

fn topic_config(config: &'static TopicConfig, own: &Values, brokers: &BrokerValues) -> Described {
    let holds = effective(config, own, &brokers.merged);
    let source = match holds.source {
        Source::Topic => SOURCE_TOPIC,
        Source::Broker(name) => brokers.source(name),
        Source::Default => SOURCE_DEFAULT,
    };
    let mut synonyms = Vec::new();
    if let Some(value) = own.get(config.name) {
        synonyms.push((config.name.to_owned(), value.clone(), SOURCE_TOPIC));
    }
    synonyms.extend(
        config
            .brokers
            .iter()
            .flat_map(|name| brokers.synonyms(name)),
    );
    Described {
        name: config.name,
        value: Some(holds.value),
        source,
        read_only: false,
        sensitive: false,
        synonyms,
        kind: config.kind,
        documentation: config.documentation,
    }
}

/// The broker's values; only those that clients set when `defaults_only`.
fn broker_configs(door: &Door, defaults_only: bool) -> Vec<Described> {
    let values = door.broker_values();
    let node = door.metadata.image().node_id;
    let config = &door.config;
    let own = |name: &str| match name {
        "advertised.listeners" => Some(format!(
            "PLAINTEXT://{}:{}",
            config.advertised_host, config.advertised_port
        )),
        "auto.create.topics.enable" => Some(config.auto_create_topics.to_string()),
        "broker.id" | "node.id" => Some(node.to_string()),
        "fetch.max.bytes" => Some(super::fetch::MAX_RESPONSE_BYTES.to_string()),
        "log.dirs" => Some(config.data_dir.clone()),
        "num.partitions" => Some(config.num_partitions.to_string()),
        "socket.request.max.bytes" => Some(config.max_request_bytes.to_string()),
        _ => None,
    };
    let describe = |config: &'static broker::BrokerConfig| {
        let set = values.merged.get(config.name).cloned();
        let own = own(config.name);
        let source = match (&set, &own) {
            (None, Some(value)) if value != config.default => SOURCE_STATIC_BROKER,
            _ => values.source(config.name),
        };
        let default = (!config.default.is_empty()).then(|| config.default.to_owned());
        let sensitive = config.kind == Kind::Password;
        let value = set.or(own).or(default).filter(|_| !sensitive);
        let mut synonyms = values.synonyms(config.name);
        if source == SOURCE_STATIC_BROKER && !values.fixed.contains_key(config.name) {
            synonyms.insert(
                0,
                (
                    config.name.into(),
                    value.clone().unwrap_or_default(),
                    SOURCE_STATIC_BROKER,
                ),
            );
        }
        Described {
            name: config.name,
            value,
            source,
            read_only: !config.dynamic,
            sensitive,
            synonyms,
            kind: config.kind,
            documentation: config.documentation,
        }
    };
    let wanted =
        |config: &&broker::BrokerConfig| !defaults_only || values.dynamic.contains_key(config.name);
    broker::BROKER_CONFIGS
        .iter()
        .filter(wanted)
        .map(describe)
        .collect()
}

async fn handle(
    call: Call,
    request: DescribeConfigsRequestData,
) -> Answer<DescribeConfigsResponseData> {
    let results = request
        .resources
        .iter()
        .map(|resource| {
            let result = DescribeConfigsResult::default()
                .with_resource_type(resource.resource_type)
                .with_resource_name(resource.resource_name.clone());
            match describe(&call.door, resource) {
                Ok(configs) => {
                    let wanted =
                        |described: &Described| match resource.configuration_keys.as_deref() {
                            None | Some([]) => true,
                            Some(keys) => keys.iter().any(|key| key.as_str() == described.name),
                        };
                    let configs = configs.into_iter().filter(wanted);
                    result.with_configs(
                        configs
                            .map(|described| encode(described, &request, call.version()))
                            .collect(),
                    )
                }
                Err((code, message)) => result
                    .with_error_code(code.code())
                    .with_error_message(Some(text(message))),
            }
        })
        .collect();
    Ok(DescribeConfigsResponseData::default().with_results(results))
}

fn describe(
    door: &Door,
    resource: &DescribeConfigsResource,
) -> Result<Vec<Described>, (ErrorCode, String)> {
    let name = resource.resource_name.as_str();
    let image = door.metadata.image();
    match resource.resource_type {
        TOPIC => {
            if let Err(error) = check_topic_name(name) {
                return Err((
                    ErrorCode::InvalidTopicException,
                    format!("Topic name is invalid: {error}"),
                ));
            }
            match cluster::readable(&image, name) {
                Some(known) => Ok(topic(&known.configs, &door.broker_values()).collect()),
                None => Err((ErrorCode::UnknownTopicOrPartition, String::new())),
            }
        }
        BROKER if name.is_empty() => Ok(broker_configs(door, true)),
        BROKER | BROKER_LOGGER if name != image.node_id.to_string() => {
            let message = format!(
                "Unexpected broker id, expected {}, but received {name}",
                image.node_id
            );
            Err((ErrorCode::InvalidRequest, message))
        }
        BROKER => Ok(broker_configs(door, false)),
        // There is nothing to configure of loggers, client metrics and new-style groups.
        BROKER_LOGGER | CLIENT_METRICS | GROUP => Ok(Vec::new()),
        other => Err((
            ErrorCode::InvalidRequest,
            format!("Unsupported resource type: {other}"),
        )),
    }
}

fn encode(
    described: Described,
    request: &DescribeConfigsRequestData,
    version: i16,
) -> DescribeConfigsResourceResult {
    let mut result = DescribeConfigsResourceResult::default()
        .with_name(text(described.name))
        .with_value(described.value.map(text))
        .with_read_only(described.read_only)
        .with_config_source(described.source)
        .with_is_sensitive(described.sensitive);
    if request.include_synonyms {
        let synonym = |(name, value, source): (String, String, i8)| {
            let value = (!described.sensitive).then(|| text(value));
            DescribeConfigsSynonym::default()
                .with_name(text(name))
                .with_value(value)
                .with_source(source)
        };
        result.synonyms = described.synonyms.into_iter().map(synonym).collect();
    }
    if version >= 3 {
        result.config_type = described.kind.code();
        if request.include_documentation {
            result.documentation = Some(text(described.documentation));
        }
    }
    result
}
