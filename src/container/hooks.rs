//! Hooks that the runtime calls while it makes a container.
//!
//! crun drops the attributes of the root's mount, `nodev` among them, when it binds the root. The runtimes have no
//! option to keep the attributes, so `mount(8)` sets them again, after the runtime has made all mounts and before the
//! command can run.
//!
//! # References
//! OCI runtime specification, `config.md`, "POSIX-platform Hooks"; `mount(8)`.

use std::path::{Path, PathBuf};

use rustix::fs::{StatVfsMountFlags, statvfs};
use serde::Serialize;

use crate::error::{Context, Error, Result};
use crate::mount::Access;

/// Reads the state of the container from the standard input to its end, and then executes `mount(8)`: crun fails with a
/// broken pipe if a hook ends while crun still writes the state.
const SCRIPT: &str = r#"while read -r line; do :; done; exec "$@""#;

/// `hooks` of `config.json`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Hooks {
    /// The runtime runs this hook in the mount namespace of the container, before `pivot_root(2)`.
    create_container: [Hook; 1],
}

#[derive(Debug, Serialize)]
struct Hook {
    path: PathBuf,
    args: Vec<String>,
}

impl Hooks {
    /// Returns the hooks of a container with the root `root`; `mount` is the path of `mount(8)`.
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

/// Returns the other attributes that the mount of `root` has, and `ro` if `access` asks for it. A remount drops the
/// attributes that it does not name, and in a user namespace the kernel refuses to drop them.
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

/// Returns `path` as an argument of the hook.
fn text(path: &Path) -> Result<String> {
    path.to_str().map(str::to_owned).ok_or_else(|| {
        Error::invalid(format!("{} cannot be given to a container's hook: the path is no UTF-8", path.display()))
    })
}
