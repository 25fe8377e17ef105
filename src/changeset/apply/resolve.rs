//! From a path of a layer to the directory that it means, through the links of the tree and never out of it.
//!
//! Invariant: what is handed out was opened from the root by a path without links, and that path comes with it. Links
//! are only read to find it.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::error::{Context, Error, Result};
use crate::tree::{Dir, FileType, Timestamp};

/// How many links one path may lead through: the kernel's own limit.
const LINKS_MAX: u32 = 40;

/// How many components the links of one path may have in all: forty of ordinary length, and no work worth attacking.
const STEPS_MAX: u32 = 512;

/// How many directories are kept open: those of a stream in order, with the targets of its links. Full, the cache
/// starts again; opening one costs about a microsecond.
const CACHE_MAX: usize = 64;

/// An open directory that entries of the layer go to.
#[derive(Debug)]
pub(crate) struct Parent {
    pub(crate) dir: Dir,
    /// Where it is, without links.
    pub(crate) path: PathBuf,
    /// Its mtime when it was opened.
    pub(crate) mtime: Timestamp,
    /// Whether what is made in it belongs to its maker and has no ACL: it is not set-gid and has no default ACL.
    pub(crate) plain: bool,
    touched: AtomicBool,
    /// Whether it was found to hold nothing of the lower tree: [`super::Ledger::is_purged`].
    pub(super) purged: OnceLock<bool>,
}

impl Parent {
    pub(crate) fn new(dir: Dir, path: PathBuf) -> Result<Self> {
        let stat = dir.stat("")?;
        let plain = stat.mode & libc::S_ISGID == 0 && dir.xattr("", c"system.posix_acl_default")?.is_none();
        let (touched, purged) = (AtomicBool::new(false), OnceLock::new());
        Ok(Self { dir, path, mtime: stat.mtime, plain, touched, purged })
    }

    /// Where the link `name` in it leads, as a path of the tree, whatever is there.
    pub(crate) fn link_target(&self, name: &OsStr) -> Result<PathBuf> {
        let target = PathBuf::from(OsString::from_vec(self.dir.read_link(name)?));
        let mut path = if target.is_absolute() { PathBuf::new() } else { self.path.clone() };
        for component in target.components() {
            match component {
                Component::Normal(name) => path.push(name),
                // Of the root it is the root.
                Component::ParentDir => drop(path.pop()),
                _ => {}
            }
        }
        Ok(path)
    }

    /// Says that its content changes; true the first time.
    pub(crate) fn touched(&self) -> bool {
        !self.touched.swap(true, Ordering::Relaxed)
    }
}

/// Where a path of the layer leads.
pub(crate) enum Found {
    /// To this directory.
    Dir(Arc<Parent>),
    /// Not to a directory: the first of `missing` is none in `above`, nor a link to one.
    Gap { above: Arc<Parent>, missing: Vec<OsString> },
}

#[derive(Debug)]
pub(crate) struct Resolver {
    root: Dir,
    /// By the path that was asked for. Valid as long as no directory and no link was removed.
    cache: HashMap<PathBuf, Arc<Parent>>,
}

impl Resolver {
    pub(crate) fn new(root: Dir) -> Self {
        Self { root, cache: HashMap::new() }
    }

    /// A directory or a link was removed: every path may lead elsewhere now.
    pub(crate) fn forget(&mut self) {
        self.cache.clear();
    }

    /// From now on `path` leads to `parent`.
    pub(crate) fn remember(&mut self, path: &Path, parent: &Arc<Parent>) {
        if self.cache.len() >= CACHE_MAX {
            self.cache.clear();
        }
        self.cache.insert(path.to_owned(), Arc::clone(parent));
    }

    /// Opens the directory at `path`, which has no links.
    pub(crate) fn open(&self, path: &Path) -> Result<Dir> {
        self.try_open(path).at("open directory", self.root.shown_at(path))
    }

