//! Payloads of those records that carry more than bytes of the stream.

use zerocopy::byteorder::little_endian::{I16, I32, I64, U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::SUM_BLOCK;
use crate::producer::{BATCHES_MAX, ProducerBatch, ProducerSnapshot};

/// Size of a [`BatchSummary`] on disk.
pub const BATCH_SUMMARY_BYTES: usize = size_of::<RawSummary>();

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PayloadError {
    #[error("the payload is shorter or longer than its own counts say")]
    Length,
    #[error("fields of the payload that do not go together")]
    Content,
}

/// What recovery must know of a batch whose bytes are not in the log: everything that the index, the producer state and the
/// epochs take from a batch, so that replaying a direct run reads no segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchSummary {
    pub base_offset: i64,
    /// Byte in the segment.
    pub position: u64,
    /// Bytes of the whole batch.
    pub size: u32,
    pub record_count: u32,
    pub base_timestamp: i64,
    pub max_timestamp: i64,
    pub producer_id: i64,
    pub last_offset_delta: i32,
    pub base_sequence: i32,
    pub leader_epoch: i32,
    pub producer_epoch: i16,
    pub attributes: u16,
}

/// | at | bytes | |
/// | --- | --- | --- |
/// | 0 | 8 | base offset |
/// | 8 | 8 | byte in the segment |
/// | 16 | 4 | size of the whole batch |
/// | 20 | 4 | records |
/// | 24 | 8 | base timestamp |
/// | 32 | 8 | max timestamp |
/// | 40 | 8 | producer id |
/// | 48 | 4 | last offset delta |
/// | 52 | 4 | base sequence |
/// | 56 | 4 | leader epoch |
/// | 60 | 2 | producer epoch |
/// | 62 | 2 | attributes |
#[derive(Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawSummary {
    base_offset: I64,
    position: U64,
    size: U32,
    record_count: U32,
    base_timestamp: I64,
    max_timestamp: I64,
    producer_id: I64,
    last_offset_delta: I32,
    base_sequence: I32,
    leader_epoch: I32,
    producer_epoch: I16,
    attributes: U16,
}

const _: () = assert!(BATCH_SUMMARY_BYTES == 64);

impl BatchSummary {
    fn raw(&self) -> RawSummary {
        RawSummary {
            base_offset: self.base_offset.into(),
            position: self.position.into(),
            size: self.size.into(),
            record_count: self.record_count.into(),
            base_timestamp: self.base_timestamp.into(),
            max_timestamp: self.max_timestamp.into(),
            producer_id: self.producer_id.into(),
            last_offset_delta: self.last_offset_delta.into(),
            base_sequence: self.base_sequence.into(),
            leader_epoch: self.leader_epoch.into(),
            producer_epoch: self.producer_epoch.into(),
            attributes: self.attributes.into(),
        }
    }

    fn from_raw(raw: &RawSummary) -> BatchSummary {
        BatchSummary {
            base_offset: raw.base_offset.get(),
            position: raw.position.get(),
            size: raw.size.get(),
            record_count: raw.record_count.get(),
            base_timestamp: raw.base_timestamp.get(),
            max_timestamp: raw.max_timestamp.get(),
            producer_id: raw.producer_id.get(),
            last_offset_delta: raw.last_offset_delta.get(),
            base_sequence: raw.base_sequence.get(),
            leader_epoch: raw.leader_epoch.get(),
            producer_epoch: raw.producer_epoch.get(),
            attributes: raw.attributes.get(),
        }
    }

    pub fn last_offset(&self) -> i64 {
        self.base_offset + i64::from(self.last_offset_delta)
    }
}

/// How a run of stream bytes falls into whole sum blocks: a head that completes a block begun before, the whole blocks in
/// between (these are written to the segment directly), and a tail that begins a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirectSplit {
    pub head_len: u32,
    pub block_count: u32,
    pub tail_len: u32,
}

impl DirectSplit {
    pub fn of(position: u64, len: u32) -> DirectSplit {
        let block = SUM_BLOCK as u64;
        let end = position + u64::from(len);
        let first = position.next_multiple_of(block);
        let last = end / block * block;
        if first >= last {
            return DirectSplit {
                head_len: len,
                block_count: 0,
                tail_len: 0,
            };
        }
        DirectSplit {
            head_len: (first - position) as u32,
            block_count: ((last - first) / block) as u32,
            tail_len: (end - last) as u32,
        }
    }

