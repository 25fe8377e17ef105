//! The tools that strata is compared with, and their command lines.
//!
//! Each tool is measured on the file system that it is usually used on. No tool waits for the disk where strata does,
//! except for the tool's own database; other differences are shown beside the tool's row.

use crate::compare::Role;
use crate::compare::tool::{LifeCommands, Tool, TreeLocation};
use crate::mount::scratch::FsType;

/// Defaults of all fields.
const TOOL: Tool = Tool {
    name: "",
    kind: "",
    role: Role::Peer,
    lacks: "",
    programs: &[],
    variables: &[],
    files: &[],
    daemon: None,
    import: &[],
    forget: &[],
    life: None,
};

/// Defaults for strata's own commands, with a store in the tool's directory.
const STRATA: Tool = Tool {
    role: Role::Command,
    programs: &[("{strata}", "strata")],
    variables: &[("STRATA_ROOT", "{dir}/store"), ("STRATA_LOG", "")],
    forget: &["{strata} -q rmi {image}"],
    ..TOOL
};

const STRATA_LIFE: LifeCommands = LifeCommands {
    base: &[],
    prepare: &["{strata} -q prepare {key} {chain}"],
    mount: &["{strata} -q mount {key} {target}"],
    tree: TreeLocation::Target,
    unmount: &["{strata} -q umount {target}"],
    commit: &["{strata} -q commit {name} {key}"],
    remove: &["{strata} -q rm {name}"],
    free: &["{strata} -q gc"],
    end: &["{strata} -q rmi {image}"],
};

const STRATA_OVERLAY: Tool = Tool {
    name: "strata overlay",
    kind: "overlay",
    import: &["{strata} -q --backend overlay import {archive}"],
    life: Some(LifeCommands { base: &["{strata} -q --backend overlay import {archive}"], ..STRATA_LIFE }),
    ..STRATA
};

const STRATA_BTRFS: Tool = Tool {
    name: "strata btrfs",
    kind: "btrfs",
    import: &["{strata} -q --backend btrfs import {archive}"],
    life: Some(LifeCommands { base: &["{strata} -q --backend btrfs import {archive}"], ..STRATA_LIFE }),
    ..STRATA
};

const STRATA_COPY: Tool = Tool {
    name: "strata copy",
    kind: "copy",
    import: &["{strata} -q --backend copy import {archive}"],
    life: Some(LifeCommands {
        base: &["{strata} -q --backend copy import {archive}"],
        prepare: &["{strata} -q --clone bytes prepare {key} {chain}"],
        ..STRATA_LIFE
    }),
    ..STRATA
};

const STRATA_REFLINK: Tool = Tool {
    name: "strata copy+reflink",
    kind: "copy+reflink",
    import: &[],
    life: Some(LifeCommands {
        base: &["{strata} -q --backend copy import {archive}"],
        prepare: &["{strata} -q --clone reflink prepare {key} {chain}"],
        ..STRATA_LIFE
    }),
    ..STRATA
};

/// containerd, with all of its data in one directory, called through `ctr`.
const CONTAINERD: Tool = Tool {
    lacks: "files not synced",
    programs: &[("containerd", "containerd"), ("ctr", "containerd"), ("mount", "mount")],
    files: &[(
        "containerd.toml",
        "version = 2\nroot = \"{dir}/root\"\nstate = \"{dir}/state\"\n\
         disabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n\
         [grpc]\n  address = \"{dir}/containerd.sock\"\n\
         [plugins.\"io.containerd.internal.v1.opt\"]\n  path = \"{dir}/opt\"\n",
    )],
    daemon: Some(["containerd --config {dir}/containerd.toml", "ctr version"]),
    import: &["ctr images import {archive}"],
    forget: &["ctr images rm --sync {image}"],
    life: Some(LifeCommands {
        base: &["ctr images import {archive}"],
        prepare: &["ctr snapshots prepare {key} {chain}"],
        mount: &["ctr snapshots mounts {target} {key}"],
        tree: TreeLocation::Commands,
        unmount: &["umount {target}"],
        commit: &["ctr snapshots commit {name} {key}"],
        remove: &["ctr snapshots rm {name}"],
        // Removing a lease starts containerd's garbage collector, and `--sync` waits for it.
        free: &["ctr leases create --id {key}", "ctr leases rm --sync {key}"],
        end: &["ctr images rm --sync {image}"],
    }),
    ..TOOL
};

