//! Produce: batches of records for partitions.
//!
//! One walk over the borrowed frame does everything that the connection's core can do: it looks up each partition, checks its batch
//! (header and CRC), collects what the engine is to append, and writes the response with a gap for each partition that waits for the
//! engine. All appends of the request go to the engine in one call, at once, so that the offsets follow the order of arrival; when the
//! engine answers, the gaps are filled in. The frame is let go of before the wait.
//!
//! Versions 0 to 2 are advertised, because librdkafka stops compressing for brokers that do not, and refused with
//! UNSUPPORTED_VERSION. acks=1 and acks=all are both answered when the batch is durable (at once in a topic with relaxed durability).

use std::sync::Arc;

use bytes::Bytes;
use kacrab_protocol::generated::ErrorCode;
use smallvec::SmallVec;
use trireme_engine::batch::{self, BatchError, BatchErrorKind, Codec, Limits};
use trireme_engine::{Ack, Append, AppendError, Appended, PartitionRef, TopicId};
use trireme_replication::{MetadataImage, Topic};

use crate::cluster;
use crate::dispatch::{Api, Call, Order, Request, Started};
use crate::metrics::add;
use crate::reply::Reply;
use crate::wire::{Malformed, Read, Reader, Writer};

pub const API: Api = Api {
    key: 0,
    name: "Produce",
    min: 0,
    max: 13,
    flexible: 9,
    order: Order::Pipelined,
    start,
};

/// First version with RecordBatch v2, the only format there is.
const FIRST_SERVED: i16 = 3;
/// First version in which a batch may be compressed with zstd.
const FIRST_WITH_ZSTD: i16 = 7;
const FIRST_WITH_TOPIC_IDS: i16 = 13;

/// Topics, and partitions, of one request: an answer is larger than the smallest question, so this bounds what a frame can cost.
pub const MAX_ENTRIES: usize = 100_000;

/// What a request says before its topics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head<'a> {
    pub transactional_id: Option<&'a str>,
    pub acks: i16,
    pub timeout_ms: i32,
}

/// A topic by name, or from version 13 on by id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TopicKey<'a> {
    Name(&'a str),
    Id([u8; 16]),
}

/// Called for each part of a request in its order.
pub trait Visitor<'a> {
    fn topics(&mut self, head: Head<'a>, count: usize);
    fn topic(&mut self, topic: TopicKey<'a>, partitions: usize);
    fn partition(&mut self, index: i32, records: Option<&'a [u8]>);
    fn topic_end(&mut self);
}

/// Walks over a request body of `version`. An error can come after calls: act on them only when the walk has ended well.
pub fn walk<'a>(reader: &mut Reader<'a>, version: i16, visitor: &mut impl Visitor<'a>) -> Read<()> {
    let transactional_id = if version >= 3 {
        reader.nullable_string()?
    } else {
        None
    };
    let head = Head {
        transactional_id,
        acks: reader.i16()?,
        timeout_ms: reader.i32()?,
    };
    let topics = reader.array_length(2)?;
    let mut entries = topics;
    visitor.topics(head, topics);
    for _ in 0..topics {
        let topic = match version >= FIRST_WITH_TOPIC_IDS {
            true => TopicKey::Id(reader.uuid()?),
            false => TopicKey::Name(reader.string()?),
        };
        let partitions = reader.array_length(5)?;
        entries += partitions;
        if entries > MAX_ENTRIES {
            return Err(Malformed);
        }
        visitor.topic(topic, partitions);
        for _ in 0..partitions {
            let index = reader.i32()?;
            let records = reader.nullable_bytes()?;
            reader.skip_tagged_fields()?;
            visitor.partition(index, records);
        }
        reader.skip_tagged_fields()?;
        visitor.topic_end();
    }
    reader.skip_tagged_fields()
}

/// The answer for one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionAnswer {
    pub error: ErrorCode,
    pub base_offset: i64,
    pub log_append_time_ms: i64,
    pub log_start: i64,
    /// The record of the batch that is at fault, where one is.
    pub record: Option<i32>,
    pub message: Option<&'static str>,
}

impl PartitionAnswer {
    pub fn error(error: ErrorCode, message: &'static str) -> Self {
        PartitionAnswer {
            error,
            base_offset: -1,
            log_append_time_ms: -1,
            log_start: -1,
            record: None,
            message: Some(message),
        }
    }

