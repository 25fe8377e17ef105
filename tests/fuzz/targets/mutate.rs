//! Mutations as libFuzzer makes them, with checksums that are right.

/// Mutates an input, then mostly makes its checksums right.
pub fn mutate(data: &mut [u8], size: usize, size_max: usize, seed: u32) -> usize {
    let size = libfuzzer_sys::fuzzer_mutate(data, size, size_max);
    if !seed.is_multiple_of(8) {
        strata_fuzz::seal(&mut data[..size]);
    }
    size
}
