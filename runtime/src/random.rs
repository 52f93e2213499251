//! Randomness; the simulator's follows its seed.

/// 64 random bits, good for jitter, ids and hash keys (not a secret key).
pub fn random_u64() -> u64 {
    unimplemented!()
}

/// Fills `bytes` from the operating system's generator: good for secrets.
pub fn random_bytes(bytes: &mut [u8]) {
    let _ = bytes;
    unimplemented!()
}
