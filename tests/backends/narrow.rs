//! Checks that a strategy's hints about changes only narrow the comparison: the result must be that of walking both
//! trees.
//!
//! Random scripts make dense edits on trees in which many files are equal or linked, so that an incomplete hint shows.
//! Unlike in lock step there is no model, and scripts avoid nothing: an edit that the file system refuses is skipped,
//! and strategies may differ from one another. Only the two results of one store must be equal.

use std::ffi::OsString;
use std::io::Read;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestError, TestRunner};

use strata::backends::OVERLAY;
use strata::changeset::{Candidates, Change, diff};
use strata::conformance::ops::{Edit, FileContent, perform};
use strata::mount;
use strata::snapshotter::Labels;
use strata::store::{Durability, Store};
use strata::tree::{Device, Dir, FileType, Timestamp, walk};
use strata::{Result, Snapshotter};

use super::lock_step::{budget, scripts_wanted};
use super::{Bench, on_each, settings};
use crate::{random, support};

/// Maximum number of genes in a script: enough for a few layers.
const GENES_MAX: usize = 70;

/// Fills the first layer: directories with the same names in them, hard links within and across directories, a name
/// that no whiteout can express, and every file type.
fn furnish(root: &Dir) {
    let time = Timestamp { seconds: 1_000_000_000, nanos: 1 };
    let mut edits = Vec::new();
    for dir in ["a", "b", "b/a", "c", "c/a", "c/a/b"] {
        edits.push(Edit::MakeDir(dir.into()));
        for (name, seed) in [("f", dir.len() as u8), ("g", 1), ("h", 2)] {
            edits.push(Edit::Write(Path::new(dir).join(name), FileContent { seed, length: 9 }));
        }
        edits.push(Edit::Symlink(Path::new(dir).join("l"), b"f".to_vec()));
    }
    edits.extend([("a/f", "c/x"), ("a/f", "a/x"), ("b/a/g", "x"), ("c/a/b/h", "c/a/b/y"), ("a/l", "b/x")].map(
        |(f, t)| {
            let (from, to) = (f.into(), t.into());
            Edit::Link { from, to }
        },
    ));
    edits.push(Edit::Write(Path::new("c/a").join("n".repeat(254)), FileContent { seed: 3, length: 5 }));
    edits.push(Edit::MakeNode("b/p".into(), FileType::Fifo, Device::default()));
    edits.push(Edit::MakeNode("b/s".into(), FileType::Socket, Device::default()));
    edits.iter().try_for_each(|edit| perform(root, edit, time)).expect("the first layer");
}

/// An edit of a script: its kind, object and parameter.
type Gene = (u8, u16, u16);

/// One script on one strategy.
struct Script<'a> {
    who: &'a str,
    store: Store,
    layers: usize,
    done: &'a mut Vec<String>,
}

const NONE: &Labels = &Labels::new();
const KEY: &str = "key";

impl Script<'_> {
    fn run(&mut self, genes: &[Gene]) -> std::result::Result<(), TestCaseError> {
        let mut tree = self.prepare();
        furnish(&tree);
        drop(tree);
        self.commit()?;
        tree = self.prepare();
        for (step, gene) in genes.iter().enumerate() {
            if gene.0 < 16 {
                self.check(KEY)?;
                drop(tree);
                self.commit()?;
                tree = self.prepare();
            } else if let Some((edit, time)) = edit_of(&tree, *gene, step) {
                self.done.push(format!("{edit}, {time:?}"));
                if let Err(error) = perform(&tree, &edit, time) {
                    self.done.push(format!("  refused: {error}"));
                }
            }
        }
        self.check(KEY)?;
        drop(tree);
        self.commit()
    }

    fn prepare(&mut self) -> Dir {
        let parent = if self.layers == 0 { String::new() } else { self.layer() };
        let mounts = self.store.prepare(KEY, &parent, NONE).expect(self.who);
        self.done.push(format!("prepare {KEY} {parent}"));
        Dir::from_fd(mount::detached(&mounts).expect(self.who), KEY)
    }

    fn commit(&mut self) -> std::result::Result<(), TestCaseError> {
        self.layers += 1;
        self.done.push(format!("commit {}", self.layer()));
        self.store.commit(&self.layer(), KEY, NONE).expect(self.who);
        self.check(&self.layer())
    }

    fn layer(&self) -> String {
        format!("layer{}", self.layers)
    }

    fn check(&self, key: &str) -> std::result::Result<(), TestCaseError> {
        narrowed_is_generic(&self.store, key).map_err(|why| TestCaseError::fail(format!("{}: {why}", self.who)))
    }
}

