//! A process around a node: limits, ports, the machine's memory, systemd, and what a second signal does.

use crate::{advertise, checks};
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use trireme::config::Config;
use trireme::node::{Addresses, Ends, Hooks, NodeError, Plan, core_main, engine_config};
use trireme_runtime::NodeConfig;

/// How long an address may still be in use by a broker that was killed just now.
const CLAIM_PATIENCE: Duration = Duration::from_secs(2);
const CLAIM_INTERVAL: Duration = Duration::from_millis(5);
/// Ends a stop that takes too long, on the second signal.
const EXIT_FORCED: i32 = 130;
/// `engine.tail_memory = "auto"` is this part of the machine's memory, within bounds.
const TAIL_MEMORY_AUTO_PART: u64 = 256;
const TAIL_MEMORY_AUTO_MAX_BYTES: u64 = 1 << 30;
const TAIL_MEMORY_AUTO_MIN_BYTES: u64 = 64 << 20;

/// What a node of this process calls.
const HOOKS: Hooks = Hooks {
    ready: || notify_systemd(&[sd_notify::NotifyState::Ready]),
    stopping: || notify_systemd(&[sd_notify::NotifyState::Stopping]),
    hurry,
};

fn notify_systemd(state: &[sd_notify::NotifyState<'_>]) {
    // Without systemd there is nobody to tell.
    let _ = sd_notify::notify(state);
}

#[allow(
    clippy::disallowed_methods,
    reason = "asked for: nothing is left to say"
)]
fn hurry() {
    tracing::warn!("second signal: ending at once; what was acknowledged is on disk");
    std::process::exit(EXIT_FORCED);
}

/// Runs the broker until it is told to stop.
pub fn run(config: Config) -> Result<(), NodeError> {
    let cores = config.cores.unwrap_or_else(|| NodeConfig::default().cores);
    checks::raise_open_files(config.max_connections, config.open_files, cores);
    checks::check_locked_memory(cores);
    checks::check_file_system(&config.data_dir);
    let kafka = claim("kafka.listen", config.kafka_listen)?;
    let admin = config
        .admin_listen
        .map(|address| claim("admin.listen", address))
        .transpose()?;
    let advertised = advertise::advertised(
        config.kafka_advertise.as_ref(),
        kafka,
        &advertise::host_name(),
    );
    if advertised.is_host_name {
        tracing::warn!(
            advertised = %advertised.to,
            "Kafka listens on every address; clients are told to connect to this host's name (kafka.advertise changes it)"
        );
    }
    let config = Config {
        data_dir: absolute(&config.data_dir),
        ..config
    };
    let engine = engine_config(&config, tail_memory_auto());
    let addresses = Addresses {
        kafka,
        admin,
        advertised: advertised.to,
    };
    let plan = Plan::new(config, engine, cores, addresses, HOOKS);
    let ends = Ends::of(cores);
    let outcome = Arc::new(OnceLock::new());
    let result = outcome.clone();
    let node = NodeConfig {
        busy_poll: plan.config().busy_poll,
        ..NodeConfig::with_cores(cores)
    };
    trireme_runtime::run_node(node, move |core| {
        let (plan, ends, result) = (plan.clone(), ends.clone(), result.clone());
        async move {
            let ends = ends.take(core);
            let ended = core_main(core, plan, ends).await;
            if core == 0 {
                result.set(ended).expect("core 0 ends once");
            }
        }
    })
    .map_err(|error| NodeError::new(checks::explain_ring_error(&error)))?;
    outcome
        .get()
        .cloned()
        .expect("every core's main has returned")
}

/// Sees to it that nobody else listens there (the doors share their address between cores, so the kernel would not mind a
/// second broker), and picks a port if it is 0. The kernel takes a ring's sockets away some time after its process has been
/// killed, so a broker that is started again at once has to wait for that.
#[allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "before the runtime starts"
)]
fn claim(what: &str, address: SocketAddr) -> Result<SocketAddr, NodeError> {
    let mut waited = Duration::ZERO;
    loop {
        let bound = std::net::TcpListener::bind(address).and_then(|l| l.local_addr());
        match bound {
            Err(error) if error.kind() == ErrorKind::AddrInUse && waited < CLAIM_PATIENCE => {
                std::thread::sleep(CLAIM_INTERVAL);
                waited += CLAIM_INTERVAL;
            }
            bound => {
                return bound.map_err(|error| NodeError::new(format!("{what} {address}: {error}")));
            }
        }
    }
}

/// The data directory wherever the process is looked at from.
#[allow(clippy::disallowed_methods, reason = "before the runtime starts")]
fn absolute(dir: &Path) -> PathBuf {
    std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned())
}

fn tail_memory_auto() -> u64 {
    let memory = checks::memory_bytes().unwrap_or(TAIL_MEMORY_AUTO_MIN_BYTES);
    (memory / TAIL_MEMORY_AUTO_PART).clamp(TAIL_MEMORY_AUTO_MIN_BYTES, TAIL_MEMORY_AUTO_MAX_BYTES)
}
