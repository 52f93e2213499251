//! Check sums: CRC-32C for record batches and what is derived from them, CRC-32 (IEEE) for our own structures.
//!
//! This module hides the crates that compute them. Measured once on one core of a Sapphire Rapids machine (crc-fast against
//! crc32c, GB/s): 64 B 14 / 4, 1 KiB 20 / 12, 16 KiB 48 / 21, 1 MiB 53 / 25; crc32fast runs level with crc-fast for the IEEE
//! polynomial. `cargo bench -p trireme-bench --bench crc` repeats the comparison. Both crates combine by squaring a bit
//! matrix, 18 µs for 64 KiB, where computing those 64 KiB afresh takes 1.1 µs. So the combination is our own: a
//! multiplication by x^(8·len) in GF(2)[x] modulo the polynomial, with the powers from a table made at compile time
//! (0.1–0.2 µs, whatever the length).

/// The Castagnoli polynomial, bit-reflected.
const CRC32C_POLY: u32 = 0x82F6_3B78;

/// The polynomial 1 (x^0) in reflected representation: the highest bit is the coefficient of x^0.
const ONE: u32 = 1 << 31;

/// CRC-32C (Castagnoli, as in iSCSI) of `bytes` after data whose CRC is `seed`; 0 starts afresh.
/// `crc32c(crc32c(0, a), b)` is the CRC of `a` followed by `b`.
#[inline]
pub fn crc32c(seed: u32, bytes: &[u8]) -> u32 {
    if seed == 0 {
        // Half the cost of a digest for short input.
        return crc_fast::crc32_iscsi(bytes);
    }
    let mut digest =
        crc_fast::Digest::new_with_init_state(crc_fast::CrcAlgorithm::Crc32Iscsi, u64::from(!seed));
    digest.update(bytes);
    digest.finalize() as u32
}

/// CRC-32C of A followed by B, from the CRC of each and B's length in bytes. Costs the same for every length.
#[inline]
pub fn crc32c_combine(crc_a: u32, crc_b: u32, len_b: u64) -> u32 {
    crc32c_shift(crc_a, len_b) ^ crc_b
}

/// What a difference (exclusive or) between two CRC-32C values becomes once `len` equal bytes follow on both sides.
#[inline]
pub fn crc32c_shift(difference: u32, len: u64) -> u32 {
    let mut shifted = difference;
    let mut rest = len;
    for power_of_byte in &BYTE_POWERS {
        let byte = (rest & 0xFF) as usize;
        if byte != 0 {
            shifted = multiply(power_of_byte[byte], shifted);
        }
        rest >>= 8;
        if rest == 0 {
            break;
        }
    }
    shifted
}

/// CRC-32 (IEEE 802.3) of `bytes` after data whose CRC is `seed`; 0 starts afresh.
#[inline]
pub fn crc32(seed: u32, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(seed);
    hasher.update(bytes);
    hasher.finalize()
}

/// The seed for which `crc32(seed, bytes)` is `crc`: the check sum run backwards. It tells nothing of who wrote the bytes; it
/// lets a repair find a seed that was lost, where several check sums have to agree on it.
pub fn crc32_seed_of(crc: u32, bytes: &[u8]) -> u32 {
    let mut state = !crc;
    for byte in bytes.iter().rev() {
        // The highest byte of a table's entry belongs to that entry alone.
        let index = UNWIND[(state >> 24) as usize];
        state = ((state ^ IEEE[index as usize]) << 8) | u32::from(index ^ byte);
    }
    !state
}

/// The IEEE polynomial, bit-reflected.
const CRC32_POLY: u32 = 0xEDB8_8320;

/// What a byte does to a CRC-32.
static IEEE: [u32; 256] = ieee();
/// The index of the entry of [`IEEE`] by its highest byte.
static UNWIND: [u8; 256] = unwind();

const fn ieee() -> [u32; 256] {
    let mut table = [0u32; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut state = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            state = (state >> 1) ^ (CRC32_POLY & (state & 1).wrapping_neg());
            bit += 1;
        }
        table[byte] = state;
        byte += 1;
    }
    table
}

