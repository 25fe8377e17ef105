//! What every snapshotter must answer, one case for each promise, over the contract alone.
//!
//! The cases are those of containerd's suite for snapshotters and the classes of errors that it does not ask for. Each is a
//! value with a name, where it comes from, and what it means if it fails. They need nothing but the contract: a store of
//! strata, a daemon behind its socket and a snapshotter of containerd are judged alike.
//!
//! A case keeps to keys below a prefix of its own and removes them afterwards, so that it may run beside others. All of its
//! snapshots carry the label by which containerd's garbage collector spares them.
//!
//! Trees are compared as the suite compares them: types, modes, owners, contents, link groups and device numbers. Times
//! and extended attributes, which containerd's own snapshotters lose, are judged by suites of strata's own.
//!
//! # References
//! containerd, `core/snapshots/testsuite`, `core/snapshots/storage/metastore_test.go`.

mod contract;
mod trees;

use crate::error::{Error, ErrorKind, Result};
use crate::mount;
use crate::snapshotter::{Info, Labels, Snapshotter};
use crate::tree::memory::Tree;
use crate::tree::{Dir, Timestamp};

use super::model::Model;
use super::ops::{Content, Edit, Op, perform};

/// The label that containerd's garbage collector honours.
pub const GC_ROOT: &str = "containerd.io/gc.root";

/// The time that edits give to what they touch.
const TIME: Timestamp = Timestamp { seconds: 1_700_000_000, nanos: 0 };

/// What the suite does not compare.
const NOT_COMPARED: [&str; 2] = ["time", "xattrs"];

/// One promise, and how to see whether it is kept.
#[derive(Debug)]
pub struct Case {
    /// Its name.
    pub name: &'static str,
    /// Where it comes from: a case of containerd's suite, an issue, the contract.
    pub source: &'static str,
    /// What it means if it fails.
    pub meaning: &'static str,
    run: fn(&mut Round<'_>) -> Verdict,
}

/// What became of a case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The promise is kept.
    Passed,
    /// It could not be seen, and why.
    Skipped(String),
    /// The promise is broken, as it is known to be, and why.
    Deviation(String),
    /// The promise is broken, and how.
    Failed(String),
}

/// Every case.
pub fn cases() -> impl Iterator<Item = &'static Case> {
    contract::CASES.iter().chain(&trees::CASES)
}

impl Case {
    /// Tries the case on `snapshotter`, with keys that begin with `prefix`, and removes what it made. `expected` says of
    /// which cases it is known, by name, that this snapshotter breaks them, and why.
    pub fn run(&self, snapshotter: &dyn Snapshotter, prefix: &str, expected: &[(&str, &str)]) -> Outcome {
        let labels = [(GC_ROOT.to_owned(), self.name.to_owned())].into();
        let mut round =
            Round { on: snapshotter, prefix: format!("{prefix}{}/", self.name), labels, model: Model::default() };
        let verdict = (self.run)(&mut round);
        let swept = round.sweep();
        let known = expected.iter().find(|(name, _)| *name == self.name).map(|(_, why)| (*why).to_owned());
        match (verdict, known) {
            (Ok(()), _) => swept.map_or_else(|error| Outcome::Failed(error.chain()), |()| Outcome::Passed),
            (Err(Fault::Skip(why)), _) => Outcome::Skipped(why),
            (Err(Fault::Broken(_)), Some(why)) => Outcome::Deviation(why),
            (Err(Fault::Broken(how)), None) => Outcome::Failed(how),
        }
    }
}

/// Why a case ended early.
#[derive(Debug)]
enum Fault {
    Skip(String),
    Broken(String),
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self::Broken(format!("{}: {}", error.kind(), error.chain()))
    }
}

type Verdict<T = ()> = std::result::Result<T, Fault>;

/// The promise is broken, as `how` says, unless `kept`.
fn ensure(kept: bool, how: impl FnOnce() -> String) -> Verdict {
    if kept { Ok(()) } else { Err(Fault::Broken(how())) }
}

/// One case on one snapshotter, in step with the model.
struct Round<'a> {
    on: &'a dyn Snapshotter,
    prefix: String,
    labels: Labels,
    /// What there must be, by the names of the case, without the prefix.
    model: Model,
}

