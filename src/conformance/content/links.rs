//! Cases about hard and symbolic links.

use rustix::fs::{AtFlags, Mode, OFlags, linkat, renameat};
use rustix::io::Errno;

use super::{Case, append, fixture, open, read, same, write};
use crate::conformance::case::{Verdict, ensure, refuses};
use crate::error::Context as _;
use crate::tree::Dir;

/// Maximum number of symbolic links that the kernel follows in one path.
const CHAIN_MAX: usize = 40;

/// Number of attempts to follow a chain of links. If a mount elsewhere disturbs a path walk, the kernel starts it again
/// without resetting its link count, so that 40 links fail once in a few thousand attempts.
const CHAIN_TRIES: usize = 100;

/// All cases of this module.
pub(super) const CASES: [Case; 12] = [
    Case {
        name: "hard-links-below-are-told",
        source: "POSIX stat: st_nlink, st_ino",
        meaning: "tar and du count a file twice",
        run: told_below,
    },
    Case {
        name: "hard-links-are-one-file",
        source: "POSIX link; kernel overlayfs.rst: index",
        meaning: "a file that was written to by one of its names stays old by the other",
        run: one_file,
    },
    Case {
        name: "new-hard-links-are-one-file",
        source: "POSIX link",
        meaning: "a new name for a file of an image becomes another file",
        run: new_links_are_one_file,
    },
    Case {
        name: "other-hard-link-stays",
        source: "POSIX unlink",
        meaning: "a file goes with the first of its names",
        run: other_link_stays,
    },
    Case {
        name: "hard-link-count-falls",
        source: "POSIX unlink: st_nlink; kernel overlayfs.rst: index",
        meaning: "backups look for names of a file that are gone",
        run: count_falls,
    },
    Case {
        name: "hard-link-does-not-replace",
        source: "POSIX link",
        meaning: "lock files do not lock",
        run: does_not_replace,
    },
    Case {
        name: "directory-has-one-name",
        source: "link(2): EPERM",
        meaning: "trees become loops",
        run: directory_has_one_name,
    },
    Case {
        name: "renaming-one-link-to-the-other",
        source: "POSIX rename: both names are links to the same file",
        meaning: "a rename that must do nothing removes a name",
        run: renaming_one_to_the_other,
    },
    Case {
        name: "symbolic-links-are-followed",
        source: "POSIX pathname resolution",
        meaning: "programs that write through a link write somewhere else",
        run: followed,
    },
    Case {
        name: "symbolic-link-to-nothing-creates",
        source: "POSIX open: O_CREAT",
        meaning: "a file cannot be made through a link",
        run: to_nothing,
    },
    Case {
        name: "symbolic-link-is-replaced",
        source: "POSIX rename",
        meaning: "a new version cannot be switched to at once",
        run: replaced,
    },
    Case {
        name: "chains-of-40-symbolic-links",
        source: "path_resolution(7); POSIX ELOOP",
        meaning: "links are followed less far than elsewhere, or for ever",
        run: chains,
    },
];

fn told_below(root: &Dir) -> Verdict {
    let (a, b) = (root.stat("pair-a")?, root.stat("pair-b")?);
    same("names", (a.nlink, b.nlink), (2, 2))?;
    same("the inode", (a.dev, a.ino), (b.dev, b.ino))
}

fn one_file(root: &Dir) -> Verdict {
    append(root, "pair-a", b", more")?;
    same("by the other name", read(root, "pair-b")?, b"pair, more".to_vec())
}

fn new_links_are_one_file(root: &Dir) -> Verdict {
    root.make_link(root, "other", "dir/new")?;
    same("names", root.stat("other")?.nlink, 2)?;
    same("the inode", root.stat("dir/new")?.ino, root.stat("other")?.ino)?;
    append(root, "dir/new", b", more")?;
    same("by the other name", read(root, "other")?, b"other, more".to_vec())
}

fn other_link_stays(root: &Dir) -> Verdict {
    root.unlink("pair-a")?;
    same("what is in it", read(root, "pair-b")?, b"pair".to_vec())
}

fn count_falls(root: &Dir) -> Verdict {
    root.unlink("pair-a")?;
    same("names", root.stat("pair-b")?.nlink, 1)
}

fn does_not_replace(root: &Dir) -> Verdict {
    for target in ["file", "dir", "link", "dangling"] {
        let answer = linkat(root, "other", root, target, AtFlags::empty());
        refuses(&format!("a link over {target}"), answer, Errno::EXIST)?;
    }
    Ok(())
}

fn directory_has_one_name(root: &Dir) -> Verdict {
    refuses("a link to a directory", linkat(root, "dir", root, "second", AtFlags::empty()), Errno::PERM)
}

fn renaming_one_to_the_other(root: &Dir) -> Verdict {
    write(root, "a", b"new")?;
    root.make_link(root, "a", "b")?;
    for (from, to) in [("pair-a", "pair-b"), ("a", "b")] {
        renameat(root, from, root, to).at("rename", from)?;
        ensure(root.stat_if_any(from)?.is_some(), || format!("{from} is gone"))?;
    }
    Ok(())
}

fn followed(root: &Dir) -> Verdict {
    same("where it points", root.read_link("link")?, b"file".to_vec())?;
    append(root, "link", b"more")?;
    same("the length of the file", root.stat("file")?.size, fixture::bytes().len() as u64 + 4)?;
    same("the length of the link", root.stat("link")?.size, 4)
}

fn to_nothing(root: &Dir) -> Verdict {
    open(root, "dangling", OFlags::WRONLY | OFlags::CREATE)?;
    ensure(root.stat_if_any("nowhere")?.is_some(), || "nothing was made".to_owned())
}

fn replaced(root: &Dir) -> Verdict {
    root.make_symlink(b"other", "switch")?;
    renameat(root, "switch", root, "link").at("rename", "switch")?;
    same("where it points", root.read_link("link")?, b"other".to_vec())?;
    same("what is there", read(root, "link")?, b"other".to_vec())
}

fn chains(root: &Dir) -> Verdict {
    root.make_symlink(b"other", "chain1")?;
    for number in 2..=CHAIN_MAX + 1 {
        root.make_symlink(format!("chain{}", number - 1).as_bytes(), format!("chain{number}"))?;
    }
    let last = format!("chain{CHAIN_MAX}");
    let walked = (0..CHAIN_TRIES).map(|_| follow(root, &last)).find(|walked| *walked != Err(Errno::LOOP));
    let content = walked.unwrap_or(Err(Errno::LOOP)).at("open", &last)?;
    same("at the end", content, b"other".to_vec())?;
    refuses("one link more", follow(root, &format!("chain{}", CHAIN_MAX + 1)), Errno::LOOP)
}

/// Opens the file at `name`, following links, and returns its content.
fn follow(root: &Dir, name: &str) -> Result<Vec<u8>, Errno> {
    let end = rustix::fs::openat(root, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut content = vec![0; 16];
    let length = rustix::io::read(end, &mut content)?;
    content.truncate(length);
    Ok(content)
}
