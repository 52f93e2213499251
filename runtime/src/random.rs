//! Randomness; the simulator's follows its seed.

use std::cell::Cell;

use crate::core::{Backend, with_core};

/// 64 random bits, good for jitter, ids and hash keys (not a secret key).
pub fn random_u64() -> u64 {
    with_core(|core| match &core.backend {
        Backend::Uring(_) => next(&core.random),
        Backend::Sim(sim) => sim.random_u64(),
    })
}

/// Fills `bytes` from the operating system's generator: good for secrets.
pub fn random_bytes(bytes: &mut [u8]) {
    let simulated = with_core(|core| matches!(core.backend, Backend::Sim(_)));
    if !simulated {
        getrandom::fill(bytes).expect("the operating system has randomness");
        return;
    }
    for part in bytes.chunks_mut(8) {
        part.copy_from_slice(&random_u64().to_le_bytes()[..part.len()]);
    }
}

/// SplitMix64: one multiplication chain per number, any seed is good.
pub(crate) fn next(state: &Cell<u64>) -> u64 {
    state.set(state.get().wrapping_add(0x9E37_79B9_7F4A_7C15));
    mix(state.get())
}

pub(crate) fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// A seed from the operating system.
pub(crate) fn seed() -> u64 {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).expect("the operating system has randomness");
    u64::from_le_bytes(bytes)
}