    /// Length of the part that is written to the segment directly.
    pub fn blocks_len(&self) -> usize {
        self.block_count as usize * SUM_BLOCK
    }
}

/// Payload of a `Direct` record, encoded without copying the fragments.
///
/// | bytes | |
/// | --- | --- |
/// | 4 | length of the head fragment |
/// | 4 | number of whole blocks |
/// | 4 | length of the tail fragment |
/// | 4 | number of batches |
/// | 4 each | sum of each whole block, seeded as in the `.sum` file, so that it can move there as it is |
/// | 64 each | [`BatchSummary`] of every batch |
/// | | head fragment |
/// | | tail fragment |
#[derive(Clone, Copy, Debug)]
pub struct Direct<'a> {
    pub split: DirectSplit,
    sums: &'a [U32],
    summaries: &'a [RawSummary],
    pub head: &'a [u8],
    pub tail: &'a [u8],
}

#[derive(Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawDirect {
    head_len: U32,
    block_count: U32,
    tail_len: U32,
    batch_count: U32,
}

/// Length of a direct record's payload.
pub fn direct_payload_len(split: &DirectSplit, batch_count: usize) -> usize {
    size_of::<RawDirect>()
        + split.block_count as usize * 4
        + batch_count * BATCH_SUMMARY_BYTES
        + split.head_len as usize
        + split.tail_len as usize
}

/// The part of a direct record's payload before the fragments; the record's pieces are this, the head and the tail.
pub fn encode_direct(
    split: &DirectSplit,
    sums: &[u32],
    summaries: &[BatchSummary],
    out: &mut Vec<u8>,
) {
    assert_eq!(sums.len(), split.block_count as usize);
    out.reserve(size_of::<RawDirect>() + sums.len() * 4 + summaries.len() * BATCH_SUMMARY_BYTES);
    let raw = RawDirect {
        head_len: split.head_len.into(),
        block_count: split.block_count.into(),
        tail_len: split.tail_len.into(),
        batch_count: (summaries.len() as u32).into(),
    };
    out.extend_from_slice(raw.as_bytes());
    sums.iter()
        .for_each(|sum| out.extend_from_slice(&sum.to_le_bytes()));
    summaries
        .iter()
        .for_each(|summary| out.extend_from_slice(summary.raw().as_bytes()));
}

impl<'a> Direct<'a> {
    /// Parses the payload of a direct record at `position` of its segment, `len` bytes of stream. Checks that the batches
    /// follow each other without a gap in bytes.
    pub fn parse(payload: &'a [u8], position: u64, len: u32) -> Result<Direct<'a>, PayloadError> {
        let (raw, rest) = RawDirect::ref_from_prefix(payload).map_err(|_| PayloadError::Length)?;
        let split = DirectSplit {
            head_len: raw.head_len.get(),
            block_count: raw.block_count.get(),
            tail_len: raw.tail_len.get(),
        };
        if split != DirectSplit::of(position, len) {
            return Err(PayloadError::Content);
        }
        let (sums, rest) = <[U32]>::ref_from_prefix_with_elems(rest, split.block_count as usize)
            .map_err(|_| PayloadError::Length)?;
        let (summaries, rest) =
            <[RawSummary]>::ref_from_prefix_with_elems(rest, raw.batch_count.get() as usize)
                .map_err(|_| PayloadError::Length)?;
        if rest.len() as u64 != u64::from(split.head_len) + u64::from(split.tail_len) {
            return Err(PayloadError::Length);
        }
        let (head, tail) = rest.split_at(split.head_len as usize);
        let mut next = position;
        for summary in summaries {
            if summary.position.get() != next {
                return Err(PayloadError::Content);
            }
            next += u64::from(summary.size.get());
        }
        if next != position + u64::from(len) {
            return Err(PayloadError::Content);
        }
        Ok(Direct {
            split,
            sums,
            summaries,
            head,
            tail,
        })
    }

    pub fn sums(&self) -> impl ExactSizeIterator<Item = u32> + use<'a> {
        self.sums.iter().map(|sum| sum.get())
    }

