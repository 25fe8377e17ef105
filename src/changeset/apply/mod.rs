//! Writes a stream of changes into a tree, by the rules of the image specification and whatever the stream holds.
//!
//! # What a layer can reach
//! The parents of a path are resolved below the root, through links of lower layers and of the layer itself
//! (`lib -> usr/lib`), as if the root were `/`; the last component is never followed. Every name is used beneath the
//! descriptor of its directory, and that was opened from the root without following a link. Nothing outside the root
//! is written, even if somebody swaps directories for links meanwhile.
//!
//! # What is remembered
//! Removals apply to what lay below before this layer, in whatever order the stream gives them. So the paths of the
//! layer are remembered as hashes (`ledger.rs`), 16 bytes each, unless all in their directory is the layer's;
//! directories that were touched, by path, with what they get at the end, or before that if they are many: who is
//! touched after that is as one of the lower tree, with what it got; and links to entries that are still to come.
//!
//! # Work
//! In proportion to the layer and to what it removes, whatever the stream says and how often. A directory is listed
//! once in search of what is to be removed: nothing that was below before comes back. A path is followed through a
//! bounded number of links and components, from the nearest directory above it that is open. Its bytes are read a
//! bounded number of times, however many directories it leads through. What is remembered of a removed directory goes
//! with it, each entry once.
//!
//! # Decisions
//! Numbers are those of the checklist of layer semantics, as the tests are named.
//! * 4, 5, 7: a path that the layer has both as an entry and as a removal is the entry, fresh: of a directory nothing
//!   of the lower tree is left, its attributes included.
//! * 6: a removal below something that does not exist removes nothing, and makes no parents.
//! * 8: `Opaque` makes its directory where there is none, replaces what is no directory, and follows a link to one.
//! * 18: missing parents are 0755, owner 0:0, mtime 0; existing ones keep their attributes and get their mtime back.
//! * 19: a parent component that is neither a directory nor a link to one is replaced by a directory.
//! * 20: a path through more than 40 links is an error.
//! * 21: a directory replaces a link.
//! * 27: the later entry wins.
//! * 30: a link to an entry that is not there yet, or to a lower directory, is made at the end. A link to an entry of
//!   the lower tree is taken back when a removal of its target follows, and waits for an entry of the layer to link to:
//!   without one it is an error, as it is where the removal comes first.
//! * 32: at the file system's limit of names a link is an error, never a copy: `apply(changes(x)) == x`.
//! * 36: `user.*` attributes of links and special files, and the attributes that do not travel, are dropped and
//!   counted; 39: those of overlayfs are an error, and so is any other that cannot be set.
//! * 42: a time beyond the file system's range becomes the nearest it has, and is counted.
//!
//! # References
//! OCI image specification, `layer.md`, "Applying Changesets"; `openat2(2)`, `path_resolution(7)`.

mod create;
mod ledger;
mod link;
mod remove;
mod rescue;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::io::Read;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use self::create::Creation;
use self::ledger::{Due, Ledger};
use self::link::Borrowed;
use super::tar::ENTRIES_MAX;
use super::tar_split::TarSplitWriter;
use super::{Change, Piece, Segment, Sink};
use crate::error::{Error, ErrorKind, Result};
use crate::tree::resolve::{Found, Parent, Resolver};
use crate::tree::{Dir, FileType, Meta, Node, Timestamp};

/// Times within this many seconds of 1970 exist on every file system: others are looked at after they were set.
const TIME_CERTAIN_S: i64 = i32::MAX as i64;

/// How long the paths of links to later entries, and of devices that could not be made, may be in all: some 80,000 of
/// ordinary length. Writers of layers put a link behind its target.
const WAITING_BYTES_MAX: usize = 8 << 20;

/// How many directories a layer may have made by naming what is below them: as many as it may have entries. One entry
/// can name 2,000.
const IMPLIED_MAX: u64 = ENTRIES_MAX;

/// The result of applying a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Changes that were taken.
    pub entries: u64,
    /// Devices that were left out because the caller may not make them, and links to such.
    pub skipped_devices: u64,
    /// Times that the file system cannot hold.
    pub clamped_times: u64,
    /// Extended attributes that were left out because they cannot be where the layer has them.
    pub dropped_xattrs: u64,
}

/// A [`Sink`] which writes into a tree: a plain directory, or a merged view of overlayfs.
///
/// After an error the tree is in no defined state and is to be thrown away. Nothing is synced.
#[derive(Debug)]
#[must_use = "directories get their attributes, and late links are made, by `finish`"]
pub struct Applier {
    resolver: Resolver,
    ledger: Ledger,
    creation: Creation,
    /// Links to entries that did not exist yet: where, and to what.
    deferred: BTreeMap<PathBuf, PathBuf>,
    /// Links to inodes of the lower tree.
    borrowed: Borrowed,
    /// Where a device would be that could not be made.
    skipped: HashSet<PathBuf>,
    /// How long the paths are that came to be in these two.
    waiting_bytes: usize,
    /// How many directories were made that the layer does not describe.
    implied: u64,
    /// How many entries of directories were listed in search of what is to be removed.
    listed: u64,
    tar_split: Option<TarSplitWriter>,
    applied: Applied,
}

