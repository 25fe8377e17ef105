//! A table of things that a container must not do, each tried in a container of each runtime, as root of the machine
//! and as root of a user namespace.
//!
//! A row is a command of busybox, or a system call by the program `try`, which the test compiles. A command that
//! succeeds is an escape. Commands act on what the test made, or ask for what the kernel refuses before it acts.

use std::fs;
use std::io::Write as _;
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::process::{Command, Output};

use super::containers::{BASE, containers};
use super::tally::Tally;
use super::user_namespace::in_namespace;
use super::{Bench, support, text};

/// Makes one system call and fails with its error: `try NUMBER ARGUMENT...`, each argument a number or `s:TEXT`.
const TRY: &str = r#"
#define _GNU_SOURCE
#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static int abstract(const char *name) {
    struct sockaddr_un at = { .sun_family = AF_UNIX };
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    memcpy(at.sun_path + 1, name, strlen(name));
    return connect(fd, (struct sockaddr *)&at, offsetof(struct sockaddr_un, sun_path) + 1 + strlen(name));
}

int main(int count, char **words) {
    static char room[4096];
    long a[7] = { 0 }, answer;
    if (!strcmp(words[1], "abstract")) answer = abstract(words[2]);
    else {
        for (int i = 1; i < count && i < 8; i++)
            a[i - 1] = !strncmp(words[i], "s:", 2) ? (long)(words[i] + 2)
                     : !strcmp(words[i], "room") ? (long)room : strtol(words[i], NULL, 0);
        answer = syscall(a[0], a[1], a[2], a[3], a[4], a[5], a[6]);
    }
    if (answer < 0) printf("(%s) ", strerror(errno));
    return answer < 0;
}
"#;

/// Commands that must fail, by name. `BLOCK` is the number of a block device of the machine, `MAJOR MINOR`.
const COMMANDS: &[(&str, &str)] = &[
    ("make a block device", "mknod /b0 b BLOCK && head -c 1 /b0"),
    ("make a block device in /dev", "mknod /dev/b0 b BLOCK && head -c 1 /dev/b0"),
    ("make a block device in /dev/shm", "mknod /dev/shm/b0 b BLOCK && head -c 1 /dev/shm/b0"),
    ("make a block device in a volume", "mknod /volume/b0 b BLOCK && head -c 1 /volume/b0"),
    ("open a block device of the image", "head -c 1 /node || exit 1"),
    ("open a block device of the image as another user", "su nobody -s /bin/sh -c 'head -c 1 /node'"),
    ("open a block device of a volume", "head -c 1 /volume/node"),
    ("open the memory device of the image", "head -c 1 /memory"),
    ("make the memory device", "mknod /m0 c 1 1 && head -c 1 /m0"),
    ("make the kernel log device", "mknod /k0 c 1 11 && head -c 1 /k0"),
    ("open /dev/mem", "head -c 1 /dev/mem"),
    ("open /dev/kmsg", "head -c 1 /dev/kmsg"),
    ("find other devices in /dev", "find /dev -type b | grep ."),
    ("read /proc/kcore", "head -c 1 /proc/kcore | grep -q ."),
    ("read /proc/kmsg", "timeout 2 head -c 1 /proc/kmsg"),
    ("read /proc/keys", "grep -q . /proc/keys"),
    ("read /proc/interrupts", "grep -q . /proc/interrupts"),
    ("write /proc/sysrq-trigger", "echo -n '' > /proc/sysrq-trigger"),
    ("write /proc/sys", "cat /proc/sys/kernel/core_pattern > /proc/sys/kernel/core_pattern"),
    ("read /sys/firmware", "ls /sys/firmware | grep -q ."),
    ("write to /sys", "echo 1 > /sys/kernel/profiling || mkdir /sys/fs/x"),
    ("make a control group", "mkdir /sys/fs/cgroup/x || mkdir /sys/fs/cgroup/*/x"),
    (
        "write a release agent",
        "echo /x > /sys/fs/cgroup/release_agent || for f in /sys/fs/cgroup/*/release_agent; do echo /x > $f; done",
    ),
    ("allow devices", "echo a > /sys/fs/cgroup/devices/devices.allow"),
    ("mount a writable /sys", "mount -o remount,rw /sys"),
    ("allow devices on the root", "mount -o remount,dev /"),
    ("mount proc", "mount -t proc proc /mnt"),
    ("mount sysfs", "mount -t sysfs sysfs /mnt"),
    ("mount tmpfs", "mount -t tmpfs tmpfs /mnt"),
    ("mount a block device", "mount -t ext4 /node /mnt"),
    ("unmount", "umount /proc/kcore || umount -l /proc"),
    ("make a mount namespace", "unshare -m true"),
    ("make a user namespace", "unshare -U true"),
    ("make a network namespace", "unshare -n true"),
    ("enter a namespace", "nsenter --net=/proc/1/ns/net true"),
    ("see processes of the machine", "test -e /proc/PID/comm"),
    ("see other processes", "test $(ls -d /proc/[0-9]* | wc -l) -gt 8"),
    ("set the host name", "hostname other"),
    ("swap", "swapon /swap"),
    ("load a module", "insmod /bin/busybox"),
    ("write to a read-only volume", "echo x > /read-only/new"),
    ("reach a service on the loopback interface of the machine", "nc -w 2 127.0.0.1 PORT < /dev/null"),
    ("send raw packets", "ping -c 1 -W 1 127.0.0.1"),
    ("change addresses", "ip address add 10.9.8.7/32 dev lo"),
    ("reach an abstract socket", "/try abstract ABSTRACT"),
    ("write to the program of the runtime", "echo >> /proc/1/exe"),
    ("read the state of the runtime", "ls /proc/1/root/../rootfs"),
];

