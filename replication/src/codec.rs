//! Keys and values of the metadata table.
//!
//! A value starts with its version. Integers are little-endian, strings have a u32 length before them; a decoder takes
//! nothing for granted but the slice it was given, and allocates no more than that slice can hold.
//!
//! | key | value (version 1) |
//! |---|---|
//! | `c` | cluster id, node id i32 |
//! | `t` + topic id (16) | name, partition count u32, shard u16 of each, config count u32, (name, value) of each |
//! | `b` | config count u32, (name, value) of each |
//! | `p` | next producer id i64 |
//! | `g` | partition count u32, shard u16 of each |

use std::collections::BTreeMap;

use bytes::Bytes;
use trireme_engine::api::{PartitionId, PartitionRef, TopicId};

use crate::image::Topic;

const VERSION: u8 = 1;

/// A record that this version cannot read: a newer format, or damage that no checksum caught.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("metadata record {key:?}: {what}")]
pub struct CodecError {
    pub key: Vec<u8>,
    pub what: &'static str,
}

/// One decoded record of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    Cluster { cluster_id: String, node_id: i32 },
    Topic(Topic),
    BrokerConfigs(BTreeMap<String, String>),
    NextProducerId(i64),
    GroupHomes(Vec<u16>),
}

pub(crate) const CLUSTER_KEY: &[u8] = b"c";
pub(crate) const BROKER_KEY: &[u8] = b"b";
pub(crate) const PRODUCER_KEY: &[u8] = b"p";
pub(crate) const GROUPS_KEY: &[u8] = b"g";

pub(crate) fn topic_key(id: &TopicId) -> Bytes {
    let mut key = vec![b't'];
    key.extend_from_slice(&id.0);
    key.into()
}

impl Record {
    /// Key and value.
    pub fn encode(&self) -> (Bytes, Bytes) {
        let mut v = vec![VERSION];
        let key = match self {
            Record::Cluster {
                cluster_id,
                node_id,
            } => {
                put_str(&mut v, cluster_id);
                v.extend_from_slice(&node_id.to_le_bytes());
                Bytes::from_static(CLUSTER_KEY)
            }
            Record::Topic(topic) => {
                put_str(&mut v, &topic.name);
                put_homes(&mut v, topic.partitions.iter().map(|p| p.shard));
                put_configs(&mut v, &topic.configs);
                topic_key(&topic.id)
            }
            Record::BrokerConfigs(configs) => {
                put_configs(&mut v, configs);
                Bytes::from_static(BROKER_KEY)
            }
            Record::NextProducerId(id) => {
                v.extend_from_slice(&id.to_le_bytes());
                Bytes::from_static(PRODUCER_KEY)
            }
            Record::GroupHomes(homes) => {
                put_homes(&mut v, homes.iter().copied());
                Bytes::from_static(GROUPS_KEY)
            }
        };
        (key, v.into())
    }

    /// Reads what [`encode`](Self::encode) wrote.
    pub fn decode(key: &[u8], value: &[u8]) -> Result<Record, CodecError> {
        let fail = |what| CodecError {
            key: key.to_vec(),
            what,
        };
        let mut r = Reader(value);
        (|| {
            if r.u8()? != VERSION {
                return Err("unknown version");
            }
            let record = match key {
                CLUSTER_KEY => Record::Cluster {
                    cluster_id: r.string()?,
                    node_id: r.u32()? as i32,
                },
                BROKER_KEY => Record::BrokerConfigs(r.configs()?),
                PRODUCER_KEY => Record::NextProducerId(i64::from_le_bytes(*r.array()?)),
                GROUPS_KEY => Record::GroupHomes(r.homes()?),
                [b't', id @ ..] => {
                    let id = TopicId(id.try_into().map_err(|_| "topic key length")?);
                    let name = r.string()?.into();
                    let homes = r.homes()?;
                    let partitions = (0u32..)
                        .zip(homes)
                        .map(|(index, shard)| PartitionRef {
                            id: PartitionId { topic: id, index },
                            shard,
                        })
                        .collect();
                    Record::Topic(Topic {
                        id,
                        name,
                        partitions,
                        configs: r.configs()?,
                    })
                }
                _ => return Err("unknown key"),
            };
            if r.0.is_empty() {
                Ok(record)
            } else {
                Err("bytes after the end")
            }
        })()
        .map_err(fail)
    }
}

