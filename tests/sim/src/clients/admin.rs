//! The client that makes and removes topics, adds partitions and deletes records.

use std::rc::Rc;
use std::time::Duration;

use kafka_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_protocol::messages::delete_records_request::{
    DeleteRecordsPartition, DeleteRecordsTopic,
};
use kafka_protocol::messages::delete_topics_request::DeleteTopicState;
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::{
    CreatePartitionsRequest, CreateTopicsRequest, DeleteRecordsRequest, DeleteTopicsRequest,
    MetadataRequest, TopicName,
};
use kafka_protocol::protocol::{Request, StrBytes};
use trireme_runtime::{random_u64, sleep, unix_ms};
use uuid::Uuid;

use super::fetch::{LATEST, list_offset};
use super::{Client, code, is_passing, one_in, pause};
use crate::draw::TopicDraw;
use crate::history::{Existence, LogId, Shape};
use crate::stage::{Phase, Stage};

const PASSING_TOPICS: usize = 2;
const TIMEOUT_MS: i32 = 5_000;
/// After a change without an answer: by then the broker has carried it out, or never will.
const IN_DOUBT_MAX: Duration = Duration::from_secs(4);

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

fn topic_name(name: &str) -> TopicName {
    TopicName(text(name))
}

struct Admin {
    client: Client,
}

pub async fn run(stage: Rc<Stage>, name: String) {
    let admin = Admin {
        client: Client::new(&stage, name),
    };
    let draws = stage.mix.topics.clone();
    let mut standing = Vec::new();
    for (at, draw) in draws.iter().enumerate() {
        let mut known = Existence::Absent;
        let (id, partitions) = loop {
            known = admin.create(draw, known).await;
            known = admin.look(&draw.name, known).await;
            if let Existence::Present { id, least, .. } = known {
                break (id, least);
            }
        };
        let logs = (0..partitions)
            .map(|partition| {
                stage
                    .history()
                    .new_log(&draw.name, id, partition, draw.shape)
            })
            .collect();
        stage.set_logs(at, logs);
        standing.push(known);
    }
    if stage.phase.get() == Phase::Setup {
        stage.phase.set(Phase::Running);
    }
    let mut passing = vec![Existence::Absent; PASSING_TOPICS];
    while !stage.is_closing() {
        pause(150_000).await;
        match random_u64() % 8 {
            0..=4 => {
                let at = random_u64() as usize % PASSING_TOPICS;
                passing[at] = admin.change(&format!("passing-{at}"), passing[at]).await;
            }
            5 => {
                let at = random_u64() as usize % draws.len();
                standing[at] = admin.look(&draws[at].name, standing[at]).await;
            }
            _ => {
                let at = random_u64() as usize % draws.len();
                if draws[at].is_trimmed {
                    let logs = stage.logs_of(&[at]);
                    admin.trim(logs[random_u64() as usize % logs.len()]).await;
                }
            }
        }
    }
    for (at, known) in passing.into_iter().enumerate() {
        admin.look(&format!("passing-{at}"), known).await;
    }
    for (draw, known) in draws.iter().zip(standing) {
        admin.look(&draw.name, known).await;
    }
}

impl Admin {
    /// Makes, widens or removes a topic that nobody else uses.
    async fn change(&self, name: &str, known: Existence) -> Existence {
        let known = match known {
            Existence::Absent => {
                let draw = TopicDraw {
                    name: name.to_owned(),
                    partitions: 1 + (random_u64() % 3) as i32,
                    shape: Shape::default(),
                    configs: Vec::new(),
                    is_trimmed: false,
                };
                self.create(&draw, known).await
            }
            Existence::Present { id, least, most } if one_in(3) => {
                self.widen(name, id, least, most > least).await
            }
            Existence::Present { id, least, .. } => self.delete(name, id, least).await,
            Existence::Maybe { .. } => known,
        };
        match one_in(2) || matches!(known, Existence::Maybe { .. }) {
            true => self.look(name, known).await,
            false => known,
        }
    }

    /// Creates a topic that is not there, or may be; what is known then.
    async fn create(&self, draw: &TopicDraw, known: Existence) -> Existence {
        if matches!(known, Existence::Present { .. }) {
            return known;
        }
        let configs = draw
            .configs
            .iter()
            .map(|(name, value)| {
                CreatableTopicConfig::default()
                    .with_name(text(name))
                    .with_value(Some(text(value)))
            })
            .collect();
        let topic = CreatableTopic::default()
            .with_name(topic_name(&draw.name))
            .with_num_partitions(draw.partitions)
            .with_replication_factor(1)
            .with_configs(configs);
        let request = CreateTopicsRequest::default()
            .with_topics(vec![topic])
            .with_timeout_ms(TIMEOUT_MS);
        let maybe = Existence::Maybe {
            id: None,
            partitions: draw.partitions,
        };
        let Some(answer) = self.change_by(request).await else {
            return maybe;
        };
        let result = &answer.topics[0];
        self.client
            .stage
            .history()
            .note(result.error_code as u64, || {
                format!("create {}: {}", draw.name, result.error_code)
            });
        match result.error_code {
            code::NONE => {
                self.client.stage.history().counts.topics_made += 1;
                Existence::Present {
                    id: result.topic_id,
                    least: draw.partitions,
                    most: draw.partitions,
                }
            }
            code::TOPIC_ALREADY_EXISTS if known != Existence::Absent => maybe,
            error if is_passing(error) => maybe,
            error => {
                self.client
                    .unexpected(&format!("creating {}", draw.name), error);
                maybe
            }
        }
    }

