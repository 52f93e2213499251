//! A producer: batches for several partitions, several requests under way, retries in order.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::rc::Rc;

use bytes::Bytes;
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::{
    InitProducerIdRequest, ProduceRequest, ProduceResponse, ProducerId, TopicName,
};
use kafka_protocol::protocol::StrBytes;
use trireme_engine::records::Producer;
use trireme_runtime::{random_u64, unix_ms};

use super::{Client, PATIENCE, code, is_passing, of, one_in, pause};
use crate::draw::WriterDraw;
use crate::history::{Checker, Floor, LogId};
use crate::records::{self, Name, Outgoing};
use crate::stage::Stage;
use crate::wire::{Connection, Ticket};

/// After a refusal, so many µs at most.
const REFUSED_PAUSE_US_MAX: u64 = 100_000;
/// With its share done, a writer goes on slowly as long as there is something to be seen.
const ENOUGH_PAUSE_US_MAX: u64 = 200_000;
/// One turn in so many drops the connection.
const DROPS_ONE_IN: u64 = 60;
/// First produce version that names topics by id.
const PRODUCE_BY_ID: i16 = 13;

/// A batch until it is acknowledged.
struct Batch {
    log: LogId,
    numbers: Range<u32>,
    records: Vec<Outgoing>,
    /// From before its first attempt.
    first: Option<Floor>,
    sequence: i32,
    encoded: Option<Bytes>,
}

/// A request that has no answer yet.
struct UnderWay {
    ticket: Ticket<ProduceRequest>,
    batches: Vec<Batch>,
    floors: Vec<Floor>,
}

struct Writer {
    client: Client,
    draw: WriterDraw,
    id: u16,
    logs: Vec<LogId>,
    producer: Option<(i64, i16)>,
    /// Next sequence by log, and what was known of the log when its count began.
    sequences: BTreeMap<LogId, (i32, Floor)>,
    todo: BTreeMap<LogId, VecDeque<Batch>>,
    under_way: VecDeque<UnderWay>,
    acknowledged: u64,
}

pub async fn run(stage: Rc<Stage>, draw: WriterDraw, name: String) {
    while stage.phase.get() == crate::stage::Phase::Setup {
        pause(50_000).await;
    }
    let id = stage.history().new_writer(draw.is_idempotent);
    let mut writer = Writer {
        logs: stage.logs_of(&draw.topics),
        client: Client::new(&stage, name),
        draw,
        id,
        producer: None,
        sequences: BTreeMap::new(),
        todo: BTreeMap::new(),
        under_way: VecDeque::new(),
        acknowledged: 0,
    };
    let mut is_done = false;
    loop {
        if !is_done && writer.has_enough() {
            is_done = true;
            stage.writer_done();
        }
        if stage.is_closing() && writer.is_idle() {
            return;
        }
        writer.turn().await;
    }
}

impl Writer {
    fn has_enough(&self) -> bool {
        self.acknowledged >= self.draw.records
    }

    fn is_idle(&self) -> bool {
        self.under_way.is_empty() && self.todo.values().all(VecDeque::is_empty)
    }

    /// Sends what may be sent, then takes one answer.
    async fn turn(&mut self) {
        let connection = self.client.connection().await;
        if self.draw.is_idempotent && self.producer.is_none() && !self.begin_producer().await {
            return;
        }
        while self.under_way.len() < self.draw.in_flight {
            let batches = self.next_batches();
            if batches.is_empty() {
                break;
            }
            if let Err(broken) = self.send(&connection, batches).await {
                self.take_back_all();
                return self.client.lost(broken).await;
            }
            match self.has_enough() {
                true => pause(ENOUGH_PAUSE_US_MAX).await,
                false => pause(self.draw.pause_us_max).await,
            }
            if self.draw.acks == 0 {
                return pause(10_000).await;
            }
        }
        if one_in(DROPS_ONE_IN) {
            // Nobody waits for the answers, and what was sent is sent again before they are due.
            self.take_back_all();
            return self.client.disconnect();
        }
        let Some(oldest) = self.under_way.pop_front() else {
            return pause(10_000).await;
        };
        match connection.receive(oldest.ticket, PATIENCE).await {
            Ok(response) => {
                let refused = self.answered(oldest.batches, &oldest.floors, response);
                if !refused.is_empty() {
                    self.recover(&connection, refused).await;
                }
            }
            Err(broken) => {
                self.take_back(oldest.batches);
                self.take_back_all();
                self.client.lost(broken).await;
            }
        }
    }

