//! Broken behaviours, at most one at a time and only in the simulator: each is a mistake that a change could make, and a
//! checker of the simulator has to see it. Without the feature `mutations` none of this is in the code.
//!
//! A site is one condition, `on(Mutation::...)`, in the line that it breaks.

macro_rules! mutations {
    ($($(#[doc = $what:literal])* $name:ident,)*) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Mutation {
            $($(#[doc = $what])* $name,)*
        }

        impl Mutation {
            pub const ALL: &[Mutation] = &[$(Mutation::$name),*];

            pub fn what(self) -> &'static str {
                match self {
                    $(Mutation::$name => concat!($($what),*).trim_ascii_start(),)*
                }
            }
        }
    };
}

mutations! {
    /// An append is answered before its group is written
    AckAtAppend,
    /// Groups are written to the commit log without a sync
    AckBeforeSync,
    /// Readers see what is appended and not durable yet
    WatermarkAtAppend,
    /// A duplicate is answered before its original is durable
    DuplicateAtOnce,
    /// A direct run counts when its record is durable, its blocks may not be
    DirectAckedByRecord,
    /// Sums of blocks are not compared on a read
    UnverifiedRead,
    /// Recovery does not compare the check sums of a group's blocks
    UnverifiedGroup,
    /// A move of the log start is not logged
    LostTruncation,
    /// A checkpoint does not wait for what it says to be durable
    CheckpointTooEarly,
    /// A checkpoint has recovery begin behind what is not flushed
    CheckpointSkipsLog,
    /// Log files are used again whatever checkpoints need of them
    EarlyRecycle,
    /// After a torn end the log goes on under the same identity
    SameIncarnation,
    /// A group claims to be durable itself
    DurableTooEarly,
    /// The partial block of a segment is written again without its image in the log
    HeadWithoutImage,
    /// New names are not synced
    NamesNotSynced,
    /// Producers' sequences are not taken over from the checkpoint
    ProducersForgotten,
    /// A refused append moves its producer's sequence
    RefusedMovesSequence,
    /// The leader epoch stays after an unclean end
    EpochKept,
    /// The deletion of a topic is not recorded
    DeletionNotRecorded,
    /// Blocks of producer ids are handed out without being recorded
    ProducerIdsNotRecorded,
    /// Changes of groups are answered before they are durable
    CommitAtOnce,
    /// A look-up by time passes over what is durable of the segment it should search
    LookupTooLate,
    /// A clean stop waits for something that never happens
    StopHangs,
}

/// Whether this build has them at all.
pub const BUILT: bool = cfg!(feature = "mutations");

#[cfg(feature = "mutations")]
mod switch {
    use super::Mutation;
    use std::cell::Cell;

    thread_local! {
        static CHOSEN: Cell<Option<Mutation>> = const { Cell::new(None) };
    }

    /// From now on this thread's engines have this mutation and no other.
    pub fn choose(mutation: Option<Mutation>) {
        CHOSEN.set(mutation);
    }

    #[inline]
    pub fn on(mutation: Mutation) -> bool {
        CHOSEN.get() == Some(mutation)
    }
}

#[cfg(not(feature = "mutations"))]
mod switch {
    #[inline(always)]
    pub const fn on(_: super::Mutation) -> bool {
        false
    }
}

#[cfg(feature = "mutations")]
pub use switch::choose;
pub use switch::on;
