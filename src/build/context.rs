//! The trees that `COPY` and `ADD` take from: the build context, and the roots of stages and images.
//!
//! Invariant: no file outside a build context is opened. A source whose path leads out of the context, by `..` or
//! through a link, is an error. In the tree of an image a link is resolved with the tree's root as `/`, as in a
//! container.
//!
//! # References
//! Dockerfile reference, "COPY", "`.dockerignore` file"; `openat2(2)`.

use std::ffi::OsString;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use globset::{Glob, GlobBuilder};
use rustix::fs::{OFlags, ResolveFlags};
use rustix::io::Errno;

use super::ignored::Ignored;
use super::input::read_regular;
use crate::error::{Context as _, Error, ErrorKind, Result};
use crate::tree::resolve::{Found, Resolver};
use crate::tree::walk::{Walk, WalkEntry};
use crate::tree::{Dir, FileType, Stat};

/// A tree to copy from.
#[derive(Debug)]
pub(super) struct Origin {
    root: Dir,
    resolver: Resolver,
    /// Patterns of the files that are left out.
    ignored: Ignored,
    /// True for a build context: owners and extended attributes are not copied from it.
    pub(super) is_context: bool,
}

/// A file or directory that a source selects.
#[derive(Clone, Debug)]
pub(super) struct Selected {
    /// The path in the tree, with links resolved.
    pub(super) path: PathBuf,
    /// The last component of the path before links were resolved: the name of the copy.
    pub(super) name: OsString,
    pub(super) stat: Stat,
    filter: Filter,
}

/// The rules for the files below a selected directory.
#[derive(Clone, Debug, Default)]
struct Filter {
    /// The paths below the directory that are left out.
    excluded: Arc<Ignored>,
    /// The paths below the directory that are copied; `None` for all.
    included: Option<Arc<Included>>,
}

/// A source of `COPY --parents`, as a pattern relative to the tree's root, or to the directory before `/./`.
#[derive(Debug)]
struct Included {
    pattern: Ignored,
    /// The components at the start of the pattern that have no wildcards.
    prefix: PathBuf,
}

impl Filter {
    /// Returns whether the filter leaves out `path`, which is relative to the directory.
    fn covers(&self, path: &Path) -> bool {
        self.excluded.covers(path) || self.included.as_ref().is_some_and(|included| !included.pattern.covers(path))
    }

    /// Returns whether the filter leaves out all files below `path`, a directory that it leaves out itself.
    fn ends_at(&self, path: &Path) -> bool {
        let prefix = self.included.as_ref().map_or(Path::new(""), |included| &included.prefix);
        let leads_to = prefix.starts_with(path) || path.starts_with(prefix);
        !leads_to || (self.excluded.covers(path) && !self.excluded.has_exceptions())
    }
}

impl Included {
    fn new(pattern: &str) -> Result<Self> {
        let plain = pattern.split('/').take_while(|part| !part.contains(['*', '?', '[', '\\', '!']));
        let prefix = plain.filter(|part| !matches!(*part, "" | "." | "..")).collect();
        Ok(Self { pattern: Ignored::of([pattern])?, prefix })
    }
}

impl Selected {
    /// Returns whether it is a directory.
    pub(super) fn is_dir(&self) -> bool {
        self.stat.file_type == FileType::Dir
    }
}

impl Origin {
    /// Returns the build context `root`, without the files that `ignored` covers.
    pub(super) fn context(root: Dir, ignored: Ignored) -> Result<Self> {
        let resolver = Resolver::new(root.try_clone()?);
        Ok(Self { root, resolver, ignored, is_context: true })
    }

    /// Returns the tree `root` of an image.
    pub(super) fn image(root: Dir) -> Result<Self> {
        let resolver = Resolver::new(root.try_clone()?);
        Ok(Self { root, resolver, ignored: Ignored::default(), is_context: false })
    }

    /// Selects the files of `source`: a path, or a pattern (`*`, `?`, `[...]`, in each component on its own), which may
    /// match nothing.
    ///
    /// # Errors
    /// `NotFound` for a path that does not exist; `InvalidArgument` for a path that leads out of a build context.
    pub(super) fn select(&mut self, source: &str) -> Result<Vec<Selected>> {
        let mut selected = Vec::new();
        for path in self.expand(source)? {
            self.check_inside(&path)?;
            let Some((parent, name, stat)) = self.resolver.locate(&path)? else {
                self.check_no_link(&path)?;
                continue;
            };
            let place = parent.path.join(&name);
            let name = path.file_name().unwrap_or_default().to_owned();
            let found = Selected { path: place, name, stat, filter: Filter::default() };
            if self.is_seen(&found)? {
                selected.push(found);
            }
        }
        if selected.is_empty() && !has_wildcards(source) {
            return Err(Error::not_found(format!("{source:?} is not there{}", self.hint())));
        }
        Ok(selected)
    }

