//! What a layer means, as cases: 60 rules, each with its source and with examples that any snapshotter can be held to.
//!
//! The numbers are those of the project's checklist of layer semantics. A rule has examples of two kinds: a layer that
//! is applied, with the one tree that has to come of it, or the kind of error; and edits of a tree, with the one layer
//! that has to be written for them. Trees are judged by their text, written layers by the `tar` crate's reader. What no
//! example can show is listed in `src/design.rs` ("Rules without examples"), with its reason.
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
use crate::conformance::ops;
use crate::conformance::place::Place;
use crate::conformance::round::{GC_ROOT, Round};
use crate::error::{Error, ErrorKind, Result};
use crate::mount::{self, Mount};
use crate::snapshotter::{Labels, Snapshotter};
use crate::tree::memory::Tree;
use crate::tree::text;
use crate::tree::{Dir, Node, Timestamp};

/// Lines of [`notation`].
pub type Lines = &'static [&'static str];

/// The line between the layers of [`Example::lower`].
pub const NEXT_LAYER: &str = "---";

/// The time that every edit gives what it touches: that of nothing else.
const EDIT_TIME: Timestamp = Timestamp { seconds: 77, nanos: 0 };

/// One rule of the checklist.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// Its number.
    pub number: u8,
    /// What it says, in a line.
    pub name: &'static str,
    /// Where that is written, or who gets it wrong.
    pub source: &'static str,
    /// What a user sees where it does not hold.
    pub failure: &'static str,
    /// What shows it.
    pub examples: &'static [Example],
}

/// One example of a rule.
#[derive(Clone, Copy, Debug)]
pub struct Example {
    /// What is special about it.
    pub name: &'static str,
    /// The layers below, the lowest first, with [`NEXT_LAYER`] between them; none if it is empty.
    pub lower: Lines,
    /// What is done on top of them.
    pub step: Step,
    /// What has to come of it.
    pub expected: Expected,
}

/// What is done to an active snapshot.
#[derive(Clone, Copy)]
pub enum Step {
    /// A layer of these entries is applied.
    Layer(Lines),
    /// A layer of these bytes is applied.
    Archive(fn() -> Result<Vec<u8>>),
    /// These edits are made, and a layer is written of what changed against the parent.
    Edits(Lines),
    /// The same, of what changed against nothing.
    EditsOfAll(Lines),
}

impl fmt::Debug for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Layer(lines) => f.debug_tuple("Layer").field(lines).finish(),
            Self::Archive(_) => f.write_str("Archive"),
            Self::Edits(lines) => f.debug_tuple("Edits").field(lines).finish(),
            Self::EditsOfAll(lines) => f.debug_tuple("EditsOfAll").field(lines).finish(),
        }
    }
}

/// What has to come of a step.
#[derive(Clone, Copy, Debug)]
pub enum Expected {
    /// This tree, after a layer was applied; this layer, after edits.
    Lines(Lines),
    /// An error of this kind that says these words.
    Refused(ErrorKind, &'static str),
}

/// A layer, and the tree that it makes of what is below.
const fn applied(name: &'static str, lower: Lines, layer: Lines, tree: Lines) -> Example {
    Example { name, lower, step: Step::Layer(layer), expected: Expected::Lines(tree) }
}

/// A layer that must not be taken.
const fn refused(name: &'static str, lower: Lines, layer: Lines, kind: ErrorKind, words: &'static str) -> Example {
    Example { name, lower, step: Step::Layer(layer), expected: Expected::Refused(kind, words) }
}

/// A layer whose bytes have to be made one by one, and the tree that it makes of nothing.
const fn decoded(name: &'static str, archive: fn() -> Result<Vec<u8>>, tree: Lines) -> Example {
    Example { name, lower: &[], step: Step::Archive(archive), expected: Expected::Lines(tree) }
}

/// One that must not be taken.
const fn undecodable(
    name: &'static str,
    archive: fn() -> Result<Vec<u8>>,
    kind: ErrorKind,
    words: &'static str,
) -> Example {
    Example { name, lower: &[], step: Step::Archive(archive), expected: Expected::Refused(kind, words) }
}

/// Edits, and the layer that they are.
const fn edited(name: &'static str, lower: Lines, edits: Lines, layer: Lines) -> Example {
    Example { name, lower, step: Step::Edits(edits), expected: Expected::Lines(layer) }
}

/// Edits, and the layer that the whole tree is then.
const fn squashed(name: &'static str, lower: Lines, edits: Lines, layer: Lines) -> Example {
    Example { name, lower, step: Step::EditsOfAll(edits), expected: Expected::Lines(layer) }
}

/// All rules that have examples, by number.
pub fn rules() -> Vec<&'static Rule> {
    let tables = [whiteouts::RULES, paths::RULES, links::RULES, attributes::RULES, changes::RULES];
    let mut rules: Vec<&Rule> = tables.into_iter().flatten().collect();
    rules.sort_by_key(|rule| rule.number);
    rules
}

