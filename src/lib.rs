//! Snapshots for container images: stacks of read-only layers with a writable top, by overlayfs, btrfs or copying.
//!
//! [`Snapshotter`] is the contract, in containerd's words. [`store::Store`] implements it once over any
//! [`backend::Backend`]; [`backends::open`] puts the two together. [`changeset`] says what a change is.

pub mod backend;
pub mod backends;
#[cfg(feature = "build")]
pub mod build;
pub mod changeset;
#[cfg(feature = "cli")]
pub mod cli;
#[cfg(feature = "lab")]
pub mod compare;
#[cfg(feature = "lab")]
pub mod conformance;
pub mod container;
#[cfg(feature = "containerd")]
pub mod containerd;
#[cfg(doc)]
pub mod design;
pub mod door;
pub mod error;
pub mod fs_type;
pub mod id;
pub mod image;
pub mod mount;
pub mod oci;
pub mod size;
pub mod snapshotter;
pub mod store;
mod store_files;
mod sys;
pub mod task;
pub mod tree;

#[cfg(test)]
extern crate self as strata;
#[cfg(test)]
#[path = "../tests/support/random.rs"]
mod random;
#[cfg(test)]
#[path = "../tests/support/strangers.rs"]
mod strangers;
#[cfg(test)]
#[path = "../tests/support/mod.rs"]
mod testing;

pub use error::{Error, ErrorKind, Result};
pub use snapshotter::Snapshotter;

/// The examples of the README compile.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