/// A name of the tree: the directory that holds it, and where that is without any link.
struct ResolvedName {
    parent: Arc<Parent>,
    name: OsString,
    /// The path without links.
    path: PathBuf,
}

impl Applier {
    /// Writes below `root`. Nobody else should change the tree meanwhile, nor the process its umask.
    pub fn new(root: Dir) -> Self {
        let mut ledger = Ledger::default();
        // A root that cannot be listed is taken for one that holds something.
        if root.names().is_ok_and(|names| names.is_empty()) {
            ledger.purge(Path::new(""));
        }
        Self {
            resolver: Resolver::new(root),
            ledger,
            creation: Creation::default(),
            deferred: BTreeMap::new(),
            borrowed: Borrowed::default(),
            skipped: HashSet::new(),
            waiting_bytes: 0,
            implied: 0,
            listed: 0,
            tar_split: None,
            applied: Applied::default(),
        }
    }

    /// Writes below `root`, and the tar-split data of the archive that the changes come from with `tar_split`.
    pub fn with_tar_split(root: Dir, tar_split: TarSplitWriter) -> Self {
        Self { tar_split: Some(tar_split), ..Self::new(root) }
    }

    /// Makes the links to entries that came later, and gives all directories that were touched their attributes and
    /// times.
    ///
    /// # Errors
    /// `InvalidArgument` naming a link whose target never came; what the system calls report.
    pub fn finish(mut self) -> Result<Applied> {
        self.make_deferred()?;
        self.settle()?;
        match self.tar_split {
            Some(tar_split) => tar_split.finish().map(|()| self.applied),
            None => Ok(self.applied),
        }
    }

    /// Gives directories what is due to them.
    fn settle(&mut self) -> Result<()> {
        let mut descent = self.resolver.descent();
        for (path, due) in self.ledger.take_due() {
            let dir = descent.open(&path)?;
            match due {
                Due::Time(mtime) => dir.set_mtime("", mtime)?,
                Due::Meta(meta) => {
                    dir.set_meta("", &meta)?;
                    self.applied.clamped_times += u64::from(is_clamped(dir, OsStr::new(""), meta.mtime)?);
                }
            }
        }
        // The resolver remembers the directories as they were before.
        self.resolver.forget();
        Ok(())
    }

    /// The directory `path` of the layer, made where it does not exist.
    fn dir(&mut self, path: &Path) -> Result<Arc<Parent>> {
        let parent = match self.resolver.find(path)? {
            Found::Dir(parent) => parent,
            Found::Gap { above, missing } => {
                let mut parent = above;
                for name in missing {
                    parent = self.implied_dir(&parent, &name)?;
                }
                self.resolver.remember(path, &parent);
                parent
            }
        };
        if !self.is_purged(&parent) {
            self.ledger.note_used(&parent.path);
        }
        Ok(parent)
    }

    /// Whether all in `parent` is the layer's. What has become so since it was opened may go unnoticed.
    fn is_purged(&self, parent: &Parent) -> bool {
        *parent.purged.get_or_init(|| self.ledger.is_purged(&parent.path))
    }

    /// Notes that the layer has an entry at `path`, a name in `parent`. Not before what was there is gone, which may
    /// have been the lower tree's.
    fn describe(&mut self, parent: &Parent, path: &Path) {
        if !self.is_purged(parent) {
            self.ledger.describe(path);
        }
    }

    /// Whether what is at `place` is an entry of the layer.
    fn describes(&self, place: &ResolvedName) -> bool {
        self.is_purged(&place.parent) || self.ledger.describes(&place.path)
    }

    /// Makes a directory that the layer does not describe, in place of whatever is there.
    fn implied_dir(&mut self, parent: &Parent, name: &OsStr) -> Result<Arc<Parent>> {
        self.implied += 1;
        if self.implied > IMPLIED_MAX {
            let message = format!("more than {IMPLIED_MAX} directories that are in paths of the layer alone");
            return Err(Error::new(ErrorKind::ResourceExhausted, message));
        }
        let path = parent.path.join(name);
        self.clear(parent, name, &path)?;
        self.make_dir(parent, name, &path)?;
        self.ledger.owe(path.clone(), Meta::implied_dir());
        let made = Parent::new(parent.dir.open_dir(name)?, path)?;
        // Nothing was there before. So nothing in it is looked up among what is remembered.
        made.purged.get_or_init(|| true);
        Ok(Arc::new(made))
    }

    /// The place of an entry of the layer, which has to be below the root; its parents are made.
    fn place(&mut self, path: &Path) -> Result<ResolvedName> {
        let (above, name) = split(path)?;
        let parent = self.dir(above)?;
        let path = parent.path.join(name);
        Ok(ResolvedName { parent, name: name.to_owned(), path })
    }

