//! Every number that bounds what a peer can cost. Time-outs and the sizes that an operator may want to change are defaults of
//! [`crate::DoorConfig`]; the others are fixed.

use std::time::Duration;

/// Connections that the kernel completes before a core accepts them.
pub const BACKLOG: u32 = 1024;

/// Connections of one broker, over all doors and cores. Beyond it a connection is accepted and closed at once, so that the
/// client learns it now and not after its own time-out.
pub const MAX_CONNECTIONS: usize = 10_000;

/// A frame of which this much has arrived gets memory for all of it and is then received straight into that. Until then its
/// memory doubles with what has arrived.
pub const DIRECT_AFTER_BYTES: usize = 64 << 10;

/// A shorter rest of a frame is taken from the receive ring, together with what follows it.
pub const DIRECT_MIN_BYTES: usize = 16 << 10;

/// One direct receive asks for at most as much as has arrived of the frame already, and never for more than this. It bounds
/// what is received past the memory limit and how slow a peer may be: each step has the frame time-out.
pub const DIRECT_STEP_BYTES: usize = 1 << 20;

/// First memory of a frame that has not arrived whole.
pub const FRAME_START_BYTES: usize = 512;

/// An answer goes to the kernel in pieces of at most this size; each has the write time-out.
pub const WRITE_PIECE_BYTES: usize = 1 << 20;

/// Memory segments handed to the kernel in one piece.
pub const WRITE_PIECE_SEGMENTS: usize = 256;

/// Received bytes, of unfinished frames and of frames not let go of yet, that the connections of one node may hold. It is
/// divided by the number of cores. What can really be held is this, plus one ring buffer for each connection, plus twice the
/// largest frame for each core.
pub const RECEIVE_MEMORY_BYTES: usize = 512 << 20;

/// How often connections that wait for receive memory look again.
pub const MEMORY_CHECK_INTERVAL: Duration = Duration::from_millis(2);

/// While others wait for receive memory, a connection that holds some of it in an unfinished frame and has not sent anything
/// for so many sweeps is closed.
pub const MEMORY_STALL_SWEEPS: u32 = 2;

/// A connection's time-outs are looked at this often, and are this exact.
pub const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// Nothing received or sent (Kafka's connections.max.idle.ms).
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(600);

/// A frame was begun and not continued.
pub const FRAME_TIMEOUT: Duration = Duration::from_secs(60);

/// The peer took nothing of an answer.
pub const WRITE_TIMEOUT: Duration = Duration::from_secs(60);

/// After the stop, until connections that have not finished are closed.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

/// Pause after an accept that failed for want of descriptors or memory.
pub const ACCEPT_RETRY: Duration = Duration::from_millis(100);

const _: () =
    assert!(DIRECT_MIN_BYTES <= DIRECT_AFTER_BYTES && DIRECT_AFTER_BYTES <= DIRECT_STEP_BYTES);
const _: () = assert!(FRAME_START_BYTES < DIRECT_AFTER_BYTES);
