//! Request and response headers, all versions.
//!
//! ```text
//! request  v1: api key i16, api version i16, correlation id i32, client id nullable string (i16 length)
//! request  v2: the same, then tagged fields
//! response v0: correlation id i32        response v1: the same, then tagged fields
//! ```
//! Which one an API's version uses is told by [`crate::dispatch::Api::flexible`]; ApiVersions always answers with header version 0,
//! because its asker cannot know yet what we speak.

use bytes::{Buf, Bytes};

/// What every request says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    pub api_key: i16,
    pub version: i16,
    pub correlation_id: i32,
    /// A slice of the frame.
    pub client_id: Option<Bytes>,
}

/// The bytes before the client id: they have the same layout in every version of every API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FixedHeader {
    pub api_key: i16,
    pub version: i16,
    pub correlation_id: i32,
}

/// The frame ends inside its header, or a length in it is impossible.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed request header")]
pub struct Malformed;

/// Takes the first eight bytes off `frame`.
pub fn read_fixed(frame: &mut Bytes) -> Result<FixedHeader, Malformed> {
    if frame.len() < 8 {
        return Err(Malformed);
    }
    Ok(FixedHeader {
        api_key: frame.get_i16(),
        version: frame.get_i16(),
        correlation_id: frame.get_i32(),
    })
}

/// Takes the rest of the header off `frame`, which then holds the body alone.
pub fn read_rest(
    frame: &mut Bytes,
    fixed: FixedHeader,
    flexible: bool,
) -> Result<Header, Malformed> {
    if frame.len() < 2 {
        return Err(Malformed);
    }
    let length = frame.get_i16();
    let client_id = match usize::try_from(length) {
        Err(_) if length == -1 => None,
        Err(_) => return Err(Malformed),
        Ok(length) if length > frame.len() => return Err(Malformed),
        Ok(length) => {
            let id = frame.split_to(length);
            std::str::from_utf8(&id).map_err(|_| Malformed)?;
            Some(id)
        }
    };
    if flexible {
        skip_tagged_fields(frame)?;
    }
    Ok(Header {
        api_key: fixed.api_key,
        version: fixed.version,
        correlation_id: fixed.correlation_id,
        client_id,
    })
}

fn skip_tagged_fields(frame: &mut Bytes) -> Result<(), Malformed> {
    // Each field takes at least two bytes, so the loop is bounded by the frame whatever the count claims.
    for _ in 0..read_unsigned_varint(frame)? {
        read_unsigned_varint(frame)?;
        let length = read_unsigned_varint(frame)? as usize;
        if length > frame.len() {
            return Err(Malformed);
        }
        frame.advance(length);
    }
    Ok(())
}

fn read_unsigned_varint(frame: &mut Bytes) -> Result<u32, Malformed> {
    let mut value = 0u32;
    for shift in [0, 7, 14, 21, 28] {
        if frame.is_empty() {
            return Err(Malformed);
        }
        let byte = frame.get_u8();
        value |= u32::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok(value);
        }
    }
    Err(Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_both_header_versions() {
        let mut frame = Bytes::from_static(b"\0\x03\0\x09\0\0\0\x07\0\x02ab\x01\x00\x01zBODY");
        let fixed = read_fixed(&mut frame).unwrap();
        assert_eq!(
            fixed,
            FixedHeader {
                api_key: 3,
                version: 9,
                correlation_id: 7
            }
        );
        let header = read_rest(&mut frame, fixed, true).unwrap();
        assert_eq!(header.client_id.as_deref(), Some(&b"ab"[..]));
        assert_eq!(&frame[..], b"BODY");

        let mut frame = Bytes::from_static(b"\0\x03\0\x01\0\0\0\x07\xff\xffBODY");
        let fixed = read_fixed(&mut frame).unwrap();
        assert_eq!(read_rest(&mut frame, fixed, false).unwrap().client_id, None);
        assert_eq!(&frame[..], b"BODY");
    }

    proptest! {
        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..64), flexible: bool) {
            let mut frame = Bytes::from(bytes);
            if let Ok(fixed) = read_fixed(&mut frame) {
                let _ = read_rest(&mut frame, fixed, flexible);
            }
        }
    }
}
