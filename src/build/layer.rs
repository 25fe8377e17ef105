//! Makes layers of images from the changes of snapshots.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::copy::clamped;
use crate::changeset::Change;
use crate::changeset::blob::Blob;
use crate::changeset::tar::MtimePrecision;
use crate::door::{EmitOptions, Encoding, emit};
use crate::door::{LayerName, commit_layer};
use crate::error::{Error, ErrorKind, Result};
use crate::id::{ChainId, DiffId};
use crate::mount;
use crate::snapshotter::{Labels, Snapshotter as _};
use crate::store::{CachedStep, Store};
use crate::task::Cancel;
use crate::tree::{Dir, Timestamp};

/// The length of a layer without an entry: the two blocks of zeros that end an archive.
const EMPTY_BYTES: u64 = 1024;

/// Returns the DiffID and the length in bytes of the active snapshot `key` as a layer; `None` if it has no changes.
pub(super) fn write_layer(store: &Store, key: &str, cancel: &Cancel) -> Result<Option<(DiffId, u64)>> {
    let encoding = Encoding::Canonical(MtimePrecision::Nanoseconds);
    let options = EmitOptions { encoding, cancel: cancel.clone(), ..EmitOptions::default() };
    let Blob { diff_id, plain_bytes, .. } = emit(store, key, &options, &mut io::sink())?;
    Ok((plain_bytes > EMPTY_BYTES).then_some((diff_id, plain_bytes)))
}

/// Sets to `epoch` the time of each changed file in the active snapshot `key` that has a later time.
pub(super) fn clamp(store: &Store, key: &str, epoch: i64) -> Result<()> {
    let latest = Timestamp { seconds: epoch, nanos: 0 };
    let mut late: Vec<PathBuf> = Vec::new();
    store.changes(key, None, &mut |change: &Change, _: &mut dyn Read| {
        if let Change::Put { path, meta, .. } = change
            && clamped(meta.mtime, Some(epoch)) != meta.mtime
        {
            late.push(path.clone());
        }
        Ok(())
    })?;
    let claim = store.claim(key, &format!("cannot set times in {key:?}"))?;
    let root = Dir::from_fd(mount::detached(claim.mounts())?, key);
    for path in late {
        let (above, name) = (path.parent().unwrap_or(Path::new("")), path.file_name().unwrap_or_default());
        root.open_beneath(above)?.set_mtime(name, latest)?;
    }
    Ok(())
}

/// Commits the active snapshot `key` as a layer on top of `below`, or removes the snapshot if it has no changes. The
/// key is free afterwards; a failure leaves the snapshot as it was.
pub(super) fn commit(store: &Store, key: &str, below: Option<&str>, cancel: &Cancel) -> Result<CachedStep> {
    let layer = write_layer(store, key, cancel)?;
    let Some((diff_id, _)) = layer else {
        store.take_back(key)?;
        return Ok(CachedStep { top: below.map(str::to_owned), layer: None });
    };
    let parent = below.map(str::parse).transpose()?.map(ChainId);
    let name = LayerName { parent, diff_id };
    commit_layer(store, key, &name, &Labels::new(), cancel)?;
    Ok(CachedStep { top: Some(name.chain_id().to_string()), layer })
}

/// Returns the first `most` paths that the committed snapshot `key` changed, each with `A`, `M` or `D`.
pub(super) fn first_changes(store: &Store, key: &str, most: usize) -> Result<Vec<(char, PathBuf)>> {
    let mut found = Vec::new();
    let enough = || Error::new(ErrorKind::Cancelled, "enough");
    let listed = store.changes(key, None, &mut |change: &Change, _: &mut dyn Read| {
        if found.len() == most {
            return Err(enough());
        }
        let letter = match change {
            Change::Put { existed: false, .. } | Change::Link { existed: false, .. } => 'A',
            Change::Put { .. } | Change::Link { .. } | Change::Opaque { .. } => 'M',
            Change::Remove { .. } => 'D',
        };
        found.push((letter, change.path().to_owned()));
        Ok(())
    });
    match listed {
        Err(error) if found.len() < most || error.kind() != ErrorKind::Cancelled => Err(error),
        _ => Ok(found),
    }
}

#[cfg(test)]
mod tests;
