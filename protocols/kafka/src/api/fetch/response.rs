//! The Fetch response, versions 4 to 18, by hand: what lies around the records is written into one piece of memory, which is then cut
//! where records belong.

use bytes::Bytes;
use kacrab_protocol::generated::ErrorCode;
use smallvec::SmallVec;
use trireme_net::Segment;

use super::FIRST_WITH_SESSIONS;
use crate::dispatch::Call;
use crate::fetch_session::{Telling, TopicKey};
use crate::reply::{Lease, Reply};
use crate::wire::Writer;

/// The answer for one partition.
pub struct PartitionData {
    pub index: i32,
    pub error: ErrorCode,
    pub high_watermark: i64,
    pub last_stable_offset: i64,
    pub log_start: i64,
    /// An empty list of aborted transactions instead of none, as read-committed consumers get it.
    pub no_aborted_transactions: bool,
    /// Bytes of all parts.
    pub bytes: u32,
    pub parts: SmallVec<[Segment; 2]>,
}

impl PartitionData {
    pub fn error(index: i32, error: ErrorCode) -> PartitionData {
        PartitionData {
            index,
            error,
            high_watermark: -1,
            last_stable_offset: -1,
            log_start: -1,
            no_aborted_transactions: false,
            bytes: 0,
            parts: SmallVec::new(),
        }
    }

    pub(super) fn telling(&self) -> Telling {
        Telling {
            high_watermark: self.high_watermark,
            log_start: self.log_start,
            has_records: self.bytes > 0,
            is_error: self.error != ErrorCode::None,
        }
    }
}

/// A whole response. Partitions of one topic that stand together share its entry.
pub fn encode(
    call: &Call,
    error: ErrorCode,
    session_id: i32,
    partitions: Vec<(TopicKey, PartitionData)>,
    lease: Option<Lease>,
) -> Reply {
    let frame = encode_frame(
        call.correlation_id,
        call.version(),
        call.flexible(),
        error,
        session_id,
        partitions,
    );
    Reply::Send(frame, lease)
}

pub(super) fn encode_frame(
    correlation_id: i32,
    version: i16,
    flexible: bool,
    error: ErrorCode,
    session_id: i32,
    partitions: Vec<(TopicKey, PartitionData)>,
) -> SmallVec<[Segment; 2]> {
    let mut out = Writer::frame(correlation_id, flexible, 32 + partitions.len() * 64);
    out.i32(0);
    if version >= FIRST_WITH_SESSIONS {
        out.i16(error.code());
        out.i32(session_id);
    }
    let mut cuts: Vec<(usize, SmallVec<[Segment; 2]>)> = Vec::new();
    let mut elsewhere = 0;

    let topics = partitions.chunk_by(|a, b| a.0 == b.0).count();
    let sizes: SmallVec<[usize; 8]> = partitions
        .chunk_by(|a, b| a.0 == b.0)
        .map(<[_]>::len)
        .collect();
    out.array_length(topics);
    let mut partitions = partitions.into_iter();
    for size in sizes {
        for place in 0..size {
            let Some((topic, partition)) = partitions.next() else {
                break;
            };
            if place == 0 {
                match topic {
                    TopicKey::Name(name) => out.string(&name),
                    TopicKey::Id(id) => out.raw(&id),
                }
                out.array_length(size);
            }
            write_partition(&mut out, version, &partition);
            if partition.bytes > 0 {
                elsewhere += partition.bytes as usize;
                cuts.push((out.len(), partition.parts));
            }
            out.no_tagged_fields();
        }
        out.no_tagged_fields();
    }
    out.no_tagged_fields();
    out.set_frame_length(elsewhere);

    let memory = Bytes::from(out.bytes);
    let mut segments = SmallVec::with_capacity(1 + 2 * cuts.len());
    let mut written = 0;
    for (position, parts) in cuts {
        segments.push(Segment::Memory(memory.slice(written..position)));
        segments.extend(parts);
        written = position;
    }
    if written < memory.len() {
        segments.push(Segment::Memory(memory.slice(written..)));
    }
    segments
}

fn write_partition(out: &mut Writer, version: i16, partition: &PartitionData) {
    debug_assert_eq!(
        u64::from(partition.bytes),
        partition.parts.iter().map(Segment::len).sum::<u64>()
    );
    out.i32(partition.index);
    out.i16(partition.error.code());
    out.i64(partition.high_watermark);
    out.i64(partition.last_stable_offset);
    if version >= 5 {
        out.i64(partition.log_start);
    }
    match partition.no_aborted_transactions {
        true => out.array_length(0),
        false => out.null_array(),
    }
    if version >= 11 {
        out.i32(-1);
    }
    out.bytes_length(partition.bytes as usize);
}
