//! Cases about directories: merged, hidden, moved, deep and large ones.

use std::os::unix::ffi::OsStrExt as _;

use rustix::fs::{AtFlags, RenameFlags, mkdirat, renameat, renameat_with, unlinkat};
use rustix::io::Errno;

use super::fixture::TIME;
use super::{Case, list, read, same, write};
use crate::conformance::case::{Verdict, ensure, refuses};
use crate::error::Context as _;
use crate::tree::{Dir, walk};

const MERGED: &str = "kernel overlayfs.rst: Directories; whiteouts and opaque directories";

/// Depth of the deep tree, so that its path is longer than the maximum of a system call.
const DEPTH: usize = 420;

/// Number of names in the large directory.
const NAMES: usize = 10_000;

/// All cases of this module.
pub(super) const CASES: [Case; 20] = [
    Case {
        name: "layers-are-merged",
        source: MERGED,
        meaning: "files of one of the layers are missing",
        run: layers_are_merged,
    },
    Case {
        name: "removed-below-is-gone",
        source: MERGED,
        meaning: "files that a layer removed are there: secrets, or old versions",
        run: removed_below_is_gone,
    },
    Case {
        name: "made-again-below-is-empty",
        source: MERGED,
        meaning: "a directory that a layer replaced shows what was in the old one",
        run: made_again_below,
    },
    Case {
        name: "removed-name-is-free",
        source: "POSIX unlink, mkdir, rename",
        meaning: "a name that was removed cannot be used again",
        run: removed_name_is_free,
    },
    Case {
        name: "made-again-is-empty",
        source: "moby#25244",
        meaning: "a directory that was removed and made again shows what was in it",
        run: made_again_is_empty,
    },
    Case {
        name: "full-directory-is-not-removed",
        source: "POSIX rmdir",
        meaning: "rmdir removes what is in a directory",
        run: full_is_not_removed,
    },
    Case {
        name: "emptied-directory-is-removed",
        source: "POSIX rmdir",
        meaning: "a directory stays although nothing is in it",
        run: emptied_is_removed,
    },
    Case {
        name: "lower-directory-is-renamed",
        source: "POSIX rename; kernel overlayfs.rst: redirect_dir; moby#25409",
        meaning: "programs that do not expect EXDEV from a rename inside one file system fail",
        run: lower_is_renamed,
    },
    Case {
        name: "new-directory-is-renamed",
        source: "POSIX rename",
        meaning: "package managers cannot move what they unpacked into its place",
        run: new_is_renamed,
    },
    Case {
        name: "directory-replaces-an-empty-one",
        source: "POSIX rename",
        meaning: "a rename over an empty directory fails, or shows what was there",
        run: replaces_an_empty_one,
    },
    Case {
        name: "directory-does-not-replace-a-full-one",
        source: "POSIX rename",
        meaning: "a rename removes files that no program removed",
        run: does_not_replace_a_full_one,
    },
    Case {
        name: "directory-does-not-move-into-itself",
        source: "POSIX rename",
        meaning: "a tree is lost in a loop",
        run: not_into_itself,
    },
    Case {
        name: "file-replaces-a-file",
        source: "POSIX rename",
        meaning: "editors and package managers cannot replace files of an image",
        run: file_replaces_a_file,
    },
    Case {
        name: "rename-without-replacing",
        source: "rename(2): RENAME_NOREPLACE",
        meaning: "a file is overwritten that was to be kept",
        run: without_replacing,
    },
    Case {
        name: "files-change-places",
        source: "rename(2): RENAME_EXCHANGE",
        meaning: "atomic updates of files do not work",
        run: files_change_places,
    },
    Case {
        name: "parents-change-their-time",
        source: "POSIX mkdir, unlink, rename",
        meaning: "caches of directories (fonts, man pages) stay old",
        run: parents_change_their_time,
    },
    Case {
        name: "group-is-inherited",
        source: "mkdir(2), open(2): the set-group-ID bit of a directory",
        meaning: "files in shared directories belong to the wrong group",
        run: group_is_inherited,
    },
    Case {
        name: "deep-tree",
        source: "POSIX PATH_MAX; path_resolution(7)",
        meaning: "deep trees (node_modules) cannot be made or removed",
        run: deep_tree,
    },
    Case {
        name: "large-directory",
        source: "POSIX readdir",
        meaning: "large directories lose names",
        run: large_directory,
    },
    Case {
        name: "removed-recursively",
        source: "POSIX rm",
        meaning: "rm -r leaves something of an image behind, or fails",
        run: removed_recursively,
    },
];

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn layers_are_merged(root: &Dir) -> Verdict {
    same("what is in it", list(root, "dir")?, names(&["inner", "second", "sub"]))?;
    write(root, "dir/third", b"third")?;
    same("what is in it then", list(root, "dir")?, names(&["inner", "second", "sub", "third"]))?;
    for (path, bytes) in [("dir/inner", b"inner".to_vec()), ("dir/second", b"second".to_vec())] {
        same(path, read(root, path)?, bytes)?;
    }
    Ok(())
}

