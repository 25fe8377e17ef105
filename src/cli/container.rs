//! The commands `run` and `commit-image`: containers over snapshots, and images of them.

use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd};

use clap::ArgAction;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use super::interrupt::Interrupt;
use super::names;
use super::output::shown;
use super::session::Session;
use super::{Done, FREE_LIMIT};
use crate::build::{self, ParsedMount, RunOptions};
use crate::container::{Control, Network, Runtime, Tmpfs, Volume};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::image::check_name;
use crate::mount::Access;
use crate::store::Store;
use crate::task::Cancel;

/// Signals that are passed on to a container. A change of the terminal's size reaches the runtime by itself.
const FORWARDED: [Signal; 6] =
    [Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTERM, Signal::SIGUSR1, Signal::SIGUSR2];

/// Maximum number of processes of a container without `--pids-limit`: podman's.
pub(super) const PIDS_MAX: u32 = 2048;

/// Number of SIGINT and SIGTERM that are passed on to a container; the next one kills it.
const ASKED_MAX: u32 = 2;

/// Run a command in a container
///
/// An OCI runtime runs the command over a writable snapshot of the image. The exit status is the command's, 127 if
/// there is no such command, 126 if it may not be executed, and 125 if strata cannot run a container for another
/// reason. Only the command's output is printed. Without --rm the snapshot stays: diff lists what the container
/// changed, and commit-image makes an image of it. The third SIGINT or SIGTERM kills.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  strata run --rm -it debian:12 bash\n  \
    strata run --rm --read-only --tmpfs /tmp:size=64m --mount type=bind,src=.,dst=/src,ro debian:12 ls /src")]
pub(super) struct Run {
    /// Remove the snapshot afterwards
    #[arg(long)]
    rm: bool,
    /// The snapshot's key; not with --rm
    #[arg(long, value_name = "KEY", conflicts_with = "rm")]
    name: Option<String>,
    /// An environment variable; without =V with the value that it has here
    #[arg(short, long = "env", value_name = "K[=V]")]
    env: Vec<String>,
    /// A file or directory of the machine, and where the container sees it
    #[arg(short, long = "volume", value_name = "SRC:DST[:ro]", value_parser = volume)]
    volumes: Vec<Volume>,
    /// A mount, as docker spells it: type=bind,source=SRC,target=DST[,readonly] or type=tmpfs,target=DST[,tmpfs-size=N]
    #[arg(long = "mount", value_name = "type=T,...", value_parser = mounted)]
    mounts: Vec<Mounted>,
    /// A directory in memory; size=N limits it
    #[arg(long, value_name = "DST[:size=N,ro]", value_parser = tmpfs)]
    tmpfs: Vec<Tmpfs>,
    /// Mount the root directory read-only
    #[arg(long)]
    read_only: bool,
    /// The program to run instead of the image's entry point, with CMD as its arguments; empty for CMD alone
    #[arg(long, value_name = "PROGRAM")]
    entrypoint: Option<String>,
    /// Log what is done; twice for more
    // The global option without its letter, because -v means a volume here, as with docker and podman.
    #[arg(long, action = ArgAction::Count, help_heading = "Global options")]
    verbose: u8,
    /// The working directory, instead of the image's
    #[arg(short, long = "workdir", value_name = "DIR")]
    workdir: Option<String>,
    /// The user, instead of the image's: a name or number, with a group or without
    #[arg(short, long, value_name = "USER[:GROUP]")]
    user: Option<String>,
    /// Connect standard input
    #[arg(short, long)]
    interactive: bool,
    /// Connect a terminal
    #[arg(short, long)]
    tty: bool,
    /// The network: private has outgoing connections by pasta, where that is installed; host is the machine's
    #[arg(long, value_enum, default_value_t)]
    network: NetworkChoice,
    /// Maximum number of processes, where the machine has control groups; 0 is no limit
    #[arg(long, value_name = "N", default_value_t = PIDS_MAX)]
    pids_limit: u32,
    /// Let no program gain privileges: set-user-ID bits have no effect
    #[arg(long)]
    no_new_privs: bool,
    /// The OCI runtime, instead of the first of crun, runc and youki in PATH
    #[arg(long, value_name = "NAME|PATH")]
    runtime: Option<String>,
    /// The image's name, or the beginning of its ID
    image: String,
    /// The command to run, instead of the image's
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "CMD")]
    command: Vec<String>,
}

