//! Fetch: records of partitions, as soon as there are enough or the wait is over.
//!
//! `request` and `response` are the hand-written codec, [`crate::fetch_session`] remembers what a consumer fetches. Records are never
//! copied here: what the engine hands out as memory or as file range becomes a segment of the answer. Reading goes over the partitions
//! in their order until the request's byte limit is used up; an incremental session moves those that gave records to its end.

mod request;
mod response;

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use kacrab_protocol::generated::ErrorCode;
use smallvec::SmallVec;
use trireme_engine::{
    Isolation, PartitionRef, ReadError, ReadPart, ReadRequest, ReadResult, TopicId,
};
use trireme_net::{FileRange, Segment};
use trireme_replication::MetadataImage;

use crate::cluster;
use crate::dispatch::{Api, Call, MAX_DECODED_BYTES, Order, Request, Started};
use crate::door::Door;
use crate::fetch_session::{FetchParameters, Kind, NO_SESSION, Session, TopicKey};
use crate::metrics::add;
use crate::reply::Reply;

pub use request::{Fetch, parse};
pub use response::{PartitionData, encode};

pub const API: Api = Api {
    key: 1,
    name: "Fetch",
    min: 4,
    max: 18,
    flexible: 12,
    order: Order::Serial,
    start: |request| {
        Started::Pending(Box::pin(async move {
            let Request { call, body } = request;
            if body.len() > MAX_DECODED_BYTES {
                return Reply::Close;
            }
            let parsed = parse(&body, call.version(), &call.door.metadata.image());
            // Before any wait, so that a long poll holds no receive memory.
            drop(body);
            match parsed {
                Ok(fetch) => serve(call, fetch).await,
                Err(_) => Reply::Close,
            }
        }))
    },
};

/// Most bytes of records in one answer, whatever the client allows (Kafka's fetch.max.bytes of the broker).
pub const MAX_RESPONSE_BYTES: u32 = 55 << 20;
/// Bytes of records that the answers of a core may hold in memory before they get smaller: a quarter of what is left, but at least
/// [`MIN_RESPONSE_BYTES`], so that slow readers cost little and stop nobody.
pub const FETCH_MEMORY_BYTES: u64 = 256 << 20;
pub const MIN_RESPONSE_BYTES: u32 = 64 << 10;
/// How far one round of reads may promise more than is left of the byte limit, when the rounds before it found little.
const OVERCOMMIT_MAX: u64 = 8;

pub const FIRST_WITH_SESSIONS: i16 = 7;
pub const FIRST_WITH_TOPIC_IDS: i16 = 13;

/// One partition to read.
struct Target {
    topic: TopicKey,
    index: i32,
    parameters: FetchParameters,
    /// Its place in the session.
    place: u64,
}

async fn serve(call: Call, fetch: Fetch) -> Reply {
    let door = call.door.clone();
    let version = call.version();
    let uses_ids = version >= FIRST_WITH_TOPIC_IDS;
    let entered = {
        let fetched = fetch
            .partitions
            .iter()
            .map(|(topic, index, parameters)| (topic.clone(), *index, *parameters));
        let forgotten = fetch.forgotten.iter().cloned();
        door.fetch_sessions.borrow_mut().enter(
            fetch.session_id,
            fetch.session_epoch,
            uses_ids,
            now_ms(),
            fetched,
            forgotten,
        )
    };
    let kind = match entered {
        Ok(kind) => kind,
        Err(error) => return encode(&call, error, NO_SESSION, Vec::new(), None),
    };
    let (targets, session) = match &kind {
        Kind::Incremental(session) => (targets_of(&session.borrow()), Some(session.clone())),
        Kind::Sessionless | Kind::Full => (targets_of_request(&fetch), None),
    };
    let expected_epoch = session.as_ref().map(|session| session.borrow().epoch);

    let answers = read_or_wait(&call, &fetch, &targets).await;

    let mut session_id = NO_SESSION;
    let mut told = Vec::with_capacity(answers.len());
    match (kind, session) {
        (Kind::Incremental(_), Some(session)) => {
            let mut session = session.borrow_mut();
            session_id = session.id;
            if Some(session.epoch) != expected_epoch {
                return encode(
                    &call,
                    ErrorCode::InvalidFetchSessionEpoch,
                    session_id,
                    Vec::new(),
                    None,
                );
            }
            for (target, answer) in targets.into_iter().zip(answers) {
                if session.tell(target.place, answer.telling()) {
                    told.push((target.topic, answer));
                }
            }
        }
        (Kind::Full, _) => {
            let mut sessions = door.fetch_sessions.borrow_mut();
            let opening = targets.iter().zip(&answers).map(|(target, answer)| {
                (
                    target.topic.clone(),
                    target.index,
                    target.parameters,
                    answer.telling(),
                )
            });
            session_id = sessions.open(
                uses_ids,
                now_ms(),
                || trireme_runtime::random_u64() as u32,
                opening,
            );
            door.metrics.fetch_sessions.set(sessions.len() as u64);
            door.metrics.fetch_sessions_evicted.set(sessions.evicted);
            told.extend(targets.into_iter().map(|target| target.topic).zip(answers));
        }
        _ => told.extend(targets.into_iter().map(|target| target.topic).zip(answers)),
    }
    let lease = count(&door, &told);
    encode(&call, ErrorCode::None, session_id, told, lease)
}