fn removed_below_is_gone(root: &Dir) -> Verdict {
    ensure(root.stat_if_any("gone")?.is_none(), || "it is there".to_owned())?;
    ensure(!list(root, "")?.contains(&"gone".to_owned()), || "it is listed".to_owned())?;
    refuses("opening what is in it", rustix::fs::statat(root, "gone/hidden", AtFlags::empty()), Errno::NOENT)
}

fn made_again_below(root: &Dir) -> Verdict {
    same("what is in it", list(root, "opaque")?, names(&["new"]))?;
    ensure(root.stat_if_any("opaque/old")?.is_none(), || "the old file is there".to_owned())
}

fn removed_name_is_free(root: &Dir) -> Verdict {
    root.unlink("file")?;
    root.make_dir("file")?;
    write(root, "file/x", b"x")?;
    walk::remove_all(root, "dir")?;
    write(root, "dir", b"a file")?;
    renameat(root, "other", root, "gone").at("rename", "other")?;
    same("what is in gone", read(root, "gone")?, b"other".to_vec())?;
    same("what is in dir", read(root, "dir")?, b"a file".to_vec())?;
    same("what is in file", list(root, "file")?, names(&["x"]))
}

fn made_again_is_empty(root: &Dir) -> Verdict {
    walk::remove_all(root, "dir")?;
    root.make_dir("dir")?;
    same("what is in it", list(root, "dir")?, Vec::new())?;
    root.make_dir("dir/sub")?;
    same("what is in the directory below", list(root, "dir/sub")?, Vec::new())
}

fn full_is_not_removed(root: &Dir) -> Verdict {
    let remove = |path: &str| unlinkat(root, path, AtFlags::REMOVEDIR);
    for path in ["dir", "full", "opaque", "dir/sub"] {
        refuses(&format!("removing {path}"), remove(path), Errno::NOTEMPTY)?;
    }
    same("what is in it", list(root, "full")?, names(&["a", "b", "c"]))
}

fn emptied_is_removed(root: &Dir) -> Verdict {
    for name in ["full/a", "full/b", "full/c", "opaque/new"] {
        root.unlink(name)?;
    }
    for path in ["full", "opaque", "empty"] {
        root.remove_dir(path)?;
        ensure(root.stat_if_any(path)?.is_none(), || format!("{path} is there"))?;
    }
    Ok(())
}

fn lower_is_renamed(root: &Dir) -> Verdict {
    renameat(root, "dir", root, "moved").at("rename", "dir")?;
    same("what is in it", list(root, "moved")?, names(&["inner", "second", "sub"]))?;
    same("what is deep in it", read(root, "moved/sub/deep/leaf")?, b"leaf".to_vec())?;
    ensure(root.stat_if_any("dir")?.is_none(), || "its old name is there".to_owned())
}

fn new_is_renamed(root: &Dir) -> Verdict {
    root.make_dir("made")?;
    write(root, "made/x", b"x")?;
    renameat(root, "made", root, "dir/made").at("rename", "made")?;
    same("what is in it", read(root, "dir/made/x")?, b"x".to_vec())?;
    ensure(root.stat_if_any("made")?.is_none(), || "its old name is there".to_owned())
}

fn replaces_an_empty_one(root: &Dir) -> Verdict {
    for name in ["full/a", "full/b", "full/c"] {
        root.unlink(name)?;
    }
    for (number, target) in ["full", "empty"].into_iter().enumerate() {
        let source = format!("made{number}");
        root.make_dir(&source)?;
        write(root, &format!("{source}/x"), b"x")?;
        renameat(root, &source, root, target).at("rename", &source)?;
        same(target, list(root, target)?, names(&["x"]))?;
    }
    Ok(())
}

fn does_not_replace_a_full_one(root: &Dir) -> Verdict {
    root.make_dir("made")?;
    for target in ["dir", "full"] {
        let answer = renameat(root, "made", root, target);
        ensure(matches!(answer, Err(Errno::NOTEMPTY | Errno::EXIST)), || format!("{target}: {answer:?}"))?;
    }
    refuses("a rename over a file", renameat(root, "made", root, "file"), Errno::NOTDIR)?;
    refuses("a rename of a file over a directory", renameat(root, "file", root, "full"), Errno::ISDIR)
}

