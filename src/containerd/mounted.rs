//! The snapshot that the mounts of a request show.
//!
//! A client may spell the mounts that it was given in its own way: BuildKit replaces `redirect_dir`, adds a second
//! `ro`, or turns a writable overlay into one of lower directories only; containerd adds `uidmap` and `gidmap`. So the
//! directories decide, in their order: the upper and lower ones of an overlay, the source of a bind. No other option
//! changes which layers are seen, and none is looked at.
//!
//! Mounts of other snapshotters are `Unsupported`, upon which containerd asks its next differ. It does so for that code
//! only. Mounts that lie in the store but show none of its snapshots are `FailedPrecondition`: another differ would
//! write into the store by rules of its own.
//!
//! # References
//! containerd, `core/mount`, `plugins/services/diff/local.go`; BuildKit, `snapshot/snapshotter.go`; kernel document
//! `filesystems/overlayfs.rst`.

use std::path::{Path, PathBuf};

use super::proto::types;
use crate::error::{Error, Result};
use crate::snapshotter::{Info, Kind};
use crate::store::{Store, is_same};

/// The options of an overlay that hold paths.
const PATHS: [&str; 5] = ["lowerdir=", "lowerdir+=", "upperdir=", "workdir=", "datadir+="];

/// The longest sources and options of a request's mounts together, in bytes. An overlay has at most 500 layers, and
/// every path is looked up on the machine.
const MOUNTS_BYTES_MAX: usize = 1 << 20;

/// The directories that mounts show.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stack {
    /// The directories, the topmost first; at least one.
    layers: Vec<PathBuf>,
    writable: bool,
}

/// The active snapshot that `mounts` let a client write to.
///
/// # Errors
/// `Unsupported` for mounts of others; `FailedPrecondition` for mounts that lie in the store and let nobody write to an
/// active snapshot; `InvalidArgument` for mounts longer than [`MOUNTS_BYTES_MAX`].
pub(super) fn written(store: &Store, mounts: &[types::Mount]) -> Result<Info> {
    let (info, writable) = find(store, mounts)?;
    let name = &info.name;
    match (info.kind, writable) {
        (Kind::Active, true) => Ok(info),
        (Kind::Active, false) => Err(Error::precondition(format!("the mounts of {name:?} are read-only"))),
        (kind, _) => Err(Error::precondition(format!("{name:?} is {}, not active", kind.phrase()))),
    }
}

/// The snapshot that `mounts` show; the committed one where they are those of a view of it.
///
/// # Errors
/// `Unsupported` for mounts of others; `FailedPrecondition` for mounts that lie in the store and show none of its
/// snapshots; `InvalidArgument` for mounts longer than [`MOUNTS_BYTES_MAX`].
pub(super) fn shown(store: &Store, mounts: &[types::Mount]) -> Result<Info> {
    find(store, mounts).map(|(info, _)| info)
}

fn find(store: &Store, mounts: &[types::Mount]) -> Result<(Info, bool)> {
    check_length(mounts)?;
    if let Some(Stack { layers, writable }) = stack(mounts)
        && let Some(located) = store.at_directory(&layers[0])?
        && let [mount] = &located.mounts[..]
        && are_same(&mount.layers(), &layers)
    {
        return Ok((located.info, writable));
    }
    let named = mounts.iter().flat_map(paths).find(|path| store.contains(path));
    Err(match named {
        Some(path) => Error::precondition(format!(
            "the mounts lie in the store of strata ({}), and show no snapshot of {} as it is",
            path.display(),
            store.owner()
        )),
        None => {
            let source = mounts.first().map_or("none", |mount| mount.source.as_str());
            Error::unsupported(format!("the mounts ({source}) are not those of a snapshot of strata's"))
        }
    })
}

fn check_length(mounts: &[types::Mount]) -> Result<()> {
    let length = |mount: &types::Mount| mount.source.len() + mount.options.iter().map(String::len).sum::<usize>();
    if mounts.iter().map(length).sum::<usize>() <= MOUNTS_BYTES_MAX {
        return Ok(());
    }
    Err(Error::invalid(format!("the mounts of the request are longer than {MOUNTS_BYTES_MAX} bytes")))
}

