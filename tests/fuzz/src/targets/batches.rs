//! Record batches and what is in them.

use trireme_engine::batch::{BatchHeader, Batches, Codec, HEADER_BYTES, Limits, single, validate};
use trireme_engine::crc::crc32c;
use trireme_engine::producer::{Producers, Sequenced};
use trireme_engine::records::{RecordLimits, Records};
use trireme_engine::table::Table;
use trireme_replication::Record;

use crate::seeds;

/// Where the CRC of a batch stands, and what it covers from.
const CRC_AT: usize = 17;
const CRC_FROM: usize = 21;

/// Batches as they are, then with every check sum made right.
pub fn batch(input: &[u8]) {
    walk(input);
    walk(&resealed(input));
}

/// The bytes with the length and CRC of what looks like their batches made right.
fn resealed(input: &[u8]) -> Vec<u8> {
    let mut bytes = input.to_vec();
    let mut at = 0;
    while at + HEADER_BYTES <= bytes.len() {
        let length = BatchHeader::view(&bytes[at..]).and_then(|header| header.total_bytes());
        let end = length.map_or(bytes.len(), |length| (at + length).min(bytes.len()));
        if end < at + HEADER_BYTES {
            break;
        }
        let length = (end - at - 12) as i32;
        bytes[at + 8..at + 12].copy_from_slice(&length.to_be_bytes());
        bytes[at + 16] = 2;
        let crc = crc32c(0, &bytes[at + CRC_FROM..end]);
        bytes[at + CRC_AT..at + CRC_FROM].copy_from_slice(&crc.to_be_bytes());
        at = end;
    }
    bytes
}

fn walk(bytes: &[u8]) {
    let mut producers = Producers::new();
    let mut offset = 0;
    for batch in Batches::new(bytes).map_while(Result::ok) {
        let from_client = validate(batch.bytes(), &Limits::client(1 << 20)).is_ok();
        let in_log = validate(batch.bytes(), &Limits::log(usize::MAX)).is_ok();
        assert!(!from_client || in_log, "a log takes what a client may send");
        read_records(batch.bytes());
        if in_log {
            let header = batch.header();
            let _ = producers.check(header);
            if let Some(sequenced) = Sequenced::of(header) {
                producers.replay(&sequenced, offset, 0);
            }
            offset = header.next_offset().max(offset);
        }
    }
    let _ = single(bytes).is_ok();
}

fn read_records(batch: &[u8]) {
    let Ok(records) = Records::open(batch, &RecordLimits::default()) else {
        return;
    };
    for record in records.iter().map_while(Result::ok) {
        let headers = record.headers.clone();
        let _ = headers.count();
    }
}

/// The first byte is the codec, the rest the payload of a batch that is right otherwise.
pub fn payload(input: &[u8]) {
    let Some((first, payload)) = input.split_first() else {
        return;
    };
    let mut bytes = seeds::batch(Codec::None, 1, 4);
    bytes.truncate(HEADER_BYTES);
    bytes[22] = first % 5;
    bytes[57..61].copy_from_slice(&i32::from(first / 5).to_be_bytes());
    bytes.extend_from_slice(payload);
    walk(&resealed(&bytes));
}

/// A table is applied, and its entries read as metadata.
pub fn table(input: &[u8]) {
    let mut table = Table::new(0);
    let _ = table.apply(&resealed(input));
    for (key, value) in table.iter() {
        if let Ok(record) = Record::decode(key, value) {
            let (key, value) = record.encode();
            assert_eq!(Record::decode(&key, &value), Ok(record));
        }
    }
}

pub fn batch_seeds() -> Vec<Vec<u8>> {
    let mut all: Vec<Vec<u8>> = seeds::CODECS
        .iter()
        .map(|codec| seeds::batch(*codec, 3, 20))
        .collect();
    all.push(all.concat());
    all
}

pub fn payload_seeds() -> Vec<Vec<u8>> {
    let codecs = seeds::CODECS.iter().zip(0u8..);
    codecs
        .map(|(codec, id)| {
            let batch = seeds::batch(*codec, 3, 20);
            [&[15 + id], &batch[HEADER_BYTES..]].concat()
        })
        .collect()
}

pub fn table_seeds() -> Vec<Vec<u8>> {
    vec![seeds::metadata()]
}
