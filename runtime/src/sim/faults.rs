//! What goes wrong in a simulation, on order: plain descriptions, and the count of what was really done.

use std::fmt;
use std::time::Duration;

/// What a node's disk does wrong. `Default` is nothing. A chance is "one in so many calls"; 0 is never.
///
/// A call is one operation that the node submits: a read, a write, a sync, an allocation, an operation on names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DiskFaults {
    /// Size of the disk, for ENOSPC that comes by itself. `None`: 1 TiB.
    pub capacity_bytes: Option<u64>,
    /// EIO of a read.
    pub read_error_one_in: u64,
    /// EIO of a write or an allocation. Any of the write's sectors may be written all the same.
    pub write_error_one_in: u64,
    /// EIO of a sync: what it should have written is written by no later one either.
    pub sync_error_one_in: u64,
    /// EIO of an operation on names; it has no effect.
    pub name_error_one_in: u64,
    /// ENOSPC of a write, an allocation or a creation.
    pub no_space_one_in: u64,
    /// The call takes up to [`DiskFaults::stall`] longer.
    pub stall_one_in: u64,
    pub stall: Duration,
    /// The call never returns and has no effect.
    pub hang_one_in: u64,
    /// The write goes to some other place of the disk, and says it went well.
    pub misdirect_one_in: u64,
    /// One call by its number fails.
    pub fail: Option<FailCall>,
}

/// "The k-th call fails": the number is that of [`Simulation::disk_calls`](super::Simulation::disk_calls).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FailCall {
    pub call: u64,
    pub error: DiskError,
    /// And all that follow it too: a dead disk, or one that stays full.
    pub lasting: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskError {
    /// EIO.
    Io,
    /// ENOSPC; only calls that may need space return it, others go well.
    NoSpace,
}

/// What the network does wrong, between nodes and inside them alike. `Default` is nothing. A chance is "one in so many
/// pieces" (what one send gives to the network at a time) unless said otherwise; 0 is never.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetFaults {
    /// Longest ordinary delay of a piece. One of 16 takes up to that, the others up to an eighth of it.
    pub delay: Duration,
    /// The piece takes up to [`NetFaults::slow`] longer, and what is behind it in its connection too.
    pub slow_one_in: u64,
    pub slow: Duration,
    /// The piece is lost and sent again, after [`NetFaults::retransmit`], or twice that, or four times, ...
    pub loss_one_in: u64,
    pub retransmit: Duration,
    /// The connection is reset.
    pub reset_one_in: u64,
    /// Of connects: refused.
    pub refuse_one_in: u64,
    /// Of connections at a power cut: the peer is told nothing. It learns by a reset when it sends something and the machine
    /// runs again; until then it waits.
    pub half_open_one_in: u64,
    /// How long a connect waits that nothing answers, and how long a sender waits that nothing acknowledges.
    pub give_up: Duration,
}

impl Default for NetFaults {
    fn default() -> Self {
        NetFaults {
            delay: Duration::from_millis(2),
            slow_one_in: 0,
            slow: Duration::from_millis(100),
            loss_one_in: 0,
            retransmit: Duration::from_millis(200),
            reset_one_in: 0,
            refuse_one_in: 0,
            half_open_one_in: 0,
            give_up: Duration::from_secs(120),
        }
    }
}

macro_rules! faults {
    ($($(#[$doc:meta])* $kind:ident = $name:literal,)*) => {
        /// A kind of fault, as it is counted.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Fault {
            $($(#[$doc])* $kind,)*
        }

        impl Fault {
            pub const ALL: [Fault; [$($name),*].len()] = [$(Fault::$kind),*];

            /// A name for people and for metrics.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Fault::$kind => $name,)*
                }
            }
        }
    };
}

faults! {
    PowerCut = "power cuts",
    Kill = "kills",
    /// A process that ended itself; then also counted as a kill or a power cut.
    Abort = "aborts",
    /// At a power cut: an unsynced write that is wholly lost.
    WriteLost = "unsynced writes lost",
    /// At a power cut: an unsynced write of which some sectors are there.
    WriteTorn = "unsynced writes torn",
    /// At a power cut: an unsynced write that is wholly there.
    WriteKept = "unsynced writes kept",
    /// At a power cut: a size, or a change of names.
    NameLost = "names and sizes lost",
    ReadError = "EIO of reads",
    WriteError = "EIO of writes",
    SyncError = "EIO of syncs",
    NameError = "EIO of names",
    NoSpace = "ENOSPC injected",
    /// By the disk's capacity.
    DiskFull = "ENOSPC of a full disk",
    DiskStall = "disk stalls",
    DiskHang = "disk calls hung",
    Misdirected = "writes misdirected",
    BitRot = "bits and sectors rotted",
    NetSlow = "pieces slowed",
    NetLoss = "pieces lost and sent again",
    NetReset = "connections reset",
    NetRefused = "connects refused",
    NetBlocked = "pieces held by a partition",
    NetGivenUp = "connections given up",
    HalfOpen = "connections half open",
    Partition = "partitions",
    Heal = "heals",
}

/// How often each kind of fault happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FaultCounts([u64; Fault::ALL.len()]);

impl Default for FaultCounts {
    fn default() -> Self {
        FaultCounts([0; Fault::ALL.len()])
    }
}

impl FaultCounts {
    pub fn of(&self, fault: Fault) -> u64 {
        self.0[fault as usize]
    }

    /// All kinds, also those that did not happen.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        Fault::ALL
            .iter()
            .map(|fault| (fault.name(), self.of(*fault)))
    }

    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// Adds another simulation's.
    pub fn add(&mut self, other: &FaultCounts) {
        for (ours, theirs) in self.0.iter_mut().zip(other.0) {
            *ours += theirs;
        }
    }

    pub(super) fn count(&mut self, fault: Fault, times: u64) {
        self.0[fault as usize] += times;
    }
}

/// Those that happened, "12 kills, 3 EIO of reads".
impl fmt::Display for FaultCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for (name, count) in self.iter().filter(|(_, count)| *count > 0) {
            write!(f, "{separator}{count} {name}")?;
            separator = ", ";
        }
        if separator.is_empty() {
            f.write_str("no faults")?;
        }
        Ok(())
    }
}
