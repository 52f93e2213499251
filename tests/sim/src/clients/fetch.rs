//! Fetching, as readers and members do it, with or without a session; look-ups of offsets.

use std::collections::BTreeMap;

use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::{BrokerId, FetchRequest, ListOffsetsRequest, TopicName};
use kafka_protocol::protocol::StrBytes;
use trireme_runtime::{random_u64, unix_ms};

use super::{Client, PATIENCE, code, is_passing, one_in, pause};
use crate::history::{Checker, Floor, LogId};
use crate::records;

/// First fetch version that names topics by id.
const FETCH_BY_ID: i16 = 13;
pub const EARLIEST: i64 = -2;
pub const LATEST: i64 = -1;

/// The positions of a consumer and its session.
pub struct Fetcher {
    pub positions: BTreeMap<LogId, i64>,
    version: i16,
    /// Id and next epoch.
    session: Option<(i32, i32)>,
    uses_sessions: bool,
    /// Positions as the session has them.
    in_session: BTreeMap<LogId, i64>,
}

impl Fetcher {
    pub fn new(positions: BTreeMap<LogId, i64>) -> Fetcher {
        Fetcher {
            positions,
            version: 11 + (random_u64() % 7) as i16,
            session: None,
            uses_sessions: one_in(2),
            in_session: BTreeMap::new(),
        }
    }

    /// One fetch; moves the positions. How many records came, `None` if there was no answer.
    pub async fn fetch(
        &mut self,
        client: &Client,
        max_wait_ms: i32,
        max_bytes: i32,
    ) -> Option<usize> {
        let stage = client.stage.clone();
        let connection = client.connection().await;
        let version = connection.version::<FetchRequest>(self.version);
        let (session_id, session_epoch) = match (self.uses_sessions, self.session) {
            (false, _) => (0, -1),
            (true, None) => (0, 0),
            (true, Some(session)) => session,
        };
        let is_incremental = session_epoch > 0;
        let mut floors: BTreeMap<LogId, Floor> = BTreeMap::new();
        let mut topics: BTreeMap<String, FetchTopic> = BTreeMap::new();
        {
            let history = stage.history();
            for (log, position) in &self.positions {
                floors.insert(*log, history.floor(*log));
                if is_incremental && self.in_session.get(log) == Some(position) {
                    continue;
                }
                let (topic, topic_id, partition) = history.place(*log);
                let entry = topics
                    .entry(topic.clone())
                    .or_insert_with(|| match version {
                        FETCH_BY_ID.. => FetchTopic::default().with_topic_id(topic_id),
                        _ => FetchTopic::default()
                            .with_topic(TopicName(StrBytes::from_string(topic))),
                    });
                let partition = FetchPartition::default()
                    .with_partition(partition)
                    .with_current_leader_epoch(-1)
                    .with_fetch_offset(*position)
                    .with_partition_max_bytes(max_bytes);
                entry.partitions.push(partition);
            }
        }
        let mut request = FetchRequest::default()
            .with_max_wait_ms(max_wait_ms)
            .with_min_bytes(1)
            .with_max_bytes(max_bytes)
            .with_session_id(session_id)
            .with_session_epoch(session_epoch)
            .with_topics(topics.into_values().collect());
        if version < 15 {
            request = request.with_replica_id(BrokerId(-1));
        }
        let asked = self.positions.clone();
        let answer = match connection.call_version(version, request, PATIENCE).await {
            Ok(answer) => answer,
            Err(broken) => {
                self.session = None;
                client.lost(broken).await;
                return None;
            }
        };
        match answer.error_code {
            code::NONE => (),
            code::FETCH_SESSION_ID_NOT_FOUND
            | code::INVALID_FETCH_SESSION_EPOCH
            | code::FETCH_SESSION_TOPIC_ID_ERROR => {
                self.session = None;
                return Some(0);
            }
            error => {
                client.unexpected("Fetch", error);
                return None;
            }
        }
        self.in_session = asked.clone();
        self.session =
            (answer.session_id != 0).then(|| (answer.session_id, session_epoch.max(0) + 1));
        let mut count = 0;
        let mut out_of_range = Vec::new();
        for topic in &answer.responses {
            for partition in &topic.partitions {
                let name = topic.topic.to_string();
                let mut history = stage.history();
                let log = asked.keys().copied().find(|log| {
                    let (known, id, index) = history.place(*log);
                    index == partition.partition_index
                        && (name == known || !id.is_nil() && topic.topic_id == id)
                });
                let Some(log) = log else {
                    history.broken(
                        Checker::Protocol,
                        format!("{}: a partition that was not asked for", client.name),
                    );
                    continue;
                };
                let (floor, offset) = (floors[&log], asked[&log]);
                match partition.error_code {
                    code::NONE => {
                        history.told_watermark(log, partition.high_watermark, floor);
                        history.told_start(log, partition.log_start_offset, floor, unix_ms());
                        let bytes = partition.records.as_deref().unwrap_or_default();
                        match records::decode(bytes) {
                            Ok(records) => {
                                history.told_records(
                                    log,
                                    offset,
                                    partition.high_watermark,
                                    &records,
                                );
                                count += records.len();
                                if let Some(last) = records.last() {
                                    self.positions.insert(log, last.offset + 1);
                                }
                            }
                            Err(what) => {
                                let what =
                                    format!("{} from {offset}: {what}", history.log_name(log));
                                history.broken(Checker::Invented, what);
                            }
                        }
                    }
                    code::OFFSET_OUT_OF_RANGE => out_of_range.push((log, offset, floor)),
                    code::KAFKA_STORAGE_ERROR if history.is_rotten => (),
                    error if is_passing(error) => (),
                    error => {
                        drop(history);
                        client.unexpected("Fetch of a partition", error);
                    }
                }
            }
        }
        for (log, offset, floor) in out_of_range {
            self.session = None;
            let start = list_offset(client, log, EARLIEST).await?;
            stage
                .history()
                .told_out_of_range(log, offset, floor, start.0);
            self.positions.insert(log, start.0);
        }
        Some(count)
    }
}

