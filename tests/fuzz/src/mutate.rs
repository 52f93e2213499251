//! A few mutations without guidance, for the short run in `cargo test`.

/// A generator of numbers that need not be good; the same seed gives the same run.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub fn number(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// A number below `end`, 0 if that is 0.
    pub fn below(&mut self, end: usize) -> usize {
        (self.number() >> 11) as usize % end.max(1)
    }
}

/// Numbers at which code goes wrong.
const EDGES: [i64; 12] = [
    0,
    1,
    -1,
    127,
    128,
    255,
    i16::MAX as i64,
    i16::MIN as i64,
    i32::MAX as i64,
    i32::MIN as i64,
    i64::MAX,
    i64::MIN,
];

/// Changes `bytes` a little, once to four times; `other` is another input, of which parts are taken.
pub fn mutate(random: &mut Random, bytes: &mut Vec<u8>, other: &[u8], bytes_max: usize) {
    for _ in 0..=random.below(4) {
        let at = random.below(bytes.len());
        match random.below(8) {
            0 if !bytes.is_empty() => bytes[at] ^= 1 << random.below(8),
            1 if !bytes.is_empty() => bytes[at] = random.number() as u8,
            2 => {
                let edge = EDGES[random.below(EDGES.len())].to_be_bytes();
                let width = 1 << random.below(4);
                let mut edge = edge[8 - width..].to_vec();
                if random.below(2) == 0 {
                    edge.reverse();
                }
                let end = (at + width).min(bytes.len());
                bytes[at..end].copy_from_slice(&edge[..end - at]);
            }
            3 => bytes.truncate(at),
            4 => {
                let from = random.below(other.len());
                let len = random.below(other.len() - from + 1);
                bytes.splice(at..at, other[from..from + len].iter().copied());
            }
            5 => {
                let end = at + random.below(bytes.len() - at + 1);
                bytes.drain(at..end);
            }
            6 => {
                let from = random.below(bytes.len());
                let len = random.below((bytes.len() - from).min(bytes.len() - at) + 1);
                bytes.copy_within(from..from + len, at);
            }
            _ => {
                let added = random.below(32);
                bytes.splice(at..at, (0..added).map(|_| random.number() as u8));
            }
        }
    }
    bytes.truncate(bytes_max);
}
