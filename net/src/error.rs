//! What ends a read, a write or a connection.

use std::io;

/// Why [`crate::FrameReader::read_frame`] gave no frame. After any of these the connection can only be closed.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The length prefix says more than the door allows. Nothing of the frame was stored.
    #[error("a frame of {announced} bytes is announced, at most {max} are allowed")]
    TooLarge { announced: u32, max: usize },
    /// The length prefix is negative.
    #[error("a frame of negative length {0} is announced")]
    Negative(i32),
    /// The peer closed its side inside a frame.
    #[error("the peer closed inside a frame")]
    Truncated,
    /// We closed the connection; the reason says why.
    #[error("closed: {0}")]
    Closed(CloseReason),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Why [`crate::Writer::write`] did not send everything. Some of it may have arrived.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// We closed the connection; the reason says why.
    #[error("closed: {0}")]
    Closed(CloseReason),
    /// A file range ended before its length, or could not be read.
    #[error("reading a file range to send: {0}")]
    File(io::Error),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Why this side closed a connection before its peer did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// Nothing was received or sent for the idle time-out.
    Idle,
    /// A frame was begun and not continued for the frame time-out.
    StalledFrame,
    /// The peer took nothing of an answer for the write time-out.
    StalledReader,
    /// The memory for received data was used up and this peer was the one that kept others waiting.
    Memory,
    /// The broker shuts down and the time for finishing accepted requests is over.
    Shutdown,
}

impl std::fmt::Display for CloseReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            CloseReason::Idle => "idle for too long",
            CloseReason::StalledFrame => "a frame was begun and not continued",
            CloseReason::StalledReader => "the peer does not read",
            CloseReason::Memory => "no memory left for received data",
            CloseReason::Shutdown => "the broker shuts down",
        })
    }
}
