//! Resolves a path of a layer to a directory of a tree. Links of the tree are followed, and never lead out of it.
//!
//! Invariant: a returned directory was opened from the root by a path without links, and has this path. Links are only
//! read, to find the path.

use std::collections::{HashMap, VecDeque};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::tree::{Dir, FileType, Timestamp};

/// Maximum number of links in the resolution of one path: the kernel's own limit.
const LINKS_MAX: u32 = 40;

/// How many components the links of one path may have in all: forty of ordinary length, and no work worth attacking.
const STEPS_MAX: u32 = 512;

/// How long the paths may be in all that the `..` of one path's links lead to: a thousand of ordinary length, and 64 of
/// the length that a system call takes.
const REOPENED_BYTES_MAX: usize = 256 << 10;

/// Maximum number of directories that a [`Descent`] keeps open.
const DESCENT_MAX: usize = 32;

/// How many directories are kept open: those of a stream in order, with the targets of its links. Full, the cache
/// starts again; opening one costs about a microsecond.
const CACHE_MAX: usize = 64;

/// An open directory that gets entries of the layer.
#[derive(Debug)]
pub(crate) struct Parent {
    pub(crate) dir: Dir,
    /// Its path without links.
    pub(crate) path: PathBuf,
    /// Its mtime when it was opened.
    pub(crate) mtime: Timestamp,
    /// True if the directory is not set-gid and has no default ACL, so that new entries belong to their maker and have
    /// no ACL.
    pub(crate) plain: bool,
    touched: AtomicBool,
    /// True if the directory holds nothing of the lower tree; set by `changeset::apply`.
    pub(crate) purged: OnceLock<bool>,
}

impl Parent {
    pub(crate) fn new(dir: Dir, path: PathBuf) -> Result<Self> {
        let stat = dir.stat("")?;
        let plain = stat.mode & libc::S_ISGID == 0 && dir.xattr("", c"system.posix_acl_default")?.is_none();
        let (touched, purged) = (AtomicBool::new(false), OnceLock::new());
        Ok(Self { dir, path, mtime: stat.mtime, plain, touched, purged })
    }

    /// Returns the target of the link `name` as a path of the tree. The target may be missing.
    pub(crate) fn link_target(&self, name: &OsStr) -> Result<PathBuf> {
        let target = PathBuf::from(OsString::from_vec(self.dir.read_link(name)?));
        let mut path = if target.is_absolute() { PathBuf::new() } else { self.path.clone() };
        for component in target.components() {
            match component {
                Component::Normal(name) => path.push(name),
                // The parent of the root is the root.
                Component::ParentDir => drop(path.pop()),
                _ => {}
            }
        }
        Ok(path)
    }

    /// Notes that the directory's content changes. Returns true the first time.
    pub(crate) fn touched(&self) -> bool {
        !self.touched.swap(true, Ordering::Relaxed)
    }
}

/// The result of resolving a path of the layer.
pub(crate) enum Found {
    /// The directory.
    Dir(Arc<Parent>),
    /// There is no such directory: in `above`, the first of `missing` is neither a directory nor a link to one.
    Gap { above: Arc<Parent>, missing: Vec<OsString> },
}

#[derive(Debug)]
pub(crate) struct Resolver {
    root: Dir,
    /// Directories by the path that was resolved. Valid as long as no directory and no link is removed.
    cache: HashMap<PathBuf, Arc<Parent>>,
}

impl Resolver {
    pub(crate) fn new(root: Dir) -> Self {
        Self { root, cache: HashMap::new() }
    }

    /// Forgets all resolved paths, because a directory or a link was removed.
    pub(crate) fn forget(&mut self) {
        self.cache.clear();
    }

    /// Notes that `path` resolves to `parent`.
    pub(crate) fn remember(&mut self, path: &Path, parent: &Arc<Parent>) {
        if self.cache.len() >= CACHE_MAX {
            self.cache.clear();
        }
        self.cache.insert(path.to_owned(), Arc::clone(parent));
    }

    /// Opens the directory at `path`, which has no links.
    pub(crate) fn open(&self, path: &Path) -> Result<Dir> {
        match self.nearest(path, |known, key| known.path == key) {
            Some((known, rest)) => known.dir.open_beneath(rest),
            None => self.root.open_beneath(path),
        }
    }

