//! Kafka clients of our own, one to a simulated node.

pub mod admin;
pub mod fetch;
pub mod finale;
pub mod member;
pub mod reader;
pub mod writer;

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use kafka_protocol::protocol::Request;
use trireme_runtime::{random_u64, sleep};

use crate::history::Checker;
use crate::stage::Stage;
use crate::wire::{Broken, Connection};

/// How long a client waits for an answer before it gives the connection up.
pub const PATIENCE: Duration = Duration::from_secs(8);
/// Longest pause before a client tries again, in µs.
const RETRY_PAUSE_US_MAX: u64 = 60_000;

/// Kafka's error codes, as far as clients here act on them.
pub mod code {
    pub const NONE: i16 = 0;
    pub const OFFSET_OUT_OF_RANGE: i16 = 1;
    pub const UNKNOWN_TOPIC_OR_PARTITION: i16 = 3;
    pub const NOT_LEADER_OR_FOLLOWER: i16 = 6;
    pub const REQUEST_TIMED_OUT: i16 = 7;
    pub const COORDINATOR_LOAD_IN_PROGRESS: i16 = 14;
    pub const COORDINATOR_NOT_AVAILABLE: i16 = 15;
    pub const NOT_COORDINATOR: i16 = 16;
    pub const ILLEGAL_GENERATION: i16 = 22;
    pub const UNKNOWN_MEMBER_ID: i16 = 25;
    pub const REBALANCE_IN_PROGRESS: i16 = 27;
    pub const TOPIC_ALREADY_EXISTS: i16 = 36;
    pub const INVALID_PARTITIONS: i16 = 37;
    pub const OUT_OF_ORDER_SEQUENCE_NUMBER: i16 = 45;
    pub const INVALID_PRODUCER_EPOCH: i16 = 47;
    pub const KAFKA_STORAGE_ERROR: i16 = 56;
    pub const UNKNOWN_PRODUCER_ID: i16 = 59;
    pub const FETCH_SESSION_ID_NOT_FOUND: i16 = 70;
    pub const INVALID_FETCH_SESSION_EPOCH: i16 = 71;
    pub const MEMBER_ID_REQUIRED: i16 = 79;
    pub const FENCED_INSTANCE_ID: i16 = 82;
    pub const FETCH_SESSION_TOPIC_ID_ERROR: i16 = 106;
}

/// What a disk or a start may excuse: try again.
pub fn is_passing(error: i16) -> bool {
    matches!(
        error,
        code::NOT_LEADER_OR_FOLLOWER
            | code::REQUEST_TIMED_OUT
            | code::COORDINATOR_LOAD_IN_PROGRESS
            | code::COORDINATOR_NOT_AVAILABLE
            | code::NOT_COORDINATOR
            | code::KAFKA_STORAGE_ERROR
    )
}

/// A client's name and its connection, if it has one.
pub struct Client {
    pub stage: Rc<Stage>,
    pub name: String,
    connection: RefCell<Option<Rc<Connection>>>,
}

impl Client {
    pub fn new(stage: &Rc<Stage>, name: impl Into<String>) -> Client {
        Client {
            stage: stage.clone(),
            name: name.into(),
            connection: RefCell::default(),
        }
    }

    /// The connection; a new one, once somebody answers, if there is none. Never gives up: the storm ends it.
    pub async fn connection(&self) -> Rc<Connection> {
        loop {
            if let Some(connection) = self.connection.borrow().clone() {
                return connection;
            }
            match Connection::open(self.stage.broker, &self.name, PATIENCE).await {
                Ok(connection) => *self.connection.borrow_mut() = Some(Rc::new(connection)),
                Err(broken) => {
                    self.judge(&broken);
                    pause(RETRY_PAUSE_US_MAX).await;
                }
            }
        }
    }

    /// Drops the connection.
    pub fn disconnect(&self) {
        let connection = self.connection.borrow_mut().take();
        drop(connection);
    }

    fn judge(&self, broken: &Broken) {
        if broken.0.starts_with("MALFORMED") {
            self.stage
                .history()
                .broken(Checker::Protocol, format!("{}: {broken}", self.name));
        }
    }

    /// After a call without an answer: the connection goes, and the next try waits a little.
    pub async fn lost(&self, broken: Broken) {
        self.judge(&broken);
        self.disconnect();
        pause(RETRY_PAUSE_US_MAX).await;
    }

    /// One call on the connection; `None` if it got no answer.
    pub async fn call<R: Request>(&self, request: R) -> Option<R::Response> {
        let connection = self.connection().await;
        match connection.call(request, PATIENCE).await {
            Ok(response) => Some(response),
            Err(broken) => {
                self.lost(broken).await;
                None
            }
        }
    }

    /// The same, not above a version.
    pub async fn call_at_most<R: Request>(&self, version: i16, request: R) -> Option<R::Response> {
        let connection = self.connection().await;
        let version = connection.version::<R>(version);
        match connection.call_version(version, request, PATIENCE).await {
            Ok(response) => Some(response),
            Err(broken) => {
                self.lost(broken).await;
                None
            }
        }
    }

    /// An error code that nothing here explains.
    pub fn unexpected(&self, what: &str, error: i16) {
        let what = format!("{}: {what}: error {error}", self.name);
        self.stage.history().broken(Checker::Protocol, what);
    }
}

/// Sleeps up to so many µs.
pub async fn pause(max_us: u64) {
    if max_us > 0 {
        sleep(Duration::from_micros(random_u64() % max_us)).await;
    }
}

/// True once in `n` times.
pub fn one_in(n: u64) -> bool {
    random_u64().is_multiple_of(n)
}

/// A number from a range.
pub fn of(range: &std::ops::RangeInclusive<u64>) -> u64 {
    range.start() + random_u64() % (range.end() - range.start() + 1)
}
