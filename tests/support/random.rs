//! Seeds and generators for random test suites.

use proptest::test_runner::{RngAlgorithm, TestRng};

/// Returns the seed of random suites: the same in every run, so that a failure can be reproduced, unless `STRATA_SEED`
/// sets another.
///
/// # Panics
/// If `STRATA_SEED` is not a number.
pub fn seed() -> u64 {
    match std::env::var("STRATA_SEED") {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("STRATA_SEED={text:?} is no number")),
        Err(_) => 0,
    }
}

/// Returns the generator for round `round` of a random suite.
pub fn rng(round: u64) -> TestRng {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed().to_le_bytes());
    bytes[8..16].copy_from_slice(&round.to_le_bytes());
    TestRng::from_seed(RngAlgorithm::ChaCha, &bytes)
}
