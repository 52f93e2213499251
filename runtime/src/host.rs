//! glommio as the host of each core: it makes the thread, pins it, and runs one root task, which is our whole loop.
//!
//! The loop never gives control back to glommio before the core ends, so glommio's rings and timers stay asleep; its
//! memory is set to the least it takes. This is the only module that names glommio.

use std::future::ready;
use std::io;

use glommio::{GlommioError, LocalExecutorBuilder, Placement, PoolPlacement};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// Bytes glommio registers for its own I/O, of which there is none; it takes no less than this.
const IO_MEMORY: usize = 64 << 10;
/// Entries of each of glommio's rings.
const RING_DEPTH: usize = 8;

fn builder(placement: Placement, name: &str) -> LocalExecutorBuilder {
    LocalExecutorBuilder::new(placement)
        .name(name)
        .io_memory(IO_MEMORY)
        .ring_depth(RING_DEPTH)
        .blocking_thread_pool_placement(PoolPlacement::Unbound(1))
}

/// A thread of a core.
pub(crate) struct CoreThread {
    handle: glommio::ExecutorJoinHandle<()>,
}

impl CoreThread {
    /// Starts a thread, pinned to `cpu` if given, that runs `core` as its root task.
    pub(crate) fn spawn(
        cpu: Option<usize>,
        name: &str,
        core: impl FnOnce() + Send + 'static,
    ) -> io::Result<CoreThread> {
        let placement = cpu.map_or(Placement::Unbound, Placement::Fixed);
        let handle = builder(placement, name)
            .spawn(move || async move { core() })
            .map_err(to_io)?;
        Ok(CoreThread { handle })
    }

    pub(crate) fn join(self) -> io::Result<()> {
        self.handle.join().map_err(to_io)
    }
}

/// Runs `core` as the root task on the calling thread.
pub(crate) fn run_here<T>(core: impl FnOnce() -> T) -> io::Result<T> {
    let executor = builder(Placement::Unbound, "trireme")
        .make()
        .map_err(to_io)?;
    Ok(executor.run(async move { ready(core()).await }))
}

fn to_io(error: GlommioError<()>) -> io::Error {
    match error {
        GlommioError::IoError(error) => error,
        other => io::Error::other(other.to_string()),
    }
}

/// CPUs that this process may use.
pub(crate) fn cpus() -> io::Result<Vec<usize>> {
    let set = sched_getaffinity(Pid::from_raw(0))?;
    Ok((0..CpuSet::count())
        .filter(|cpu| set.is_set(*cpu).unwrap_or(false))
        .collect())
}

/// Lets the calling thread, started by a pinned one, run on all of `cpus` again.
pub(crate) fn unpin_thread(cpus: &[usize]) {
    let mut set = CpuSet::new();
    let all_known = cpus.iter().all(|cpu| set.set(*cpu).is_ok());
    if all_known && !cpus.is_empty() {
        let _ = sched_setaffinity(Pid::from_raw(0), &set); // a slow helper is no reason to fail
    }
}
