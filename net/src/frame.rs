//! Frames from bytes, without I/O.

use bytes::Bytes;

pub struct FrameAssembler {
    _ready: Bytes,
}
