//! Counters of one core's Kafka door. Plain cells: one core writes them, and the same core hands out a copy when asked.

use std::cell::Cell;

/// API keys up to this one are counted by key; beyond are unknown to us anyway.
pub const COUNTED_API_KEYS: usize = 96;

/// Requests and errors of one API.
#[derive(Default)]
pub struct ApiCounters {
    pub requests: Cell<u64>,
    /// Requests that ended by closing the connection: malformed, unknown version, refused acks=0.
    pub closed: Cell<u64>,
    pub request_bytes: Cell<u64>,
    pub response_bytes: Cell<u64>,
}

/// All counters of one core's door.
pub struct Metrics {
    pub apis: [ApiCounters; COUNTED_API_KEYS],
    /// Requests whose API key or version we do not serve.
    pub unknown_requests: Cell<u64>,
    pub connections_opened: Cell<u64>,
    pub connections_closed: Cell<u64>,
    pub produced_batches: Cell<u64>,
    pub produced_records: Cell<u64>,
    pub produced_bytes: Cell<u64>,
    /// Partitions of Produce requests answered with an error.
    pub produce_errors: Cell<u64>,
    pub fetched_bytes: Cell<u64>,
    /// Of `fetched_bytes`, what was handed to the socket as file ranges.
    pub fetched_file_bytes: Cell<u64>,
    /// Partitions of Fetch requests answered with an error.
    pub fetch_errors: Cell<u64>,
    pub fetch_sessions: Cell<u64>,
    pub fetch_sessions_evicted: Cell<u64>,
}

impl Default for Metrics {
    fn default() -> Self {
        Metrics {
            apis: std::array::from_fn(|_| ApiCounters::default()),
            unknown_requests: Cell::default(),
            connections_opened: Cell::default(),
            connections_closed: Cell::default(),
            produced_batches: Cell::default(),
            produced_records: Cell::default(),
            produced_bytes: Cell::default(),
            produce_errors: Cell::default(),
            fetched_bytes: Cell::default(),
            fetched_file_bytes: Cell::default(),
            fetch_errors: Cell::default(),
            fetch_sessions: Cell::default(),
            fetch_sessions_evicted: Cell::default(),
        }
    }
}

impl Metrics {
    pub fn api(&self, key: i16) -> Option<&ApiCounters> {
        self.apis.get(usize::try_from(key).ok()?)
    }
}

/// Adds to a counter of this core.
pub fn add(counter: &Cell<u64>, n: u64) {
    counter.set(counter.get().wrapping_add(n));
}
