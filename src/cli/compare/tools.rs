//! The tools that strata is compared with, and what they are told.
//!
//! Each is measured on the file system on which it is at home. None of them waits for the disk where strata does,
//! except in its own database; what else it leaves out is said beside its row.

use crate::compare::Role;
use crate::compare::peer::{Life, Tool, Tree};
use crate::mount::scratch::FsType;

/// A tool without anything.
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

/// How strata itself is called, on a store in its directory.
const STRATA: Tool = Tool {
    role: Role::Command,
    programs: &[("{strata}", "strata")],
    variables: &[("STRATA_ROOT", "{dir}/store"), ("STRATA_LOG", "")],
    forget: &["{strata} -q rmi {image}"],
    ..TOOL
};

const STRATA_LIFE: Life = Life {
    base: &[],
    prepare: &["{strata} -q prepare {key} {chain}"],
    mount: &["{strata} -q mount {key} {target}"],
    tree: Tree::Target,
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
    life: Some(Life { base: &["{strata} -q --backend overlay import {archive}"], ..STRATA_LIFE }),
    ..STRATA
};

const STRATA_BTRFS: Tool = Tool {
    name: "strata btrfs",
    kind: "btrfs",
    import: &["{strata} -q --backend btrfs import {archive}"],
    life: Some(Life { base: &["{strata} -q --backend btrfs import {archive}"], ..STRATA_LIFE }),
    ..STRATA
};

const STRATA_COPY: Tool = Tool {
    name: "strata copy",
    kind: "copy",
    import: &["{strata} -q --backend copy import {archive}"],
    life: Some(Life {
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
    life: Some(Life {
        base: &["{strata} -q --backend copy import {archive}"],
        prepare: &["{strata} -q --clone reflink prepare {key} {chain}"],
        ..STRATA_LIFE
    }),
    ..STRATA
};

/// containerd, with everything that it keeps in one directory, asked by `ctr`.
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
    life: Some(Life {
        base: &["ctr images import {archive}"],
        prepare: &["ctr snapshots prepare {key} {chain}"],
        mount: &["ctr snapshots mounts {target} {key}"],
        tree: Tree::Commands,
        unmount: &["umount {target}"],
        commit: &["ctr snapshots commit {name} {key}"],
        remove: &["ctr snapshots rm {name}"],
        // The end of a lease lets the collector run, and waits for it.
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

/// podman. Its locks are files, so that those of the machine's own podman stay alone.
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
    life: Some(Life {
        base: &["podman pull -q oci:{layout}:{image}"],
        prepare: &["podman create --name {key} --network none {id} true"],
        mount: &["podman mount {key}"],
        tree: Tree::Printed,
        unmount: &["podman unmount {key}"],
        // Its commit makes an archive and an image, which is other work.
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

/// What is below a copy, in plain commands.
const CP: Tool = Tool {
    name: "cp -a",
    kind: "copy",
    role: Role::Floor,
    lacks: "not synced, no records",
    programs: &[("cp", "coreutils"), ("tar", "tar"), ("mount", "mount")],
    life: Some(Life {
        base: &["tar --one-top-level={dir}/image -xzpf {layer}"],
        prepare: &["cp -a --reflink=never {dir}/image {dir}/{key}"],
        mount: &["mount --bind {dir}/{key} {target}"],
        tree: Tree::Target,
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
    life: Some(Life {
        base: &["tar --one-top-level={dir}/image -xzpf {layer}"],
        prepare: &["cp -a --reflink=always {dir}/image {dir}/{key}"],
        mount: &["mount --bind {dir}/{key} {target}"],
        tree: Tree::Target,
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
    life: Some(Life {
        base: &["tar --one-top-level={dir}/image -xzpf {layer}"],
        prepare: &["mkdir -p {dir}/{key}/upper {dir}/{key}/work"],
        mount: &["mount -t overlay overlay {target} -o \
                  lowerdir={dir}/image,upperdir={dir}/{key}/upper,workdir={dir}/{key}/work"],
        tree: Tree::Target,
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
    life: Some(Life {
        base: &["btrfs subvolume create {dir}/image", "tar -C {dir}/image -xzpf {layer}"],
        prepare: &["btrfs subvolume snapshot {dir}/image {dir}/{key}"],
        mount: &["mount --bind {dir}/{key} {target}"],
        tree: Tree::Target,
        unmount: &["umount {target}"],
        commit: &["btrfs subvolume snapshot -r {dir}/{key} {dir}/{name}", "btrfs subvolume delete {dir}/{key}"],
        remove: &["btrfs subvolume delete {dir}/{name}"],
        free: &[],
        end: &["btrfs subvolume delete {dir}/image"],
    }),
    ..TOOL
};

/// All of them, with strata's own commands, each with its file system.
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