    fn appended(appended: &Appended) -> Self {
        PartitionAnswer {
            error: ErrorCode::None,
            base_offset: appended.base_offset,
            log_append_time_ms: appended.log_append_time_ms,
            log_start: appended.log_start,
            record: None,
            message: None,
        }
    }

    pub fn write(&self, out: &mut Writer, version: i16) {
        out.i16(self.error.code());
        out.i64(self.base_offset);
        if version >= 2 {
            out.i64(self.log_append_time_ms);
        }
        if version >= 5 {
            out.i64(self.log_start);
        }
        if version >= 8 {
            out.array_length(usize::from(self.record.is_some()));
            if let Some(record) = self.record {
                out.i32(record);
                out.nullable_string(self.message);
                out.no_tagged_fields();
            }
            out.nullable_string(self.message);
        }
        out.no_tagged_fields();
    }
}

/// One request on its way into the engine.
struct Producing<'a> {
    call: &'a Call,
    image: Arc<MetadataImage>,
    frame: &'a Bytes,
    acks: i16,
    /// Every partition of the request gets this.
    refused: Option<PartitionAnswer>,
    topic: Option<Arc<Topic>>,
    /// What the current topic's partitions get when it is unknown or cannot be written.
    topic_refused: Option<PartitionAnswer>,
    out: Writer,
    appends: Vec<Append>,
    /// Where in `out` the answer of each append stands.
    gaps: SmallVec<[u32; 8]>,
    errors: u64,
}

fn start(request: Request) -> Started {
    let Request { call, body } = request;
    let version = call.version();
    let door = call.door.clone();
    let mut producing = Producing {
        call: &call,
        image: door.metadata.image(),
        frame: &body,
        acks: 0,
        refused: None,
        topic: None,
        topic_refused: None,
        out: Writer::frame(call.correlation_id, call.flexible(), 512),
        appends: Vec::new(),
        gaps: SmallVec::new(),
        errors: 0,
    };
    let mut reader = Reader::new(&body, call.flexible());
    if walk(&mut reader, version, &mut producing).is_err() {
        return Started::Done(Reply::Close);
    }
    let Producing {
        mut out,
        appends,
        gaps,
        acks,
        mut errors,
        ..
    } = producing;
    drop(body);
    if version >= 1 {
        out.i32(0);
    }
    out.no_tagged_fields();

    if appends.is_empty() {
        add(&door.metrics.produce_errors, errors);
        return Started::Done(end(out, acks, errors));
    }
    count(&call, &appends);
    let appended = door.engine.append(appends);
    Started::Pending(Box::pin(async move {
        let results = appended.await;
        // From the last gap to the first, because an error's message moves what follows it.
        for (&gap, result) in gaps.iter().zip(&results).rev() {
            let answer = answer(result);
            if answer.error != ErrorCode::None {
                errors += 1;
            }
            fill(&mut out, gap as usize, &answer, version, call.flexible());
        }
        add(&call.door.metrics.produce_errors, errors);
        end(out, acks, errors)
    }))
}

fn count(call: &Call, appends: &[Append]) {
    let metrics = &call.door.metrics;
    let mut records = 0;
    let mut bytes = 0;
    for append in appends {
        records += batch::BatchHeader::view(&append.batches)
            .map_or(0, |header| header.records_count() as u64);
        bytes += append.batches.len() as u64;
    }
    add(&metrics.produced_batches, appends.len() as u64);
    add(&metrics.produced_records, records);
    add(&metrics.produced_bytes, bytes);
}

/// The response, or what takes its place with acks=0: nothing, or a close when anything failed, so that the client takes notice.
fn end(mut out: Writer, acks: i16, errors: u64) -> Reply {
    match acks {
        0 if errors > 0 => Reply::Close,
        0 => Reply::Nothing,
        _ => {
            out.set_frame_length(0);
            Reply::memory(out.bytes.into())
        }
    }
}

