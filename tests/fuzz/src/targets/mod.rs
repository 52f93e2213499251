//! The targets, by what they are about.

pub mod batches;
pub mod config;
pub mod directory;
pub mod door;
pub mod layout;