/// Holds the snapshotter of `round` to every example of `rule` that can be shown there.
pub(super) fn check(rule: &Rule, round: &mut Round<'_>) -> Verdict {
    let (mut broken, mut unseen) = (Vec::new(), Vec::new());
    for (number, example) in rule.examples.iter().enumerate() {
        if let Some(why) = example.lacks(round.place) {
            unseen.push(why.to_owned());
            continue;
        }
        let checked = example.check_in(round.on, &format!("{}{number}", round.prefix), round.root_times);
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

/// Those of every snapshot: containerd's garbage collector spares it.
fn labels() -> Labels {
    [(GC_ROOT.to_owned(), "layers".to_owned())].into()
}

impl Example {
    /// Holds `snapshotter` to this example. Its snapshots are called `prefix` and something more; they are removed
    /// again.
    ///
    /// # Errors
    /// `DataLoss` that says what was expected and what was found; what the snapshotter reports.
    pub fn check(&self, snapshotter: &dyn Snapshotter, prefix: &str) -> Result<()> {
        self.check_in(snapshotter, prefix, true)
    }

    /// Why this example cannot be shown at `place`: what is refused is refused before anything is made of it.
    fn lacks(&self, place: Place) -> Option<&'static str> {
        let Expected::Lines(expected) = self.expected else { return None };
        let done = match self.step {
            Step::Layer(lines) | Step::Edits(lines) | Step::EditsOfAll(lines) => lines,
            Step::Archive(_) => &[],
        };
        place.lacks([self.lower, done, expected].into_iter().flatten().copied())
    }

    fn check_in(&self, snapshotter: &dyn Snapshotter, prefix: &str, root_times: bool) -> Result<()> {
        let mut stack = Stack { snapshotter, prefix, root_times, names: Vec::new(), views: RefCell::default() };
        let checked = self.check_on(&mut stack);
        // What failed comes first; what stays is the snapshotter's.
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
            Step::Layer(lines) => stack.add(&notation::archive(lines)?).map(|()| None),
            Step::Archive(bytes) => stack.add(&bytes()?).map(|()| None),
            Step::Edits(lines) => stack.edit(lines).and_then(|()| stack.layer(None)).map(Some),
            Step::EditsOfAll(lines) => stack.edit(lines).and_then(|()| stack.layer(Some(""))).map(Some),
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

/// Snapshots on top of each other.
struct Stack<'a> {
    snapshotter: &'a dyn Snapshotter,
    prefix: &'a str,
    /// Whether a new snapshot's root directory has the time that it must have.
    root_times: bool,
    /// The committed ones, and at last the active one.
    names: Vec<String>,
    /// They go at the end: with some snapshotters a mount shows nothing any more when its view is gone.
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

    /// Edits a new snapshot on top, and commits it.
    fn edit(&mut self, lines: Lines) -> Result<()> {
        let root = Dir::from_fd(mount::detached(&self.prepare()?)?, "edited");
        for line in lines {
            ops::perform(&root, &notation::edit(line)?, EDIT_TIME).map_err(|error| error.context(*line))?;
        }
        drop(root);
        self.commit()
    }

    /// The tree of a committed snapshot, or of none, by way of a view.
    fn open(&self, name: &str) -> Result<Dir> {
        let mut views = self.views.borrow_mut();
        let key = format!("{} view {}", self.prefix, views.len());
        let mounts = self.snapshotter.view(&key, name, &labels())?;
        views.push(key);
        mount::detached(&mounts).map(|fd| Dir::from_fd(fd, name))
    }

    /// What the topmost snapshot changed against `base`, or against its parent, as a layer.
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

    /// Compares the active snapshot, and then what was committed of it.
    fn judge_tree(&mut self, expected: &Tree) -> Result<()> {
        let active = mount::detached(&self.snapshotter.mounts(self.top())?)?;
        judge("the active snapshot", expected, &Tree::read(&Dir::from_fd(active, "active"))?)?;
        self.commit()?;
        judge("the committed snapshot", expected, &Tree::read(&self.open(self.top())?)?)
    }

    /// Compares the entries of a layer; applied where it was made, it has to give the same tree.
    fn judge_layer(&mut self, layer: &[u8], expected: Lines, step: Step) -> Result<()> {
        let found = notation::entries(layer)?;
        if found != expected {
            return Err(differs("the layer", &expected.join("\n"), &found.join("\n")));
        }
        let tree = Tree::read(&self.open(self.top())?)?;
        let base = match step {
            Step::EditsOfAll(_) => String::new(),
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

    /// Removes every snapshot, the topmost first.
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

/// A directory whose time alone changed is in no layer: so what a layer gives back has its old time there.
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
