//! Cases about names and extended attributes.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;

use rustix::fs::{AtFlags, Mode, OFlags, XattrFlags, fremovexattr, fsetxattr, statat};
use rustix::io::Errno;

use super::fixture::{NOTE_VALUE, access_list, attribute, note};
use super::{Case, list, open, read, same, write};
use crate::conformance::case::{Fault, Verdict, ensure, refuses};
use crate::conformance::ops::ACL;
use crate::error::{Context as _, ErrorKind};
use crate::tree::Dir;

/// Name of the attribute that holds the default access control list for new files in a directory.
const DEFAULT_ACL: &[u8] = b"system.posix_acl_default";

/// All cases of this module.
pub(super) const CASES: [Case; 10] = [
    Case {
        name: "names-of-255-bytes",
        source: "POSIX NAME_MAX",
        meaning: "long names cannot be made or removed",
        run: long_names,
    },
    Case {
        name: "names-are-bytes",
        source: "POSIX filename; path_resolution(7)",
        meaning: "files with names in an old encoding are lost",
        run: names_are_bytes,
    },
    Case {
        name: "names-like-whiteouts",
        source: "OCI image specification, layer.md: Whiteouts; kernel overlayfs.rst",
        meaning: "a container cannot have files whose names mean something in layers",
        run: names_like_whiteouts,
    },
    Case { name: "case-counts", source: "POSIX filename", meaning: "two files become one", run: case_counts },
    Case {
        name: "user-attributes",
        source: "xattr(7)",
        meaning: "extended attributes cannot be used by programs",
        run: user_attributes,
    },
    Case {
        name: "attributes-are-removed",
        source: "removexattr(2)",
        meaning: "an attribute of an image stays for ever",
        run: attributes_are_removed,
    },
    Case {
        name: "attributes-of-directories",
        source: "xattr(7)",
        meaning: "attributes of merged directories are lost",
        run: attributes_of_directories,
    },
    Case {
        name: "large-attributes",
        source: "xattr(7): limits of file systems",
        meaning: "attributes of a usual size do not fit",
        run: large_attributes,
    },
    Case {
        name: "access-list-and-mode-agree",
        source: "acl(5): correspondence between ACL entries and file permission bits",
        meaning: "ls shows other permissions than hold",
        run: access_list_and_mode,
    },
    Case {
        name: "default-list-is-inherited",
        source: "acl(5): object creation and default ACLs",
        meaning: "files in shared directories get the wrong permissions",
        run: default_list,
    },
];

fn long_names(root: &Dir) -> Verdict {
    let (long, longer) = ("n".repeat(255), "n".repeat(256));
    write(root, &long, b"x")?;
    root.make_dir("dir/".to_owned() + &long)?;
    same("what is in it", read(root, &long)?, b"x".to_vec())?;
    refuses("one byte more", statat(root, &longer, AtFlags::empty()), Errno::NAMETOOLONG)?;
    let made = rustix::fs::openat(root, &longer, OFlags::CREATE | OFlags::WRONLY, Mode::from_raw_mode(0o644));
    refuses("making one byte more", made, Errno::NAMETOOLONG)?;
    root.unlink(&long)?;
    ensure(root.stat_if_any(&long)?.is_none(), || "it is there".to_owned())
}

fn names_are_bytes(root: &Dir) -> Verdict {
    let dir = root.open_dir("empty")?;
    let bytes = (1..=u8::MAX).filter(|byte| !matches!(byte, b'/' | b'.'));
    let names: Vec<Vec<u8>> = bytes.map(|byte| vec![byte]).chain([b"\xff\xfe\x80".to_vec(), b"...".to_vec()]).collect();
    for name in &names {
        dir.create_file(OsStr::from_bytes(name))?;
    }
    let mut expected = names;
    expected.sort_unstable();
    let found: Vec<Vec<u8>> = dir.names()?.into_iter().map(|entry| entry.name.as_bytes().to_vec()).collect();
    same("the names", found, expected)
}

