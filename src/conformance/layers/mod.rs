//! The semantics of layers, as cases: 60 rules, each with its source and with examples that can be checked on any
//! snapshotter.
//!
//! The numbers are those of the project's checklist of layer semantics. A rule has two kinds of examples: a layer that
//! is applied, with the tree or the kind of error that must result; and edits of a tree, with the layer that must be
//! written for them. Trees are compared in text form, written layers through the reader of the `tar` crate. Rules that
//! no example can show are listed in `src/design.rs` ("Rules without examples") with the reason.
//!
//! # References
//! OCI image specification, `layer.md`; POSIX.1-2024 `pax`; the issues and advisories that each rule names.

mod attributes;
mod changes;
mod links;
pub mod notation;
mod paths;
mod whiteouts;

#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::fmt;
use std::io::Read;

use crate::changeset::diff::Ancestors;
use crate::changeset::tar::{Encoder, Limits, MtimePrecision, decode};
use crate::conformance::case::{Fault, Verdict, ensure};
use crate::conformance::location::Features;
use crate::conformance::ops;
use crate::conformance::trial::{GC_ROOT, Trial};
use crate::error::{Error, ErrorKind, Result};
use crate::mount::{self, Mount};
use crate::snapshotter::{Labels, Snapshotter};
use crate::tree::memory::Tree;
use crate::tree::text;
use crate::tree::{Dir, Node, Timestamp};

/// Lines of [`notation`].
pub type Lines = &'static [&'static str];

/// Line that separates the layers of [`Example::lower`].
pub const NEXT_LAYER: &str = "---";

/// Time that every edit sets on the inodes it touches; no other inode has it.
const EDIT_TIME: Timestamp = Timestamp { seconds: 77, nanos: 0 };

/// One rule of the checklist.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// Number of the rule.
    pub number: u8,
    /// The rule in one line.
    pub name: &'static str,
    /// Document that states the rule, or programs that break it.
    pub source: &'static str,
    /// Consequence for a user if the rule does not hold.
    pub failure: &'static str,
    /// Examples that check the rule.
    pub examples: &'static [Example],
}

/// One example of a rule.
#[derive(Clone, Copy, Debug)]
pub struct Example {
    /// Name of the example.
    pub name: &'static str,
    /// The layers below, the lowest first, separated by [`NEXT_LAYER`]; empty without layers.
    pub lower: Lines,
    /// The step on top of the layers.
    pub step: ExampleStep,
    /// Expected result of the step.
    pub expected: Expected,
}

/// A step in an active snapshot.
#[derive(Clone, Copy)]
pub enum ExampleStep {
    /// Applies a layer with these entries.
    Layer(Lines),
    /// Applies a layer with these bytes.
    Archive(fn() -> Result<Vec<u8>>),
    /// Performs these edits, and writes a layer of the changes relative to the parent.
    Edits(Lines),
    /// Performs these edits, and writes a layer of the whole tree.
    EditsOfAll(Lines),
}

impl fmt::Debug for ExampleStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Layer(lines) => f.debug_tuple("Layer").field(lines).finish(),
            Self::Archive(_) => f.write_str("Archive"),
            Self::Edits(lines) => f.debug_tuple("Edits").field(lines).finish(),
            Self::EditsOfAll(lines) => f.debug_tuple("EditsOfAll").field(lines).finish(),
        }
    }
}