/// Compares the changes of `key` found by walking both trees with those found through the strategy's hint; returns an
/// error if they differ.
pub(crate) fn narrowed_is_generic(store: &Store, key: &str) -> std::result::Result<(), String> {
    let parent = store.stat(key).expect("stat").parent;
    let generic = stream(|note| {
        let old = if parent.is_empty() { None } else { Some(store.open_tree(&parent)?) };
        diff::diff(old.as_ref(), &store.open_tree(key)?, Candidates::All, note)
    });
    let narrowed = stream(|note| store.changes(key, None, note));
    if generic == narrowed {
        Ok(())
    } else {
        Err(format!("{key} by the walk of both:\n{generic}\nnarrowed:\n{narrowed}"))
    }
}

/// Returns one line for each change, or the error.
fn stream(produce: impl FnOnce(&mut dyn strata::changeset::Sink) -> Result<()>) -> String {
    let mut lines = String::new();
    let mut note = |change: &Change, data: &mut dyn Read| {
        let mut bytes = Vec::new();
        data.read_to_end(&mut bytes).expect("read");
        lines += &format!("{change:?} {:?}\n", strata::id::Digest::of(&bytes));
        Ok(())
    };
    let answer = produce(&mut note);
    answer.map_or_else(|error| error.chain(), |()| lines)
}

/// Returns the edit that `gene` stands for in the current state of `tree`.
fn edit_of(tree: &Dir, (kind, b, c): Gene, step: usize) -> Option<(Edit, Timestamp)> {
    let mut found = Vec::new();
    walk::walk(tree, |entry| {
        found.push((entry.path.to_owned(), entry.stat));
        Ok(())
    })
    .expect("walk");
    let any = |n: u16| found[usize::from(n) % found.len()].clone();
    let of = |n: u16, file_type: FileType| {
        let all: Vec<_> = found.iter().filter(|(_, stat)| stat.file_type == file_type).collect();
        if all.is_empty() { None } else { Some(all[usize::from(n) % all.len()].clone()) }
    };
    let fresh = |n: u16| {
        let long = vec![b'n'; 250 + usize::from(n / 64) % 6];
        let names = [&b"a"[..], b"b", b"f", b"g", b"x", b"new", &long];
        let name = OsString::from_vec(names[usize::from(n) % names.len()].to_vec());
        Some(of(n / 8, FileType::Dir)?.0.join(name))
    };
    let content = FileContent { seed: c as u8 % 3, length: [0, 9, 5000][usize::from(c) % 3] };
    // Some times go back, and some repeat an earlier time.
    let seconds = [1_000_000_000, 1_000_000_000 + step as i64, 5, 4_000_000_000][usize::from(c / 7) % 4];
    let time = Timestamp { seconds, nanos: 1 };
    let edit = match kind {
        16..=35 => Edit::Write(fresh(b)?, content),
        36..=55 => Edit::Write(of(b, FileType::File)?.0, content),
        56..=75 => {
            let (path, stat) = of(b, FileType::File)?;
            // New content, or the same content, with the old size and time.
            let length = u32::try_from(stat.size).ok()?;
            return Some((Edit::Write(path, FileContent { seed: c as u8 % 3, length }), stat.mtime));
        }
        76..=83 => Edit::Rewrite(of(b, FileType::File)?.0),
        84..=95 => Edit::MakeDir(fresh(b)?),
        96..=101 => Edit::Symlink(fresh(b)?, b"f".to_vec()),
        102..=107 => {
            Edit::MakeNode(fresh(b)?, [FileType::Fifo, FileType::Socket][usize::from(c) % 2], Device::default())
        }
        108..=131 => Edit::Link { from: any(b).0, to: fresh(c)? },
        132..=147 => Edit::Remove(any(b).0),
        148..=155 => Edit::Remove(of(b, FileType::Dir)?.0),
        156..=179 => Edit::Rename { from: of(b, FileType::Dir)?.0, to: fresh(c)? },
        180..=191 => Edit::Rename { from: any(b).0, to: any(c).0 },
        192..=211 => Edit::Exchange(of(b, FileType::Dir)?.0, of(c, FileType::Dir)?.0),
        212..=219 => Edit::Exchange(any(b).0, any(c).0),
        220..=229 => {
            let (path, stat) = any(b);
            Edit::Chmod(path, if c.is_multiple_of(2) { stat.mode } else { 0o640 })
        }
        230..=235 => Edit::Chown(any(b).0, u32::from(c % 2), 0, 0o644),
        236..=243 => Edit::Touch(any(b).0),
        244..=249 => Edit::SetXattr(any(b).0, b"user.a".to_vec(), vec![c as u8 % 2]),
        _ => Edit::Open(of(b, FileType::File)?.0),
    };
    let inside = |one: &PathBuf, other: &PathBuf| one.starts_with(other) || other.starts_with(one);
    match &edit {
        Edit::Remove(path) if path.as_os_str().is_empty() => None,
        Edit::Rename { from, to } | Edit::Exchange(from, to) if inside(from, to) => None,
        _ => Some((edit, time)),
    }
}

