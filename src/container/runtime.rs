//! Finds and runs the OCI runtime, and tells failures of the runtime from failures of the command.
//!
//! The options of crun switch control groups off, and those of runc let it go on if it may not make any, because strata
//! makes the groups (`cgroup.rs`).
//!
//! # References
//! OCI runtime specification, `runtime.md`; `runc(8)`, `crun(1)`.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, PipeReader, Read as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;

use nix::sys::signal::Signal;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::Access as FileAccess;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open, pidfd_send_signal};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};
use serde::Deserialize;

use super::cgroup::Groups;
use super::{Exit, Streams};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::sys;

/// The known runtimes in order of preference, each with its global options.
const KNOWN: [(&str, &[&str]); 3] =
    [("crun", &["--cgroup-manager=disabled"]), ("runc", &["--rootless=true"]), ("youki", &[])];

/// The exit status for a command that does not exist, as in a shell.
pub const NOT_FOUND: u8 = 127;

/// The exit status for a command that is not executable, as in a shell.
pub const NOT_EXECUTABLE: u8 = 126;

/// The longest pause between two calls of [`Control::signal`].
const POLL: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// The size of the buffer for output, in bytes.
const OUTPUT_BYTES: usize = 32 << 10;

/// Maximum number of bytes of a runtime's log that are read.
const LOG_BYTES_MAX: u64 = 64 << 10;

/// Controls a running container: receives its output, and gives signals for it.
pub trait Control {
    /// Returns a signal to send to the container now. Called every 100 ms, and when [`Control::fd`] is readable.
    fn signal(&mut self) -> Option<Signal>;

    /// Returns a descriptor that becomes readable when there is a signal to send.
    fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// Receives output of the container.
    ///
    /// # Errors
    /// An error kills the container.
    fn output(&mut self, bytes: &[u8]) -> Result<()>;

    /// Receives a warning for the user: the container lacks a feature that this machine cannot provide.
    fn warn(&mut self, warning: &str) {
        let _ = warning;
    }

    /// Called if the command cannot be started. `status` is that of a shell, [`NOT_FOUND`] or [`NOT_EXECUTABLE`].
    fn cannot_start(&mut self, status: u8) {
        let _ = status;
    }
}

/// An OCI runtime of the machine.
#[derive(Clone, Debug)]
pub struct Runtime {
    program: PathBuf,
    options: &'static [&'static str],
    /// The program `mount(8)`, if it is installed.
    mount: Option<PathBuf>,
    /// The program that connects private networks, if it is installed.
    pasta: Option<PathBuf>,
}

impl Runtime {
    /// Finds `wanted` (a name, or a path), or the first of crun, runc and youki, in `search_path` (as `PATH` has it).
    ///
    /// # Errors
    /// `NotFound`, with what to install.
    pub fn find(wanted: Option<&str>, search_path: &OsStr) -> Result<Self> {
        let (mount, pasta) = (search("mount", search_path), search("pasta", search_path));
        let missing = |what: String| {
            Error::not_found(format!("{what}: install the package crun or runc, or name a runtime by --runtime"))
        };
        match wanted {
            Some(name) => {
                let program = if name.contains('/') { Some(PathBuf::from(name)) } else { search(name, search_path) };
                let program = program.filter(|program| is_program(program));
                let program = program.ok_or_else(|| missing(format!("the OCI runtime {name:?} is not installed")))?;
                let base = program.file_name().unwrap_or_default();
                let options =
                    KNOWN.into_iter().find(|(known, _)| base == *known).map_or(&[][..], |(_, options)| options);
                Ok(Self { program, options, mount, pasta })
            }
            None => KNOWN
                .into_iter()
                .find_map(|(name, options)| Some((search(name, search_path)?, options)))
                .map(|(program, options)| Self { program, options, mount, pasta })
                .ok_or_else(|| missing("no OCI runtime is installed (crun, runc or youki)".to_owned())),
        }
    }