fn are_same(known: &[&Path], named: &[PathBuf]) -> bool {
    known.len() == named.len() && known.iter().zip(named).all(|(known, named)| is_same(known, named))
}

/// The directories that `mounts` show. `None` if the mounts are neither one overlay nor one bind, or if their options
/// contradict each other.
fn stack(mounts: &[types::Mount]) -> Option<Stack> {
    let [mount] = mounts else { return None };
    if !matches!(mount.target.as_str(), "" | "/") {
        return None;
    }
    let read_only = mount.options.iter().flat_map(|option| option.split(',')).any(|option| option == "ro");
    match mount.r#type.as_str() {
        "overlay" => overlay(&mount.options).map(|(layers, upper)| Stack { layers, writable: upper && !read_only }),
        _ if is_bind(mount) => Some(Stack { layers: vec![mount.source.clone().into()], writable: !read_only }),
        _ => None,
    }
}

fn is_bind(mount: &types::Mount) -> bool {
    mount.r#type == "bind" || mount.options.iter().any(|option| option == "bind" || option == "rbind")
}

/// The directories of an overlay, the topmost first, and whether the first one is an upper.
fn overlay(options: &[String]) -> Option<(Vec<PathBuf>, bool)> {
    let (mut upper, mut lower, mut more): (Option<PathBuf>, Option<Vec<PathBuf>>, Vec<PathBuf>) = Default::default();
    for (name, value) in options.iter().filter_map(|option| path_option(option)) {
        match name {
            "upperdir=" => set(&mut upper, unescaped(value))?,
            "lowerdir=" => set(&mut lower, split(value))?,
            "lowerdir+=" => more.push(value.into()),
            // Files of such a layer are seen through those of others.
            "datadir+=" => return None,
            _ => {}
        }
    }
    let is_upper = upper.is_some();
    let layers: Vec<PathBuf> = upper.into_iter().chain(lower.unwrap_or_default()).chain(more).collect();
    let whole = !layers.is_empty() && layers.iter().all(|layer| !layer.as_os_str().is_empty());
    whole.then_some((layers, is_upper))
}

/// Sets what an option says; `None` if it was said before, and otherwise.
fn set<T: PartialEq>(slot: &mut Option<T>, value: T) -> Option<()> {
    if slot.as_ref().is_some_and(|before| *before != value) {
        return None;
    }
    *slot = Some(value);
    Some(())
}

/// The option of a path in `option`, which may have others in front of it, and its value.
fn path_option(option: &str) -> Option<(&'static str, &str)> {
    let mut rest = option;
    loop {
        if let Some(found) = PATHS.iter().find_map(|name| rest.strip_prefix(name).map(|value| (*name, value))) {
            return Some(found);
        }
        (_, rest) = rest.split_once(',')?;
    }
}

/// The parts of `a:b`, in which a backslash stands before a colon or backslash of a name.
fn split(value: &str) -> Vec<PathBuf> {
    let (mut parts, mut part, mut escaped) = (Vec::new(), String::new(), false);
    for letter in value.chars() {
        match letter {
            '\\' if !escaped => escaped = true,
            ':' if !escaped => parts.push(std::mem::take(&mut part).into()),
            letter => {
                part.push(letter);
                escaped = false;
            }
        }
    }
    parts.push(part.into());
    parts
}

fn unescaped(value: &str) -> PathBuf {
    split(&value.replace(':', "\\:")).swap_remove(0)
}

/// Every path that `mount` names.
fn paths(mount: &types::Mount) -> Vec<PathBuf> {
    let source = Some(PathBuf::from(&mount.source)).filter(|source| source.is_absolute());
    let values = mount.options.iter().flat_map(|option| option.split([',', ':', '=']));
    source.into_iter().chain(values.map(PathBuf::from).filter(|path| path.is_absolute())).collect()
}

#[cfg(test)]
mod tests;
