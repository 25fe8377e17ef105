//! Paths of a layer: cleaned, and interpreted by their names.
//!
//! Layers express deletions as names: `.wh.x` beside the deleted `x`, and `.wh..wh..opq` in a directory whose old
//! content is deleted. So no file of a layer can have a name that begins with `.wh.`.
//!
//! # References
//! OCI image specification, `layer.md`, "Whiteouts"; aufs's own files begin with `.wh..wh.`.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use super::limits::Limits;
use crate::error::{Error, ErrorKind, Result};

/// Name prefix of every whiteout.
pub(super) const WHITEOUT_PREFIX: &[u8] = b".wh.";

/// Name of the mark that makes its directory opaque.
pub(super) const OPAQUE_NAME: &[u8] = b".wh..wh..opq";

/// Name prefix of aufs's own files, which other programs ignore.
const PRIVATE_PREFIX: &[u8] = b".wh..wh.";

/// Maximum length of a name on a Linux file system.
pub(super) const NAME_BYTES_MAX: usize = 255;

/// Meaning of an entry by its name.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// An inode at this path.
    Inode(PathBuf),
    /// A deletion of this path.
    Whiteout(PathBuf),
    /// A deletion of everything that the lower layers have below this directory.
    Opaque(PathBuf),
    /// A file of aufs, which is ignored.
    Private,
}

