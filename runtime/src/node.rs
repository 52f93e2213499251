use std::any::Any;
use std::future::Future;
use std::io::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Barrier, Mutex};

use crate::core::{Backend, try_with_core, with_core};
use crate::host::CoreThread;
use crate::run::{self, NodeShared};
use crate::uring::RingConfig;

/// How many cores a node has and how large its rings are. `Default` is production.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// Cores to run; core i is pinned to the i-th CPU this process may use. Default: all of them.
    pub cores: usize,
    /// Pin each core's thread to its CPU.
    pub pin: bool,
    /// Never sleep in the kernel: lower latency for one whole CPU per core.
    pub busy_poll: bool,
    /// Submission queue entries of a core's ring.
    pub ring_entries: u32,
    /// Receive buffers of a core's buffer ring (power of two).
    pub recv_buffers: u16,
    /// Bytes of one receive buffer.
    pub recv_buffer_len: u32,
}

/// Submission queue entries of a core: one turn's operations; more are submitted in the middle of the turn.
const RING_ENTRIES: u32 = 1024;
/// Receive buffers of a core. They are only in use between a receive and the drop of its bytes, so they are few; when they
/// run out, receives fall back to small heap buffers.
const RECV_BUFFERS: u16 = 64;
/// Bytes of a receive buffer: fragments are what costs (echo of 16 KiB took half the CPU with 64 KiB buffers that it took
/// with 8 KiB). Memory is only taken as far as data is received.
const RECV_BUFFER_LEN: u32 = 64 << 10;

impl Default for NodeConfig {
    fn default() -> Self {
        NodeConfig {
            cores: crate::host::cpus().map_or(1, |cpus| cpus.len()),
            pin: true,
            busy_poll: false,
            ring_entries: RING_ENTRIES,
            recv_buffers: RECV_BUFFERS,
            recv_buffer_len: RECV_BUFFER_LEN,
        }
    }
}

impl NodeConfig {
    /// Production's defaults with this number of cores.
    pub fn with_cores(cores: usize) -> Self {
        NodeConfig {
            cores,
            ..NodeConfig::default()
        }
    }

    fn ring(&self) -> RingConfig {
        RingConfig {
            entries: self.ring_entries,
            recv_buffers: self.recv_buffers,
            recv_buffer_len: self.recv_buffer_len,
        }
    }
}

/// Runs `main(core)` on every core of a new node and returns when all of them have returned.
///
/// A core whose `main` has returned goes on serving its spawned tasks until the last `main` is done; what is then left is
/// dropped. Endpoints made by [`crate::mesh`] and [`crate::service`] are made before and moved in, see [`PerCore`].
pub fn run_node<F, Fut>(config: NodeConfig, main: F) -> io::Result<()>
where
    F: Fn(usize) -> Fut + Clone + Send + 'static,
    Fut: Future<Output = ()> + 'static,
{
    assert!(config.cores > 0, "a node has at least one core");
    let cpus = crate::host::cpus()?;
    let node = NodeShared::new(config.cores, cpus.clone(), config.busy_poll)?;
    // Rings exist before anybody uses them, and live until nobody does.
    let started = Arc::new(Barrier::new(config.cores));
    let ended = Arc::new(Barrier::new(config.cores));
    let problem: Arc<Mutex<Option<Problem>>> = Arc::default();
    let mut threads = Vec::with_capacity(config.cores);
    for id in 0..config.cores {
        let cpu = config.pin.then(|| cpus[id % cpus.len()]);
        let (node, ring, main) = (node.clone(), config.ring(), main.clone());
        let (started, ended, problem) = (started.clone(), ended.clone(), problem.clone());
        let thread = CoreThread::spawn(cpu, &format!("trireme-core-{id}"), move || {
            let core = run::make_core(&node, id, &ring);
            if let Err(error) = &core {
                note(
                    &problem,
                    Problem::Error(io::Error::new(error.kind(), error.to_string())),
                );
            }
            started.wait();
            let failed = problem.lock().expect("no holder panics").is_some();
            if let (Ok(core), false) = (&core, failed) {
                let result = catch_unwind(AssertUnwindSafe(|| {
                    run::run(core, &node, lazy_main(main, id))
                }));
                if let Err(panic) = result {
                    note(&problem, Problem::Panic(panic));
                    node.stop();
                }
            }
            ended.wait();
        });
        match thread {
            Ok(thread) => threads.push(thread),
            // The cores that did start wait for this one: there is no way back.
            Err(error) => die(&format!("cannot start core {id}: {error}")),
        }
    }
    for thread in threads {
        thread.join()?;
    }
    let problem = problem.lock().expect("no holder panics").take();
    match problem {
        None => Ok(()),
        Some(Problem::Error(error)) => Err(error),
        Some(Problem::Panic(panic)) => resume_unwind(panic),
    }
}

