//! Where random suites get their scripts from.

use proptest::test_runner::{RngAlgorithm, TestRng};

/// The source of a random suite's round `round`: the same in every run, so that a failure can be had again, unless
/// `STRATA_SEED` gives another number to begin with.
pub fn rng(round: u64) -> TestRng {
    let base: u64 = std::env::var("STRATA_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(0);
    let mut seed = [0; 32];
    seed[..8].copy_from_slice(&base.to_le_bytes());
    seed[8..16].copy_from_slice(&round.to_le_bytes());
    TestRng::from_seed(RngAlgorithm::ChaCha, &seed)
}
