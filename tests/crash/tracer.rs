//! Runs a command and stops it at each system call that waits for the disk.
//!
//! A wait for the disk is a call of [`name`]. A write that waits by itself (`O_SYNC`, `O_DSYNC`, `RWF_SYNC`,
//! `RWF_DSYNC`) would be a wait of another kind: a command that makes one fails the test that traces it.
//!
//! # References
//! `ptrace(2)`; `syscall(2)`, "x86-64"; the Linux kernel, `include/uapi/linux/btrfs.h`.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::process::{Child, Command, Stdio};

use nix::errno::Errno;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// Requests to btrfs by `ioctl` that write to the disk and wait for that.
const BTRFS_REQUESTS: [(u64, &str); 4] = [
    (0x5000_9417, "ioctl(BTRFS_IOC_SNAP_CREATE_V2)"),
    (0x8008_9418, "ioctl(BTRFS_IOC_START_SYNC)"),
    (0x4008_9416, "ioctl(BTRFS_IOC_WAIT_SYNC)"),
    (0x9408, "ioctl(BTRFS_IOC_SYNC)"),
];

/// The number of a system call that is none: the kernel does nothing.
const NO_CALL: u64 = u64::MAX;

/// A moment of a wait for the disk.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Moment {
    /// The call begins. It is the wait `number` of the command, counted from 0.
    Begins { number: usize, call: &'static str },
    /// The call that began last with this number is done.
    Ends { number: usize, failed: bool },
}

/// The answer to a wait that begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// The kernel does it.
    Go,
    /// The kernel does nothing, and the command is told this error.
    Refuse(Errno),
}

/// The end of a traced command.
#[derive(Debug)]
pub(crate) struct Ended {
    /// The exit status; `None` if a signal ended it.
    pub(crate) code: Option<i32>,
    /// The signal that ended it.
    pub(crate) signal: Option<Signal>,
    /// Its standard error.
    pub(crate) said: String,
}

/// A wait that began in some thread.
#[derive(Clone, Copy, Debug)]
struct Begun {
    number: usize,
    order: Order,
}

/// A command under trace, with its threads and children.
struct Tracer<'a> {
    at: &'a mut dyn FnMut(Moment) -> Order,
    threads: BTreeSet<Pid>,
    begun: BTreeMap<Pid, Begun>,
    waits: usize,
}

/// Runs `command` and tells `at` of each wait for the disk that it, its threads and its children make.
#[expect(clippy::zombie_processes, reason = "the tracer waits for each thread of it")]
pub(crate) fn trace(command: &Command, at: &mut dyn FnMut(Moment) -> Order) -> Ended {
    let mut child = start(command);
    let main = Pid::from_raw(i32::try_from(child.id()).expect("a process"));
    let options = Options::PTRACE_O_TRACESYSGOOD
        | Options::PTRACE_O_TRACECLONE
        | Options::PTRACE_O_TRACEFORK
        | Options::PTRACE_O_TRACEVFORK
        | Options::PTRACE_O_TRACEEXEC
        | Options::PTRACE_O_EXITKILL;
    ptrace::seize(main, options).expect("trace the command");
    ptrace::interrupt(main).expect("stop the command");
    let mut tracer = Tracer { at, threads: BTreeSet::from([main]), begun: BTreeMap::new(), waits: 0 };
    // The shell waits for this line before it becomes the command.
    child.stdin.take().expect("piped").write_all(b"\n").expect("begin");
    let (mut code, mut signal) = (None, None);
    while !tracer.threads.is_empty() {
        match tracer.step() {
            Some((pid, Ok(exit))) if pid == main => code = Some(exit),
            Some((pid, Err(by))) if pid == main => signal = Some(by),
            _ => {}
        }
    }
    let mut said = String::new();
    child.stderr.take().expect("piped").read_to_string(&mut said).expect("UTF-8");
    Ended { code, signal, said }
}

/// Starts a shell that becomes `command` after it read a line.
fn start(command: &Command) -> Child {
    let mut shell = Command::new("sh");
    shell
        .args(["-c", "read -r line; exec \"$0\" \"$@\" < /dev/null"])
        .arg(command.get_program())
        .args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    if let Some(dir) = command.get_current_dir() {
        shell.current_dir(dir);
    }
    shell.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    shell.spawn().expect("start a shell")
}

