//! One snapshotter in lock step with the model, and the comparison of both.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Read;
use std::path::PathBuf;

use crate::changeset::Change;
use crate::changeset::diff::Ancestors;
use crate::changeset::tar::{self, Encoder, Limits, MtimePrecision};
use crate::conformance::changes::Letter;
use crate::conformance::model::Model;
use crate::conformance::ops::{Op, perform};
use crate::conformance::trial::GC_ROOT;
use crate::error::{Error, ErrorKind, Result};
use crate::id::Digest;
use crate::mount;
use crate::snapshotter::{Info, Kind, Labels, Snapshotter};
use crate::tree::memory::Tree;
use crate::tree::{Dir, text};

/// Called before and after each commit with the model and the key or name; an error ends the script.
pub type Watch<'a> = &'a mut dyn FnMut(&Model, &str) -> std::result::Result<(), String>;

/// Digest of a layer, or the error of a layer that cannot be written.
type DiffId = std::result::Result<Digest, (ErrorKind, String)>;

/// One snapshotter that performs the script.
pub struct Runner<'a> {
    who: String,
    on: &'a dyn Snapshotter,
    prefix: String,
    labels: Labels,
    root_times: bool,
    /// Open trees of active snapshots.
    open: BTreeMap<String, Dir>,
}

impl std::fmt::Debug for Runner<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Runner").field("who", &self.who).field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

impl<'a> Runner<'a> {
    /// Creates a runner for `on`, named `who` in messages, with keys that begin with `prefix`. No such key may exist
    /// yet.
    pub fn new(who: &str, on: &'a dyn Snapshotter, prefix: &str) -> Self {
        let labels = [(GC_ROOT.to_owned(), "random".to_owned())].into();
        Self { who: who.to_owned(), on, prefix: prefix.to_owned(), labels, root_times: true, open: BTreeMap::new() }
    }

    /// Accepts any time on the root directory of a new snapshot: the runner then sets the time that the model has.
    #[must_use]
    pub fn with_any_root_times(self) -> Self {
        Self { root_times: false, ..self }
    }

    fn settle(&self, model: &Model, key: &str) -> Result<()> {
        let root = model.snapshots.get(key).and_then(|snapshot| snapshot.tree.get(""));
        match (root, self.open.get(key)) {
            (Some(root), Some(dir)) if !self.root_times => dir.set_mtime("", root.inode.meta.mtime),
            _ => Ok(()),
        }
    }

    fn key(&self, name: &str) -> String {
        if name.is_empty() { String::new() } else { format!("{}{name}", self.prefix) }
    }

    fn open(&mut self, key: &str) -> Result<()> {
        let mounts = self.on.mounts(&self.key(key))?;
        self.open.insert(key.to_owned(), Dir::from_fd(mount::detached(&mounts)?, key));
        Ok(())
    }

    fn perform(&mut self, op: &Op) -> Result<()> {
        match op {
            Op::Prepare { key, parent } => {
                self.on.prepare(&self.key(key), &self.key(parent), &self.labels)?;
                self.open(key)
            }
            Op::View { key, parent } => self.on.view(&self.key(key), &self.key(parent), &self.labels).map(drop),
            Op::Commit { name, key } => {
                // The runner's own descriptor is dropped before the commit: it belongs to a detached mount, so the
                // commit could not see that a writer still has the tree open.
                let active = self.open.remove(key).is_some();
                let answer = self.on.commit(&self.key(name), &self.key(key), &self.labels);
                if answer.is_err() && active {
                    self.open(key)?;
                }
                answer
            }
            Op::Remove { key } => {
                self.on.remove(&self.key(key))?;
                self.open.remove(key);
                Ok(())
            }
            Op::Edit { key, edit, time } => match self.open.get(key) {
                Some(tree) => perform(tree, edit, *time),
                None => Err(Error::not_found(format!("{key:?} is not open"))),
            },
        }
    }

    /// Calls `work` with the tree of a committed snapshot, or with an empty tree, through a view. The view is removed
    /// only after `work`, because with some snapshotters a mount shows nothing after its view is removed.
    fn look<T>(&self, view: &str, name: &str, work: impl FnOnce(&Dir) -> Result<T>) -> Result<T> {
        let view = self.key(view);
        let mounts = self.on.view(&view, &self.key(name), &self.labels)?;
        let answer = mount::detached(&mounts).and_then(|fd| work(&Dir::from_fd(fd, name)));
        // The error of `work` takes precedence over an error of the removal.
        let removed = self.on.remove(&view);
        answer.and_then(|answer| removed.map(|()| answer))
    }