/// Replaces the gap at `position`, which holds an answer without message.
fn fill(out: &mut Writer, position: usize, answer: &PartitionAnswer, version: i16, flexible: bool) {
    let mut encoded = Writer::new(64, flexible);
    answer.write(&mut encoded, version);
    let gap = position..position + gap_bytes(version, flexible);
    if encoded.len() == gap.len() {
        out.bytes[gap].copy_from_slice(&encoded.bytes);
    } else {
        out.bytes.splice(gap, encoded.bytes);
    }
}

/// Bytes of an answer without message and record.
fn gap_bytes(version: i16, flexible: bool) -> usize {
    let mut bytes = 10;
    if version >= 2 {
        bytes += 8;
    }
    if version >= 5 {
        bytes += 8;
    }
    match (version >= 8, flexible) {
        (true, true) => bytes + 3,
        (true, false) => bytes + 6,
        (false, _) => bytes,
    }
}

impl<'a> Visitor<'a> for Producing<'a> {
    fn topics(&mut self, head: Head<'a>, count: usize) {
        self.acks = head.acks;
        self.refused = if self.call.version() < FIRST_SERVED {
            Some(PartitionAnswer::error(ErrorCode::UnsupportedVersion, ""))
        } else if head.transactional_id.is_some() {
            Some(PartitionAnswer::error(
                ErrorCode::InvalidTxnState,
                "transactions are not supported by this broker",
            ))
        } else if !(-1..=1).contains(&head.acks) {
            Some(PartitionAnswer::error(
                ErrorCode::InvalidRequiredAcks,
                "acks must be -1, 0 or 1",
            ))
        } else {
            None
        };
        self.out.array_length(count);
    }

    fn topic(&mut self, topic: TopicKey<'a>, partitions: usize) {
        let found = match topic {
            TopicKey::Name(name) => {
                self.out.string(name);
                self.image.topic(name).cloned()
            }
            TopicKey::Id(id) => {
                self.out.raw(&id);
                self.image.topic_by_id(&TopicId(id)).cloned()
            }
        };
        self.topic_refused = match (&found, topic) {
            (None, TopicKey::Name(name)) if cluster::is_internal(name) => {
                Some(PartitionAnswer::error(
                    ErrorCode::InvalidTopicException,
                    "internal topics cannot be written",
                ))
            }
            (None, TopicKey::Name(_)) => Some(PartitionAnswer::error(
                ErrorCode::UnknownTopicOrPartition,
                "no such topic",
            )),
            (None, TopicKey::Id(_)) => Some(PartitionAnswer::error(
                ErrorCode::UnknownTopicId,
                "no such topic id",
            )),
            (Some(topic), _) if self.acks == -1 && crate::configs::needs_more_replicas(topic) => {
                Some(PartitionAnswer::error(
                    ErrorCode::NotEnoughReplicas,
                    "min.insync.replicas is more than this single node",
                ))
            }
            _ => None,
        };
        self.topic = found;
        self.out.array_length(partitions);
    }

    fn partition(&mut self, index: i32, records: Option<&'a [u8]>) {
        self.out.i32(index);
        let checked = match self.refused.as_ref().or(self.topic_refused.as_ref()) {
            Some(refused) => Err(refused.clone()),
            None => self.check(index, records),
        };
        let version = self.call.version();
        match checked {
            Ok((partition, batch)) => {
                let ack = if self.acks == 0 {
                    Ack::None
                } else {
                    Ack::Committed
                };
                self.appends.push(Append {
                    partition,
                    batches: self.frame.slice_ref(batch),
                    ack,
                    may_use_reserve: false,
                });
                self.gaps.push(self.out.len() as u32);
                let gap = gap_bytes(version, self.call.flexible());
                self.out.bytes.resize(self.out.len() + gap, 0);
            }
            Err(answer) => {
                self.errors += 1;
                answer.write(&mut self.out, version);
            }
        }
    }

    fn topic_end(&mut self) {
        self.topic = None;
        self.out.no_tagged_fields();
    }
}

