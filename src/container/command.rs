//! Checks that the program of a container exists, and the interpreter or loader that runs it.
//!
//! crun and runc write the reason why a command cannot start to its standard error as well as to their log, so a user
//! would read the reason twice. These checks find the usual reasons before the runtime is started.

use std::fs::File;
use std::path::Path;

use super::bundle::BundleMount;
use super::{DEFAULT_PATH, Process, interpreter};
use crate::error::{Error, Result};
use crate::tree::resolve::{Found, Resolver};
use crate::tree::{Dir, FileType, Stat};

/// The execution bits of a mode. One of them is enough.
const EXECUTABLE: u32 = 0o111;

/// Maximum length of a chain of interpreters. The kernel allows no longer chain.
const INTERPRETERS_MAX: usize = 5;

/// Checks that the tree `root` has the program of `process`, and its interpreters. A path that a mount covers, or that
/// is a link, passes: the runtime may find a program there that the tree does not have.
///
/// # Errors
/// `NotFound`, with the missing program and the searched directories; `FailedPrecondition` for a file that is not
/// executable; errors of the file system.
pub(super) fn check(root: &Dir, process: &Process, mounts: &[BundleMount]) -> Result<()> {
    let Some(name) = process.args.first() else { return Ok(()) };
    let mut search = Search { resolver: Resolver::new(root.try_clone()?), mounts, dir: Path::new(&process.dir) };
    let path = if name.contains('/') { None } else { Some(search_path(process)) };
    let mut found = None;
    for dir in path.unwrap_or_default().split(':') {
        let path = Path::new(dir).join(name);
        match search.look_at(&path)? {
            Sight::Nothing => {}
            // A later directory of `PATH` may have an executable file.
            Sight::NotExecutable { mode } => found = found.or_else(|| Some(not_executable(&path, "", mode))),
            Sight::Program(program) => return search.check_interpreters(name, program),
            Sight::Unknown => return Ok(()),
        }
    }
    if let Some(error) = found {
        return Err(error);
    }
    let place = path.map_or_else(String::new, |path| format!(" in the directories of PATH, {path}"));
    Err(Error::not_found(format!("the image has no program {name:?}{place}")))
}

/// Refuses a text, which the kernel cannot run: usually a script without its line `#!`.
fn check_form(name: &str, program: &File) -> Result<()> {
    match interpreter::is_text(program) {
        true => Err(Error::precondition(format!(
            "the image's file {name:?} is a text without an interpreter: a script begins with a line such as #!/bin/sh"
        ))),
        false => Ok(()),
    }
}

fn search_path(process: &Process) -> &str {
    let given = process.env.iter().find_map(|variable| variable.strip_prefix("PATH="));
    given.unwrap_or(&DEFAULT_PATH["PATH=".len()..])
}

/// Returns the error for the file at `path`; if the file is an interpreter, `part` names the program that needs it.
fn not_executable(path: &Path, part: &str, mode: u32) -> Error {
    Error::precondition(format!(
        "the image's file {path:?}{part} is not executable: its mode is {mode:04o} (chmod +x; COPY --chmod=755)"
    ))
}

fn is_link(stat: Option<&Stat>) -> bool {
    stat.is_some_and(|stat| stat.file_type == FileType::Symlink)
}

/// The answer of a look-up of a program.
enum Sight {
    /// No program is there.
    Nothing,
    /// A file without an execution bit.
    NotExecutable { mode: u32 },
    /// The program, opened.
    Program(File),
    /// A link, a mount or an unreadable file: the runtime decides.
    Unknown,
}

struct Search<'a> {
    resolver: Resolver,
    mounts: &'a [BundleMount],
    /// The working directory, at which relative paths begin.
    dir: &'a Path,
}

impl Search<'_> {
    /// Looks up the program at `path`.
    fn look_at(&mut self, path: &Path) -> Result<Sight> {
        let path = self.dir.join(path);
        let inner = path.strip_prefix("/").unwrap_or(&path);
        let (Some(above), Some(name)) = (inner.parent(), inner.file_name()) else { return Ok(Sight::Nothing) };
        if inner.components().any(|component| component == std::path::Component::ParentDir) || self.is_covered(inner) {
            return Ok(Sight::Unknown);
        }
        let parent = match self.resolver.find(above)? {
            Found::Dir(parent) => parent,
            // The missing name may be a link to a place where something will be mounted.
            Found::Gap { above, missing } => {
                let first = missing.first().map(|name| above.dir.stat_if_any(name)).transpose()?.flatten();
                return Ok(if is_link(first.as_ref()) { Sight::Unknown } else { Sight::Nothing });
            }
        };
        let stat = parent.dir.stat_if_any(name)?;
        if self.is_covered(&parent.path) || is_link(stat.as_ref()) {
            return Ok(Sight::Unknown);
        }
        Ok(match stat {
            Some(Stat { file_type: FileType::File, mode, .. }) if mode & EXECUTABLE == 0 => {
                Sight::NotExecutable { mode }
            }
            // The container's user may execute a file that the root of a user namespace cannot read.
            Some(Stat { file_type: FileType::File, .. }) => {
                parent.dir.open_file(name).map_or(Sight::Unknown, Sight::Program)
            }
            _ => Sight::Nothing,
        })
    }

    /// Checks that the interpreter of `program` exists, and its own interpreter, and so on. `name` is for errors.
    fn check_interpreters(&mut self, name: &str, mut program: File) -> Result<()> {
        for _ in 0..INTERPRETERS_MAX {
            let Some(interpreter) = interpreter::of(&program) else { return check_form(name, &program) };
            program = match self.look_at(&interpreter)? {
                Sight::Nothing => {
                    let message = format!("the image has no program {interpreter:?}, by which {name:?} is run");
                    return Err(Error::not_found(message));
                }
                Sight::NotExecutable { mode } => {
                    return Err(not_executable(&interpreter, &format!(", by which {name:?} is run,"), mode));
                }
                Sight::Program(next) => next,
                Sight::Unknown => return Ok(()),
            };
        }
        Ok(())
    }

    fn is_covered(&self, path: &Path) -> bool {
        self.mounts.iter().any(|mount| path.starts_with(mount.destination.trim_matches('/')))
    }
}
