//! Compares two trees: whether two strategies, or two images, hold the same.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::SeekFrom;
use rustix::io::Errno;
use serde::Serialize;

use super::Done;
use super::names;
use super::session::Session;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::tree::difference::Difference;
use crate::tree::memory::Tree;
use crate::tree::walk::walk;
use crate::tree::{Dir, FileType, text};

/// One thing in which two trees differ.
#[derive(Debug, Serialize)]
struct Line {
    path: String,
    aspect: &'static str,
    left: Option<String>,
    right: Option<String>,
}

impl From<&Difference> for Line {
    fn from(difference: &Difference) -> Self {
        let Difference { path, aspect, left, right } = difference;
        Self { path: text::print_path(path), aspect, left: left.clone(), right: right.clone() }
    }
}

/// Prints what tells `left` from `right`; each is a directory if it begins with / or ., else a snapshot or an image.
/// The status is 1 if they differ.
pub(super) fn compare(session: &Session, left: &str, right: &str) -> Done {
    let (left, right) = (open(session, OsStr::new(left))?, open(session, OsStr::new(right))?);
    let mut differences = Tree::read(&left)?.differences(&Tree::read(&right)?);
    let holes = differences_in_holes(&left, &right, &differences)?;
    differences.extend(holes);
    differences.sort_by(|a, b| a.path.cmp(&b.path));
    let lines: Vec<Line> = differences.iter().map(Line::from).collect();
    session.output.either(&lines, || differences.iter().map(|difference| format!("{difference}\n")).collect())?;
    session.status.set(u8::from(!differences.is_empty()));
    Ok(())
}

/// The tree called `what` on the command line.
pub(super) fn open(session: &Session, what: &OsStr) -> Result<Dir> {
    match (what.as_bytes(), what.to_str()) {
        ([b'/' | b'.', ..], _) => Dir::open(what),
        (_, None) => Err(Error::invalid(format!("the key {} is no UTF-8", what.display()))),
        (_, Some(name)) => session
            .store()
            .and_then(|store| store.open_tree(&names::snapshot(&store, name)?))
            .map_err(|error| unless_directory(name, error)),
    }
}

/// The error for a `name` that the store does not have; where a directory has it, it says how that is named.
fn unless_directory(name: &str, error: Error) -> Error {
    if error.kind() != ErrorKind::NotFound || !Path::new(name).is_dir() {
        return error;
    }
    Error::not_found(format!(
        "{name:?} is a directory, and no snapshot or image: a directory is written with a slash, ./{name}"
    ))
}

/// Where files of equal content have holes in one tree and none in the other. No layer tells that, but it takes space.
fn differences_in_holes(left: &Dir, right: &Dir, known: &[Difference]) -> Result<Vec<Difference>> {
    let (left, mut right) = (holes(left)?, holes(right)?);
    let is_known = |path: &Path| known.iter().any(|difference| difference.path == path);
    let mut found = Vec::new();
    for (path, has) in left {
        let Some(other) = right.remove(&path) else { continue };
        if has != other && !is_known(&path) {
            let say = |holes: bool| Some(if holes { "with holes" } else { "without holes" }.to_owned());
            found.push(Difference { path, aspect: "sparse", left: say(has), right: say(other) });
        }
    }
    Ok(found)
}

/// For each file that is not empty, whether it has a hole.
fn holes(dir: &Dir) -> Result<BTreeMap<PathBuf, bool>> {
    let mut found = BTreeMap::new();
    walk(dir, |entry| {
        if entry.stat.file_type == FileType::File && entry.stat.size > 0 {
            let file = entry.dir.open_file(entry.name)?;
            let has = match rustix::fs::seek(&file, SeekFrom::Hole(0)) {
                Ok(first) => first < entry.stat.size,
                // A file system that does not know holes.
                Err(Errno::INVAL | Errno::OPNOTSUPP | Errno::NXIO) => false,
                Err(errno) => return Err(errno).at("seek in", entry.path),
            };
            found.insert(entry.path.to_owned(), has);
        }
        Ok(())
    })?;
    Ok(found)
}
