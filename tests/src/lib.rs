//! Tests of the whole: what no single crate can hold.
//!
//! The end-to-end tests with real clients are programs around the broker's binary and start with `tests/run`; this crate holds the tests of the
//! workspace itself, which `cargo test` runs.

#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

#[cfg(test)]
mod layout;
