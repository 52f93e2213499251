//! Keys and values of the group table, in a binary form of our own. Little endian; every read is bounds-checked.
//!
//! Key of a group:            `01` · group (u16 length, UTF-8)
//! Key of a committed offset: `02` · group (u16 length, UTF-8) · topic (u16 length, UTF-8) · partition i32
//!
//! Value of a group:  version u8 = 1 · generation i32 · state since i64 (Unix ms, -1 unknown) · protocol type, protocol,
//!                    leader (each optional string: u16 length, FFFF = none) · member count u32 · members, each:
//!                    id, instance id (optional), client id, client host · rebalance timeout i32 · session timeout i32 ·
//!                    subscription, assignment (u32 length, bytes)
//! Value of an offset: version u8 = 1 · offset i64 · leader epoch i32 (-1 none) · commit time i64 (Unix ms) ·
//!                    expiry i64 (Unix ms, -1 = by retention) · metadata (u16 length, UTF-8)
//!
//! Why not Kafka's own `__consumer_offsets` schemas: nobody else reads this partition, and one fixed layout needs no
//! per-version decoding. Key strings come first so that a dump sorts by group.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};

const KEY_GROUP: u8 = 1;
const KEY_OFFSET: u8 = 2;
const VALUE_VERSION: u8 = 1;
const NO_STRING: u16 = u16::MAX;
/// Encoded keys and values share allocations of this size.
const ENCODE_CHUNK_BYTES: usize = 16 * 1024;

/// One change of the group table: a new value, or None to delete the key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mutation {
    pub key: Bytes,
    pub value: Option<Bytes>,
}

/// An entry that this version cannot have written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    #[error("entry ends early")]
    Short,
    #[error("{0} bytes after the end of an entry")]
    Trailing(usize),
    #[error("unknown kind of key {0}")]
    UnknownKey(u8),
    #[error("unknown version of a value {0}")]
    UnknownVersion(u8),
    #[error("a name is not UTF-8")]
    NotUtf8,
    #[error("a group entry contradicts itself: {0}")]
    Inconsistent(&'static str),
}

/// What a key names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Key {
    Group(Arc<str>),
    Offset {
        group: Arc<str>,
        topic: Arc<str>,
        partition: i32,
    },
}

/// A committed offset as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CommittedOffset {
    pub(super) offset: i64,
    /// -1 = the client gave none.
    pub(super) leader_epoch: i32,
    pub(super) commit_unix_ms: i64,
    /// Given by OffsetCommit 2 to 4 only.
    pub(super) expire_unix_ms: Option<i64>,
    pub(super) metadata: Option<Box<str>>,
}

/// A group as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct GroupEntry {
    pub(super) generation: i32,
    pub(super) state_since_unix_ms: Option<i64>,
    pub(super) protocol_type: Option<Arc<str>>,
    pub(super) protocol: Option<Arc<str>>,
    pub(super) leader: Option<Arc<str>>,
    pub(super) members: Vec<MemberEntry>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct MemberEntry {
    pub(super) id: Arc<str>,
    pub(super) instance_id: Option<Arc<str>>,
    pub(super) client_id: Box<str>,
    pub(super) client_host: Box<str>,
    pub(super) rebalance_timeout_ms: i32,
    pub(super) session_timeout_ms: i32,
    pub(super) subscription: Bytes,
    pub(super) assignment: Bytes,
}

/// Encodes into shared chunks, so that a commit costs no allocation of its own.
#[derive(Debug, Default)]
pub(super) struct Encoder {
    buffer: BytesMut,
}

impl Encoder {
    fn reserve(&mut self, len: usize) {
        if self.buffer.capacity() - self.buffer.len() < len {
            self.buffer = BytesMut::with_capacity(len.max(ENCODE_CHUNK_BYTES));
        }
    }

    fn group_key(&mut self, group: &str) -> Bytes {
        self.reserve(3 + group.len());
        self.buffer.put_u8(KEY_GROUP);
        put_string(&mut self.buffer, group);
        self.buffer.split().freeze()
    }