    fn try_open(&self, path: &Path) -> std::result::Result<Dir, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let below = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let fd = rustix::fs::openat2(&self.root, below, flags, Mode::empty(), resolve)?;
        Ok(Dir::from_fd(fd, self.root.shown_at(path)))
    }

    /// Opens the directory at `path`, which has no links, for entries to go to.
    pub(crate) fn parent(&mut self, path: PathBuf) -> Result<Arc<Parent>> {
        if let Some(known) = self.cache.get(&path)
            && known.path == path
        {
            return Ok(Arc::clone(known));
        }
        let parent = Arc::new(Parent::new(self.open(&path)?, path)?);
        self.remember(&parent.path, &parent);
        Ok(parent)
    }

    /// Finds the directory that `path` of the layer means.
    ///
    /// # Errors
    /// `InvalidArgument` for too many links; what the system calls report.
    pub(crate) fn find(&mut self, path: &Path) -> Result<Found> {
        if let Some(parent) = self.cache.get(path) {
            return Ok(Found::Dir(Arc::clone(parent)));
        }
        let found = match self.try_open(path) {
            Ok(dir) => Found::Dir(Arc::new(Parent::new(dir, path.to_owned())?)),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => self.walk(path)?,
            Err(errno) => return Err(errno).at("open directory", self.root.shown_at(path)),
        };
        if let Found::Dir(parent) = &found {
            self.remember(path, parent);
        }
        Ok(found)
    }

    /// Finds what `path` means, the last component followed too; `None` if it means nothing. The root is an empty name.
    ///
    /// # Errors
    /// As [`Self::find`].
    #[cfg(feature = "build")]
    pub(crate) fn locate(&mut self, path: &Path) -> Result<Option<(Arc<Parent>, OsString, crate::tree::Stat)>> {
        let mut path = path.to_owned();
        for _ in 0..=LINKS_MAX {
            let (above, name) =
                (path.parent().unwrap_or(Path::new("")), path.file_name().unwrap_or_default().to_owned());
            let Found::Dir(parent) = self.find(above)? else { return Ok(None) };
            match parent.dir.stat_if_any(&name)? {
                Some(stat) if stat.file_type == FileType::Symlink => path = parent.link_target(&name)?,
                Some(stat) => return Ok(Some((parent, name, stat))),
                None => return Ok(None),
            }
        }
        Err(Error::invalid(format!("{}: leads through more than {LINKS_MAX} symbolic links", path.display()))
            .with_source(Errno::LOOP))
    }

    /// Goes down `path` one component at a time.
    fn walk(&mut self, path: &Path) -> Result<Found> {
        let mut budget = Budget { path, links: 0, steps: 0 };
        let (mut dir, mut place) = (self.root.try_clone()?, PathBuf::new());
        let mut names = path.iter();
        while let Some(name) = names.next() {
            match dir.stat_if_any(name)?.map(|stat| stat.file_type) {
                Some(FileType::Dir) => {
                    dir = dir.open_dir(name)?;
                    place.push(name);
                    continue;
                }
                Some(FileType::Symlink) => {
                    if let Some(target) = self.follow(&dir, &place, name, &mut budget)? {
                        dir = self.open(&target)?;
                        place = target;
                        continue;
                    }
                }
                _ => {}
            }
            let above = self.parent(place)?;
            return Ok(Found::Gap {
                above,
                missing: std::iter::once(name).chain(names).map(OsStr::to_owned).collect(),
            });
        }
        self.parent(place).map(Found::Dir)
    }

    /// The path without links of the directory that the link `name` in `dir`, which is at `place`, leads to; none if it
    /// leads to anything else. `..` of the root is the root, and an absolute target starts there.
    fn follow(&self, dir: &Dir, place: &Path, name: &OsStr, budget: &mut Budget<'_>) -> Result<Option<PathBuf>> {
        let mut todo = Vec::new();
        let mut place = place.to_owned();
        let mut dir = self.read_link(dir, &mut place, name, &mut todo, budget)?;
        while let Some(name) = todo.pop() {
            budget.step()?;
            if name == ".." {
                if place.pop() {
                    dir = self.open(&place)?;
                }
                continue;
            }
            match dir.stat_if_any(&name)?.map(|stat| stat.file_type) {
                Some(FileType::Dir) => {
                    dir = dir.open_dir(&name)?;
                    place.push(&name);
                }
                Some(FileType::Symlink) => dir = self.read_link(&dir, &mut place, &name, &mut todo, budget)?,
                _ => return Ok(None),
            }
        }
        Ok(Some(place))
    }

    /// Puts the components of a link on `todo`, last first, and answers with the directory from which they go on.
    fn read_link(
        &self,
        dir: &Dir,
        place: &mut PathBuf,
        name: &OsStr,
        todo: &mut Vec<OsString>,
        budget: &mut Budget<'_>,
    ) -> Result<Dir> {
        budget.link()?;
        let target = OsString::from_vec(dir.read_link(name)?);
        let components = target.as_bytes().split(|byte| *byte == b'/').filter(|name| !matches!(*name, b"" | b"."));
        todo.extend(components.rev().map(|name| OsStr::from_bytes(name).to_owned()));
        if target.as_bytes().starts_with(b"/") {
            place.clear();
            self.root.try_clone()
        } else {
            dir.try_clone()
        }
    }
}

/// How far one path may lead.
struct Budget<'a> {
    path: &'a Path,
    links: u32,
    steps: u32,
}

impl Budget<'_> {
    fn link(&mut self) -> Result<()> {
        self.links += 1;
        self.check()
    }

    fn step(&mut self) -> Result<()> {
        self.steps += 1;
        self.check()
    }

    fn check(&self) -> Result<()> {
        if self.links <= LINKS_MAX && self.steps <= STEPS_MAX {
            return Ok(());
        }
        Err(Error::invalid(format!("{}: leads through more than {LINKS_MAX} symbolic links, or through links of more than {STEPS_MAX} components", self.path.display()))
            .with_source(Errno::LOOP))
    }
}
