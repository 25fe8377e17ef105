//! Threads that work beside the writer of a blob.

use std::thread::{Builder, JoinHandle};

use crate::error::{Context, Result};

/// Starts a thread called `name` that does `work`.
///
/// # Errors
/// `ResourceExhausted` if the system has no room for another thread.
pub(super) fn start<T: Send + 'static>(name: &str, work: impl FnOnce() -> T + Send + 'static) -> Result<JoinHandle<T>> {
    Builder::new().name(name.to_owned()).spawn(work).at("start a thread", name)
}
