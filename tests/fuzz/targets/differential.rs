//! The `tar` crate finds the same entries: see `src/differential.rs`.
#![no_main]

mod mutate;

libfuzzer_sys::fuzz_target!(|archive: &[u8]| strata_fuzz::differential::check(archive));

libfuzzer_sys::fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    mutate::mutate(data, size, max_size, seed)
});
