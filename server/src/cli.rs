//! The command line.

use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;
use trireme::config::{Given, Source};

const AFTER_HELP: &str = "\
Every setting can be given in the file (see `trireme config`), in the environment (TRIREME_DATA_DIR, TRIREME_KAFKA_LISTEN,
TRIREME_KAFKA_NUM_PARTITIONS, ...) or as a flag; flags go before the environment, the environment before the file.

Examples:
  trireme                                       serve with data in ./data, Kafka on 127.0.0.1:9092
  trireme serve --kafka 0.0.0.0:9092 --advertise-kafka broker.example:9092 --data-dir /var/lib/trireme
  trireme serve --set kafka.num.partitions=12
  trireme config > trireme.toml                 a configuration file to start from
  curl http://127.0.0.1:9644/metrics            what it does; /healthz says whether it is well

Every acknowledged message is on disk. Stop it with SIGTERM: it finishes what it has accepted; a second signal ends it at once,
which loses nothing either. `trireme-fsck verify DIR` checks a data directory.";

/// A message broker that Kafka clients speak to.
#[derive(Parser)]
#[command(name = "trireme", version, about, after_help = AFTER_HELP)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Option<Command>,
    #[command(flatten)]
    pub settings: Settings,
}

#[derive(Subcommand)]
pub enum Command {
    /// Run the broker (what is done without a command).
    Serve(Settings),
    /// Print the effective configuration as a configuration file, with every setting explained.
    Config(Settings),
    /// Print which Kafka APIs and configurations there are, and which of them do nothing yet.
    KafkaApis,
}

#[derive(Args, Default)]
pub struct Settings {
    /// Configuration file (TOML).
    #[arg(long, value_name = "FILE", env = trireme::config::ENV_CONFIG)]
    pub config: Option<PathBuf>,
    /// Where everything is kept [default: ./data]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<String>,
    /// Address for Kafka clients [default: 127.0.0.1:9092]
    #[arg(long, value_name = "ADDR")]
    kafka: Option<String>,
    /// What Kafka clients are told to connect to [default: the address, or the host's name if that is 0.0.0.0]
    #[arg(long, value_name = "HOST:PORT")]
    advertise_kafka: Option<String>,
    /// Address for /metrics and /healthz, or "off" [default: 127.0.0.1:9644]
    #[arg(long, value_name = "ADDR")]
    admin: Option<String>,
    /// Threads, each on a CPU of its own [default: all]
    #[arg(long, value_name = "N")]
    cores: Option<String>,
    /// error, warn, info, debug or trace [default: info]
    #[arg(long, value_name = "LEVEL")]
    log: Option<String>,
    /// text or json [default: text]
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<String>,
    /// Any setting, as in --set kafka.num.partitions=12; may be repeated
    #[arg(long, value_name = "SETTING=VALUE", value_parser = key_value)]
    set: Vec<(String, String)>,
}

fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("expected SETTING=VALUE".into()),
    }
}

impl Settings {
    /// Flags before the command (`trireme --data-dir x serve`) and after it are the same ones; the latter win.
    pub fn over(self, outer: Settings) -> Settings {
        Settings {
            config: self.config.or(outer.config),
            data_dir: self.data_dir.or(outer.data_dir),
            kafka: self.kafka.or(outer.kafka),
            advertise_kafka: self.advertise_kafka.or(outer.advertise_kafka),
            admin: self.admin.or(outer.admin),
            cores: self.cores.or(outer.cores),
            log: self.log.or(outer.log),
            log_format: self.log_format.or(outer.log_format),
            set: outer.set.into_iter().chain(self.set).collect(),
        }
    }

    /// The flags as settings; `--set` goes before the others, as it is the more general one.
    pub fn given(&self) -> Vec<Given> {
        let named = [
            ("--data-dir", "data_dir", &self.data_dir),
            ("--kafka", "kafka.listen", &self.kafka),
            (
                "--advertise-kafka",
                "kafka.advertise",
                &self.advertise_kafka,
            ),
            ("--admin", "admin.listen", &self.admin),
            ("--cores", "cores", &self.cores),
            ("--log", "log.level", &self.log),
            ("--log-format", "log.format", &self.log_format),
        ];
        let set = self.set.iter().map(|(key, value)| Given {
            key: key.clone(),
            value: value.clone(),
            source: Source::Flag("--set".into()),
        });
        let named = named.into_iter().filter_map(|(flag, key, value)| {
            Some(Given {
                key: key.into(),
                value: value.clone()?,
                source: Source::Flag(flag.into()),
            })
        });
        set.chain(named).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn flags_may_stand_before_or_after_the_command() {
        let parse = |args: &[&str]| {
            let cli = Cli::parse_from(args);
            let inner = match cli.command {
                Some(Command::Serve(inner)) => inner,
                _ => Settings::default(),
            };
            inner
                .over(cli.settings)
                .given()
                .into_iter()
                .map(|g| (g.key, g.value))
                .collect::<Vec<_>>()
        };
        let pair = |k: &str, v: &str| (k.to_owned(), v.to_owned());
        assert_eq!(parse(&["trireme", "--cores", "2"]), [pair("cores", "2")]);
        assert_eq!(
            parse(&["trireme", "--cores", "2", "serve", "--cores", "1"]),
            [pair("cores", "1")]
        );
        assert_eq!(
            parse(&["trireme", "serve", "--data-dir", "d", "--set", "a=b=c"]),
            [pair("a", "b=c"), pair("data_dir", "d")]
        );
        assert!(Cli::try_parse_from(["trireme", "--set", "x"]).is_err());
        assert!(Cli::try_parse_from(["trireme", "sevre"]).is_err());
    }
}
