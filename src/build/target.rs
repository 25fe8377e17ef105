//! The target of a copy: a path of an image, with links resolved.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::tree::FileType;
use crate::tree::resolve::{Found, Resolver};

/// Maximum number of links that are followed at the end of a path. The kernel has the same limit.
const LINKS_MAX: u32 = 40;

/// The result of looking up a path of an image. In its paths, links are resolved.
#[derive(Debug)]
pub(super) enum ImagePath {
    Dir(PathBuf),
    /// A file that is no directory.
    Other(PathBuf),
    /// Nothing exists at the path: the directory lacks the first of the names.
    Missing(PathBuf, Vec<OsString>),
}

/// The target of a copy.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) path: PathBuf,
    is_dir: bool,
    /// Whether the target exists already.
    pub(super) exists: bool,
    /// The directories to make, parents first.
    pub(super) missing: Vec<PathBuf>,
}

impl ImagePath {
    /// Looks up the absolute `path`. Without a `resolver` there is no tree, and only the root is found.
    ///
    /// # Errors
    /// `FailedPrecondition` if a component before the last is no directory; `InvalidArgument` for too many links.
    pub(super) fn find(path: &str, resolver: Option<&mut Resolver>) -> Result<Self> {
        let mut path = PathBuf::from(path.trim_matches('/'));
        let Some(resolver) = resolver else {
            return Ok(match path.as_os_str().is_empty() {
                true => Self::Dir(path),
                false => Self::Missing(PathBuf::new(), path.iter().map(OsStr::to_owned).collect()),
            });
        };
        for _ in 0..=LINKS_MAX {
            let (above, missing) = match resolver.find(&path)? {
                Found::Dir(found) => return Ok(Self::Dir(found.path.clone())),
                Found::Gap { above, missing } => (above, missing),
            };
            let first = missing.first().map(OsString::as_os_str).unwrap_or_default();
            match above.dir.stat_if_any(first)?.map(|stat| stat.file_type) {
                None => return Ok(Self::Missing(above.path.clone(), missing)),
                Some(FileType::Symlink) => {
                    path = above.link_target(first)?;
                    path.extend(missing.iter().skip(1));
                }
                Some(_) if missing.len() == 1 => return Ok(Self::Other(above.path.join(first))),
                Some(_) => return Err(no_directory(&above.path.join(first))),
            }
        }
        Err(Error::invalid(format!("/{} leads through more than {LINKS_MAX} symbolic links", path.display())))
    }

    /// Returns the target of a copy of `count` sources; `given` is the target in the text of the instruction.
    ///
    /// # Errors
    /// `FailedPrecondition` if the target has to be a directory, and is none.
    pub(super) fn target(self, given: &str, count: usize, needs_dir: bool) -> Result<Target> {
        let needs_dir = needs_dir || given.ends_with('/');
        match self {
            Self::Dir(path) => Ok(Target { path, is_dir: true, exists: true, missing: Vec::new() }),
            Self::Other(path) if needs_dir || count > 1 => Err(no_directory(&path)),
            Self::Other(path) => Ok(Target { path, is_dir: false, exists: true, missing: Vec::new() }),
            Self::Missing(..) if count > 1 && !needs_dir => {
                Err(Error::precondition(format!("{given} has to end with a slash: there are several sources")))
            }
            Self::Missing(above, names) => {
                let mut path = above;
                let below = |name: OsString| {
                    path.push(name);
                    path.clone()
                };
                let mut missing: Vec<PathBuf> = names.into_iter().map(below).collect();
                if !needs_dir {
                    missing.pop();
                }
                Ok(Target { path, is_dir: needs_dir, exists: false, missing })
            }
        }
    }
}

impl Target {
    /// Returns the path of the copy of a source called `name`.
    pub(super) fn path_of(&self, name: &OsStr) -> PathBuf {
        if self.is_dir { self.path.join(name) } else { self.path.clone() }
    }
}

pub(super) fn no_directory(path: &Path) -> Error {
    Error::precondition(format!("/{} is there and no directory", path.display()))
}
