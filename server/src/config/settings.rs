//! Every setting: its name, its default, what it means, and how a value gets into [`Config`].

use super::values::*;
use super::{Config, LogFormat};
use std::collections::BTreeMap;
use std::time::Duration;
use trireme_kafka::configs::broker::{BROKER_CONFIGS, BrokerConfig};
use trireme_kafka::configs::value::Kind;
use trireme_net::limits;

pub struct Setting {
    /// Dotted name, as in the file; the environment variable is `TRIREME_` and this in capitals.
    pub key: &'static str,
    /// As it would be given. Empty: not given.
    pub default: &'static str,
    pub help: &'static str,
    /// The error says what was expected.
    pub set: fn(&mut Config, &str) -> Result<(), String>,
    pub get: fn(&Config) -> String,
}

/// Cores of one node; mail between cores is paid for per pair.
const MAX_CORES: usize = 256;
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);
const YEAR: Duration = Duration::from_secs(365 * 86_400);
const TIB: u64 = 1 << 40;

pub const SETTINGS: &[Setting] = &[
    Setting {
        key: "data_dir",
        default: "./data",
        help: "Where everything is kept. On ext4 or xfs; one broker at a time.",
        set: |config, value| {
            if value.is_empty() {
                return Err("a path".into());
            }
            config.data_dir = value.into();
            Ok(())
        },
        get: |config| config.data_dir.display().to_string(),
    },
    Setting {
        key: "cores",
        default: "all",
        help: "Threads, each pinned to a CPU of its own; \"all\" is one for each CPU that the process may use.",
        set: |config, value| {
            config.cores = match value {
                "all" => None,
                _ => Some(
                    value
                        .parse()
                        .ok()
                        .filter(|cores| (1..=MAX_CORES).contains(cores))
                        .ok_or_else(|| {
                            format!("a number of cores from 1 to {MAX_CORES}, or \"all\"")
                        })?,
                ),
            };
            Ok(())
        },
        get: |config| config.cores.map_or("all".into(), |cores| cores.to_string()),
    },
    Setting {
        key: "busy_poll",
        default: "false",
        help: "Never sleep in the kernel: lower latency, and each core is busy all the time.",
        set: |config, value| boolean(value).map(|on| config.busy_poll = on),
        get: |config| config.busy_poll.to_string(),
    },
    Setting {
        key: "log.level",
        default: "info",
        help: "error, warn, info, debug or trace; also per module, as in \"info,trireme_engine=debug\". Logs go to stderr.",
        set: |config, value| {
            // The filter's parser mixes up bytes and characters behind white space, and panics.
            if !value
                .bytes()
                .all(|byte| byte.is_ascii_graphic() || byte == b' ')
            {
                return Err("a log filter (printable ASCII)".into());
            }
            tracing_subscriber::EnvFilter::try_new(value)
                .map_err(|e| format!("a log filter ({e})"))?;
            config.log_level = value.to_owned();
            Ok(())
        },
        get: |config| config.log_level.clone(),
    },
    Setting {
        key: "log.format",
        default: "text",
        help: "text or json.",
        set: |config, value| {
            config.log_format = match value {
                "text" => LogFormat::Text,
                "json" => LogFormat::Json,
                _ => return Err("text or json".into()),
            };
            Ok(())
        },
        get: |config| match config.log_format {
            LogFormat::Text => "text".into(),
            LogFormat::Json => "json".into(),
        },
    },
    Setting {
        key: "kafka.listen",
        default: "127.0.0.1:9092",
        help: "Address for Kafka clients.",
        set: |config, value| address(value).map(|address| config.kafka_listen = address),
        get: |config| config.kafka_listen.to_string(),
    },
    Setting {
        key: "kafka.advertise",
        default: "",
        help: "HOST:PORT that Kafka clients are told to connect to. Without it: the address above, or the host's name if that is\n\
               0.0.0.0 or [::].",
        set: |config, value| {
            config.kafka_advertise = if value.is_empty() {
                None
            } else {
                Some(host_port(value)?)
            };
            Ok(())
        },
        get: |config| {
            config
                .kafka_advertise
                .as_ref()
                .map_or(String::new(), HostPort::to_string)
        },
    },
    Setting {
        key: "admin.listen",
        default: "127.0.0.1:9644",
        help: "Address for /metrics (Prometheus) and /healthz over HTTP, or \"off\". It has no access control.",
        set: |config, value| {
            config.admin_listen = if value == "off" {
                None
            } else {
                Some(address(value)?)
            };
            Ok(())
        },
        get: |config| {
            config
                .admin_listen
                .map_or("off".into(), |address| address.to_string())
        },
    },
    Setting {
        key: "net.max_connections",
        default: "10000",
        help: "Connections of the whole broker. Beyond it a connection is closed as soon as it is accepted.",
        set: |config, value| {
            number(value, 1, 1_000_000).map(|n| config.max_connections = n as usize)
        },
        get: |config| config.max_connections.to_string(),
    },
    Setting {
        key: "net.receive_memory",
        default: "512MiB",
        help: "Bytes of requests that have arrived and are not processed yet, over all connections. Who exceeds it waits.",
        set: |config, value| {
            size(value, 1 << 20, TIB).map(|n| config.receive_memory_bytes = n as usize)
        },
        get: |config| show_size(config.receive_memory_bytes as u64),
    },
    Setting {
        key: "net.frame_timeout",
        default: "60s",
        help: "A connection that has begun a request and sends nothing more for this long is closed.",
        set: |config, value| duration(value, SECOND, HOUR).map(|time| config.frame_timeout = time),
        get: |config| show_duration(config.frame_timeout),
    },
    Setting {
        key: "net.write_timeout",
        default: "60s",
        help: "A connection that takes nothing of its answer for this long is closed.",
        set: |config, value| duration(value, SECOND, HOUR).map(|time| config.write_timeout = time),
        get: |config| show_duration(config.write_timeout),
    },
    Setting {
        key: "net.drain_timeout",
        default: "10s",
        help: "At shutdown, how long requests that were accepted may take to finish.",
        set: |config, value| {
            duration(value, Duration::ZERO, HOUR).map(|time| config.drain_timeout = time)
        },
        get: |config| show_duration(config.drain_timeout),
    },
    Setting {
        key: "engine.tail_memory",
        default: "auto",
        help: "Memory for the newest messages of all partitions, flushed or not: what consumers that keep up are served from.\n\
               \"auto\" is 1/256 of the machine's memory, at least 64MiB and at most 1GiB: what consumers read that keep up is\n\
               the newest few milliseconds, and memory that is used again and again costs less than fresh pages do.",
        set: |config, value| {
            config.tail_memory_bytes = if value == "auto" {
                None
            } else {
                Some(size(value, 8 << 20, TIB)?)
            };
            Ok(())
        },
        get: |config| config.tail_memory_bytes.map_or("auto".into(), show_size),
    },
    Setting {
        key: "engine.unflushed_max",
        default: "128MiB",
        help: "Bytes that are in the commit log and not in their segments yet. Bounds the time of a recovery.",
        set: |config, value| {
            size(value, 4 << 20, 512 << 20).map(|n| config.unflushed_max_bytes = n)
        },
        get: |config| show_size(config.unflushed_max_bytes),
    },
    Setting {
        key: "engine.log_file",
        default: "64MiB",
        help: "Size of one file of the commit log.",
        set: |config, value| {
            size(value, 4 << 20, 1 << 30).map(|n| config.wal_file_bytes = n as u32)
        },
        get: |config| show_size(u64::from(config.wal_file_bytes)),
    },
    Setting {
        key: "engine.reserve",
        default: "64MiB",
        help: "Free space of the file system below which appends are refused; reads go on.",
        set: |config, value| size(value, 0, TIB).map(|n| config.reserve_bytes = n),
        get: |config| show_size(config.reserve_bytes),
    },
    Setting {
        key: "engine.open_files",
        default: "1024",
        help: "Segment files that each core keeps open.",
        set: |config, value| number(value, 16, 1_000_000).map(|n| config.open_files = n as usize),
        get: |config| config.open_files.to_string(),
    },
    Setting {
        key: "engine.scrub_period",
        default: "7d",
        help: "Every segment is read through and checked once in this time; 0s: never. Damage is logged and counted in the metrics.",
        set: |config, value| {
            duration(value, Duration::ZERO, YEAR).map(|time| config.scrub_period = time)
        },
        get: |config| show_duration(config.scrub_period),
    },
    Setting {
        key: "engine.scrub_rate",
        default: "32MiB",
        help: "Bytes that each core reads for that in a second at most; less where half of the period allows it.",
        set: |config, value| {
            size(value, 64 << 10, 1 << 40).map(|n| config.scrub_bytes_per_second = n)
        },
        get: |config| show_size(config.scrub_bytes_per_second),
    },
];

