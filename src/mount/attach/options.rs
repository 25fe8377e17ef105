//! Mounts of other snapshotters: translates options of `mount(8)` into calls of the mount API.
//!
//! # References
//! `mount(8)`, "filesystem-independent mount options"; containerd, `core/mount` (which options it turns into flags).

use std::path::{Path, PathBuf};

use linux_raw_sys::general::{
    MOUNT_ATTR__ATIME, MOUNT_ATTR_NOATIME, MOUNT_ATTR_NODEV, MOUNT_ATTR_NODIRATIME, MOUNT_ATTR_NOEXEC,
    MOUNT_ATTR_NOSUID, MOUNT_ATTR_NOSYMFOLLOW, MOUNT_ATTR_STRICTATIME,
};

use super::description::Overlay;
use crate::error::{Error, Result};
use crate::mount::{Access, Upper};

/// Attributes of a mount that do not depend on its file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Attributes {
    /// Access that the mount permits.
    pub(super) access: Access,
    /// `MOUNT_ATTR_*` flags to set.
    pub(super) set: u32,
    /// `MOUNT_ATTR_*` flags to clear first.
    pub(super) clear: u32,
}

impl Default for Attributes {
    fn default() -> Self {
        Self::of(Access::ReadWrite)
    }
}

impl Attributes {
    /// Returns attributes that only set the access.
    pub(super) fn of(access: Access) -> Self {
        Self { access, set: 0, clear: 0 }
    }

    /// Applies one option; returns `false` if it is not a mount attribute.
    fn take(&mut self, option: &str) -> bool {
        let (set, clear) = match option {
            "ro" => {
                self.access = Access::ReadOnly;
                (0, 0)
            }
            "rw" => {
                self.access = Access::ReadWrite;
                (0, 0)
            }
            "defaults" | "suid" | "dev" | "exec" | "async" | "atime" | "diratime" | "relatime" | "norelatime"
            | "nostrictatime" | "nomand" => (0, 0),
            "nosuid" => (MOUNT_ATTR_NOSUID, 0),
            "nodev" => (MOUNT_ATTR_NODEV, 0),
            "noexec" => (MOUNT_ATTR_NOEXEC, 0),
            "nosymfollow" => (MOUNT_ATTR_NOSYMFOLLOW, 0),
            "nodiratime" => (MOUNT_ATTR_NODIRATIME, 0),
            // The kinds of access time share one bit field, so the old value must be cleared.
            "noatime" => (MOUNT_ATTR_NOATIME, MOUNT_ATTR__ATIME),
            "strictatime" => (MOUNT_ATTR_STRICTATIME, MOUNT_ATTR__ATIME),
            _ => return false,
        };
        self.set = self.set & !clear | set;
        self.clear |= clear;
        true
    }
}

/// The way a mount is created.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Plan {
    /// As a bind mount.
    Bind { source: PathBuf, recursive: bool, attributes: Attributes },
    /// As an overlay.
    Overlay { overlay: Overlay, attributes: Attributes },
    /// As a new file system instance with these options.
    New { options: Vec<(String, Option<String>)>, attributes: Attributes },
}

/// Decides how the mount is created.
///
/// # Errors
/// `InvalidArgument` for an overlay without directories; `Unsupported` for options that do not create a new mount.
pub(super) fn parse(fstype: &str, source: &str, options: &[String]) -> Result<Plan> {
    let mut attributes = Attributes::default();
    let mut bind = (fstype == "bind").then_some(false);
    let mut own = Vec::new();
    for option in options.iter().flat_map(|list| split_unescaped(list, ',')) {
        match option.as_str() {
            "bind" => bind = bind.or(Some(false)),
            "rbind" => bind = Some(true),
            "remount" | "loop" | "move" => {
                return Err(Error::unsupported(format!("mount {source}: the option {option:?} is not supported")));
            }
            "" => {}
            // Options that start with `x-` are comments of other programs.
            note if note.starts_with("x-") || note.starts_with("X-") => {}
            option if attributes.take(option) => {}
            option => own.push(option.to_owned()),
        }
    }
    if let Some(recursive) = bind {
        return Ok(Plan::Bind { source: PathBuf::from(source), recursive, attributes });
    }
    if fstype == "overlay" {
        return Ok(Plan::Overlay { overlay: overlay(own)?, attributes });
    }
    let mut all = vec![("source".to_owned(), Some(source.to_owned()))];
    // The file system is made read-only too: a damaged or write-protected device cannot be mounted otherwise.
    all.extend((attributes.access == Access::ReadOnly).then(|| ("ro".to_owned(), None)));
    all.extend(own.into_iter().map(|option| match option.split_once('=') {
        Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
        None => (option, None),
    }));
    Ok(Plan::New { options: all, attributes })
}

