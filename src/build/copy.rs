//! `COPY` and `ADD`: the changes that they make, and a digest of the copied files.
//!
//! # Decisions
//! - Files keep their times. The target and its parents, where they are missing, get mode 0755, owner 0:0 and mtime 0,
//!   unless `--chown` or an octal `--chmod` says otherwise. So the same sources make the same layer at any time and on
//!   every strategy.
//! - Files from a build context belong to root and have no extended attributes, because these depend on the user and
//!   the file system of a checkout.
//! - A directory is copied through a link to a directory at its target: `COPY root/ /` works where `/bin` is a link.
//! - Only regular files are opened. A FIFO or a device is copied as a node of the same kind, as BuildKit does. A socket
//!   is left out, because a layer cannot hold one.
//!
//! # References
//! Dockerfile reference, "COPY", "ADD"; BuildKit, `solver/llbsolver/file`, for cases that the reference leaves open.

use std::collections::HashMap;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::archive::{self, Below};
use super::context::{Origin, Selected, open_regular};
use super::mode::Chmod;
use super::remote::Fetched;
use super::target::{ImagePath, Target, no_directory};
use crate::changeset::{Change, Sink};
use crate::door::IngestOptions;
use crate::error::{Context as _, Error, Result};
use crate::id::Digest;
use crate::tree::resolve::{Found, Resolver};
use crate::tree::walk::WalkEntry;
use crate::tree::{Dir, FileType, Meta, Node, Timestamp, Xattrs};

/// The mode of a file that was fetched: as with BuildKit.
const FETCHED_MODE: u32 = 0o600;

/// A `COPY` or `ADD`: its sources, and the attributes of its copies.
#[derive(Debug)]
pub(super) struct Copying<'a> {
    pub(super) origin: &'a Origin,
    pub(super) selected: &'a [Selected],
    /// Names and contents of here-documents.
    pub(super) texts: &'a [(String, String)],
    /// Files that were fetched.
    pub(super) fetched: &'a [Fetched],
    pub(super) unpacks_fetched: bool,
    /// An absolute path; it ends with a slash if it has to be a directory.
    pub(super) target: &'a str,
    /// Owner and group of the copies.
    pub(super) owner: Option<(u32, u32)>,
    pub(super) chmod: Option<&'a Chmod>,
    /// Whether archives are unpacked.
    pub(super) unpacks: bool,
    /// The latest time that a file may have, in seconds since 1970.
    pub(super) epoch: Option<i64>,
}

impl<'a> Copying<'a> {
    /// Returns a copy without sources that keeps all attributes; the caller adds fields.
    pub(super) fn nothing(origin: &'a Origin) -> Self {
        Self {
            origin,
            selected: &[],
            texts: &[],
            fetched: &[],
            unpacks_fetched: false,
            target: "/",
            owner: None,
            chmod: None,
            unpacks: false,
            epoch: None,
        }
    }
}