impl<'a> Producing<'a> {
    fn check(
        &self,
        index: i32,
        records: Option<&'a [u8]>,
    ) -> Result<(PartitionRef, &'a [u8]), PartitionAnswer> {
        let partition = usize::try_from(index)
            .ok()
            .and_then(|index| self.topic.as_ref()?.partitions.get(index))
            .ok_or(PartitionAnswer::error(
                ErrorCode::UnknownTopicOrPartition,
                "no such partition",
            ))?;
        let records = records.unwrap_or_default();
        // Sizes and timestamps are the topic's to limit: the engine knows them.
        let batch = batch::validate(records, &Limits::client(usize::MAX)).map_err(refused_batch)?;
        if batch.codec() == Codec::Zstd && self.call.version() < FIRST_WITH_ZSTD {
            return Err(PartitionAnswer::error(
                ErrorCode::UnsupportedCompressionType,
                "zstd needs Produce version 7 or later",
            ));
        }
        Ok((*partition, records))
    }
}

fn refused_batch(error: BatchError) -> PartitionAnswer {
    let message = match error {
        BatchError::Empty => "no record batch",
        BatchError::SeveralBatches => "more than one record batch for a partition",
        BatchError::Truncated { .. } | BatchError::Length(_) => "record batch is cut off",
        BatchError::TooLarge { .. } => "record batch is too large",
        BatchError::Magic(_) => "only record batches with magic 2 can be written",
        BatchError::Crc { .. } => "record batch does not match its CRC",
        BatchError::Codec(_) => "unknown compression codec",
        BatchError::BaseOffset(_) | BatchError::OffsetRange { .. } => {
            "offsets of a batch must begin at 0"
        }
        BatchError::Count { .. } | BatchError::CountBeyondPayload { .. } => {
            "record count and offsets disagree"
        }
        BatchError::TooManyRecords { .. } => "too many records in a batch",
        BatchError::Control => "clients cannot write control batches",
        BatchError::Transactional => "transactions are not supported by this broker",
        BatchError::TimestampType => "clients cannot write LogAppendTime",
        BatchError::Timestamps { .. } => "timestamps are out of order",
        BatchError::Producer { .. } => "producer id without valid epoch and sequence",
    };
    let code = match error.kind() {
        BatchErrorKind::Corrupt => ErrorCode::CorruptMessage,
        BatchErrorKind::Invalid => ErrorCode::InvalidRecord,
        BatchErrorKind::TooLarge => ErrorCode::MessageTooLarge,
        BatchErrorKind::Compression => ErrorCode::UnsupportedCompressionType,
        BatchErrorKind::Timestamp => ErrorCode::InvalidTimestamp,
        BatchErrorKind::Transactional => ErrorCode::InvalidTxnState,
    };
    PartitionAnswer::error(code, message)
}

fn answer(result: &Result<Appended, AppendError>) -> PartitionAnswer {
    let error = match result {
        Ok(appended) => return PartitionAnswer::appended(appended),
        Err(error) => error,
    };
    let (code, message) = match error {
        AppendError::UnknownPartition => (ErrorCode::UnknownTopicOrPartition, "no such partition"),
        AppendError::BatchTooLarge { .. } => (
            ErrorCode::MessageTooLarge,
            "batch is larger than max.message.bytes",
        ),
        AppendError::InvalidTimestamp { .. } => {
            let message = "timestamp is further from the broker's clock than the topic allows";
            return PartitionAnswer {
                record: Some(0),
                ..PartitionAnswer::error(ErrorCode::InvalidTimestamp, message)
            };
        }
        AppendError::OutOfOrderSequence { .. } => (
            ErrorCode::OutOfOrderSequenceNumber,
            "sequence does not follow the producer's last one",
        ),
        AppendError::InvalidProducerEpoch { .. } => (
            ErrorCode::InvalidProducerEpoch,
            "a newer epoch of the producer exists",
        ),
        AppendError::UnknownProducerId => (
            ErrorCode::UnknownProducerId,
            "producer is not known to the partition",
        ),
        AppendError::StorageFull => (ErrorCode::KafkaStorageError, "the disk is full"),
        AppendError::Damaged => (ErrorCode::KafkaStorageError, "the partition is damaged"),
        // Retriable, and nothing was appended.
        AppendError::Overloaded => (
            ErrorCode::RequestTimedOut,
            "more is waiting for the disk than may be",
        ),
        AppendError::ShuttingDown => (
            ErrorCode::NotLeaderOrFollower,
            "the broker is shutting down",
        ),
        AppendError::Invalid(what) => (ErrorCode::InvalidRecord, *what),
    };
    PartitionAnswer::error(code, message)
}

#[cfg(test)]
mod tests;