fn put_str(out: &mut Vec<u8>, s: &str) {
    out.extend_from_slice(&(s.len() as u32).to_le_bytes());
    out.extend_from_slice(s.as_bytes());
}

fn put_homes(out: &mut Vec<u8>, homes: impl ExactSizeIterator<Item = u16>) {
    out.extend_from_slice(&(homes.len() as u32).to_le_bytes());
    homes.for_each(|h| out.extend_from_slice(&h.to_le_bytes()));
}

fn put_configs(out: &mut Vec<u8>, configs: &BTreeMap<String, String>) {
    out.extend_from_slice(&(configs.len() as u32).to_le_bytes());
    for (name, value) in configs {
        put_str(out, name);
        put_str(out, value);
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn array<const N: usize>(&mut self) -> Result<&'a [u8; N], &'static str> {
        let (head, rest) = self.0.split_first_chunk::<N>().ok_or("too short")?;
        self.0 = rest;
        Ok(head)
    }

    fn u8(&mut self) -> Result<u8, &'static str> {
        Ok(self.array::<1>()?[0])
    }

    fn u32(&mut self) -> Result<u32, &'static str> {
        Ok(u32::from_le_bytes(*self.array()?))
    }

    fn string(&mut self) -> Result<String, &'static str> {
        let len = self.u32()? as usize;
        let bytes = self.0.get(..len).ok_or("too short")?;
        self.0 = &self.0[len..];
        Ok(std::str::from_utf8(bytes)
            .map_err(|_| "not UTF-8")?
            .to_owned())
    }

    fn homes(&mut self) -> Result<Vec<u16>, &'static str> {
        let count = self.u32()? as usize;
        let len = count.checked_mul(2).ok_or("too short")?;
        let bytes = self.0.get(..len).ok_or("too short")?;
        self.0 = &self.0[len..];
        Ok(bytes
            .chunks_exact(2)
            .map(|b| u16::from_le_bytes([b[0], b[1]]))
            .collect())
    }

    fn configs(&mut self) -> Result<BTreeMap<String, String>, &'static str> {
        let count = self.u32()?;
        let mut configs = BTreeMap::new();
        for _ in 0..count {
            configs.insert(self.string()?, self.string()?);
        }
        Ok(configs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn record() -> impl Strategy<Value = Record> {
        let configs = proptest::collection::btree_map("[a-z.]{1,12}", ".{0,12}", 0..4);
        prop_oneof![
            ("[a-z]{1,20}", any::<i32>()).prop_map(|(cluster_id, node_id)| Record::Cluster {
                cluster_id,
                node_id
            }),
            configs.clone().prop_map(Record::BrokerConfigs),
            any::<i64>().prop_map(Record::NextProducerId),
            proptest::collection::vec(any::<u16>(), 0..20).prop_map(Record::GroupHomes),
            (
                any::<[u8; 16]>(),
                "[a-z]{1,20}",
                proptest::collection::vec(any::<u16>(), 0..20),
                configs
            )
                .prop_map(|(id, name, homes, configs)| {
                    let id = TopicId(id);
                    let partitions = (0..)
                        .zip(homes)
                        .map(|(index, shard)| PartitionRef {
                            id: PartitionId { topic: id, index },
                            shard,
                        })
                        .collect();
                    Record::Topic(Topic {
                        id,
                        name: name.into(),
                        partitions,
                        configs,
                    })
                }),
        ]
    }

    proptest! {
        #[test]
        fn round_trip(record in record()) {
            let (key, value) = record.encode();
            prop_assert_eq!(Record::decode(&key, &value), Ok(record));
            for cut in 0..value.len() {
                prop_assert!(Record::decode(&key, &value[..cut]).is_err());
            }
        }

        #[test]
        fn any_bytes_are_refused_or_read(key in proptest::collection::vec(any::<u8>(), 0..20), value in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = Record::decode(&key, &value);
        }
    }
}
