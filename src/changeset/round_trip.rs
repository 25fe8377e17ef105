//! Properties of any two trees: applying the changes from one to the other gives the other, and a tree has no changes
//! against itself. The trees and edits are random, on real file systems.
//!
//! The results are compared by [`Tree::read`], which shares no code with the comparison. Two differences are permitted:
//! the times of directories, and hard-link groups of which nothing was emitted.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{Read, Write as _};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use rustix::fs::{CWD, RenameFlags};

use super::apply::Applier;
use super::diff::diff;
use super::{Candidates, Change, Sink};
use crate::mount::scratch::{FsType, Scratch};
use crate::tree::memory::Tree;
use crate::tree::walk::remove_all;
use crate::tree::{Device, Dir, FileType, Meta, Timestamp};
use crate::{random, testing};

/// Default duration of the whole suite in seconds.
const BUDGET_S: u64 = 4;

/// A device number without a driver, so that a test that opens the device by mistake gets an error.
const NO_DRIVER: u32 = 4095;

/// An edit: its kind and three parameters.
type Gene = (u8, u16, u16, u16);

/// Returns a name: an ordinary one, or one that is difficult for layers.
fn name(number: u16) -> OsString {
    const NAMES: [&[u8]; 10] = [b"a", b"b", b"c", b"d", b"e", b".wh.a", b".wh..wh..opq", b"\xff\xfe\n", b"a b", b"a.b"];
    match usize::from(number) % 24 {
        10 => OsString::from("m".repeat(251)),
        11 => OsString::from("n".repeat(252)),
        12 => OsString::from("o".repeat(255)),
        ordinary => OsStr::from_bytes(NAMES[ordinary % NAMES.len()]).to_owned(),
    }
}

/// Returns one of few owners, so that some edits change nothing.
fn owner(number: u16) -> u32 {
    [0, 1, 1000, 70_000][usize::from(number) % 4]
}

/// A tree that is edited by path.
struct Editor {
    root: PathBuf,
}

impl Editor {
    /// Returns all paths of the tree, the root first.
    fn paths(&self) -> Vec<PathBuf> {
        let mut all = vec![self.root.clone()];
        let mut next = 0;
        while let Some(path) = all.get(next).cloned() {
            next += 1;
            if fs::symlink_metadata(&path).is_ok_and(|meta| meta.is_dir()) {
                let mut below: Vec<PathBuf> =
                    fs::read_dir(&path).expect("read").map(|entry| entry.expect("entry").path()).collect();
                below.sort();
                all.extend(below);
            }
        }
        all
    }

    fn pick(&self, number: u16, wanted: impl Fn(&fs::Metadata) -> bool) -> Option<PathBuf> {
        let all: Vec<PathBuf> =
            self.paths().into_iter().filter(|path| wanted(&fs::symlink_metadata(path).expect("stat"))).collect();
        (!all.is_empty()).then(|| all[usize::from(number) % all.len()].clone())
    }

    fn pick_file(&self, number: u16) -> Option<PathBuf> {
        self.pick(number, fs::Metadata::is_file)
    }

    fn pick_any(&self, number: u16) -> Option<PathBuf> {
        self.pick(number, |_| true).filter(|path| *path != self.root)
    }

    /// Returns a path in some directory, which may exist.
    fn place(&self, number: u16) -> PathBuf {
        let dir = self.pick(number >> 5, fs::Metadata::is_dir).expect("the root");
        dir.join(name(number))
    }

    /// Returns a path after removing anything there.
    fn free(&self, number: u16) -> PathBuf {
        let place = self.place(number);
        remove(&place);
        place
    }

    fn run(&self, genes: &[Gene]) {
        for gene in genes {
            // An edit that is impossible here is left out.
            let _ = self.edit(*gene);
        }
    }

