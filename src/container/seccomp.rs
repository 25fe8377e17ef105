//! The system calls that a container may make, as a seccomp filter of `config.json`.
//!
//! The set is the intersection of the defaults of Docker and podman for a container without `CAP_SYS_ADMIN`. A call
//! that no list names fails with `ENOSYS`, so programs fall back as on an older kernel. Calls that make namespaces,
//! mount, or use kernel keyrings fail with `EPERM`: programs in a container rarely need them, and most known escapes
//! from containers use the kernel code of these calls.
//!
//! # References
//! OCI runtime specification, `config-linux.md`, "Seccomp"; `seccomp(2)`, `clone(2)`, `personality(2)`.

use serde::Serialize;

const EPERM: u32 = 1;
const EINVAL: u32 = 22;
const ENOSYS: u32 = 38;
const EAFNOSUPPORT: u32 = 97;

/// `CLONE_NEWNS`, `NEWCGROUP`, `NEWUTS`, `NEWIPC`, `NEWUSER`, `NEWPID`, `NEWNET`. `CLONE_NEWTIME` is missing: in
/// `clone(2)` this bit belongs to the exit signal, and the flag exists for `unshare` and `clone3` only.
const NAMESPACE_FLAGS: u64 = 0x7E02_0000;

/// `PER_LINUX` and `PER_LINUX32`, each without and with `UNAME26`; 0xFFFFFFFF asks for the current value.
const PERSONALITIES: [u64; 5] = [0, 8, 0x2_0000, 0x2_0008, 0xFFFF_FFFF];

/// The last address family that a container may use: netlink. Families above it are VSOCK, which reaches the host of a
/// virtual machine, and others that the common programs do not need.
const AF_NETLINK: u64 = 16;

const NETLINK_AUDIT: u64 = 9;

const ALLOWED: &str = "
    access chdir chmod chown chown32 close close_range copy_file_range creat dup dup2 dup3 faccessat faccessat2
    fadvise64 fadvise64_64 fallocate fchdir fchmod fchmodat fchmodat2 fchown fchown32 fchownat fcntl fcntl64 fdatasync
    fgetxattr flistxattr flock fremovexattr fsetxattr fstat fstat64 fstatat64 fstatfs fstatfs64 fsync ftruncate
    ftruncate64 futimesat getcwd getdents getdents64 getxattr inotify_add_watch inotify_init inotify_init1
    inotify_rm_watch ioctl lchown lchown32 lgetxattr link linkat listxattr llistxattr lremovexattr lseek _llseek
    lsetxattr lstat lstat64 mkdir mkdirat mknod mknodat name_to_handle_at newfstatat open openat openat2 pread64 preadv
    preadv2 pwrite64 pwritev pwritev2 read readahead readdir readlink readlinkat readv removexattr rename renameat
    renameat2 rmdir sendfile sendfile64 setxattr splice stat stat64 statfs statfs64 statx symlink symlinkat sync
    sync_file_range syncfs tee truncate truncate64 umask unlink unlinkat utime utimensat utimensat_time64 utimes
    fanotify_mark write writev

    brk get_mempolicy madvise mbind membarrier memfd_create memfd_secret mincore mlock mlock2 mlockall mmap mmap2
    mprotect mremap msync munlock munlockall munmap pkey_alloc pkey_free pkey_mprotect remap_file_pages set_mempolicy
    process_mrelease process_vm_readv process_vm_writev map_shadow_stack

    accept accept4 bind connect getpeername getsockname getsockopt listen recv recvfrom recvmmsg recvmmsg_time64 recvmsg
    send sendmmsg sendmsg sendto setsockopt shutdown socketcall socketpair

    epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd
    eventfd2 io_cancel io_destroy io_getevents io_setup io_submit _newselect pipe pipe2 poll ppoll ppoll_time64 pselect6
    pselect6_time64 select signalfd signalfd4 timerfd timerfd_create timerfd_gettime timerfd_gettime64 timerfd_settime
    timerfd_settime64

    ipc mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedreceive_time64 mq_timedsend mq_timedsend_time64
    mq_unlink msgctl msgget msgrcv msgsnd semctl semget semop semtimedop semtimedop_time64 shmat shmctl shmdt shmget

    adjtimex alarm clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 clock_gettime clock_gettime64
    clock_nanosleep clock_nanosleep_time64 getitimer gettimeofday nanosleep setitimer time timer_create timer_delete
    timer_getoverrun timer_gettime timer_gettime64 timer_settime timer_settime64 times

    capget capset chroot execve execveat exit exit_group fork futex futex_time64 futex_waitv get_robust_list
    get_thread_area getcpu getegid getegid32 geteuid geteuid32 getgid getgid32 getgroups getgroups32 getpgid getpgrp
    getpid getppid getpriority getrandom getresgid getresgid32 getresuid getresuid32 getrlimit getrusage getsid gettid
    getuid getuid32 ioprio_get ioprio_set kill landlock_add_rule landlock_create_ruleset landlock_restrict_self pause
    pidfd_getfd pidfd_open pidfd_send_signal prctl prlimit64 ptrace restart_syscall rseq rt_sigaction rt_sigpending
    rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_sigtimedwait_time64 rt_tgsigqueueinfo
    sched_get_priority_max sched_get_priority_min sched_getaffinity sched_getattr sched_getparam sched_getscheduler
    sched_rr_get_interval sched_rr_get_interval_time64 sched_setaffinity sched_setattr sched_setparam sched_setscheduler
    sched_yield seccomp set_robust_list set_thread_area set_tid_address setfsgid setfsgid32 setfsuid setfsuid32 setgid
    setgid32 setgroups setgroups32 setpgid setpriority setregid setregid32 setresgid setresgid32 setresuid setresuid32
    setreuid setreuid32 setrlimit setsid setuid setuid32 sigaction sigaltstack signal sigpending sigprocmask sigreturn
    sigsuspend sysinfo tgkill tkill ugetrlimit uname vfork wait4 waitid waitpid
