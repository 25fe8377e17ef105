//! A test case: its name, its source, the meaning of a failure, and its outcome.

use rustix::io::Errno;

use crate::error::Error;
use crate::tree::NOT_MAPPED;

/// One promise, and the function that checks it.
#[derive(Debug)]
pub(super) struct Promise<F> {
    /// Name in the group.
    pub name: &'static str,
    /// Source of the promise: a specification, a case of containerd's suite, an issue, or a kernel document.
    pub source: &'static str,
    /// Consequence for a user if the promise is broken.
    pub meaning: &'static str,
    /// Checks the promise.
    pub run: F,
}

/// Outcome of a case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The promise is kept.
    Passed,
    /// The case could not run here, for the given reason.
    Skipped(String),
    /// The promise is broken in a known way, for the given reason.
    Deviation(String),
    /// The promise is broken, as the text says.
    Failed(String),
}

/// A known deviation of a strategy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deviation {
    /// Name of the case, `group/name`.
    pub case: &'static str,
    /// Text that the failure contains if it is this deviation, and not a worse failure.
    pub sign: &'static str,
    /// Reason, and where it is documented.
    pub why: &'static str,
}

/// Reason why a case ended early.
#[derive(Debug)]
pub(super) enum Fault {
    Skip(String),
    Broken(String),
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        let chain = error.chain();
        // An ID without a mapping in the user namespace is not the snapshotter's fault.
        let beyond = chain.contains(NOT_MAPPED);
        if beyond { Self::Skip(chain) } else { Self::Broken(format!("{}: {chain}", error.kind())) }
    }
}

pub(super) type Verdict<T = ()> = std::result::Result<T, Fault>;

/// Returns `Fault::Broken` with the text of `how` unless `kept` is true.
pub(super) fn ensure(kept: bool, how: impl FnOnce() -> String) -> Verdict {
    if kept { Ok(()) } else { Err(Fault::Broken(how())) }
}

/// Checks that the system call that does `what` failed with `errno`.
pub(super) fn refuses<T>(what: &str, answer: std::result::Result<T, Errno>, errno: Errno) -> Verdict {
    match answer {
        Ok(_) => Err(Fault::Broken(format!("{what} succeeded, and must fail: {errno}"))),
        Err(found) => ensure(found == errno, || format!("{what} failed: {found}; and not: {errno}")),
    }
}

impl Outcome {
    /// Returns the outcome of the case `name` with that verdict, given the `known` deviations.
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
