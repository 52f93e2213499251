//! Signals of the process.

/// Waits for SIGTERM or SIGINT. Meant for core 0; each call waits for a signal that has not been reported yet.
pub async fn terminated() {
    unimplemented!()
}
