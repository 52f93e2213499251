//! What a request ends with.

use std::any::Any;

use bytes::{BufMut, Bytes, BytesMut};
use smallvec::{SmallVec, smallvec};
use trireme_net::Segment;

/// Held until the answer is sent or given up: memory that is counted while it waits for the peer.
pub type Lease = Box<dyn Any>;

/// The end of one request.
pub enum Reply {
    /// A whole response frame, length prefix included, in order.
    Send(SmallVec<[Segment; 2]>, Option<Lease>),
    /// No response belongs to this request (Produce with acks=0).
    Nothing,
    /// The connection is closed, as Kafka does for what it cannot parse or does not know. Earlier requests are answered before.
    Close,
}

/// Starts a response frame: room for the length, the response header. Append the body, then [`finish`].
pub fn begin(correlation_id: i32, flexible_header: bool, body_capacity: usize) -> BytesMut {
    let mut frame = BytesMut::with_capacity(9 + body_capacity);
    frame.put_i32(0);
    frame.put_i32(correlation_id);
    if flexible_header {
        frame.put_u8(0);
    }
    frame
}

/// Ends a frame that lies in memory as a whole.
pub fn finish(mut frame: BytesMut) -> Reply {
    let length = (frame.len() - 4) as i32;
    frame[..4].copy_from_slice(&length.to_be_bytes());
    Reply::memory(frame.freeze())
}

impl Reply {
    pub fn memory(frame: Bytes) -> Reply {
        Reply::Send(smallvec![Segment::Memory(frame)], None)
    }
}
