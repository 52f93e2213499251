//! The deterministic backend: virtual clock, seeded scheduler, simulated disks and network, whole nodes in one thread.
//!
//! Which ready task runs next, how long things take, how data is cut into pieces and what a crash leaves on disk are all
//! drawn from the seed, so a seed reproduces a run ([`Simulation::trace_hash`] tells).

mod calls;
mod control;
mod core;
mod data;
mod disk;
mod faults;
mod file;
mod image;
mod net;
mod pages;
mod paths;
mod pipe;
mod recorder;
mod schedule;
mod stream;
mod world;

pub use self::control::Rot;
pub(crate) use self::core::SimCore;
pub use self::faults::{DiskError, DiskFaults, FailCall, Fault, FaultCounts, NetFaults};
pub(crate) use self::file::{SharedSimFile, SimFile};
pub use self::image::{Boundary, DiskImage, Survivors};
pub(crate) use self::net::SimListener;
pub(crate) use self::schedule::abort_node;
pub use self::schedule::{NodeId, Simulation};
pub(crate) use self::stream::{SimRecvBuf, SimStream};

/// What a simulated disk writes as a whole, in bytes; O_DIRECT's alignment.
pub(crate) const SECTOR: usize = 512;