    /// The place of a path whose parents may be missing: then there is none.
    fn existing_place(&mut self, path: &Path) -> Result<Option<ResolvedName>> {
        let (above, name) = split(path)?;
        Ok(match self.resolver.find(above)? {
            Found::Dir(parent) => {
                let path = parent.path.join(name);
                Some(ResolvedName { parent, name: name.to_owned(), path })
            }
            Found::Gap { .. } => None,
        })
    }

    fn put(&mut self, path: &Path, meta: &Meta, data: &mut dyn Read) -> Result<()> {
        let meta = self.acceptable(path, meta)?;
        if path.as_os_str().is_empty() {
            if meta.node.file_type() != FileType::Dir {
                let message = format!("the root of a layer is a {}: it has to be a directory", meta.node.file_type());
                return Err(Error::invalid(message));
            }
            self.ledger.describe(path);
            self.ledger.owe(PathBuf::new(), meta);
            return Ok(());
        }
        let place = self.place(path)?;
        self.deferred.remove(&place.path);
        self.skipped.remove(&place.path);
        let _ = self.borrowed.remove(&place.path);
        if meta.node.file_type() == FileType::Dir {
            return self.put_dir(place, meta);
        }
        self.touch(&place.parent);
        self.create(&place, &meta, data)?;
        self.describe(&place.parent, &place.path);
        if let (Some(tar_split), Node::File { .. }) = (&mut self.tar_split, &meta.node) {
            tar_split.content(&place.path)?;
        }
        self.applied.clamped_times += u64::from(is_clamped(&place.parent.dir, &place.name, meta.mtime)?);
        Ok(())
    }

    /// A directory keeps what it holds; anything else is replaced by one.
    fn put_dir(&mut self, place: ResolvedName, meta: Meta) -> Result<()> {
        let ResolvedName { parent, name, path } = place;
        let is_dir = |stat: crate::tree::Stat| stat.file_type == FileType::Dir;
        if !parent.dir.stat_if_any(&name)?.is_some_and(is_dir) {
            self.clear(&parent, &name, &path)?;
            self.make_dir(&parent, &name, &path)?;
        }
        self.describe(&parent, &path);
        self.ledger.owe(path, meta);
        Ok(())
    }

    /// Counts a path that has to be kept until the end.
    fn keep_waiting(&mut self, path: &Path) -> Result<()> {
        self.waiting_bytes += path.as_os_str().len();
        if self.waiting_bytes <= WAITING_BYTES_MAX {
            return Ok(());
        }
        let message = format!(
            "links to later entries and devices that are left out: more than {WAITING_BYTES_MAX} bytes of paths"
        );
        Err(Error::new(ErrorKind::ResourceExhausted, message))
    }

    /// Notes that the content of a directory changes, and hence its mtime.
    fn touch(&mut self, parent: &Parent) {
        if parent.touched() {
            self.ledger.restore(&parent.path, parent.mtime);
        }
    }
}

/// Whether the file system does not hold a time as it was set.
fn is_clamped(dir: &Dir, name: &OsStr, mtime: Timestamp) -> Result<bool> {
    let certain = -TIME_CERTAIN_S..=TIME_CERTAIN_S;
    Ok(!certain.contains(&mtime.seconds)
        && dir.stat_if_any(name)?.is_some_and(|stat| stat.mtime.seconds != mtime.seconds))
}

impl Sink for Applier {
    fn change(&mut self, change: &Change, data: &mut dyn Read) -> Result<()> {
        check_path(change.path())?;
        match change {
            Change::Put { path, meta, .. } => self.put(path, meta, data)?,
            Change::Link { path, target, .. } => self.link(path, target)?,
            Change::Remove { path } => self.remove(path)?,
            Change::Opaque { path } => self.hide(path)?,
        }
        self.applied.entries += 1;
        self.creation.segments = None;
        if self.ledger.owes_much() { self.settle() } else { Ok(()) }
    }

    fn sparse(&mut self, segments: &[Segment]) -> bool {
        self.creation.segments = Some(segments.to_vec());
        true
    }

    fn piece(&mut self, piece: Piece<'_>) -> Result<()> {
        self.tar_split.as_mut().map_or(Ok(()), |tar_split| tar_split.piece(piece))
    }
}

/// Whether a path is one of a tree: relative, without `.` and `..`.
fn check_path(path: &Path) -> Result<()> {
    if path.components().all(|component| matches!(component, Component::Normal(_))) {
        return Ok(());
    }
    Err(Error::invalid(format!("{}: a path in a layer is relative and has no \"..\"", path.display())))
}

/// The directory and the name of a path; the root has neither.
fn split(path: &Path) -> Result<(&Path, &OsStr)> {
    match (path.parent(), path.file_name()) {
        (Some(above), Some(name)) => Ok((above, name)),
        _ => Err(Error::invalid("the root of a layer can only be put, and made opaque")),
    }
}