impl Copying<'_> {
    /// Returns a digest of the selected files and the here-documents, without times.
    pub(super) fn digest(&self) -> Result<Digest> {
        let mut hasher = Sha256::new();
        let mut field = |bytes: &[u8]| {
            hasher.update((bytes.len() as u64).to_le_bytes());
            hasher.update(bytes);
        };
        for selected in self.selected {
            field(b"source");
            field(selected.name.as_bytes());
            let mut links = Links::default();
            self.origin.visit(selected, &mut |path, entry| {
                field(path.as_os_str().as_bytes());
                if path.as_os_str().is_empty() && entry.stat.file_type == FileType::Dir {
                    return Ok(());
                }
                if let Some(first) = links.first(entry, path) {
                    field(b"link");
                    field(first.as_os_str().as_bytes());
                    return Ok(());
                }
                let Meta { node, mode, uid, gid, mtime: _, xattrs } = self.meta(entry)?;
                field(format!("{mode:o} {uid} {gid} {xattrs:?} {node:?}").as_bytes());
                if matches!(node, Node::File { .. }) {
                    field(content_digest(entry)?.as_bytes());
                }
                Ok(())
            })?;
        }
        for (name, text) in self.texts {
            field(b"text");
            field(name.as_bytes());
            field(text.as_bytes());
        }
        Ok(Digest::finish(hasher))
    }

    /// Pushes the changes of the copy into `sink`. `root` is the tree below; without it, no link is resolved.
    pub(super) fn write(&self, root: Option<&Dir>, ingest: &IngestOptions, sink: &mut dyn Sink) -> Result<()> {
        let count = self.selected.len() + self.texts.len() + self.fetched.len();
        if count == 0 {
            return Ok(());
        }
        let archives = self.selected.iter().map(|selected| self.is_archive(selected)).collect::<Result<Vec<_>>>()?;
        let mut resolver = root.map(|root| root.try_clone().map(Resolver::new)).transpose()?;
        let unpacked = self.fetched.iter().map(|file| self.is_unpacked(file)).collect::<Result<Vec<_>>>()?;
        let are_dirs =
            self.selected.iter().zip(&archives).map(|(selected, is_archive)| selected.is_dir() || *is_archive);
        // If nothing exists at the target, the first source decides whether the target is a directory or a file.
        let makes_dir = unpacked.iter().copied().chain(are_dirs).next().unwrap_or(false);
        let place = ImagePath::find(self.target, resolver.as_mut())?;
        let target = place.target(self.target, count, makes_dir)?;
        self.make_dirs(
            &target,
            archives.iter().chain(&unpacked).all(|is_archive| *is_archive) && self.texts.is_empty(),
            sink,
        )?;
        let mut ground = Ground::new(resolver.filter(|_| target.exists), count > 1);
        for (fetched, is_unpacked) in self.fetched.iter().zip(&unpacked) {
            self.write_fetched(fetched, *is_unpacked, &target, (&mut ground, ingest), sink)?;
        }
        for (selected, is_archive) in self.selected.iter().zip(archives) {
            if selected.is_dir() {
                self.write_dir(selected, &target, &mut ground, sink)?;
            } else if is_archive {
                let mut below = Below { target: &target.path, adopt: &|meta| self.adopt(meta), sink: &mut *sink };
                archive::unpack(self.origin, selected, ingest, &mut below)?;
            } else {
                let path = target.path_of(&selected.name);
                self.origin.visit(selected, &mut |_, entry| {
                    ground.check_file(&path)?;
                    self.put(entry, path.clone(), sink)
                })?;
            }
        }
        for (name, text) in self.texts {
            let path = target.path_of(name.as_ref());
            ground.check_file(&path)?;
            let (uid, gid) = self.owner.unwrap_or_default();
            let node = Node::File { size: text.len() as u64 };
            let mode = self.chmod.map_or(0o644, |chmod| chmod.apply(0o644, false));
            let meta = Meta { node, mode, uid, gid, mtime: Timestamp::EPOCH, xattrs: Xattrs::new() };
            sink.change(&Change::Put { path, existed: false, meta }, &mut text.as_bytes())?;
        }
        Ok(())
    }

    fn is_unpacked(&self, fetched: &Fetched) -> Result<bool> {
        let mut file = fetched.file.try_clone().at("duplicate descriptor of", &fetched.name)?;
        Ok(self.unpacks_fetched && archive::is_archive(&mut file, fetched.name.as_ref())?)
    }

    fn write_fetched(
        &self,
        fetched: &Fetched,
        is_unpacked: bool,
        target: &Target,
        (ground, ingest): (&mut Ground, &IngestOptions),
        sink: &mut dyn Sink,
    ) -> Result<()> {
        let mut file = fetched.file.try_clone().at("duplicate descriptor of", &fetched.name)?;
        if is_unpacked {
            let mut below = Below { target: &target.path, adopt: &|meta| self.adopt(meta), sink };
            return archive::unpack_file(file, fetched.name.as_ref(), ingest, &mut below);
        }
        let path = target.path_of(fetched.name.as_ref());
        ground.check_file(&path)?;
        let mode = self.chmod.map_or(FETCHED_MODE, |chmod| chmod.apply(FETCHED_MODE, false));
        let node = Node::File { size: fetched.size };
        let mut meta = Meta { node, mode, uid: 0, gid: 0, mtime: fetched.mtime, xattrs: Xattrs::new() };
        self.adopt(&mut meta);
        sink.change(&Change::Put { path, existed: false, meta }, &mut file)
    }

    /// Makes the missing directories of the target.
    fn make_dirs(&self, target: &Target, for_archives: bool, sink: &mut dyn Sink) -> Result<()> {
        let (uid, gid) = self.owner.unwrap_or_default();
        let chmod = self.chmod.filter(|_| !for_archives);
        let meta = Meta { uid, gid, mode: Chmod::of_new_dir(chmod), ..Meta::implied_dir() };
        for path in &target.missing {
            let change = Change::Put { path: path.clone(), existed: false, meta: meta.clone() };
            sink.change(&change, &mut io::empty())?;
        }
        Ok(())
    }

    fn is_archive(&self, selected: &Selected) -> Result<bool> {
        if !self.unpacks || selected.stat.file_type != FileType::File {
            return Ok(false);
        }
        let mut is_archive = false;
        self.origin.visit(selected, &mut |_, entry| {
            is_archive = archive::is_archive(&mut open_regular(entry)?, &entry.dir.shown_at(entry.name))?;
            Ok(())
        })?;
        Ok(is_archive)
    }

    /// Copies the content of a directory.
    fn write_dir(&self, selected: &Selected, target: &Target, ground: &mut Ground, sink: &mut dyn Sink) -> Result<()> {
        let mut links = Links::default();
        self.origin.visit(selected, &mut |below, entry| {
            if below.as_os_str().is_empty() {
                return Ok(());
            }
            let path = target.path.join(below);
            if entry.stat.file_type == FileType::Dir {
                return if ground.keeps_dir(&path)? { Ok(()) } else { self.put(entry, path, sink) };
            }
            ground.check_file(&path)?;
            match links.first(entry, &path) {
                Some(first) => sink.change(&Change::Link { path, target: first, existed: false }, &mut io::empty()),
                None => self.put(entry, path, sink),
            }
        })
    }

    fn put(&self, entry: &WalkEntry<'_>, path: PathBuf, sink: &mut dyn Sink) -> Result<()> {
        if entry.stat.file_type == FileType::Socket {
            return Ok(());
        }
        let meta = self.meta(entry)?;
        let mut data: Box<dyn Read> = match meta.node {
            Node::File { .. } => Box::new(open_regular(entry)?),
            _ => Box::new(io::empty()),
        };
        sink.change(&Change::Put { path, existed: false, meta }, &mut data)
    }

    /// Returns the attributes of the copy of an entry.
    fn meta(&self, entry: &WalkEntry<'_>) -> Result<Meta> {
        let mut meta = entry.dir.meta(entry.name, &entry.stat)?;
        if self.origin.is_context {
            (meta.uid, meta.gid) = (0, 0);
            meta.xattrs.clear();
        }
        if let (Some(chmod), false) = (self.chmod, matches!(meta.node, Node::Symlink { .. })) {
            meta.mode = chmod.apply(meta.mode, matches!(meta.node, Node::Dir));
        }
        self.adopt(&mut meta);
        Ok(meta)
    }

    /// Sets the owner of a copy, and limits its time to `epoch`.
    fn adopt(&self, meta: &mut Meta) {
        if let Some((uid, gid)) = self.owner {
            (meta.uid, meta.gid) = (uid, gid);
        }
        meta.mtime = clamped(meta.mtime, self.epoch);
    }
}

