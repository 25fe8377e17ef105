//! Runs a command in a container, over the mounts of a snapshot, with an OCI runtime.
//!
//! # What is private
//! The mounts of the container are made in a mount namespace of the calling thread, below a [`Workplace`] in memory
//! that also holds the bundle and the runtime's state. The runtime is the first process of a PID namespace: the
//! container ends with the runtime, and the runtime with the calling process. Then the kernel removes the mounts.
//! Nothing is left on disk.
//!
//! # What a container sees of the machine
//! Copies of `/etc/resolv.conf` and `/etc/hosts`, read-only; `/sys`, read-only; the volumes of the [`Spec`]; and the
//! network that [`Network`] describes. No device of the machine can be opened: every mount but `/dev` is `nodev`,
//! `/dev` holds the standard nodes only, a container cannot make others, and a control group for devices, where the
//! machine has one, forbids other devices. Where strata can make control groups, the number of processes is limited
//! (`cgroup.rs`).
//!
//! Mount points that the snapshot lacks are made first and removed afterwards, so they are never part of a layer
//! (`tree::mount_points`). [`run`] tells the caller of the mount points before they are made, so that they can be
//! removed after a crash.
//!
//! # References
//! OCI runtime specification: `config.md`, `config-linux.md`, `runtime.md`; `runc(8)`, `crun(1)`.

mod agent;
mod bind;
mod bundle;
mod cgroup;
mod command;
mod hooks;
mod interpreter;
mod network;
mod runtime;
mod seccomp;
mod user;

pub use agent::Agent;
pub use bind::Bind;
pub use network::Network;
pub use runtime::{Control, NOT_EXECUTABLE, NOT_FOUND, Runtime};
pub use user::{User, find_user};

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use self::network::{Connection, NetworkNamespace};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::mount::{Access, Mount, Mounted, Workplace};
use crate::tree::{Dir, mount_points};

/// The variable `PATH` of an image that has none.
pub const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The longest `/etc/resolv.conf` or `/etc/hosts` that is copied, in bytes.
const COPIED_BYTES_MAX: u64 = 1 << 20;

/// The directory of [`Spec::scripts`] in the container.
pub const SCRIPTS: &str = "/dev/pipes";

/// A directory or file of the machine that a container is to see; [`Bind::open`] opens it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// The source, as an absolute path of the machine.
    pub source: PathBuf,
    /// The mount point, as an absolute path of the container.
    pub target: String,
    /// Whether the container may write to it.
    pub access: Access,
}

/// The process of a container.
#[derive(Clone, Debug)]
pub struct Process {
    /// The program and its arguments. A program without a slash is looked for in `PATH` of `env`.
    pub args: Vec<String>,
    /// The environment, as `NAME=VALUE`.
    pub env: Vec<String>,
    /// The working directory: absolute, made if it is missing.
    pub dir: String,
    /// A name or number, with a group or without: `name`, `1000:100`; empty for root.
    pub user: String,
    /// Whether the process has a terminal, connected to the caller's.
    pub terminal: bool,
    /// Whether set-user-ID bits and file capabilities have no effect: no program gives the process more privileges.
    pub no_new_privs: bool,
}

/// A directory in memory, empty at first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tmpfs {
    /// The mount point, as an absolute path of the container.
    pub target: String,
    /// The size; `None` for the kernel's default.
    pub size_bytes: Option<u64>,
    /// Whether the container may write to it.
    pub access: Access,
}

/// A file or directory of another snapshot that a container sees.
#[derive(Clone, Debug)]
pub struct TreeMount<'a> {
    /// The mounts of that snapshot.
    pub mounts: &'a [Mount],
    /// The file or directory, as a relative path without links.
    pub source: PathBuf,
    /// Whether the source is no directory.
    pub is_file: bool,
    /// The mount point, as an absolute path of the container.
    pub target: String,
    /// Whether the container may write to it.
    pub access: Access,
}

/// A file in memory that only the container sees.
#[derive(Clone)]
pub struct Secret {
    /// The mount point, as an absolute path of the container.
    pub target: String,
    /// The content of the file.
    pub content: Vec<u8>,
    /// The owner and group of the file.
    pub owner: (u32, u32),
    /// The mode of the file.
    pub mode: u32,
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Secret").field("target", &self.target).finish_non_exhaustive()
    }
}