    fn changes(&self, name: &str, base: Option<&str>) -> Result<Vec<(Letter, PathBuf)>> {
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
        self.on.changes(&self.key(name), base.map(|base| self.key(base)).as_deref(), &mut note)?;
        Ok(changes)
    }

    fn layer(&self, name: &str, parent: &str) -> Result<Vec<u8>> {
        let write = |old: Option<&Dir>, new: &Dir| {
            let mut ancestors = Ancestors::new(old, new);
            let mut of = |path: &std::path::Path| ancestors.meta(path);
            let mut encoder = Encoder::new(Vec::new(), MtimePrecision::Nanoseconds, &mut of);
            self.on.changes(&self.key(name), None, &mut encoder)?;
            encoder.finish()
        };
        self.look("look", name, |new| match parent {
            "" => write(None, new),
            parent => self.look("look below", parent, |old| write(Some(old), new)),
        })
    }

    /// Applies the layer of `name` to its parent, and returns the remaining differences from `name`.
    fn differs_when_applied(&self, name: &str, parent: &str, layer: &[u8]) -> Result<Vec<(Letter, PathBuf)>> {
        let (key, copy) = (self.key("copy in work"), self.key("copy"));
        self.on.prepare(&key, &self.key(parent), &self.labels)?;
        self.on.apply(&key, &mut |sink| tar::decode(&mut &*layer, &Limits::default(), sink).map(drop))?;
        self.on.commit(&copy, &key, &self.labels)?;
        let left = self.changes("copy", Some(name))?;
        self.on.remove(&copy)?;
        Ok(left)
    }

    fn walk(&self) -> Result<Vec<(String, Kind, String)>> {
        let mut found = Vec::new();
        let strip = |name: &str| name.strip_prefix(&self.prefix).unwrap_or(name).to_owned();
        self.on.walk(&[], &mut |info: &Info| {
            if info.name.starts_with(&self.prefix) {
                found.push((strip(&info.name), info.kind, strip(&info.parent)));
            }
            Ok(())
        })?;
        found.sort_unstable();
        Ok(found)
    }

    fn disagrees(&self, what: &str, expected: &str, found: &str) -> String {
        format!("{}: {what}\n--- expected\n{expected}\n--- found\n{found}", self.who)
    }

    /// Compares the result of a commit with the model, and returns the layer's digest.
    fn check_commit(&self, model: &Model, name: &str) -> std::result::Result<DiffId, String> {
        let Some(snapshot) = model.snapshots.get(name) else { return Err(format!("the model has no {name}")) };
        let failed = |error: Error| self.disagrees(&format!("reading {name}"), "an answer", &error.chain());
        let tree = self.look("look", name, Tree::read).map_err(failed)?;
        if tree != snapshot.tree {
            let (expected, found) = (text::print(&snapshot.tree), text::print(&tree));
            return Err(self.disagrees(&format!("the tree of {name}"), &expected, &found));
        }
        let changes = model.changes(name);
        let found = self.changes(name, None).map_err(failed)?;
        if found != changes {
            return Err(self.disagrees(&format!("the changes of {name}"), &lines(&changes), &lines(&found)));
        }
        let layer = self.layer(name, &snapshot.parent).map_err(|error| (error.kind(), error.chain()));
        if let Ok(layer) = &layer {
            let left = self.differs_when_applied(name, &snapshot.parent, layer).map_err(failed)?;
            if !left.is_empty() {
                return Err(self.disagrees(&format!("applying the layer of {name}"), "no difference", &lines(&left)));
            }
        }
        let like_whiteout = |path: &PathBuf| path.iter().any(|name| name.as_encoded_bytes().starts_with(b".wh."));
        // A removed name that begins with `.wh.` cannot be written in a layer.
        let spellable = !changes.iter().any(|(_, path)| like_whiteout(path));
        let wanted = if spellable { None } else { Some(ErrorKind::InvalidArgument) };
        let diff_id = layer.map(|layer| Digest::of(&layer));
        if diff_id.as_ref().err().map(|(kind, _)| *kind) != wanted {
            let (expected, found) = (format!("{wanted:?}"), format!("{diff_id:?}"));
            return Err(self.disagrees(&format!("the layer of {name}"), &expected, &found));
        }
        Ok(diff_id)
    }
}

