//! Code shared by all tests: unit tests use it as `crate::testing`, integration tests as `mod support`.
//!
//! Tests that need something a machine may lack (root, a file system, a feature) ask here. If it is missing, the test
//! prints `skipped: <reason>` and passes, unless `STRATA_REQUIRE`, a comma-separated list, names it: then the test
//! fails.

use std::io::Write as _;

use strata::mount::scratch::{FsType, Scratch};
use strata::{ErrorKind, Result};

/// Size of the file system of [`scratch`].
const SCRATCH_BYTES: u64 = 512 << 20;

/// Returns true if `name` is available. Otherwise prints the reason and returns false; then the test must return.
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

/// Prints a line about a test that passes, for example how much it did.
pub fn say(line: &str) {
    // Written directly, because the test harness hides the output of `eprintln` when a test passes.
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Returns the value, or `None` if the machine or the user lacks something it needs; then the test must return.
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

/// Returns a new file system of half a gigabyte in the private mount namespace of the calling thread, or `None` if it
/// cannot be created; then the test must return.
///
/// # Panics
/// As [`gate`].
pub fn scratch(fs: FsType) -> Option<Scratch> {
    gate(fs.as_str(), Scratch::new(fs, SCRATCH_BYTES))
}
