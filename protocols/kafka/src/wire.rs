//! Reading and writing protocol primitives for the requests that are handled by hand.
//!
//! A [`Reader`] walks over borrowed bytes and hands out borrowed bytes; it allocates nothing and cannot leave its slice. Both shapes
//! of a length are behind one method: `i16`/`i32` in the old versions, unsigned varint of length + 1 in the flexible ones.

/// The bytes are not what the version says they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed body")]
pub struct Malformed;

pub type Read<T> = Result<T, Malformed>;

/// A position in a request body.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    bytes: &'a [u8],
    position: usize,
    flexible: bool,
}

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8], flexible: bool) -> Self {
        Reader {
            bytes,
            position: 0,
            flexible,
        }
    }

    /// Bytes read so far.
    pub fn position(&self) -> usize {
        self.position
    }

    pub fn remaining(&self) -> usize {
        self.bytes.len() - self.position
    }

    #[inline]
    pub fn take(&mut self, length: usize) -> Read<&'a [u8]> {
        let end = self.position.checked_add(length).ok_or(Malformed)?;
        let taken = self.bytes.get(self.position..end).ok_or(Malformed)?;
        self.position = end;
        Ok(taken)
    }

    #[inline]
    fn array<const N: usize>(&mut self) -> Read<[u8; N]> {
        Ok(self.take(N)?.try_into().expect("took N bytes"))
    }

    #[inline]
    pub fn i8(&mut self) -> Read<i8> {
        Ok(i8::from_be_bytes(self.array()?))
    }

    #[inline]
    pub fn i16(&mut self) -> Read<i16> {
        Ok(i16::from_be_bytes(self.array()?))
    }

    #[inline]
    pub fn i32(&mut self) -> Read<i32> {
        Ok(i32::from_be_bytes(self.array()?))
    }

    #[inline]
    pub fn i64(&mut self) -> Read<i64> {
        Ok(i64::from_be_bytes(self.array()?))
    }

    #[inline]
    pub fn uuid(&mut self) -> Read<[u8; 16]> {
        self.array()
    }

    pub fn unsigned_varint(&mut self) -> Read<u32> {
        let mut value = 0u32;
        for shift in [0, 7, 14, 21, 28] {
            let byte = self.take(1)?[0];
            value |= u32::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(Malformed)
    }

    /// Length of a string; `None` is null.
    fn string_length(&mut self) -> Read<Option<usize>> {
        if self.flexible {
            return Ok((self.unsigned_varint()? as usize).checked_sub(1));
        }
        match self.i16()? {
            -1 => Ok(None),
            length => usize::try_from(length).map(Some).map_err(|_| Malformed),
        }
    }

    /// Length of an array or of bytes; `None` is null.
    fn length(&mut self) -> Read<Option<usize>> {
        if self.flexible {
            return Ok((self.unsigned_varint()? as usize).checked_sub(1));
        }
        match self.i32()? {
            -1 => Ok(None),
            length => usize::try_from(length).map(Some).map_err(|_| Malformed),
        }
    }

    /// A string that may be null.
    pub fn nullable_string(&mut self) -> Read<Option<&'a str>> {
        let Some(length) = self.string_length()? else {
            return Ok(None);
        };
        if length > i16::MAX as usize {
            return Err(Malformed);
        }
        std::str::from_utf8(self.take(length)?)
            .map(Some)
            .map_err(|_| Malformed)
    }

    pub fn string(&mut self) -> Read<&'a str> {
        self.nullable_string()?.ok_or(Malformed)
    }

    /// Elements of an array that follows; null is malformed. Bounded by what is left, as an element has `element_bytes` at least.
    pub fn array_length(&mut self, element_bytes: usize) -> Read<usize> {
        let length = self.length()?.ok_or(Malformed)?;
        if length > self.remaining() / element_bytes {
            return Err(Malformed);
        }
        Ok(length)
    }

    /// Bytes that may be null.
    pub fn nullable_bytes(&mut self) -> Read<Option<&'a [u8]>> {
        match self.length()? {
            None => Ok(None),
            Some(length) => self.take(length).map(Some),
        }
    }

    /// The tagged fields at the end of a structure, in flexible versions; nothing in the others.
    pub fn tagged_fields(
        &mut self,
        mut field: impl FnMut(u32, &mut Reader<'a>) -> Read<()>,
    ) -> Read<()> {
        if !self.flexible {
            return Ok(());
        }
        let count = self.unsigned_varint()?;
        let mut previous = None;
        for _ in 0..count {
            let tag = self.unsigned_varint()?;
            if previous.is_some_and(|previous| tag <= previous) {
                return Err(Malformed);
            }
            previous = Some(tag);
            let length = self.unsigned_varint()? as usize;
            let bytes = self.take(length)?;
            field(tag, &mut Reader::new(bytes, true))?;
        }
        Ok(())
    }

    pub fn skip_tagged_fields(&mut self) -> Read<()> {
        self.tagged_fields(|_, _| Ok(()))
    }
}