fn overlay(options: Vec<String>) -> Result<Overlay> {
    let mut overlay = Overlay { lower: Vec::new(), upper: None, options: Vec::new() };
    let (mut dir, mut work) = (None, None);
    for option in options {
        match option.split_once('=') {
            Some(("lowerdir", list)) => {
                overlay.lower = split_unescaped(list, ':').iter().map(|path| unescape(path)).collect();
            }
            Some(("lowerdir+", path)) => overlay.lower.push(PathBuf::from(path)),
            Some(("upperdir", path)) => dir = Some(unescape(path)),
            Some(("workdir", path)) => work = Some(unescape(path)),
            _ => overlay.options.push(option),
        }
    }
    overlay.upper = match (dir, work) {
        (Some(dir), Some(work)) => Some(Upper { dir, work }),
        (None, _) => None,
        (Some(dir), None) => {
            return Err(Error::invalid(format!("the overlay of {} has no workdir", Path::new(&dir).display())));
        }
    };
    Ok(overlay)
}

/// Splits `list` at separators that are not escaped by a backslash; keeps the backslashes.
fn split_unescaped(list: &str, separator: char) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut escaped = false;
    for letter in list.chars() {
        match parts.last_mut() {
            Some(part) if escaped || letter != separator => part.push(letter),
            _ => parts.push(String::new()),
        }
        escaped = letter == '\\' && !escaped;
    }
    parts
}

/// Decodes a path of overlayfs, where a backslash escapes the next character.
fn unescape(path: &str) -> PathBuf {
    let mut plain = String::with_capacity(path.len());
    let mut letters = path.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '\\' => plain.extend(letters.next()),
            letter => plain.push(letter),
        }
    }
    PathBuf::from(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(list: &[&str]) -> Vec<String> {
        list.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn binds() {
        let plan = parse("bind", "/a", &options(&["rbind", "ro", "nosuid,nodev"])).expect("plan");
        let attributes = Attributes { access: Access::ReadOnly, set: MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV, clear: 0 };
        assert_eq!(plan, Plan::Bind { source: "/a".into(), recursive: true, attributes });
        let plan = parse("none", "/a", &options(&["bind"])).expect("plan");
        assert_eq!(plan, Plan::Bind { source: "/a".into(), recursive: false, attributes: Attributes::default() });
    }

    #[test]
    fn overlays() {
        let given =
            options(&["index=off", "workdir=/w", "upperdir=/u\\,1", "lowerdir=/a\\:b:/c", "userxattr", "noatime"]);
        let Plan::Overlay { overlay, attributes } = parse("overlay", "overlay", &given).expect("plan") else {
            panic!("no overlay");
        };
        assert_eq!(overlay.lower, [PathBuf::from("/a:b"), PathBuf::from("/c")]);
        assert_eq!(overlay.upper, Some(Upper { dir: "/u,1".into(), work: "/w".into() }));
        assert_eq!(overlay.options, ["index=off", "userxattr"]);
        assert_eq!((attributes.set, attributes.clear), (MOUNT_ATTR_NOATIME, MOUNT_ATTR__ATIME));
        assert!(parse("overlay", "overlay", &options(&["upperdir=/u", "lowerdir=/a"])).is_err());
    }

    #[test]
    fn file_systems() {
        let plan = parse("ext4", "/dev/x", &options(&["ro", "x-note", "data=journal", "acl"])).expect("plan");
        let Plan::New { options: given, attributes } = plan else { panic!("no file system") };
        let expected = [("source", Some("/dev/x")), ("ro", None), ("data", Some("journal")), ("acl", None)];
        assert_eq!(given, expected.map(|(key, value)| (key.to_owned(), value.map(str::to_owned))));
        assert_eq!(attributes, Attributes::of(Access::ReadOnly));
        assert!(parse("ext4", "/file", &options(&["loop"])).is_err());
    }
}
