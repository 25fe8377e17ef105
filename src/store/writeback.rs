//! Early syncs, so that the last sync of an import finds little left to write.
//!
//! The kernel leaves written data in memory for half a minute, so a `syncfs` at the end of a large import waits for all
//! of it. A thread therefore calls `syncfs` after every [`STEP_BYTES`] of the import.
//!
//! The thread has a descriptor of its own. The kernel reports a write error once to each descriptor, and the descriptor
//! of the last sync has to get the report.

use std::cell::Cell;
use std::os::fd::AsFd as _;
use std::sync::mpsc::sync_channel;
use std::thread;

use super::{Flush, Store};
use crate::error::{Context, Result};
use crate::tree::Dir;

/// Bytes that are written between two early syncs: a disk of this decade takes them within a second.
const STEP_BYTES: u64 = 128 << 20;

impl Store {
    /// Calls `work`, which reports how many bytes it writes, and syncs the bytes early. They are durable only after
    /// [`Store::sync`]. A store that does not wait for the disk has no early syncs.
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
                    // The last sync gets the same error, but this process may end before it.
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
                // `try_send` fails while a sync is under way.
                if written.get() >= STEP_BYTES && wake.try_send(()).is_ok() {
                    written.set(0);
                }
            })
        })
    }
}