    /// Selects the files of `source`, without the files that `excluded` covers. With `parents`, the directories above
    /// the files are selected, too; if `source` has `/./`, only the directories after it.
    ///
    /// # Errors
    /// Those of [`Origin::select`].
    pub(super) fn pick(&mut self, source: &str, parents: bool, excluded: &Arc<Ignored>) -> Result<Vec<Selected>> {
        let mut selected = Vec::new();
        if parents {
            let (pivot, pattern) = source.split_once("/./").unwrap_or(("", source));
            if !has_wildcards(source) {
                self.select(source)?;
            }
            let included = Some(Arc::new(Included::new(pattern)?));
            let dirs = self.select(pivot)?.into_iter().filter(Selected::is_dir);
            let filter = Filter { excluded: excluded.clone(), included };
            selected.extend(dirs.map(|dir| Selected { filter: filter.clone(), ..dir }));
        } else {
            let is_named = !has_wildcards(source);
            for mut found in self.select(source)? {
                // `excluded` is for files that a pattern matched, not for a file that the source names, as in BuildKit.
                if !is_named
                    && !found.is_dir()
                    && (excluded.covers(&found.path) || excluded.covers(Path::new(&found.name)))
                {
                    continue;
                }
                found.filter.excluded = excluded.clone();
                selected.push(found);
            }
        }
        Ok(selected)
    }

    /// Returns whether `found` is part of the tree. An ignored directory is part of it if a file below is not ignored.
    fn is_seen(&self, found: &Selected) -> Result<bool> {
        if found.path.as_os_str().is_empty() || !self.ignored.covers(&found.path) {
            return Ok(true);
        }
        let mut is_seen = false;
        if found.is_dir() && self.ignored.has_exceptions() {
            self.visit(found, &mut |path, _| {
                is_seen |= !path.as_os_str().is_empty();
                Ok(())
            })?;
        }
        Ok(is_seen)
    }

    /// Opens a selected file or directory for a bind mount. Also returns its path for messages.
    ///
    /// # Errors
    /// Errors of the file system: `ELOOP` if a link has taken the place of a directory since.
    pub(super) fn open(&self, selected: &Selected) -> Result<(OwnedFd, PathBuf)> {
        let shown = self.root.shown_at(&selected.path);
        let path = if selected.path.as_os_str().is_empty() { Path::new(".") } else { &selected.path };
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_SYMLINKS;
        self.root.open_within(path, OFlags::PATH, resolve).at("open", &shown).map(|opened| (opened, shown))
    }

    /// Refuses a link to a missing file: the source selects the link, and the copy would silently lack it.
    fn check_no_link(&mut self, path: &Path) -> Result<()> {
        let (Some(above), Some(name)) = (path.parent(), path.file_name()) else { return Ok(()) };
        let Found::Dir(above) = self.resolver.find(above)? else { return Ok(()) };
        match above.dir.stat_if_any(name)? {
            Some(Stat { file_type: FileType::Symlink, .. }) if !self.ignored.covers(&above.path.join(name)) => {
                Err(Error::not_found(format!("{} is a symbolic link to something that is not there", path.display())))
            }
            _ => Ok(()),
        }
    }

