//! A case: its name, where it comes from, what it means if it fails, and what became of it.

use rustix::io::Errno;

use crate::error::Error;
use crate::tree::NOT_MAPPED;

/// One promise, and how to see whether it is kept.
#[derive(Debug)]
pub(super) struct Promise<F> {
    /// Its name in its group.
    pub name: &'static str,
    /// Where it comes from: a specification, a case of containerd's suite, an issue, a kernel document.
    pub source: &'static str,
    /// What it means to a user if it fails.
    pub meaning: &'static str,
    /// What shows it.
    pub run: F,
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

/// What somebody is known to do otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deviation {
    /// The case, `group/name`.
    pub case: &'static str,
    /// What the failure says where it is this one, and not a worse one.
    pub sign: &'static str,
    /// Why, and where that is written.
    pub why: &'static str,
}

/// Why a case ended early.
#[derive(Debug)]
pub(super) enum Fault {
    Skip(String),
    Broken(String),
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        let chain = error.chain();
        // Nobody who keeps snapshots can help that.
        let beyond = chain.contains(NOT_MAPPED);
        if beyond { Self::Skip(chain) } else { Self::Broken(format!("{}: {chain}", error.kind())) }
    }
}

pub(super) type Verdict<T = ()> = std::result::Result<T, Fault>;

/// The promise is broken, as `how` says, unless `kept`.
pub(super) fn ensure(kept: bool, how: impl FnOnce() -> String) -> Verdict {
    if kept { Ok(()) } else { Err(Fault::Broken(how())) }
}

/// That the system call that does `what` fails with `errno`.
pub(super) fn refuses<T>(what: &str, answer: std::result::Result<T, Errno>, errno: Errno) -> Verdict {
    match answer {
        Ok(_) => Err(Fault::Broken(format!("{what} succeeded, and must fail: {errno}"))),
        Err(found) => ensure(found == errno, || format!("{what} failed: {found}; and not: {errno}")),
    }
}

impl Outcome {
    /// What `verdict` means for the case `name` where `known` deviations are.
    pub(super) fn of(verdict: Verdict, name: &str, known: &[Deviation]) -> Self {
        match verdict {
            Ok(()) => Self::Passed,
            Err(Fault::Skip(why)) => Self::Skipped(why),
            Err(Fault::Broken(how)) => {
                let is_it = |deviation: &&Deviation| deviation.case == name && how.contains(deviation.sign);
                match known.iter().find(is_it) {
                    Some(deviation) => Self::Deviation(deviation.why.to_owned()),
                    None => Self::Failed(how),
                }
            }
        }
    }
}
