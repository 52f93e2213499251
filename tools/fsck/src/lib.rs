//! The offline checker. A library with a thin program around it, so that a test can check a directory in memory that it
//! breaks in every possible way.
//!
//! Its view of the disk is the engine's own ([`trireme_engine::layout`], [`trireme_engine::recovery_scan`]): what recovery
//! refuses, this finds, and the other way round.

// A program of its own, with the kernel beneath it.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

pub mod cli;
pub mod dump;
pub mod partition;
pub mod plan;
pub mod progress;
pub mod repair;
pub mod report;
pub mod segment;
pub mod shard;
pub mod source;
pub mod torture;
pub mod tree;
pub mod verify;

pub use report::{Finding, Report, Severity, Verdict};
pub use source::{Directory, Memory, Source};
pub use verify::{Options, verify};
