//! Commits a layer under its ChainID, while other processes may commit the same layer.

use std::thread;
use std::time::{Duration, Instant};

use crate::error::{Error, ErrorKind, Result};
use crate::id::{ChainId, DiffId};
use crate::snapshotter::Labels;
use crate::store::{CommitOptions, Flush, Held, Origin, Store};
use crate::task::Cancel;

/// Maximum time to wait for another process that has reserved the ChainID. After the reservation only a walk of the
/// layer is left to do.
const RIVAL_WAIT: Duration = Duration::from_secs(120);

/// Time between two looks at the reservation of another process.
const RIVAL_POLL: Duration = Duration::from_millis(20);

/// A layer and the layers below it. Together they determine the ChainID, which names the snapshot of the layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerName {
    /// ChainID of the parent; `None` for the lowest layer.
    pub parent: Option<ChainId>,
    /// DiffID of the layer.
    pub diff_id: DiffId,
}

impl LayerName {
    /// Returns the ChainID: the name of the committed snapshot.
    pub fn chain_id(&self) -> ChainId {
        match self.parent {
            None => ChainId::base(self.diff_id),
            Some(parent) => parent.push(self.diff_id),
        }
    }
}

/// Returns true if `store` has the layer as a committed snapshot. The snapshot then stays until this process ends or
/// names an image on top of it.
///
/// # Errors
/// `AlreadyExists` if the ChainID is the name of a snapshot that was not made from this layer; errors of the store.
pub fn is_present(store: &Store, layer: &LayerName) -> Result<bool> {
    let name = layer.chain_id().to_string();
    if store.hold_layer(&name)? != Held::Committed {
        return Ok(false);
    }
    if store.diff_id(&name)? == Some(layer.diff_id) {
        return Ok(true);
    }
    let diff_id = layer.diff_id;
    Err(Error::already_exists(format!("the snapshot {name} was not made from the layer {diff_id}: remove it first")))
}

/// Commits the active snapshot `key`, which holds `layer`, under the ChainID of `layer`. The snapshot is durable after
/// [`Store::sync`].
///
/// If another process has reserved the ChainID, this call waits. If the other process commits the layer, `key` is
/// removed; if the other process fails, `key` is committed.
///
/// # Errors
/// As [`is_present`] and [`Store::commit_with`]; `Cancelled`. After an error `key` stays active.
pub fn commit_layer(store: &Store, key: &str, layer: &LayerName, labels: &Labels, cancel: &Cancel) -> Result<()> {
    let name = layer.chain_id().to_string();
    let options = CommitOptions { flush: Flush::Later, origin: Origin::Image, diff_id: Some(layer.diff_id) };
    let started = Instant::now();
    loop {
        match store.commit_with(&name, key, labels, options) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists && started.elapsed() < RIVAL_WAIT => {}
            done => return done,
        }
        if is_present(store, layer)? {
            return store.take_back(key);
        }
        cancel.check()?;
        thread::sleep(RIVAL_POLL);
    }
}
