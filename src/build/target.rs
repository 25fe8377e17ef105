//! Where a copy goes: a path of an image, through its links.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::tree::FileType;
use crate::tree::resolve::{Found, Resolver};

/// How many links may follow one another at the end of a path: the kernel's own limit.
const LINKS_MAX: u32 = 40;

/// The result of looking up a path of an image. Paths are without links.
#[derive(Debug)]
pub(super) enum ImagePath {
    Dir(PathBuf),
    /// Something else than a directory.
    Other(PathBuf),
    /// Nothing: there is no name like the first of these in the directory.
    Missing(PathBuf, Vec<OsString>),
}

/// Where things are copied to.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) path: PathBuf,
    is_dir: bool,
    /// Whether it is there already.
    pub(super) exists: bool,
    /// The directories to make, each before those in it.
    pub(super) missing: Vec<PathBuf>,
}

impl ImagePath {
    /// Finds what is at the absolute `path`; where there is no tree to look at, nothing is.
    ///
    /// # Errors
    /// `FailedPrecondition` if something on the way is no directory; `InvalidArgument` for too many links.
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

    /// The target that is meant by the text `given`, for `count` things to copy.
    ///
    /// # Errors
    /// `FailedPrecondition` if there is no place for them.
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
    /// Where something called `name` goes.
    pub(super) fn path_of(&self, name: &OsStr) -> PathBuf {
        if self.is_dir { self.path.join(name) } else { self.path.clone() }
    }
}

pub(super) fn no_directory(path: &Path) -> Error {
    Error::precondition(format!("/{} is there and no directory", path.display()))
}