";

/// Calls of one architecture only.
const ALLOWED_X86: &str = "arch_prctl modify_ldt";
const ALLOWED_ARM: &str = "arm_fadvise64_64 arm_sync_file_range breakpoint cacheflush set_tls sync_file_range2";

/// Calls that fail with `EPERM` instead of `ENOSYS`: a program learns that it lacks the right to make them.
const REFUSED: &str = "
    acct add_key bpf clock_settime clock_settime64 delete_module fanotify_init finit_module fsconfig fsmount fsopen
    fspick init_module ioperm iopl kcmp kexec_file_load kexec_load keyctl lookup_dcookie migrate_pages mount
    mount_setattr move_mount move_pages nfsservctl open_by_handle_at open_tree perf_event_open pivot_root
    process_madvise query_module quotactl quotactl_fd reboot request_key setdomainname sethostname setns settimeofday
    stime swapoff swapon sysfs syslog umount umount2 unshare uselib userfaultfd ustat vhangup vm86 vm86old vmsplice
";

/// `linux.seccomp` of `config.json`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Filter {
    default_action: Action,
    default_errno_ret: u32,
    architectures: &'static [&'static str],
    syscalls: Vec<Rule>,
}

#[derive(Clone, Copy, Debug, Serialize)]
enum Action {
    #[serde(rename = "SCMP_ACT_ALLOW")]
    Allow,
    #[serde(rename = "SCMP_ACT_ERRNO")]
    Errno,
}

/// The action for the calls `names` where all of `args` hold.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    names: Vec<&'static str>,
    action: Action,
    #[serde(skip_serializing_if = "Option::is_none")]
    errno_ret: Option<u32>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    args: Vec<Argument>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Argument {
    index: u32,
    value: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    value_two: Option<u64>,
    op: &'static str,
}

impl Filter {
    /// The filter for this machine; `None` on an architecture without a table.
    pub(super) fn of_this_machine() -> Option<Self> {
        let (architectures, own): (&'static [&'static str], _) = match std::env::consts::ARCH {
            "x86_64" => (&["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"], ALLOWED_X86),
            "aarch64" => (&["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"], ALLOWED_ARM),
            _ => return None,
        };
        let mut syscalls = vec![allow(ALLOWED, Vec::new()), allow(own, Vec::new()), refuse(REFUSED, EPERM, Vec::new())];
        syscalls.extend(PERSONALITIES.map(|value| allow("personality", vec![compare(0, "SCMP_CMP_EQ", value)])));
        syscalls.extend(clones());
        syscalls.extend(sockets());
        Some(Self { default_action: Action::Errno, default_errno_ret: ENOSYS, architectures, syscalls })
    }
}

/// Returns rules that allow new threads and processes, and no new namespaces. The flags of `clone3` lie in memory,
/// where no filter sees them, so `clone3` fails with `ENOSYS`, and programs use `clone`.
fn clones() -> [Rule; 2] {
    let no_namespace = Argument { index: 0, value: NAMESPACE_FLAGS, value_two: Some(0), op: "SCMP_CMP_MASKED_EQ" };
    [allow("clone", vec![no_namespace]), refuse("clone3", ENOSYS, Vec::new())]
}

fn sockets() -> [Rule; 4] {
    let family = |op, value| compare(0, op, value);
    [
        allow("socket", vec![family("SCMP_CMP_LT", AF_NETLINK)]),
        allow("socket", vec![family("SCMP_CMP_EQ", AF_NETLINK), compare(2, "SCMP_CMP_NE", NETLINK_AUDIT)]),
        refuse("socket", EINVAL, vec![family("SCMP_CMP_EQ", AF_NETLINK), compare(2, "SCMP_CMP_EQ", NETLINK_AUDIT)]),
        refuse("socket", EAFNOSUPPORT, vec![family("SCMP_CMP_GT", AF_NETLINK)]),
    ]
}

fn compare(index: u32, op: &'static str, value: u64) -> Argument {
    Argument { index, value, value_two: None, op }
}

fn allow(names: &'static str, args: Vec<Argument>) -> Rule {
    Rule { names: names.split_whitespace().collect(), action: Action::Allow, errno_ret: None, args }
}

fn refuse(names: &'static str, errno: u32, args: Vec<Argument>) -> Rule {
    Rule { names: names.split_whitespace().collect(), action: Action::Errno, errno_ret: Some(errno), args }
}