/// Expected result of a step.
#[derive(Clone, Copy, Debug)]
pub enum Expected {
    /// This tree after applying a layer; this layer after edits.
    Lines(Lines),
    /// An error of this kind whose message contains these words.
    Refused(ErrorKind, &'static str),
}

/// A layer, and the tree it must make on top of the lower layers.
const fn applied(name: &'static str, lower: Lines, layer: Lines, tree: Lines) -> Example {
    Example { name, lower, step: ExampleStep::Layer(layer), expected: Expected::Lines(tree) }
}

/// A layer that must be refused.
const fn refused(name: &'static str, lower: Lines, layer: Lines, kind: ErrorKind, words: &'static str) -> Example {
    Example { name, lower, step: ExampleStep::Layer(layer), expected: Expected::Refused(kind, words) }
}

/// A layer built byte by byte, and the tree it must make without lower layers.
const fn decoded(name: &'static str, archive: fn() -> Result<Vec<u8>>, tree: Lines) -> Example {
    Example { name, lower: &[], step: ExampleStep::Archive(archive), expected: Expected::Lines(tree) }
}

/// A layer built byte by byte that must be refused.
const fn undecodable(
    name: &'static str,
    archive: fn() -> Result<Vec<u8>>,
    kind: ErrorKind,
    words: &'static str,
) -> Example {
    Example { name, lower: &[], step: ExampleStep::Archive(archive), expected: Expected::Refused(kind, words) }
}

/// Edits, and the layer of their changes.
const fn edited(name: &'static str, lower: Lines, edits: Lines, layer: Lines) -> Example {
    Example { name, lower, step: ExampleStep::Edits(edits), expected: Expected::Lines(layer) }
}

/// Edits, and the layer of the whole tree.
const fn squashed(name: &'static str, lower: Lines, edits: Lines, layer: Lines) -> Example {
    Example { name, lower, step: ExampleStep::EditsOfAll(edits), expected: Expected::Lines(layer) }
}

/// Returns all rules with examples, ordered by number.
pub fn rules() -> Vec<&'static Rule> {
    let tables = [whiteouts::RULES, paths::RULES, links::RULES, attributes::RULES, changes::RULES];
    let mut rules: Vec<&Rule> = tables.into_iter().flatten().collect();
    rules.sort_by_key(|rule| rule.number);
    rules
}

/// Checks every example of `rule` that the location supports.
pub(super) fn check(rule: &Rule, trial: &mut Trial<'_>) -> Verdict {
    let (mut broken, mut unseen) = (Vec::new(), Vec::new());
    for (number, example) in rule.examples.iter().enumerate() {
        if let Some(why) = example.lacks(trial.features) {
            unseen.push(why.to_owned());
            continue;
        }
        let checked = example.check_in(trial.on, &format!("{}{number}", trial.prefix), trial.root_times);
        match checked.map_err(Fault::from) {
            Ok(()) => {}
            Err(Fault::Skip(why)) => unseen.push(why),
            Err(Fault::Broken(how)) => broken.push(format!("{}: {how}", example.name)),
        }
    }
    ensure(broken.is_empty(), || broken.join("\n"))?;
    match unseen.first() {
        None => Ok(()),
        Some(why) => Err(Fault::Skip(format!("{} of {} examples: {why}", unseen.len(), rule.examples.len()))),
    }
}

/// Returns the label that protects a snapshot from containerd's garbage collector.
fn labels() -> Labels {
    [(GC_ROOT.to_owned(), "layers".to_owned())].into()
}

impl Example {
    /// Checks this example on `snapshotter`. The names of its snapshots begin with `prefix`; the snapshots are removed
    /// afterwards.
    ///
    /// # Errors
    /// `DataLoss` with the expected and the found result; errors of the snapshotter.
    pub fn check(&self, snapshotter: &dyn Snapshotter, prefix: &str) -> Result<()> {
        self.check_in(snapshotter, prefix, true)
    }

