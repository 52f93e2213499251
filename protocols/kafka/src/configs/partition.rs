//! From configuration to what the engine is told of a partition.

use trireme_engine::{Durability, PartitionConfig, TimestampType};

use super::topic::{TopicConfig, find};
use super::value::list;
use super::{Values, broker};

/// The value that holds for a topic, and where it comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effective {
    pub value: String,
    pub source: Source,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    Topic,
    /// The broker config of this name.
    Broker(&'static str),
    Default,
}

/// What holds for a topic: its own value, else the strongest broker config that is set, else the default.
pub fn effective(config: &TopicConfig, topic: &Values, brokers: &Values) -> Effective {
    if let Some(value) = topic.get(config.name) {
        return Effective {
            value: value.clone(),
            source: Source::Topic,
        };
    }
    for name in config.brokers {
        if let Some(value) = brokers
            .get(*name)
            .and_then(|value| broker::as_topic_value(name, value))
        {
            return Effective {
                value,
                source: Source::Broker(name),
            };
        }
    }
    Effective {
        value: config.default.into(),
        source: Source::Default,
    }
}

/// The engine's view of a topic's and the broker's configuration. Values were checked when they were set; one that does not parse
/// (from a configuration file of another version, say) counts as not set.
pub fn to_partition_config(topic: &Values, brokers: &Values) -> PartitionConfig {
    let text = |name: &str| {
        let config = find(name).expect("a topic config");
        effective(config, topic, brokers).value
    };
    let number = |name: &str| {
        let config = find(name).expect("a topic config");
        let default = || config.default.parse().expect("defaults are valid");
        text(name).parse::<i64>().unwrap_or_else(|_| default())
    };
    let size = |name: &str| number(name).clamp(0, i64::from(u32::MAX)) as u32;
    let limit = |value: i64| (value >= 0).then_some(value);
    PartitionConfig {
        segment_bytes: number("segment.bytes").max(1) as u64,
        segment_ms: number("segment.ms").max(1),
        retention_ms: limit(number("retention.ms")),
        retention_bytes: limit(number("retention.bytes")).map(|bytes| bytes as u64),
        delete: list(&text("cleanup.policy")).any(|policy| policy == "delete"),
        max_batch_bytes: size("max.message.bytes"),
        timestamps: match text("message.timestamp.type").as_str() {
            "LogAppendTime" => TimestampType::LogAppendTime,
            _ => TimestampType::CreateTime,
        },
        timestamp_before_max_ms: number("message.timestamp.before.max.ms"),
        timestamp_after_max_ms: number("message.timestamp.after.max.ms"),
        durability: if number("flush.messages") <= 1 {
            Durability::Fsync
        } else {
            Durability::Relaxed
        },
        file_delete_delay_ms: number("file.delete.delay.ms"),
        index_interval_bytes: size("index.interval.bytes"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(pairs: &[(&str, &str)]) -> Values {
        pairs
            .iter()
            .map(|(name, value)| (name.to_string(), value.to_string()))
            .collect()
    }

    #[test]
    fn defaults_are_the_engines() {
        assert_eq!(
            to_partition_config(&Values::new(), &Values::new()),
            PartitionConfig::default()
        );
    }

    #[test]
    fn topic_before_broker_before_default() {
        let brokers = values(&[
            ("log.retention.hours", "1"),
            ("log.segment.bytes", "2000000"),
            ("log.flush.interval.messages", "500"),
        ]);
        let config = to_partition_config(&values(&[("segment.bytes", "1048576")]), &brokers);
        assert_eq!(config.segment_bytes, 1_048_576);
        assert_eq!(config.retention_ms, Some(3_600_000));
        assert_eq!(config.durability, Durability::Relaxed);
        let config = to_partition_config(
            &values(&[
                ("flush.messages", "1"),
                ("retention.ms", "-1"),
                ("cleanup.policy", ""),
            ]),
            &brokers,
        );
        assert_eq!(config.durability, Durability::Fsync);
        assert_eq!(config.retention_ms, None);
        assert!(!config.delete);
        let brokers = values(&[("log.retention.hours", "1"), ("log.retention.ms", "5")]);
        assert_eq!(
            to_partition_config(&Values::new(), &brokers).retention_ms,
            Some(5)
        );
    }

    #[test]
    fn what_does_not_parse_counts_as_not_set() {
        assert_eq!(
            to_partition_config(&values(&[("segment.bytes", "x")]), &Values::new()),
            PartitionConfig::default()
        );
    }
}
