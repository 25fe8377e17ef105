//! Every case of every group under one name, and how one snapshotter is held to it.
//!
//! A case needs nothing but the contract: a store of strata, a daemon behind its socket and a snapshotter of containerd are
//! judged alike. It keeps to keys below a prefix of its own and removes them afterwards, so that it may run beside others.
//! All of its snapshots carry the label by which containerd's garbage collector spares them.
//!
//! What is expected is what a plain file system does and what the contract says. What a strategy does otherwise by nature
//! stands in one table, with the reason; there such a failure is an [`Outcome::Deviation`].

use std::fmt;

use super::case::{Deviation, Outcome};
use super::layers::{self, Rule};
use super::round::{GC_ROOT, Round};
use super::{content, deviations, lifecycle};
use crate::error::Result;
use crate::snapshotter::{Labels, Snapshotter};

/// What a case is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Group {
    /// Keys, kinds, labels, filters, errors, and what snapshots hold.
    Lifecycle,
    /// What is seen in a mounted snapshot, through the kernel.
    Content,
    /// What layers mean.
    Layers,
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Lifecycle => "lifecycle",
            Self::Content => "content",
            Self::Layers => "layers",
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
    Lifecycle(&'static lifecycle::Case),
    Content(&'static content::Case),
    Rule(&'static Rule),
}

/// Who is judged.
#[derive(Clone)]
pub struct Subject<'a> {
    snapshotter: &'a dyn Snapshotter,
    prefix: String,
    known: Vec<Deviation>,
}

impl fmt::Debug for Subject<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subject").field("prefix", &self.prefix).field("known", &self.known).finish_non_exhaustive()
    }
}

impl<'a> Subject<'a> {
    /// `snapshotter`, with keys that begin with `prefix`. What is known of its strategy follows from the mounts that it
    /// hands out.
    ///
    /// # Errors
    /// If it cannot make the two snapshots that tell.
    pub fn new(snapshotter: &'a dyn Snapshotter, prefix: &str) -> Result<Self> {
        let key = |name: &str| format!("{prefix}probe/{name}");
        let labels: Labels = [(GC_ROOT.to_owned(), "probe".to_owned())].into();
        snapshotter.prepare(&key("below"), "", &labels)?;
        snapshotter.commit(&key("base"), &key("below"), &labels)?;
        let mounts = snapshotter.prepare(&key("top"), &key("base"), &labels);
        let removed = mounts.is_ok().then(|| snapshotter.remove(&key("top")));
        removed.transpose().and(snapshotter.remove(&key("base")))?;
        let known = mounts?.last().map_or(&[][..], |mount| deviations::of(mount.fstype()));
        Ok(Self { snapshotter, prefix: prefix.to_owned(), known: known.to_vec() })
    }

    /// The same, of which more is known.
    #[must_use]
    pub fn known(mut self, more: &[Deviation]) -> Self {
        self.known.extend_from_slice(more);
        self
    }
}

/// Every case, in the order of groups.
pub fn cases() -> Vec<Case> {
    let of_lifecycle = lifecycle::cases().map(|case| Case {
        name: format!("{}/{}", Group::Lifecycle, case.name),
        group: Group::Lifecycle,
        source: case.source,
        meaning: case.meaning,
        body: Body::Lifecycle(case),
    });
    let of_content = content::cases().map(|case| Case {
        name: format!("{}/{}", Group::Content, case.name),
        group: Group::Content,
        source: case.source,
        meaning: case.meaning,
        body: Body::Content(case),
    });
    let of_layers = layers::rules().into_iter().map(|rule| Case {
        name: format!("{}/{:02}-{}", Group::Layers, rule.number, slug(rule.name)),
        group: Group::Layers,
        source: rule.source,
        meaning: rule.failure,
        body: Body::Rule(rule),
    });
    of_lifecycle.chain(of_content).chain(of_layers).collect()
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
        let verdict = match self.body {
            Body::Lifecycle(case) => (case.run)(&mut round),
            Body::Content(case) => content::run(case, &mut round),
            Body::Rule(rule) => layers::check(rule, &mut round),
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

#[cfg(test)]
mod tests;
