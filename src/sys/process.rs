//! Starts a child process as the first process of a new PID namespace; the child ends with the thread that started it.
//! Makes user namespaces.
//!
//! # References
//! `pid_namespaces(7)`, `PR_SET_PDEATHSIG(2const)`, `signal-safety(7)`, `cgroups(7)`.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::ptr;

use nix::sched::{CloneFlags, unshare};
use rustix::process::WaitOptions;

/// Mount point of control groups, by convention.
const CGROUPS: &CStr = c"/sys/fs/cgroup";

/// Starts `command` as the first process of a new PID namespace, with no signal blocked, and with a mount namespace in
/// which `/proc` shows the new PID namespace and control groups are read-only. The command enters the control groups
/// whose `cgroup.procs` files are open as `groups`. If the command is killed, all processes that it started are killed.
/// The kernel kills the command when the calling thread ends.
///
/// The calling thread can start neither threads nor another such child afterwards, so it should be a thread for this
/// purpose only. Its mounts must be private.
///
/// # Errors
/// `EPERM` without the privilege; errors of `fork`, `execve` and the mounts.
pub(crate) fn spawn_as_init(command: &mut Command, groups: Vec<OwnedFd>) -> io::Result<Child> {
    unshare(CloneFlags::CLONE_NEWPID)?;
    // SAFETY: the closure runs between fork and exec; it makes system calls only, and allocates nothing.
    unsafe { command.pre_exec(move || become_init(&groups)) };
    command.spawn()
}

/// Starts `command`. The kernel kills the command when the calling thread ends.
///
/// # Errors
/// Errors of `fork`, `prctl` and `execve`.
pub(crate) fn spawn_until_thread_ends(command: &mut Command) -> io::Result<Child> {
    // SAFETY: the closure runs between fork and exec; it makes one system call, and allocates nothing.
    unsafe { command.pre_exec(end_with_parent) };
    command.spawn()
}

/// Returns a new user namespace whose `/proc/PID/uid_map` and `gid_map` have the content `uids` and `gids`. The
/// namespace lives as long as the descriptor, or a mount that uses the namespace. A child process makes the namespace
/// and ends before the call returns.
///
/// # Errors
/// `EPERM` for ids that the caller may not map; `ENOSPC` if user namespaces are turned off; errors of `/proc`.
pub(crate) fn user_namespace(uids: &[u8], gids: &[u8]) -> io::Result<OwnedFd> {
    let (read, write) = io::pipe()?;
    let flags = libc::c_long::from(libc::CLONE_NEWUSER | libc::SIGCHLD);
    // SAFETY: without `CLONE_VM` the child has memory of its own, like one of `fork`, and it makes system calls only.
    let pid = unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) };
    match pid {
        -1 => return Err(io::Error::last_os_error()),
        0 => wait_for_the_end_of(read.as_raw_fd(), write.as_raw_fd()),
        _ => {}
    }
    let namespace = (|| {
        std::fs::write(format!("/proc/{pid}/uid_map"), uids)?;
        std::fs::write(format!("/proc/{pid}/gid_map"), gids)?;
        std::fs::File::open(format!("/proc/{pid}/ns/user")).map(OwnedFd::from)
    })();
    drop(write);
    let child = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
    // A caller that ignores `SIGCHLD` has no child to wait for.
    let _ = rustix::process::waitpid(child, WaitOptions::empty());
    namespace
}

/// Ends this process when no process has the pipe's end `write` open any more: after the parent is done, or is killed.
fn wait_for_the_end_of(read: RawFd, write: RawFd) -> ! {
    let mut byte = 0_u8;
    // SAFETY: plain values, and a byte of this process's that lives through the call.
    unsafe {
        libc::close(write);
        libc::read(read, (&raw mut byte).cast(), 1);
        libc::_exit(0)
    }
}

fn end_with_parent() -> io::Result<()> {
    // SAFETY: plain values; the kernel reads no memory for this option.
    check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) })
}

fn become_init(groups: &[OwnedFd]) -> io::Result<()> {
    for group in groups {
        // 0 means the process that writes.
        rustix::io::write(group, b"0")?;
    }
    end_with_parent()?;
    // SAFETY: a plain value.
    check(unsafe { libc::unshare(libc::CLONE_NEWNS) })?;
    mount(c"proc", c"/proc")?;
    // Container runtimes support version 1 and version 2 of control groups, and some refuse a machine that has both. In
    // a user namespace, mounting version 2 also needs a cgroup namespace. If mounting is not permitted even then, the
    // control groups of the machine are used.
    if !has_cgroup2() && mount(c"cgroup2", CGROUPS).is_err() {
        // SAFETY: a plain value.
        let _ = check(unsafe { libc::unshare(libc::CLONE_NEWCGROUP) }).and_then(|()| mount(c"cgroup2", CGROUPS));
    }
    make_cgroups_read_only()?;
    // SAFETY: an all-zero `sigset_t` is valid to be filled by `sigemptyset`, and both live through the calls.
    unsafe {
        let mut none: libc::sigset_t = std::mem::zeroed();
        check(libc::sigemptyset(&raw mut none))?;
        check(libc::sigprocmask(libc::SIG_SETMASK, &raw const none, ptr::null_mut()))
    }
}

fn mount(fstype: &CStr, target: &CStr) -> io::Result<()> {
    let flags = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
    // SAFETY: three static NUL-terminated strings, and no data.
    check(unsafe { libc::mount(fstype.as_ptr(), target.as_ptr(), fstype.as_ptr(), flags, ptr::null()) })
}

/// Makes the mount of control groups read-only in this mount namespace, so that the runtime makes no group: a runtime
/// that is killed leaves its groups. A machine without control groups is left as it is.
fn make_cgroups_read_only() -> io::Result<()> {
    let flags = libc::MS_REMOUNT | libc::MS_BIND | libc::MS_RDONLY | libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
    // SAFETY: a static NUL-terminated string, and no other data.
    let remounted = unsafe { libc::mount(ptr::null(), CGROUPS.as_ptr(), ptr::null(), flags, ptr::null()) };
    match check(remounted) {
        Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOENT)) => Ok(()),
        done => done,
    }
}

/// Returns true if the machine uses version 2 of control groups.
fn has_cgroup2() -> bool {
    // SAFETY: the path is a NUL-terminated string, and the kernel fills the structure, for which zeros are valid.
    unsafe {
        let mut stat: libc::statfs = std::mem::zeroed();
        libc::statfs(CGROUPS.as_ptr(), &raw mut stat) == 0 && stat.f_type == libc::CGROUP2_SUPER_MAGIC
    }
}

fn check(returned: libc::c_int) -> io::Result<()> {
    if returned == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
