//! What every test shares: unit tests as `crate::testing`, integration tests as `mod support`.
//!
//! A test that needs what a machine may lack (root, a file system, a feature) asks here. Where it is missing the test
//! says `skipped: <reason>` and passes, unless `STRATA_REQUIRE`, a comma list, names it: then the test fails.

use std::io::Write as _;

use strata::mount::scratch::{FsType, Scratch};
use strata::{ErrorKind, Result};

/// What [`scratch`] has room for.
const SCRATCH_BYTES: u64 = 512 << 20;

/// Whether `name` is there, and if not, why: `false` means that the test must return.
///
/// # Panics
/// If it is missing and required.
pub fn require(name: &str, available: Result<(), String>) -> bool {
    let Err(reason) = available else { return true };
    let required = std::env::var("STRATA_REQUIRE").unwrap_or_default();
    assert!(
        !required.split(',').any(|wanted| wanted.trim() == name),
        "STRATA_REQUIRE names {name}, which is missing: {reason}"
    );
    say(&format!("skipped: {name}: {reason}"));
    false
}

/// Says something that is worth knowing of a test that passes: how much it did.
pub fn say(line: &str) {
    // Not by `eprintln`, which the test harness keeps to itself when a test passes.
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// The value, or `None` (the test must return) where the machine or the user lacks what it needs.
///
/// # Panics
/// For any other error, and if `name` is required.
pub fn gate<T>(name: &str, value: Result<T>) -> Option<T> {
    match value {
        Ok(value) => Some(value),
        Err(error) if matches!(error.kind(), ErrorKind::Unsupported | ErrorKind::PermissionDenied) => {
            require(name, Err(error.chain()));
            None
        }
        Err(error) => panic!("{name}: {}", error.chain()),
    }
}

/// A fresh file system of half a gigabyte in the private mount namespace of the calling thread, or `None` (the test
/// must return) where it cannot be had.
///
/// # Panics
/// As [`gate`].
pub fn scratch(fs: FsType) -> Option<Scratch> {
    gate(fs.as_str(), Scratch::new(fs, SCRATCH_BYTES))
}