    async fn begin_producer(&mut self) -> bool {
        let request = InitProducerIdRequest::default()
            .with_transactional_id(None)
            .with_transaction_timeout_ms(60_000)
            .with_producer_id(ProducerId(-1))
            .with_producer_epoch(-1);
        let Some(answer) = self.client.call(request).await else {
            self.take_back_all();
            return false;
        };
        match answer.error_code {
            code::NONE => {
                let (id, epoch) = (answer.producer_id.0, answer.producer_epoch);
                let stage = self.client.stage.clone();
                let mut history = stage.history();
                history.told_producer_id(id, epoch);
                self.producer = Some((id, epoch));
                self.sequences.clear();
                // What is unacknowledged is numbered anew.
                for batch in self.todo.values_mut().flatten() {
                    batch.encoded = None;
                    if batch.first.is_some() {
                        history.renumbering(self.id, batch.numbers.clone());
                    }
                }
                true
            }
            error if is_passing(error) => {
                pause(REFUSED_PAUSE_US_MAX).await;
                false
            }
            error => {
                self.client.unexpected("InitProducerId", error);
                false
            }
        }
    }

    /// Batches for the next request, each for another partition: first what has to be sent again, then new ones.
    fn next_batches(&mut self) -> Vec<Batch> {
        let mut batches = Vec::new();
        let mut logs = self.logs.clone();
        let mut wanted = self.draw.partitions_per_request;
        // What waits keeps its order; partitions are taken at random.
        while wanted > 0 && !logs.is_empty() {
            let log = logs.swap_remove(random_u64() as usize % logs.len());
            let waiting = self.todo.get_mut(&log).and_then(VecDeque::pop_front);
            let batch = match waiting {
                Some(batch) => batch,
                None if self.client.stage.is_closing() => continue,
                None => self.new_batch(log),
            };
            batches.push(batch);
            wanted -= 1;
        }
        batches
    }

    fn new_batch(&mut self, log: LogId) -> Batch {
        let count = match self.has_enough() {
            true => 1 + random_u64() % 3,
            false => of(&self.draw.batch_records),
        };
        let now_ms = unix_ms();
        let mut history = self.client.stage.history();
        let records: Vec<Outgoing> = (0..count)
            .map(|_| {
                let value_len = of(&self.draw.value_bytes).max(8) as usize;
                // Mostly now, sometimes out of order.
                let timestamp_ms = now_ms
                    - if one_in(8) {
                        (random_u64() % 50) as i64
                    } else {
                        0
                    };
                let name = history.sending(self.id, log, timestamp_ms, value_len);
                Outgoing {
                    name,
                    value_len,
                    timestamp_ms,
                }
            })
            .collect();
        let first: Name = records[0].name;
        Batch {
            log,
            numbers: first.number..first.number + count as u32,
            records,
            first: None,
            sequence: -1,
            encoded: None,
        }
    }

    async fn send(
        &mut self,
        connection: &Connection,
        mut batches: Vec<Batch>,
    ) -> Result<(), crate::wire::Broken> {
        let version = connection.version::<ProduceRequest>(self.draw.produce_version);
        let mut floors = Vec::new();
        let mut topics: BTreeMap<String, TopicProduceData> = BTreeMap::new();
        {
            let stage = self.client.stage.clone();
            let mut history = stage.history();
            for batch in &mut batches {
                let floor = history.floor(batch.log);
                floors.push(floor);
                batch.first.get_or_insert(floor);
                self.encode(batch, floor);
                history.attempt(self.id, batch.numbers.clone());
                let (topic, topic_id, partition) = history.place(batch.log);
                history.note(u64::from(batch.numbers.start), || {
                    format!(
                        "send  log {:<10} {}#{}..{} sequence {}",
                        batch.log, self.id, batch.numbers.start, batch.numbers.end, batch.sequence
                    )
                });
                let data = topics
                    .entry(topic.clone())
                    .or_insert_with(|| match version {
                        PRODUCE_BY_ID.. => TopicProduceData::default().with_topic_id(topic_id),
                        _ => TopicProduceData::default()
                            .with_name(TopicName(StrBytes::from_string(topic))),
                    });
                let records = batch.encoded.clone();
                let partition = PartitionProduceData::default()
                    .with_index(partition)
                    .with_records(records);
                data.partition_data.push(partition);
            }
        }
        let request = ProduceRequest::default()
            .with_transactional_id(None)
            .with_acks(self.draw.acks)
            .with_timeout_ms(5_000)
            .with_topic_data(topics.into_values().collect());
        let sent = connection.send(version, &request, PATIENCE).await;
        if self.draw.acks == 0 {
            // Nobody answers, and nothing is promised.
            self.acknowledged += batches
                .iter()
                .map(|batch| batch.numbers.len() as u64)
                .sum::<u64>();
            return sent.map(|_| ());
        }
        match sent {
            Ok(ticket) => {
                self.under_way.push_back(UnderWay {
                    ticket,
                    batches,
                    floors,
                });
                Ok(())
            }
            Err(broken) => {
                self.take_back(batches);
                Err(broken)
            }
        }
    }