fn number(value: &str, min: u64, max: u64) -> Result<u64, String> {
    value
        .parse()
        .ok()
        .filter(|number| (min..=max).contains(number))
        .ok_or_else(|| format!("a number from {min} to {max}"))
}

/// Before the defaults of [`SETTINGS`] are put in.
pub(super) fn blank() -> Config {
    let nowhere = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    Config {
        data_dir: Default::default(),
        cores: None,
        busy_poll: false,
        log_level: String::new(),
        log_format: LogFormat::Text,
        kafka_listen: nowhere,
        kafka_advertise: None,
        kafka_broker: BTreeMap::new(),
        admin_listen: None,
        max_connections: limits::MAX_CONNECTIONS,
        receive_memory_bytes: limits::RECEIVE_MEMORY_BYTES,
        frame_timeout: limits::FRAME_TIMEOUT,
        write_timeout: limits::WRITE_TIMEOUT,
        drain_timeout: limits::DRAIN_TIMEOUT,
        tail_memory_bytes: None,
        unflushed_max_bytes: 0,
        wal_file_bytes: 0,
        reserve_bytes: 0,
        open_files: 0,
        scrub_period: Duration::ZERO,
        scrub_bytes_per_second: 0,
    }
}

/// What follows from other settings, or from the node itself.
const DERIVED: [&str; 5] = [
    "advertised.listeners",
    "broker.id",
    "listeners",
    "log.dirs",
    "process.roles",
];

