//! Logs: to stderr, a line for each event. Nothing on the way of a message logs above debug.

use std::io::IsTerminal;
use tracing_subscriber::EnvFilter;
use trireme::config::{Config, LogFormat};

/// Call once, before anything logs.
pub fn start(config: &Config) {
    let filter = EnvFilter::new(&config.log_level);
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    match config.log_format {
        LogFormat::Text => builder
            .with_ansi(std::io::stderr().is_terminal())
            .with_target(false)
            .init(),
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
}
