//! A backend that fails or kills the process at the n-th call, for tests of code that uses a backend.
//!
//! [`Faulty`] forwards every method to another backend and counts the calls. At the chosen call it does what a full
//! disk, a broken disk or a power cut would do. Run a script once with [`Fault::NONE`] to count its calls, then once
//! for each call, before and after it, and check the resulting state.
//!
//! Every method of [`Backend`] that can fail counts as one call. Calls are numbered from 1 in the order in which they
//! begin, over all threads.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{Backend, Capabilities, Chain, Survey, Usage};
use crate::changeset::{Candidates, Layer};
use crate::error::{Error, ErrorKind, Result};
use crate::id::Id;
use crate::mount::{Access, Mount};

/// Time of a [`Fault`] relative to the work of the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum When {
    /// Before the work: nothing was done.
    Before,
    /// After the work: everything was done, but the caller gets no result. Also strikes if the work failed.
    After,
}

/// Effect of a [`Fault`].
#[derive(Clone, Copy, Debug)]
pub enum Action {
    /// The call returns an error of kind `Io`.
    Fail,
    /// The function is called, which should end the process: `std::process::abort` in a child that the test started. If
    /// it returns, the call continues as if there were no fault.
    Die(fn()),
}

/// A fault: the call that it strikes, and its effect.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    /// Number of the call, from 1; 0 for no call.
    pub at_call: u64,
    /// Time relative to the work of the call.
    pub when: When,
    /// Effect of the fault.
    pub action: Action,
}

impl Fault {
    /// No fault.
    pub const NONE: Self = Self { at_call: 0, when: When::Before, action: Action::Fail };
}

/// A backend with one fault.
#[derive(Debug)]
pub struct Faulty {
    inner: Box<dyn Backend>,
    fault: Fault,
    calls: Arc<AtomicU64>,
}

impl Faulty {
    /// Wraps `inner` with `fault`.
    pub fn new(inner: Box<dyn Backend>, fault: Fault) -> Self {
        Self { inner, fault, calls: Arc::default() }
    }

    /// Returns the counter of calls, which keeps counting after the backend was moved.
    pub fn calls(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.calls)
    }

    fn call<T>(&self, method: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let number = self.calls.fetch_add(1, Ordering::SeqCst) + 1;
        if number != self.fault.at_call {
            return work();
        }
        if self.fault.when == When::Before {
            self.strike(method)?;
            return work();
        }
        let answer = work();
        self.strike(method)?;
        answer
    }

    fn strike(&self, method: &str) -> Result<()> {
        let Fault { at_call, when, action } = self.fault;
        match action {
            Action::Fail => {
                let side = if when == When::Before { "before" } else { "after" };
                Err(Error::new(
                    ErrorKind::Io,
                    format!("a fault was put {side} call {at_call} of the backend, {method}"),
                ))
            }
            Action::Die(die) => {
                die();
                Ok(())
            }
        }
    }
}

#[deny(clippy::missing_trait_methods, reason = "a default would go by the backend inside")]
impl Backend for Faulty {
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    fn create(&self, id: Id, parents: &Chain) -> Result<()> {
        self.call("create", || self.inner.create(id, parents))
    }

    fn complete_create(&self, id: Id, parents: &Chain) -> Result<()> {
        self.call("complete_create", || self.inner.complete_create(id, parents))
    }

    fn mounts(&self, stack: &Chain, access: Access) -> Result<Vec<Mount>> {
        self.call("mounts", || self.inner.mounts(stack, access))
    }

    fn seal(&self, active: Id, sealed: Id) -> Result<()> {
        self.call("seal", || self.inner.seal(active, sealed))
    }

    fn remove(&self, id: Id) -> Result<()> {
        self.call("remove", || self.inner.remove(id))
    }

    fn remove_until(&self, id: Id, stop: &dyn Fn() -> bool) -> Result<bool> {
        self.call("remove_until", || self.inner.remove_until(id, stop))
    }

    fn usage(&self, id: Id, parents: &Chain) -> Result<Usage> {
        self.call("usage", || self.inner.usage(id, parents))
    }

    fn survey(&self, id: Id, parents: &Chain) -> Result<Survey> {
        self.call("survey", || self.inner.survey(id, parents))
    }

    fn inventory(&self) -> Result<Vec<Id>> {
        self.call("inventory", || self.inner.inventory())
    }

    fn layer(&self, id: Id) -> Option<Layer> {
        self.inner.layer(id)
    }

    fn candidates(&self, id: Id, parent: Id) -> Result<Candidates> {
        self.call("candidates", || self.inner.candidates(id, parent))
    }
}

#[cfg(test)]
mod tests;
