//! What the operator decides.
//!
//! Every setting is one entry of [`settings::SETTINGS`]: name, default, help and what it does stand together. A value comes
//! from the configuration file, from the environment or from a flag; the later of these wins. Whatever is wrong with a value is
//! said in one line that names where it came from.

mod file;
mod settings;
mod values;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use settings::SETTINGS;
pub use values::HostPort;

/// Prefix of environment variables: `TRIREME_DATA_DIR` is `data_dir`, `TRIREME_KAFKA_NUM_PARTITIONS` is
/// `kafka.num.partitions`.
const ENV_PREFIX: &str = "TRIREME_";
/// Names the configuration file; a flag of its own, not a setting.
pub const ENV_CONFIG: &str = "TRIREME_CONFIG";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

/// The effective configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    pub data_dir: PathBuf,
    /// `None`: one for each CPU that the process may use.
    pub cores: Option<usize>,
    pub busy_poll: bool,
    pub log_level: String,
    pub log_format: LogFormat,
    pub kafka_listen: SocketAddr,
    /// Where clients are told to connect, if that is not where we listen.
    pub kafka_advertise: Option<HostPort>,
    /// Kafka's own broker settings by Kafka's names, as given.
    pub kafka_broker: BTreeMap<String, String>,
    pub admin_listen: Option<SocketAddr>,
    pub max_connections: usize,
    pub receive_memory_bytes: usize,
    pub frame_timeout: Duration,
    pub write_timeout: Duration,
    pub drain_timeout: Duration,
    /// `None`: from the machine's memory.
    pub tail_memory_bytes: Option<u64>,
    pub unflushed_max_bytes: u64,
    pub wal_file_bytes: u32,
    pub reserve_bytes: u64,
    pub open_files: usize,
    /// Zero: never.
    pub scrub_period: Duration,
    pub scrub_bytes_per_second: u64,
}

/// Where a value came from, for messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    File(PathBuf, usize),
    Environment(String),
    Flag(String),
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Source::File(path, line) => write!(f, "{}:{line}", path.display()),
            Source::Environment(name) => f.write_str(name),
            Source::Flag(flag) => f.write_str(flag),
        }
    }
}

/// A value on its way to its setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Given {
    pub key: String,
    pub value: String,
    pub source: Source,
}

/// Everything wrong with a configuration is the operator's to mend: one line, what and where.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0}")]
pub struct ConfigError(pub String);

impl Config {
    /// Merges the file, the environment and the flags, in this order of precedence from low to high.
    pub fn load(
        file: Option<&Path>,
        environment: impl Iterator<Item = (String, String)>,
        flags: Vec<Given>,
    ) -> Result<Config, ConfigError> {
        let mut given = match file {
            Some(path) => file::read(path)?,
            None => Vec::new(),
        };
        given.extend(from_environment(environment)?);
        given.extend(flags);
        let mut config = Config::default();
        for Given { key, value, source } in given {
            config
                .set(&key, &value)
                .map_err(|what| ConfigError(format!("{source}: {what}")))?;
        }
        Ok(config)
    }

    /// Gives one setting its value.
    fn set(&mut self, key: &str, value: &str) -> Result<(), String> {
        if let Some(setting) = SETTINGS.iter().find(|setting| setting.key == key) {
            return (setting.set)(self, value)
                .map_err(|expected| format!("{key} = {value:?}: expected {expected}"));
        }
        match key.strip_prefix("kafka.") {
            Some(name) if settings::is_kafka_name(name) => {
                let kept = settings::check_kafka(name, value)
                    .map_err(|what| format!("{key} = {value:?}: {what}"))?;
                self.kafka_broker.insert(name.to_owned(), kept);
                Ok(())
            }
            _ => Err(settings::unknown(key)),
        }
    }

    /// A Kafka broker setting (number or boolean) as it holds: given, or Kafka's default. Panics for a name that is none.
    pub fn kafka<T: std::str::FromStr>(&self, name: &str) -> T {
        settings::kafka(self, name)
    }

    /// A configuration file with every setting, its help, and its value here (commented out where it is the default).
    pub fn to_toml(&self) -> String {
        settings::to_toml(self)
    }
}

impl Default for Config {
    fn default() -> Self {
        let mut config = settings::blank();
        for setting in SETTINGS {
            (setting.set)(&mut config, setting.default).expect("defaults are valid");
        }
        config
    }
}

