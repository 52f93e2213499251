//! Every topic config of Kafka 4.3.

use super::value::{ANY_LONG, Kind, list};

/// One topic config.
pub struct TopicConfig {
    pub name: &'static str,
    pub kind: Kind,
    pub default: &'static str,
    /// Broker configs that give the default, the strongest first.
    pub brokers: &'static [&'static str],
    /// Whether it does something here; the others are kept and described only.
    pub effect: bool,
    pub documentation: &'static str,
}

const LONG_MAX: &str = "9223372036854775807";

/// All of them, by name.
pub const TOPIC_CONFIGS: &[TopicConfig] = &[
    TopicConfig {
        name: "cleanup.policy",
        kind: Kind::ListOf(&["compact", "delete"]),
        default: "delete",
        brokers: &["log.cleanup.policy"],
        effect: true,
        documentation: "What happens to old segments: \"delete\" removes them by retention.ms and retention.bytes, an empty list keeps them. \
                        \"compact\" is refused until a later version builds it.",
    },
    TopicConfig {
        name: "compression.gzip.level",
        kind: Kind::Int(-1, 9),
        default: "-1",
        brokers: &["compression.gzip.level"],
        effect: false,
        documentation: "Level for gzip if the broker compressed; it never does, batches stay as producers sent them.",
    },
    TopicConfig {
        name: "compression.lz4.level",
        kind: Kind::Int(1, 17),
        default: "9",
        brokers: &["compression.lz4.level"],
        effect: false,
        documentation: "Level for lz4 if the broker compressed; it never does, batches stay as producers sent them.",
    },
    TopicConfig {
        name: "compression.type",
        kind: Kind::OneOf(&["uncompressed", "zstd", "lz4", "snappy", "gzip", "producer"]),
        default: "producer",
        brokers: &["compression.type"],
        effect: true,
        documentation: "How batches are compressed at rest. Only \"producer\" is possible: they stay as the producer sent them.",
    },
    TopicConfig {
        name: "compression.zstd.level",
        kind: Kind::Int(-131_072, 22),
        default: "3",
        brokers: &["compression.zstd.level"],
        effect: false,
        documentation: "Level for zstd if the broker compressed; it never does, batches stay as producers sent them.",
    },
    TopicConfig {
        name: "delete.retention.ms",
        kind: Kind::Long(0),
        default: "86400000",
        brokers: &["log.cleaner.delete.retention.ms"],
        effect: false,
        documentation: "How long compaction keeps the marker of a deleted key.",
    },
    TopicConfig {
        name: "file.delete.delay.ms",
        kind: Kind::Long(0),
        default: "60000",
        brokers: &["log.segment.delete.delay.ms"],
        effect: true,
        documentation: "Time in ms between the end of a segment and the removal of its files.",
    },
    TopicConfig {
        name: "flush.messages",
        kind: Kind::Long(1),
        default: "1",
        brokers: &["log.flush.interval.messages"],
        effect: true,
        documentation: "Durability. 1 (the default): a write is acknowledged when it is on disk. Larger: a write is acknowledged from memory \
                        and reaches the disk a moment later, so that a crash may lose what was acknowledged last.",
    },
    TopicConfig {
        name: "flush.ms",
        kind: Kind::Long(0),
        default: LONG_MAX,
        brokers: &["log.flush.interval.ms"],
        effect: false,
        documentation: "Longest time until a write is forced to disk. Every write is forced at once, so it changes nothing.",
    },
    TopicConfig {
        name: "follower.replication.throttled.replicas",
        kind: Kind::ThrottledReplicas,
        default: "",
        brokers: &[],
        effect: false,
        documentation: "Replicas whose replication is throttled on the follower: partition:broker pairs, or * for all.",
    },
    TopicConfig {
        name: "index.interval.bytes",
        kind: Kind::Int(0, i32::MAX),
        default: "4096",
        brokers: &["log.index.interval.bytes"],
        effect: true,
        documentation: "Bytes of log between two entries of the offset index; raised to the size of a verified read.",
    },
    TopicConfig {
        name: "leader.replication.throttled.replicas",
        kind: Kind::ThrottledReplicas,
        default: "",
        brokers: &[],
        effect: false,
        documentation: "Replicas whose replication is throttled on the leader: partition:broker pairs, or * for all.",
    },
    TopicConfig {
        name: "local.retention.bytes",
        kind: Kind::Long(-2),
        default: "-2",
        brokers: &["log.local.retention.bytes"],
        effect: false,
        documentation: "Size of the local log when older segments are kept remotely; -2 follows retention.bytes.",
    },
    TopicConfig {
        name: "local.retention.ms",
        kind: Kind::Long(-2),
        default: "-2",
        brokers: &["log.local.retention.ms"],
        effect: false,
        documentation: "Age of the local log in ms when older segments are kept remotely; -2 follows retention.ms.",
    },
    TopicConfig {
        name: "max.compaction.lag.ms",
        kind: Kind::Long(1),
        default: LONG_MAX,
        brokers: &["log.cleaner.max.compaction.lag.ms"],
        effect: false,
        documentation: "Longest time in ms that a record stays out of reach of compaction.",
    },
    TopicConfig {
        name: "max.message.bytes",
        kind: Kind::Int(0, i32::MAX),
        default: "1048588",
        brokers: &["message.max.bytes"],
        effect: true,
        documentation: "Largest record batch in bytes, as compressed by the producer.",
    },
    TopicConfig {
        name: "message.timestamp.after.max.ms",
        kind: Kind::Long(0),
        default: "3600000",
        brokers: &["log.message.timestamp.after.max.ms"],
        effect: true,
        documentation: "How far in ms a record's timestamp may lie after the broker's clock. Not checked with LogAppendTime.",
    },
    TopicConfig {
        name: "message.timestamp.before.max.ms",
        kind: Kind::Long(0),
        default: LONG_MAX,
        brokers: &["log.message.timestamp.before.max.ms"],
        effect: true,
        documentation: "How far in ms a record's timestamp may lie before the broker's clock. Not checked with LogAppendTime.",
    },
    TopicConfig {
        name: "message.timestamp.type",
        kind: Kind::OneOf(&["CreateTime", "LogAppendTime"]),
        default: "CreateTime",
        brokers: &["log.message.timestamp.type"],
        effect: true,
        documentation: "Whose clock a record's timestamp is: the producer's (CreateTime) or the broker's at append (LogAppendTime).",
    },
    TopicConfig {
        name: "min.cleanable.dirty.ratio",
        kind: Kind::Double(0.0, 1.0),
        default: "0.5",
        brokers: &["log.cleaner.min.cleanable.ratio"],
        effect: false,
        documentation: "Share of a log that has to be uncompacted before compaction looks at it.",
    },
    TopicConfig {
        name: "min.compaction.lag.ms",
        kind: Kind::Long(0),
        default: "0",
        brokers: &["log.cleaner.min.compaction.lag.ms"],
        effect: false,
        documentation: "Shortest time in ms that a record stays out of reach of compaction.",
    },
    TopicConfig {
        name: "min.insync.replicas",
        kind: Kind::Int(1, i32::MAX),
        default: "1",
        brokers: &["min.insync.replicas"],
        effect: true,
        documentation: "Replicas that have to have a write before acks=all is answered. With more than one, acks=all is refused while there is \
                        one node.",
    },
    TopicConfig {
        name: "preallocate",
        kind: Kind::Boolean,
        default: "false",
        brokers: &["log.preallocate"],
        effect: false,
        documentation: "Whether segment files get their full size at creation. Segments always grow in allocated steps here.",
    },
    TopicConfig {
        name: "remote.log.copy.disable",
        kind: Kind::Boolean,
        default: "false",
        brokers: &[],
        effect: false,
        documentation: "Stops copying segments to remote storage.",
    },
    TopicConfig {
        name: "remote.log.delete.on.disable",
        kind: Kind::Boolean,
        default: "false",
        brokers: &[],
        effect: false,
        documentation: "Whether turning remote storage off deletes what it holds.",
    },
    TopicConfig {
        name: "remote.storage.enable",
        kind: Kind::Boolean,
        default: "false",
        brokers: &[],
        effect: false,
        documentation: "Keeps old segments in remote storage. There is none, so it cannot be turned on.",
    },
    TopicConfig {
        name: "retention.bytes",
        kind: ANY_LONG,
        default: "-1",
        brokers: &["log.retention.bytes"],
        effect: true,
        documentation: "Bytes of a partition beyond which its oldest segments are deleted; -1 for no limit.",
    },
    TopicConfig {
        name: "retention.ms",
        kind: Kind::Long(-1),
        default: "604800000",
        brokers: &[
            "log.retention.ms",
            "log.retention.minutes",
            "log.retention.hours",
        ],
        effect: true,
        documentation: "Age in ms from which segments are deleted; -1 for no limit.",
    },
    TopicConfig {
        name: "segment.bytes",
        kind: Kind::Int(1 << 20, i32::MAX),
        default: "1073741824",
        brokers: &["log.segment.bytes"],
        effect: true,
        documentation: "Size at which a segment is sealed and the next one begins. Retention removes whole segments.",
    },
    TopicConfig {
        name: "segment.index.bytes",
        kind: Kind::Int(4, i32::MAX),
        default: "10485760",
        brokers: &["log.index.size.max.bytes"],
        effect: false,
        documentation: "Largest index of a segment. Indexes grow as needed here.",
    },
    TopicConfig {
        name: "segment.jitter.ms",
        kind: Kind::Long(0),
        default: "0",
        brokers: &["log.roll.jitter.ms", "log.roll.jitter.hours"],
        effect: false,
        documentation: "Random time taken off segment.ms so that segments do not end together.",
    },
    TopicConfig {
        name: "segment.ms",
        kind: Kind::Long(1),
        default: "604800000",
        brokers: &["log.roll.ms", "log.roll.hours"],
        effect: true,
        documentation: "Age in ms at which a segment is sealed even if it is not full, so that retention can remove it.",
    },
    TopicConfig {
        name: "unclean.leader.election.enable",
        kind: Kind::Boolean,
        default: "false",
        brokers: &["unclean.leader.election.enable"],
        effect: false,
        documentation: "Whether a replica that is not in sync may become leader when no other is left.",
    },
];

