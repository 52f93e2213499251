//! The accept loop of one door on one core.

use crate::{Connection, DoorCounters};
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use trireme_runtime::sync::CancelToken;

/// Connections of the whole broker, counted over all cores and doors.
#[derive(Clone)]
pub struct ConnectionLimit(#[allow(dead_code)] Arc<std::sync::atomic::AtomicUsize>, #[allow(dead_code)] usize);

impl ConnectionLimit {
    pub fn new(max: usize) -> Self {
        Self(Arc::default(), max)
    }
}

pub struct ListenConfig {
    pub addr: SocketAddr,
    pub backlog: u32,
    pub limit: ConnectionLimit,
    pub idle_timeout: Duration,
    pub frame_timeout: Duration,
    pub write_timeout: Duration,
    /// How long connections may go on with what they have accepted after the stop.
    pub drain_timeout: Duration,
    pub counters: Arc<DoorCounters>,
}

/// Accepts connections on this core and runs `on_connection` for each, until `stop` is canceled and the connections have
/// finished (or the drain time-out is over). A connection is closed when its future returns.
pub async fn listen<F, Fut>(_config: ListenConfig, _stop: CancelToken, _on_connection: F) -> std::io::Result<()>
where
    F: Fn(Connection) -> Fut + 'static,
    Fut: Future<Output = ()> + 'static,
{
    std::future::pending().await
}