/// System calls that must fail.
const CALLS: &[(&str, libc::c_long, &str)] = &[
    ("add a key", libc::SYS_add_key, "s:user s:strata s:x 1 -3"),
    ("ask for the session keyring", libc::SYS_keyctl, "0 -3 0"),
    ("request a key", libc::SYS_request_key, "s:user s:strata 0 -3"),
    ("load a BPF map", libc::SYS_bpf, "0 room 72"),
    ("watch performance events", libc::SYS_perf_event_open, "room 0 -1 -1 0"),
    ("unload a module", libc::SYS_delete_module, "s:strata_none 2048"),
    ("map faults of memory", libc::SYS_userfaultfd, "1"),
    ("make an io_uring", libc::SYS_io_uring_setup, "1 room"),
    ("open by handle", libc::SYS_open_by_handle_at, "-100 room 0"),
    ("pivot the root", libc::SYS_pivot_root, "s:/mnt s:/mnt"),
    ("open a file system", libc::SYS_fsopen, "s:tmpfs 0"),
    ("copy a mount", libc::SYS_open_tree, "-100 s:/ 1"),
    ("clone into a user namespace", libc::SYS_clone, "0x10000011 0 0 0 0"),
    ("open a packet socket", libc::SYS_socket, "17 3 0"),
    ("open a raw socket", libc::SYS_socket, "2 3 1"),
    ("open a socket to the hypervisor", libc::SYS_socket, "40 1 0"),
    ("read the kernel log", libc::SYS_syslog, "3 room 100"),
    ("set quotas", libc::SYS_quotactl, "0x800001 0 0 0"),
    ("account processes", libc::SYS_acct, "0"),
    ("hang up the terminal", libc::SYS_vhangup, ""),
    ("set the clock", libc::SYS_clock_settime, "0 room"),
    ("reboot", libc::SYS_reboot, "0 0 0 0"),
    ("find the test by its process id", libc::SYS_kill, "PID 0"),
];

/// The services that the rows mention, and the rows as a script.
struct Ground {
    _tcp: TcpListener,
    _abstract: UnixListener,
    block: Loop,
}

impl Ground {
    /// `None` where the machine lacks a C compiler that links programs statically.
    fn new(bench: &Bench, who: &str) -> Option<Self> {
        if !compile(bench) {
            return None;
        }
        let tcp = TcpListener::bind("127.0.0.1:0").expect("listen");
        let name = format!("strata-test-{}-{who}", std::process::id());
        let unix = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).expect("a name")).expect("listen");
        let mut script = "cd /\n".to_owned();
        let calls = CALLS.iter().map(|(name, number, words)| (*name, format!("/try {number} {words}")));
        for (name, command) in COMMANDS.iter().map(|(name, command)| (*name, (*command).to_owned())).chain(calls) {
            let row = format!(
                "if ({command}) > /dev/null 2>&1; then echo 'ESCAPE: {name}'; else echo 'refused: {name}'; fi\n"
            );
            script.push_str(&row);
        }
        let port = tcp.local_addr().expect("an address").port().to_string();
        let pid = std::process::id().to_string();
        let block = Loop::attach(bench);
        for (word, value) in [("BLOCK", block.number.clone()), ("PORT", port), ("PID", pid), ("ABSTRACT", name)] {
            script = script.replace(word, &value);
        }
        fs::write(bench.path("context/probe"), &script).expect("write");
        Some(Self { _tcp: tcp, _abstract: unix, block })
    }

    fn check(&self, what: &str, output: &Output) {
        let tally = Tally::new("containers");
        let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
        let wrong: Vec<&str> = stdout.lines().filter(|line| !line.starts_with("refused: ")).collect();
        assert_eq!((output.status.code(), &wrong[..]), (Some(0), &[][..]), "{what}: {stderr}");
        let told = |name: &&str| stdout.lines().any(|line| line.strip_prefix("refused: ") == Some(*name));
        let names = COMMANDS.iter().map(|row| row.0).chain(CALLS.iter().map(|row| row.0));
        let missing: Vec<&str> = names.filter(|name| !told(name)).collect();
        assert!(missing.is_empty(), "{what}: nothing was told of {missing:?}: {stderr}");
        let count = stdout.lines().count();
        tally.add(count, 0);
        writeln!(std::io::stderr(), "{what}: {count} things tried, none done").expect("write");
    }
}

