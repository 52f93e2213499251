//! Records that say what they are. Key, value, headers and length follow from a record's name and nothing else, so a reader
//! can tell every changed byte without a copy of what was sent.

use std::sync::OnceLock;

use trireme_engine::batch::{Batches, Codec, TimestampType};
use trireme_engine::records::{BatchBuilder, NewRecord, Producer, RecordLimits, Records};

/// Who wrote a record, and the how-manieth of that writer it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Name {
    pub writer: u16,
    pub number: u32,
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}#{}", self.writer, self.number)
    }
}

/// The value begins with the name.
const NAME_BYTES: usize = 8;
const MARK: u16 = 0x7E51;

/// Filler comes from a table without repetition, so that a block in the wrong place shows.
const FILLER_BYTES: usize = 1 << 20;
pub const VALUE_BYTES_MAX: usize = FILLER_BYTES / 2;

pub fn mix(mut z: u64) -> u64 {
    z = z.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

fn filler(name: Name, len: usize) -> &'static [u8] {
    static TABLE: OnceLock<Vec<u8>> = OnceLock::new();
    let table = TABLE.get_or_init(|| {
        let words = (0..FILLER_BYTES as u64 / 8).map(mix);
        // Six bits of each byte: not constant, and still something for a codec to do.
        words
            .flat_map(|word| (word & 0x3F3F_3F3F_3F3F_3F3F).to_le_bytes())
            .collect()
    });
    let from =
        mix(u64::from(name.writer) << 32 | u64::from(name.number)) as usize % (FILLER_BYTES - len);
    &table[from..from + len]
}

/// What a record is made of.
pub struct Content {
    pub key: Option<[u8; 8]>,
    pub value: Vec<u8>,
    pub headers: Vec<(Vec<u8>, Option<Vec<u8>>)>,
}

pub fn content(name: Name, value_len: usize) -> Content {
    let hash = mix(u64::from(name.number) << 16 ^ u64::from(name.writer));
    let value_len = value_len.clamp(NAME_BYTES, VALUE_BYTES_MAX);
    let mut value = Vec::with_capacity(value_len);
    value.extend_from_slice(&MARK.to_be_bytes());
    value.extend_from_slice(&name.writer.to_be_bytes());
    value.extend_from_slice(&name.number.to_be_bytes());
    value.extend_from_slice(filler(name, value_len - NAME_BYTES));
    let headers = match hash % 8 {
        0 => vec![(b"n".to_vec(), Some(name.number.to_be_bytes().to_vec()))],
        1 => vec![
            (b"a".to_vec(), None),
            (b"b".to_vec(), Some(hash.to_be_bytes().to_vec())),
        ],
        _ => Vec::new(),
    };
    Content {
        key: (!hash.is_multiple_of(3)).then(|| hash.to_be_bytes()),
        value,
        headers,
    }
}

/// The name that a value claims to be of.
pub fn name_of(value: &[u8]) -> Option<Name> {
    let bytes: &[u8; NAME_BYTES] = value.first_chunk()?;
    (bytes[..2] == MARK.to_be_bytes()).then(|| Name {
        writer: u16::from_be_bytes([bytes[2], bytes[3]]),
        number: u32::from_be_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]),
    })
}

/// A record to send.
#[derive(Clone, Copy, Debug)]
pub struct Outgoing {
    pub name: Name,
    pub value_len: usize,
    pub timestamp_ms: i64,
}

pub fn encode(
    codec: Codec,
    producer: Option<Producer>,
    records: impl Iterator<Item = Outgoing>,
) -> Vec<u8> {
    let mut builder = BatchBuilder::new(codec);
    if let Some(producer) = producer {
        builder = builder.producer(producer);
    }
    for record in records {
        let content = content(record.name, record.value_len);
        let headers: Vec<_> = content
            .headers
            .iter()
            .map(|(name, value)| (&name[..], value.as_deref()))
            .collect();
        builder.push(&NewRecord {
            timestamp_ms: record.timestamp_ms,
            key: content.key.as_ref().map(|key| &key[..]),
            value: Some(&content.value),
            headers: &headers,
        });
    }
    builder.finish()
}

/// A record that came back and is, in all but offset and time, what its name says.
#[derive(Clone, Copy, Debug)]
pub struct Incoming {
    pub offset: i64,
    pub name: Name,
    pub value_len: usize,
    pub timestamp_ms: i64,
    pub log_append_time: bool,
    pub leader_epoch: i32,
}

/// The records of a fetch, in order, each compared with what its name says. Our broker sends whole batches only.
pub fn decode(bytes: &[u8]) -> Result<Vec<Incoming>, String> {
    let mut found = Vec::new();
    for raw in Batches::new(bytes) {
        let raw = raw.map_err(|error| format!("not a batch: {error}"))?;
        let header = raw.header();
        let whole = raw.bytes();
        // By hand, and not with the broker's own check, which a mutation may have switched off.
        let crc = crc_fast::crc32_iscsi(&whole[21..]);
        if crc != header.crc() {
            return Err(format!(
                "batch at offset {}: CRC {crc:08x}, its header says {:08x}",
                header.base_offset(),
                header.crc()
            ));
        }
        let records = Records::open(whole, &RecordLimits::default())
            .map_err(|error| format!("batch at offset {}: {error}", header.base_offset()))?;
        let log_append_time = header.timestamp_type() == TimestampType::LogAppendTime;
        for record in &records {
            let record = record
                .map_err(|error| format!("batch at offset {}: {error}", header.base_offset()))?;
            let value = record.value.unwrap_or_default();
            let name = name_of(value)
                .ok_or_else(|| format!("offset {}: a record that nobody sent", record.offset))?;
            let expected = content(name, value.len());
            let headers: Vec<_> = record
                .headers
                .clone()
                .map(|(name, value)| (name.to_vec(), value.map(<[u8]>::to_vec)))
                .collect();
            if expected.value != value {
                return Err(format!(
                    "offset {}: the value of {name} was changed",
                    record.offset
                ));
            }
            if record.key != expected.key.as_ref().map(|key| &key[..])
                || headers != expected.headers
            {
                return Err(format!(
                    "offset {}: key or headers of {name} were changed",
                    record.offset
                ));
            }
            found.push(Incoming {
                offset: record.offset,
                name,
                value_len: value.len(),
                timestamp_ms: record.timestamp_ms,
                log_append_time,
                leader_epoch: header.leader_epoch(),
            });
        }
    }
    Ok(found)
}
