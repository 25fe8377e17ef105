//! The directories and files that a container's mounts need, and that are no part of its tree.
//!
//! Those that are missing are made before the runtime would make them, and noted. Afterwards the ones that are still empty
//! and unchanged go away again, and their parents get back the times that they had: of the tree's own if nothing else
//! happened in them, otherwise of what happened last.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::bundle::BundleMount;
use crate::changeset::apply::resolve::{Found, Parent, Resolver};
use crate::error::{Error, ErrorKind, Result};
use crate::tree::{Dir, FileType, Meta, Stat, Timestamp};

/// How many links may lead to a mount point: the kernel's own limit for a path.
const LINKS_MAX: u32 = 40;

/// What was made, in the order of making.
#[derive(Debug, Default)]
pub(super) struct Points {
    made: Vec<Point>,
    /// The times of the directories that something was made in: before, and after.
    parents: BTreeMap<PathBuf, (Timestamp, Timestamp)>,
}

/// Something that was made.
#[derive(Debug)]
struct Point {
    /// The path of its directory, without links.
    parent: PathBuf,
    name: OsString,
    stat: Stat,
}

/// Makes what is missing in `root` for `mounts`.
pub(super) fn make(root: &Dir, mounts: &[BundleMount]) -> Result<Points> {
    let mut maker = Maker { resolver: Resolver::new(root.try_clone()?), points: Points::default() };
    let mut covered: Vec<&Path> = Vec::new();
    for mount in mounts {
        let target = inner(&mount.destination)?;
        // What lies below another mount is made there, by the runtime.
        if !covered.iter().any(|above| target.starts_with(above)) {
            maker.make(target, mount.is_file)?;
        }
        covered.push(target);
    }
    Ok(maker.points)
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
pub(super) fn make_working_dir(root: &Dir, path: &str) -> Result<()> {
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

struct Maker {
    resolver: Resolver,
    points: Points,
}

impl Maker {
    fn make(&mut self, target: &Path, is_file: bool) -> Result<()> {
        if !is_file {
            return self.dir(target).map(drop);
        }
        let mut target = target.to_owned();
        for _ in 0..=LINKS_MAX {
            let (Some(above), Some(name)) = (target.parent(), target.file_name()) else { return Ok(()) };
            let (parent, name) = (self.dir(above)?, name.to_owned());
            match parent.dir.stat_if_any(&name)?.map(|stat| stat.file_type) {
                None => {
                    return self.note(&parent, &name, |dir, name| {
                        dir.create_file(name)?;
                        dir.set_owner(name, 0, 0)?;
                        dir.set_mode(name, 0o644)
                    });
                }
                Some(FileType::Symlink) => target = parent.link_target(&name)?,
                Some(_) => return Ok(()),
            }
        }
        Err(Error::invalid(format!("/{}: leads through more than {LINKS_MAX} symbolic links", target.display())))
    }

    /// The directory at `path`, made if it is missing.
    fn dir(&mut self, path: &Path) -> Result<Arc<Parent>> {
        let (mut parent, missing) = match self.resolver.find(path)? {
            Found::Dir(parent) => return Ok(parent),
            Found::Gap { above, missing } => (above, missing),
        };
        for name in missing {
            self.note(&parent, &name, make_dir)?;
            parent = self.resolver.parent(parent.path.join(&name))?;
        }
        Ok(parent)
    }

    fn note(&mut self, parent: &Parent, name: &OsStr, make: impl Fn(&Dir, &OsStr) -> Result<()>) -> Result<()> {
        let before = parent.dir.stat("")?.mtime;
        make(&parent.dir, name).map_err(|error| error.context("making a mount point of the container"))?;
        let after = parent.dir.stat("")?.mtime;
        self.points.parents.entry(parent.path.clone()).or_insert((before, after)).1 = after;
        let stat = parent.dir.stat(name)?;
        self.points.made.push(Point { parent: parent.path.clone(), name: name.to_owned(), stat });
        Ok(())
    }
}

/// Removes from `root` what of `points` is as it was made, and puts the times of its parents right.
pub(super) fn remove(root: &Dir, points: Points) -> Result<()> {
    let mut parents = points.parents;
    // What was removed under way, or replaced by a link, is the container's doing and stays as it is.
    let open = |path: &Path| match root.open_beneath(path) {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Io) => Ok(None),
        opened => opened.map(Some),
    };
    for (path, (before, after)) in &mut parents {
        if let Some(dir) = open(path)? {
            let now = dir.stat("")?.mtime;
            // From here on `before` is what the directory shall have.
            *before = if now == *after { *before } else { now };
        }
    }
    for point in points.made.iter().rev() {
        if let Some(dir) = open(&point.parent)? {
            point.remove(&dir)?;
        }
    }
    for (path, (time, _)) in parents {
        if let Some(dir) = open(&path)? {
            dir.set_mtime("", time)?;
        }
    }
    Ok(())
}

impl Point {
    fn remove(&self, dir: &Dir) -> Result<()> {
        let Some(now) = dir.stat_if_any(&self.name)? else { return Ok(()) };
        let kept = |stat: &Stat| (stat.file_type, stat.mode, stat.uid, stat.gid, stat.ino);
        if kept(&now) != kept(&self.stat) {
            return Ok(());
        }
        match now.file_type {
            FileType::Dir => match dir.remove_dir(&self.name) {
                Err(error) if error.errno() == Some(rustix::io::Errno::NOTEMPTY) => Ok(()),
                removed => removed,
            },
            _ if now.size == 0 && now.mtime == self.stat.mtime => dir.unlink(&self.name),
            _ => Ok(()),
        }
    }
}