/// Make an image of a container
///
/// The changes in the writable snapshot KEY become a layer on top of the image that KEY was made from. KEY is free
/// afterwards. Prints the image's name and ID.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  strata commit-image edited:1 work   # then: strata run edited:1")]
pub(super) struct CommitImage {
    /// The image's name
    name: String,
    /// The key of the container's snapshot
    key: String,
}

/// Network of a container.
#[derive(Clone, Copy, Debug, Default, clap::ValueEnum)]
pub(super) enum NetworkChoice {
    #[default]
    Private,
    Host,
    None,
}

impl From<NetworkChoice> for Network {
    fn from(choice: NetworkChoice) -> Self {
        match choice {
            NetworkChoice::Private => Self::Private,
            NetworkChoice::Host => Self::Host,
            NetworkChoice::None => Self::None,
        }
    }
}

fn volume(text: &str) -> Result<Volume> {
    let (source, target, read_only) = build::parse_volume(text)?;
    let source = std::path::absolute(&source).at("find", &source)?;
    let access = if read_only { Access::ReadOnly } else { Access::ReadWrite };
    Ok(Volume { source, target, access })
}

/// A mount that `--mount` describes.
#[derive(Clone, Debug)]
enum Mounted {
    Volume(Volume),
    Tmpfs(Tmpfs),
}

impl Mounted {
    fn volume(&self) -> Option<Volume> {
        if let Self::Volume(volume) = self { Some(volume.clone()) } else { None }
    }

    fn tmpfs(&self) -> Option<Tmpfs> {
        if let Self::Tmpfs(tmpfs) = self { Some(tmpfs.clone()) } else { None }
    }
}

fn mounted(text: &str) -> Result<Mounted> {
    match build::parse_mount(text)? {
        ParsedMount::Bind { source, target, access } => {
            let source = std::path::absolute(&source).at("find", &source)?;
            Ok(Mounted::Volume(Volume { source, target, access }))
        }
        ParsedMount::Tmpfs(tmpfs) => Ok(Mounted::Tmpfs(tmpfs)),
    }
}

fn tmpfs(text: &str) -> Result<Tmpfs> {
    build::parse_tmpfs(text)
}

/// Returns the limit that `--pids-limit` gives.
pub(super) fn pids_max(limit: u32) -> Option<u32> {
    (limit > 0).then_some(limit)
}

/// Returns the runtime that the user named, or the first that is installed.
pub(super) fn find_runtime(wanted: Option<&str>) -> Result<Runtime> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    Runtime::find(wanted, &path)
}

/// Returns the time in `SOURCE_DATE_EPOCH`.
pub(super) fn epoch() -> Result<Option<i64>> {
    const VARIABLE: &str = "SOURCE_DATE_EPOCH";
    match std::env::var(VARIABLE) {
        Ok(text) if !text.is_empty() => match text.parse() {
            Ok(seconds) if seconds >= 0 => Ok(Some(seconds)),
            _ => Err(Error::invalid(format!("{VARIABLE}={text:?} is no number of seconds since 1970"))),
        },
        _ => Ok(None),
    }
}

/// Frees the space of removed snapshots, until `cancel` becomes true.
pub(super) fn free(store: &Store, cancel: Option<&Cancel>) {
    if let Err(error) = store.drain(Some(FREE_LIMIT), cancel) {
        // An error does not matter: the command has done its work, and the next process that frees space tries again.
        tracing::warn!(why = error.chain(), "space was not freed");
    }
}

/// Exit status of a `run` that cannot run its container.
const RUN_FAILED: u8 = 125;

