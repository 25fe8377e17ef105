//! A stream that was decoded, encoded and decoded again is the same, and is encoded to the same bytes.

use super::{TIGHT, assert_sane, canonical, read, write};
use strata::ErrorKind;
use strata::changeset::tar::Limits;

/// Panics if the property does not hold for `archive`.
pub fn check(archive: &[u8]) {
    let Ok((stream, _)) = read(archive, &TIGHT) else { return };
    let stream = canonical(&stream);
    let written = match write(&stream) {
        Ok(written) => written,
        // A PAX header has a limit that attributes, each within its own, can reach together.
        Err(error) if error.kind() == ErrorKind::ResourceExhausted => return,
        Err(error) => panic!("{}", error.chain()),
    };
    // The encoder adds ancestors.
    let limits = Limits { entries: u64::MAX, ..TIGHT };
    let (back, decoded) = read(&written, &limits).unwrap_or_else(|error| panic!("{}", error.chain()));
    assert_sane(&written, &back, &decoded, &limits);
    let mut rest = back.iter();
    for change in &stream {
        assert!(rest.any(|found| found == change), "{change:?} is lost: {back:?}");
    }
    let again = write(&back).unwrap_or_else(|error| panic!("{}", error.chain()));
    assert!(again == written, "{back:?}");
}