    async fn widen(&self, name: &str, id: Uuid, partitions: i32, is_maybe: bool) -> Existence {
        let topic = CreatePartitionsTopic::default()
            .with_name(topic_name(name))
            .with_count(partitions + 1)
            .with_assignments(None);
        let request = CreatePartitionsRequest::default()
            .with_topics(vec![topic])
            .with_timeout_ms(TIMEOUT_MS);
        let maybe = Existence::Present {
            id,
            least: partitions,
            most: partitions + 1,
        };
        let Some(answer) = self.change_by(request).await else {
            return maybe;
        };
        let error = answer.results[0].error_code;
        self.client.stage.history().note(error as u64, || {
            format!("widen {name} to {}: {error}", partitions + 1)
        });
        match error {
            code::NONE => Existence::Present {
                id,
                least: partitions + 1,
                most: partitions + 1,
            },
            error if is_passing(error) => maybe,
            // An earlier try without an answer may have widened it already.
            code::INVALID_PARTITIONS if is_maybe => maybe,
            error => {
                self.client.unexpected(&format!("widening {name}"), error);
                maybe
            }
        }
    }

    async fn delete(&self, name: &str, id: Uuid, partitions: i32) -> Existence {
        let by_id = one_in(2);
        let state = match by_id {
            true => DeleteTopicState::default()
                .with_name(None)
                .with_topic_id(id),
            false => DeleteTopicState::default().with_name(Some(topic_name(name))),
        };
        let request = DeleteTopicsRequest::default()
            .with_topics(vec![state])
            .with_timeout_ms(TIMEOUT_MS);
        let maybe = Existence::Maybe {
            id: Some(id),
            partitions,
        };
        let Some(answer) = self.change_by(request).await else {
            return maybe;
        };
        let error = answer.responses[0].error_code;
        self.client
            .stage
            .history()
            .note(error as u64, || format!("delete {name}: {error}"));
        match error {
            code::NONE => {
                self.client.stage.history().counts.topics_deleted += 1;
                Existence::Absent
            }
            error if is_passing(error) => maybe,
            error => {
                self.client.unexpected(&format!("deleting {name}"), error);
                maybe
            }
        }
    }

    /// A call that changes something.
    async fn change_by<R: Request>(&self, request: R) -> Option<R::Response> {
        let answer = self.client.call(request).await;
        if answer.is_none() {
            sleep(IN_DOUBT_MAX).await;
        }
        answer
    }

    /// Asks until there is an answer whether a topic is there.
    async fn look(&self, name: &str, known: Existence) -> Existence {
        loop {
            let topic = MetadataRequestTopic::default().with_name(Some(topic_name(name)));
            let request = MetadataRequest::default()
                .with_topics(Some(vec![topic]))
                .with_allow_auto_topic_creation(false);
            if let Some(answer) = self.client.call(request).await {
                let topic = &answer.topics[0];
                let told = match topic.error_code {
                    code::NONE => Some((topic.topic_id, topic.partitions.len() as i32)),
                    code::UNKNOWN_TOPIC_OR_PARTITION => None,
                    error => {
                        self.client
                            .unexpected(&format!("metadata of {name}"), error);
                        return known;
                    }
                };
                return self.client.stage.history().told_topic(name, known, told);
            }
        }
    }

    /// DeleteRecords up to somewhere in the log.
    async fn trim(&self, log: LogId) {
        let Some((end, _)) = list_offset(&self.client, log, LATEST).await else {
            return;
        };
        let to = (random_u64() % (end as u64 + 1)) as i64;
        let stage = self.client.stage.clone();
        let (floor, (topic, _, partition)) = {
            let mut history = stage.history();
            history.deleting_to(log, to);
            (history.floor(log), history.place(log))
        };
        let partition = DeleteRecordsPartition::default()
            .with_partition_index(partition)
            .with_offset(to);
        let topic = DeleteRecordsTopic::default()
            .with_name(topic_name(&topic))
            .with_partitions(vec![partition]);
        let request = DeleteRecordsRequest::default()
            .with_topics(vec![topic])
            .with_timeout_ms(TIMEOUT_MS);
        let Some(answer) = self.client.call(request).await else {
            return;
        };
        let answer = &answer.topics[0].partitions[0];
        match answer.error_code {
            code::NONE => {
                let mut history = stage.history();
                history.counts.records_deleted += 1;
                history.told_start(log, answer.low_watermark, floor, unix_ms());
                if answer.low_watermark < to {
                    let what = format!(
                        "records were deleted to {to}, and the log starts at {}",
                        answer.low_watermark
                    );
                    history.broken(crate::history::Checker::LogStart, what);
                }
            }
            // A retention that was faster may have moved the start beyond it.
            code::OFFSET_OUT_OF_RANGE => (),
            error if is_passing(error) => (),
            error => self.client.unexpected("DeleteRecords", error),
        }
    }
}