fn not_into_itself(root: &Dir) -> Verdict {
    root.make_dir("made")?;
    root.make_dir("made/below")?;
    refuses("a rename into itself", renameat(root, "made", root, "made/below/made"), Errno::INVAL)
}

fn file_replaces_a_file(root: &Dir) -> Verdict {
    write(root, "new", b"new")?;
    renameat(root, "new", root, "file").at("rename", "new")?;
    same("what is in it", read(root, "file")?, b"new".to_vec())?;
    renameat(root, "other", root, "dir/inner").at("rename", "other")?;
    same("what is in the lower one", read(root, "dir/inner")?, b"other".to_vec())?;
    ensure(root.stat_if_any("other")?.is_none(), || "its old name is there".to_owned())
}

fn without_replacing(root: &Dir) -> Verdict {
    let rename = |from: &str, to: &str| renameat_with(root, from, root, to, RenameFlags::NOREPLACE);
    refuses("a rename over a lower file", rename("other", "file"), Errno::EXIST)?;
    rename("other", "gone").at("rename", "other")?;
    same("what is in it", read(root, "gone")?, b"other".to_vec())
}

fn files_change_places(root: &Dir) -> Verdict {
    let exchange = |a: &str, b: &str| renameat_with(root, a, root, b, RenameFlags::EXCHANGE);
    exchange("other", "dir/inner").at("exchange", "other")?;
    same("other", read(root, "other")?, b"inner".to_vec())?;
    same("dir/inner", read(root, "dir/inner")?, b"other".to_vec())?;
    refuses("an exchange with nothing", exchange("other", "nothing"), Errno::NOENT)
}

fn parents_change_their_time(root: &Dir) -> Verdict {
    let changes = |what: &str| -> Verdict {
        let found = root.stat("dir")?.mtime;
        root.set_mtime("dir", TIME)?;
        ensure(found > TIME, || format!("{what}: {found:?}"))
    };
    write(root, "dir/new", b"")?;
    changes("after a file was made")?;
    root.unlink("dir/inner")?;
    changes("after a file was removed")?;
    renameat(root, "dir/second", root, "dir/third").at("rename", "dir/second")?;
    changes("after a file was renamed")
}

fn group_is_inherited(root: &Dir) -> Verdict {
    root.set_mode("dir", 0o2775)?;
    write(root, "dir/new", b"")?;
    mkdirat(root, "dir/below", rustix::fs::Mode::from_raw_mode(0o755)).at("make directory", "dir/below")?;
    same("the group of a file", root.stat("dir/new")?.gid, 4)?;
    let below = root.stat("dir/below")?;
    same("the group and the bit of a directory", (below.gid, below.mode & 0o2000), (4, 0o2000))
}

fn deep_tree(root: &Dir) -> Verdict {
    let name = std::ffi::OsStr::from_bytes(b"deep-name-");
    let mut dir = root.open_dir("dir")?;
    for _ in 0..DEPTH {
        dir.make_dir(name)?;
        dir = dir.open_dir(name)?;
    }
    dir.create_file("leaf")?;
    drop(dir);
    let path: std::path::PathBuf =
        ["dir"].into_iter().map(Into::into).chain((0..DEPTH).map(|_| name.to_owned())).collect();
    ensure(root.open_beneath(&path)?.stat("leaf").is_ok(), || "the leaf is not there".to_owned())?;
    let answer = rustix::fs::statat(root, &path, AtFlags::empty());
    refuses("a path that is too long", answer, Errno::NAMETOOLONG)?;
    walk::remove_all(root, "dir")?;
    ensure(root.stat_if_any("dir")?.is_none(), || "it is there".to_owned())
}

fn large_directory(root: &Dir) -> Verdict {
    let dir = root.open_dir("dir")?;
    for number in 0..NAMES {
        dir.make_symlink(b"x", format!("n{number}"))?;
    }
    same("how many there are", dir.names()?.len(), NAMES + 3)?;
    for number in (0..NAMES).filter(|number| number % 100 != 0) {
        dir.unlink(format!("n{number}"))?;
    }
    same("how many are left", dir.names()?.len(), NAMES / 100 + 3)
}

fn removed_recursively(root: &Dir) -> Verdict {
    for entry in root.names()? {
        walk::remove_all(root, &entry.name)?;
    }
    same("what is left", list(root, "")?, Vec::new())
}
