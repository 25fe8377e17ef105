//! Any bytes decode to an error or to a stream that keeps to the limits, however little of it a sink reads.
#![no_main]

use std::io::Read;

use libfuzzer_sys::{fuzz_mutator, fuzz_target};
use strata::changeset::Change;
use strata::changeset::tar::decode;
use strata_fuzz::{TIGHT, assert_sane, mutate, read};

fuzz_target!(|archive: &[u8]| {
    let whole = read(archive, &TIGHT);
    if let Ok((stream, decoded)) = &whole {
        assert_sane(archive, stream, decoded, &TIGHT);
    }
    let mut changes = Vec::new();
    let mut lazy = |change: &Change, _: &mut dyn Read| {
        changes.push(change.clone());
        Ok(())
    };
    let passed = decode(&mut &archive[..], &TIGHT, &mut lazy);
    match (whole, passed) {
        (Ok((stream, decoded)), Ok(again)) => {
            assert_eq!(decoded, again);
            assert!(stream.iter().map(|(change, _)| change).eq(&changes));
        }
        (Err(error), Err(again)) => assert_eq!(error.chain(), again.chain()),
        (whole, passed) => panic!("read: {whole:?}, passed over: {passed:?}"),
    }
});

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| { mutate(data, size, max_size, seed) });
