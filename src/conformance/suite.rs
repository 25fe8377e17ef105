//! Every case of every group under one name, and how one snapshotter is held to it.
//!
//! A case needs nothing but the contract: a store of strata, a daemon behind its socket and a snapshotter of containerd
//! are judged alike. It keeps to keys below a prefix of its own and removes them afterwards, so that it may run beside
//! others. All of its snapshots carry the label by which containerd's garbage collector spares them.
//!
//! What is expected is what a plain file system does and what the contract says. What a strategy does otherwise by
//! nature stands in one table, with the reason; there such a failure is an [`Outcome::Deviation`].

use std::fmt;
use std::sync::OnceLock;

use super::case::{Deviation, Fault, Outcome, Promise, Verdict};
use super::layers::{self, Rule};
use super::ops::Op;
use super::place::Place;
use super::random::{self, Runner};
use super::round::{GC_ROOT, Round};
use super::{concurrency, content, deviations, lifecycle};
use crate::error::Result;
use crate::id::Digest;
use crate::mount;
use crate::snapshotter::{Labels, Snapshotter};
use crate::tree::{Dir, NOT_MAPPED};

/// What a case is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Group {
    /// Keys, kinds, labels, filters, errors, and what snapshots hold.
    Lifecycle,
    /// What is seen in a mounted snapshot, through the kernel.
    Content,
    /// Many callers at once.
    Concurrency,
    /// What layers mean.
    Layers,
    /// Scripts of calls and edits, against a model.
    Random,
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Lifecycle => "lifecycle",
            Self::Content => "content",
            Self::Concurrency => "concurrency",
            Self::Layers => "layers",
            Self::Random => "random",
        })
    }
}

/// One case of any group.
#[derive(Debug)]
pub struct Case {
    /// `group/name`.
    pub name: String,
    /// Its group.
    pub group: Group,
    /// Where it comes from: a specification, a case of containerd's suite, an issue, a kernel document.
    pub source: &'static str,
    /// What it means to a user if it fails.
    pub meaning: &'static str,
    body: Body,
}

#[derive(Debug)]
enum Body {
    Calls(&'static lifecycle::Case),
    Content(&'static content::Case),
    Rule(&'static Rule),
    Script(Script),
}

/// A random script.
#[derive(Debug)]
struct Script {
    ops: Vec<Op>,
    /// The layers that came of it where it was done first: those of everybody.
    layers: OnceLock<Vec<Option<Digest>>>,
}

/// Who is judged.
#[derive(Clone)]
pub struct Subject<'a> {
    snapshotter: &'a dyn Snapshotter,
    prefix: String,
    known: Vec<Deviation>,
    root_times: bool,
    place: Place,
}

impl fmt::Debug for Subject<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subject").field("prefix", &self.prefix).field("known", &self.known).finish_non_exhaustive()
    }
}

impl<'a> Subject<'a> {
    /// `snapshotter`, with keys that begin with `prefix`. What is known of its strategy follows from the mounts that it
    /// hands out, and what can be tried where it keeps them is tried out.
    ///
    /// # Errors
    /// If it cannot make the two snapshots that tell.
    pub fn new(snapshotter: &'a dyn Snapshotter, prefix: &str) -> Result<Self> {
        let key = |name: &str| format!("{prefix}probe/{name}");
        let labels: Labels = [(GC_ROOT.to_owned(), "probe".to_owned())].into();
        snapshotter.prepare(&key("below"), "", &labels)?;
        snapshotter.commit(&key("base"), &key("below"), &labels)?;
        let told = snapshotter.prepare(&key("top"), &key("base"), &labels).and_then(|mounts| {
            let known = mounts.last().map(deviations::of).unwrap_or_default();
            let place = mount::detached(&mounts).and_then(|fd| Place::try_out(&Dir::from_fd(fd, "top")));
            snapshotter.remove(&key("top")).and(place).map(|place| (known, place))
        });
        let (known, place) = snapshotter.remove(&key("base")).and(told)?;
        Ok(Self { snapshotter, prefix: prefix.to_owned(), known, root_times: true, place })
    }

    /// The same, whose new root directories may have any time: the contract says nothing about it, and containerd's own
    /// snapshotters give them the time at which they were made. Scripts and rules then begin by setting it.
    #[must_use]
    pub fn with_any_root_times(self) -> Self {
        Self { root_times: false, ..self }
    }

    /// The same, of which more is known.
    #[must_use]
    pub fn known(mut self, more: &[Deviation]) -> Self {
        self.known.extend_from_slice(more);
        self
    }
}