    fn hint(&self) -> &'static str {
        if self.is_context && !self.ignored.is_empty() { ", or .dockerignore leaves it out" } else { "" }
    }

    /// Returns the paths that the patterns in `source` match; the path `source`, if it has no pattern.
    fn expand(&mut self, source: &str) -> Result<Vec<PathBuf>> {
        let mut paths = vec![PathBuf::new()];
        for component in source.split('/').filter(|component| !matches!(*component, "" | ".")) {
            if component == ".." {
                paths.iter_mut().try_for_each(|path| self.up(path, source))?;
            } else if component.contains(['*', '?', '[', '\\']) {
                paths = self.matching(&paths, component)?;
            } else {
                paths.iter_mut().for_each(|path| path.push(component));
            }
        }
        Ok(paths)
    }

    fn up(&self, path: &mut PathBuf, source: &str) -> Result<()> {
        if path.pop() || !self.is_context {
            return Ok(());
        }
        Err(leaves(source))
    }

    fn matching(&mut self, paths: &[PathBuf], component: &str) -> Result<Vec<PathBuf>> {
        let pattern = glob(component)?.compile_matcher();
        let mut found = Vec::new();
        for path in paths {
            // A link to itself is no directory, so no pattern matches anything in it.
            let found_path = self.check_inside(path).and_then(|()| self.resolver.find(path));
            if found_path.as_ref().is_err_and(|error| error.errno() == Some(Errno::LOOP)) {
                continue;
            }
            let Found::Dir(parent) = found_path? else { continue };
            let names = parent.dir.names()?.into_iter().map(|entry| entry.name);
            found.extend(names.filter(|name| pattern.is_match(name)).map(|name| path.join(name)));
        }
        Ok(found)
    }

    /// Refuses a path that leads out of a build context through a link.
    fn check_inside(&self, path: &Path) -> Result<()> {
        if !self.is_context || path.as_os_str().is_empty() {
            return Ok(());
        }
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        match self.root.open_within(path, OFlags::PATH, resolve) {
            Err(Errno::XDEV) => Err(leaves(&path.display().to_string())),
            Ok(_) | Err(Errno::NOENT | Errno::NOTDIR) => Ok(()),
            Err(errno) => Err(errno).at("open", self.root.shown_at(path)),
        }
    }

    /// Calls `visit` for the selected file or directory and everything below it, with paths that are relative to it.
    pub(super) fn visit(
        &self,
        selected: &Selected,
        visit: &mut dyn FnMut(&Path, &WalkEntry<'_>) -> Result<()>,
    ) -> Result<()> {
        let above = selected.path.parent().unwrap_or(Path::new(""));
        let parent = self.root.open_beneath(above)?;
        let name = selected.path.file_name().unwrap_or_default();
        if selected.stat.file_type != FileType::Dir {
            return visit(Path::new(""), &WalkEntry { path: Path::new(""), dir: &parent, name, stat: selected.stat });
        }
        let root = if name.is_empty() { parent } else { parent.open_dir(name)? };
        // Directories that are left out so far, and are visited as soon as a file below them is not left out.
        let mut held: Vec<(PathBuf, Stat)> = Vec::new();
        let mut walk = Walk::new(&root)?;
        while let Some(entry) = walk.next_entry()? {
            let path = entry.path.to_owned();
            held.retain(|(above, _)| path.starts_with(above));
            let is_ignored = self.ignored.covers(&selected.path.join(&path));
            if !path.as_os_str().is_empty() && (is_ignored || selected.filter.covers(&path)) {
                if entry.stat.file_type == FileType::Dir {
                    let ends = selected.filter.ends_at(&path) || (is_ignored && !self.ignored.has_exceptions());
                    held.push((path, entry.stat));
                    if ends {
                        walk.skip();
                    }
                }
                continue;
            }
            for (path, stat) in held.drain(..) {
                let dir = root.open_beneath(&path)?;
                visit(&path, &WalkEntry { path: &path, dir: &dir, name: "".as_ref(), stat })?;
            }
            visit(&path, &entry)?;
        }
        Ok(())
    }
}

/// Opens an entry that was a regular file, and checks this again: the owner of a build context can replace the file by
/// a pipe, whose content has no end.
///
/// # Errors
/// `FailedPrecondition` if the entry is no regular file any more; errors of the system calls.
pub(super) fn open_regular(entry: &WalkEntry<'_>) -> Result<File> {
    let (file, shown) = (entry.dir.open_file(entry.name)?, entry.dir.shown_at(entry.name));
    if file.metadata().at("stat", &shown)?.is_file() {
        return Ok(file);
    }
    Err(Error::precondition(format!("{} was replaced by something that is no regular file", shown.display())))
}

/// Whether a source is a pattern.
fn has_wildcards(source: &str) -> bool {
    let mut chars = source.chars();
    while let Some(c) = chars.next() {
        match c {
            '*' | '?' | '[' => return true,
            '\\' => drop(chars.next()),
            _ => {}
        }
    }
    false
}

/// A pattern of one component.
fn glob(text: &str) -> Result<Glob> {
    // Braces are literal in a Dockerfile, and not in a [`Glob`].
    let escaped = text.replace('{', "[{]").replace('}', "[}]");
    let glob = GlobBuilder::new(&escaped).literal_separator(true).backslash_escape(true).build();
    glob.map_err(|error| Error::invalid(format!("{text:?} is no pattern")).with_source(error))
}

fn leaves(source: &str) -> Error {
    Error::invalid(format!("{source:?} leads out of the build context: copy it there before the build"))
}

/// Returns the text of the ignore file: `NAME.dockerignore` beside the Dockerfile `NAME`, or else `.dockerignore` in
/// the build context. The text is empty if neither exists.
///
/// # Errors
/// Those of [`read_regular`], except `NotFound`.
pub(super) fn ignore_file(context: &Path, dockerfile: Option<&Path>) -> Result<String> {
    let own = dockerfile.map(|path| {
        let mut name = path.as_os_str().to_owned();
        name.push(".dockerignore");
        PathBuf::from(name)
    });
    for path in own.into_iter().chain([context.join(".dockerignore")]) {
        match read_regular(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            text => return text,
        }
    }
    Ok(String::new())
}

#[cfg(test)]
mod tests;