/// A container.
#[derive(Debug)]
pub struct Spec<'a> {
    /// The mounts of the container's root.
    pub mounts: &'a [Mount],
    /// Whether a power cut may lose the files that the container writes to its root. Then the writes, syncs and the
    /// unmount of an overlay do not wait for the disk.
    pub volatile: bool,
    /// The process that runs in the container.
    pub process: Process,
    /// Files and directories of the machine that the container sees besides its root. Each volume is open already, so
    /// that no path is resolved again.
    pub volumes: Vec<Bind>,
    /// Directories in memory.
    pub tmpfs: Vec<Tmpfs>,
    /// Files and directories of other snapshots that the container sees.
    pub trees: Vec<TreeMount<'a>>,
    /// Files in memory that only the container sees.
    pub secrets: Vec<Secret>,
    /// SSH agents that the container can ask for signatures.
    pub agents: Vec<Agent>,
    /// Whether the container may write to its root.
    pub access: Access,
    /// Scripts that the container finds below [`SCRIPTS`] and can execute; the name of each is its index.
    pub scripts: Vec<String>,
    /// The network of the container.
    pub network: Network,
    /// Maximum number of processes in the container; `None` for no limit.
    pub pids_max: Option<u32>,
    /// The host name of the container.
    pub hostname: String,
    /// The input and output of the container.
    pub streams: Streams,
}

/// The input and output of a container.
#[derive(Debug)]
pub enum Streams {
    /// Output goes to the caller's streams. The input is empty unless `stdin`.
    Inherit {
        /// Whether the container reads the caller's standard input.
        stdin: bool,
    },
    /// All output goes to [`Control::output`]; there is no input.
    Captured,
}

/// The status of a container: that of its first process, or 128 plus the number of the signal that killed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit(pub u8);

/// Runs the container `spec` with `runtime`, until the container ends; `place` is the directory of the workplace
/// ([`Workplace::new`]). `note` receives the mount points before they are made: recovery removes them after a crash.
///
/// When the function returns, the files that the container wrote are in the snapshot, and nothing is mounted any more.
///
/// # Errors
/// `NotFound` if the image has no such user or program; `InvalidArgument` for a volume that cannot be mounted; the
/// message of the runtime if it cannot start the command; errors of `note` and the system calls.
pub fn run(
    runtime: &Runtime,
    place: &Path,
    spec: &Spec<'_>,
    note: &dyn Fn(&str) -> Result<()>,
    control: &mut dyn Control,
) -> Result<Exit> {
    check_text(spec)?;
    let workplace = Workplace::new(place.to_owned())?;
    let trees = mount_trees(workplace.path(), &spec.trees)?;
    let files = Files::prepare(workplace.path(), spec, &trees)?;
    // pasta sets the network up while the root file system is mounted.
    let mut connection = match spec.network {
        Network::Private => network::connect(runtime.pasta(), workplace.path(), control),
        Network::Host | Network::None => None,
    };
    let root = make_dir(workplace.path().join("rootfs"))?;
    let mounted =
        if spec.volatile { Mounted::new_volatile(spec.mounts, &root)? } else { Mounted::new(spec.mounts, &root)? };
    mounted.refuse_devices()?;
    let setup = Setup { place: workplace.path(), root: &root, files: &files, connection: connection.as_mut() };
    let done = run_mounted(runtime, setup, spec, note, control);
    drop((connection, files));
    let unmounted = trees.into_iter().chain([(mounted, PathBuf::new())]).map(|(mounted, _)| mounted.unmount());
    let unmounted = unmounted.fold(Ok(()), Result::and);
    done.and_then(|exit| unmounted.map(|()| exit))
}

