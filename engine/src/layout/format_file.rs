//! `DATA/format`: what makes a directory a data directory. Written once, and again when a start adds shards.

use zerocopy::byteorder::little_endian::{I64, U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::seed::crc32;

pub const MAGIC: [u8; 8] = *b"TRIREME\0";
/// What a repair puts in the file's place while it moves files, followed by the name of the repair: nothing may start from a
/// directory that is half the old one and half the new one.
pub const UNDER_REPAIR: &[u8] = b"REPAIR\n";
pub const VERSION: u32 = 1;
/// Size of the file.
pub const FORMAT_BYTES: usize = size_of::<Raw>();

/// | at | bytes | |
/// | --- | --- | --- |
/// | 0 | 8 | magic `TRIREME\0` |
/// | 8 | 4 | version of the whole directory: an older broker must not touch a newer one |
/// | 12 | 2 | number of shards: `wal/000` … exist and must all be read, whatever the number of cores |
/// | 14 | 2 | zero |
/// | 16 | 16 | directory id, random: a checkpoint of another directory is not ours |
/// | 32 | 8 | created, Unix milliseconds |
/// | 40 | 20 | zero |
/// | 60 | 4 | CRC-32 of the bytes before |
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Raw {
    magic: [u8; 8],
    version: U32,
    shards: U16,
    zero: U16,
    directory: [u8; 16],
    created_unix_ms: I64,
    zeros: [u8; 20],
    crc: U32,
}

/// The content of the format file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Format {
    pub directory: [u8; 16],
    pub shards: u16,
    pub created_unix_ms: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    #[error("a repair of this directory was interrupted: run trireme-fsck repair again")]
    UnderRepair,
    #[error("{0} bytes long instead of {FORMAT_BYTES}")]
    Length(usize),
    #[error("not the format file of a data directory (magic)")]
    Magic,
    #[error("check sum does not match")]
    Crc,
    #[error("version {0} of the data directory is not known to this program (it knows {VERSION})")]
    Version(u32),
    #[error("reserved bytes are not zero, or no shards")]
    Content,
}

impl Format {
    pub fn encode(&self) -> [u8; FORMAT_BYTES] {
        let mut raw = Raw {
            magic: MAGIC,
            version: VERSION.into(),
            shards: self.shards.into(),
            zero: 0.into(),
            directory: self.directory,
            created_unix_ms: self.created_unix_ms.into(),
            zeros: [0; 20],
            crc: 0.into(),
        };
        raw.crc = crc32(0, &raw.as_bytes()[..FORMAT_BYTES - 4]).into();
        raw.as_bytes().try_into().expect("the size of the struct")
    }

    pub fn parse(bytes: &[u8]) -> Result<Format, FormatError> {
        if bytes.starts_with(UNDER_REPAIR) {
            return Err(FormatError::UnderRepair);
        }
        let raw = Raw::ref_from_bytes(bytes).map_err(|_| FormatError::Length(bytes.len()))?;
        if raw.magic != MAGIC {
            return Err(FormatError::Magic);
        }
        if crc32(0, &bytes[..FORMAT_BYTES - 4]) != raw.crc.get() {
            return Err(FormatError::Crc);
        }
        if raw.version.get() != VERSION {
            return Err(FormatError::Version(raw.version.get()));
        }
        if raw.zero.get() != 0 || raw.zeros != [0; 20] || raw.shards.get() == 0 {
            return Err(FormatError::Content);
        }
        Ok(Format {
            directory: raw.directory,
            shards: raw.shards.get(),
            created_unix_ms: raw.created_unix_ms.get(),
        })
    }
}
