//! The broker without its process: configuration, and a node that runs wherever the runtime does, the simulator included.

#![forbid(unsafe_code)]

pub mod admin;
pub mod config;
mod lifecycle;
pub mod node;
