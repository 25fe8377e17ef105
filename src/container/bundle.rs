//! `config.json`: the configuration of a container for the runtime.
//!
//! Capabilities, masked and read-only paths, and the filter of system calls are the defaults of podman and Docker,
//! without the capabilities to make device nodes, raw packets and audit records.
//!
//! # References
//! OCI runtime specification: `config.md`, `config-linux.md`.

use std::borrow::Cow;
use std::path::Path;

use serde::Serialize;

use super::hooks::Hooks;
use super::network::NetworkNamespace;
use super::seccomp::Filter;
use super::user::User;
use super::{Files, Network, SCRIPTS, Spec, Tmpfs, write};
use crate::error::{Error, ErrorKind, Result};
use crate::mount::{Access, probe};

const CAPABILITIES: [&str; 11] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_NET_BIND_SERVICE",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
];

const MASKED: [&str; 14] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/dev/block",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
    "/sys/fs/selinux",
];

const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// `config.json`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Config<'a> {
    oci_version: &'static str,
    process: Process<'a>,
    root: Root<'a>,
    hostname: &'a str,
    mounts: Vec<BundleMount>,
    linux: Linux<'a>,
    hooks: Hooks,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Process<'a> {
    terminal: bool,
    user: BundleUser<'a>,
    args: &'a [String],
    env: Vec<String>,
    cwd: &'a str,
    capabilities: Capabilities,
    no_new_privileges: bool,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct BundleUser<'a> {
    uid: u32,
    gid: u32,
    #[serde(skip_serializing_if = "<[u32]>::is_empty")]
    additional_gids: &'a [u32],
}

#[derive(Debug, Serialize)]
struct Capabilities {
    bounding: &'static [&'static str],
    effective: &'static [&'static str],
    permitted: &'static [&'static str],
}

#[derive(Debug, Serialize)]
struct Root<'a> {
    path: &'a Path,
    readonly: bool,
}

/// A mount of the container.
#[derive(Clone, Debug, Serialize)]
pub(super) struct BundleMount {
    pub(super) destination: String,
    #[serde(rename = "type")]
    fstype: &'static str,
    source: String,
    options: Vec<Cow<'static, str>>,
    /// Whether the source is no directory.
    #[serde(skip)]
    pub(super) is_file: bool,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Linux<'a> {
    namespaces: Vec<Namespace<'a>>,
    masked_paths: &'static [&'static str],
    readonly_paths: &'static [&'static str],
    #[serde(skip_serializing_if = "Option::is_none")]
    seccomp: Option<Filter>,
}

#[derive(Clone, Copy, Debug, Serialize)]
struct Namespace<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    /// The path of an existing namespace to join; `None` for a new namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<&'a Path>,
}

impl<'a> Config<'a> {
    pub(super) fn new(
        root: &'a Path,
        spec: &'a Spec<'_>,
        user: &'a User,
        mounts: Vec<BundleMount>,
        network: &'a NetworkNamespace,
        hooks: Hooks,
    ) -> Self {
        let new = |kind| Namespace { kind, path: None };
        let mut namespaces = ["pid", "mount", "ipc", "uts", "cgroup"].map(new).to_vec();
        match network {
            NetworkNamespace::Host => {}
            NetworkNamespace::New => namespaces.push(new("network")),
            NetworkNamespace::Connected(path) => namespaces.push(Namespace { kind: "network", path: Some(path) }),
        }
        // Root begins with all capabilities of the bounding set, and another user with none.
        let own: &[&str] = if user.uid == 0 { &CAPABILITIES } else { &[] };
        Self {
            oci_version: "1.0.2",
            process: Process {
                terminal: spec.process.terminal,
                user: BundleUser { uid: user.uid, gid: user.gid, additional_gids: &user.groups },
                args: &spec.process.args,
                env: environment(spec, user),
                cwd: &spec.process.dir,
                capabilities: Capabilities { bounding: &CAPABILITIES, effective: own, permitted: own },
                no_new_privileges: spec.process.no_new_privs,
            },
            root: Root { path: root, readonly: spec.access == Access::ReadOnly },
            hostname: &spec.hostname,
            mounts,
            linux: Linux {
                namespaces,
                masked_paths: &MASKED,
                readonly_paths: &READ_ONLY,
                seccomp: Filter::of_this_machine(),
            },
            hooks,
        }
    }
}

