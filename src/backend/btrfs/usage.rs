//! Computes the space that a snapshot uses for itself, by generation.
//!
//! Every item of a tree, every inode and every extent carries the number of the transaction that wrote it, and the
//! kernel skips parts of a tree that are older than asked for. The parent is read-only since the transaction that made
//! it, and that transaction was committed before anything could be written on top of the parent. So everything newer
//! belongs to the snapshot.
//!
//! # Counted
//! - `inodes`: the inodes made after the parent.
//! - `size_bytes`: the allocated (compressed) length of each extent that was written after the parent and that a file
//!   of the snapshot refers to, once however many files share it, plus the stored length of data inside the tree.
//!
//! # Not counted
//! Tree nodes, because a search does not tell which of them are shared. Data that was moved or cloned from the parent,
//! because it is the parent's. Subvolumes inside an active snapshot, because none of them can become part of a layer.
//! An extent that was cloned into the snapshot from elsewhere after the parent was made is counted, although removal
//! does not free it.
//!
//! btrfs's simple quotas cannot be used instead: they charge the subvolume that wrote an extent, which is the active
//! one, and it is gone after a commit.

use std::collections::HashSet;
use std::os::fd::AsFd;

use rustix::io::Errno;

use super::Usage;
use crate::error::{Context, Result};
use crate::sys::btrfs::{self as sys, Extent, Key, Search};
use crate::tree::Dir;

/// Returns the usage of the subvolume with the root directory `root`: everything written after the transaction `since`.
/// Exact for a read-only snapshot; for others, data that is only in memory is missing.
pub(super) fn since(root: &Dir, since: u64) -> Result<Usage> {
    let (usage, items) = count(root, since).at("search the tree of", root.shown())?;
    tracing::debug!(subvolume = %root.shown().display(), since, items, "usage by generation");
    Ok(usage)
}

/// Returns the usage, and the number of items that were read.
pub(super) fn count(root: &Dir, since: u64) -> std::result::Result<(Usage, u64), Errno> {
    let tree = sys::subvolume(root.as_fd())?.id;
    let first = Key { object: sys::ROOT_INODE, kind: 0, offset: 0 };
    let last = Key { object: sys::LAST_INODE, kind: u8::MAX, offset: u64::MAX };
    let mut search = Search::new(root.as_fd(), tree, first..=last, since.saturating_add(1));
    let mut usage = Usage::default();
    let mut items = 0;
    let mut seen = HashSet::new();
    while let Some(item) = search.next_item()? {
        items += 1;
        match item.key.kind {
            sys::INODE_ITEM if item.inode_generation()? > since => usage.inodes += 1,
            sys::EXTENT_DATA => {
                let (generation, extent) = item.extent()?;
                if generation > since {
                    usage.size_bytes = usage.size_bytes.saturating_add(match extent {
                        Extent::Regular { address, allocated } if seen.insert(address) => allocated,
                        Extent::Inline { stored } => stored,
                        Extent::Regular { .. } | Extent::Hole => 0,
                    });
                }
            }
            _ => {}
        }
    }
    Ok((usage, items))
}
