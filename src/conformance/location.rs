//! File system features that the snapshotter's location may lack; cases that need a missing feature are skipped.
//!
//! Each feature is tried in a snapshot made for that purpose; kernel versions are not checked.
//!
//! # References
//! `xattr(7)`; `mknod(2)`; `user_namespaces(7)`.

use crate::error::{ErrorKind, Result};
use crate::tree::{Device, Dir, FileType};

const NO_USER_ATTRIBUTES: &str =
    "files have no user attributes on this file system, such as a tmpfs before Linux 6.6 (xattr(7))";
const NO_TRUSTED_ATTRIBUTES: &str = "there are no trusted attributes in a user namespace (xattr(7))";
pub(super) const NO_DEVICES: &str = "devices are not made in a user namespace (user_namespaces(7))";

/// Features of the location that holds the snapshots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Features {
    user_attributes: bool,
    trusted_attributes: bool,
    devices: bool,
}

impl Features {
    /// All features.
    pub const WHOLE: Self = Self { user_attributes: true, trusted_attributes: true, devices: true };

    /// Tries each feature in the tree at `root`; some of the tries leave files or attributes there.
    pub fn try_out(root: &Dir) -> Result<Self> {
        let null = Device { major: 1, minor: 3 };
        Ok(Self {
            user_attributes: holds(root.set_xattr("", b"user.strata", b"tried"))?,
            trusted_attributes: holds(root.set_xattr("", b"trusted.strata", b"tried"))?,
            devices: holds(root.make_node(FileType::Char, null, "device"))?,
        })
    }

    /// Returns the reason why these lines of a layer or a script cannot be performed here, or `None` if they can.
    pub fn lacks<'a>(&self, lines: impl IntoIterator<Item = &'a str>) -> Option<&'static str> {
        lines.into_iter().find_map(|line| {
            let needs = [
                (self.user_attributes, line.contains("user."), NO_USER_ATTRIBUTES),
                (self.trusted_attributes, line.contains("trusted."), NO_TRUSTED_ATTRIBUTES),
                (self.devices, names_device(line), NO_DEVICES),
            ];
            needs.into_iter().find(|(held, needed, _)| *needed && !held).map(|(_, _, why)| why)
        })
    }
}

/// Returns true if the call succeeded, false if the location does not support it, and other errors as errors.
fn holds(answer: Result<()>) -> Result<bool> {
    match answer {
        Err(error) if matches!(error.kind(), ErrorKind::Unsupported | ErrorKind::PermissionDenied) => Ok(false),
        answer => answer.map(|()| true),
    }
}

/// Returns true if a line of a layer (`c null dev=1:3`) or of a script (`mknod null c 1:3`) creates a device.
fn names_device(line: &str) -> bool {
    line.contains(" dev=") || (line.contains("mknod ") && (line.contains(" c ") || line.contains(" b ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_place_lacks_is_found_in_lines() {
        let nowhere = Features { user_attributes: false, trusted_attributes: false, devices: false };
        let lines = [
            ("f a \"x\" user.a=b", Some(NO_USER_ATTRIBUTES)),
            ("f a \"x\" pax:LIBARCHIVE.xattr.user.a%20b=eA==", Some(NO_USER_ATTRIBUTES)),
            ("in k at 7.000000000: setfattr trusted.c x a", Some(NO_TRUSTED_ATTRIBUTES)),
            ("c null dev=1:3", Some(NO_DEVICES)),
            ("in k at 7.000000000: mknod a/b b 8:1", Some(NO_DEVICES)),
            ("in k at 7.000000000: mknod a p 0:0", None),
            ("p a", None),
        ];
        for (line, expected) in lines {
            assert_eq!(nowhere.lacks([line]), expected, "{line}");
            assert_eq!(Features::WHOLE.lacks([line]), None, "{line}");
        }
    }
}
