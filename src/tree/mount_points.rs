//! Empty files and directories that are made in a tree to be mounted on, and that are no part of the tree.
//!
//! The missing ones are found first, so that they can be noted where a crash does not lose the note. Then they are
//! made, before a container's runtime would make them. Afterwards those that are still empty and unchanged are removed,
//! and their parents get back the times that they had: the tree's own if nothing else happened in them, otherwise those
//! of the last change. After a crash, [`take_away`] removes what the note names.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::resolve::{Found, Parent, Resolver};
use super::{Dir, FileType, Meta, Stat, Timestamp, text};
use crate::error::{Error, ErrorKind, Result};

/// How many links may lead to a mount point: the kernel's own limit for a path.
const LINKS_MAX: u32 = 40;

/// The mode of a file that is made to be mounted on.
const FILE_MODE: u32 = 0o644;

/// A mount point that a tree lacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Missing {
    /// Where it would be, without links.
    path: PathBuf,
    is_file: bool,
}

/// The mount points that were made, in the order of making.
#[derive(Debug, Default)]
pub(crate) struct Points {
    made: Vec<(Missing, Stat)>,
    /// The times of the directories that something was made in: before, and after.
    parents: BTreeMap<PathBuf, (Timestamp, Timestamp)>,
}

/// Finds what `root` lacks for mounts at `targets`, in the order in which it has to be made. A target is an absolute
/// path, and true for a file.
///
/// # Errors
/// `InvalidArgument` for a path that nothing can be mounted at; errors of the file system.
pub(crate) fn find<'t>(root: &Dir, targets: impl IntoIterator<Item = (&'t str, bool)>) -> Result<Vec<Missing>> {
    let mut finder = Finder { resolver: Resolver::new(root.try_clone()?), missing: Vec::new() };
    let mut covered: Vec<&Path> = Vec::new();
    for (path, is_file) in targets {
        let target = inner(path)?;
        // The runtime makes a mount point that lies below another mount.
        if !covered.iter().any(|above| target.starts_with(above)) {
            finder.look_for(target, is_file)?;
        }
        covered.push(target);
    }
    Ok(finder.missing)
}

/// Makes in `root` what [`find`] found missing.
pub(crate) fn make(root: &Dir, missing: Vec<Missing>) -> Result<Points> {
    let mut points = Points::default();
    for point in missing {
        let (above, name) = point.place();
        let dir = root.open_beneath(above)?;
        let before = dir.stat("")?.mtime;
        let made = if point.is_file { make_file(&dir, name) } else { make_dir(&dir, name) };
        made.map_err(|error| error.context("making a mount point of the container"))?;
        let after = dir.stat("")?.mtime;
        points.parents.entry(above.to_owned()).or_insert((before, after)).1 = after;
        let stat = dir.stat(name)?;
        points.made.push((point, stat));
    }
    Ok(points)
}

/// A path of the container as one of its tree.
fn inner(path: &str) -> Result<&Path> {
    let inner = Path::new(path.trim_matches('/'));
    let clean = |component| matches!(component, std::path::Component::Normal(_));
    if path.starts_with('/') && !inner.as_os_str().is_empty() && inner.components().all(clean) {
        return Ok(inner);
    }
    Err(Error::invalid(format!("{path:?} is no place to mount at: it has to be absolute, without \"..\", and not /")))
}

/// Makes the working directory and its parents if they are missing: unlike a mount point it is the container's.
pub(crate) fn make_working_dir(root: &Dir, path: &str) -> Result<()> {
    if path == "/" {
        return Ok(());
    }
    let mut resolver = Resolver::new(root.try_clone()?);
    let Found::Gap { above, missing } = resolver.find(inner(path)?)? else { return Ok(()) };
    let mut dir = above.dir.try_clone()?;
    for name in missing {
        make_dir(&dir, &name)?;
        dir = dir.open_dir(&name)?;
    }
    Ok(())
}

fn make_dir(dir: &Dir, name: &OsStr) -> Result<()> {
    dir.make_dir(name)?;
    dir.set_owner(name, 0, 0)?;
    dir.set_mode(name, Meta::implied_dir().mode)
}

fn make_file(dir: &Dir, name: &OsStr) -> Result<()> {
    dir.create_file(name)?;
    dir.set_owner(name, 0, 0)?;
    dir.set_mode(name, FILE_MODE)
}

struct Finder {
    resolver: Resolver,
    missing: Vec<Missing>,
}

impl Finder {
    fn look_for(&mut self, target: &Path, is_file: bool) -> Result<()> {
        if !is_file {
            return self.dir(target).map(drop);
        }
        let mut target = target.to_owned();
        for _ in 0..=LINKS_MAX {
            let (Some(above), Some(name)) = (target.parent(), target.file_name()) else { return Ok(()) };
            let (place, parent) = self.dir(above)?;
            // A file below a missing directory is missing, too.
            let there = parent.as_ref().map(|parent| parent.dir.stat_if_any(name)).transpose()?.flatten();
            match (parent, there.map(|stat| stat.file_type)) {
                (Some(parent), Some(FileType::Symlink)) => target = parent.link_target(name)?,
                (_, Some(_)) => return Ok(()),
                (_, None) => {
                    self.add(place.join(name), true);
                    return Ok(());
                }
            }
        }
        Err(Error::invalid(format!("/{}: leads through more than {LINKS_MAX} symbolic links", target.display())))
    }