/// The visited files that have several names, each with the path of its first visit.
#[derive(Default)]
struct Links(HashMap<((u32, u32), u64), PathBuf>);

impl Links {
    /// Returns the path of the first visit of the file, if that is not `path`.
    fn first(&mut self, entry: &WalkEntry<'_>, path: &Path) -> Option<PathBuf> {
        if entry.stat.file_type == FileType::Dir || entry.stat.nlink < 2 {
            return None;
        }
        let known = self.0.entry((entry.stat.dev, entry.stat.ino)).or_insert_with(|| path.to_owned());
        (known != path).then(|| known.clone())
    }
}

/// Returns `time`, or `epoch` if that is earlier.
pub(super) fn clamped(time: Timestamp, epoch: Option<i64>) -> Timestamp {
    match epoch {
        Some(seconds) => time.min(Timestamp { seconds, nanos: 0 }),
        None => time,
    }
}

/// The files that a copy can meet at its target: those of the tree, and those of earlier sources of the instruction.
struct Ground {
    resolver: Option<Resolver>,
    /// The paths that earlier sources made, and whether each is a directory; `None` where there is only one source.
    made: Option<HashMap<PathBuf, bool>>,
}

impl Ground {
    fn new(resolver: Option<Resolver>, has_several: bool) -> Self {
        Self { resolver, made: has_several.then(HashMap::new) }
    }

    /// Returns whether a link at `path` leads to a directory, which takes the copied files and keeps its attributes.
    ///
    /// # Errors
    /// `FailedPrecondition` if `path` exists and is no directory.
    fn keeps_dir(&mut self, path: &Path) -> Result<bool> {
        if let Some(false) = self.made.as_mut().and_then(|made| made.insert(path.to_owned(), true)) {
            return Err(no_directory(path));
        }
        let Some(resolver) = &mut self.resolver else { return Ok(false) };
        match resolver.find(path)? {
            Found::Dir(found) => Ok(found.path != path),
            Found::Gap { above, missing } => match missing.first() {
                Some(first) if above.dir.stat_if_any(first)?.is_some() => Err(no_directory(&above.path.join(first))),
                _ => Ok(false),
            },
        }
    }

    /// Refuses a file at `path` if a directory exists there.
    fn check_file(&mut self, path: &Path) -> Result<()> {
        let taken =
            || Error::precondition(format!("/{} is a directory, and a file cannot take its place", path.display()));
        if let Some(true) = self.made.as_mut().and_then(|made| made.insert(path.to_owned(), false)) {
            return Err(taken());
        }
        let (Some(resolver), Some(above), Some(name)) = (&mut self.resolver, path.parent(), path.file_name()) else {
            return Ok(());
        };
        let Found::Dir(above) = resolver.find(above)? else { return Ok(()) };
        match above.dir.stat_if_any(name)? {
            Some(stat) if stat.file_type == FileType::Dir => Err(taken()),
            _ => Ok(()),
        }
    }
}

fn content_digest(entry: &WalkEntry<'_>) -> Result<Digest> {
    let mut hasher = Sha256::new();
    let mut file = open_regular(entry)?;
    let mut buffer = vec![0; 64 << 10];
    loop {
        let count = file.read(&mut buffer).at("read", entry.dir.shown_at(entry.name))?;
        if count == 0 {
            return Ok(Digest::finish(hasher));
        }
        hasher.update(&buffer[..count]);
    }
}