    /// Returns a walk over directories of the tree whose paths have no links.
    pub(crate) fn descent(&self) -> Descent<'_> {
        Descent { root: &self.root, open: VecDeque::new() }
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
    /// `InvalidArgument` for too many links; errors of the system calls.
    pub(crate) fn find(&mut self, path: &Path) -> Result<Found> {
        if let Some(parent) = self.cache.get(path) {
            return Ok(Found::Dir(Arc::clone(parent)));
        }
        let found = self.walk(path)?;
        if let Found::Dir(parent) = &found {
            self.remember(path, parent);
        }
        Ok(found)
    }

    /// Resolves `path`, following a link in the last component too. Returns `None` if there is no such entry. The root
    /// has an empty name.
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

    /// The open directory that `path` leads through last, and the rest of the path, among those that `fits` accepts.
    fn nearest<'p>(&self, path: &'p Path, fits: impl Fn(&Parent, &Path) -> bool) -> Option<(&Arc<Parent>, &'p Path)> {
        let inside = self.cache.iter().filter_map(|(key, parent)| Some((key, parent, rest_below(path, key)?)));
        let usable = inside.filter(|(key, parent, _)| !key.as_os_str().is_empty() && fits(parent, key));
        usable.max_by_key(|(key, ..)| key.as_os_str().len()).map(|(_, parent, rest)| (parent, rest))
    }

    /// Goes down `path`: to the next link in one step, and through it. The work grows with the length of the path, and
    /// with the number of links in it.
    fn walk(&mut self, path: &Path) -> Result<Found> {
        let mut budget = Budget { path, links: 0, steps: 0, reopened_bytes: 0 };
        let (mut at, mut rest) = match self.nearest(path, |_, _| true) {
            Some((known, rest)) => (Arc::clone(known), rest),
            None => (self.parent(PathBuf::new())?, path),
        };
        loop {
            let names;
            (at, names) = self.descend(at, rest)?;
            let Some((name, after)) = split_first(names) else { return Ok(Found::Dir(at)) };
            let is_link = at.dir.stat_if_any(name)?.is_some_and(|stat| stat.file_type == FileType::Symlink);
            let target = if is_link { self.follow(&at, name, &mut budget)? } else { None };
            let Some(target) = target else {
                return Ok(Found::Gap { above: at, missing: names.iter().map(OsStr::to_owned).collect() });
            };
            at = self.parent(target)?;
            rest = after;
            self.remember(above(path, rest), &at);
        }
    }

    /// The directory that `rest` leads to from `at` as far as all components are directories, and what is left then.
    fn descend<'p>(&mut self, at: Arc<Parent>, rest: &'p Path) -> Result<(Arc<Parent>, &'p Path)> {
        let bytes = rest.as_os_str().as_bytes();
        let upto = |end: usize| Path::new(OsStr::from_bytes(&bytes[..end]));
        let ends: Vec<usize> = (1..=bytes.len())
            .filter(|end| bytes[end - 1] != b'/' && bytes.get(*end).is_none_or(|b| *b == b'/'))
            .collect();
        // The first `good` components can be opened, the first `bad` cannot. The whole path is tried first.
        let (mut good, mut bad, mut found) = (0, ends.len() + 1, None);
        let mut next = ends.len();
        while good < next {
            match at.dir.open_beneath(upto(ends[next - 1])) {
                Ok(dir) => (good, found) = (next, Some(dir)),
                Err(error) if is_gap(&error) => bad = next,
                Err(error) => return Err(error),
            }
            next = good.midpoint(bad);
        }
        let Some(dir) = found else { return Ok((at, rest)) };
        let place = at.path.join(upto(ends[good - 1]));
        let parent = Arc::new(Parent::new(dir, place)?);
        self.remember(&parent.path, &parent);
        Ok((parent, without_slashes(&bytes[ends[good - 1]..])))
    }

    /// The path without links of the directory that the link `name` in `parent` leads to; none if it leads to anything
    /// else. `..` of the root is the root, and an absolute target starts there.
    fn follow(&self, parent: &Parent, name: &OsStr, budget: &mut Budget<'_>) -> Result<Option<PathBuf>> {
        let mut todo = Vec::new();
        let mut place = parent.path.clone();
        let mut dir = self.read_link(&parent.dir, &mut place, name, &mut todo, budget)?;
        // Whether `place` is above `dir` by now: it is opened when something in it is asked for.
        let mut is_above = false;
        while let Some(name) = todo.pop() {
            budget.step()?;
            if name == ".." {
                is_above |= place.pop();
                continue;
            }
            if std::mem::take(&mut is_above) {
                budget.reopen(&place)?;
                dir = self.open(&place)?;
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

/// Returns the part of `path` below the directory `above`. The paths of a layer are clean, so bytes are compared.
fn rest_below<'p>(path: &'p Path, above: &Path) -> Option<&'p Path> {
    let rest = path.as_os_str().as_bytes().strip_prefix(above.as_os_str().as_bytes())?;
    let is_below = above.as_os_str().is_empty() || rest.first().is_none_or(|byte| *byte == b'/');
    is_below.then(|| without_slashes(rest))
}

/// Returns the part of `path` before `rest`, the end of `path`.
fn above<'p>(path: &'p Path, rest: &Path) -> &'p Path {
    let bytes = path.as_os_str().as_bytes();
    let start = &bytes[..bytes.len() - rest.as_os_str().len()];
    let end = start.iter().rposition(|byte| *byte != b'/').map_or(0, |last| last + 1);
    Path::new(OsStr::from_bytes(&start[..end]))
}