pub fn find(name: &str) -> Option<&'static TopicConfig> {
    TOPIC_CONFIGS.iter().find(|config| config.name == name)
}

/// Checks a value to be kept. Says why it is refused.
pub fn check(name: &str, value: &str) -> Result<&'static TopicConfig, String> {
    let config = find(name).ok_or_else(|| format!("Unknown topic config name: {name}"))?;
    let refuse = |why: &str| {
        Err(format!(
            "Invalid value {value} for configuration {name}: {why}"
        ))
    };
    if let Err(why) = config.kind.check(value) {
        return refuse(&why);
    }
    match name {
        "cleanup.policy" if list(value).any(|policy| policy == "compact") => {
            refuse("compaction is not supported until a later version builds it")
        }
        "compression.type" if value != "producer" => {
            refuse("only 'producer' is supported: batches are kept as the producer compressed them")
        }
        "remote.storage.enable" if value.eq_ignore_ascii_case("true") => {
            refuse("there is no remote storage")
        }
        _ => Ok(config),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_valid_and_names_sorted() {
        for config in TOPIC_CONFIGS {
            assert!(
                check(config.name, config.default).is_ok(),
                "{}",
                config.name
            );
            assert!(!config.documentation.is_empty());
        }
        assert!(TOPIC_CONFIGS.is_sorted_by_key(|config| config.name));
    }

    #[test]
    fn what_would_break_a_promise_is_refused() {
        for (name, value) in [
            ("cleanup.policy", "compact"),
            ("cleanup.policy", "compact,delete"),
            ("compression.type", "zstd"),
            ("remote.storage.enable", "true"),
            ("segment.bytes", "1000"),
            ("no.such.config", "1"),
        ] {
            assert!(check(name, value).is_err(), "{name}={value}");
        }
        for (name, value) in [
            ("cleanup.policy", ""),
            ("flush.messages", "10000"),
            ("retention.ms", "-1"),
        ] {
            assert!(check(name, value).is_ok(), "{name}={value}");
        }
    }
}
