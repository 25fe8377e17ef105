//! What every snapshotter must answer, one case for each promise, over the contract alone.
//!
//! The cases are those of containerd's suite for snapshotters and the classes of errors that it does not ask for. Each
//! is a value with a name, where it comes from, and what it means if it fails. They need nothing but the contract: a
//! store of strata, a daemon behind its socket and a snapshotter of containerd are judged alike.
//!
//! A case keeps to keys below a prefix of its own and removes them afterwards, so that it may run beside others. All of
//! its snapshots carry the label by which containerd's garbage collector spares them.
//!
//! Trees are compared as the suite compares them: types, modes, owners, contents, link groups and device numbers. Times
//! and extended attributes, which containerd's own snapshotters lose, are judged by suites of strata's own.
//!
//! # References
//! containerd, `core/snapshots/testsuite`, `core/snapshots/storage/metastore_test.go`.

mod contract;
mod trees;

use super::case::{Promise, Verdict};
use super::ops::{Content, Edit};
use super::round::Round;

/// A promise about snapshots.
pub(super) type Case = Promise<fn(&mut Round<'_>) -> Verdict>;

/// Every case.
pub(super) fn cases() -> impl Iterator<Item = &'static Case> {
    contract::CASES.iter().chain(&trees::CASES)
}

/// A file with `length` bytes of `seed`.
fn file(path: &str, seed: u8, length: u32) -> Edit {
    Edit::Write(path.into(), Content { seed, length })
}

fn dir(path: &str) -> Edit {
    Edit::MakeDir(path.into())
}

fn removal(path: &str) -> Edit {
    Edit::Remove(path.into())
}