    fn offset_key(&mut self, group: &str, topic: &str, partition: i32) -> Bytes {
        self.reserve(9 + group.len() + topic.len());
        self.buffer.put_u8(KEY_OFFSET);
        put_string(&mut self.buffer, group);
        put_string(&mut self.buffer, topic);
        self.buffer.put_i32_le(partition);
        self.buffer.split().freeze()
    }

    pub(super) fn put_offset(
        &mut self,
        group: &str,
        topic: &str,
        partition: i32,
        value: &CommittedOffset,
    ) -> Mutation {
        let key = self.offset_key(group, topic, partition);
        let metadata = value.metadata.as_deref().unwrap_or("");
        self.reserve(31 + metadata.len());
        let buffer = &mut self.buffer;
        buffer.put_u8(VALUE_VERSION);
        buffer.put_i64_le(value.offset);
        buffer.put_i32_le(value.leader_epoch);
        buffer.put_i64_le(value.commit_unix_ms);
        buffer.put_i64_le(value.expire_unix_ms.unwrap_or(-1));
        put_string(buffer, metadata);
        Mutation {
            key,
            value: Some(self.buffer.split().freeze()),
        }
    }

    pub(super) fn delete_offset(&mut self, group: &str, topic: &str, partition: i32) -> Mutation {
        Mutation {
            key: self.offset_key(group, topic, partition),
            value: None,
        }
    }

    pub(super) fn put_group(&mut self, group: &str, value: &GroupEntry) -> Mutation {
        let key = self.group_key(group);
        self.reserve(entry_bytes(value));
        let buffer = &mut self.buffer;
        buffer.put_u8(VALUE_VERSION);
        buffer.put_i32_le(value.generation);
        buffer.put_i64_le(value.state_since_unix_ms.unwrap_or(-1));
        put_optional(buffer, value.protocol_type.as_deref());
        put_optional(buffer, value.protocol.as_deref());
        put_optional(buffer, value.leader.as_deref());
        buffer.put_u32_le(value.members.len() as u32);
        for member in &value.members {
            put_string(buffer, &member.id);
            put_optional(buffer, member.instance_id.as_deref());
            put_string(buffer, &member.client_id);
            put_string(buffer, &member.client_host);
            buffer.put_i32_le(member.rebalance_timeout_ms);
            buffer.put_i32_le(member.session_timeout_ms);
            put_bytes(buffer, &member.subscription);
            put_bytes(buffer, &member.assignment);
        }
        Mutation {
            key,
            value: Some(self.buffer.split().freeze()),
        }
    }

    pub(super) fn delete_group(&mut self, group: &str) -> Mutation {
        Mutation {
            key: self.group_key(group),
            value: None,
        }
    }
}

/// Exact encoded length of a group's value.
pub(super) fn entry_bytes(value: &GroupEntry) -> usize {
    let optional = |s: &Option<Arc<str>>| 2 + s.as_deref().map_or(0, str::len);
    let members: usize = value
        .members
        .iter()
        .map(|m| {
            2 + m.id.len()
                + optional(&m.instance_id)
                + 2
                + m.client_id.len()
                + 2
                + m.client_host.len()
                + 8
                + 4
                + m.subscription.len()
                + 4
                + m.assignment.len()
        })
        .sum();
    17 + optional(&value.protocol_type)
        + optional(&value.protocol)
        + optional(&value.leader)
        + members
}

/// Names come from the protocol's strings, which are at most 32,767 bytes long, or are derived from them and cut there.
fn put_string(buffer: &mut BytesMut, s: &str) {
    assert!(
        s.len() < NO_STRING as usize,
        "a name longer than the protocol allows reached the group table"
    );
    buffer.put_u16_le(s.len() as u16);
    buffer.put_slice(s.as_bytes());
}

fn put_optional(buffer: &mut BytesMut, s: Option<&str>) {
    match s {
        Some(s) => put_string(buffer, s),
        None => buffer.put_u16_le(NO_STRING),
    }
}

