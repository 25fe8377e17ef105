//! What an encoder asks about entries that its stream does not bring.

use std::ffi::OsStr;
use std::path::Path;

use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::tree::{Dir, Meta, Node};

/// The attributes of `path` in the tree `new`; a directory has the mtime that it has in `old`, where it is one there
/// too: what was made or removed in it since is no change of its own.
///
/// It is what [`super::Encoder`] needs to be told where both trees are at hand.
///
/// # Errors
/// `NotFound` if `new` has no such path; what the system calls report.
pub fn describe(new: &Dir, old: Option<&Dir>, path: &Path) -> Result<Meta> {
    let missing = || Error::not_found(format!("{} is not in the new tree", path.display()));
    let mut meta = look(new, path)?.ok_or_else(missing)?;
    if meta.node == Node::Dir
        && let Some(old) = old
        && let Some(before) = look(old, path)?
        && before.node == Node::Dir
    {
        meta.mtime = before.mtime;
    }
    Ok(meta)
}

fn look(tree: &Dir, path: &Path) -> Result<Option<Meta>> {
    let parent = match tree.open_beneath(path.parent().unwrap_or(Path::new(""))) {
        Ok(parent) => parent,
        // Where something else is in the way, the path is not there either.
        Err(error) if matches!(error.errno(), Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP)) => return Ok(None),
        Err(error) => return Err(error),
    };
    let name = path.file_name().unwrap_or(OsStr::new(""));
    match parent.stat_if_any(name)? {
        None => Ok(None),
        Some(stat) => parent.meta(name, &stat).map(Some),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;
    use crate::tree::Timestamp;

    fn tree(dirs: &[(&str, i64)], files: &[&str]) -> (tempfile::TempDir, Dir) {
        let temporary = tempfile::tempdir().expect("a directory");
        let root = Dir::open(temporary.path()).expect("open");
        for (name, _) in dirs {
            root.make_dir(name).expect("mkdir");
        }
        for name in files {
            root.create_file(name).expect("create");
        }
        for (name, seconds) in dirs {
            root.set_mtime(name, Timestamp { seconds: *seconds, nanos: 5 }).expect("utimes");
        }
        root.set_mtime("", Timestamp { seconds: 9, nanos: 0 }).expect("utimes");
        (temporary, root)
    }

    #[test]
    fn directories_have_the_old_time() {
        let (_keep_new, new) = tree(&[("both", 1), ("was a file", 2), ("only new", 3)], &["file"]);
        let (_keep_old, old) = tree(&[("both", 4)], &["was a file", "file"]);
        let seconds = |path: &str| describe(&new, Some(&old), Path::new(path)).expect(path).mtime.seconds;
        assert_eq!([seconds("both"), seconds("was a file"), seconds("only new"), seconds("")], [4, 2, 3, 9]);
        assert_eq!(describe(&new, None, Path::new("both")).expect("both").mtime.seconds, 1);
        let file = new.stat("file").expect("stat");
        assert_eq!(describe(&new, Some(&old), Path::new("file")).expect("file").mtime, file.mtime);
        for missing in ["none", "none/below", "file/below"] {
            assert_eq!(describe(&new, Some(&old), Path::new(missing)).unwrap_err().kind(), ErrorKind::NotFound);
        }
    }
}
