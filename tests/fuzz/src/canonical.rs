//! Any decoded stream in the order, and with the meaning, that the encoder asks for.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::Path;

use strata::changeset::Change;
use strata::tree::Node;

use super::Stream;

/// The entries of a stream in one directory.
#[derive(Default)]
struct Directory {
    own: Option<Change>,
    opaque: bool,
    removed: BTreeSet<OsString>,
    leaves: BTreeMap<OsString, (Change, Vec<u8>)>,
    below: BTreeMap<OsString, Directory>,
}

/// The stream in canonical order: of entries of one path the last, nothing below what is no directory, and links only
/// to what comes before them.
pub fn canonical(stream: &Stream) -> Stream {
    let mut root = Directory::default();
    for (change, content) in stream {
        root.take(change, content);
    }
    let mut ordered = Stream::new();
    root.push(Path::new(""), &mut ordered);
    ordered
}

impl Directory {
    /// The directory at `path`, made where something else was.
    fn at(&mut self, path: &Path) -> &mut Self {
        path.iter().fold(self, |dir, name| {
            dir.leaves.remove(name);
            dir.below.entry(name.to_owned()).or_default()
        })
    }

    fn take(&mut self, change: &Change, content: &[u8]) {
        let path = change.path();
        let is_dir = matches!(change, Change::Put { meta, .. } if meta.node == Node::Dir);
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            match change {
                Change::Opaque { .. } => self.opaque = true,
                change => self.own = Some(change.clone()),
            }
            return;
        };
        match change {
            Change::Opaque { .. } => self.at(path).opaque = true,
            change if is_dir => self.at(path).own = Some(change.clone()),
            Change::Remove { .. } => {
                self.at(parent).removed.insert(name.to_owned());
            }
            change => {
                let parent = self.at(parent);
                parent.below.remove(name);
                parent.leaves.insert(name.to_owned(), (change.clone(), content.to_vec()));
            }
        }
    }

    fn push(self, path: &Path, ordered: &mut Stream) {
        ordered.extend(self.own.map(|own| (own, Vec::new())));
        if self.opaque {
            ordered.push((Change::Opaque { path: path.to_owned() }, Vec::new()));
        }
        let stays = |name: &OsString| self.leaves.contains_key(name) || self.below.contains_key(name);
        let too_long = |name: &OsString| name.len() > 255 - ".wh.".len();
        for name in self.removed.iter().filter(|name| !stays(name) && !too_long(name)) {
            ordered.push((Change::Remove { path: path.join(name) }, Vec::new()));
        }
        let names: BTreeSet<OsString> = self.leaves.keys().chain(self.below.keys()).cloned().collect();
        let (mut leaves, mut below) = (self.leaves, self.below);
        for name in names {
            if let Some(dir) = below.remove(&name) {
                dir.push(&path.join(&name), ordered);
            } else if let Some((change, content)) = leaves.remove(&name)
                && is_possible(&change, ordered)
            {
                ordered.push((change, content));
            }
        }
    }
}

/// Whether a link leads to an inode that came before it.
fn is_possible(change: &Change, ordered: &Stream) -> bool {
    let Change::Link { target, .. } = change else { return true };
    let is_inode =
        |found: &Change| matches!(found, Change::Put { path, meta, .. } if path == target && meta.node != Node::Dir);
    ordered.iter().any(|(found, _)| is_inode(found))
}
