//! Variable-length integers as records have them: zigzag, then 7 bits a byte, low bits first.

/// Takes a 32-bit number off the front; `None` where it is cut off or has more than 32 bits.
#[inline]
pub(super) fn take_i32(bytes: &mut &[u8]) -> Option<i32> {
    let raw = u32::try_from(take(bytes, 5)?).ok()?;
    Some((raw >> 1) as i32 ^ -((raw & 1) as i32))
}

/// Takes a 64-bit number off the front; `None` where it is cut off or has more than 64 bits.
#[inline]
pub(super) fn take_i64(bytes: &mut &[u8]) -> Option<i64> {
    let raw = take(bytes, 10)?;
    Some((raw >> 1) as i64 ^ -((raw & 1) as i64))
}

#[inline]
fn take(bytes: &mut &[u8], bytes_max: usize) -> Option<u64> {
    let mut value = 0u64;
    for (at, &byte) in bytes.iter().take(bytes_max).enumerate() {
        let bits = u64::from(byte & 0x7F);
        // The tenth byte has room for one bit.
        if at == 9 && bits > 1 {
            return None;
        }
        value |= bits << (7 * at);
        if byte & 0x80 == 0 {
            *bytes = &bytes[at + 1..];
            return Some(value);
        }
    }
    None
}

#[inline]
pub(super) fn put_i32(out: &mut Vec<u8>, value: i32) {
    put(out, u64::from(((value << 1) ^ (value >> 31)) as u32));
}

#[inline]
pub(super) fn put_i64(out: &mut Vec<u8>, value: i64) {
    put(out, ((value << 1) ^ (value >> 63)) as u64);
}

#[inline]
fn put(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Bytes that [`put_i32`] writes.
#[inline]
pub(super) fn len_i32(value: i32) -> usize {
    len_u64(u64::from(((value << 1) ^ (value >> 31)) as u32))
}

/// Bytes that [`put_i64`] writes.
#[inline]
pub(super) fn len_i64(value: i64) -> usize {
    len_u64(((value << 1) ^ (value >> 63)) as u64)
}

#[inline]
fn len_u64(value: u64) -> usize {
    (64 - (value | 1).leading_zeros() as usize).div_ceil(7)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_encodings() {
        let cases: [(i64, &[u8]); 8] = [
            (0, &[0]),
            (-1, &[1]),
            (1, &[2]),
            (63, &[126]),
            (-64, &[127]),
            (64, &[0x80, 1]),
            (i64::from(i32::MAX), &[0xFE, 0xFF, 0xFF, 0xFF, 0x0F]),
            (i64::from(i32::MIN), &[0xFF, 0xFF, 0xFF, 0xFF, 0x0F]),
        ];
        for (value, encoded) in cases {
            let mut out = Vec::new();
            put_i64(&mut out, value);
            assert_eq!(out, encoded);
            out.clear();
            put_i32(&mut out, value as i32);
            assert_eq!(out, encoded);
        }
    }

    #[test]
    fn too_long_or_cut_off() {
        for bad in [
            &[][..],
            &[0x80],
            &[0xFF, 0xFF, 0xFF, 0xFF, 0x10],
            &[0x80, 0x80, 0x80, 0x80, 0x80, 0],
        ] {
            let mut rest = bad;
            assert_eq!(take_i32(&mut rest), None, "{bad:?}");
        }
        let mut eleven = [0x80; 11];
        eleven[10] = 0;
        assert_eq!(take_i64(&mut &eleven[..]), None);
        let mut overflow = [0xFF; 10];
        overflow[9] = 2;
        assert_eq!(take_i64(&mut &overflow[..]), None);
        overflow[9] = 1;
        assert_eq!(take_i64(&mut &overflow[..]), Some(i64::MIN));
    }

    proptest! {
        #[test]
        fn there_and_back(small: i32, large: i64, tail: u8) {
            let mut out = Vec::new();
            put_i32(&mut out, small);
            prop_assert_eq!(out.len(), len_i32(small));
            put_i64(&mut out, large);
            prop_assert_eq!(out.len(), len_i32(small) + len_i64(large));
            out.push(tail);
            let mut rest = out.as_slice();
            prop_assert_eq!(take_i32(&mut rest), Some(small));
            prop_assert_eq!(take_i64(&mut rest), Some(large));
            prop_assert_eq!(rest, [tail]);
        }
    }
}
