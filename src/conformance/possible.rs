//! The edits that are possible in a tree, and that leave the same tree on every strategy.

use std::path::{Path, PathBuf};

use crate::tree::FileType;
use crate::tree::memory::Tree;

use super::ops::{ACL, Edit};

/// Maximum length of a name whose whiteout is a valid name: 255 bytes less `.wh.`.
pub(super) const WHITEOUT_NAME_MAX: usize = 251;

/// Returns the type of the inode at `path`.
pub(super) fn type_at(tree: &Tree, path: &Path) -> Option<FileType> {
    Some(tree.get(path)?.inode.meta.node.file_type())
}

fn has_acl(tree: &Tree, path: &Path) -> bool {
    tree.get(path).is_some_and(|named| named.inode.meta.xattrs.contains_key(ACL))
}

/// Returns true if an edit is possible and leaves the same tree on every strategy.
///
/// Scripts avoid two differences that are inherent to overlayfs. It splits the hard links of a lower file when one name
/// is written to. It moves a lower directory by copying, which splits hard links that lead out of the directory.
pub(super) fn possible(tree: &Tree, parent: Option<&Tree>, edit: &Edit) -> bool {
    let ty = |path: &Path| type_at(tree, path);
    let free = |path: &Path| ty(path).is_none() && makeable(tree, path);
    let file = |path: &Path| ty(path) == Some(FileType::File) && !frozen(tree, parent, path);
    let own = |path: &Path| ty(path).is_some() && !frozen(tree, parent, path);
    match edit {
        Edit::Write(path, _) => file(path) || free(path),
        Edit::Append(path, _) | Edit::Truncate(path, _) | Edit::Open(path) | Edit::Rewrite(path) => file(path),
        Edit::MakeDir(path) | Edit::Symlink(path, _) | Edit::MakeNode(path, ..) => free(path),
        Edit::Link { from, to } => own(from) && ty(from) != Some(FileType::Dir) && free(to),
        Edit::Remove(path) => ty(path).is_some() && removable(tree, parent, path),
        Edit::Rename { from, to } => {
            movable(tree, parent, from)
                && !to.starts_with(from)
                && !from.starts_with(to)
                && makeable(tree, to)
                && (ty(to).is_none() || removable(tree, parent, to))
                && !linked(tree, from, to)
        }
        Edit::Exchange(a, b) => {
            movable(tree, parent, a)
                && movable(tree, parent, b)
                && !a.starts_with(b)
                && !b.starts_with(a)
                && !linked(tree, a, b)
        }
        Edit::Chmod(path, _) => own(path) && ty(path) != Some(FileType::Symlink) && !has_acl(tree, path),
        Edit::Chown(path, ..) => own(path) && !has_acl(tree, path),
        Edit::Touch(path) => own(path),
        Edit::SetXattr(path, name, _) => {
            own(path)
                && matches!(ty(path), Some(FileType::File | FileType::Dir))
                && (name != ACL || !path.as_os_str().is_empty())
        }
        Edit::RemoveXattr(path, name) => {
            own(path) && name != ACL && tree.get(path).is_some_and(|named| named.inode.meta.xattrs.contains_key(name))
        }
    }
}

fn makeable(tree: &Tree, path: &Path) -> bool {
    path.parent().is_some_and(|parent| type_at(tree, parent) == Some(FileType::Dir))
}

/// Returns true if the inode has several names and already had several in the parent snapshot.
fn frozen(tree: &Tree, parent: Option<&Tree>, path: &Path) -> bool {
    let Some(named) = tree.get(path) else { return false };
    let before = |name: &PathBuf| parent.and_then(|parent| parent.get(name)).is_some_and(|old| old.names.len() > 1);
    named.names.iter().any(before)
}

/// Returns true if a layer can express the deletion of `path`: the name may be too long for a whiteout.
fn removable(tree: &Tree, parent: Option<&Tree>, path: &Path) -> bool {
    let long = path.file_name().is_some_and(|name| name.len() > WHITEOUT_NAME_MAX);
    !path.as_os_str().is_empty()
        && tree.get(path).is_some()
        && (!long || parent.is_none_or(|parent| parent.get(path).is_none()))
}

/// Returns true if moving `path` and everything below it has the same result on every strategy.
fn movable(tree: &Tree, parent: Option<&Tree>, path: &Path) -> bool {
    if !removable(tree, parent, path) {
        return false;
    }
    let below = tree.iter().filter(|named| named.path.starts_with(path));
    below.into_iter().all(|named| {
        let inside = named.names.iter().all(|name| name.starts_with(path));
        let long = named.path.file_name().is_some_and(|name| name.len() > WHITEOUT_NAME_MAX);
        !frozen(tree, parent, named.path) && (inside || type_at(tree, path) != Some(FileType::Dir)) && !long
    })
}

fn linked(tree: &Tree, a: &Path, b: &Path) -> bool {
    tree.get(a).is_some_and(|named| named.names.contains(b))
}
