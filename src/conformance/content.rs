//! What a container sees in its root directory: the promises of a file system, asked through the kernel.
//!
//! Each case gets a writable snapshot on top of two committed ones, mounted nowhere ([`fixture`] says what is in them),
//! and does in it what programs do. What it expects is what POSIX and Linux say of a plain file system. When it is
//! through, the snapshot is committed, and a view of it must show the same tree: types, modes, owners, times,
//! attributes, contents, hard links.
//!
//! # References
//! POSIX.1-2024; the kernel's `filesystems/overlayfs.rst`; the issues that each case names.

mod copy_up;
mod descriptors;
mod dirs;
mod fixture;
mod links;
mod names;
mod sharing;
mod special;

use std::fs::File;
use std::io::{Read as _, Write as _};

use rustix::fs::{Mode, OFlags};

use super::case::{Fault, Promise, Verdict, ensure};
use super::round::Round;
use crate::error::{Context as _, ErrorKind};
use crate::tree::Dir;
use crate::tree::memory::Tree;
use crate::tree::text;

/// A promise about a mounted tree.
pub(super) type Case = Promise<fn(&Dir) -> Verdict>;

/// Every case.
pub(super) fn cases() -> impl Iterator<Item = &'static Case> {
    copy_up::CASES
        .iter()
        .chain(&descriptors::CASES)
        .chain(&dirs::CASES)
        .chain(&links::CASES)
        .chain(&names::CASES)
        .chain(&sharing::CASES)
        .chain(&special::CASES)
}

/// Tries `case` on two layers below.
pub(super) fn run(case: &Case, round: &mut Round<'_>) -> Verdict {
    let mut parent = String::new();
    for (number, fill) in fixture::LAYERS.iter().enumerate() {
        let name = format!("layer{number}");
        prepare(round, "filled", &parent)?;
        match fill(&round.open("filled")?) {
            Err(error) if error.kind() == ErrorKind::PermissionDenied => return Err(Fault::Skip(error.chain())),
            filled => filled?,
        }
        commit(round, &name, "filled")?;
        parent = name;
    }
    prepare(round, "top", &parent)?;
    let top = round.open("top")?;
    (case.run)(&top)?;
    let before = Tree::read(&top)?;
    drop(top);
    commit(round, "committed", "top")?;
    round.on.view(&round.key("seen"), &round.key("committed"), &round.labels)?;
    let after = Tree::read(&round.open("seen")?)?;
    ensure(before == after, || {
        let (before, after) = (text::print(&before), text::print(&after));
        format!("the commit changed the tree\n--- before\n{before}\n--- after\n{after}")
    })
}

fn prepare(round: &Round<'_>, key: &str, parent: &str) -> Verdict {
    round.on.prepare(&round.key(key), &round.key(parent), &round.labels)?;
    Ok(())
}

fn commit(round: &Round<'_>, name: &str, key: &str) -> Verdict {
    Ok(round.on.commit(&round.key(name), &round.key(key), &round.labels)?)
}

/// Opens what is at `path`; what is made has the mode 0644.
fn open(dir: &Dir, path: &str, flags: OFlags) -> Verdict<File> {
    let opened = rustix::fs::openat(dir, path, flags | OFlags::CLOEXEC, Mode::from_raw_mode(0o644));
    Ok(opened.at("open", path)?.into())
}

/// The bytes of the file at `path`.
fn read(dir: &Dir, path: &str) -> Verdict<Vec<u8>> {
    let mut bytes = Vec::new();
    open(dir, path, OFlags::RDONLY)?.read_to_end(&mut bytes).at("read", path)?;
    Ok(bytes)
}

/// Makes the file at `path`, or replaces its bytes.
fn write(dir: &Dir, path: &str, bytes: &[u8]) -> Verdict {
    open(dir, path, OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC)?.write_all(bytes).at("write", path)?;
    Ok(())
}

/// Adds bytes to the end of the file at `path`.
fn append(dir: &Dir, path: &str, bytes: &[u8]) -> Verdict {
    open(dir, path, OFlags::WRONLY | OFlags::APPEND)?.write_all(bytes).at("append to", path)?;
    Ok(())
}

/// The names in the directory at `path`, sorted.
fn list(dir: &Dir, path: &str) -> Verdict<Vec<String>> {
    let names = dir.open_beneath(path.as_ref())?.names()?;
    Ok(names.into_iter().map(|entry| entry.name.to_string_lossy().into_owned()).collect())
}

/// That what was found is what has to be.
fn same<T: PartialEq + std::fmt::Debug>(what: &str, found: T, expected: T) -> Verdict {
    ensure(found == expected, || format!("{what}: {found:?} and not {expected:?}"))
}
