//! The broker configs that mean something here: defaults of topic configs, limits, and what tools read to learn about a broker.

use super::value::Kind;

/// One broker config.
pub struct BrokerConfig {
    pub name: &'static str,
    pub kind: Kind,
    /// What holds unless the server's configuration says otherwise; empty for none.
    pub default: &'static str,
    /// Whether clients may change it; the others come from the server's configuration.
    pub dynamic: bool,
    pub documentation: &'static str,
}

const fn fixed(
    name: &'static str,
    kind: Kind,
    default: &'static str,
    documentation: &'static str,
) -> BrokerConfig {
    BrokerConfig {
        name,
        kind,
        default,
        dynamic: false,
        documentation,
    }
}

const fn dynamic(
    name: &'static str,
    kind: Kind,
    default: &'static str,
    documentation: &'static str,
) -> BrokerConfig {
    BrokerConfig {
        name,
        kind,
        default,
        dynamic: true,
        documentation,
    }
}

const INT: Kind = Kind::Int(0, i32::MAX);

/// All of them, by name.
pub const BROKER_CONFIGS: &[BrokerConfig] = &[
    fixed(
        "advertised.listeners",
        Kind::Text,
        "",
        "Where clients are told to connect.",
    ),
    fixed(
        "auto.create.topics.enable",
        Kind::Boolean,
        "true",
        "Whether asking for a topic's metadata creates it.",
    ),
    fixed("broker.id", INT, "", "The node's id."),
    fixed("broker.rack", Kind::Text, "", "The node's rack."),
    dynamic(
        "compression.gzip.level",
        Kind::Int(-1, 9),
        "-1",
        "Default of the topic config of the same name.",
    ),
    dynamic(
        "compression.lz4.level",
        Kind::Int(1, 17),
        "9",
        "Default of the topic config of the same name.",
    ),
    fixed(
        "compression.type",
        Kind::OneOf(&["producer"]),
        "producer",
        "Default of the topic config of the same name.",
    ),
    dynamic(
        "compression.zstd.level",
        Kind::Int(-131_072, 22),
        "3",
        "Default of the topic config of the same name.",
    ),
    fixed(
        "connections.max.idle.ms",
        Kind::Long(-1),
        "600000",
        "Time after which a connection without requests is closed.",
    ),
    fixed(
        "default.replication.factor",
        Kind::Int(1, 1),
        "1",
        "Replicas of a topic that is created without a number.",
    ),
    fixed(
        "delete.topic.enable",
        Kind::Boolean,
        "true",
        "Whether topics can be deleted.",
    ),
    fixed(
        "fetch.max.bytes",
        INT,
        "57671680",
        "Most bytes of records in one answer to a fetch.",
    ),
    fixed(
        "group.initial.rebalance.delay.ms",
        INT,
        "3000",
        "How long a new consumer group waits for more members.",
    ),
    fixed(
        "group.max.session.timeout.ms",
        INT,
        "1800000",
        "Longest session time-out that a consumer may ask for.",
    ),
    fixed(
        "group.max.size",
        INT,
        "2147483647",
        "Most members of a consumer group.",
    ),
    fixed(
        "group.min.session.timeout.ms",
        INT,
        "6000",
        "Shortest session time-out that a consumer may ask for.",
    ),
    fixed("listeners", Kind::Text, "", "Where the broker listens."),
    dynamic(
        "log.cleaner.delete.retention.ms",
        Kind::Long(0),
        "86400000",
        "Default of delete.retention.ms.",
    ),
    dynamic(
        "log.cleaner.max.compaction.lag.ms",
        Kind::Long(1),
        "9223372036854775807",
        "Default of max.compaction.lag.ms.",
    ),
    dynamic(
        "log.cleaner.min.cleanable.ratio",
        Kind::Double(0.0, 1.0),
        "0.5",
        "Default of min.cleanable.dirty.ratio.",
    ),
    dynamic(
        "log.cleaner.min.compaction.lag.ms",
        Kind::Long(0),
        "0",
        "Default of min.compaction.lag.ms.",
    ),
    dynamic(
        "log.cleanup.policy",
        Kind::ListOf(&["delete"]),
        "delete",
        "Default of cleanup.policy.",
    ),
    fixed("log.dirs", Kind::Text, "", "The data directory."),
    dynamic(
        "log.flush.interval.messages",
        Kind::Long(1),
        "1",
        "Default of flush.messages, the durability of topics: 1 acknowledges from disk, more from memory.",
    ),
    dynamic(
        "log.flush.interval.ms",
        Kind::Long(0),
        "",
        "Default of flush.ms.",
    ),
    dynamic(
        "log.index.interval.bytes",
        INT,
        "4096",
        "Default of index.interval.bytes.",
    ),
    dynamic(
        "log.index.size.max.bytes",
        Kind::Int(4, i32::MAX),
        "10485760",
        "Default of segment.index.bytes.",
    ),
    dynamic(
        "log.local.retention.bytes",
        Kind::Long(-2),
        "-2",
        "Default of local.retention.bytes.",
    ),
    dynamic(
        "log.local.retention.ms",
        Kind::Long(-2),
        "-2",
        "Default of local.retention.ms.",
    ),
    dynamic(
        "log.message.timestamp.after.max.ms",
        Kind::Long(0),
        "3600000",
        "Default of message.timestamp.after.max.ms.",
    ),
    dynamic(
        "log.message.timestamp.before.max.ms",
        Kind::Long(0),
        "9223372036854775807",
        "Default of message.timestamp.before.max.ms.",
    ),
    dynamic(
        "log.message.timestamp.type",
        Kind::OneOf(&["CreateTime", "LogAppendTime"]),
        "CreateTime",
        "Default of message.timestamp.type.",
    ),
    dynamic(
        "log.preallocate",
        Kind::Boolean,
        "false",
        "Default of preallocate.",
    ),
    dynamic(
        "log.retention.bytes",
        super::value::ANY_LONG,
        "-1",
        "Default of retention.bytes.",
    ),
    fixed(
        "log.retention.check.interval.ms",
        Kind::Long(1),
        "300000",
        "Time between two looks for segments to delete.",
    ),
    fixed(
        "log.retention.hours",
        super::value::ANY_INT,
        "168",
        "Default of retention.ms, in hours.",
    ),
    fixed(
        "log.retention.minutes",
        super::value::ANY_INT,
        "",
        "Default of retention.ms, in minutes; stronger than hours.",
    ),
    dynamic(
        "log.retention.ms",
        super::value::ANY_LONG,
        "",
        "Default of retention.ms; stronger than minutes and hours.",
    ),
    fixed(
        "log.roll.hours",
        Kind::Int(1, i32::MAX),
        "168",
        "Default of segment.ms, in hours.",
    ),
    fixed(
        "log.roll.jitter.hours",
        INT,
        "0",
        "Default of segment.jitter.ms, in hours.",
    ),
    dynamic(
        "log.roll.jitter.ms",
        Kind::Long(0),
        "",
        "Default of segment.jitter.ms; stronger than hours.",
    ),
    dynamic(
        "log.roll.ms",
        Kind::Long(1),
        "",
        "Default of segment.ms; stronger than hours.",
    ),
    dynamic(
        "log.segment.bytes",
        Kind::Int(1 << 20, i32::MAX),
        "1073741824",
        "Default of segment.bytes.",
    ),
    dynamic(
        "log.segment.delete.delay.ms",
        Kind::Long(0),
        "60000",
        "Default of file.delete.delay.ms.",
    ),
    fixed(
        "max.incremental.fetch.session.cache.slots",
        INT,
        "1000",
        "Fetch sessions that are remembered.",
    ),
    dynamic(
        "message.max.bytes",
        INT,
        "1048588",
        "Default of max.message.bytes.",
    ),
    fixed(
        "min.insync.replicas",
        Kind::Int(1, 1),
        "1",
        "Default of min.insync.replicas.",
    ),
    fixed(
        "node.id",
        INT,
        "1",
        "The node's id. What a data directory was begun with stays.",
    ),
    fixed(
        "num.partitions",
        Kind::Int(1, i32::MAX),
        "1",
        "Partitions of a topic that is created without a number.",
    ),
    fixed(
        "offset.metadata.max.bytes",
        INT,
        "4096",
        "Longest metadata of a committed offset.",
    ),
    fixed(
        "offsets.retention.check.interval.ms",
        Kind::Long(1),
        "600000",
        "Time between two looks for offsets to forget.",
    ),
    fixed(
        "offsets.retention.minutes",
        Kind::Int(1, i32::MAX),
        "10080",
        "How long the offsets of an empty group are kept.",
    ),
    fixed(
        "process.roles",
        Kind::Text,
        "broker,controller",
        "What this node does.",
    ),
    fixed(
        "producer.id.expiration.ms",
        Kind::Int(1, i32::MAX),
        "86400000",
        "Time after which an idle producer is forgotten.",
    ),
    fixed(
        "socket.request.max.bytes",
        Kind::Int(1, i32::MAX),
        "104857600",
        "Largest request.",
    ),
    dynamic(
        "unclean.leader.election.enable",
        Kind::Boolean,
        "false",
        "Default of the topic config of the same name.",
    ),
];