const OVERLAYFS: Tool = Tool {
    name: "containerd overlayfs",
    kind: "overlay",
    variables: &[("CONTAINERD_ADDRESS", "{dir}/containerd.sock"), ("CONTAINERD_SNAPSHOTTER", "overlayfs")],
    ..CONTAINERD
};

const NATIVE: Tool = Tool {
    name: "containerd native",
    kind: "copy",
    variables: &[("CONTAINERD_ADDRESS", "{dir}/containerd.sock"), ("CONTAINERD_SNAPSHOTTER", "native")],
    ..CONTAINERD
};

const CONTAINERD_BTRFS: Tool = Tool {
    name: "containerd btrfs",
    kind: "btrfs",
    variables: &[("CONTAINERD_ADDRESS", "{dir}/containerd.sock"), ("CONTAINERD_SNAPSHOTTER", "btrfs")],
    ..CONTAINERD
};

/// podman. Its locks are files, so that they do not touch the locks of the machine's own podman.
const PODMAN_SETTINGS: (&str, &str) = (
    "containers.conf",
    "[containers]\n[engine]\nlock_type = \"file\"\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"none\"\n\
     tmp_dir = \"{dir}/tmp\"\n",
);

const PODMAN: Tool = Tool {
    lacks: "files not synced; create also configures a container",
    programs: &[("podman", "podman")],
    variables: &[("CONTAINERS_CONF", "{dir}/containers.conf"), ("CONTAINERS_STORAGE_CONF", "{dir}/storage.conf")],
    import: &["podman pull -q oci:{layout}:{image}"],
    forget: &["podman rmi -f {id}"],
    life: Some(LifeCommands {
        base: &["podman pull -q oci:{layout}:{image}"],
        prepare: &["podman create --name {key} --network none {id} true"],
        mount: &["podman mount {key}"],
        tree: TreeLocation::Printed,
        unmount: &["podman unmount {key}"],
        // `podman commit` makes an archive and an image, which is different work.
        commit: &[],
        remove: &["podman rm {key}"],
        free: &[],
        end: &["podman rmi -f {id}"],
    }),
    ..TOOL
};

const PODMAN_OVERLAY: Tool = Tool {
    name: "podman overlay",
    kind: "overlay",
    files: &[
        PODMAN_SETTINGS,
        ("storage.conf", "[storage]\ndriver = \"overlay\"\ngraphroot = \"{dir}/graph\"\nrunroot = \"{dir}/run\"\n"),
    ],
    ..PODMAN
};

const PODMAN_VFS: Tool = Tool {
    name: "podman vfs",
    kind: "copy",
    files: &[
        PODMAN_SETTINGS,
        ("storage.conf", "[storage]\ndriver = \"vfs\"\ngraphroot = \"{dir}/graph\"\nrunroot = \"{dir}/run\"\n"),
    ],
    ..PODMAN
};

const UMOCI: Tool = Tool {
    name: "umoci",
    kind: "copy",
    lacks: "files not synced, nothing shared between images",
    programs: &[("umoci", "umoci")],
    import: &["umoci unpack --image {layout}:{image} {dir}/{name}"],
    forget: &["rm -rf {dir}/{name}"],
    ..TOOL
};

const TAR: Tool = Tool {
    name: "tar",
    role: Role::Floor,
    lacks: "not synced, no digest",
    programs: &[("tar", "tar"), ("gzip", "gzip")],
    import: &["tar --one-top-level={dir}/{name} -xzpf {layer}"],
    forget: &["rm -rf {dir}/{name}"],
    ..TOOL
};

