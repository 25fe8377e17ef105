//! One case on one snapshotter: its own keys, a model with the expected state, and the cleanup.

use std::collections::BTreeSet;

use super::case::{Fault, Verdict, ensure};
use super::location::Features;
use super::model::Model;
use super::ops::{Edit, Op, perform};
use crate::error::{Error, ErrorKind, Result};
use crate::mount;
use crate::snapshotter::{Info, Labels, Snapshotter};
use crate::tree::memory::Tree;
use crate::tree::{Dir, Timestamp};

/// Label that protects a snapshot from containerd's garbage collector.
pub const GC_ROOT: &str = "containerd.io/gc.root";

/// Time that edits set on the inodes they touch.
pub(super) const TIME: Timestamp = Timestamp { seconds: 1_700_000_000, nanos: 0 };

/// Attributes that the suite does not compare.
const NOT_COMPARED: [&str; 2] = ["time", "xattrs"];

/// One case on one snapshotter, in lock step with the model.
pub(super) struct Trial<'a> {
    pub on: &'a dyn Snapshotter,
    pub prefix: String,
    pub labels: Labels,
    /// True if the root directory of a new snapshot must have its parent's time, or the epoch without a parent.
    pub root_times: bool,
    /// Features of the location that holds the snapshots.
    pub features: Features,
    /// The expected snapshots, by the names of the case, without the prefix.
    pub model: Model,
}

impl<'a> Trial<'a> {
    /// Starts the case `name` with keys that begin with `prefix`.
    pub fn new(on: &'a dyn Snapshotter, prefix: &str, name: &str) -> Self {
        let labels = [(GC_ROOT.to_owned(), name.to_owned())].into();
        let prefix = format!("{prefix}{name}/");
        Self { on, prefix, labels, root_times: true, features: Features::WHOLE, model: Model::default() }
    }

    /// Returns the full key of the name that the case uses.
    pub fn key(&self, name: &str) -> String {
        if name.is_empty() { String::new() } else { format!("{}{name}", self.prefix) }
    }

    pub fn labels(&self, more: &[(&str, &str)]) -> Labels {
        let more = more.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        self.labels.clone().into_iter().chain(more).collect()
    }

    pub fn prepare(&mut self, key: &str, parent: &str) -> Verdict {
        self.on.prepare(&self.key(key), &self.key(parent), &self.labels)?;
        self.step(&Op::Prepare { key: key.into(), parent: parent.into() })
    }

    pub fn view(&mut self, key: &str, parent: &str) -> Verdict {
        self.on.view(&self.key(key), &self.key(parent), &self.labels)?;
        self.step(&Op::View { key: key.into(), parent: parent.into() })
    }

    pub fn commit(&mut self, name: &str, key: &str) -> Verdict {
        self.on.commit(&self.key(name), &self.key(key), &self.labels)?;
        self.step(&Op::Commit { name: name.into(), key: key.into() })
    }

    pub fn remove(&mut self, key: &str) -> Verdict {
        self.on.remove(&self.key(key))?;
        self.step(&Op::Remove { key: key.into() })
    }

    /// Performs `edits` in the active snapshot `key`.
    pub fn edit(&mut self, key: &str, edits: &[Edit]) -> Verdict {
        let tree = self.open(key)?;
        for edit in edits {
            perform(&tree, edit, TIME)?;
            self.step(&Op::Edit { key: key.into(), edit: edit.clone(), time: TIME })?;
        }
        Ok(())
    }

    /// Commits `edits` on top of `parent` as `name`, and compares its tree with the model.
    pub fn layer(&mut self, name: &str, parent: &str, edits: &[Edit]) -> Verdict {
        let key = format!("{name} in work");
        self.prepare(&key, parent)?;
        self.same_tree(&key)?;
        self.edit(&key, edits)?;
        self.same_tree(&key)?;
        self.commit(name, &key)?;
        self.look(name)
    }

    /// Compares the tree of the committed snapshot `name`, seen through a view, with the model.
    pub fn look(&mut self, name: &str) -> Verdict {
        let view = format!("look at {name}");
        self.view(&view, name)?;
        self.same_tree(&view)?;
        self.remove(&view)
    }

    pub fn step(&mut self, op: &Op) -> Verdict {
        let answer = self.model.perform(op);
        ensure(answer.is_ok(), || format!("{op} succeeded, and the contract has {answer:?}"))
    }

    /// Opens the tree of the active snapshot or view `key`, as a detached mount.
    pub fn open(&self, key: &str) -> Verdict<Dir> {
        Ok(Dir::from_fd(mount::detached(&self.on.mounts(&self.key(key))?)?, key))
    }

    pub fn same_tree(&self, key: &str) -> Verdict {
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

    /// Returns the information about `key`.
    pub fn stat(&self, key: &str) -> Verdict<Info> {
        Ok(self.on.stat(&self.key(key))?)
    }

    /// Checks that the call described by `what` failed with `kind`.
    pub fn fails<T>(&self, what: &str, answer: Result<T>, kind: ErrorKind) -> Verdict {
        match answer {
            Ok(_) => Err(Fault::Broken(format!("{what} succeeded, and must fail with {kind}"))),
            Err(error) => ensure(error.kind() == kind, || {
                format!("{what} failed with {}, and must with {kind}: {}", error.kind(), error.chain())
            }),
        }
    }

    /// Returns the snapshots of this case that match `filters`, with the prefix removed.
    pub fn walk(&self, filters: &[&str]) -> Verdict<Vec<Info>> {
        let mut found = Vec::new();
        self.on.walk(filters, &mut |info| {
            if info.name.starts_with(&self.prefix) {
                found.push(info.clone());
            }
            Ok(())
        })?;
        Ok(found)
    }

    /// Removes all snapshots of the case, children first.
    pub fn sweep(&self) -> Result<()> {
        let mut left: Vec<Info> = Vec::new();
        self.on.walk(&[], &mut |info| {
            if info.name.starts_with(&self.prefix) {
                left.push(info.clone());
            }
            Ok(())
        })?;
        while !left.is_empty() {
            let parents: BTreeSet<String> = left.iter().map(|info| info.parent.clone()).collect();
            let (others, leaves): (Vec<Info>, Vec<Info>) =
                left.into_iter().partition(|info| parents.contains(&info.name));
            if leaves.is_empty() {
                return Err(Error::data_loss("snapshots are their own ancestors"));
            }
            leaves.iter().try_for_each(|info| self.on.remove(&info.name))?;
            left = others;
        }
        Ok(())
    }
}