/// Kafka's broker settings that can be given.
fn kafka_settings() -> impl Iterator<Item = &'static BrokerConfig> {
    BROKER_CONFIGS
        .iter()
        .filter(|config| !DERIVED.contains(&config.name))
}

fn find_kafka(name: &str) -> Option<&'static BrokerConfig> {
    kafka_settings().find(|config| config.name == name)
}

/// A Kafka broker setting as it holds: given, or the default. Numbers and booleans only.
pub(super) fn kafka<T: std::str::FromStr>(config: &Config, name: &str) -> T {
    let default = find_kafka(name).expect("a known name").default;
    let value = config
        .kafka_broker
        .get(name)
        .map_or(default, String::as_str);
    value.parse().ok().expect("checked when it was given")
}

/// Whether this is one of Kafka's broker settings that we know.
pub(super) fn is_kafka_name(name: &str) -> bool {
    find_kafka(name).is_some()
}

/// The value as it is kept; the error says what is wrong with it.
pub(super) fn check_kafka(name: &str, value: &str) -> Result<String, String> {
    let config = find_kafka(name).expect("a known name");
    let value = match config.kind {
        Kind::Boolean => value.trim().to_ascii_lowercase(),
        _ => value.trim().to_owned(),
    };
    config.kind.check(&value)?;
    Ok(value)
}

/// The setting that an environment variable's name (without prefix) means.
pub(super) fn key_of_environment(name: &str) -> Option<String> {
    let same = |key: &str| key.len() == name.len() && key.to_uppercase().replace('.', "_") == name;
    if let Some(setting) = SETTINGS.iter().find(|setting| same(setting.key)) {
        return Some(setting.key.to_owned());
    }
    let name = name
        .strip_prefix("KAFKA_")?
        .to_lowercase()
        .replace('_', ".");
    is_kafka_name(&name).then(|| format!("kafka.{name}"))
}

/// What to say of a name that nothing has.
pub(super) fn unknown(key: &str) -> String {
    let kafka = kafka_settings().map(|config| format!("kafka.{}", config.name));
    let known = SETTINGS
        .iter()
        .map(|setting| setting.key.to_owned())
        .chain(kafka);
    let nearest = known.map(|name| (distance(key, &name), name)).min();
    match nearest {
        Some((distance, name)) if distance <= 1 + key.len() / 5 => {
            format!("no such setting: {key} (did you mean {name}?)")
        }
        _ => format!("no such setting: {key}; `trireme config` lists them"),
    }
}

/// Edits between two names (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.bytes().enumerate() {
            let changed = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

pub(super) fn to_toml(config: &Config) -> String {
    let mut out = String::from(
        "# Trireme. Every setting with its help; a commented line is the default.\n\
         # The environment (TRIREME_DATA_DIR, TRIREME_KAFKA_LISTEN, ...) goes before this file, flags before the environment.\n",
    );
    let mut section = "";
    let line = |out: &mut String,
                section: &mut &'static str,
                key: &'static str,
                help: &str,
                value: &str,
                default: &str| {
        let (this, name) = key.split_once('.').unwrap_or(("", key));
        if this != *section {
            *section = this;
            out.push_str(&format!("\n[{this}]\n"));
        }
        out.push('\n');
        for help in help.lines() {
            out.push_str(&format!("# {help}\n"));
        }
        let comment = if value == default { "#" } else { "" };
        out.push_str(&format!("{comment}{name} = {}\n", quote(value)));
    };
    for setting in SETTINGS {
        line(
            &mut out,
            &mut section,
            setting.key,
            setting.help,
            &(setting.get)(config),
            setting.default,
        );
        if setting.key == "kafka.advertise" {
            out.push_str("\n# Kafka's own broker settings, by Kafka's names.\n");
            for known in kafka_settings() {
                let given = config.kafka_broker.get(known.name);
                let comment = if given.is_some() { "" } else { "#" };
                let value = quote(given.map_or(known.default, String::as_str));
                out.push_str(&format!(
                    "\n# {}\n{comment}{} = {value}\n",
                    known.documentation, known.name
                ));
            }
        }
    }
    out
}

/// Numbers and booleans as they are, everything else as a string.
fn quote(value: &str) -> String {
    let bare = value.parse::<i64>().is_ok_and(|n| n.to_string() == value) || boolean(value).is_ok();
    if bare {
        value.to_owned()
    } else {
        toml::Value::String(value.to_owned()).to_string()
    }
}
