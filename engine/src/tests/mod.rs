//! The live engine as a whole, on real files: what is acknowledged is there after every kind of end.

mod basics;
mod crash;
mod features;
mod kit;
mod model;
mod simulated;