/// Mounts the other snapshots that a container sees; returns each with its mount point.
fn mount_trees(place: &Path, trees: &[TreeMount<'_>]) -> Result<Vec<(Mounted, PathBuf)>> {
    let mount = |(number, tree): (usize, &TreeMount<'_>)| {
        let root = make_dir(place.join(format!("tree-{number}")))?;
        let mounted = Mounted::new_volatile(tree.mounts, &root)?;
        mounted.refuse_devices()?;
        Ok((mounted, root))
    };
    trees.iter().enumerate().map(mount).collect()
}

/// Everything that was prepared for a container before its mount points are made.
struct Setup<'a> {
    /// The workplace.
    place: &'a Path,
    /// The mount point of the container's root file system.
    root: &'a Path,
    files: &'a Files,
    /// The connection of a private network.
    connection: Option<&'a mut Connection>,
}

fn run_mounted(
    runtime: &Runtime,
    setup: Setup<'_>,
    spec: &Spec<'_>,
    note: &dyn Fn(&str) -> Result<()>,
    control: &mut dyn Control,
) -> Result<Exit> {
    let Setup { place, root, files, connection } = setup;
    let tree = Dir::open(root)?;
    let user = find_user(&tree, &spec.process.user)?;
    let hooks = hooks::Hooks::new(root, runtime.mount()?, spec.access)?;
    let mounts = bundle::mounts(spec, files)?;
    mount_points::make_working_dir(&tree, &spec.process.dir)?;
    command::check(&tree, &spec.process, &mounts).inspect_err(|error| match error.kind() {
        ErrorKind::NotFound => control.cannot_start(NOT_FOUND),
        ErrorKind::FailedPrecondition => control.cannot_start(NOT_EXECUTABLE),
        _ => {}
    })?;
    let missing = mount_points::find(&tree, mounts.iter().map(|mount| (mount.destination.as_str(), mount.is_file)))?;
    note(&mount_points::note(&missing))?;
    let points = mount_points::make(&tree, missing)?;
    drop(tree);
    let network = match (spec.network, connection) {
        (Network::Host, _) => NetworkNamespace::Host,
        (_, Some(connection)) => connection.namespace(control),
        (_, None) => NetworkNamespace::New,
    };
    let config = bundle::Config::new(root, spec, &user, mounts, &network, hooks);
    let written = bundle::write_config(place, &config);
    let done = written.and_then(|()| runtime.run(place, &spec.streams, spec.pids_max, control));
    let restored = Dir::open(root).and_then(|tree| mount_points::remove(&tree, points));
    done.and_then(|exit| restored.map(|()| exit))
}

/// Refuses a NUL byte in a text for the runtime. A runtime in C would cut the text there, and run another command, or
/// mount over another path.
fn check_text(spec: &Spec<'_>) -> Result<()> {
    let volumes = spec.volumes.iter().map(Bind::target);
    let trees = spec.trees.iter().map(|tree| tree.target.as_str());
    let secrets = spec.secrets.iter().map(|secret| secret.target.as_str());
    let agents = spec.agents.iter().map(|agent| agent.target.as_str());
    check_process(&spec.process)?;
    check_targets(volumes.chain(trees).chain(secrets).chain(agents))?;
    check_targets(spec.tmpfs.iter().map(|tmpfs| tmpfs.target.as_str()))?;
    no_nul("host name", &spec.hostname)
}

/// Refuses a NUL byte in the description of a process.
///
/// # Errors
/// `InvalidArgument`, with the text that holds the NUL byte.
pub(crate) fn check_process(process: &Process) -> Result<()> {
    process.args.iter().try_for_each(|text| no_nul("argument of the command", text))?;
    process.env.iter().try_for_each(|text| no_nul("variable", text))?;
    no_nul("working directory", &process.dir)?;
    no_nul("user", &process.user)
}

/// Refuses a NUL byte in the mount points of a container.
///
/// # Errors
/// `InvalidArgument`.
pub(crate) fn check_targets<'a>(targets: impl IntoIterator<Item = &'a str>) -> Result<()> {
    targets.into_iter().try_for_each(|target| no_nul("mount point", target))
}

fn no_nul(what: &str, text: &str) -> Result<()> {
    let wrong = || Error::invalid(format!("a {what} holds a NUL byte: {text:?}"));
    if text.contains('\0') { Err(wrong()) } else { Ok(()) }
}