    /// Performs one edit.
    fn edit(&self, (kind, a, b, c): Gene) -> Option<()> {
        match kind % 27 {
            0 | 1 => write(&self.place(a), &content(b, c)),
            2 => drop(fs::create_dir(self.place(a))),
            3 => fs::OpenOptions::new().append(true).open(self.pick_file(a)?).ok()?.write_all(&content(b, c)).ok()?,
            4 => fs::OpenOptions::new().write(true).open(self.pick_file(a)?).ok()?.set_len(u64::from(b)).ok()?,
            5 => remove(&self.pick_any(a)?),
            6 => self.rename(&self.pick_any(a)?, &self.place(b)),
            7 => exchange(&self.pick_any(a)?, &self.pick_any(b)?),
            8 => {
                let (one, other) = (self.pick(a, fs::Metadata::is_dir)?, self.pick(b, fs::Metadata::is_dir)?);
                exchange(&one, &other);
            }
            9 => self.swap_like_mv(&self.pick_any(a)?, &self.pick_any(b)?),
            10 | 11 => {
                let source = self.pick(a, |meta| !meta.is_dir())?;
                let target = self.place(b);
                if source != target {
                    remove(&target);
                    drop(fs::hard_link(source, target));
                }
            }
            12 => symlink(content(b % 8 + 1, c).split(|byte| *byte == 0).next().map(OsStr::from_bytes)?, self.free(a))
                .ok()?,
            13 => self.by_name(&self.pick(a, |meta| !meta.is_symlink())?, |dir, name| {
                drop(dir.set_mode(name, [0o644, 0o755, 0o4711, 0o1777, 0o2750, 0o600, 0][usize::from(b) % 7]));
            }),
            14 => self.by_name(&self.pick(a, |_| true)?, |dir, name| drop(dir.set_owner(name, owner(b), owner(c)))),
            15 | 16 => self.by_name(&self.pick(a, |_| true)?, |dir, name| {
                let (seconds, nanos) = (i64::from(b % 3) * 1_000_000_000 - 5, u32::from(c % 3) * 499_999_999);
                drop(dir.set_mtime(name, Timestamp { seconds, nanos }));
            }),
            17 => self.by_name(&self.pick(a, |_| true)?, |dir, name| {
                let attribute = [&b"user.a"[..], b"user.b", b"trusted.c"][usize::from(b) % 3];
                drop(dir.set_xattr(name, attribute, &content(c % 20, c)));
            }),
            18 => self.by_name(&self.pick(a, |_| true)?, |dir, name| drop(dir.set_xattrs(name, &Default::default()))),
            19 => self.by_name(&self.pick(a, |meta| !meta.is_symlink())?, |dir, name| {
                let attribute = [&b"system.posix_acl_access"[..], b"system.posix_acl_default"][usize::from(b) % 2];
                drop(dir.set_xattr(name, attribute, &acl(c)));
            }),
            20 => self.by_name(&self.free(a), |dir, name| {
                let file_type = [FileType::Char, FileType::Block, FileType::Fifo][usize::from(b) % 3];
                drop(dir.make_node(file_type, Device { major: NO_DRIVER, minor: u32::from(c % 3) }, name));
            }),
            // The path of a socket must be short, so the socket is created elsewhere and moved.
            21 => {
                let made = self.root.join("s");
                remove(&made);
                drop(UnixListener::bind(&made).ok()?);
                drop(fs::rename(made, self.place(a)));
            }
            22 => rewrite(&self.pick_file(a)?, true)?,
            23 => rewrite(&self.pick_file(a)?, false)?,
            24 => self.split(&self.pick_file(a)?)?,
            25 => {
                let place = self.pick_any(a)?;
                let was_dir = fs::symlink_metadata(&place).ok()?.is_dir();
                remove(&place);
                if was_dir { fs::write(place, content(b, c)).ok()? } else { fs::create_dir(place).ok()? }
            }
            _ => self.by_name(&self.pick_file(a)?, |dir, name| {
                let capability = b"\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00";
                drop(dir.set_xattr(name, b"security.capability", capability));
            }),
        }
        Some(())
    }

    fn by_name(&self, path: &Path, edit: impl FnOnce(&Dir, &OsStr)) {
        if path == self.root {
            edit(&Dir::open(path).expect("open"), OsStr::new(""));
        } else {
            let dir = Dir::open(path.parent().expect("parent")).expect("open");
            edit(&dir, path.file_name().expect("name"));
        }
    }

    fn rename(&self, from: &Path, to: &Path) {
        if !to.starts_with(from) && !from.starts_with(to) {
            remove(to);
            drop(fs::rename(from, to));
        }
    }

    fn swap_like_mv(&self, one: &Path, other: &Path) {
        let aside = self.root.join("aside");
        if !one.starts_with(other) && !other.starts_with(one) && !aside.exists() {
            fs::rename(one, &aside).expect("mv");
            fs::rename(other, one).expect("mv");
            fs::rename(aside, other).expect("mv");
        }
    }

    /// Gives one name of a file a separate inode with equal content and attributes, as a copy-up does.
    fn split(&self, path: &Path) -> Option<()> {
        let bytes = fs::read(path).ok()?;
        self.by_name(path, |dir, name| {
            let meta = dir.meta(name, &dir.stat(name).expect("stat")).expect("meta");
            let times = dir.stat("").expect("stat").mtime;
            dir.unlink(name).expect("unlink");
            dir.create_file(name).expect("create").write_all(&bytes).expect("write");
            dir.set_meta(name, &meta).expect("meta");
            dir.set_mtime("", times).expect("time");
        });
        Some(())
    }
}

