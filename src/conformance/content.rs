//! File system semantics that a container sees in its root directory, checked through the kernel.
//!
//! Each case gets a writable snapshot on top of two committed ones ([`fixture`] describes their content), as a detached
//! mount, and does in it what programs do. The expected results are those of POSIX and Linux for a plain file system.
//! Afterwards the snapshot is committed, and a view of it must show the same tree: types, modes, owners, times,
//! attributes, contents and hard links.
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
use super::trial::Trial;
use crate::error::{Context as _, ErrorKind};
use crate::tree::Dir;
use crate::tree::memory::Tree;
use crate::tree::text;

/// A promise about a mounted tree.
pub(super) type Case = Promise<fn(&Dir) -> Verdict>;

/// Returns all cases of the group.
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

/// Runs `case` on top of the two layers.
pub(super) fn run(case: &Case, trial: &mut Trial<'_>) -> Verdict {
    let mut parent = String::new();
    for (number, fill) in fixture::LAYERS.iter().enumerate() {
        let name = format!("layer{number}");
        prepare(trial, "filled", &parent)?;
        match fill(&trial.open("filled")?) {
            Err(error) if error.kind() == ErrorKind::PermissionDenied => return Err(Fault::Skip(error.chain())),
            filled => filled?,
        }
        commit(trial, &name, "filled")?;
        parent = name;
    }
    prepare(trial, "top", &parent)?;
    let top = trial.open("top")?;
    (case.run)(&top)?;
    let before = Tree::read(&top)?;
    drop(top);
    commit(trial, "committed", "top")?;
    trial.on.view(&trial.key("seen"), &trial.key("committed"), &trial.labels)?;
    let after = Tree::read(&trial.open("seen")?)?;
    ensure(before == after, || {
        let (before, after) = (text::print(&before), text::print(&after));
        format!("the commit changed the tree\n--- before\n{before}\n--- after\n{after}")
    })
}

fn prepare(trial: &Trial<'_>, key: &str, parent: &str) -> Verdict {
    trial.on.prepare(&trial.key(key), &trial.key(parent), &trial.labels)?;
    Ok(())
}

fn commit(trial: &Trial<'_>, name: &str, key: &str) -> Verdict {
    Ok(trial.on.commit(&trial.key(name), &trial.key(key), &trial.labels)?)
}

/// Opens the file at `path`; a file that is created gets the mode 0644.
fn open(dir: &Dir, path: &str, flags: OFlags) -> Verdict<File> {
    let opened = rustix::fs::openat(dir, path, flags | OFlags::CLOEXEC, Mode::from_raw_mode(0o644));
    Ok(opened.at("open", path)?.into())
}

/// Returns the content of the file at `path`.
fn read(dir: &Dir, path: &str) -> Verdict<Vec<u8>> {
    let mut bytes = Vec::new();
    open(dir, path, OFlags::RDONLY)?.read_to_end(&mut bytes).at("read", path)?;
    Ok(bytes)
}

/// Creates the file at `path`, or replaces its content.
fn write(dir: &Dir, path: &str, bytes: &[u8]) -> Verdict {
    open(dir, path, OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC)?.write_all(bytes).at("write", path)?;
    Ok(())
}

/// Appends bytes to the file at `path`.
fn append(dir: &Dir, path: &str, bytes: &[u8]) -> Verdict {
    open(dir, path, OFlags::WRONLY | OFlags::APPEND)?.write_all(bytes).at("append to", path)?;
    Ok(())
}

/// Returns the names in the directory at `path`, sorted.
fn list(dir: &Dir, path: &str) -> Verdict<Vec<String>> {
    let names = dir.open_beneath(path.as_ref())?.names()?;
    Ok(names.into_iter().map(|entry| entry.name.to_string_lossy().into_owned()).collect())
}

/// Checks that `found` equals `expected`.
fn same<T: PartialEq + std::fmt::Debug>(what: &str, found: T, expected: T) -> Verdict {
    ensure(found == expected, || format!("{what}: {found:?} and not {expected:?}"))
}
