//! Which paths can differ between a snapshot and its parent: what a strategy knows without reading both trees.
//!
//! A hint only narrows which names a comparison looks at; what is a change is decided there, for every strategy alike.
//! So a hint may name too much, never too little. A name that a hint leaves out has the inode, in the sense of
//! [`crate::changeset`], that it has in the parent.
//!
//! Invariant: nothing here recurses, however deep a tree is.

mod generation;
pub mod manifest;
mod selection;
mod upper;

pub use generation::Generation;

pub(super) use selection::{Scope, Selection};

use super::Layer;
use crate::error::Result;
use crate::tree::Dir;
use manifest::Manifest;

/// What can have changed.
#[derive(Debug)]
#[non_exhaustive]
pub enum Candidates {
    /// Anything: both trees are walked.
    All,
    /// What an overlayfs upper holds: the names in it, and all that is below its opaque directories.
    Upper(Layer),
    /// What is newer than a transaction, in a btrfs snapshot.
    Generation(Generation),
    /// What is not as it was when a copy was made.
    Manifest(Manifest),
}

impl Candidates {
    /// The names of `new`, the tree that the hint is about, that a comparison has to look at.
    pub(super) fn select(&self, new: &Dir) -> Result<Selection<'_>> {
        let (by, selection) = match self {
            Self::All => return Ok(Selection::everything()),
            Self::Upper(layer) => ("upper", upper::select(layer)?),
            Self::Generation(generation) => ("generation", generation.select()?),
            Self::Manifest(manifest) => ("manifest", manifest.select(new)?),
        };
        tracing::debug!(by, names = selection.names(), tree = %new.shown().display(), "changes are looked for by a hint");
        Ok(selection)
    }
}
