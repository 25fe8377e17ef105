pub mod backend;
pub mod changeset;
pub mod error;
pub mod id;
pub mod mount;
pub mod snapshotter;
pub mod store;
mod sys;
pub mod tree;

#[cfg(test)]
extern crate self as strata;
#[cfg(test)]
#[path = "../tests/support/mod.rs"]
mod testing;

pub use error::{Error, ErrorKind, Result};
pub use snapshotter::Snapshotter;