#[test]
fn what_a_strategy_knows_only_narrows() {
    let benches: Vec<Bench> = settings().into_iter().filter_map(Bench::new).collect();
    if benches.is_empty() {
        return;
    }
    let started = Instant::now();
    let mut rounds = 0;
    while scripts_wanted().map_or_else(|| started.elapsed() < budget(), |wanted| rounds < wanted) {
        let config = Config { cases: 1, failure_persistence: None, max_shrink_iters: 100, ..Config::default() };
        let mut runner = TestRunner::new_with_rng(config, random::rng(rounds as u64));
        let result = runner.run(&vec(any::<Gene>(), 1..GENES_MAX), |genes| run(&benches, &genes, &mut Vec::new()));
        if let Err(TestError::Fail(_, genes)) = result {
            let mut done = Vec::new();
            let why = run(&benches, &genes, &mut done);
            panic!("after {rounds} scripts; the shortest script found:\n{}\n{why:?}", done.join("\n"));
        }
        rounds += 1;
    }
    let seconds = started.elapsed().as_secs_f64();
    support::say(&format!("narrow: {rounds} scripts on {} strategies in {seconds:.0} s", benches.len()));
}

/// Runs one script on every strategy; `done` lists the edits on the last strategy.
fn run(benches: &[Bench], genes: &[Gene], done: &mut Vec<String>) -> std::result::Result<(), TestCaseError> {
    for bench in benches {
        done.clear();
        let store = bench.store_with("narrow", Durability::None, |backend| backend).expect("a store");
        let name = bench.setting.name();
        let mut script = Script { who: &name, store, layers: 0, done };
        let answer = script.run(genes);
        clear(script.store);
        answer?;
    }
    Ok(())
}

fn clear(store: Store) {
    while let names @ [_, ..] = super::lifecycle::names(&store).as_slice() {
        assert!(names.iter().any(|name| store.remove(name).is_ok()), "nothing of {names:?} can be removed");
    }
    store.cleanup().expect("cleanup");
    std::fs::remove_dir_all(store.root()).expect("remove the store");
}

/// Commits `edit` on top of `parent`, and compares both results before and after the commit.
fn layer(store: &Store, parent: &str, name: &str, edit: impl FnOnce(&Dir)) {
    let tree = Dir::from_fd(mount::detached(&store.prepare(KEY, parent, NONE).expect(name)).expect(name), KEY);
    edit(&tree);
    drop(tree);
    assert_eq!(narrowed_is_generic(store, KEY), Ok(()), "{name}, active");
    store.commit(name, KEY, NONE).expect(name);
    assert_eq!(narrowed_is_generic(store, name), Ok(()), "{name}");
}

