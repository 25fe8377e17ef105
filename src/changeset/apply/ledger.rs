//! The memory of an applier: the paths that belong to the layer, and the attributes that directories get at the end.
//!
//! Paths are without links here, so that one place has one path. The sets hold 128 bits of keyed hash for each: a layer
//! cannot aim at a collision, and none happens by chance.
//!
//! Everything in a directory that holds nothing of the lower tree belongs to the layer, and is not remembered. So a
//! layer without a parent, or one of new directories, takes no memory, however many entries it has.

use std::collections::{BTreeMap, HashSet};
use std::ffi::OsStr;
use std::hash::{BuildHasher as _, DefaultHasher, Hasher as _, RandomState};
use std::ops::Bound;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::tree::{Meta, Timestamp};

/// About what one directory takes besides its path and attributes: its entry in the map, and a [`Meta`].
const DUE_BYTES: usize = 200;

/// How much may be due, in bytes: some 30,000 directories.
const DUE_BYTES_MAX: usize = 8 << 20;

/// The attributes that a directory gets when everything below it is done.
#[derive(Debug)]
pub(super) enum Due {
    /// The mtime that it had before.
    Time(Timestamp),
    /// All its attributes.
    Meta(Box<Meta>),
}

#[derive(Debug)]
pub(super) struct Ledger {
    keys: [RandomState; 2],
    /// Paths with an entry of the layer.
    described: HashSet<u128>,
    /// Directories with an entry of the layer somewhere below. With a directory its ancestors are here, too.
    used: HashSet<u128>,
    /// Directories that hold nothing of the lower tree any more.
    purged: HashSet<u128>,
    due: BTreeMap<PathBuf, Due>,
    /// About how much memory `due` takes; what was forgotten of it counts still.
    due_bytes: usize,
    /// How much it may take.
    pub(super) due_bytes_max: usize,
}

impl Default for Ledger {
    fn default() -> Self {
        let (described, used, purged) = Default::default();
        let keys = [RandomState::new(), RandomState::new()];
        Self { keys, described, used, purged, due: BTreeMap::new(), due_bytes: 0, due_bytes_max: DUE_BYTES_MAX }
    }
}

impl Ledger {
    /// The keys of the ancestors of `path`, the root first, and of the path itself, in one pass over its bytes.
    fn keys(&self, path: &Path) -> impl Iterator<Item = u128> {
        let mut hashers = [self.keys[0].build_hasher(), self.keys[1].build_hasher()];
        let root = key_of(&hashers);
        std::iter::once(root).chain(path.iter().map(move |name| {
            add(&mut hashers, name);
            key_of(&hashers)
        }))
    }

    fn key(&self, path: &Path) -> u128 {
        let mut hashers = [self.keys[0].build_hasher(), self.keys[1].build_hasher()];
        path.iter().for_each(|name| add(&mut hashers, name));
        key_of(&hashers)
    }

    /// The layer has an entry at `path`.
    pub(super) fn describe(&mut self, path: &Path) {
        self.described.insert(self.key(path));
    }

    /// Whether the layer has an entry at `path`.
    pub(super) fn describes(&self, path: &Path) -> bool {
        self.described.contains(&self.key(path))
    }

    /// The layer has an entry in the directory `path`.
    pub(super) fn note_used(&mut self, path: &Path) {
        if self.used.contains(&self.key(path)) {
            return;
        }
        let keys: Vec<u128> = self.keys(path).collect();
        self.used.extend(keys);
    }

    /// Whether the layer has an entry at `path` or below it: then it outlives a removal.
    pub(super) fn holds(&self, path: &Path) -> bool {
        let key = self.key(path);
        self.described.contains(&key) || self.used.contains(&key)
    }

    /// The same, where all is the layer's without being remembered.
    pub(super) fn may_hold(&self, path: &Path) -> bool {
        self.holds(path) || self.is_purged(path)
    }

    /// Notes that nothing of the lower tree is left in the directory `path`, nor below it; false if that is known.
    pub(super) fn purge(&mut self, path: &Path) -> bool {
        !self.is_purged(path) && self.purged.insert(self.key(path))
    }

    /// Whether nothing of the lower tree is left in the directory `path`. Once that is so, it stays.
    pub(super) fn is_purged(&self, path: &Path) -> bool {
        !self.purged.is_empty() && self.keys(path).any(|key| self.purged.contains(&key))
    }

    /// The directory `path` gets `meta` at the end.
    pub(super) fn owe(&mut self, path: PathBuf, meta: Meta) {
        let xattrs: usize = meta.xattrs.iter().map(|(name, value)| name.len() + value.len()).sum();
        self.due_bytes += DUE_BYTES + path.as_os_str().len() + xattrs;
        self.due.insert(path, Due::Meta(Box::new(meta)));
    }

    /// The directory `path` gets back its mtime at the end, unless more is due.
    pub(super) fn restore(&mut self, path: &Path, mtime: Timestamp) {
        self.due.entry(path.to_owned()).or_insert_with(|| {
            self.due_bytes += DUE_BYTES + path.as_os_str().len();
            Due::Time(mtime)
        });
    }

    /// Whether more is due than memory should hold.
    pub(super) fn owes_much(&self) -> bool {
        self.due_bytes > self.due_bytes_max
    }

    /// The directory `path` is gone, with everything below it.
    pub(super) fn forget_below(&mut self, path: &Path) {
        remove_below(&mut self.due, path);
    }

    /// Takes the attributes that are due, in the order of the paths.
    pub(super) fn take_due(&mut self) -> BTreeMap<PathBuf, Due> {
        self.due_bytes = 0;
        std::mem::take(&mut self.due)
    }
}

/// Goes on from a directory to `name` in it.
fn add(hashers: &mut [DefaultHasher; 2], name: &OsStr) {
    for hasher in hashers {
        hasher.write(name.as_bytes());
        hasher.write_u8(b'/');
    }
}

fn key_of([high, low]: &[DefaultHasher; 2]) -> u128 {
    u128::from(high.finish()) << 64 | u128::from(low.finish())
}

/// Removes `path` and everything below it from a map.
pub(super) fn remove_below<T>(map: &mut BTreeMap<PathBuf, T>, path: &Path) {
    for gone in below(map, path) {
        map.remove(&gone);
    }
}

/// Which paths of a map are `path` or below it.
pub(super) fn below<T>(map: &BTreeMap<PathBuf, T>, path: &Path) -> Vec<PathBuf> {
    let from = (Bound::Included(path), Bound::Unbounded);
    map.range::<Path, _>(from).map(|(found, _)| found).take_while(|found| found.starts_with(path)).cloned().collect()
}