/// Makes a path of an archive relative and clean, by its text alone: `a//./b/../c/` is `a/c`, `/a` is `a`.
///
/// # Errors
/// `InvalidArgument` if the path is empty, contains a NUL, leaves the root, or has a name that no file system can
/// store; `ResourceExhausted` beyond the limits.
pub(super) fn clean(raw: &[u8], limits: &Limits) -> Result<PathBuf> {
    if raw.is_empty() || raw.contains(&0) {
        return Err(Error::invalid(if raw.is_empty() { "an empty path" } else { "a NUL byte in a path" }));
    }
    if raw.len() > limits.path_bytes {
        let message = format!("a path of {} bytes: the limit is {}", raw.len(), limits.path_bytes);
        return Err(Error::new(ErrorKind::ResourceExhausted, message));
    }
    let mut path = PathBuf::new();
    let mut depth = 0;
    for component in Path::new(OsStr::from_bytes(raw)).components() {
        match component {
            Component::Normal(name) => {
                path.push(name);
                depth += 1;
            }
            Component::ParentDir => {
                if !path.pop() {
                    return Err(Error::invalid("the path leaves the root"));
                }
                depth -= 1;
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
        if depth > limits.path_depth {
            let message = format!("a path of more than {} names", limits.path_depth);
            return Err(Error::new(ErrorKind::ResourceExhausted, message));
        }
    }
    Ok(path)
}

/// Returns the meaning of a clean path.
///
/// # Errors
/// `InvalidArgument` for a whiteout without a name (`.wh.`), of `.` or of `..`, for anything below a whiteout, and for
/// a name that no file system can store.
pub(super) fn meaning(path: PathBuf) -> Result<Meaning> {
    let Some(name) = path.file_name().map(OsStr::as_bytes) else { return Ok(Meaning::Inode(path)) };
    let parent = path.parent().unwrap_or(Path::new(""));
    if names(parent).any(|name| name.starts_with(PRIVATE_PREFIX)) {
        return Ok(Meaning::Private);
    }
    if let Some(name) = names(parent).find(|name| name.starts_with(WHITEOUT_PREFIX)) {
        return Err(Error::invalid(format!("an entry below the whiteout \"{}\"", name.escape_ascii())));
    }
    if name == OPAQUE_NAME {
        return Ok(Meaning::Opaque(parent.to_path_buf()));
    }
    if name.starts_with(PRIVATE_PREFIX) {
        return Ok(Meaning::Private);
    }
    let meaning = match name.strip_prefix(WHITEOUT_PREFIX) {
        Some(b"" | b"." | b"..") => return Err(Error::invalid("a whiteout of no name")),
        Some(hidden) => Meaning::Whiteout(parent.join(OsStr::from_bytes(hidden))),
        None => Meaning::Inode(path),
    };
    let (Meaning::Inode(path) | Meaning::Whiteout(path)) = &meaning else { return Ok(meaning) };
    check_lengths(path)?;
    Ok(meaning)
}

/// Cleans the target of a hard link.
///
/// # Errors
/// As [`clean`]; `InvalidArgument` if the target cannot be a file of a tree: the root, or a whiteout.
pub(super) fn link_target(raw: &[u8], limits: &Limits) -> Result<PathBuf> {
    let target = clean(raw, limits)?;
    if target.as_os_str().is_empty() {
        return Err(Error::invalid("a hard link to the root"));
    }
    if is_reserved(&target) {
        return Err(Error::invalid(format!("a hard link to {target:?}, which is no file of a tree")));
    }
    check_lengths(&target)?;
    Ok(target)
}

/// Returns true if a name in `path` is reserved by the layer format.
pub(super) fn is_reserved(path: &Path) -> bool {
    names(path).any(|name| name.starts_with(WHITEOUT_PREFIX))
}

fn check_lengths(path: &Path) -> Result<()> {
    match names(path).map(<[u8]>::len).find(|length| *length > NAME_BYTES_MAX) {
        Some(length) => Err(Error::invalid(format!("a name of {length} bytes: no file system holds more than 255"))),
        None => Ok(()),
    }
}

fn names(path: &Path) -> impl Iterator<Item = &[u8]> {
    path.iter().map(OsStr::as_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn case_24_and_25_paths() {
        for (raw, expected) in [
            ("a", Some("a")),
            ("./a", Some("a")),
            ("/a/b", Some("a/b")),
            ("//a//./b/", Some("a/b")),
            ("a/../b", Some("b")),
            ("a/b/../../c", Some("c")),
            ("./", Some("")),
            (".", Some("")),
            ("/", Some("")),
            ("a/..", Some("")),
            ("", None),
            ("..", None),
            ("../a", None),
            ("/../a", None),
            ("a/../../a", None),
            ("a\0", None),
        ] {
            let cleaned = clean(raw.as_bytes(), &Limits::default());
            assert_eq!(cleaned.as_deref().ok(), expected.map(Path::new), "{raw:?}");
            if let Err(error) = cleaned {
                assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{raw:?}");
            }
        }
    }

    #[test]
    fn case_11_to_13_whiteout_names() {
        let long = "n".repeat(NAME_BYTES_MAX);
        for (path, expected) in [
            ("", Some(Meaning::Inode("".into()))),
            ("a/.wh.b", Some(Meaning::Whiteout("a/b".into()))),
            (".wh.b", Some(Meaning::Whiteout("b".into()))),
            (".wh....", Some(Meaning::Whiteout("...".into()))),
            ("a/.wh..wh..opq", Some(Meaning::Opaque("a".into()))),
            (".wh..wh..opq", Some(Meaning::Opaque("".into()))),
            (".wh..wh.plnk", Some(Meaning::Private)),
            (".wh..wh.plnk/1.2", Some(Meaning::Private)),
            (".wh..wh.aufs", Some(Meaning::Private)),
            (".wh..opq", Some(Meaning::Whiteout(".opq".into()))),
            (".whatever", Some(Meaning::Inode(".whatever".into()))),
            (&format!(".wh.{long}"), Some(Meaning::Whiteout(long.clone().into()))),
            (&long, Some(Meaning::Inode(long.clone().into()))),
            (".wh.", None),
            ("a/.wh.", None),
            (".wh..", None),
            (".wh...", None),
            (".wh.a/b", None),
            (&format!("{long}n"), None),
            (&format!(".wh.{long}n"), None),
        ] {
            assert_eq!(meaning(path.into()).ok(), expected, "{path}");
        }
    }

    #[test]
    fn path_limits() {
        let limits = Limits { path_bytes: 8, path_depth: 3, ..Limits::default() };
        clean(b"a/b/c", &limits).expect("three names");
        for raw in ["a/b/c/d", "a/b/c/d/..", "aaaaaaaaa"] {
            assert_eq!(clean(raw.as_bytes(), &limits).unwrap_err().kind(), ErrorKind::ResourceExhausted, "{raw}");
        }
    }
}
