//! Seeds that once showed something of the broker, of fsck or of the checkers. `run` begins with those that it does not come to
//! anyway. For what was the broker's or fsck's mistake there is a test beside the code as well.
//!
//! What a seed does changes with every change of the workload: that a seed passes today says little about the old bug. It
//! costs nothing, though, and the shapes of these runs were good ones.

/// The seed, and what it showed.
pub const KEPT: &[(u64, &str)] = &[
    (
        29,
        "the last reading ran while writers wrote (the checker's mistake)",
    ),
    (
        134,
        "a block that was verified, then overwritten by a misdirected write, is served from the page cache",
    ),
    (
        151,
        "a write misdirected by a starting broker hits the last group of the log",
    ),
    (
        157,
        "fsck calls a log file damage that a start made which was cut short",
    ),
    (
        337,
        "fsck calls a segment damaged that an unfinished direct run has not made longer yet",
    ),
    (388, "as 157"),
    (477, "as 337"),
    (
        3_071,
        "fsck takes a direct run for finished that a start dropped before the checkpoint",
    ),
    (
        3_000_449,
        "a generation that became durable while its answers were lost (the checker's mistake)",
    ),
    (
        6_000_042,
        "a partition refused appends for ever after one EIO of a read of its last block",
    ),
    (
        7_000_414,
        "what lies in the last block of a segment is read as zeros while the first append behind it waits for that block",
    ),
    (
        8_004_320,
        "room asked for in the background is made when the segment is sealed already, which then is too long",
    ),
];