/// Puts the program `try` into the context.
fn compile(bench: &Bench) -> bool {
    fs::write(bench.path("try.c"), TRY).expect("write");
    let mut command = Command::new("cc");
    command.args(["-static", "-w", "-o"]).args([bench.path("context/try"), bench.path("try.c")]);
    let made = match command.output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(text(&output.stderr)),
        Err(error) => Err(error.to_string()),
    };
    support::require("static-cc", made)
}

/// A block device of the machine that could be read: a loop device on a file of the test's own.
struct Loop {
    path: String,
    /// As `mknod` takes it.
    number: String,
}

impl Loop {
    fn attach(bench: &Bench) -> Self {
        fs::write(bench.path("disk"), vec![b'x'; 1 << 20]).expect("write");
        let output = Command::new("losetup").args(["--find", "--show"]).arg(bench.path("disk")).output().expect("run");
        assert!(output.status.success(), "{}", text(&output.stderr));
        let path = text(&output.stdout).trim().to_owned();
        assert_eq!(fs::File::open(&path).and_then(|mut disk| read_one(&mut disk)).expect("root reads it"), b'x');
        let name = path.rsplit('/').next().expect("a name");
        let number = fs::read_to_string(format!("/sys/class/block/{name}/dev")).expect("its number");
        Self { number: number.trim().replace(':', " "), path }
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        // A device that stays attached keeps a file of the test, and nothing else.
        let _ = Command::new("losetup").args(["--detach", &self.path]).status();
    }
}

fn read_one(disk: &mut fs::File) -> std::io::Result<u8> {
    let mut byte = [0];
    std::io::Read::read_exact(disk, &mut byte).map(|()| byte[0])
}

/// The image with what is tried, and in a root's store device nodes that anybody may open.
const IMAGE: &str = "FROM base\nCOPY try probe /\nRUN mkdir -p /mnt /etc && echo 'nobody:x:65534:65534::/:/bin/sh' > /etc/passwd && dd if=/dev/zero of=/swap bs=4096 count=16 2> /dev/null\n";

fn runtimes() -> Vec<&'static str> {
    ["crun", "runc"].into_iter().filter(|name| Command::new(name).arg("--version").output().is_ok()).collect()
}

#[test]
fn what_a_container_of_root_must_not_do() {
    let Some(bench) = containers() else { return };
    let Some(ground) = Ground::new(&bench, "root") else { return };
    let built = bench.build("plain", IMAGE, &["-q"]);
    assert!(built.status.success(), "{}", text(&built.stderr));
    bench.ok(&["run", "--name", "work", "plain", "true"]);
    let volume = bench.path("volume");
    let (root, read_only) = (bench.path("m"), bench.path("read-only"));
    for dir in [&volume, &root, &read_only] {
        fs::create_dir(dir).expect("mkdir");
    }
    bench.ok(&["mount", "work", &root.to_string_lossy()]);
    let script = format!(
        "mknod -m 666 m/node b {0} && mknod -m 666 m/memory c 1 1 && mknod -m 666 volume/node b {0}",
        ground.block.number
    );
    let made = Command::new("sh").args(["-ec", &script]).current_dir(bench.dir.path()).status().expect("run");
    assert!(made.success());
    bench.ok(&["umount", &root.to_string_lossy()]);
    bench.ok(&["commit-image", "it", "work"]);
    let volume = format!("{}:/volume", volume.display());
    let read_only = format!("{}:/read-only:ro", read_only.display());
    let given = ["--network", "none", "-v", &volume, "-v", &read_only];
    let mut columns = Vec::new();
    for runtime in runtimes() {
        let output = bench.run(&[&["run", "--rm", "--runtime", runtime], &given[..], &["it", "sh", "/probe"]].concat());
        ground.check(runtime, &output);
        columns.push((format!("strata, {runtime}"), text(&output.stdout)));
    }
    columns.extend(others(&bench, &given));
    print_table(&columns);
}