/// Files and mounts of the workplace that are mounted into the container.
#[derive(Debug)]
struct Files {
    resolv_conf: PathBuf,
    hosts: PathBuf,
    scripts: Vec<PathBuf>,
    /// The mount points of the volumes in the workplace, in the order of [`Spec::volumes`].
    volumes: Vec<PathBuf>,
    /// The paths of the sources of [`Spec::trees`] in the workplace, in the same order.
    trees: Vec<PathBuf>,
    secrets: Vec<PathBuf>,
    agents: Vec<agent::Forwarder>,
}

impl Files {
    fn prepare(place: &Path, spec: &Spec<'_>, trees: &[(Mounted, PathBuf)]) -> Result<Self> {
        let (resolv_conf, hosts) = (place.join("resolv.conf"), place.join("hosts"));
        let loopback = format!("127.0.0.1 localhost {0}\n::1 localhost {0}\n", spec.hostname);
        match spec.network {
            Network::Private => {
                write(&resolv_conf, &network::resolv_conf(&copy_of("/etc/resolv.conf")?), 0o644)?;
                write(&hosts, loopback.as_bytes(), 0o644)?;
            }
            Network::Host => {
                write(&resolv_conf, &copy_of("/etc/resolv.conf")?, 0o644)?;
                let known = copy_of("/etc/hosts")?;
                let own = format!("127.0.0.1 {}\n", spec.hostname);
                write(&hosts, &[known.as_slice(), own.as_bytes()].concat(), 0o644)?;
            }
            Network::None => {
                write(&resolv_conf, b"", 0o644)?;
                write(&hosts, loopback.as_bytes(), 0o644)?;
            }
        }
        let mut scripts = Vec::new();
        for (number, text) in spec.scripts.iter().enumerate() {
            let path = place.join(format!("script-{number}"));
            write(&path, text.as_bytes(), 0o755)?;
            scripts.push(path);
        }
        let volumes = spec.volumes.iter().enumerate();
        let volumes =
            volumes.map(|(number, bind)| bind.attach(place.join(format!("volume-{number}")))).collect::<Result<_>>()?;
        let trees = spec.trees.iter().zip(trees).map(|(tree, (_, root))| root.join(&tree.source)).collect();
        let secrets = spec.secrets.iter().enumerate().map(|(number, secret)| secret_file(place, number, secret));
        let secrets = secrets.collect::<Result<_>>()?;
        let agents = spec.agents.iter().enumerate();
        let agents = agents.map(|(number, agent)| agent::Forwarder::new(agent, place, &format!("agent-{number}")));
        let agents = agents.collect::<Result<_>>()?;
        Ok(Self { resolv_conf, hosts, scripts, volumes, trees, secrets, agents })
    }
}

/// Writes a secret into the workplace, which is in memory.
fn secret_file(place: &Path, number: usize, secret: &Secret) -> Result<PathBuf> {
    use rustix::fs::{Gid, Uid};
    let path = place.join(format!("secret-{number}"));
    write(&path, &secret.content, 0o600)?;
    let (uid, gid) = secret.owner;
    rustix::fs::chown(&path, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid))).at("set the owner of", &path)?;
    rustix::fs::chmod(&path, rustix::fs::Mode::from_raw_mode(secret.mode)).at("set the mode of", &path)?;
    Ok(path)
}

/// Returns the content of a file of the machine, with a newline at the end; nothing if there is no such file.
fn copy_of(path: &str) -> Result<Vec<u8>> {
    let file = match fs::File::open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        file => file.at("open", path)?,
    };
    let mut bytes = Vec::new();
    file.take(COPIED_BYTES_MAX + 1).read_to_end(&mut bytes).at("read", path)?;
    if bytes.len() as u64 > COPIED_BYTES_MAX {
        return Err(Error::invalid(format!("{path} is longer than {COPIED_BYTES_MAX} bytes: it is not copied")));
    }
    if bytes.last().is_some_and(|last| *last != b'\n') {
        bytes.push(b'\n');
    }
    Ok(bytes)
}

fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    fs::write(path, bytes).at("write", path)?;
    rustix::fs::chmod(path, rustix::fs::Mode::from_raw_mode(mode)).at("set the mode of", path)
}

fn make_dir(path: PathBuf) -> Result<PathBuf> {
    rustix::fs::mkdir(&path, rustix::fs::Mode::RWXU).at("make directory", &path).map(|()| path)
}

#[cfg(test)]
mod tests;
