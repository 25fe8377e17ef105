//! Whether the program that is to run is there.
//!
//! crun and runc write why they could not start a command to its standard error as well as to their log, so that people
//! would read it twice. The usual reason is found here, before they are asked.

use std::path::Path;

use super::bundle::BundleMount;
use super::{DEFAULT_PATH, Process};
use crate::changeset::apply::resolve::{Found, Resolver};
use crate::error::{Error, Result};
use crate::tree::{Dir, FileType, Stat};

/// The bits of a mode of which one makes a file a program.
const EXECUTABLE: u32 = 0o111;

/// Checks that the program of `process` is in the tree `root`, as far as that shows: what a mount covers, or a link leads
/// to, the runtime may find where the tree has nothing.
///
/// # Errors
/// `NotFound` naming it, and where it was looked for; what the file system reports.
pub(super) fn check(root: &Dir, process: &Process, mounts: &[BundleMount]) -> Result<()> {
    let Some(name) = process.args.first() else { return Ok(()) };
    let mut search = Search { resolver: Resolver::new(root.try_clone()?), mounts };
    if name.contains('/') {
        return match search.may_run(&Path::new(&process.dir).join(name))? {
            true => Ok(()),
            false => Err(Error::not_found(format!("the image has no program {name:?}"))),
        };
    }
    let path = process
        .env
        .iter()
        .find_map(|variable| variable.strip_prefix("PATH="))
        .unwrap_or(&DEFAULT_PATH["PATH=".len()..]);
    for dir in path.split(':') {
        if search.may_run(&Path::new(&process.dir).join(dir).join(name))? {
            return Ok(());
        }
    }
    Err(Error::not_found(format!("the image has no program {name:?} in the directories of PATH, {path}")))
}

fn is_link(stat: Option<&Stat>) -> bool {
    stat.is_some_and(|stat| stat.file_type == FileType::Symlink)
}

struct Search<'a> {
    resolver: Resolver,
    mounts: &'a [BundleMount],
}

impl Search<'_> {
    /// Whether there may be a program at `path`, an absolute one.
    fn may_run(&mut self, path: &Path) -> Result<bool> {
        let inner = path.strip_prefix("/").unwrap_or(path);
        let (Some(above), Some(name)) = (inner.parent(), inner.file_name()) else { return Ok(false) };
        if inner.components().any(|component| component == std::path::Component::ParentDir) || self.is_covered(inner) {
            return Ok(true);
        }
        let parent = match self.resolver.find(above)? {
            Found::Dir(parent) => parent,
            // What is missing may be a link to where something will be mounted.
            Found::Gap { above, missing } => {
                let first = missing.first().map(|name| above.dir.stat_if_any(name)).transpose()?.flatten();
                return Ok(is_link(first.as_ref()));
            }
        };
        let stat = parent.dir.stat_if_any(name)?;
        let is_program = |stat: &Stat| stat.file_type == FileType::File && stat.mode & EXECUTABLE != 0;
        Ok(self.is_covered(&parent.path) || is_link(stat.as_ref()) || stat.as_ref().is_some_and(is_program))
    }

    fn is_covered(&self, path: &Path) -> bool {
        self.mounts.iter().any(|mount| path.starts_with(mount.destination.trim_matches('/')))
    }
}