/// The floor for copies, with plain commands.
const CP: Tool = Tool {
    name: "cp -a",
    kind: "copy",
    role: Role::Floor,
    lacks: "not synced, no records",
    programs: &[("cp", "coreutils"), ("tar", "tar"), ("mount", "mount")],
    life: Some(LifeCommands {
        base: &["tar --one-top-level={dir}/image -xzpf {layer}"],
        prepare: &["cp -a --reflink=never {dir}/image {dir}/{key}"],
        mount: &["mount --bind {dir}/{key} {target}"],
        tree: TreeLocation::Target,
        unmount: &["umount {target}"],
        commit: &[],
        remove: &["rm -rf {dir}/{key}"],
        free: &[],
        end: &["rm -rf {dir}/image"],
    }),
    ..TOOL
};

const CP_REFLINK: Tool = Tool {
    name: "cp -a --reflink=always",
    kind: "copy+reflink",
    life: Some(LifeCommands {
        base: &["tar --one-top-level={dir}/image -xzpf {layer}"],
        prepare: &["cp -a --reflink=always {dir}/image {dir}/{key}"],
        mount: &["mount --bind {dir}/{key} {target}"],
        tree: TreeLocation::Target,
        unmount: &["umount {target}"],
        commit: &[],
        remove: &["rm -rf {dir}/{key}"],
        free: &[],
        end: &["rm -rf {dir}/image"],
    }),
    ..CP
};

const MOUNT_OVERLAY: Tool = Tool {
    name: "mount -t overlay",
    kind: "overlay",
    role: Role::Floor,
    lacks: "not synced, no records",
    programs: &[("mount", "mount"), ("tar", "tar")],
    life: Some(LifeCommands {
        base: &["tar --one-top-level={dir}/image -xzpf {layer}"],
        prepare: &["mkdir -p {dir}/{key}/upper {dir}/{key}/work"],
        mount: &["mount -t overlay overlay {target} -o \
                  lowerdir={dir}/image,upperdir={dir}/{key}/upper,workdir={dir}/{key}/work"],
        tree: TreeLocation::Target,
        unmount: &["umount {target}"],
        commit: &[],
        remove: &["rm -rf {dir}/{key}"],
        free: &[],
        end: &["rm -rf {dir}/image"],
    }),
    ..TOOL
};

const BTRFS: Tool = Tool {
    name: "btrfs subvolume",
    kind: "btrfs",
    role: Role::Floor,
    lacks: "not synced, no records",
    programs: &[("btrfs", "btrfs-progs"), ("tar", "tar"), ("mount", "mount")],
    life: Some(LifeCommands {
        base: &["btrfs subvolume create {dir}/image", "tar -C {dir}/image -xzpf {layer}"],
        prepare: &["btrfs subvolume snapshot {dir}/image {dir}/{key}"],
        mount: &["mount --bind {dir}/{key} {target}"],
        tree: TreeLocation::Target,
        unmount: &["umount {target}"],
        commit: &["btrfs subvolume snapshot -r {dir}/{key} {dir}/{name}", "btrfs subvolume delete {dir}/{key}"],
        remove: &["btrfs subvolume delete {dir}/{name}"],
        free: &[],
        end: &["btrfs subvolume delete {dir}/image"],
    }),
    ..TOOL
};

/// All tools, including strata's own commands, each with its file system.
pub(super) const TOOLS: [(Tool, FsType); 16] = [
    (STRATA_OVERLAY, FsType::Ext4),
    (STRATA_BTRFS, FsType::Btrfs),
    (STRATA_COPY, FsType::Ext4),
    (STRATA_REFLINK, FsType::Xfs),
    (OVERLAYFS, FsType::Ext4),
    (CONTAINERD_BTRFS, FsType::Btrfs),
    (NATIVE, FsType::Ext4),
    (PODMAN_OVERLAY, FsType::Ext4),
    (PODMAN_VFS, FsType::Ext4),
    (UMOCI, FsType::Ext4),
    (TAR, FsType::Ext4),
    (TAR, FsType::Btrfs),
    (MOUNT_OVERLAY, FsType::Ext4),
    (BTRFS, FsType::Btrfs),
    (CP, FsType::Ext4),
    (CP_REFLINK, FsType::Xfs),
];
