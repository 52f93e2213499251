//! A door on one core: its listener, its connections, its stop.

use crate::connection::{Connection, Side};
use crate::counters::DoorCounters;
use crate::error::CloseReason;
use crate::limits;
use crate::memory::ReceiveMemory;
use crate::sweep::{Member, Members, Status, Sweep};
use std::cell::Cell;
use std::future::Future;
use std::io;
use std::net::{Shutdown, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;
use trireme_runtime::net::{ListenOptions, TcpListener, TcpStream};
use trireme_runtime::sync::{CancelToken, Notify, WaitGroup};
use trireme_runtime::{sleep, spawn, timeout};

/// Connections of the whole broker, counted over all cores and doors.
#[derive(Clone)]
pub struct ConnectionLimit {
    open: Arc<AtomicUsize>,
    max: usize,
}

impl ConnectionLimit {
    pub fn new(max: usize) -> Self {
        ConnectionLimit {
            open: Arc::default(),
            max,
        }
    }

    fn enter(&self) -> Option<Counted> {
        let counted = Counted(self.open.clone());
        // The count goes back with `counted` if it was too many.
        (self.open.fetch_add(1, Relaxed) < self.max).then_some(counted)
    }
}

struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// How long a peer may do nothing, see [`crate::limits`]; exact to [`limits::SWEEP_INTERVAL`].
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// Nothing received or sent.
    pub idle: Duration,
    /// A frame was begun and not continued.
    pub frame: Duration,
    /// Nothing of an answer was taken.
    pub write: Duration,
    /// After the stop, until what has not finished is closed.
    pub drain: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Timeouts {
            idle: limits::IDLE_TIMEOUT,
            frame: limits::FRAME_TIMEOUT,
            write: limits::WRITE_TIMEOUT,
            drain: limits::DRAIN_TIMEOUT,
        }
    }
}

/// What a door on a core needs to know.
pub struct DoorConfig {
    pub addr: SocketAddr,
    pub limit: ConnectionLimit,
    pub timeouts: Timeouts,
    /// The core's memory for received data, shared by its doors.
    pub memory: ReceiveMemory,
    pub counters: Arc<DoorCounters>,
}

/// A bound door.
pub struct Door {
    config: DoorConfig,
    listener: TcpListener,
}

impl Door {
    /// Binds and listens; from now on the kernel completes connections. Every core binds the same address.
    pub fn bind(config: DoorConfig) -> io::Result<Door> {
        let options = ListenOptions {
            backlog: limits::BACKLOG,
            reuse_port: true,
        };
        let listener = TcpListener::bind(config.addr, &options)?;
        Ok(Door { config, listener })
    }

    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    pub fn counters(&self) -> Arc<DoorCounters> {
        self.config.counters.clone()
    }

    /// Accepts connections and runs `on_connection` for each, until `stop` is canceled. Then it stops listening, lets the
    /// connections finish what they have read, and returns when all have, or when the drain time-out has closed the rest.
    /// A connection is closed when its future returns.
    pub async fn serve<F, Fut>(self, stop: CancelToken, on_connection: F)
    where
        F: Fn(Connection) -> Fut + 'static,
        Fut: Future<Output = ()> + 'static,
    {
        let Door { config, listener } = self;
        let counters = config.counters.clone();
        let drain_timeout = config.timeouts.drain;
        let clock = Rc::new(Cell::new(0));
        let host = Host {
            members: Members::default(),
            open: WaitGroup::new(),
            not_empty: Notify::new(),
            stop: stop.clone(),
            clock: clock.clone(),
            on_connection,
            next: Cell::new(0),
            limit: config.limit,
            memory: config.memory.clone(),
            counters: config.counters.clone(),
        };
        let sweep = Sweep {
            clock,
            timeouts: config.timeouts,
            memory: config.memory,
            counters: config.counters,
        };
        let sweeper = spawn(run_sweep(
            sweep,
            host.members.clone(),
            host.not_empty.clone(),
        ));
        stop.run_until_canceled(host.accept_all(&listener)).await;
        drop(listener);
        for member in host.members.borrow().values() {
            // What has arrived can still be read, then comes the end of the stream.
            let _ = member.stream.shutdown(Shutdown::Read);
        }
        if timeout(drain_timeout, host.open.wait()).await.is_err() {
            let left = std::mem::take(&mut *host.members.borrow_mut());
            tracing::warn!(
                connections = left.len(),
                "closing connections that did not finish in time"
            );
            for member in left.into_values() {
                member.close(CloseReason::Shutdown, &counters);
                if let Some(task) = member.task {
                    task.cancel().await;
                }
            }
        }
        drop(sweeper);
    }
}

