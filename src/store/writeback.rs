//! Having the disk begin before it is waited for.
//!
//! The kernel leaves what is written in memory for half a minute; a `syncfs` at the end of a large import then waits
//! for all of it. One that is made every now and then, beside the work, leaves little to the last one.
//!
//! It goes through a descriptor of its own: the kernel tells each descriptor of an error that it met, and the one that
//! matters is the last sync's.

use std::cell::Cell;
use std::os::fd::AsFd as _;
use std::sync::mpsc::sync_channel;
use std::thread;

use super::{Flush, Store};
use crate::error::{Context, Result};
use crate::tree::Dir;

/// How much is written between one and the next: what a disk of this decade takes within a second.
const STEP_BYTES: u64 = 128 << 20;

impl Store {
    /// Does `work`, which tells how many bytes it writes, and has them written back meanwhile. It makes nothing
    /// durable: [`Store::sync`] does. Nothing is written back for a store that does not wait for the disk.
    ///
    /// # Errors
    /// `ResourceExhausted` if no thread can be started; what `work` reports.
    pub fn writing_back<T>(&self, work: impl FnOnce(&dyn Fn(u64)) -> Result<T>) -> Result<T> {
        if !self.waits(Flush::Now) {
            return work(&|_| {});
        }
        let root = Dir::open(&self.root)?;
        thread::scope(|scope| {
            let (wake, woken) = sync_channel(0);
            let write_back = move || {
                for () in woken {
                    // The sync in earnest is told of the same error, unless this process ends before.
                    if rustix::fs::syncfs(root.as_fd()).is_err() {
                        let _ = self.note_lost_writes();
                    }
                }
            };
            let started = thread::Builder::new().name("write back".into()).spawn_scoped(scope, write_back);
            started.at("start a thread for", "writing back")?;
            let written = Cell::new(0);
            work(&move |bytes| {
                written.set(written.get() + bytes);
                // Not while one is under way.
                if written.get() >= STEP_BYTES && wake.try_send(()).is_ok() {
                    written.set(0);
                }
            })
        })
    }
}