fn now_ms() -> u64 {
    trireme_runtime::now().as_nanos() / 1_000_000
}

fn targets_of(session: &Session) -> Vec<Target> {
    let target =
        |(place, topic, index, parameters): (u64, &TopicKey, i32, FetchParameters)| Target {
            topic: topic.clone(),
            index,
            parameters,
            place,
        };
    session.partitions().map(target).collect()
}

fn targets_of_request(fetch: &Fetch) -> Vec<Target> {
    let target = |(topic, index, parameters): &(TopicKey, i32, FetchParameters)| Target {
        topic: topic.clone(),
        index: *index,
        parameters: *parameters,
        place: 0,
    };
    fetch.partitions.iter().map(target).collect()
}

/// What fetched bytes wait in memory is counted until the answer has gone.
fn count(door: &Rc<Door>, told: &[(TopicKey, PartitionData)]) -> Option<Box<dyn std::any::Any>> {
    let (mut memory, mut file, mut errors) = (0, 0, 0);
    for (_, answer) in told {
        errors += u64::from(answer.error != ErrorCode::None);
        for part in &answer.parts {
            match part {
                Segment::Memory(bytes) => memory += bytes.len() as u64,
                Segment::File(range) => file += u64::from(range.len),
            }
        }
    }
    add(&door.metrics.fetched_bytes, memory + file);
    add(&door.metrics.fetched_file_bytes, file);
    add(&door.metrics.fetch_errors, errors);
    if memory == 0 {
        return None;
    }
    struct Held(Rc<Cell<u64>>, u64);
    impl Drop for Held {
        fn drop(&mut self) {
            self.0.set(self.0.get() - self.1);
        }
    }
    door.fetch_memory.set(door.fetch_memory.get() + memory);
    Some(Box::new(Held(door.fetch_memory.clone(), memory)))
}

/// Reads; if that gives less than the client wants to wait for, waits for more and reads again.
async fn read_or_wait(call: &Call, fetch: &Fetch, targets: &[Target]) -> Vec<PartitionData> {
    let door = &call.door;
    let deadline = trireme_runtime::now() + Duration::from_millis(fetch.max_wait_ms.max(0) as u64);
    let left = FETCH_MEMORY_BYTES.saturating_sub(door.fetch_memory.get()) / 4;
    let limit = (fetch.max_bytes.max(0) as u32)
        .min(MAX_RESPONSE_BYTES)
        .min(MIN_RESPONSE_BYTES.max(left as u32));
    let min_bytes = (fetch.min_bytes.max(0) as u32).min(limit);

    let image = door.metadata.image();
    let resolved = resolve(&image, fetch, targets);
    let round = read(call, fetch, targets, &resolved, limit).await;
    if round.bytes >= min_bytes || round.any_error || fetch.max_wait_ms <= 0 || targets.is_empty() {
        return round.answers;
    }
    drop(round);
    let positions = targets
        .iter()
        .zip(&resolved)
        .filter_map(|(target, partition)| {
            Some((*partition.as_ref().ok()?, target.parameters.offset))
        })
        .collect();
    let wait = door.engine.wait_readable(positions, min_bytes, deadline);
    call.peer.gone.run_until_canceled(wait).await;
    // Topics may have gone meanwhile.
    let image = door.metadata.image();
    read(
        call,
        fetch,
        targets,
        &resolve(&image, fetch, targets),
        limit,
    )
    .await
    .answers
}

type Resolved = Result<PartitionRef, ErrorCode>;

