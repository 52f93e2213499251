//! Records inside a batch.

/// Most bytes that a batch's records may have once decompressed.
pub const DECOMPRESSED_BYTES_MAX: usize = 128 << 20;
