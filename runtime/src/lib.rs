//! Trireme's runtime: one thread per core, one io_uring per core, nothing shared on the way of a message.
//!
//! Everything above this crate takes its tasks, time, randomness, files, sockets and cross-core mail from here and from
//! nowhere else, because the same API has two backends: io_uring (production) and a deterministic simulator ([`sim`]).
//! Types that belong to one core are `!Send` and cheap to clone. The current core is found through a thread-local that is
//! set while a task is polled; calling a function that needs it from elsewhere panics.

mod blocking;
pub mod buf;
mod core;
pub mod fs;
mod host;
pub mod mail;
pub mod memory;
pub mod net;
mod node;
mod queue;
pub mod random;
mod run;
pub mod signal;
pub mod sim;
pub mod stats;
pub mod sync;
pub mod task;
pub mod time;
mod timers;
mod uring;
mod wake;

pub use buf::{ALIGN, AlignedBuf, Chunk, IoBuf, IoBufMut, Shared};
pub use mail::{Port, Service, mesh, service};
pub use node::{
    NodeConfig, PerCore, abort, block_on, block_on_with, core_count, core_id, run_node,
};
pub use random::{random_bytes, random_u64};
pub use stats::{CoreStats, stats};
pub use task::{JoinHandle, Share, run_blocking, should_yield, spawn, spawn_with, yield_now};
pub use time::{Elapsed, Instant, now, sleep, sleep_until, timeout, unix_ms};