/// ListOffsets of one partition: offset and time. `None` if there was no answer.
pub async fn list_offset(client: &Client, log: LogId, time: i64) -> Option<(i64, i64)> {
    let stage = client.stage.clone();
    let (floor, (topic, _, index)) = {
        let history = stage.history();
        (history.floor(log), history.place(log))
    };
    let partition = ListOffsetsPartition::default()
        .with_partition_index(index)
        .with_current_leader_epoch(-1)
        .with_timestamp(time);
    let topic = ListOffsetsTopic::default()
        .with_name(TopicName(StrBytes::from_string(topic)))
        .with_partitions(vec![partition]);
    let request = ListOffsetsRequest::default()
        .with_replica_id(BrokerId(-1))
        .with_topics(vec![topic]);
    let answer = client.call(request).await?;
    let Some(partition) = answer
        .topics
        .first()
        .and_then(|topic| topic.partitions.first())
    else {
        client.unexpected("ListOffsets without a partition", 0);
        return None;
    };
    let mut history = stage.history();
    match partition.error_code {
        code::NONE => (),
        error if is_passing(error) => {
            drop(history);
            pause(50_000).await;
            return None;
        }
        error => {
            drop(history);
            client.unexpected("ListOffsets", error);
            return None;
        }
    }
    match time {
        EARLIEST => history.told_start(log, partition.offset, floor, unix_ms()),
        LATEST => history.told_watermark(log, partition.offset, floor),
        time if time >= 0 => {
            history.told_by_time(log, time, partition.offset, partition.timestamp, floor)
        }
        _ => (),
    }
    Some((partition.offset, partition.timestamp))
}