enum Problem {
    Error(io::Error),
    Panic(Box<dyn Any + Send>),
}

/// Keeps the first problem.
fn note(slot: &Mutex<Option<Problem>>, problem: Problem) {
    slot.lock()
        .expect("no holder panics")
        .get_or_insert(problem);
}

/// Calls `main` at its first poll, when the core is the current one.
async fn lazy_main<F: Fn(usize) -> Fut, Fut: Future<Output = ()>>(main: F, id: usize) {
    main(id).await
}

/// One unpinned core on the calling thread, for tests and tools.
pub fn block_on<F: Future>(future: F) -> F::Output {
    let config = NodeConfig {
        cores: 1,
        pin: false,
        ..NodeConfig::default()
    };
    block_on_with(config, future).expect("a ring for this thread")
}

/// [`block_on`] with other settings (of which `cores` and `pin` mean nothing).
pub fn block_on_with<F: Future>(config: NodeConfig, future: F) -> io::Result<F::Output> {
    let node = NodeShared::new(1, Vec::new(), config.busy_poll)?;
    crate::host::run_here(|| {
        let core = run::make_core(&node, 0, &config.ring())?;
        Ok(run::run(&core, &node, future).expect("main has returned"))
    })?
}

/// Index of the current core in its node.
pub fn core_id() -> usize {
    with_core(|core| core.id)
}

/// Number of cores of the current node.
pub fn core_count() -> usize {
    with_core(|core| core.peers.len())
}

/// Exit code of [`abort`]: an internal error, as sysexits.h has it.
const EXIT_BROKEN: i32 = 70;

/// Ends the process at once, for a failed sync or a broken invariant: logs, runs no destructors, exit code 70.
/// In the simulator the node crashes.
pub fn abort(reason: &str) -> ! {
    let simulated = try_with_core(|core| matches!(core.backend, Backend::Sim(_))).unwrap_or(false);
    if simulated {
        crate::sim::abort_node(reason);
    }
    die(reason)
}

/// Ends the process.
pub(crate) fn die(reason: &str) -> ! {
    tracing::error!(reason, "abort");
    // The log may be switched off or buffered: say it where an operator looks as well.
    let _ = io::stderr().write_all(format!("trireme: abort: {reason}\n").as_bytes());
    // SAFETY: ends the process without running anything of ours.
    unsafe { libc::_exit(EXIT_BROKEN) }
}

/// One value for each core, made before the node starts: `run_node`'s `main` clones the handle and takes its own.
pub struct PerCore<T>(Arc<Mutex<Vec<Option<T>>>>);

impl<T> Clone for PerCore<T> {
    fn clone(&self) -> Self {
        PerCore(self.0.clone())
    }
}

impl<T> PerCore<T> {
    pub fn new(values: impl IntoIterator<Item = T>) -> Self {
        PerCore(Arc::new(Mutex::new(values.into_iter().map(Some).collect())))
    }

    /// Takes core `core`'s value. Panics if it was taken before or never existed.
    pub fn take(&self, core: usize) -> T {
        let mut values = self.0.lock().expect("no holder panics");
        values[core].take().expect("each core takes its value once")
    }
}
