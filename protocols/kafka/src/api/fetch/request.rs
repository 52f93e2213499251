//! The Fetch request, versions 4 to 18, by hand.

use std::sync::Arc;

use trireme_engine::TopicId;
use trireme_replication::MetadataImage;

use super::{API, FIRST_WITH_SESSIONS, FIRST_WITH_TOPIC_IDS};
use crate::fetch_session::{FINAL_EPOCH, FetchParameters, NO_SESSION, TopicKey};
use crate::wire::{Read, Reader};

/// Smallest encodings, to bound arrays by what is left: a topic with its partitions, a partition, a partition number.
const TOPIC_BYTES_MIN: usize = 2;
const PARTITION_BYTES_MIN: usize = 16;

/// A request without its frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetch {
    /// Not negative: a follower.
    pub replica_id: i32,
    pub max_wait_ms: i32,
    pub min_bytes: i32,
    pub max_bytes: i32,
    /// 0 read uncommitted, 1 read committed.
    pub isolation: i8,
    pub session_id: i32,
    pub session_epoch: i32,
    pub partitions: Vec<(TopicKey, i32, FetchParameters)>,
    pub forgotten: Vec<(TopicKey, i32)>,
}

/// Reads a body. Names that exist are shared with the image instead of being allocated.
pub fn parse(body: &[u8], version: i16, image: &MetadataImage) -> Read<Fetch> {
    let mut reader = Reader::new(body, version >= API.flexible);
    let reader = &mut reader;
    let mut fetch = Fetch {
        replica_id: if version <= 14 { reader.i32()? } else { -1 },
        max_wait_ms: reader.i32()?,
        min_bytes: reader.i32()?,
        max_bytes: reader.i32()?,
        isolation: reader.i8()?,
        session_id: NO_SESSION,
        session_epoch: FINAL_EPOCH,
        partitions: Vec::new(),
        forgotten: Vec::new(),
    };
    if version >= FIRST_WITH_SESSIONS {
        fetch.session_id = reader.i32()?;
        fetch.session_epoch = reader.i32()?;
    }
    for _ in 0..reader.array_length(TOPIC_BYTES_MIN)? {
        let topic = topic(reader, version, image)?;
        let partitions = reader.array_length(PARTITION_BYTES_MIN)?;
        fetch.partitions.reserve(partitions);
        for _ in 0..partitions {
            let index = reader.i32()?;
            let leader_epoch = if version >= 9 { reader.i32()? } else { -1 };
            let offset = reader.i64()?;
            let last_fetched_epoch = if version >= 12 { reader.i32()? } else { -1 };
            if version >= 5 {
                // The log start of a follower.
                reader.i64()?;
            }
            let max_bytes = reader.i32()?;
            reader.skip_tagged_fields()?;
            let parameters = FetchParameters {
                leader_epoch,
                offset,
                last_fetched_epoch,
                max_bytes,
            };
            fetch.partitions.push((topic.clone(), index, parameters));
        }
        reader.skip_tagged_fields()?;
    }
    if version >= FIRST_WITH_SESSIONS {
        for _ in 0..reader.array_length(TOPIC_BYTES_MIN)? {
            let topic = topic(reader, version, image)?;
            for _ in 0..reader.array_length(4)? {
                fetch.forgotten.push((topic.clone(), reader.i32()?));
            }
            reader.skip_tagged_fields()?;
        }
    }
    if version >= 11 {
        // The client's rack: there is one replica to read from.
        reader.string()?;
    }
    let mut replica_id = fetch.replica_id;
    reader.tagged_fields(|tag, field| {
        if tag == 1 && version >= 15 {
            replica_id = field.i32()?;
        }
        Ok(())
    })?;
    fetch.replica_id = replica_id;
    Ok(fetch)
}

fn topic(reader: &mut Reader<'_>, version: i16, image: &MetadataImage) -> Read<TopicKey> {
    if version >= FIRST_WITH_TOPIC_IDS {
        return Ok(TopicKey::Id(TopicId(reader.uuid()?).0));
    }
    let name = reader.string()?;
    let known = image.topic(name).map(|topic| topic.name.clone());
    Ok(TopicKey::Name(known.unwrap_or_else(|| Arc::from(name))))
}