/// Replaces a file's content; opens only regular files, because opening a fifo or device could block.
fn write(path: &Path, bytes: &[u8]) {
    if fs::symlink_metadata(path).map_or(true, |meta| meta.is_file()) {
        drop(fs::write(path, bytes));
    }
}

fn remove(path: &Path) {
    let dir = Dir::open(path.parent().expect("parent")).expect("open");
    remove_all(&dir, path.file_name().expect("name")).expect("remove");
}

fn exchange(one: &Path, other: &Path) {
    let _ = rustix::fs::renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE);
}

/// Rewrites a file with the same bytes, or with others of the same length; keeps its mtime.
fn rewrite(path: &Path, same: bool) -> Option<()> {
    let file = fs::OpenOptions::new().read(true).write(true).open(path).ok()?;
    let modified = file.metadata().ok()?.modified().ok()?;
    let mut bytes = fs::read(path).ok()?;
    if let Some(last) = bytes.last_mut()
        && !same
    {
        *last = last.wrapping_add(1);
    }
    file.write_all_at(&bytes, 0).ok()?;
    file.set_modified(modified).ok()
}

/// Returns file content: short, with a hole, or longer than a buffer.
fn content(size: u16, fill: u16) -> Vec<u8> {
    let length = match size % 32 {
        30 => 70_000 + usize::from(size),
        31 => 300_000 + usize::from(size),
        short => usize::from(short),
    };
    let mut bytes = vec![if fill.is_multiple_of(3) { 0 } else { b'a' + (fill % 3) as u8 }; length];
    if length > 65_536 {
        bytes[65_536] = 1;
    }
    bytes
}

/// Returns an ACL as the kernel stores it: the three classes, one named user, the mask.
fn acl(number: u16) -> Vec<u8> {
    let mut bytes = 2_u32.to_le_bytes().to_vec();
    let nobody = u32::MAX;
    for (tag, permissions, id) in
        [(1, 6, nobody), (2, number % 8, 1000), (4, 4, nobody), (16, 4 + number % 4, nobody), (32, 0, nobody)]
    {
        bytes.extend((tag as u16).to_le_bytes());
        bytes.extend(permissions.to_le_bytes());
        bytes.extend(id.to_le_bytes());
    }
    bytes
}

/// Returns the emitted changes in order.
fn stream(old: Option<&Dir>, new: &Dir) -> Vec<Change> {
    let mut all = Vec::new();
    let mut sink = |change: &Change, data: &mut dyn Read| {
        let mut bytes = Vec::new();
        data.read_to_end(&mut bytes).expect("read");
        all.push(change.clone());
        Ok(())
    };
    diff(old, new, Candidates::All, &mut sink).expect("diff");
    all
}

/// Applies the changes from `old` to `new` to `target`.
fn transfer(old: Option<&Dir>, new: &Dir, target: &Dir) {
    let mut applier = Applier::new(target.try_clone().expect("clone"));
    diff(old, new, Candidates::All, &mut applier as &mut dyn Sink).expect("diff and apply");
    applier.finish().expect("finish");
}

/// Checks the canonical order through a sort key: in a directory removals first, siblings by bytes, one entry for each
/// path.
fn check_order(stream: &[Change]) -> Result<(), TestCaseError> {
    let key = |change: &Change| -> Vec<(u8, OsString)> {
        let mut key: Vec<_> = change.path().iter().map(|name| (1, name.to_owned())).collect();
        match (change, key.last_mut()) {
            (Change::Remove { .. }, Some(last)) => last.0 = 0,
            (Change::Opaque { .. }, _) => key.push((0, OsString::new())),
            _ => {}
        }
        key
    };
    for pair in stream.windows(2) {
        prop_assert!(key(&pair[0]) < key(&pair[1]), "order: {:?} before {:?}", pair[0], pair[1]);
    }
    Ok(())
}