pub fn find(name: &str) -> Option<&'static BrokerConfig> {
    BROKER_CONFIGS.iter().find(|config| config.name == name)
}

/// Checks a value that a client sets. Says why it is refused.
pub fn check(name: &str, value: &str) -> Result<&'static BrokerConfig, String> {
    let config = find(name).ok_or_else(|| format!("Unknown broker config name: {name}"))?;
    if !config.dynamic {
        return Err(format!(
            "Cannot update these configs dynamically: {name} comes from the server's configuration"
        ));
    }
    config
        .kind
        .check(value)
        .map_err(|why| format!("Invalid value {value} for configuration {name}: {why}"))?;
    Ok(config)
}

/// A broker config's value in the unit of the topic config that it is the default of.
pub fn as_topic_value(name: &str, value: &str) -> Option<String> {
    let factor = match name {
        _ if value.is_empty() => return None,
        "log.retention.hours" | "log.roll.hours" | "log.roll.jitter.hours" => 3_600_000,
        "log.retention.minutes" => 60_000,
        _ => return Some(value.into()),
    };
    let number: i64 = value.trim().parse().ok()?;
    Some(
        if number < 0 {
            -1
        } else {
            number.saturating_mul(factor)
        }
        .to_string(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_valid_and_names_sorted() {
        for config in BROKER_CONFIGS {
            assert!(
                config.default.is_empty() || config.kind.check(config.default).is_ok(),
                "{}",
                config.name
            );
        }
        assert!(BROKER_CONFIGS.is_sorted_by_key(|config| config.name));
        for topic in super::super::topic::TOPIC_CONFIGS {
            for name in topic.brokers {
                let broker = find(name).unwrap_or_else(|| panic!("{name} of {}", topic.name));
                if name.ends_with("ms") || !name.contains("hours") {
                    let same = broker.default.is_empty() || broker.default == topic.default;
                    assert!(same, "{name} and {}", topic.name);
                }
            }
        }
    }
}
