//! Where random suites get their scripts from.

use proptest::test_runner::{RngAlgorithm, TestRng};

/// With what number random suites begin: the same in every run, so that a failure can be had again, unless
/// `STRATA_SEED` gives another.
///
/// # Panics
/// If that is no number.
pub fn seed() -> u64 {
    match std::env::var("STRATA_SEED") {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("STRATA_SEED={text:?} is no number")),
        Err(_) => 0,
    }
}

/// The source of a random suite's round `round`.
pub fn rng(round: u64) -> TestRng {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed().to_le_bytes());
    bytes[8..16].copy_from_slice(&round.to_le_bytes());
    TestRng::from_seed(RngAlgorithm::ChaCha, &bytes)
}