/// Appends primitives of a response to memory.
pub struct Writer {
    pub bytes: Vec<u8>,
    flexible: bool,
}

impl Writer {
    pub fn new(capacity: usize, flexible: bool) -> Self {
        Writer {
            bytes: Vec::with_capacity(capacity),
            flexible,
        }
    }

    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    #[inline]
    pub fn i8(&mut self, value: i8) {
        self.bytes.push(value as u8);
    }

    #[inline]
    pub fn i16(&mut self, value: i16) {
        self.bytes.extend_from_slice(&value.to_be_bytes());
    }

    #[inline]
    pub fn i32(&mut self, value: i32) {
        self.bytes.extend_from_slice(&value.to_be_bytes());
    }

    #[inline]
    pub fn i64(&mut self, value: i64) {
        self.bytes.extend_from_slice(&value.to_be_bytes());
    }

    #[inline]
    pub fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    pub fn unsigned_varint(&mut self, mut value: u32) {
        while value >= 0x80 {
            self.bytes.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.bytes.push(value as u8);
    }

    pub fn string(&mut self, value: &str) {
        if self.flexible {
            self.unsigned_varint(value.len() as u32 + 1);
        } else {
            self.i16(value.len() as i16);
        }
        self.raw(value.as_bytes());
    }

    pub fn nullable_string(&mut self, value: Option<&str>) {
        match value {
            Some(value) => self.string(value),
            None if self.flexible => self.unsigned_varint(0),
            None => self.i16(-1),
        }
    }

    pub fn array_length(&mut self, length: usize) {
        if self.flexible {
            self.unsigned_varint(length as u32 + 1);
        } else {
            self.i32(length as i32);
        }
    }

    pub fn null_array(&mut self) {
        if self.flexible {
            self.unsigned_varint(0);
        } else {
            self.i32(-1);
        }
    }

    /// Length of bytes that follow.
    pub fn bytes_length(&mut self, length: usize) {
        self.array_length(length);
    }

    /// The empty set of tagged fields that ends a structure in flexible versions.
    pub fn no_tagged_fields(&mut self) {
        if self.flexible {
            self.bytes.push(0);
        }
    }

    /// Starts a response frame: room for its length, then the response header.
    pub fn frame(correlation_id: i32, flexible: bool, capacity: usize) -> Writer {
        let mut writer = Writer::new(capacity + 9, flexible);
        writer.i32(0);
        writer.i32(correlation_id);
        writer.no_tagged_fields();
        writer
    }

    /// Sets the length of a frame that has `elsewhere` more bytes which are not in this memory.
    pub fn set_frame_length(&mut self, elsewhere: usize) {
        let length = (self.bytes.len() - 4 + elsewhere) as u32;
        self.bytes[..4].copy_from_slice(&length.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_written_is_read(flexible: bool, number: u32, text: Option<String>, bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut writer = Writer::new(0, flexible);
            writer.unsigned_varint(number);
            writer.nullable_string(text.as_deref());
            writer.bytes_length(bytes.len());
            writer.raw(&bytes);
            writer.no_tagged_fields();
            let mut reader = Reader::new(&writer.bytes, flexible);
            prop_assert_eq!(reader.unsigned_varint().unwrap(), number);
            prop_assert_eq!(reader.nullable_string().unwrap(), text.as_deref());
            prop_assert_eq!(reader.nullable_bytes().unwrap(), Some(&bytes[..]));
            reader.skip_tagged_fields().unwrap();
            prop_assert_eq!(reader.remaining(), 0);
        }
    }

    #[test]
    fn an_announced_length_is_not_believed() {
        for flexible in [false, true] {
            let mut writer = Writer::new(0, flexible);
            writer.array_length(0x7fff_fff0);
            assert_eq!(
                Reader::new(&writer.bytes, flexible).array_length(1),
                Err(Malformed)
            );
            assert_eq!(
                Reader::new(&writer.bytes, flexible).nullable_bytes(),
                Err(Malformed)
            );
        }
    }
}
