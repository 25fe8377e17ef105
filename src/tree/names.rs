//! The names of one directory, packed: a directory of a stranger may have a million.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;

use super::FileType;

/// A name in a directory, with the type in the directory entry (`None` if the file system does not report it).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    /// Last path component, never `.` or `..`.
    pub name: OsString,
    /// Type of the entry.
    pub file_type: Option<FileType>,
}

/// Names of a directory, sorted by their bytes. Each takes 16 bytes besides its own.
#[derive(Clone, Debug, Default)]
pub struct Names {
    bytes: Vec<u8>,
    entries: Vec<PackedName>,
}

/// Where a name is in the bytes. No file system has names of more than 255 bytes.
#[derive(Clone, Copy, Debug)]
struct PackedName {
    start: usize,
    length: u16,
    file_type: Option<FileType>,
}

impl Names {
    /// Adds a name. [`Self::sort`] comes after the last one.
    pub(super) fn push(&mut self, name: &[u8], file_type: Option<FileType>) {
        // The kernel gives no longer names.
        let length = u16::try_from(name.len()).unwrap_or(u16::MAX);
        self.entries.push(PackedName { start: self.bytes.len(), length, file_type });
        self.bytes.extend_from_slice(&name[..usize::from(length)]);
    }

    pub(super) fn sort(&mut self) {
        let bytes = &self.bytes;
        self.entries.sort_unstable_by(|one, other| name_of(bytes, one).cmp(name_of(bytes, other)));
    }

    /// Number of names.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The names, without copies of them.
    pub fn iter(&self) -> impl Iterator<Item = &OsStr> {
        self.entries.iter().map(|entry| name_of(&self.bytes, entry))
    }
}

fn name_of<'n>(bytes: &'n [u8], entry: &PackedName) -> &'n OsStr {
    OsStr::from_bytes(&bytes[entry.start..entry.start + usize::from(entry.length)])
}

impl IntoIterator for Names {
    type Item = Name;
    type IntoIter = IntoNames;

    fn into_iter(self) -> IntoNames {
        IntoNames { bytes: self.bytes, entries: self.entries.into_iter() }
    }
}

/// Iterator over [`Names`], which keeps them packed until each is asked for.
#[derive(Debug)]
pub struct IntoNames {
    bytes: Vec<u8>,
    entries: std::vec::IntoIter<PackedName>,
}

impl Iterator for IntoNames {
    type Item = Name;

    fn next(&mut self) -> Option<Name> {
        let entry = self.entries.next()?;
        Some(Name { name: name_of(&self.bytes, &entry).to_owned(), file_type: entry.file_type })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.entries.size_hint()
    }
}
