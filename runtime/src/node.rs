use std::future::Future;
use std::io;

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

impl Default for NodeConfig {
    fn default() -> Self {
        unimplemented!()
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
    let _ = (config, main);
    unimplemented!()
}

/// One unpinned core on the calling thread, for tests and tools.
pub fn block_on<F: Future>(future: F) -> F::Output {
    let _ = future;
    unimplemented!()
}

/// Index of the current core in its node.
pub fn core_id() -> usize {
    unimplemented!()
}

/// Number of cores of the current node.
pub fn core_count() -> usize {
    unimplemented!()
}

/// Ends the process at once, for a failed sync or a broken invariant: logs, runs no destructors, exit code 70.
/// In the simulator the node crashes.
pub fn abort(reason: &str) -> ! {
    let _ = reason;
    unimplemented!()
}

/// One value for each core, made before the node starts: `run_node`'s `main` clones the handle and takes its own.
pub struct PerCore<T>(std::sync::Arc<std::sync::Mutex<Vec<Option<T>>>>);

impl<T> Clone for PerCore<T> {
    fn clone(&self) -> Self {
        PerCore(self.0.clone())
    }
}

impl<T> PerCore<T> {
    pub fn new(values: impl IntoIterator<Item = T>) -> Self {
        PerCore(std::sync::Arc::new(std::sync::Mutex::new(
            values.into_iter().map(Some).collect(),
        )))
    }

    /// Takes core `core`'s value. Panics if it was taken before or never existed.
    pub fn take(&self, core: usize) -> T {
        let mut values = self.0.lock().expect("no holder panics");
        values[core].take().expect("each core takes its value once")
    }
}
