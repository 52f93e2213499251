//! The live engine as a whole, on real files: what is acknowledged is there after every kind of end.

#![allow(clippy::disallowed_methods, clippy::disallowed_types)] // around the engine, not in it

mod basics;
mod checkpoints;
mod crash;
mod features;
mod heads;
mod kit;
mod model;
mod scrub;
mod simulated;
mod state;