    /// Gives the batch its bytes, and its sequence if it has none of this producer.
    fn encode(&mut self, batch: &mut Batch, floor: Floor) {
        if batch.encoded.is_some() {
            return;
        }
        let producer = self.producer.map(|(id, epoch)| {
            let (next, _) = self.sequences.entry(batch.log).or_insert((0, floor));
            batch.sequence = *next;
            *next += batch.numbers.len() as i32;
            Producer {
                id,
                epoch,
                base_sequence: batch.sequence,
            }
        });
        let bytes = records::encode(self.draw.codec, producer, batch.records.iter().copied());
        batch.encoded = Some(bytes.into());
    }

    /// Settles the batches that were acknowledged, gives back the others with their errors.
    fn answered(
        &mut self,
        batches: Vec<Batch>,
        floors: &[Floor],
        response: ProduceResponse,
    ) -> Vec<(Batch, i16)> {
        let mut answers = BTreeMap::new();
        for topic in &response.responses {
            for partition in &topic.partition_responses {
                let key = (topic.name.to_string(), topic.topic_id, partition.index);
                answers.insert(key, partition);
            }
        }
        let mut refused = Vec::new();
        let stage = self.client.stage.clone();
        let mut history = stage.history();
        for (batch, floor) in batches.into_iter().zip(floors) {
            let (topic, topic_id, index) = history.place(batch.log);
            let answer = answers
                .get(&(topic, uuid::Uuid::nil(), index))
                .or_else(|| answers.get(&(String::new(), topic_id, index)));
            let Some(answer) = answer else {
                history.broken(
                    Checker::Protocol,
                    format!("{}: no answer for a partition", self.client.name),
                );
                continue;
            };
            if answer.error_code != code::NONE {
                let (log, error) = (batch.log, answer.error_code);
                history.note(error as u64, || {
                    format!(
                        "fail  log {log:<10} {}#{}: error {error}",
                        self.id, batch.numbers.start
                    )
                });
                refused.push((batch, error));
                continue;
            }
            let first = batch.first.expect("it was sent");
            self.acknowledged += batch.numbers.len() as u64;
            history.told_ack(
                batch.log,
                answer.base_offset,
                self.id,
                batch.numbers.clone(),
                first,
                *floor,
            );
            if answer.log_start_offset >= 0 {
                history.told_start(batch.log, answer.log_start_offset, *floor, unix_ms());
            }
        }
        stage.acknowledged(history.counts.acknowledged);
        refused
    }

    /// Something was refused: takes all other answers first, so that everything that has to be sent again is, in order.
    async fn recover(&mut self, connection: &Connection, mut refused: Vec<(Batch, i16)>) {
        let mut lost = None;
        while let Some(next) = self.under_way.pop_front() {
            match connection.receive(next.ticket, PATIENCE).await {
                Ok(response) => refused.extend(self.answered(next.batches, &next.floors, response)),
                Err(broken) => {
                    self.take_back(next.batches);
                    self.take_back_all();
                    lost = Some(broken);
                    break;
                }
            }
        }
        let mut first_errors: BTreeMap<LogId, (u32, i16)> = BTreeMap::new();
        for (batch, error) in &refused {
            let first = first_errors
                .entry(batch.log)
                .or_insert((batch.numbers.start, *error));
            *first = (*first).min((batch.numbers.start, *error));
        }
        for (log, (number, error)) in first_errors {
            self.judge(log, number, error);
        }
        self.take_back(refused.into_iter().map(|(batch, _)| batch).collect());
        match lost {
            Some(broken) => self.client.lost(broken).await,
            None => pause(REFUSED_PAUSE_US_MAX).await,
        }
    }

    /// Whether the oldest unacknowledged batch of a log may have been refused like this.
    fn judge(&mut self, log: LogId, number: u32, error: i16) {
        let stage = self.client.stage.clone();
        let mut history = stage.history();
        let is_sequence = matches!(
            error,
            code::OUT_OF_ORDER_SEQUENCE_NUMBER
                | code::UNKNOWN_PRODUCER_ID
                | code::INVALID_PRODUCER_EPOCH
        );
        if is_passing(error) {
            return;
        }
        let since = self.sequences.get(&log).map(|(_, since)| *since);
        if is_sequence && since.is_some_and(|since| history.may_have_forgotten(log, since)) {
            // A relaxed log has lost what the sequence counts on: begin again, as clients do.
            self.producer = None;
            return;
        }
        let checker = if is_sequence {
            Checker::Producers
        } else {
            Checker::Protocol
        };
        let name = history.log_name(log);
        history.broken(
            checker,
            format!(
                "{}: {name}: {}#{number} was refused with error {error}",
                self.client.name, self.id
            ),
        );
    }

    fn take_back_all(&mut self) {
        while let Some(last) = self.under_way.pop_back() {
            self.take_back(last.batches);
        }
    }

    /// Batches go back in front of what waits, in order.
    fn take_back(&mut self, batches: Vec<Batch>) {
        for batch in batches {
            let waiting = self.todo.entry(batch.log).or_default();
            let at = waiting.partition_point(|other| other.numbers.start < batch.numbers.start);
            waiting.insert(at, batch);
        }
    }
}
