//! Hooks that the runtime calls while it makes a container.
//!
//! crun takes the attributes of the root's mount away when it binds the root, and among them `nodev`. The runtimes have
//! no option for them, so `mount(8)` gives them back after the runtime has mounted everything and before the command
//! can run.
//!
//! # References
//! OCI runtime specification, `config.md`, "POSIX-platform Hooks"; `mount(8)`.

use std::path::{Path, PathBuf};

use rustix::fs::{StatVfsMountFlags, statvfs};
use serde::Serialize;

use crate::error::{Context, Error, Result};
use crate::mount::Access;

/// Reads the state of the container to its end before the program starts: crun fails with a broken pipe if a hook ends
/// while crun still writes.
const SCRIPT: &str = r#"while read -r line; do :; done; exec "$@""#;

/// `hooks` of `config.json`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Hooks {
    /// In the mount namespace of the container, before its root is the root.
    create_container: [Hook; 1],
}

#[derive(Debug, Serialize)]
struct Hook {
    path: PathBuf,
    args: Vec<String>,
}

impl Hooks {
    /// The hooks of a container with this `root`, which may be for reading only; `mount` is the program.
    pub(super) fn new(root: &Path, mount: &Path, access: Access) -> Result<Self> {
        let options = format!("remount,bind,nodev{}", kept(root, access)?);
        let (mount, root) = (text(mount)?, text(root)?);
        let shell = ["sh", "-c", SCRIPT, "sh", &mount];
        let words = ["--no-mtab", "--no-canonicalize", "--options-mode", "ignore", "--options", &options];
        let place = ["--source", "none", "--target", &root];
        let args = shell.into_iter().chain(words).chain(place).map(str::to_owned).collect();
        Ok(Self { create_container: [Hook { path: PathBuf::from("/bin/sh"), args }] })
    }
}

/// The attributes that the mount of `root` has besides, or is to have: a remount takes away what it is not told, and in
/// a user namespace the kernel refuses that.
fn kept(root: &Path, access: Access) -> Result<String> {
    let mut flags = statvfs(root).at("stat the mount at", root)?.f_flag;
    flags.set(StatVfsMountFlags::RDONLY, flags.contains(StatVfsMountFlags::RDONLY) || access == Access::ReadOnly);
    let known = [
        (StatVfsMountFlags::RDONLY, ",ro"),
        (StatVfsMountFlags::NOSUID, ",nosuid"),
        (StatVfsMountFlags::NOEXEC, ",noexec"),
        (StatVfsMountFlags::NOATIME, ",noatime"),
        (StatVfsMountFlags::NODIRATIME, ",nodiratime"),
        (StatVfsMountFlags::RELATIME, ",relatime"),
    ];
    Ok(known.into_iter().filter(|(flag, _)| flags.contains(*flag)).map(|(_, option)| option).collect())
}

/// A path as an argument.
fn text(path: &Path) -> Result<String> {
    path.to_str().map(str::to_owned).ok_or_else(|| {
        Error::invalid(format!("{} cannot be given to a container's hook: the path is no UTF-8", path.display()))
    })
}