    /// Returns the path of the runtime.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// Returns the program `mount(8)` of the search path.
    pub(super) fn mount(&self) -> Result<&Path> {
        let missing =
            || Error::not_found("a container needs the program mount: install the package mount or util-linux");
        self.mount.as_deref().ok_or_else(missing)
    }

    /// Returns the program that gives a private network its outgoing connections; `None` if it is not installed.
    pub fn pasta(&self) -> Option<&Path> {
        self.pasta.as_deref()
    }

    /// Runs the bundle `place` to its end, in control groups for at most `pids_max` processes.
    pub(super) fn run(
        &self,
        place: &Path,
        streams: &Streams,
        pids_max: Option<u32>,
        control: &mut dyn Control,
    ) -> Result<Exit> {
        let log = place.join("log");
        let id = container_id();
        // The groups are removed after the runtime, which is in them, has ended.
        let groups = Groups::new(&id, pids_max);
        let mut command = Command::new(&self.program);
        command.args(self.options).arg("--root").arg(place.join("state"));
        command.arg("--log").arg(&log).args(["--log-format", "json", "run", "--bundle"]).arg(place).arg(&id);
        let output = direct(&mut command, streams).at("make a pipe for", &self.program)?;
        let terminal = match streams {
            Streams::Inherit { stdin: true } => tcgetattr(io::stdin()).ok(),
            _ => None,
        };
        let entries = groups.entries()?;
        let ended = Running::start(command, &self.program, entries).and_then(|running| running.wait(output, control));
        restore(terminal);
        let (status, killed) = ended?;
        if !killed
            && !status.success()
            && let Some(message) = failure(&log)?
        {
            return Err(refusal(&self.program, &message));
        }
        let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(255);
        Ok(Exit(u8::try_from(code).unwrap_or(u8::MAX)))
    }
}

fn search(name: &str, search_path: &OsStr) -> Option<PathBuf> {
    let dirs = search_path.as_bytes().split(|byte| *byte == b':').filter(|dir| !dir.is_empty());
    dirs.map(|dir| Path::new(OsStr::from_bytes(dir)).join(name)).find(|program| is_program(program))
}

fn is_program(path: &Path) -> bool {
    path.is_file() && rustix::fs::access(path, FileAccess::EXEC_OK).is_ok()
}

/// Returns a name that no other container of the machine has at the moment.
fn container_id() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    format!("{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

/// Sets the streams of `command`. Returns the reader of the output, if the output is captured.
fn direct(command: &mut Command, streams: &Streams) -> io::Result<Option<PipeReader>> {
    match streams {
        Streams::Inherit { stdin } => {
            command.stdin(if *stdin { Stdio::inherit() } else { Stdio::null() });
            Ok(None)
        }
        Streams::Captured => {
            let (reader, writer) = io::pipe()?;
            command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer);
            // Ctrl-C in the terminal signals the caller only, and the caller then ends the container.
            command.process_group(0);
            Ok(Some(reader))
        }
    }
}

/// Gives the terminal its former state, because a runtime that was killed could not.
fn restore(terminal: Option<Termios>) {
    if let Some(termios) = terminal {
        // The call fails if the terminal is gone: then there is nothing to restore.
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &termios);
    }
}