impl Run {
    pub fn run(&self, session: &Session) -> Done {
        session.failure.set(Some(RUN_FAILED));
        let mut signals = Signals::take(session.is_quiet())?;
        let store = session.store_to_change()?;
        let runtime = find_runtime(self.runtime.as_deref())?;
        if self.tty && !io::IsTerminal::is_terminal(&io::stdin()) {
            return Err(Error::invalid("--tty needs a terminal as standard input").into());
        }
        let variable = |text: &String| match text.split_once('=') {
            Some(_) => Some(text.clone()),
            None => std::env::var(text).ok().map(|value| format!("{text}={value}")),
        };
        let options = RunOptions {
            image: names::image(&store, &self.image)?,
            command: self.command.clone(),
            name: self.name.clone(),
            remove: self.rm,
            env: self.env.iter().filter_map(variable).collect(),
            volumes: self.volumes.iter().cloned().chain(self.mounts.iter().filter_map(Mounted::volume)).collect(),
            tmpfs: self.tmpfs.iter().cloned().chain(self.mounts.iter().filter_map(Mounted::tmpfs)).collect(),
            read_only: self.read_only,
            entrypoint: self
                .entrypoint
                .clone()
                .map(|program| Some(program).filter(|program| !program.is_empty()).into_iter().collect()),
            dir: self.workdir.clone(),
            user: self.user.clone(),
            stdin: self.interactive,
            terminal: self.tty,
            no_new_privs: self.no_new_privs,
            network: self.network.into(),
            pids_max: pids_max(self.pids_limit),
        };
        let ended = build::start(&store, &runtime, &options, &mut signals);
        session.failure.set(signals.cannot_start.or(Some(RUN_FAILED)));
        if self.rm {
            free(&store, None);
        }
        let ended = ended?;
        tracing::info!(key = ended.key, status = ended.exit.0, "the container ended");
        session.status.set(ended.exit.0);
        Ok(())
    }
}

impl CommitImage {
    pub fn run(&self, session: &Session) -> Done {
        let interrupt = Interrupt::watch(session)?;
        let store = session.store_to_change()?;
        let cancel = interrupt.cancel();
        check_name(&self.name)?;
        let key = names::key(&store, &self.key)?;
        let built = build::commit_image(&store, &self.name, &key, epoch()?, cancel)?;
        Ok(session.output.either(&built, || format!("{} {}\n", shown(&built.name), built.id))?)
    }
}

/// Signals on their way to the container.
struct Signals {
    fd: SignalFd,
    /// Number of SIGINT and SIGTERM so far.
    asked: u32,
    is_quiet: bool,
    /// Exit status if the command could not be started.
    cannot_start: Option<u8>,
}

impl Signals {
    fn take(is_quiet: bool) -> Result<Self> {
        let signals: SigSet = FORWARDED.into_iter().collect();
        let failed = |errno: nix::Error| Error::new(ErrorKind::Io, "watching for signals").with_source(errno);
        signals.thread_block().map_err(failed)?;
        let fd = SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK).map_err(failed)?;
        Ok(Self { fd, asked: 0, is_quiet, cannot_start: None })
    }
}

impl Control for Signals {
    fn signal(&mut self) -> Option<Signal> {
        let info = self.fd.read_signal().ok().flatten()?;
        let signal = i32::try_from(info.ssi_signo).ok().and_then(|number| Signal::try_from(number).ok())?;
        if matches!(signal, Signal::SIGINT | Signal::SIGTERM) {
            self.asked += 1;
        }
        if self.asked > ASKED_MAX {
            return Some(Signal::SIGKILL);
        }
        // A signal from the terminal reaches the runtime too, and the runtime passes it on.
        (info.ssi_code != nix::libc::SI_KERNEL).then_some(signal)
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.fd.as_fd())
    }

    fn output(&mut self, _bytes: &[u8]) -> Result<()> {
        Ok(())
    }

    fn cannot_start(&mut self, status: u8) {
        self.cannot_start = Some(status);
    }

    fn warn(&mut self, warning: &str) {
        if !self.is_quiet {
            // A warning that cannot be printed is no reason to stop.
            drop(writeln!(io::stderr(), "strata: warning: {warning}"));
        }
    }
}
