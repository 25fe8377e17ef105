//! Where the `tar` crate reads an archive as well, it finds the same entries; where it does not, the reason is here.

use std::ffi::OsStr;
use std::io::Read;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use super::{TIGHT, read};
use strata::changeset::Change;
use strata::tree::Node;

/// An entry as both decoders give it: its path in the archive, its link target, its content.
type Listed = (PathBuf, Option<PathBuf>, Vec<u8>);

/// Panics if the property does not hold for `archive`.
pub fn check(archive: &[u8]) {
    let Ok((stream, _)) = read(archive, &TIGHT) else { return };
    let Some(theirs) = list(archive) else { return };
    let ours: Vec<Listed> = stream.into_iter().map(|(change, content)| listed(&change, content)).collect();
    assert_eq!(ours, theirs);
}

fn listed(change: &Change, content: Vec<u8>) -> Listed {
    let whiteout = |path: &Path| {
        let name = [b".wh.", path.file_name().expect("a name").as_bytes()].concat();
        path.with_file_name(OsStr::from_bytes(&name))
    };
    match change {
        Change::Put { path, meta, .. } => match &meta.node {
            Node::Symlink { target } => (path.clone(), Some(OsStr::from_bytes(target).into()), content),
            _ => (path.clone(), None, content),
        },
        Change::Link { path, target, .. } => (path.clone(), Some(target.clone()), content),
        Change::Remove { path } => (whiteout(path), None, content),
        Change::Opaque { path } => (path.join(".wh..wh..opq"), None, content),
    }
}

/// The entries that the `tar` crate finds; `None` if the crate refuses the archive, or reads it otherwise by design.
fn list(archive: &[u8]) -> Option<Vec<Listed>> {
    let mut listed = Vec::new();
    for entry in tar::Archive::new(archive).entries().ok()? {
        let mut entry = entry.ok()?;
        let kind = entry.header().entry_type();
        match kind.as_byte() {
            // Nothing to a layer: global headers and volume labels.
            b'g' | b'V' => continue,
            // In a header of no known format it takes extended headers for entries. GNU tar and Go's reader do not.
            b'L' | b'K' | b'x' => return None,
            // Sparse files: the crate knows GNU's oldest format only, and that only with a size of its own.
            b'S' => return None,
            // It takes bytes behind entries of types without content for their content. Go's reader and we do not.
            b'1'..=b'6' if entry.header().entry_size().ok()? > 0 || entry.size() > 0 => return None,
            _ => {}
        }
        if is_sparse(&mut entry)? {
            return None;
        }
        let raw = without_end(&entry.path_bytes()).to_vec();
        let path = clean(&raw);
        let name = path.file_name().unwrap_or_default().as_bytes().to_vec();
        // aufs's own.
        let is_private = |name: &OsStr| name.as_bytes().starts_with(b".wh..wh.");
        if path.parent().is_some_and(|parent| parent.iter().any(is_private))
            || (is_private(OsStr::from_bytes(&name)) && name != b".wh..wh..opq")
        {
            continue;
        }
        let target = entry.link_name_bytes().map(|target| without_end(&target).to_vec()).unwrap_or_default();
        let is_whiteout = name.starts_with(b".wh.");
        let target = match kind.as_byte() {
            _ if is_whiteout => None,
            b'1' => Some(clean(&target)),
            b'2' => Some(std::ffi::OsString::from_vec(target).into()),
            _ => None,
        };
        let mut content = Vec::new();
        // A file whose name ends in "/" is a directory, and a whiteout is empty, whatever follows.
        entry.read_to_end(&mut content).ok()?;
        if raw.ends_with(b"/") || is_whiteout {
            content.clear();
        }
        listed.push((path, target, content));
    }
    Some(listed)
}

/// A name without the NULs at its end: of those that GNU's long names may have, the crate takes off one.
fn without_end(name: &[u8]) -> &[u8] {
    &name[..name.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1)]
}

/// Whether PAX says that the entry has holes: the crate does not look.
fn is_sparse(entry: &mut tar::Entry<'_, &[u8]>) -> Option<bool> {
    let Some(records) = entry.pax_extensions().ok()? else { return Some(false) };
    let mut sparse = false;
    for record in records {
        sparse |= record.ok()?.key_bytes().starts_with(b"GNU.sparse.");
    }
    Some(sparse)
}

/// The path that `raw` means, by its text.
fn clean(raw: &[u8]) -> PathBuf {
    let mut path = PathBuf::new();
    for component in Path::new(OsStr::from_bytes(raw)).components() {
        match component {
            Component::Normal(name) => path.push(name),
            Component::ParentDir => drop(path.pop()),
            _ => {}
        }
    }
    path
}
