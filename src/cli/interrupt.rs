//! Stopping a command: the first SIGINT or SIGTERM asks it to stop, the second one kills it.
//!
//! The signals are blocked in every thread and waited for in one, so that no code runs inside a signal handler. Work
//! that does not check for the request (a copy of a large tree, a read from a silent pipe) is ended when [`GRACE`] is
//! over, as by a crash; the next change of the store recovers. A command without an [`Interrupt`] keeps the default
//! action.
//!
//! # References
//! `sigwait(3)`, `signal(7)`.

use std::io::{self, Write as _};
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal, raise};

use super::session::Session;
use super::{FAILED, output, stderr_is_terminal};
use crate::error::{Error, ErrorKind, Result};
use crate::task::Cancel;

/// Time that the command gets to stop: less than supervisors wait before they kill.
const GRACE: Duration = Duration::from_secs(5);

/// The request to stop the command, made by a signal.
#[derive(Clone, Debug)]
pub(super) struct Interrupt(Cancel);

impl Interrupt {
    /// Takes over both signals. Call it before any other thread is started, because threads inherit blocked signals.
    pub fn watch(session: &Session) -> Result<Self> {
        let signals: SigSet = [Signal::SIGINT, Signal::SIGTERM].into_iter().collect();
        let failed = |error: io::Error| Error::new(ErrorKind::Io, "watching for signals").with_source(error);
        signals.thread_block().map_err(|errno| failed(errno.into()))?;
        let asked = Cancel::default();
        let seen = Self(asked.clone());
        let json = session.output.is_json();
        let wait = move || {
            if signals.wait().is_ok() {
                asked.request();
                tell();
                // If the thread cannot be started, a second signal still ends the process.
                let _ = thread("grace", move || end_after_grace(json));
            }
            if let Ok(signal) = signals.wait() {
                // The signal's action is the default one: once it is unblocked here, it ends the process.
                let _ = signals.thread_unblock();
                let _ = raise(signal);
            }
        };
        thread("signals", wait).map_err(failed)?;
        Ok(seen)
    }

    /// Returns the request to stop, for work that checks it.
    pub fn cancel(&self) -> &Cancel {
        &self.0
    }

    /// Returns true if the command should stop.
    pub fn asked(&self) -> bool {
        self.0.is_requested()
    }

    /// Fails with `Cancelled` once the command should stop.
    pub fn check(&self) -> Result<()> {
        self.0.check()
    }
}

fn thread(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    std::thread::Builder::new().name(name.to_owned()).spawn(work).map(drop)
}

fn end_after_grace(json: bool) {
    std::thread::sleep(GRACE);
    let message = format!(
        "interrupted, and the work did not stop within {} s: the next command that changes the store clears up behind it",
        GRACE.as_secs()
    );
    output::report(&[Error::new(ErrorKind::Cancelled, message)], json, false);
    std::process::exit(FAILED.into());
}

fn tell() {
    if stderr_is_terminal() {
        let _ = writeln!(io::stderr(), "strata: stopping; a second signal stops at once");
    }
}
