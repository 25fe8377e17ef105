//! Known deviations of strategies from a plain file system, with reasons.

use super::case::Deviation;
use crate::mount::Mount;

/// Deviations of overlayfs as mounted for containers: without `redirect_dir`, `index` and `metacopy`.
const OVERLAY: [Deviation; 5] = [
    Deviation {
        case: "content/mapping-sees-later-writes",
        sign: "what the mapping shows",
        why: "a mapping that was made before the file was copied up goes on showing the lower file (overlayfs.rst, \
              Non-standard behavior)",
    },
    Deviation {
        case: "content/lower-directory-is-renamed",
        sign: "Invalid cross-device link",
        why: "EXDEV: a directory of a lower layer is not moved without redirect_dir, whose state no layer can carry; \
              mv copies (overlayfs.rst, redirect_dir)",
    },
    Deviation {
        case: "content/hard-links-are-one-file",
        sign: "by the other name",
        why: "copying up splits hard links of a lower layer without index, whose state no layer can carry (overlayfs.rst, \
              Index)",
    },
    Deviation {
        case: "content/hard-link-count-falls",
        sign: "names: 2 and not 1",
        why: "the number of names is that of the lower file without index (overlayfs.rst, Index)",
    },
    Deviation {
        case: "content/renaming-one-link-to-the-other",
        sign: "pair-a is gone",
        why: "hard links of a lower layer are files of their own once they are touched, without index (overlayfs.rst, \
              Index)",
    },
];

/// Additional deviations of overlayfs that is mounted in a user namespace.
const OF_USERS: [Deviation; 1] = [Deviation {
    case: "content/new-hard-links-are-one-file",
    sign: "the inode: ",
    why: "a file gets another inode number when it is copied up and linked: who may not open files by handle has no origins \
          looked up (overlayfs.rst, Inode properties)",
}];

/// Returns the known deviations of a snapshotter that returns such a mount.
pub(super) fn of(mount: &Mount) -> Vec<Deviation> {
    match mount {
        Mount::Overlay { userxattr: true, .. } => [&OVERLAY[..], &OF_USERS].concat(),
        _ if mount.fstype() == "overlay" => OVERLAY.to_vec(),
        _ => Vec::new(),
    }
}

/// Returns all known deviations.
#[cfg(test)]
pub(super) fn all() -> impl Iterator<Item = Deviation> {
    OVERLAY.into_iter().chain(OF_USERS)
}