/// A running runtime, and the thread that started it: the kernel kills the runtime when the thread ends.
struct Running {
    child: Child,
    /// Dropping the sender ends the thread.
    leave: Option<mpsc::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Running {
    fn start(mut command: Command, program: &Path, groups: Vec<OwnedFd>) -> Result<Self> {
        let (started, child) = mpsc::channel();
        let (leave, left) = mpsc::channel::<()>();
        let work = move || {
            let child = sys::process::spawn_as_init(&mut command, groups);
            // This closes the pipe ends of `command`: the output would not end as long as they are open.
            drop(command);
            if started.send(child).is_ok() {
                // The call returns when the sender is dropped, because nothing is ever sent.
                let _ = left.recv();
            }
        };
        let thread = thread::Builder::new().name("container".to_owned()).spawn(work).at("start", program)?;
        let child = child.recv().map_err(|_| Error::new(ErrorKind::Io, "a thread ended early"))?;
        Ok(Self { child: child.at("run", program)?, leave: Some(leave), thread: Some(thread) })
    }

    /// Waits for the end of the runtime. Also returns whether `control` killed it.
    fn wait(mut self, mut output: Option<PipeReader>, control: &mut dyn Control) -> Result<(ExitStatus, bool)> {
        // A process id fits into an `i32`, and is not 0.
        let pid = i32::try_from(self.child.id())
            .ok()
            .and_then(Pid::from_raw)
            .ok_or_else(|| Error::new(ErrorKind::Io, "the container's runtime has no process id"))?;
        let process = pidfd_open(pid, PidfdFlags::empty()).at("open", "the container's process")?;
        let mut killed = false;
        loop {
            let ready = wait_for(process.as_fd(), output.as_ref().map(AsFd::as_fd), control.fd())?;
            if ready.output && !take(&mut output, control)? {
                output = None;
            }
            if ready.ended && output.is_none() {
                break;
            }
            if let Some(signal) = control.signal() {
                killed |= signal == Signal::SIGKILL;
                send(process.as_fd(), signal)?;
            }
        }
        let status = self.child.wait().at("wait for", "the container's runtime")?;
        Ok((status, killed))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // After an error the runtime still runs. Both calls do nothing if it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
        drop(self.leave.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The descriptors that became readable.
struct Ready {
    output: bool,
    ended: bool,
}

fn wait_for(process: BorrowedFd<'_>, output: Option<BorrowedFd<'_>>, control: Option<BorrowedFd<'_>>) -> Result<Ready> {
    let mut fds = vec![PollFd::from_borrowed_fd(process, PollFlags::IN)];
    fds.extend(output.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
    fds.extend(control.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
    match poll(&mut fds, Some(&POLL)) {
        Err(Errno::INTR) => {}
        polled => {
            polled.at("wait for", "the container")?;
        }
    }
    let is_ready = |at: usize| fds.get(at).is_some_and(|fd| !fd.revents().is_empty());
    Ok(Ready { ended: is_ready(0), output: output.is_some() && is_ready(1) })
}

/// Passes readable output on to `control`; returns false at the end of the output.
fn take(output: &mut Option<PipeReader>, control: &mut dyn Control) -> Result<bool> {
    let Some(reader) = output else { return Ok(false) };
    let mut buffer = vec![0; OUTPUT_BYTES];
    let count = reader.read(&mut buffer).at("read", "the container's output")?;
    if count > 0 {
        control.output(&buffer[..count])?;
    }
    Ok(count > 0)
}

fn send(process: BorrowedFd<'_>, signal: Signal) -> Result<()> {
    let Some(signal) = rustix::process::Signal::from_named_raw(signal as i32) else { return Ok(()) };
    match pidfd_send_signal(process, signal) {
        Err(Errno::SRCH) => Ok(()),
        sent => sent.at("send a signal to", "the container"),
    }
}

/// A line of a runtime's log.
#[derive(Deserialize)]
struct LogLine {
    #[serde(default)]
    level: String,
    msg: String,
}

/// Returns the last error in the runtime's log, if the log has one.
fn failure(log: &Path) -> Result<Option<String>> {
    let file = match File::open(log) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file.at("open", log)?,
    };
    let mut text = Vec::new();
    file.take(LOG_BYTES_MAX).read_to_end(&mut text).at("read", log)?;
    let message = |line: &str| match serde_json::from_str::<LogLine>(line) {
        Ok(line) => matches!(line.level.as_str(), "error" | "fatal").then_some(line.msg),
        Err(_) => (!line.trim().is_empty()).then(|| line.trim().to_owned()),
    };
    Ok(String::from_utf8_lossy(&text).lines().filter_map(message).next_back())
}

fn refusal(program: &Path, message: &str) -> Error {
    let name = program.file_name().unwrap_or_default().display().to_string();
    Error::new(ErrorKind::FailedPrecondition, format!("{name} could not start the command")).with_source(message)
}