impl Tracer<'_> {
    /// Waits for an event and answers it. Returns a thread that ended, with its exit status.
    fn step(&mut self) -> Option<(Pid, Result<i32, Signal>)> {
        // Other tests of this process have children, too.
        let status = waitpid(None, Some(WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD)).expect("wait");
        match status {
            WaitStatus::PtraceSyscall(pid) => {
                self.at_call(pid);
                self.resume(pid, None);
            }
            WaitStatus::PtraceEvent(pid, ..) => self.resume(pid, None),
            WaitStatus::Stopped(pid, signal) => self.resume(pid, Some(signal)),
            WaitStatus::Exited(pid, code) => return self.end(pid, Ok(code)),
            WaitStatus::Signaled(pid, by, _) => return self.end(pid, Err(by)),
            _ => {}
        }
        None
    }

    fn resume(&mut self, pid: Pid, signal: Option<Signal>) {
        self.threads.insert(pid);
        // A thread that another one just killed is told of by the next wait.
        let _ = ptrace::syscall(pid, signal);
    }

    fn end(&mut self, pid: Pid, ended: Result<i32, Signal>) -> Option<(Pid, Result<i32, Signal>)> {
        self.begun.remove(&pid);
        self.threads.remove(&pid).then_some((pid, ended))
    }

    fn at_call(&mut self, pid: Pid) {
        let Ok(mut registers) = ptrace::getregs(pid) else { return };
        if let Some(Begun { number, order }) = self.begun.remove(&pid) {
            if let Order::Refuse(errno) = order {
                registers.rax = -i64::from(errno as i32) as u64;
                ptrace::setregs(pid, registers).expect("set the answer");
            }
            (self.at)(Moment::Ends { number, failed: (registers.rax as i64) < 0 });
        } else if registers.rax as i64 == -i64::from(libc::ENOSYS) {
            // The kernel sets this answer before a call begins.
            let arguments = [registers.rdi, registers.rsi, registers.rdx, registers.r10, registers.r8, registers.r9];
            check(registers.orig_rax, arguments);
            let Some(call) = name(registers.orig_rax, arguments) else { return };
            let number = self.waits;
            self.waits += 1;
            let order = (self.at)(Moment::Begins { number, call });
            self.begun.insert(pid, Begun { number, order });
            if order != Order::Go {
                registers.orig_rax = NO_CALL;
                ptrace::setregs(pid, registers).expect("refuse the call");
            }
        }
    }
}

/// The name of the system call `number`, if it waits for the disk.
fn name(number: u64, arguments: [u64; 6]) -> Option<&'static str> {
    match libc::c_long::try_from(number).ok()? {
        libc::SYS_fsync => Some("fsync"),
        libc::SYS_fdatasync => Some("fdatasync"),
        libc::SYS_syncfs => Some("syncfs"),
        libc::SYS_sync => Some("sync"),
        libc::SYS_sync_file_range => Some("sync_file_range"),
        libc::SYS_msync => Some("msync"),
        libc::SYS_ioctl => {
            let request = arguments[1] & u64::from(u32::MAX);
            BTRFS_REQUESTS.iter().find(|(known, _)| *known == request).map(|(_, name)| *name)
        }
        _ => None,
    }
}

/// Refuses writes that wait for the disk by themselves: no list of waits would have them.
fn check(number: u64, arguments: [u64; 6]) {
    let flags = match libc::c_long::try_from(number) {
        Ok(libc::SYS_open) => arguments[1],
        Ok(libc::SYS_openat) => arguments[2],
        Ok(libc::SYS_pwritev2) if arguments[5] & (libc::RWF_SYNC | libc::RWF_DSYNC) as u64 == 0 => return,
        Ok(libc::SYS_pwritev2 | libc::SYS_io_uring_setup) => u64::from(libc::O_DSYNC.unsigned_abs()),
        _ => return,
    };
    let waits = libc::O_DSYNC.unsigned_abs();
    assert!(flags & u64::from(waits) == 0, "the system call {number} writes and waits for the disk at once");
}