    /// Returns the reason why this example cannot run at that location. Examples that expect a refusal always can,
    /// because a layer is refused before anything is made.
    fn lacks(&self, features: Features) -> Option<&'static str> {
        let Expected::Lines(expected) = self.expected else { return None };
        let done = match self.step {
            ExampleStep::Layer(lines) | ExampleStep::Edits(lines) | ExampleStep::EditsOfAll(lines) => lines,
            ExampleStep::Archive(_) => &[],
        };
        features.lacks([self.lower, done, expected].into_iter().flatten().copied())
    }

    fn check_in(&self, snapshotter: &dyn Snapshotter, prefix: &str, root_times: bool) -> Result<()> {
        let mut stack = Stack { snapshotter, prefix, root_times, names: Vec::new(), views: RefCell::default() };
        let checked = self.check_on(&mut stack);
        // The error of the check takes precedence over an error of the cleanup.
        let cleared = stack.clear();
        checked.and(cleared)
    }

    fn check_on(&self, stack: &mut Stack<'_>) -> Result<()> {
        let lower = self.lower.split(|line| *line == NEXT_LAYER).filter(|lines| !lines.is_empty());
        for lines in lower {
            stack.add(&notation::archive(lines)?).map_err(|error| error.context("the layers below"))?;
            stack.commit()?;
        }
        let found = match self.step {
            ExampleStep::Layer(lines) => stack.add(&notation::archive(lines)?).map(|()| None),
            ExampleStep::Archive(bytes) => stack.add(&bytes()?).map(|()| None),
            ExampleStep::Edits(lines) => stack.edit(lines).and_then(|()| stack.layer(None)).map(Some),
            ExampleStep::EditsOfAll(lines) => stack.edit(lines).and_then(|()| stack.layer(Some(""))).map(Some),
        };
        match (found, self.expected) {
            (Ok(None), Expected::Lines(lines)) => stack.judge_tree(&notation::tree(lines)?),
            (Ok(Some(layer)), Expected::Lines(lines)) => stack.judge_layer(&layer, lines, self.step),
            (Ok(_), Expected::Refused(kind, _)) => Err(Error::data_loss(format!("it should be refused: {kind}"))),
            (Err(error), Expected::Refused(kind, words)) if error.kind() == kind && error.chain().contains(words) => {
                Ok(())
            }
            (Err(error), Expected::Refused(kind, words)) => {
                Err(Error::data_loss(format!("it should be refused as {kind}, saying {words:?}")).with_source(error))
            }
            (Err(error), Expected::Lines(_)) => Err(error),
        }
    }
}

/// Snapshots that are stacked on top of each other.
struct Stack<'a> {
    snapshotter: &'a dyn Snapshotter,
    prefix: &'a str,
    /// True if the root directory of a new snapshot must have the time that strata defines for it.
    root_times: bool,
    /// Names of the committed snapshots, then the key of the active one.
    names: Vec<String>,
    /// Keys of the views. They are removed last, because with some snapshotters a mount shows nothing after its view is
    /// removed.
    views: RefCell<Vec<String>>,
}