/// `TRIREME_*` variables. The name is matched without regard to whether a `_` stands for a dot.
fn from_environment(
    variables: impl Iterator<Item = (String, String)>,
) -> Result<Vec<Given>, ConfigError> {
    let mut given = Vec::new();
    for (name, value) in variables {
        if !name.starts_with(ENV_PREFIX) || name == ENV_CONFIG {
            continue;
        }
        let source = Source::Environment(name.clone());
        let key = settings::key_of_environment(&name[ENV_PREFIX.len()..]).ok_or_else(|| {
            ConfigError(format!(
                "{name}: no such setting; `trireme config` lists them"
            ))
        })?;
        given.push(Given { key, value, source });
    }
    given.sort_by(|a, b| a.key.cmp(&b.key));
    Ok(given)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flag(key: &str, value: &str) -> Given {
        Given {
            key: key.into(),
            value: value.into(),
            source: Source::Flag(format!("--set {key}")),
        }
    }

    fn environment(pairs: &[(&str, &str)]) -> std::vec::IntoIter<(String, String)> {
        let pairs: Vec<_> = pairs
            .iter()
            .map(|(k, v)| (k.to_string(), v.to_string()))
            .collect();
        pairs.into_iter()
    }

    fn file(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::io::Write::write_all(&mut file.as_file(), text.as_bytes()).unwrap();
        file
    }

    fn error_of(text: &str) -> String {
        let file = file(text);
        let error = Config::load(Some(file.path()), environment(&[]), vec![])
            .unwrap_err()
            .0;
        assert!(!error.contains('\n'), "one line: {error}");
        error.replace(file.path().to_str().unwrap(), "t.toml")
    }

    #[test]
    fn file_then_environment_then_flag() {
        let file = file(
            "data_dir = \"/f\"\ncores = 1\n[kafka]\nlisten = \"127.0.0.1:1\"\nnum.partitions = 3\n",
        );
        let load = |vars: &[(&str, &str)], flags| {
            Config::load(Some(file.path()), environment(vars), flags).unwrap()
        };
        let config = load(&[], vec![]);
        assert_eq!(
            (config.data_dir.to_str(), config.cores),
            (Some("/f"), Some(1))
        );
        assert_eq!(config.kafka_broker["num.partitions"], "3");
        let vars = [
            ("TRIREME_DATA_DIR", "/e"),
            ("TRIREME_KAFKA_NUM_PARTITIONS", "4"),
            ("HOME", "/"),
            ("TRIREME_CONFIG", "x"),
        ];
        let config = load(&vars, vec![]);
        assert_eq!(
            (config.data_dir.to_str(), config.cores),
            (Some("/e"), Some(1))
        );
        assert_eq!(config.kafka_broker["num.partitions"], "4");
        let config = load(
            &vars,
            vec![flag("data_dir", "/a"), flag("kafka.listen", "127.0.0.1:2")],
        );
        assert_eq!(
            (config.data_dir.to_str(), config.kafka_listen.port()),
            (Some("/a"), 2)
        );
    }

    #[test]
    fn errors_say_what_and_where() {
        assert_eq!(
            error_of("cores = 1\nkafkaa.listen = \"x\""),
            "t.toml:2: no such setting: kafkaa.listen (did you mean kafka.listen?)"
        );
        assert_eq!(
            error_of("\n\n[kafka]\nlisten = \"nowhere\""),
            "t.toml:4: kafka.listen = \"nowhere\": expected an address as HOST:PORT"
        );
        assert_eq!(
            error_of("cores = \"many\""),
            "t.toml:1: cores = \"many\": expected a number of cores from 1 to 256, or \"all\""
        );
        assert!(error_of("cores = [1]").starts_with("t.toml:1: cores: "));
        assert!(error_of("cores = 1\ncores = 2").starts_with("t.toml:2: "));
        assert_eq!(
            error_of("[kafka]\nnum.partitions = -1"),
            "t.toml:2: kafka.num.partitions = \"-1\": Value must be at least 1"
        );
        let error = Config::load(None, environment(&[("TRIREME_CORE", "1")]), vec![])
            .unwrap_err()
            .0;
        assert_eq!(
            error,
            "TRIREME_CORE: no such setting; `trireme config` lists them"
        );
        let error = Config::load(None, environment(&[]), vec![flag("cores", "0")])
            .unwrap_err()
            .0;
        assert!(
            error.starts_with("--set cores: cores = \"0\": expected"),
            "{error}"
        );
    }

    #[test]
    fn what_config_prints_is_read_back_as_the_same() {
        let mut config = Config::default();
        let printed = file(&config.to_toml());
        assert_eq!(
            Config::load(Some(printed.path()), environment(&[]), vec![]).unwrap(),
            config
        );
        config
            .set("kafka.advertise", "broker.example:9092")
            .unwrap();
        config.set("kafka.log.retention.ms", "-1").unwrap();
        config.set("admin.listen", "off").unwrap();
        config.set("engine.tail_memory", "100MiB").unwrap();
        config.set("data_dir", "/a \"b\"").unwrap();
        let printed = file(&config.to_toml());
        assert_eq!(
            Config::load(Some(printed.path()), environment(&[]), vec![]).unwrap(),
            config
        );
    }

    #[test]
    fn the_sample_configuration_is_valid() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("dist/trireme.toml");
        let config = Config::load(Some(&path), environment(&[]), vec![]).unwrap();
        assert_eq!(config.kafka_broker["num.partitions"], "12");
    }

    #[test]
    fn every_setting_can_be_named_in_the_environment() {
        for setting in SETTINGS {
            let name = setting.key.to_uppercase().replace('.', "_");
            assert_eq!(
                settings::key_of_environment(&name).as_deref(),
                Some(setting.key)
            );
        }
    }
}