    pub fn summaries(&self) -> impl ExactSizeIterator<Item = BatchSummary> + use<'a> {
        self.summaries.iter().map(BatchSummary::from_raw)
    }
}

/// Payload of a `FileEnd` record: 4 bytes next file, 4 bytes number of its next use. The log goes on at its position 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileEnd {
    pub next_file: u32,
    pub next_file_use: u32,
}

impl FileEnd {
    pub fn encode(&self) -> [u8; 8] {
        let mut bytes = [0; 8];
        bytes[..4].copy_from_slice(&self.next_file.to_le_bytes());
        bytes[4..].copy_from_slice(&self.next_file_use.to_le_bytes());
        bytes
    }

    pub fn parse(payload: &[u8]) -> Result<FileEnd, PayloadError> {
        let payload = <[U32; 2]>::ref_from_bytes(payload).map_err(|_| PayloadError::Length)?;
        Ok(FileEnd {
            next_file: payload[0].get(),
            next_file_use: payload[1].get(),
        })
    }
}

/// Head of each producer in a producer snapshot.
///
/// | bytes | |
/// | --- | --- |
/// | 8 | producer id |
/// | 2 | producer epoch |
/// | 2 | number of batches, at most `BATCHES_MAX`, oldest first |
/// | 8 | when the broker last took a batch of it, Unix milliseconds |
#[derive(Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawProducer {
    producer_id: I64,
    epoch: I16,
    batch_count: U16,
    last_seen_ms: I64,
}

/// | bytes | |
/// | --- | --- |
/// | 4 | first sequence |
/// | 4 | last sequence |
/// | 8 | base offset |
/// | 8 | timestamp it was stored with |
#[derive(Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawProducerBatch {
    first_sequence: I32,
    last_sequence: I32,
    base_offset: I64,
    timestamp_ms: I64,
}

/// Payload of a `ProducerSnapshot` record: 4 bytes number of producers, then each with its batches.
pub fn encode_producers(producers: &[ProducerSnapshot], out: &mut Vec<u8>) {
    out.extend_from_slice(&(producers.len() as u32).to_le_bytes());
    for producer in producers {
        let raw = RawProducer {
            producer_id: producer.producer_id.into(),
            epoch: producer.epoch.into(),
            batch_count: (producer.batches.len() as u16).into(),
            last_seen_ms: producer.last_seen_ms.into(),
        };
        out.extend_from_slice(raw.as_bytes());
        for batch in &producer.batches {
            let raw = RawProducerBatch {
                first_sequence: batch.first_sequence.into(),
                last_sequence: batch.last_sequence.into(),
                base_offset: batch.base_offset.into(),
                timestamp_ms: batch.timestamp_ms.into(),
            };
            out.extend_from_slice(raw.as_bytes());
        }
    }
}

pub fn parse_producers(payload: &[u8]) -> Result<Vec<ProducerSnapshot>, PayloadError> {
    let (count, mut rest) = U32::ref_from_prefix(payload).map_err(|_| PayloadError::Length)?;
    let mut producers = Vec::new();
    for _ in 0..count.get() {
        let (raw, after) = RawProducer::ref_from_prefix(rest).map_err(|_| PayloadError::Length)?;
        let batch_count = usize::from(raw.batch_count.get());
        if batch_count > BATCHES_MAX {
            return Err(PayloadError::Content);
        }
        let (batches, after) = <[RawProducerBatch]>::ref_from_prefix_with_elems(after, batch_count)
            .map_err(|_| PayloadError::Length)?;
        rest = after;
        let batches = batches
            .iter()
            .map(|batch| ProducerBatch {
                first_sequence: batch.first_sequence.get(),
                last_sequence: batch.last_sequence.get(),
                base_offset: batch.base_offset.get(),
                timestamp_ms: batch.timestamp_ms.get(),
            })
            .collect();
        producers.push(ProducerSnapshot {
            producer_id: raw.producer_id.get(),
            epoch: raw.epoch.get(),
            last_seen_ms: raw.last_seen_ms.get(),
            batches,
        });
    }
    if rest.is_empty() {
        Ok(producers)
    } else {
        Err(PayloadError::Length)
    }
}
