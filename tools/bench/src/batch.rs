//! Record batches with a payload that can be checked on its way back.
//!
//! Every record's value begins with 8 bytes that name its producer (16 bits) and its number there (48 bits), and 8 bytes
//! of the time at which it was due, in ns since the run began; filler follows. So a reader can tell lost, doubled and
//! reordered records without a list of what was sent.

use anyhow::{Context, Result, anyhow, ensure};
use trireme_engine::batch::Codec;
use trireme_engine::records::{RecordLimits, Records, compress};

pub const HEADER_BYTES: usize = 61;
/// Least record size: the stamp has to fit.
pub const MIN_RECORD_BYTES: usize = 16;
const SEQUENCE_BITS: u32 = 48;

/// What the value of a record says of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    pub producer: u16,
    pub sequence: u64,
    pub due_ns: u64,
}

impl Stamp {
    fn encode(&self) -> [u8; 16] {
        let first = u64::from(self.producer) << SEQUENCE_BITS | self.sequence;
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&first.to_be_bytes());
        bytes[8..].copy_from_slice(&self.due_ns.to_be_bytes());
        bytes
    }

    pub fn decode(value: &[u8]) -> Option<Stamp> {
        let first = u64::from_be_bytes(*value.first_chunk()?);
        let due_ns = u64::from_be_bytes(*value.get(8..)?.first_chunk()?);
        Some(Stamp {
            producer: (first >> SEQUENCE_BITS) as u16,
            sequence: first & ((1 << SEQUENCE_BITS) - 1),
            due_ns,
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Compression {
    None,
    Gzip,
    Snappy,
    Lz4,
    Zstd,
}

/// Makes batches of one size again and again.
pub struct BatchMaker {
    record_bytes: usize,
    records: usize,
    compression: Compression,
    filler: Vec<u8>,
}

impl BatchMaker {
    /// `batch_bytes` bounds the uncompressed batch; at least one record goes in.
    pub fn new(
        record_bytes: usize,
        batch_bytes: usize,
        compression: Compression,
    ) -> Result<BatchMaker> {
        ensure!(
            record_bytes >= MIN_RECORD_BYTES,
            "--record-size must be at least {MIN_RECORD_BYTES}"
        );
        let one = record_bytes + 20;
        let records = (batch_bytes.saturating_sub(HEADER_BYTES) / one).max(1);
        // Letters and digits from a fixed generator: neither constant nor incompressible.
        let mut x = 0x9e37_79b9_7f4a_7c15u64;
        let filler = (0..record_bytes + 4096)
            .map(|_| {
                x ^= x << 13;
                x ^= x >> 7;
                x ^= x << 17;
                b"abcdefghijklmnopqrstuvwxyz012345"[(x >> 40) as usize & 31]
            })
            .collect();
        Ok(BatchMaker {
            record_bytes,
            records,
            compression,
            filler,
        })
    }

    pub fn records(&self) -> usize {
        self.records
    }

    /// Appends one batch of at most `limit` records to `out`; how many it holds.
    pub fn append(
        &self,
        out: &mut Vec<u8>,
        stamp: Stamp,
        limit: u64,
        now_ms: i64,
    ) -> Result<usize> {
        let records = self
            .records
            .min(usize::try_from(limit).unwrap_or(usize::MAX));
        let start = out.len();
        out.resize(start + HEADER_BYTES, 0);
        if self.compression == Compression::None {
            self.put_records(out, stamp, records);
        } else {
            let mut plain = Vec::with_capacity(records * (self.record_bytes + 20));
            self.put_records(&mut plain, stamp, records);
            let codec = Codec::from_id(self.compression as u8).expect("Kafka's ids");
            compress(codec, &plain, out);
        }
        let len = out.len() - start;
        let h = &mut out[start..];
        h[8..12].copy_from_slice(&((len - 12) as u32).to_be_bytes());
        h[12..16].copy_from_slice(&(-1i32).to_be_bytes());
        h[16] = 2;
        h[22] = self.compression as u8;
        h[23..27].copy_from_slice(&(records as u32 - 1).to_be_bytes());
        h[27..35].copy_from_slice(&now_ms.to_be_bytes());
        h[35..43].copy_from_slice(&now_ms.to_be_bytes());
        h[43..51].copy_from_slice(&(-1i64).to_be_bytes());
        h[51..53].copy_from_slice(&(-1i16).to_be_bytes());
        h[53..57].copy_from_slice(&(-1i32).to_be_bytes());
        h[57..61].copy_from_slice(&(records as u32).to_be_bytes());
        let crc = crc_fast::crc32_iscsi(&h[21..]);
        h[17..21].copy_from_slice(&crc.to_be_bytes());
        Ok(records)
    }

    fn put_records(&self, out: &mut Vec<u8>, mut stamp: Stamp, records: usize) {
        for delta in 0..records {
            // attributes, timestamp delta 0, offset delta, null key, value length, value, no headers
            let value_len = varint_len(self.record_bytes as i64);
            let body = 1 + 1 + varint_len(delta as i64) + 1 + value_len + self.record_bytes + 1;
            put_varint(out, body as i64);
            out.extend_from_slice(&[0, 0]);
            put_varint(out, delta as i64);
            out.push(1);
            put_varint(out, self.record_bytes as i64);
            out.extend_from_slice(&stamp.encode());
            let from = (stamp.sequence as usize * 7) & 4095;
            out.extend_from_slice(&self.filler[from..from + self.record_bytes - MIN_RECORD_BYTES]);
            out.push(0);
            stamp.sequence += 1;
        }
    }
}

fn varint_len(v: i64) -> usize {
    let z = ((v << 1) ^ (v >> 63)) as u64;
    (64 - (z | 1).leading_zeros()).div_ceil(7) as usize
}

fn put_varint(out: &mut Vec<u8>, v: i64) {
    let mut z = ((v << 1) ^ (v >> 63)) as u64;
    while z >= 0x80 {
        out.push(z as u8 | 0x80);
        z >>= 7;
    }
    out.push(z as u8);
}

/// A whole batch as it came back.
pub struct Batch<'a> {
    pub base_offset: i64,
    pub records: u32,
    bytes: &'a [u8],
}

/// Splits the next whole batch off `bytes`; `None` when only a part of one (or nothing) is left, as at the end of a fetch.
/// With `check`, the CRC is verified.
pub fn next_batch<'a>(bytes: &mut &'a [u8], check: bool) -> Result<Option<Batch<'a>>> {
    if bytes.len() < HEADER_BYTES {
        return Ok(None);
    }
    let len = 12 + u32::from_be_bytes(bytes[8..12].try_into()?) as usize;
    ensure!(len >= HEADER_BYTES, "a batch of {len} bytes");
    let Some((batch, rest)) = bytes.split_at_checked(len) else {
        return Ok(None);
    };
    *bytes = rest;
    ensure!(batch[16] == 2, "a batch of magic {}", batch[16]);
    if check {
        let crc = u32::from_be_bytes(batch[17..21].try_into()?);
        ensure!(
            crc == crc_fast::crc32_iscsi(&batch[21..]),
            "a batch's CRC does not match"
        );
    }
    Ok(Some(Batch {
        base_offset: i64::from_be_bytes(batch[..8].try_into()?),
        records: u32::from_be_bytes(batch[57..61].try_into()?),
        bytes: batch,
    }))
}