fn resolve(image: &MetadataImage, fetch: &Fetch, targets: &[Target]) -> Vec<Resolved> {
    let mut last = None;
    let mut resolved = Vec::with_capacity(targets.len());
    for target in targets {
        // Partitions of a topic mostly stand together.
        let topic = match &last {
            Some((key, topic)) if *key == &target.topic => Clone::clone(topic),
            _ => match &target.topic {
                TopicKey::Name(name) => cluster::readable(image, name),
                TopicKey::Id(id) => cluster::readable_by_id(image, &TopicId(*id)),
            },
        };
        let partition = topic
            .as_deref()
            .and_then(|topic| cluster::partition(topic, target.index));
        resolved.push(match (&topic, partition) {
            // Nobody replicates from here.
            (Some(_), Some(_)) if fetch.replica_id >= 0 => Err(ErrorCode::NotLeaderOrFollower),
            (Some(_), Some(partition)) => Ok(partition),
            (None, _) if matches!(target.topic, TopicKey::Id(_)) => Err(ErrorCode::UnknownTopicId),
            _ => Err(ErrorCode::UnknownTopicOrPartition),
        });
        last = Some((&target.topic, topic));
    }
    resolved
}

struct Round {
    answers: Vec<PartitionData>,
    bytes: u32,
    any_error: bool,
}

/// Reads the partitions in order until `limit` bytes are found; the rest is asked for its positions only.
async fn read(
    call: &Call,
    fetch: &Fetch,
    targets: &[Target],
    resolved: &[Resolved],
    limit: u32,
) -> Round {
    let isolation = if fetch.isolation == 1 {
        Isolation::Committed
    } else {
        Isolation::HighWatermark
    };
    let mut answers = Vec::with_capacity(targets.len());
    let mut bytes = 0u32;
    let mut any_error = false;
    let mut overcommit = 1;
    while answers.len() < targets.len() {
        let begin = answers.len();
        let left = u64::from(limit - bytes.min(limit));
        let mut promised = 0;
        let mut requests = Vec::with_capacity(targets.len() - begin);
        let mut end = begin;
        for (target, partition) in targets[begin..].iter().zip(&resolved[begin..]) {
            if end > begin && left > 0 && promised >= left * overcommit {
                break;
            }
            end += 1;
            let Ok(partition) = partition else { continue };
            let max_bytes = (target.parameters.max_bytes.max(0) as u32).min(left as u32);
            promised += u64::from(max_bytes);
            let leader_epoch =
                (target.parameters.leader_epoch >= 0).then_some(target.parameters.leader_epoch);
            requests.push(ReadRequest {
                partition: *partition,
                offset: target.parameters.offset,
                max_bytes,
                at_least_one: bytes == 0,
                isolation,
                leader_epoch,
            });
        }
        let mut results = match requests.is_empty() {
            true => Vec::new(),
            false => call.door.engine.read(requests).await,
        }
        .into_iter();
        for (target, partition) in targets[begin..end].iter().zip(&resolved[begin..end]) {
            let result = match partition {
                Ok(_) => results
                    .next()
                    .unwrap_or(Err(ReadError::UnknownPartition))
                    .map_err(|error| super::read_error(&error)),
                Err(error) => Err(*error),
            };
            let answer = match result {
                Ok(result) => {
                    let max_bytes =
                        (target.parameters.max_bytes.max(0) as u32).min(limit - bytes.min(limit));
                    let taken = bytes == 0 || result.bytes <= max_bytes;
                    found(target.index, result, fetch.isolation, taken)
                }
                Err(error) => {
                    any_error = true;
                    PartitionData::error(target.index, error)
                }
            };
            bytes += answer.bytes;
            answers.push(answer);
        }
        let found_little = u64::from(bytes) < promised / 4;
        overcommit = if found_little {
            (overcommit * 2).min(OVERCOMMIT_MAX)
        } else {
            1
        };
    }
    Round {
        answers,
        bytes,
        any_error,
    }
}

fn found(index: i32, result: ReadResult, isolation: i8, taken: bool) -> PartitionData {
    let (bytes, parts) = match taken {
        true => (
            result.bytes,
            result.parts.into_iter().map(segment).collect(),
        ),
        // The byte limit was used up by the partitions before.
        false => (0, SmallVec::new()),
    };
    PartitionData {
        index,
        error: ErrorCode::None,
        high_watermark: result.high_watermark,
        last_stable_offset: result.last_stable_offset,
        log_start: result.log_start,
        no_aborted_transactions: isolation == 1,
        bytes,
        parts,
    }
}

fn segment(part: ReadPart) -> Segment {
    match part {
        ReadPart::Memory(bytes) => Segment::Memory(bytes),
        ReadPart::File(range) => Segment::File(FileRange {
            file: range.file,
            position: range.position,
            len: range.len,
            lease: Some(Box::new(range.lease)),
        }),
    }
}

#[cfg(test)]
mod tests;
