//! What a snapshot takes for itself, found by generation.
//!
//! Every item of a tree, every inode and every extent carries the transaction that wrote it, and the kernel skips parts
//! of a tree that are older than asked for. The parent is read-only since the transaction that made it, and that
//! transaction was committed before anything could be written on top of it; so what is newer belongs to the snapshot.
//!
//! # What is counted
//! - `inodes`: those that were made since the parent was.
//! - `size_bytes`: the allocated length, compressed if it is, of each extent that was written since and that a file of
//!   the snapshot still refers to, once however many files share it, and the stored length of data inside the tree.
//!
//! # What is not
//! Tree nodes: what of them is shared is nothing a search tells. Data that was moved or cloned from the parent, for it
//! is the parent's. Subvolumes inside an active snapshot: none of them can become part of a layer. An extent that a
//! file elsewhere shares (cloned into the snapshot after the parent was made) is counted, though removal does not free
//! it.
//!
//! The kernel's simple quotas cannot answer instead: they charge the subvolume that wrote an extent, which is the
//! active one, and it is gone after a commit.

use std::collections::HashSet;
use std::os::fd::AsFd;

use rustix::io::Errno;

use super::Usage;
use crate::error::{Context, Result};
use crate::sys::btrfs::{self as sys, Extent, Key, Search};
use crate::tree::Dir;

/// The usage of the subvolume with the root directory `root`, made of what came after the transaction `since`. Exact
/// for a read-only snapshot; of another, what is in memory only is missing.
pub(super) fn since(root: &Dir, since: u64) -> Result<Usage> {
    let (usage, items) = count(root, since).at("search the tree of", root.shown())?;
    tracing::debug!(subvolume = %root.shown().display(), since, items, "usage by generation");
    Ok(usage)
}

/// The usage, and how many items were looked at.
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