/// Returns the variables of the process, with defaults for `PATH`, `HOME` and, with a terminal, `TERM`.
fn environment(spec: &Spec<'_>, user: &User) -> Vec<String> {
    let mut env = spec.process.env.clone();
    let mut default = |variable: String| {
        let name = variable.split_inclusive('=').next().unwrap_or_default();
        if !env.iter().any(|known| known.starts_with(name)) {
            env.push(variable);
        }
    };
    default(super::DEFAULT_PATH.to_owned());
    default(format!("HOME={}", user.home));
    if spec.process.terminal {
        default("TERM=xterm".to_owned());
    }
    env
}

/// The mounts of the container, in the order in which they are made.
pub(super) fn mounts(spec: &Spec<'_>, files: &Files) -> Result<Vec<BundleMount>> {
    let new = |destination: &str, fstype: &'static str, options: &[&'static str]| BundleMount {
        destination: destination.to_owned(),
        fstype,
        source: fstype.to_owned(),
        options: options.iter().copied().map(Cow::Borrowed).collect(),
        is_file: false,
    };
    let mut mounts = vec![
        new("/proc", "proc", &["nosuid", "noexec", "nodev"]),
        new("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        new("/dev/pts", "devpts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
        new("/dev/shm", "tmpfs", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
        new("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        sys(spec.network)?,
        bind(&files.resolv_conf, "/etc/resolv.conf", Access::ReadOnly, true)?,
        bind(&files.hosts, "/etc/hosts", Access::ReadOnly, true)?,
    ];
    for (number, script) in files.scripts.iter().enumerate() {
        mounts.push(bind(script, &format!("{SCRIPTS}/{number}"), Access::ReadOnly, true)?);
    }
    for Tmpfs { target, size_bytes, access } in &spec.tmpfs {
        let mut mount = new(target, "tmpfs", &["nosuid", "nodev", "mode=1777", mode(*access)]);
        mount.options.extend(size_bytes.map(|bytes| Cow::Owned(format!("size={bytes}"))));
        mounts.push(mount);
    }
    for (volume, place) in spec.volumes.iter().zip(&files.volumes) {
        mounts.push(bind(place, &volume.target, volume.access, volume.is_file)?);
    }
    for (tree, place) in spec.trees.iter().zip(&files.trees) {
        mounts.push(bind(place, &tree.target, tree.access, tree.is_file)?);
    }
    for (secret, place) in spec.secrets.iter().zip(&files.secrets) {
        mounts.push(bind(place, &secret.target, Access::ReadOnly, true)?);
    }
    for (agent, forwarder) in spec.agents.iter().zip(&files.agents) {
        mounts.push(bind(&forwarder.path, &agent.target, Access::ReadWrite, true)?);
    }
    Ok(mounts)
}

/// Returns the mount of `/sys`. A sysfs shows network devices, so root of a user namespace may mount a new one only for
/// a network namespace of its own. There, a container with the machine's network gets a bind mount of the machine's
/// `/sys`.
fn sys(network: Network) -> Result<BundleMount> {
    let (fstype, source, bound) = match network {
        Network::Host if probe::in_user_namespace()? => {
            ("bind", "/sys", &["rbind", "rro", "rnosuid", "rnoexec", "rnodev"][..])
        }
        Network::Host | Network::Private | Network::None => ("sysfs", "sysfs", &[][..]),
    };
    Ok(BundleMount {
        destination: "/sys".to_owned(),
        fstype,
        source: source.to_owned(),
        options: bound.iter().copied().chain(["nosuid", "noexec", "nodev", "ro"]).map(Cow::Borrowed).collect(),
        is_file: false,
    })
}

/// Returns a bind mount of `source`. The options name all attributes, because a runtime that changes one attribute of a
/// mount drops the attributes that are not named.
fn bind(source: &Path, target: &str, access: Access, is_file: bool) -> Result<BundleMount> {
    let source = source.to_str().ok_or_else(|| {
        Error::invalid(format!("{} cannot be given to a container: its path is no UTF-8", source.display()))
    })?;
    Ok(BundleMount {
        destination: target.to_owned(),
        fstype: "bind",
        source: source.to_owned(),
        options: ["rbind", "rprivate", "nosuid", "nodev", mode(access)].map(Cow::Borrowed).into(),
        is_file,
    })
}

/// Returns the mount option for `access`.
fn mode(access: Access) -> &'static str {
    if access == Access::ReadOnly { "ro" } else { "rw" }
}

/// Writes `config.json` into the bundle `place`.
pub(super) fn write_config(place: &Path, config: &Config<'_>) -> Result<()> {
    let json = serde_json::to_vec(config)
        .map_err(|error| Error::new(ErrorKind::Io, "writing the configuration of a container").with_source(error))?;
    write(&place.join("config.json"), &json, 0o600)
}
