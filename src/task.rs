//! Stopping a task from outside.
//!
//! A task that takes long gets a [`Cancel`] and checks it between its pieces of work. The command line requests the
//! stop after a signal, the daemon when the client of a call has gone.

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Error, ErrorKind, Result};

/// A request to stop a task. Clones share the request; the default is one that nobody makes.
#[derive(Clone, Debug, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// Asks the task to stop.
    pub fn request(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Returns true once somebody asked the task to stop.
    pub fn is_requested(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Returns a guard that asks the task to stop when it is dropped: the caller keeps it for as long as it waits.
    pub fn on_drop(&self) -> impl Drop + use<> {
        struct OnDrop(Cancel);
        impl Drop for OnDrop {
            fn drop(&mut self) {
                self.0.request();
            }
        }
        OnDrop(self.clone())
    }

    /// Fails once somebody asked the task to stop.
    ///
    /// # Errors
    /// `Cancelled`.
    pub fn check(&self) -> Result<()> {
        if self.is_requested() { Err(Error::new(ErrorKind::Cancelled, "interrupted")) } else { Ok(()) }
    }
}

/// A reader or writer that fails with `Cancelled` once its task should stop.
#[derive(Debug)]
pub struct Cancellable<T> {
    inner: T,
    cancel: Cancel,
}

impl<T> Cancellable<T> {
    /// Wraps `inner` for the task that `cancel` stops.
    pub fn new(inner: T, cancel: &Cancel) -> Self {
        Self { inner, cancel: cancel.clone() }
    }
}

impl<T: Read> Read for Cancellable<T> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.cancel.check()?;
        self.inner.read(buffer)
    }
}

impl<T: Write> Write for Cancellable<T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.cancel.check()?;
        self.inner.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clones_share_a_request() {
        let cancel = Cancel::default();
        let (clone, other) = (cancel.clone(), Cancel::default());
        let mut reader = Cancellable::new(&b"bytes"[..], &cancel);
        let mut buffer = [0; 2];
        assert_eq!(reader.read(&mut buffer).expect("read"), 2);
        clone.request();
        assert_eq!(cancel.check().expect_err("requested").kind(), ErrorKind::Cancelled);
        assert!(reader.read(&mut buffer).is_err());
        let mut written = Vec::new();
        assert!(Cancellable::new(&mut written, &cancel).write(b"x").is_err());
        assert!(!other.is_requested());
        let guard = other.on_drop();
        assert!(!other.is_requested());
        drop(guard);
        assert!(other.is_requested());
    }
}