/// Answers of podman and docker for the same image and volumes, where they are. Nothing is asserted of them.
fn others(bench: &Bench, given: &[&str]) -> Vec<(String, String)> {
    let image = bench.path("it.tar").to_string_lossy().into_owned();
    bench.ok(&["export", "it", &format!("docker-archive:{image}"), "--compress", "none"]);
    let [root, state, temporary] = ["podman", "podman-run", "podman-tmp"].map(|name| bench.path(name));
    let podman = || {
        let mut command = Command::new("podman");
        command.arg("--root").arg(&root).arg("--runroot").arg(&state).arg("--tmpdir").arg(&temporary);
        command.args(["--storage-driver", "vfs", "--cgroup-manager", "cgroupfs", "--events-backend", "none"]);
        // Debian's crun refuses machines that have both versions of control groups.
        command.args(["--runtime", "runc"]);
        command
    };
    let docker = || Command::new("docker");
    let tools: [(&str, &dyn Fn() -> Command); 2] = [("podman", &podman), ("docker", &docker)];
    let answer = |(name, command): &(&str, &dyn Fn() -> Command)| {
        let loaded = command().args(["load", "--quiet", "--input", &image]).output().ok()?;
        let said = text(&loaded.stdout);
        let loaded = said.trim().rsplit(": ").next().filter(|_| loaded.status.success())?.to_owned();
        // The limits are set for machines that refuse podman's own.
        let limits = ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"];
        let run =
            command().args(["run", "--rm"]).args(limits).args(given).args([&loaded, "sh", "/probe"]).output().ok()?;
        let _ = command().args(["rmi", "--force", &loaded]).output();
        Some(((*name).to_owned(), text(&run.stdout))).filter(|(_, answers)| !answers.is_empty())
    };
    tools.iter().filter_map(answer).collect()
}

/// Prints what was tried, with the answer in each column: a name, and what the probe said.
fn print_table(columns: &[(String, String)]) {
    let mut table = String::new();
    let heads: Vec<&str> = columns.iter().map(|(name, _)| name.as_str()).collect();
    table.push_str(&format!("| tried | {} |\n|---|{}\n", heads.join(" | "), "---|".repeat(heads.len())));
    for name in COMMANDS.iter().map(|row| row.0).chain(CALLS.iter().map(|row| row.0)) {
        let answer = |(_, said): &(String, String)| {
            let line = said.lines().find(|line| line.split_once(": ").is_some_and(|(_, tried)| tried == name));
            line.and_then(|line| line.split_once(": ")).map_or("-", |(answer, _)| answer).replace("ESCAPE", "**done**")
        };
        table.push_str(&format!("| {name} | {} |\n", columns.iter().map(answer).collect::<Vec<_>>().join(" | ")));
    }
    for (name, said) in columns {
        let count = |word: &str| said.lines().filter(|line| line.starts_with(word)).count();
        table.push_str(&format!("{name}: {} refused, {} done\n", count("refused: "), count("ESCAPE: ")));
    }
    write!(std::io::stderr(), "{table}").expect("write");
}

/// Each runtime in turn, with the copy strategy.
const SCRIPT: &str = r#"
read -r _
mkdir volume read-only
s() { "$STRATA" --root "$PWD/user" --backend copy "$@"; }
s build -q -t base -f base.Dockerfile context > id
s build -q -t it -f it.Dockerfile context > id
for runtime in $RUNTIMES; do
  s run --rm --network none --runtime "$runtime" -v "$PWD/volume:/volume" -v "$PWD/read-only:/read-only:ro" it sh /probe > "$runtime.out"
done
"#;

#[test]
fn what_a_container_in_a_user_namespace_must_not_do() {
    let Some(bench) = containers() else { return };
    let Some(ground) = Ground::new(&bench, "user") else { return };
    fs::write(bench.path("base.Dockerfile"), BASE).expect("write");
    fs::write(bench.path("it.Dockerfile"), IMAGE).expect("write");
    let mut output = in_namespace(&bench, SCRIPT, &[("RUNTIMES", &runtimes().join(" "))]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    for runtime in runtimes() {
        output.stdout = fs::read(bench.path(&format!("{runtime}.out"))).expect("read");
        ground.check(&format!("{runtime} in a user namespace"), &output);
    }
}
