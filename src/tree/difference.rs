//! Differences between two trees in memory, named as in tree text.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};

use super::memory::{Named, Tree};
use super::text::{COLUMNS, columns, print_path};

/// A difference between two trees at one path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The path.
    pub path: PathBuf,
    /// The column of tree text that differs, one of [`COLUMNS`], or `entry` if only one tree has the path.
    pub aspect: &'static str,
    /// The first tree's value.
    pub left: Option<String>,
    /// The second tree's value.
    pub right: Option<String>,
}

impl Tree {
    /// Returns the differences between this tree and `other`, in canonical order; none if the trees are equal.
    pub fn differences(&self, other: &Self) -> Vec<Difference> {
        let mut all = Vec::new();
        let paths: BTreeSet<&Path> = self.iter().chain(other.iter()).map(|named| named.path).collect();
        for path in paths {
            match (self.get(path), other.get(path)) {
                (Some(left), Some(right)) => compare(left, right, &mut all),
                (left, right) => {
                    let shown =
                        |side: Option<Named<'_>>| side.map(|named| named.inode.meta.node.file_type().to_string());
                    let (path, aspect) = (path.to_path_buf(), "entry");
                    all.push(Difference { path, aspect, left: shown(left), right: shown(right) });
                }
            }
        }
        all
    }
}

/// Adds the differences between two inodes of one path. An inode that has the same names in both trees counts once.
fn compare(left: Named<'_>, right: Named<'_>, all: &mut Vec<Difference>) {
    if !left.is_first() && !right.is_first() {
        return;
    }
    for (aspect, (left_says, right_says)) in COLUMNS.iter().zip(columns(&left).into_iter().zip(columns(&right))) {
        if left_says != right_says {
            let path = left.path.to_path_buf();
            all.push(Difference { path, aspect, left: Some(left_says), right: Some(right_says) });
            if *aspect == "type" {
                return;
            }
        }
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = print_path(&self.path);
        let Self { aspect, .. } = self;
        match (&self.left, &self.right) {
            (Some(left), None) => write!(f, "{path}: {aspect}: {left}, only in the first"),
            (None, Some(right)) => write!(f, "{path}: {aspect}: {right}, only in the second"),
            (Some(left), Some(right)) => write!(f, "{path}: {aspect}: {left} in the first, {right} in the second"),
            (None, None) => write!(f, "{path}: {aspect}"),
        }
    }
}