impl Batch<'_> {
    /// Calls `each` with every record's stamp.
    pub fn stamps(&self, mut each: impl FnMut(Stamp) -> Result<()>) -> Result<()> {
        let records = Records::open(self.bytes, &RecordLimits::default())?;
        for record in &records {
            let value = record?
                .value
                .ok_or_else(|| anyhow!("a record without value"))?;
            each(Stamp::decode(value).context("not a record of trireme-bench")?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_codec_gives_its_stamps_back() {
        for compression in [
            Compression::None,
            Compression::Gzip,
            Compression::Snappy,
            Compression::Lz4,
            Compression::Zstd,
        ] {
            let maker = BatchMaker::new(100, 16 << 10, compression).unwrap();
            let mut out = Vec::new();
            let first = Stamp {
                producer: 3,
                sequence: 1 << 40,
                due_ns: 77,
            };
            let n = maker.append(&mut out, first, u64::MAX, 1).unwrap();
            assert!(n > 100);
            let mut bytes = &out[..];
            let batch = next_batch(&mut bytes, true).unwrap().unwrap();
            let mut stamps = Vec::new();
            batch
                .stamps(|s| {
                    stamps.push(s);
                    Ok(())
                })
                .unwrap();
            assert_eq!(stamps.len(), n);
            assert!(
                stamps
                    .iter()
                    .zip(1 << 40..)
                    .all(|(s, sequence)| *s == Stamp { sequence, ..first })
            );
            assert!(next_batch(&mut bytes, true).unwrap().is_none());
            let mut cut = &out[..out.len() - 1];
            assert!(next_batch(&mut cut, true).unwrap().is_none());
            let last = out.len() - 1;
            out[last] ^= 1;
            assert!(next_batch(&mut &out[..], true).is_err());
        }
    }
}