impl Stack<'_> {
    fn name(&self, what: &str) -> String {
        format!("{} {what} {}", self.prefix, self.names.len())
    }

    fn top(&self) -> &str {
        self.names.last().map_or("", String::as_str)
    }

    fn prepare(&mut self) -> Result<Vec<Mount>> {
        let key = self.name("active");
        let mounts = self.snapshotter.prepare(&key, self.top(), &labels())?;
        if !self.root_times {
            let below = if self.names.is_empty() { None } else { Some(self.open(self.top())?.stat("")?.mtime) };
            let root = Dir::from_fd(mount::detached(&mounts)?, key.as_str());
            root.set_mtime("", below.unwrap_or(Timestamp::EPOCH))?;
        }
        self.names.push(key);
        Ok(mounts)
    }

    /// Applies a layer in a new snapshot on top.
    fn add(&mut self, archive: &[u8]) -> Result<()> {
        self.prepare()?;
        apply(self.snapshotter, self.top(), archive)
    }

    /// Commits the active snapshot.
    fn commit(&mut self) -> Result<()> {
        let key = self.names.pop().unwrap_or_default();
        let name = self.name("committed");
        let done = self.snapshotter.commit(&name, &key, &labels());
        self.names.push(if done.is_ok() { name } else { key });
        done
    }

    /// Performs edits in a new snapshot on top, and commits it.
    fn edit(&mut self, lines: Lines) -> Result<()> {
        let root = Dir::from_fd(mount::detached(&self.prepare()?)?, "edited");
        for line in lines {
            ops::perform(&root, &notation::edit(line)?, EDIT_TIME).map_err(|error| error.context(*line))?;
        }
        drop(root);
        self.commit()
    }

    /// Opens the tree of a committed snapshot, or an empty tree, through a view.
    fn open(&self, name: &str) -> Result<Dir> {
        let mut views = self.views.borrow_mut();
        let key = format!("{} view {}", self.prefix, views.len());
        let mounts = self.snapshotter.view(&key, name, &labels())?;
        views.push(key);
        mount::detached(&mounts).map(|fd| Dir::from_fd(fd, name))
    }

    /// Returns the changes of the topmost snapshot relative to `base`, or to its parent, as a layer.
    fn layer(&self, base: Option<&str>) -> Result<Vec<u8>> {
        let parent = self.snapshotter.stat(self.top())?.parent;
        let below = base.unwrap_or(&parent);
        let old = if below.is_empty() { None } else { Some(self.open(below)?) };
        let new = self.open(self.top())?;
        let mut ancestors = Ancestors::new(old.as_ref(), &new);
        let mut describe = |path: &std::path::Path| ancestors.meta(path);
        let mut encoder = Encoder::new(Vec::new(), MtimePrecision::Nanoseconds, &mut describe);
        self.snapshotter.changes(self.top(), base, &mut encoder)?;
        encoder.finish()
    }

    /// Compares the tree of the active snapshot with `expected`, commits it, and compares the committed tree.
    fn judge_tree(&mut self, expected: &Tree) -> Result<()> {
        let active = mount::detached(&self.snapshotter.mounts(self.top())?)?;
        judge("the active snapshot", expected, &Tree::read(&Dir::from_fd(active, "active"))?)?;
        self.commit()?;
        judge("the committed snapshot", expected, &Tree::read(&self.open(self.top())?)?)
    }

    /// Compares the entries of a layer with `expected`, then applies it to its base and compares the tree.
    fn judge_layer(&mut self, layer: &[u8], expected: Lines, step: ExampleStep) -> Result<()> {
        let found = notation::entries(layer)?;
        if found != expected {
            return Err(differs("the layer", &expected.join("\n"), &found.join("\n")));
        }
        let tree = Tree::read(&self.open(self.top())?)?;
        let base = match step {
            ExampleStep::EditsOfAll(_) => String::new(),
            _ => self.snapshotter.stat(self.top())?.parent,
        };
        let copy = format!("{} copy", self.prefix);
        self.snapshotter.prepare(&copy, &base, &labels())?;
        let judged = apply(self.snapshotter, &copy, layer).and_then(|()| {
            let mounts = self.snapshotter.mounts(&copy)?;
            let found = Tree::read(&Dir::from_fd(mount::detached(&mounts)?, "copy"))?;
            judge("the layer, applied", &without_dir_times(tree), &without_dir_times(found))
        });
        judged.and(self.snapshotter.remove(&copy))
    }

    /// Removes all snapshots, the topmost first.
    fn clear(mut self) -> Result<()> {
        self.views.take().iter().try_for_each(|view| self.snapshotter.remove(view))?;
        while let Some(name) = self.names.pop() {
            self.snapshotter.remove(&name)?;
        }
        Ok(())
    }
}

fn apply(snapshotter: &dyn Snapshotter, key: &str, mut archive: &[u8]) -> Result<()> {
    let reader: &mut dyn Read = &mut archive;
    snapshotter.apply(key, &mut |sink| decode(reader, &Limits::default(), sink).map(drop)).map(drop)
}

/// Returns the tree with the times of all directories removed: a directory whose time alone changed is in no layer, so
/// the applied layer does not restore its time.
fn without_dir_times(mut tree: Tree) -> Tree {
    let dirs = tree.iter().filter(|named| named.inode.meta.node == Node::Dir).map(|named| named.path.to_owned());
    for dir in dirs.collect::<Vec<_>>() {
        if let Some(inode) = tree.edit(dir) {
            inode.meta.mtime = Timestamp::EPOCH;
        }
    }
    tree
}

fn judge(what: &str, expected: &Tree, found: &Tree) -> Result<()> {
    let (expected, found) = (text::print(expected), text::print(found));
    if expected == found { Ok(()) } else { Err(differs(what, &expected, &found)) }
}

fn differs(what: &str, expected: &str, found: &str) -> Error {
    let only = |here: &str, there: &str, sign: &str| -> String {
        here.lines()
            .filter(|line| !there.lines().any(|other| other == *line))
            .fold(String::new(), |lines, line| format!("{lines}\n  {sign} {line}"))
    };
    let (missing, surplus) = (only(expected, found, "expected:"), only(found, expected, "found:   "));
    Error::data_loss(format!("{what} differs{missing}{surplus}"))
}