fn paths(store: &Store, key: &str) -> Vec<PathBuf> {
    let mut paths = Vec::new();
    let mut note = |change: &Change, _: &mut dyn Read| {
        paths.push(change.path().to_owned());
        Ok(())
    };
    store.changes(key, None, &mut note).expect(key);
    paths
}

/// An inode with more names than one btrfs item holds, and an inode in a directory that is moved: all of their names
/// are emitted. The names outside the moved directory are found without walking the tree around them.
#[test]
fn all_names_of_an_inode_are_emitted() {
    const LINKS: usize = 150;
    let time = Timestamp { seconds: 7, nanos: 0 };
    on_each(|bench| {
        let store = bench.store("links");
        let change = |tree: &Dir, edit: Edit| perform(tree, &edit, time).expect("edit");
        layer(&store, "", "base", |tree| {
            for dir in ["d", "e", "far", "far/away"] {
                change(tree, Edit::MakeDir(dir.into()));
            }
            change(tree, Edit::Write("d/f".into(), FileContent { seed: 1, length: 3 }));
            change(tree, Edit::Write("e/f".into(), FileContent { seed: 2, length: 3 }));
            change(tree, Edit::Link { from: "e/f".into(), to: "far/away/f".into() });
            for number in 0..LINKS {
                let to = Path::new("d").join(format!("{number:0200}"));
                change(tree, Edit::Link { from: "d/f".into(), to });
            }
        });
        layer(&store, "base", "many", |tree| change(tree, Edit::Chmod("d/f".into(), 0o600)));
        // overlayfs has split the links.
        let expected = if bench.setting.strategy == OVERLAY { 1 } else { 1 + LINKS };
        assert_eq!(paths(&store, "many").iter().filter(|path| path.starts_with("d/")).count(), expected);
        layer(&store, "base", "moved", |tree| {
            change(tree, Edit::Rename { from: "e".into(), to: "g".into() });
        });
        let stayed = paths(&store, "moved").contains(&PathBuf::from("far/away/f"));
        assert_eq!(stayed, bench.setting.strategy != OVERLAY, "{}", bench.setting.name());
    });
}

/// A name that no whiteout can express makes its directory opaque in the layer. An inode that stays in the directory is
/// emitted under all its names, including those in unchanged directories.
#[test]
fn what_an_opaque_directory_keeps_is_emitted_under_all_its_names() {
    let time = Timestamp { seconds: 7, nanos: 0 };
    let long = Path::new("d").join("n".repeat(255));
    on_each(|bench| {
        let store = bench.store("opaque");
        let change = |tree: &Dir, edit: Edit| perform(tree, &edit, time).expect("edit");
        layer(&store, "", "base", |tree| {
            for dir in ["d", "far"] {
                change(tree, Edit::MakeDir(dir.into()));
            }
            change(tree, Edit::Write("d/f".into(), FileContent { seed: 1, length: 3 }));
            change(tree, Edit::Link { from: "d/f".into(), to: "far/f".into() });
            change(tree, Edit::Write(long.clone(), FileContent { seed: 2, length: 3 }));
        });
        layer(&store, "base", "gone", |tree| change(tree, Edit::Remove(long.clone())));
        assert_eq!(paths(&store, "gone"), ["d", "d", "d/f", "far/f"].map(PathBuf::from), "{}", bench.setting.name());
    });
}

#[test]
fn a_view_changed_nothing() {
    on_each(|bench| {
        let store = bench.store("view");
        layer(&store, "", "base", |tree| tree.make_dir("d").expect("mkdir"));
        store.view("sight", "base", NONE).expect("view");
        assert!(paths(&store, "sight").is_empty());
        let mut count = 0;
        let mut note = |_: &Change, _: &mut dyn Read| {
            count += 1;
            Ok(())
        };
        store.changes("sight", Some(""), &mut note).expect("against nothing");
        assert!(count > 0, "{}", bench.setting.name());
    });
}
