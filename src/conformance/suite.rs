//! All cases of all groups, and running them on one snapshotter.
//!
//! The cases use nothing but the contract, so the same cases check a store of strata, a daemon behind its socket, and a
//! snapshotter of containerd. A case only uses keys with its own prefix and removes them afterwards, so that it can run
//! beside other cases. All of its snapshots have the label that protects them from containerd's garbage collector.
//!
//! The expected results are those of a plain file system and of the contract. Inherent deviations of a strategy are
//! listed in one table with their reasons; such a failure is an [`Outcome::Deviation`].

use std::fmt;
use std::sync::OnceLock;

use super::case::{Deviation, Fault, Outcome, Promise, Verdict};
use super::layers::{self, Rule};
use super::location::Features;
use super::ops::Op;
use super::random::{self, Runner};
use super::trial::{GC_ROOT, Trial};
use super::{concurrency, content, deviations, lifecycle};
use crate::error::Result;
use crate::id::Digest;
use crate::mount;
use crate::snapshotter::{Labels, Snapshotter};
use crate::tree::{Dir, NOT_MAPPED};

/// Subject matter of a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Group {
    /// Keys, kinds, labels, filters, errors, and the content of snapshots.
    Lifecycle,
    /// File system semantics of a mounted snapshot.
    Content,
    /// Concurrent callers.
    Concurrency,
    /// Semantics of layers.
    Layers,
    /// Random scripts, compared with a model.
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
    /// Name of the case, `group/name`.
    pub name: String,
    /// Group of the case.
    pub group: Group,
    /// Source of the case: a specification, a case of containerd's suite, an issue, or a kernel document.
    pub source: &'static str,
    /// Consequence for a user if the case fails.
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
    /// Layers that the script made on the first subject; every other subject must make the same layers.
    layers: OnceLock<Vec<Option<Digest>>>,
}

/// The snapshotter that is checked.
#[derive(Clone)]
pub struct Subject<'a> {
    snapshotter: &'a dyn Snapshotter,
    prefix: String,
    known: Vec<Deviation>,
    root_times: bool,
    features: Features,
}

impl fmt::Debug for Subject<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subject").field("prefix", &self.prefix).field("known", &self.known).finish_non_exhaustive()
    }
}

impl<'a> Subject<'a> {
    /// Creates a subject from `snapshotter`, with keys that begin with `prefix`. The known deviations follow from the
    /// mounts that it returns; the features of its location are tried out.
    ///
    /// # Errors
    /// Errors of creating the two snapshots that are needed for this.
    pub fn new(snapshotter: &'a dyn Snapshotter, prefix: &str) -> Result<Self> {
        let key = |name: &str| format!("{prefix}probe/{name}");
        let labels: Labels = [(GC_ROOT.to_owned(), "probe".to_owned())].into();
        snapshotter.prepare(&key("below"), "", &labels)?;
        snapshotter.commit(&key("base"), &key("below"), &labels)?;
        let told = snapshotter.prepare(&key("top"), &key("base"), &labels).and_then(|mounts| {
            let known = mounts.last().map(deviations::of).unwrap_or_default();
            let features = mount::detached(&mounts).and_then(|fd| Features::try_out(&Dir::from_fd(fd, "top")));
            snapshotter.remove(&key("top")).and(features).map(|features| (known, features))
        });
        let (known, features) = snapshotter.remove(&key("base")).and(told)?;
        Ok(Self { snapshotter, prefix: prefix.to_owned(), known, root_times: true, features })
    }

    /// Accepts any time on the root directory of a new snapshot. The contract does not define that time, and
    /// containerd's own snapshotters use the time of creation. Scripts and layer rules then set it first.
    #[must_use]
    pub fn with_any_root_times(self) -> Self {
        Self { root_times: false, ..self }
    }

    /// Adds known deviations.
    #[must_use]
    pub fn known(mut self, more: &[Deviation]) -> Self {
        self.known.extend_from_slice(more);
        self
    }
}

/// Returns all cases in the order of groups, with the first `scripts` scripts of `seed`.
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

/// Returns a case that performs `script`.
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

/// Returns the first clause of `sentence` as letters and digits, with dashes between the words.
fn slug(sentence: &str) -> String {
    let clause = sentence.split([',', ':', ';']).next().unwrap_or(sentence);
    let words = clause.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    words.map(str::to_ascii_lowercase).collect::<Vec<_>>().join("-")
}

impl Case {
    /// Runs the case on `subject`, and removes its snapshots.
    pub fn run(&self, subject: &Subject<'_>) -> Outcome {
        let on = subject.snapshotter;
        let mut trial = Trial::new(on, &subject.prefix, &self.name);
        (trial.root_times, trial.features) = (subject.root_times, subject.features);
        let verdict = match &self.body {
            Body::Calls(case) => (case.run)(&mut trial),
            Body::Content(case) => content::run(case, &mut trial),
            Body::Rule(rule) => layers::check(rule, &mut trial),
            Body::Script(script) => script.check(&trial),
        };
        let swept = trial.sweep();
        match (Outcome::of(verdict, &self.name, &subject.known), swept) {
            (Outcome::Passed, Err(error)) => {
                Outcome::Failed(format!("what it made cannot be removed: {}", error.chain()))
            }
            (outcome, _) => outcome,
        }
    }
}

impl Script {
    fn check(&self, trial: &Trial<'_>) -> Verdict {
        if let Some(why) = trial.features.lacks(random::print(&self.ops).lines()) {
            return Err(Fault::Skip(why.to_owned()));
        }
        let Err(why) = self.run(trial, &self.ops) else { return Ok(()) };
        if why.contains(NOT_MAPPED) {
            return Err(Fault::Skip(why));
        }
        let swept = |script: &[Op]| trial.sweep().is_ok() && self.run(trial, script).is_err();
        let shortest = random::shrink(self.ops.clone(), &mut |script| swept(script));
        trial.sweep()?;
        let why = self.run(trial, &shortest).err().unwrap_or(why);
        let script = random::print(&shortest);
        Err(Fault::Broken(format!("{why}\nthe shortest script found, for strata conformance --replay FILE:\n{script}")))
    }

    fn run(&self, trial: &Trial<'_>, ops: &[Op]) -> std::result::Result<(), String> {
        let runner = Runner::new("the snapshotter", trial.on, &trial.prefix);
        let mut runner = [if trial.root_times { runner } else { runner.with_any_root_times() }];
        let layers = random::run(&mut runner, ops, &mut |_, _| Ok(()))?;
        // Layers are only compared if no operation was left out of the script.
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
