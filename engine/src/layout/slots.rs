//! The two checkpoint slots of a shard: which one counts, and when a broken one is damage.
//!
//! While a broker runs, a slot may be torn: the one that was being written, always the one that does not hold the newest
//! checkpoint. After a clean shutdown nothing may be broken, and a slot that is must not be taken for a torn write. No
//! *last* write can tell by itself, so the last writes are such that they cannot tear:
//!
//! - **shutdown**: settle (see [`CheckpointBody::clean`](super::checkpoint::CheckpointBody::clean)); write checkpoint *n* to
//!   its slot, wait; write *n* + 1, with the same body, to the other, wait. Now set the envelope of *n* to closed, wait, then
//!   that of *n* + 1: each writes the first block in place with other bytes in its first 512 only, which is atomic
//!   ([`set_closed`](super::checkpoint::set_closed)).
//! - **start**: if the newest slot is closed, open it in the same way before the other one is overwritten.
//!
//! So a closed slot says that the other one was durable and has not been written to since. New shards begin with two open
//! checkpoints, 0 and 1.

use super::checkpoint::{Checkpoint, CheckpointError, parse_checkpoint};

/// What is wrong with a slot.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SlotError {
    #[error("missing")]
    Missing,
    #[error("{0}")]
    Invalid(#[from] CheckpointError),
    #[error("holds checkpoint {0}, which is neither before nor after the other slot's {1}")]
    Numbers(u64, u64),
    #[error("is of another data directory than the other slot")]
    Directory,
}

impl SlotError {
    /// The byte of the slot's file that it is about.
    pub fn position(&self) -> u64 {
        match self {
            SlotError::Invalid(error) => error.position(),
            _ => 0,
        }
    }
}

/// What two slots say together.
#[derive(Clone, Debug, PartialEq)]
pub struct Slots {
    /// The newest valid checkpoint, which recovery starts from. `None` only with damage.
    pub newest: Option<Checkpoint>,
    /// The older valid one, whose log files must be kept too.
    pub older: Option<Checkpoint>,
    /// The slot whose write was interrupted: no damage, nothing in it was ever relied on.
    pub torn: Option<(u8, SlotError)>,
    /// Slots that are broken otherwise: do not start.
    pub damaged: Vec<(u8, SlotError)>,
}

/// Reads both slots of a shard. `None` for a file that does not exist.
pub fn read_slots(shard: u16, files: [Option<&[u8]>; 2]) -> Slots {
    let parsed = [0, 1].map(|slot: u8| match files[usize::from(slot)] {
        None => Err(SlotError::Missing),
        Some(bytes) => parse_checkpoint(shard, slot, bytes).map_err(SlotError::Invalid),
    });
    let mut slots = Slots {
        newest: None,
        older: None,
        torn: None,
        damaged: Vec::new(),
    };
    match parsed {
        [Ok(first), Ok(second)] => {
            let (older, newest) = if first.number < second.number {
                (first, second)
            } else {
                (second, first)
            };
            let slot = (older.number % 2) as u8;
            if older.number + 1 != newest.number {
                slots
                    .damaged
                    .push((slot, SlotError::Numbers(older.number, newest.number)));
            } else if older.directory != newest.directory {
                slots.damaged.push((slot, SlotError::Directory));
            }
            slots.older = Some(older);
            slots.newest = Some(newest);
        }
        [Ok(valid), Err(error)] => slots.with_one(valid, 1, error),
        [Err(error), Ok(valid)] => slots.with_one(valid, 0, error),
        [Err(first), Err(second)] => slots.damaged.extend([(0, first), (1, second)]),
    }
    slots
}

impl Slots {
    fn with_one(&mut self, valid: Checkpoint, other: u8, error: SlotError) {
        // An intact envelope with the older number proves nothing: its sector may be the one that was not written.
        let tearable = matches!(&error, SlotError::Invalid(error) if !error.is_intact());
        if tearable && !valid.closed {
            self.torn = Some((other, error));
        } else {
            self.damaged.push((other, error));
        }
        self.newest = Some(valid);
    }
}