    /// Where the directory `path` is, without links, and the directory itself, unless it is missing.
    fn dir(&mut self, path: &Path) -> Result<(PathBuf, Option<Arc<Parent>>)> {
        let (above, missing) = match self.resolver.find(path)? {
            Found::Dir(parent) => return Ok((parent.path.clone(), Some(parent))),
            Found::Gap { above, missing } => (above, missing),
        };
        let mut place = above.path.clone();
        for name in missing {
            place.push(name);
            self.add(place.clone(), false);
        }
        Ok((place, None))
    }

    fn add(&mut self, path: PathBuf, is_file: bool) {
        if self.missing.iter().all(|known| known.path != path) {
            self.missing.push(Missing { path, is_file });
        }
    }
}

/// The missing mount points as text, which [`take_away`] reads.
pub(crate) fn note(missing: &[Missing]) -> String {
    let line = |point: &Missing| {
        let kind = if point.is_file { FileType::File } else { FileType::Dir };
        format!("{} {}\n", kind.letter(), text::escape(point.path.as_os_str().as_bytes()))
    };
    missing.iter().map(line).collect()
}

/// Removes from `root` what `note` names and is as it was made: after the process that made it has died. Directories
/// keep the times that they have.
///
/// # Errors
/// `DataLoss` for a text that is no note; errors of the file system.
pub(crate) fn take_away(root: &Dir, note: &str) -> Result<()> {
    let missing = note.lines().map(Missing::parse).collect::<Result<Vec<_>>>()?;
    for point in missing.iter().rev() {
        let (above, name) = point.place();
        let Some(dir) = open(root, above)? else { continue };
        if let Some(now) = dir.stat_if_any(name)?.filter(|now| point.is_new(now)) {
            let time = dir.stat("")?.mtime;
            remove_empty(&dir, name, now.file_type)?;
            dir.set_mtime("", time)?;
        }
    }
    Ok(())
}

/// Opens a directory that a container may have removed, or replaced by a link: that is its doing and stays as it is.
fn open(root: &Dir, path: &Path) -> Result<Option<Dir>> {
    match root.open_beneath(path) {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Io) => Ok(None),
        opened => opened.map(Some),
    }
}

/// Removes from `root` what of `points` is as it was made, and puts the times of its parents right.
pub(crate) fn remove(root: &Dir, points: Points) -> Result<()> {
    let mut parents = points.parents;
    for (path, (before, after)) in &mut parents {
        if let Some(dir) = open(root, path)? {
            let now = dir.stat("")?.mtime;
            // From here on `before` is what the directory shall have.
            *before = if now == *after { *before } else { now };
        }
    }
    for (point, stat) in points.made.iter().rev() {
        let (above, name) = point.place();
        let Some(dir) = open(root, above)? else { continue };
        if let Some(now) = dir.stat_if_any(name)?.filter(|now| point.is_same(now, stat)) {
            remove_empty(&dir, name, now.file_type)?;
        }
    }
    for (path, (time, _)) in parents {
        if let Some(dir) = open(root, &path)? {
            dir.set_mtime("", time)?;
        }
    }
    Ok(())
}

/// Removes a file, or a directory if nothing is in it.
fn remove_empty(dir: &Dir, name: &OsStr, file_type: FileType) -> Result<()> {
    if file_type != FileType::Dir {
        return dir.unlink(name);
    }
    match dir.remove_dir(name) {
        Err(error) if error.errno() == Some(rustix::io::Errno::NOTEMPTY) => Ok(()),
        removed => removed,
    }
}

impl Missing {
    /// Its directory, and its name in it.
    fn place(&self) -> (&Path, &OsStr) {
        (self.path.parent().unwrap_or(Path::new("")), self.path.file_name().unwrap_or_default())
    }

    /// Whether what is there now looks as it was made.
    fn is_new(&self, now: &Stat) -> bool {
        let (file_type, mode) =
            if self.is_file { (FileType::File, FILE_MODE) } else { (FileType::Dir, Meta::implied_dir().mode) };
        let is_empty = !self.is_file || now.size == 0;
        (now.file_type, now.mode, now.uid, now.gid) == (file_type, mode, 0, 0) && is_empty
    }

    /// Whether what is there now is what was made.
    fn is_same(&self, now: &Stat, made: &Stat) -> bool {
        let untouched = !self.is_file || now.mtime == made.mtime;
        self.is_new(now) && now.ino == made.ino && untouched
    }

    fn parse(line: &str) -> Result<Self> {
        let wrong = || Error::data_loss(format!("{line:?} is no mount point of a container's note"));
        let (kind, path) = line.split_once(' ').ok_or_else(wrong)?;
        let path = PathBuf::from(OsString::from_vec(text::unescape(path).map_err(|_| wrong())?));
        let clean = path.components().all(|component| matches!(component, std::path::Component::Normal(_)));
        match kind {
            _ if !clean || path.file_name().is_none() => Err(wrong()),
            "d" => Ok(Self { path, is_file: false }),
            "f" => Ok(Self { path, is_file: true }),
            _ => Err(wrong()),
        }
    }
}