/// What accepting a connection needs.
struct Host<F> {
    members: Members,
    open: WaitGroup,
    not_empty: Notify,
    stop: CancelToken,
    clock: Rc<Cell<u32>>,
    on_connection: F,
    next: Cell<u64>,
    limit: ConnectionLimit,
    memory: ReceiveMemory,
    counters: Arc<DoorCounters>,
}

impl<F, Fut> Host<F>
where
    F: Fn(Connection) -> Fut + 'static,
    Fut: Future<Output = ()> + 'static,
{
    async fn accept_all(&self, listener: &TcpListener) {
        let mut failing = false;
        loop {
            match listener.accept().await {
                Ok((stream, peer)) => {
                    failing = false;
                    self.accepted(stream, peer);
                }
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    self.counters.accept_errors.add(1);
                    if !std::mem::replace(&mut failing, true) {
                        tracing::error!(%error, "cannot accept connections");
                    }
                    sleep(limits::ACCEPT_RETRY).await;
                }
            }
        }
    }

    fn accepted(&self, stream: TcpStream, peer: SocketAddr) {
        self.counters.accepted.add(1);
        let Some(counted) = self.limit.enter() else {
            self.counters.refused.add(1);
            return;
        };
        let Ok(local) = stream.local_addr() else {
            return; // gone already
        };
        let status = Rc::new(Status::new(self.clock.clone()));
        let side = Side {
            stream: stream.clone(),
            status: status.clone(),
            counters: self.counters.clone(),
        };
        let connection = Connection::new(peer, local, self.stop.clone(), side, &self.memory);
        let id = self.next.get();
        self.next.set(id + 1);
        let leave = Leave {
            id,
            members: self.members.clone(),
            counters: self.counters.clone(),
            _counted: counted,
            _open: self.open.enter(),
        };
        self.counters.open.add(1);
        self.members.borrow_mut().insert(
            id,
            Member {
                status,
                stream,
                task: None,
            },
        );
        // On the heap by itself: a future that awaits one it was given by value has room for two.
        let future = Box::pin((self.on_connection)(connection));
        let task = spawn(async move {
            let _leave = leave;
            future.await;
        });
        // A spawned task runs later than this, so the member is there.
        self.members
            .borrow_mut()
            .get_mut(&id)
            .expect("just inserted")
            .task = Some(task);
        self.not_empty.notify_one();
    }
}

/// Takes a connection out of its door when its task ends.
struct Leave {
    id: u64,
    members: Members,
    counters: Arc<DoorCounters>,
    _counted: Counted,
    _open: trireme_runtime::sync::WaitGroupGuard,
}

impl Drop for Leave {
    fn drop(&mut self) {
        self.counters.open.sub(1);
        let member = self.members.borrow_mut().remove(&self.id);
        if let Some(Member {
            task: Some(task),
            stream,
            ..
        }) = member
        {
            stream.close();
            task.detach();
        }
    }
}

async fn run_sweep(sweep: Sweep, members: Members, not_empty: Notify) {
    loop {
        if members.borrow().is_empty() {
            not_empty.notified().await;
        }
        sleep(limits::SWEEP_INTERVAL).await;
        sweep.run(&members);
    }
}