fn put_bytes(buffer: &mut BytesMut, b: &[u8]) {
    buffer.put_u32_le(b.len() as u32);
    buffer.put_slice(b);
}

pub(super) fn decode_key(bytes: &[u8]) -> Result<Key, DecodeError> {
    let mut reader = Reader(bytes);
    let key = match reader.u8()? {
        KEY_GROUP => Key::Group(reader.string()?.into()),
        KEY_OFFSET => Key::Offset {
            group: reader.string()?.into(),
            topic: reader.string()?.into(),
            partition: reader.i32()?,
        },
        other => return Err(DecodeError::UnknownKey(other)),
    };
    reader.end()?;
    Ok(key)
}

pub(super) fn decode_offset(bytes: &[u8]) -> Result<CommittedOffset, DecodeError> {
    let mut reader = Reader(bytes);
    reader.version()?;
    let value = CommittedOffset {
        offset: reader.i64()?,
        leader_epoch: reader.i32()?,
        commit_unix_ms: reader.i64()?,
        expire_unix_ms: Some(reader.i64()?).filter(|&ms| ms >= 0),
        metadata: Some(reader.string()?)
            .filter(|s| !s.is_empty())
            .map(Box::from),
    };
    reader.end()?;
    Ok(value)
}

pub(super) fn decode_group(bytes: &[u8]) -> Result<GroupEntry, DecodeError> {
    let mut reader = Reader(bytes);
    reader.version()?;
    let mut value = GroupEntry {
        generation: reader.i32()?,
        state_since_unix_ms: Some(reader.i64()?).filter(|&ms| ms >= 0),
        protocol_type: reader.optional()?.map(Arc::from),
        protocol: reader.optional()?.map(Arc::from),
        leader: reader.optional()?.map(Arc::from),
        members: Vec::new(),
    };
    // Members are pushed as they are read: the count alone reserves nothing.
    for _ in 0..reader.u32()? {
        value.members.push(MemberEntry {
            id: reader.string()?.into(),
            instance_id: reader.optional()?.map(Arc::from),
            client_id: reader.string()?.into(),
            client_host: reader.string()?.into(),
            rebalance_timeout_ms: reader.i32()?,
            session_timeout_ms: reader.i32()?,
            subscription: Bytes::copy_from_slice(reader.bytes()?),
            assignment: Bytes::copy_from_slice(reader.bytes()?),
        });
    }
    reader.end()?;
    Ok(value)
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], DecodeError> {
        let (head, rest) = self.0.split_at_checked(len).ok_or(DecodeError::Short)?;
        self.0 = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (head, rest) = self.0.split_first_chunk::<N>().ok_or(DecodeError::Short)?;
        self.0 = rest;
        Ok(*head)
    }

    fn u8(&mut self) -> Result<u8, DecodeError> {
        self.array::<1>().map(|[b]| b)
    }

    fn u16(&mut self) -> Result<u16, DecodeError> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Result<u32, DecodeError> {
        self.array().map(u32::from_le_bytes)
    }

    fn i32(&mut self) -> Result<i32, DecodeError> {
        self.array().map(i32::from_le_bytes)
    }

    fn i64(&mut self) -> Result<i64, DecodeError> {
        self.array().map(i64::from_le_bytes)
    }

    fn version(&mut self) -> Result<(), DecodeError> {
        match self.u8()? {
            VALUE_VERSION => Ok(()),
            other => Err(DecodeError::UnknownVersion(other)),
        }
    }

    fn string_of(&mut self, len: u16) -> Result<&'a str, DecodeError> {
        std::str::from_utf8(self.take(len as usize)?).map_err(|_| DecodeError::NotUtf8)
    }

    fn string(&mut self) -> Result<&'a str, DecodeError> {
        let len = self.u16()?;
        self.string_of(len)
    }

    fn optional(&mut self) -> Result<Option<&'a str>, DecodeError> {
        match self.u16()? {
            NO_STRING => Ok(None),
            len => self.string_of(len).map(Some),
        }
    }

    fn bytes(&mut self) -> Result<&'a [u8], DecodeError> {
        let len = self.u32()? as usize;
        self.take(len)
    }

    fn end(self) -> Result<(), DecodeError> {
        match self.0.len() {
            0 => Ok(()),
            more => Err(DecodeError::Trailing(more)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn name() -> impl Strategy<Value = String> {
        "[a-zA-Zäöü0-9._-]{0,20}"
    }

    fn optional_name() -> impl Strategy<Value = Option<Arc<str>>> {
        proptest::option::of(name()).prop_map(|s| s.map(Arc::from))
    }

    fn payload() -> impl Strategy<Value = Bytes> {
        proptest::collection::vec(any::<u8>(), 0..40).prop_map(Bytes::from)
    }

    fn member() -> impl Strategy<Value = MemberEntry> {
        (
            name(),
            optional_name(),
            name(),
            name(),
            any::<i32>(),
            any::<i32>(),
            payload(),
            payload(),
        )
            .prop_map(
                |(
                    id,
                    instance_id,
                    client_id,
                    client_host,
                    rebalance_timeout_ms,
                    session_timeout_ms,
                    subscription,
                    assignment,
                )| {
                    MemberEntry {
                        id: id.into(),
                        instance_id,
                        client_id: client_id.into(),
                        client_host: client_host.into(),
                        rebalance_timeout_ms,
                        session_timeout_ms,
                        subscription,
                        assignment,
                    }
                },
            )
    }

    fn group() -> impl Strategy<Value = GroupEntry> {
        (
            any::<i32>(),
            proptest::option::of(0..i64::MAX),
            optional_name(),
            optional_name(),
            optional_name(),
            proptest::collection::vec(member(), 0..4),
        )
            .prop_map(
                |(generation, state_since_unix_ms, protocol_type, protocol, leader, members)| {
                    GroupEntry {
                        generation,
                        state_since_unix_ms,
                        protocol_type,
                        protocol,
                        leader,
                        members,
                    }
                },
            )
    }

    proptest! {
        #[test]
        fn groups_survive(name in name(), entry in group()) {
            let mutation = Encoder::default().put_group(&name, &entry);
            prop_assert_eq!(decode_key(&mutation.key).unwrap(), Key::Group(name.into()));
            let value = mutation.value.unwrap();
            prop_assert_eq!(value.len(), entry_bytes(&entry));
            prop_assert_eq!(decode_group(&value).unwrap(), entry);
            for cut in 0..value.len() {
                prop_assert!(decode_group(&value[..cut]).is_err());
            }
        }

        #[test]
        fn offsets_survive(
            group in name(), topic in name(), partition in any::<i32>(), offset in any::<i64>(), leader_epoch in any::<i32>(),
            commit_unix_ms in any::<i64>(), expire_unix_ms in proptest::option::of(0..i64::MAX), metadata in name(),
        ) {
            let metadata = Some(metadata).filter(|s| !s.is_empty()).map(|s| s.into());
            let value = CommittedOffset { offset, leader_epoch, commit_unix_ms, expire_unix_ms, metadata };
            let mutation = Encoder::default().put_offset(&group, &topic, partition, &value);
            let key = Key::Offset { group: group.into(), topic: topic.into(), partition };
            prop_assert_eq!(decode_key(&mutation.key).unwrap(), key);
            let bytes = mutation.value.unwrap();
            prop_assert_eq!(decode_offset(&bytes).unwrap(), value);
            for cut in 0..bytes.len() {
                prop_assert!(decode_offset(&bytes[..cut]).is_err());
            }
            for cut in 0..mutation.key.len() {
                prop_assert!(decode_key(&mutation.key[..cut]).is_err());
            }
        }

        #[test]
        fn any_bytes_are_refused_or_read(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode_key(&bytes);
            let _ = decode_group(&bytes);
            let _ = decode_offset(&bytes);
        }
    }
}