/// Every case, in the order of groups, and the first `scripts` scripts of `seed`.
pub fn cases(seed: u64, scripts: u64) -> Vec<Case> {
    let of_calls = |group: Group, case: &'static lifecycle::Case| named(group, case, Body::Calls(case));
    let of_lifecycle = lifecycle::cases().map(|case| of_calls(Group::Lifecycle, case));
    let of_concurrency = concurrency::CASES.iter().map(|case| of_calls(Group::Concurrency, case));
    let of_content = content::cases().map(|case| named(Group::Content, case, Body::Content(case)));
    let of_layers = layers::rules().into_iter().map(|rule| Case {
        name: format!("{}/{:02}-{}", Group::Layers, rule.number, slug(rule.name)),
        group: Group::Layers,
        source: rule.source,
        meaning: rule.failure,
        body: Body::Rule(rule),
    });
    let of_scripts =
        (0..scripts).map(|number| scripted(&format!("seed-{seed}-script-{number}"), random::script(seed, number)));
    of_lifecycle.chain(of_content).chain(of_concurrency).chain(of_layers).chain(of_scripts).collect()
}

/// The one case that does `script`.
pub fn replay(script: Vec<Op>) -> Case {
    scripted("replay", script)
}

fn named<F>(group: Group, promise: &'static Promise<F>, body: Body) -> Case {
    let Promise { name, source, meaning, .. } = promise;
    Case { name: format!("{group}/{name}"), group, source, meaning, body }
}

fn scripted(name: &str, ops: Vec<Op>) -> Case {
    Case {
        name: format!("{}/{name}", Group::Random),
        group: Group::Random,
        source: "the contract (containerd core/snapshots/snapshotter.go), POSIX and the rules of layers, as one model",
        meaning: "a sequence of calls and edits has another answer, tree or layer than it must have",
        body: Body::Script(Script { ops, layers: OnceLock::new() }),
    }
}

/// The letters and digits of `sentence`, with dashes between its words, up to the first pause.
fn slug(sentence: &str) -> String {
    let clause = sentence.split([',', ':', ';']).next().unwrap_or(sentence);
    let words = clause.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    words.map(str::to_ascii_lowercase).collect::<Vec<_>>().join("-")
}

impl Case {
    /// Tries the case on `subject`, and removes what it made.
    pub fn run(&self, subject: &Subject<'_>) -> Outcome {
        let on = subject.snapshotter;
        let mut round = Round::new(on, &subject.prefix, &self.name);
        (round.root_times, round.place) = (subject.root_times, subject.place);
        let verdict = match &self.body {
            Body::Calls(case) => (case.run)(&mut round),
            Body::Content(case) => content::run(case, &mut round),
            Body::Rule(rule) => layers::check(rule, &mut round),
            Body::Script(script) => script.check(&round),
        };
        let swept = round.sweep();
        match (Outcome::of(verdict, &self.name, &subject.known), swept) {
            (Outcome::Passed, Err(error)) => {
                Outcome::Failed(format!("what it made cannot be removed: {}", error.chain()))
            }
            (outcome, _) => outcome,
        }
    }
}

impl Script {
    fn check(&self, round: &Round<'_>) -> Verdict {
        if let Some(why) = round.place.lacks(random::print(&self.ops).lines()) {
            return Err(Fault::Skip(why.to_owned()));
        }
        let Err(why) = self.run(round, &self.ops) else { return Ok(()) };
        if why.contains(NOT_MAPPED) {
            return Err(Fault::Skip(why));
        }
        let swept = |script: &[Op]| round.sweep().is_ok() && self.run(round, script).is_err();
        let shortest = random::shrink(self.ops.clone(), &mut |script| swept(script));
        round.sweep()?;
        let why = self.run(round, &shortest).err().unwrap_or(why);
        let script = random::print(&shortest);
        Err(Fault::Broken(format!("{why}\nthe shortest script found, for strata conformance --replay FILE:\n{script}")))
    }

    fn run(&self, round: &Round<'_>, ops: &[Op]) -> std::result::Result<(), String> {
        let runner = Runner::new("the snapshotter", round.on, &round.prefix);
        let mut runner = [if round.root_times { runner } else { runner.with_any_root_times() }];
        let layers = random::run(&mut runner, ops, &mut |_, _| Ok(()))?;
        // Only the whole script has known layers.
        if ops.len() < self.ops.len() {
            return Ok(());
        }
        let first = self.layers.get_or_init(|| layers.clone());
        let same = *first == layers;
        if same {
            Ok(())
        } else {
            Err(format!("its layers are {layers:?}, and were {first:?} where it was done first"))
        }
    }
}

#[cfg(test)]
mod tests;