/// Compares `result`, a copy of `old` to which `stream` was applied, with `new`.
fn check_result(old: &Tree, new: &Tree, result: &Tree, stream: &[Change]) -> Result<(), TestCaseError> {
    let emitted: BTreeSet<&Path> = stream.iter().map(Change::path).collect();
    let is_socket = |inode: &crate::tree::memory::Inode| inode.meta.node.file_type() == FileType::Socket;
    let wanted: Vec<_> = new.iter().filter(|named| !is_socket(named.inode)).collect();
    let paths: Vec<&Path> = wanted.iter().map(|named| named.path).collect();
    prop_assert_eq!(result.iter().map(|named| named.path).collect::<Vec<_>>(), paths);
    for named in wanted {
        let got = result.get(named.path).expect("path");
        let mut inode = got.inode.clone();
        if named.inode.meta.node.file_type() == FileType::Dir && !emitted.contains(named.path) {
            prop_assert_eq!(inode.meta.mtime, old.get(named.path).expect("old").inode.meta.mtime, "{:?}", named.path);
            let inside = emitted.iter().find(|path| path.parent() == Some(named.path));
            prop_assert!(
                inode.meta.mtime == named.inode.meta.mtime || inside.is_none(),
                "{:?} changed, but its directory's time was not emitted",
                inside
            );
            inode.meta.mtime = named.inode.meta.mtime;
        }
        prop_assert_eq!(&inode, named.inode, "{:?}", named.path);
        if named.names.iter().any(|name| emitted.contains(name.as_path())) {
            prop_assert_eq!(got.names, named.names, "names of {:?}", named.path);
        }
    }
    Ok(())
}

fn check(scratch: &Scratch, round: usize, first: &[Gene], second: &[Gene]) -> Result<(), TestCaseError> {
    let base = Dir::open(scratch.path()).expect("open");
    let round = round.to_string();
    base.make_dir(&round).expect("mkdir");
    let base = base.open_dir(&round).expect("open");
    let [old, new, copy] = ["old", "new", "copy"].map(|name| {
        base.make_dir(name).expect("mkdir");
        // The tree that a layer without a parent is applied to.
        base.set_meta(name, &Meta::implied_dir()).expect("an implied root");
        base.open_dir(name).expect("open")
    });
    let at = |name: &str| Editor { root: scratch.path().join(&round).join(name) };
    let editor = at("old");
    editor.run(first);
    let everything = stream(None, &old);
    check_order(&everything)?;
    transfer(None, &old, &new);
    transfer(None, &old, &copy);
    let before = Tree::read(&old).expect("read");
    check_result(&Tree::default(), &before, &Tree::read(&copy).expect("read"), &everything)?;
    // If only the root's time changed, the root is not in the stream, so all three roots get the same time here.
    for dir in [&new, &copy] {
        dir.set_mtime("", old.stat("").expect("stat").mtime).expect("utimes");
    }
    prop_assert_eq!(stream(Some(&old), &copy), [], "a copy");

    let editor = at("new");
    editor.run(second);
    prop_assert_eq!(stream(Some(&new), &new), [], "against itself");
    let changed = stream(Some(&old), &new);
    check_order(&changed)?;
    prop_assert_eq!(&stream(Some(&copy), &new), &changed, "from a copy");
    transfer(Some(&old), &new, &copy);
    let (after, result) = (Tree::read(&new).expect("read"), Tree::read(&copy).expect("read"));
    check_result(&before, &after, &result, &changed)?;
    prop_assert_eq!(stream(Some(&copy), &new), [], "what is left after applying");
    remove_all(&Dir::open(scratch.path()).expect("open"), &round).expect("remove");
    Ok(())
}

fn wanted(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().and_then(|text| text.parse().ok())
}

#[test]
fn applying_what_changed_gives_the_new_tree() {
    let scripts = wanted("STRATA_SCRIPTS").map(|all| all / FsType::ALL.len() as u64);
    let budget = Duration::from_secs(wanted("STRATA_BUDGET_S").unwrap_or(BUDGET_S)) / FsType::ALL.len() as u32;
    for fs in FsType::ALL {
        let Some(scratch) = testing::scratch(fs) else { continue };
        let (started, mut rounds) = (Instant::now(), 0);
        let numbers = std::cell::Cell::new(0);
        while scripts.map_or_else(|| started.elapsed() < budget, |wanted| rounds < wanted) {
            let config = Config { cases: 1, failure_persistence: None, max_shrink_iters: 2000, ..Config::default() };
            let genes = || vec(any::<Gene>(), 0..30);
            let answer =
                TestRunner::new_with_rng(config, random::rng(rounds)).run(&(genes(), genes()), |(first, second)| {
                    numbers.set(numbers.get() + 1);
                    check(&scratch, numbers.get(), &first, &second)
                });
            if let Err(failure) = answer {
                panic!("{fs}, round {rounds} (STRATA_SEED={}): {failure}", random::seed());
            }
            rounds += 1;
        }
        let _ = writeln!(std::io::stderr(), "changes and apply on {fs}: {rounds} scripts in {:?}", started.elapsed());
    }
}