/// Returns the relative path of these bytes.
fn without_slashes(bytes: &[u8]) -> &Path {
    let start = bytes.iter().position(|byte| *byte != b'/').unwrap_or(bytes.len());
    Path::new(OsStr::from_bytes(&bytes[start..]))
}

/// Returns the first component of a relative path, and the rest.
fn split_first(path: &Path) -> Option<(&OsStr, &Path)> {
    let mut components = path.components();
    Some((components.next()?.as_os_str(), components.as_path()))
}

/// Returns true if a path could not be opened because a component is missing, a link, or no directory.
fn is_gap(error: &Error) -> bool {
    matches!(error.errno(), Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP))
}

/// Opens directories one after the other, each from the nearest one above it that is still open. For paths in the order
/// of a tree the work grows with the tree, not with the length of the paths.
pub(crate) struct Descent<'r> {
    root: &'r Dir,
    /// Directories of one path, the lowest last.
    open: VecDeque<(PathBuf, Dir)>,
}

impl Descent<'_> {
    /// Opens the directory `path`, which has no links.
    pub(crate) fn open(&mut self, path: &Path) -> Result<&Dir> {
        while self.open.back().is_some_and(|(above, _)| rest_below(path, above).is_none()) {
            self.open.pop_back();
        }
        let from = self.open.back();
        let rest = from.map_or(Some(path), |(above, _)| rest_below(path, above)).unwrap_or(path);
        let dir = from.map_or(self.root, |(_, dir)| dir).open_beneath(rest)?;
        if self.open.len() >= DESCENT_MAX {
            self.open.pop_front();
        }
        self.open.push_back((path.to_owned(), dir));
        Ok(self.open.back().map_or(self.root, |(_, dir)| dir))
    }
}

/// Limits for the resolution of one path.
struct Budget<'a> {
    path: &'a Path,
    links: u32,
    steps: u32,
    reopened_bytes: usize,
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

    /// Counts a directory that is opened again because a link leads to it by `..`.
    fn reopen(&mut self, place: &Path) -> Result<()> {
        self.reopened_bytes += place.as_os_str().len();
        self.check()
    }

    fn check(&self) -> Result<()> {
        if self.links <= LINKS_MAX && self.steps <= STEPS_MAX && self.reopened_bytes <= REOPENED_BYTES_MAX {
            return Ok(());
        }
        Err(Error::invalid(format!(
            "{}: leads through more than {LINKS_MAX} symbolic links, or through links of more than {STEPS_MAX} \
             components, or up and down very deep directories",
            self.path.display()
        ))
        .with_source(Errno::LOOP))
    }
}
