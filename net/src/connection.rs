//! One accepted socket.

use crate::{FrameError, Segment, WriteError};
use bytes::Bytes;
use std::net::SocketAddr;
use trireme_runtime::sync::CancelToken;

/// An accepted socket on its core. Dropping both halves closes it.
pub struct Connection {
    pub peer: SocketAddr,
    pub local: SocketAddr,
    /// Canceled when the broker stops: finish what was read, answer long polls now, then return.
    pub stop: CancelToken,
    reader: FrameReader,
    writer: Writer,
}

impl Connection {
    pub fn split(self) -> (FrameReader, Writer) {
        (self.reader, self.writer)
    }
}

pub struct FrameReader {
    _private: (),
}

impl FrameReader {
    /// The next frame: what follows a 4-byte big-endian length, without that length. `None` when the peer closed between two
    /// frames, or when the broker stops and every whole frame that had arrived was handed out. Waits while the core's memory
    /// for received data is used up, which is given back when the returned `Bytes` (all its slices) are dropped: let go of a
    /// frame as soon as it is decoded, and before a long poll.
    pub async fn read_frame(&mut self, _max_frame_bytes: usize) -> Result<Option<Bytes>, FrameError> {
        std::future::pending().await
    }
}

pub struct Writer {
    _private: (),
}

impl Writer {
    /// Sends all of it in order. Resolves when the kernel has taken everything; waits for a slow peer, at most the door's write
    /// time-out without progress. One call at a time; an error or a dropped future leaves the stream in the middle of an
    /// answer, so the connection must be closed then.
    pub async fn write(&mut self, _segments: Vec<Segment>) -> Result<(), WriteError> {
        std::future::pending().await
    }

    /// Closes both directions now; a read in progress on the other half ends with an error.
    pub fn close(&self) {}
}
