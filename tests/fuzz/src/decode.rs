//! Any bytes decode to an error or to a stream that keeps to the limits, however little of it a sink reads.

use std::io::Read;

use super::{TIGHT, assert_sane, read};
use strata::changeset::Change;
use strata::changeset::tar::decode;

/// Panics if the property does not hold for `archive`.
pub fn check(archive: &[u8]) {
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
}