fn lines(changes: &[(Letter, PathBuf)]) -> String {
    changes.iter().fold(String::new(), |mut text, (letter, path)| {
        let _ = writeln!(text, "{letter:?} {}", text::print_path(path));
        text
    })
}

/// Performs `script` on every runner and on the model, and returns the digests of the resulting layers; `None` for a
/// layer that cannot be written. Edits that the model does not allow are left out.
///
/// # Errors
/// A message that says which runner disagrees, and about what.
pub fn run(
    runners: &mut [Runner<'_>],
    script: &[Op],
    watch: Watch<'_>,
) -> std::result::Result<Vec<Option<Digest>>, String> {
    let mut model = Model::default();
    let mut layers = Vec::new();
    for op in script {
        if let Op::Commit { key, .. } = op
            && model.snapshots.contains_key(key)
        {
            watch(&model, key)?;
        }
        let expected = model.perform(op);
        if expected.is_err() && matches!(op, Op::Edit { .. }) {
            continue;
        }
        for runner in &mut *runners {
            let settle = |runner: &Runner<'_>| match op {
                Op::Prepare { key, .. } => runner.settle(&model, key),
                _ => Ok(()),
            };
            let (found, why) = match runner.perform(op).and_then(|()| settle(runner)) {
                Ok(()) => (Ok(()), String::new()),
                Err(error) => (Err(error.kind()), error.chain()),
            };
            if found != expected {
                let found = format!("{found:?} {why}");
                return Err(runner.disagrees(&op.to_string(), &format!("{expected:?}"), &found));
            }
        }
        if expected.is_ok() && !matches!(op, Op::Edit { .. }) {
            runners.iter().try_for_each(|runner| check_names(runner, &model))?;
        }
        if let (Ok(()), Op::Commit { name, .. }) = (&expected, op) {
            layers.push(check_commit(runners, &model, name)?);
            watch(&model, name)?;
        }
    }
    Ok(layers)
}

fn check_names(runner: &Runner<'_>, model: &Model) -> std::result::Result<(), String> {
    let mut expected: Vec<_> =
        model.snapshots.iter().map(|(name, s)| (name.clone(), s.kind, s.parent.clone())).collect();
    expected.sort_unstable();
    match runner.walk() {
        Ok(found) if found == expected => Ok(()),
        Ok(found) => Err(runner.disagrees("the snapshots", &format!("{expected:?}"), &format!("{found:?}"))),
        Err(error) => Err(runner.disagrees("the snapshots", &format!("{expected:?}"), &error.chain())),
    }
}

/// Compares the result of a commit with the model and among the runners.
fn check_commit(runners: &[Runner<'_>], model: &Model, name: &str) -> std::result::Result<Option<Digest>, String> {
    let mut first: Option<(&str, Option<Digest>)> = None;
    for runner in runners {
        let diff_id = runner.check_commit(model, name)?.ok();
        match first {
            Some((who, expected)) if expected != diff_id => {
                let expected = format!("{expected:?} on {who}");
                return Err(runner.disagrees(&format!("the DiffID of {name}"), &expected, &format!("{diff_id:?}")));
            }
            Some(_) => {}
            None => first = Some((&runner.who, diff_id)),
        }
    }
    Ok(first.and_then(|(_, diff_id)| diff_id))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backends::{self, COPY, Config};
    use crate::conformance::ops::Edit;
    use crate::mount::scratch::FsType;
    use crate::tree::Timestamp;

    /// Checks that the comparison works: an edit that one strategy does not get must be reported.
    #[test]
    fn a_lost_edit_is_found() {
        let Some(scratch) = crate::testing::scratch(FsType::Tmpfs) else { return };
        let config = Config { backend: Some(COPY), ..Config::new(scratch.path().join("store")) };
        let store = backends::open(&config).expect("a store");
        let mut runner = Runner::new("copy", &store, "p/");
        let mut model = Model::default();
        let time = Timestamp { seconds: 7, nanos: 0 };
        let ops = [
            Op::Prepare { key: "k".into(), parent: String::new() },
            Op::Edit { key: "k".into(), edit: Edit::MakeDir("a".into()), time },
            Op::Commit { name: "n".into(), key: "k".into() },
        ];
        for op in &ops {
            model.perform(op).expect("the model");
            if !matches!(op, Op::Edit { .. }) {
                runner.perform(op).expect("the store");
            }
        }
        let why = check_commit(&[runner], &model, "n").expect_err("a lost edit");
        assert!(why.contains("the tree of n"), "{why}");
    }
}