impl Round<'_> {
    /// The key that the case calls `name`.
    fn key(&self, name: &str) -> String {
        if name.is_empty() { String::new() } else { format!("{}{name}", self.prefix) }
    }

    fn labels(&self, more: &[(&str, &str)]) -> Labels {
        let more = more.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        self.labels.clone().into_iter().chain(more).collect()
    }

    fn prepare(&mut self, key: &str, parent: &str) -> Verdict {
        self.on.prepare(&self.key(key), &self.key(parent), &self.labels)?;
        self.step(&Op::Prepare { key: key.into(), parent: parent.into() })
    }

    fn view(&mut self, key: &str, parent: &str) -> Verdict {
        self.on.view(&self.key(key), &self.key(parent), &self.labels)?;
        self.step(&Op::View { key: key.into(), parent: parent.into() })
    }

    fn commit(&mut self, name: &str, key: &str) -> Verdict {
        self.on.commit(&self.key(name), &self.key(key), &self.labels)?;
        self.step(&Op::Commit { name: name.into(), key: key.into() })
    }

    fn remove(&mut self, key: &str) -> Verdict {
        self.on.remove(&self.key(key))?;
        self.step(&Op::Remove { key: key.into() })
    }

    /// Does `edits` in the active snapshot `key`.
    fn edit(&mut self, key: &str, edits: &[Edit]) -> Verdict {
        let tree = self.open(key)?;
        for edit in edits {
            perform(&tree, edit, TIME)?;
            self.step(&Op::Edit { key: key.into(), edit: edit.clone(), time: TIME })?;
        }
        Ok(())
    }

    /// A layer: `edits` on top of `parent`, committed as `name`, and what is seen there compared.
    fn layer(&mut self, name: &str, parent: &str, edits: &[Edit]) -> Verdict {
        let key = format!("{name} in work");
        self.prepare(&key, parent)?;
        self.same_tree(&key)?;
        self.edit(&key, edits)?;
        self.same_tree(&key)?;
        self.commit(name, &key)?;
        self.look(name)
    }

    /// Compares what a view of the committed `name` shows.
    fn look(&mut self, name: &str) -> Verdict {
        let view = format!("look at {name}");
        self.view(&view, name)?;
        self.same_tree(&view)?;
        self.remove(&view)
    }

    fn step(&mut self, op: &Op) -> Verdict {
        let answer = self.model.perform(op);
        ensure(answer.is_ok(), || format!("{op} succeeded, and the contract has {answer:?}"))
    }

    /// What the active snapshot or view `key` shows, mounted nowhere.
    fn open(&self, key: &str) -> Verdict<Dir> {
        Ok(Dir::from_fd(mount::detached(&self.on.mounts(&self.key(key))?)?, key))
    }

    fn same_tree(&self, key: &str) -> Verdict {
        let found = Tree::read(&self.open(key)?)?;
        let Some(expected) = self.model.snapshots.get(key) else {
            return Err(Fault::Broken(format!("{key:?} is there and must not be")));
        };
        let differences: Vec<String> = expected
            .tree
            .differences(&found)
            .iter()
            .filter(|difference| !NOT_COMPARED.contains(&difference.aspect))
            .map(ToString::to_string)
            .collect();
        ensure(differences.is_empty(), || format!("the tree of {key:?}: {}", differences.join("; ")))
    }

    /// What is known of `key`.
    fn stat(&self, key: &str) -> Verdict<Info> {
        Ok(self.on.stat(&self.key(key))?)
    }

    /// That `answer`, to `what`, fails with `kind`.
    fn fails<T>(&self, what: &str, answer: Result<T>, kind: ErrorKind) -> Verdict {
        match answer {
            Ok(_) => Err(Fault::Broken(format!("{what} succeeded, and must fail with {kind}"))),
            Err(error) => ensure(error.kind() == kind, || {
                format!("{what} failed with {}, and must with {kind}: {}", error.kind(), error.chain())
            }),
        }
    }

    /// The snapshots that match `filters`, by the names of the case.
    fn walk(&self, filters: &[&str]) -> Verdict<Vec<Info>> {
        let mut found = Vec::new();
        self.on.walk(filters, &mut |info| {
            if info.name.starts_with(&self.prefix) {
                found.push(info.clone());
            }
            Ok(())
        })?;
        Ok(found)
    }

    /// Removes everything that the case made, children first.
    fn sweep(&self) -> Result<()> {
        loop {
            let mut left: Vec<Info> = Vec::new();
            self.on.walk(&[], &mut |info| {
                if info.name.starts_with(&self.prefix) {
                    left.push(info.clone());
                }
                Ok(())
            })?;
            let is_parent = |info: &Info| left.iter().any(|other| other.parent == info.name);
            let leaves: Vec<_> = left.iter().filter(|info| !is_parent(info)).collect();
            if leaves.is_empty() {
                return Ok(());
            }
            leaves.into_iter().try_for_each(|info| self.on.remove(&info.name))?;
        }
    }
}

/// A file with `length` bytes of `seed`.
fn file(path: &str, seed: u8, length: u32) -> Edit {
    Edit::Write(path.into(), Content { seed, length })
}

fn dir(path: &str) -> Edit {
    Edit::MakeDir(path.into())
}

fn removal(path: &str) -> Edit {
    Edit::Remove(path.into())
}

#[cfg(test)]
mod tests;
