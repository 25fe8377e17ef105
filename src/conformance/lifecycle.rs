//! Cases about the contract of a snapshotter, one case for each promise.
//!
//! The cases are those of containerd's suite for snapshotters, plus the error kinds that the suite does not check. Each
//! case is a value with a name, a source, and the meaning of a failure. The cases use nothing but the contract, so the
//! same cases check a store of strata, a daemon behind its socket, and a snapshotter of containerd.
//!
//! A case only uses keys with its own prefix and removes them afterwards, so that it can run beside other cases. All of
//! its snapshots have the label that protects them from containerd's garbage collector.
//!
//! Trees are compared as containerd's suite compares them: types, modes, owners, contents, link groups and device
//! numbers. Times and extended attributes, which containerd's own snapshotters lose, are checked by suites of strata's
//! own.
//!
//! # References
//! containerd, `core/snapshots/testsuite`, `core/snapshots/storage/metastore_test.go`.

mod contract;
mod trees;

use super::case::{Promise, Verdict};
use super::ops::{Edit, FileContent};
use super::trial::Trial;

/// A promise about snapshots.
pub(super) type Case = Promise<fn(&mut Trial<'_>) -> Verdict>;

/// Returns all cases of the group.
pub(super) fn cases() -> impl Iterator<Item = &'static Case> {
    contract::CASES.iter().chain(&trees::CASES)
}

/// Writes a file with `length` bytes generated from `seed`.
fn file(path: &str, seed: u8, length: u32) -> Edit {
    Edit::Write(path.into(), FileContent { seed, length })
}

fn dir(path: &str) -> Edit {
    Edit::MakeDir(path.into())
}

fn removal(path: &str) -> Edit {
    Edit::Remove(path.into())
}