const fn unwind() -> [u8; 256] {
    let table = ieee();
    let mut indexes = [0u8; 256];
    let mut byte = 0;
    while byte < 256 {
        indexes[(table[byte] >> 24) as usize] = byte as u8;
        byte += 1;
    }
    indexes
}

/// `BYTE_POWERS[i][b]` is x^(8 · b · 256^i) modulo the polynomial: one multiplication per non-zero byte of a length.
static BYTE_POWERS: [[u32; 256]; 8] = byte_powers();

const fn byte_powers() -> [[u32; 256]; 8] {
    let mut table = [[0u32; 256]; 8];
    // x^8, the factor of one byte.
    let mut step = ONE >> 8;
    let mut i = 0;
    while i < 8 {
        table[i][0] = ONE;
        let mut b = 1;
        while b < 256 {
            table[i][b] = multiply(table[i][b - 1], step);
            b += 1;
        }
        step = multiply(table[i][255], step);
        i += 1;
    }
    table
}

/// The product of two reflected polynomials modulo the CRC-32C polynomial, without branches on the data.
const fn multiply(a: u32, b: u32) -> u32 {
    let mut product = 0;
    let mut shifted = b;
    let mut bit = 32;
    while bit > 0 {
        bit -= 1;
        product ^= shifted & ((a >> bit) & 1).wrapping_neg();
        shifted = (shifted >> 1) ^ (CRC32C_POLY & (shifted & 1).wrapping_neg());
    }
    product
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The definition, bit by bit.
    fn reference(poly: u32, seed: u32, bytes: &[u8]) -> u32 {
        let mut state = !seed;
        for byte in bytes {
            state ^= u32::from(*byte);
            for _ in 0..8 {
                state = (state >> 1) ^ if state & 1 == 1 { poly } else { 0 };
            }
        }
        !state
    }

    #[test]
    fn known_vectors() {
        // The check values of the CRC catalogue, and RFC 3720 appendix B.4.
        assert_eq!(crc32c(0, b"123456789"), 0xE306_9283);
        assert_eq!(crc32(0, b"123456789"), 0xCBF4_3926);
        assert_eq!(crc32c(0, &[0u8; 32]), 0x8A91_36AA);
        assert_eq!(crc32c(0, &[0xFFu8; 32]), 0x62A8_AB43);
        let ascending: Vec<u8> = (0..32).collect();
        assert_eq!(crc32c(0, &ascending), 0x46DD_794E);
        let descending: Vec<u8> = (0..32).rev().collect();
        assert_eq!(crc32c(0, &descending), 0x113F_DB5C);
        assert_eq!(crc32c(0, b""), 0);
        assert_eq!(crc32c(7, b""), 7);
    }

    #[test]
    fn combination_over_lengths_too_long_to_hold() {
        // Appending n zero bytes twice is appending 2n: checked up to 2^40.
        let crc = crc32c(0, b"trireme");
        for exponent in 0..40 {
            let zeros = 1u64 << exponent;
            let once = crc32c_shift(crc32c_shift(crc, zeros), zeros);
            assert_eq!(once, crc32c_shift(crc, 2 * zeros), "2 * {zeros}");
        }
    }

    proptest! {
        #[test]
        fn run_backwards(seed: u32, bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            prop_assert_eq!(crc32_seed_of(crc32(seed, &bytes), &bytes), seed);
        }

        #[test]
        fn equal_to_the_definition(seed: u32, bytes in prop::collection::vec(any::<u8>(), 0..700)) {
            prop_assert_eq!(crc32c(seed, &bytes), reference(CRC32C_POLY, seed, &bytes));
            prop_assert_eq!(crc32(seed, &bytes), reference(0xEDB8_8320, seed, &bytes));
        }

        #[test]
        fn continued_and_combined(a in prop::collection::vec(any::<u8>(), 0..600), b in prop::collection::vec(any::<u8>(), 0..70_000)) {
            let whole = [a.as_slice(), b.as_slice()].concat();
            let expected = crc32c(0, &whole);
            prop_assert_eq!(crc32c(crc32c(0, &a), &b), expected);
            prop_assert_eq!(crc32c_combine(crc32c(0, &a), crc32c(0, &b), b.len() as u64), expected);
        }
    }
}
