//! Random scripts, done by every strategy and by the model in lock step.
//!
//! After every operation the class of its answer is equal; after every commit the tree's text, the list of changes and
//! the DiffID of the layer are, on every strategy and (but for the DiffID) in the model; and the layer, applied to the
//! parent, leaves no difference. A failing script is shrunk and
//! printed as the operations that it stands for.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Read;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestError, TestRunner};

use strata::changeset::Change;
use strata::changeset::diff::Ancestors;
use strata::changeset::tar::{self, Encoder, Limits, MtimePrecision};
use strata::conformance::model::{Gene, Letter, Model};
use strata::conformance::ops::{Edit, Op, perform};
use strata::id::Digest;
use strata::mount;
use strata::snapshotter::{Info, Labels};
use strata::store::{Durability, Store};
use strata::tree::memory::Tree;
use strata::tree::{Dir, text};
use strata::{Error, ErrorKind, Result, Snapshotter};

use super::{Bench, MATRIX};
use crate::{random, support};

/// How long the random suite runs if nobody says otherwise, in seconds.
const BUDGET_S: u64 = 20;

/// Scripts of this many numbers make three or four layers.
const GENES_MAX: usize = 60;

/// One strategy in the race.
struct Runner<'a> {
    bench: &'a Bench,
    store: Store,
    /// The open trees of active snapshots.
    open: BTreeMap<String, Dir>,
}

impl<'a> Runner<'a> {
    fn new(bench: &'a Bench) -> Self {
        static ROUND: AtomicUsize = AtomicUsize::new(0);
        let name = format!("round{}", ROUND.fetch_add(1, Ordering::Relaxed));
        let store = bench.store_with(&name, Durability::None, |backend| backend).expect("a store");
        Self { bench, store, open: BTreeMap::new() }
    }

    fn perform(&mut self, op: &Op) -> Result<()> {
        let none = Labels::new();
        match op {
            Op::Prepare { key, parent } => {
                let mounts = self.store.prepare(key, parent, &none)?;
                self.open.insert(key.clone(), Dir::from_fd(mount::detached(&mounts)?, key));
            }
            Op::View { key, parent } => drop(self.store.view(key, parent, &none)?),
            Op::Commit { name, key } => {
                // A writer that still has it open would not be seen among the mounts: it is detached.
                let tree = self.open.remove(key);
                let active = tree.is_some();
                drop(tree);
                let answer = self.store.commit(name, key, &none);
                if answer.is_err() && active {
                    let mounts = self.store.mounts(key)?;
                    self.open.insert(key.clone(), Dir::from_fd(mount::detached(&mounts)?, key));
                }
                answer?;
            }
            Op::Remove { key } => {
                self.store.remove(key)?;
                self.open.remove(key);
            }
            Op::Edit { key, edit, time } => perform(&self.open[key], edit, *time)?,
        }
        Ok(())
    }

    fn tree(&self, key: &str) -> Result<Tree> {
        Tree::read(&self.store.open_tree(key)?)
    }

    fn changes(&self, key: &str, base: Option<&str>) -> Result<Vec<(Letter, PathBuf)>> {
        let mut changes = Vec::new();
        let mut note = |change: &Change, _: &mut dyn Read| {
            let letter = match change {
                Change::Put { existed: true, .. } | Change::Link { existed: true, .. } => Letter::M,
                Change::Put { .. } | Change::Link { .. } => Letter::A,
                Change::Remove { .. } => Letter::D,
                Change::Opaque { .. } => return Err(Error::data_loss("an opaque directory in the stream")),
            };
            changes.push((letter, change.path().to_path_buf()));
            Ok(())
        };
        self.store.changes(key, base, &mut note)?;
        Ok(changes)
    }

    /// The layer, or why there can be none.
    fn layer(&self, name: &str) -> Result<Vec<u8>> {
        let parent = self.store.stat(name)?.parent;
        let new = self.store.open_tree(name)?;
        let old = if parent.is_empty() { None } else { Some(self.store.open_tree(&parent)?) };
        let mut ancestors = Ancestors::new(old.as_ref(), &new);
        let mut of = |path: &std::path::Path| ancestors.meta(path);
        let mut encoder = Encoder::new(Vec::new(), MtimePrecision::Nanoseconds, &mut of);
        self.store.changes(name, None, &mut encoder)?;
        encoder.finish()
    }

    /// What still differs from `name` when its layer was applied to its parent.
    fn differs_when_applied(&self, name: &str, layer: &[u8]) -> Result<Vec<(Letter, PathBuf)>> {
        let (key, copy) = ("copy in work", "copy");
        let none = Labels::new();
        self.store.prepare(key, &self.store.stat(name)?.parent, &none)?;
        self.store.apply(key, &mut |sink| tar::decode(&mut &*layer, &Limits::default(), sink).map(drop))?;
        self.store.commit(copy, key, &none)?;
        let left = self.changes(copy, Some(name))?;
        self.store.remove(copy)?;
        Ok(left)
    }
}