fn names_like_whiteouts(root: &Dir) -> Verdict {
    for name in [".wh.file", ".wh..wh..opq", "dir/.wh.inner"] {
        write(root, name, b"x")?;
        same(name, read(root, name)?, b"x".to_vec())?;
    }
    ensure(root.stat_if_any("dir/inner")?.is_some(), || "a file went with it".to_owned())?;
    let found = list(root, "dir")?;
    ensure(found.contains(&".wh.inner".to_owned()), || format!("{found:?}"))
}

fn case_counts(root: &Dir) -> Verdict {
    write(root, "FILE", b"x")?;
    write(root, "dir/Inner", b"y")?;
    same("the new one", read(root, "FILE")?, b"x".to_vec())?;
    same("the old one", read(root, "dir/inner")?, b"inner".to_vec())
}

fn user_attributes(root: &Dir) -> Verdict {
    match root.set_xattr("file", b"user.a", b"one") {
        Err(error) if error.kind() == ErrorKind::Unsupported => {
            return Err(Fault::Skip("the file system has no attributes of users".to_owned()));
        }
        set => set?,
    }
    let file = open(root, "file", OFlags::RDONLY)?;
    let set = |name: &str, flags| fsetxattr(&file, name, b"two", flags);
    refuses("making an attribute that is there", set("user.a", XattrFlags::CREATE), Errno::EXIST)?;
    refuses("replacing an attribute that is not", set("user.b", XattrFlags::REPLACE), Errno::NODATA)?;
    set("user.a", XattrFlags::REPLACE).at("replace an attribute of", "file")?;
    let xattrs = root.xattrs("file")?;
    same("the new one", xattrs.get(&b"user.a"[..]).map(Vec::as_slice), Some(&b"two"[..]))?;
    same("the one from below", note(root, "file")?.as_deref(), Some(NOTE_VALUE))
}

fn attributes_are_removed(root: &Dir) -> Verdict {
    let (file, name) = (open(root, "file", OFlags::RDONLY)?, attribute(root, "note")?);
    fremovexattr(&file, &name).at("remove an attribute of", "file")?;
    same("the attributes", root.xattrs("file")?.len(), 0)?;
    refuses("removing it again", fremovexattr(&file, &name), Errno::NODATA)
}

fn attributes_of_directories(root: &Dir) -> Verdict {
    let name = attribute(root, "mark")?;
    for path in ["dir", "dir/sub/deep", ""] {
        root.set_xattr(path, name.as_bytes(), b"set")?;
        same(path, root.xattrs(path)?.get(name.as_bytes()).map(Vec::as_slice), Some(&b"set"[..]))?;
    }
    same("what is in it", list(root, "dir")?.len(), 3)
}

fn large_attributes(root: &Dir) -> Verdict {
    let (name, value) = (attribute(root, "large")?, vec![b'v'; 3000]);
    root.set_xattr("file", name.as_bytes(), &value)?;
    same("its length", root.xattrs("file")?.get(name.as_bytes()).map(Vec::len), Some(value.len()))
}

fn access_list_and_mode(root: &Dir) -> Verdict {
    root.set_xattr("other", ACL, &access_list())?;
    same("the mode", root.stat("other")?.mode, 0o664)?;
    root.set_mode("other", 0o600)?;
    let list = root.xattrs("other")?.get(ACL).cloned().unwrap_or_default();
    // The group bits equal the mask: the fourth of five entries of 8 bytes, after a header of 4 bytes.
    same("the mask", list.get(4 + 3 * 8 + 2).copied(), Some(0))
}

fn default_list(root: &Dir) -> Verdict {
    root.set_xattr("dir", DEFAULT_ACL, &access_list())?;
    let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC;
    rustix::fs::openat(root, "dir/new", flags, Mode::from_raw_mode(0o666)).at("make", "dir/new")?;
    same("the mode", root.stat("dir/new")?.mode, 0o664)?;
    ensure(root.xattrs("dir/new")?.contains_key(ACL), || "it has no list".to_owned())?;
    root.make_dir("dir/below")?;
    ensure(root.xattrs("dir/below")?.contains_key(DEFAULT_ACL), || "the directory below has none".to_owned())
}
