//! Mounts that show the owners of files translated (idmapped mounts).
//!
//! The kernel translates for single mounts only, and for no overlay as a whole. So the layers of an overlay are bound,
//! detached, with the translation, and the overlay is made of those.
//!
//! # References
//! `mount_setattr(2)`, `MOUNT_ATTR_IDMAP`, Linux 5.12; overlays of such layers: Linux 5.19.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::{OpenTreeFlags, open_tree};

use super::description::Overlay;
use super::legacy::{self, Layer};
use super::options::Attributes;
use super::{change, check_writable, explain};
use crate::error::{Context, Error, Result};
use crate::mount::{Access, IdMap, MappedPart, Mount};
use crate::sys;

/// Creates `mount`, detached, with the ids of `part` translated.
///
/// # Errors
/// `FailedPrecondition` if the kernel, the file system or this user cannot translate ids; as the mount without it.
pub(super) fn make(mount: &Mount, ids: &IdMap, part: MappedPart) -> Result<OwnedFd> {
    let namespace = namespace(ids)?;
    match (mount, part) {
        (Mount::Bind { source, access }, MappedPart::Lower) => {
            let mount = bound(source, &namespace)?;
            change(&mount, &Attributes::of(*access), source)?;
            if *access == Access::ReadWrite {
                let why = || Error::precondition(format!("bind {}: it is read-only", source.display()));
                check_writable(&mount, why)?;
            }
            Ok(mount)
        }
        (Mount::Overlay { lower, upper, userxattr }, part) => {
            let overlay = Overlay::own(lower, upper.as_ref(), *userxattr);
            overlay.check()?;
            let mount = legacy::make_of(&overlay, &layers(lower, part, &namespace)?)?;
            if let Some(upper) = upper {
                check_writable(&mount, || explain::read_only(upper))?;
            }
            Ok(mount)
        }
        _ => Err(Error::invalid("the ids of such a mount cannot be translated")),
    }
}

/// Returns a user namespace with the ids of `ids`.
fn namespace(ids: &IdMap) -> Result<OwnedFd> {
    let [uids, gids] = ids.proc_files();
    sys::process::user_namespace(uids.as_bytes(), gids.as_bytes()).map_err(|error| {
        Error::precondition(format!(
            "no user namespace with the ids {ids} can be made: user namespaces are turned off, or this user may not map \
             those ids"
        ))
        .with_source(error)
    })
}

/// The layers of an overlay, the topmost first.
fn layers(lower: &[PathBuf], part: MappedPart, namespace: &OwnedFd) -> Result<Vec<Layer>> {
    let plain = |path: &PathBuf| Layer::Path(path.clone());
    match (part, lower) {
        (MappedPart::Top, [top, others @ ..]) => {
            let top = Layer::Below { mount: bound(top, namespace)?, paths: vec![PathBuf::new()] };
            Ok([top].into_iter().chain(others.iter().map(plain)).collect())
        }
        // One mount for all layers of a store: a mount for each would cost more than the overlay.
        _ => {
            let parent = common_parent(lower)?;
            let below = |path: &PathBuf| path.strip_prefix(parent).unwrap_or(path).to_owned();
            Ok(vec![Layer::Below { mount: bound(parent, namespace)?, paths: lower.iter().map(below).collect() }])
        }
    }
}

/// The nearest directory that all `paths` lie in.
fn common_parent(paths: &[PathBuf]) -> Result<&Path> {
    let first = paths.first().ok_or_else(|| Error::invalid("an overlay mount needs a lower directory"))?;
    let mut parents = first.ancestors().skip(1);
    parents
        .find(|parent| paths.iter().all(|path| path.starts_with(parent)))
        .ok_or_else(|| Error::invalid(format!("{} and the other layers have no directory in common", first.display())))
}

/// Creates a detached bind mount of the directory `source` alone, with the ids of `namespace`.
fn bound(source: &Path, namespace: &OwnedFd) -> Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let mount = match open_tree(CWD, source, flags) {
        Err(Errno::PERM) => Err(Errno::PERM).at("bind (root is needed, or a user namespace: unshare -rm)", source)?,
        mount => mount.at("bind", source)?,
    };
    match sys::mount::set_id_map(mount.as_fd(), namespace.as_fd()) {
        Ok(()) => Ok(mount),
        Err(errno @ (Errno::INVAL | Errno::PERM | Errno::NOSYS | Errno::OPNOTSUPP)) => {
            Err(Error::precondition(format!(
                "the ids of files in {} cannot be translated: this needs Linux 5.12 or later, a file system that can \
                 (ext4, xfs, btrfs, tmpfs since Linux 6.3), and root outside of user namespaces",
                source.display()
            ))
            .with_source(errno))
        }
        Err(errno) => Err(errno).at("translate the ids of", source),
    }
}