fn disagree(what: &str, who: &str, expected: &str, found: &str) -> TestCaseError {
    TestCaseError::fail(format!("{who}: {what}\n--- expected\n{expected}\n--- found\n{found}"))
}

fn lines(changes: &[(Letter, PathBuf)]) -> String {
    changes.iter().fold(String::new(), |mut text, (letter, path)| {
        let _ = writeln!(text, "{letter:?} {}", text::print_path(path));
        text
    })
}

/// Compares what a commit made with the model and among the strategies.
fn check_commit(runners: &[Runner<'_>], model: &Model, name: &str) -> Result<(), TestCaseError> {
    let expected = &model.snapshots[name].tree;
    let changes = model.changes(name);
    let like_whiteout = |path: &PathBuf| path.iter().any(|name| name.as_encoded_bytes().starts_with(b".wh."));
    // What went needs no whiteout of its own name where it is spelled with the prefix twice.
    let spellable = !changes.iter().any(|(_, path)| like_whiteout(path));
    let mut first: Option<(&str, DiffId)> = None;
    for runner in runners {
        let who = runner.bench.setting.name;
        let failed = |error: Error| disagree(&format!("reading {name}"), who, "an answer", &error.chain());
        let tree = runner.tree(name).map_err(failed)?;
        if tree != *expected {
            return Err(disagree(&format!("the tree of {name}"), who, &text::print(expected), &text::print(&tree)));
        }
        let found = runner.changes(name, None).map_err(failed)?;
        if found != changes {
            return Err(disagree(&format!("the changes of {name}"), who, &lines(&changes), &lines(&found)));
        }
        let layer = runner.layer(name).map_err(|error| (error.kind(), error.chain()));
        if let Ok(layer) = &layer {
            let left = runner.differs_when_applied(name, layer).map_err(failed)?;
            if !left.is_empty() {
                return Err(disagree(&format!("applying the layer of {name}"), who, "no difference", &lines(&left)));
            }
        }
        let diff_id = layer.map(|layer| Digest::of(&layer));
        let wanted = if spellable { None } else { Some(ErrorKind::InvalidArgument) };
        if diff_id.as_ref().err().map(|(kind, _)| *kind) != wanted {
            return Err(disagree(
                &format!("the layer of {name}"),
                who,
                &format!("{wanted:?}"),
                &format!("{diff_id:?}"),
            ));
        }
        match &first {
            None => first = Some((who, diff_id)),
            Some((_, expected)) if same(expected, &diff_id) => {}
            Some((other, expected)) => {
                let expected = format!("{expected:?} on {other}");
                return Err(disagree(&format!("the DiffID of {name}"), who, &expected, &format!("{diff_id:?}")));
            }
        }
    }
    Ok(())
}

/// A digest, or why there can be none.
type DiffId = Result<Digest, (ErrorKind, String)>;

fn same(a: &DiffId, b: &DiffId) -> bool {
    match (a, b) {
        (Ok(a), Ok(b)) => a == b,
        (Err((a, _)), Err((b, _))) => a == b,
        _ => false,
    }
}

fn check_names(runners: &[Runner<'_>], model: &Model) -> Result<(), TestCaseError> {
    let expected: Vec<_> = model.snapshots.iter().map(|(name, s)| (name.clone(), s.kind, s.parent.clone())).collect();
    for runner in runners {
        let mut found = Vec::new();
        let mut note = |info: &Info| {
            found.push((info.name.clone(), info.kind, info.parent.clone()));
            Ok(())
        };
        runner.store.walk(&[], &mut note).expect("walk");
        if found != expected {
            let (expected, found) = (format!("{expected:?}"), format!("{found:?}"));
            return Err(disagree("the snapshots", runner.bench.setting.name, &expected, &found));
        }
    }
    Ok(())
}

/// What each strategy knows of what changed only narrows the comparison: in what was just committed, and in all that is
/// still active.
fn check_narrowed(runners: &[Runner<'_>], name: &str) -> Result<(), TestCaseError> {
    for runner in runners {
        for key in runner.open.keys().map(String::as_str).chain([name]) {
            super::narrow::narrowed_is_generic(&runner.store, key)
                .map_err(|why| TestCaseError::fail(format!("{}: {why}", runner.bench.setting.name)))?;
        }
    }
    Ok(())
}

/// Runs one script; `done` gets every operation before it is done.
fn run(benches: &[Bench], genes: &[Gene], done: &mut Vec<Op>) -> Result<(), TestCaseError> {
    let mut model = Model::default();
    let mut runners: Vec<Runner<'_>> = benches.iter().map(Runner::new).collect();
    for (step, gene) in genes.iter().enumerate() {
        let Some(op) = model.interpret(*gene, step) else { continue };
        done.push(op.clone());
        if let Op::Commit { key, .. } = &op
            && model.snapshots.contains_key(key)
        {
            check_narrowed(&runners, key)?;
        }
        let expected = model.perform(&op);
        for runner in &mut runners {
            let found = runner.perform(&op).map_err(|error| (error.kind(), error.chain()));
            let (found, why) = match found {
                Ok(()) => (Ok(()), String::new()),
                Err((kind, why)) => (Err(kind), why),
            };
            if found != expected {
                let who = runner.bench.setting.name;
                return Err(disagree(&op.to_string(), who, &format!("{expected:?}"), &format!("{found:?} {why}")));
            }
        }
        if expected.is_ok() && !matches!(op, Op::Edit { .. }) {
            check_names(&runners, &model)?;
        }
        if let (Ok(()), Op::Commit { name, .. }) = (&expected, &op) {
            check_commit(&runners, &model, name)?;
            check_narrowed(&runners, name)?;
        }
    }
    check_end(runners)
}

/// Everything can be removed, and leaves nothing.
fn check_end(runners: Vec<Runner<'_>>) -> Result<(), TestCaseError> {
    for Runner { bench, store, open } in runners {
        drop(open);
        while let names @ [_, ..] = super::lifecycle::names(&store).as_slice() {
            let removed = names.iter().filter(|name| store.remove(name).is_ok()).count();
            if removed == 0 {
                return Err(disagree("removal", bench.setting.name, "an empty store", &format!("{names:?}")));
            }
        }
        store.cleanup().expect("cleanup");
        let left = store.backend().inventory().expect("inventory");
        if !left.is_empty() {
            return Err(disagree("the end", bench.setting.name, "no directory", &format!("{left:?}")));
        }
        std::fs::remove_dir_all(store.root()).expect("remove the store");
    }
    Ok(())
}

fn gene() -> impl Strategy<Value = Gene> {
    any::<(u8, u16, u16, u16)>().prop_map(|(kind, a, b, c)| Gene(kind, a, b, c))
}

pub(crate) fn budget() -> Duration {
    let seconds = std::env::var("STRATA_BUDGET_S").ok().and_then(|text| text.parse().ok()).unwrap_or(BUDGET_S);
    Duration::from_secs(seconds)
}

/// How many scripts are wanted whatever time they take: `make test-long` says 20,000.
pub(crate) fn scripts_wanted() -> Option<usize> {
    std::env::var("STRATA_SCRIPTS").ok().and_then(|text| text.parse().ok())
}

#[test]
fn strategies_agree() {
    let benches: Vec<Bench> = MATRIX.into_iter().filter_map(Bench::new).collect();
    if benches.is_empty() {
        return;
    }
    let started = Instant::now();
    let mut rounds = 0;
    let commits = Cell::new(0);
    while scripts_wanted().map_or_else(|| started.elapsed() < budget(), |wanted| rounds < wanted) {
        let config = Config { cases: 1, failure_persistence: None, max_shrink_iters: 400, ..Config::default() };
        let result =
            TestRunner::new_with_rng(config, random::rng(rounds as u64)).run(&vec(gene(), 1..GENES_MAX), |genes| {
                let mut done = Vec::new();
                let answer = run(&benches, &genes, &mut done);
                commits.set(commits.get() + done.iter().filter(|op| matches!(op, Op::Commit { .. })).count());
                answer
            });
        if let Err(TestError::Fail(why, genes)) = result {
            let mut last = Vec::new();
            let why = run(&benches, &genes, &mut last).err().unwrap_or_else(|| TestCaseError::fail(why));
            let script: String = last.iter().map(|op| format!("  {op}\n")).collect();
            let seed = random::seed();
            panic!(
                "the strategies disagree after {rounds} scripts (STRATA_SEED={seed}); the shortest script found:\n\
                 {script}\n{why}"
            );
        }
        rounds += 1;
    }
    support::say(&format!(
        "lock step: {rounds} scripts, {} commits on {} strategies in {:.0} s (STRATA_SEED={})",
        commits.get(),
        benches.len(),
        started.elapsed().as_secs_f64(),
        random::seed()
    ));
}

/// The harness notices: an edit that one strategy does not get shows as a disagreement.
#[test]
fn a_lost_edit_is_found() {
    let Some(bench) = Bench::new(MATRIX[3]) else { return };
    let mut runner = Runner::new(&bench);
    let mut model = Model::default();
    let time = strata::tree::Timestamp { seconds: 7, nanos: 0 };
    let edit = |path: &str| Edit::MakeDir(path.into());
    let ops = [
        Op::Prepare { key: "k".into(), parent: String::new() },
        Op::Edit { key: "k".into(), edit: edit("a"), time },
        Op::Commit { name: "n".into(), key: "k".into() },
    ];
    for op in &ops {
        model.perform(op).expect("the model");
        if !matches!(op, Op::Edit { .. }) {
            runner.perform(op).expect("the store");
        }
    }
    assert!(check_commit(&[runner], &model, "n").is_err());
}
