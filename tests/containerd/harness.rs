//! Shared by the tests and the benchmark behind containerd: a file system with a `/run` of its own, daemons,
//! containerds.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::support;
use strata::Snapshotter;
use strata::backend::Strategy;
use strata::containerd::{Client, Plugin};
use strata::mount::scratch::{FsType, Scratch};
use strata::mount::{self, Access, Mount};

/// How long something may take that a machine under load does in a second.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The limits of containerd for its shims, which a machine under load exceeds: it then takes what runs for gone.
const LIMITS: [&str; 4] = ["shim.load", "shim.cleanup", "shim.shutdown", "task.state"];

/// A file system for one test.
pub(crate) struct Bench {
    scratch: Scratch,
    strategy: Strategy,
}

impl Bench {
    /// `None` where the machine lacks something: then the test must return.
    pub(crate) fn new((strategy, fs): (Strategy, FsType)) -> Option<Self> {
        Some(Self::on(support::scratch(fs)?, strategy))
    }

    /// On a file system that is there.
    pub(crate) fn on(scratch: Scratch, strategy: Strategy) -> Self {
        let bench = Self { scratch, strategy };
        fs::create_dir(bench.path("run")).expect("mkdir");
        let run = Mount::Bind { source: bench.path("run"), access: Access::ReadWrite };
        mount::attach(&[run], Path::new("/run")).expect("a /run of our own");
        bench
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.path("strata/strata.sock")
    }

    /// The command line on the store.
    pub(crate) fn strata(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_strata"));
        command.env_remove("STRATA_LOG").env("STRATA_ROOT", self.path("store")).stdin(Stdio::null());
        command.args(["--backend", self.strategy.name]).args(arguments);
        command
    }

    /// A daemon that can be called.
    pub(crate) fn daemon(&self) -> Process {
        self.daemon_with(&[])
    }

    pub(crate) fn daemon_with(&self, more: &[&str]) -> Process {
        self.daemon_of(&self.path("store"), &self.socket(), more)
    }

    /// A daemon of the store at `root`.
    pub(crate) fn daemon_of(&self, root: &Path, socket: &Path, more: &[&str]) -> Process {
        let mut command = self.strata(&["serve"]);
        command.env("STRATA_ROOT", root).arg("--socket").arg(socket);
        self.start(command.arg("--containerd").arg(self.path("containerd.sock")).args(more), socket)
    }

    /// Starts a daemon, and waits until it can be called.
    pub(crate) fn start(&self, command: &mut Command, socket: &Path) -> Process {
        let daemon = Process::start(command, &self.path("strata.log"));
        let began = Instant::now();
        while Client::connect(socket, Plugin::default()).is_err() {
            assert!(began.elapsed() < PATIENCE, "it does not start: {}", daemon.log());
            std::thread::sleep(Duration::from_millis(20));
        }
        daemon
    }

    pub(crate) fn client(&self) -> Client {
        Client::connect(&self.socket(), Plugin::default()).expect("connect")
    }

    /// Takes a lock of the store, as another process would: `recover`, by which recoveries take turns, or `drain`, by
    /// which those do who free space.
    pub(crate) fn hold(&self, name: &str) -> Held {
        let file = fs::File::options().write(true).create(true).truncate(false).open(self.path("store/run").join(name));
        let file = file.expect("a lock file");
        let whole = libc::flock {
            l_type: libc::F_WRLCK as libc::c_short,
            l_whence: libc::SEEK_SET as libc::c_short,
            l_start: 0,
            l_len: 0,
            l_pid: 0,
        };
        nix::fcntl::fcntl(&file, nix::fcntl::FcntlArg::F_OFD_SETLKW(&whole)).expect("lock");
        Held(file)
    }

    /// The ids of which something is on disk.
    pub(crate) fn on_disk(&self) -> usize {
        fs::read_dir(self.path("store/s")).expect("the store").count()
    }

    /// Waits until there is nothing on disk but `count` snapshots.
    pub(crate) fn wait_for_space(&self, count: usize) {
        let began = Instant::now();
        while self.on_disk() > count {
            assert!(began.elapsed() < PATIENCE, "{} snapshots are on disk, and {count} should be", self.on_disk());
            std::thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(self.on_disk(), count);
    }
}

/// A lock that is held until it is dropped.
pub(crate) struct Held(#[expect(dead_code, reason = "the descriptor is the lock")] fs::File);

impl Drop for Bench {
    fn drop(&mut self) {
        // The namespace goes with the thread, and what is mounted in it.
        let _ = mount::unmount(Path::new("/run"));
    }
}

/// A program that runs until it is dropped.
pub(crate) struct Process {
    pub(crate) child: Child,
    log: PathBuf,
}

impl Process {
    fn start(command: &mut Command, log: &Path) -> Self {
        let file = fs::File::options().create(true).append(true).open(log).expect("a log");
        // It must not outlive whoever started it, however that ends.
        let mut bound = Command::new("setpriv");
        bound.args(["--pdeathsig", "KILL", "--"]).arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => bound.env(name, value),
                None => bound.env_remove(name),
            };
        }
        bound.stdin(Stdio::null()).stdout(file.try_clone().expect("dup")).stderr(file).process_group(0);
        let child = bound.spawn();
        Self { child: child.unwrap_or_else(|error| panic!("{command:?}: {error}")), log: log.to_owned() }
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    fn pid(&self) -> nix::unistd::Pid {
        nix::unistd::Pid::from_raw(self.child.id().try_into().expect("a pid"))
    }

    /// Asks it to stop.
    pub(crate) fn terminate(&self) {
        nix::sys::signal::kill(self.pid(), nix::sys::signal::Signal::SIGTERM).expect("kill");
    }

    /// Its exit status, when it has ended.
    pub(crate) fn wait(mut self) -> Option<i32> {
        self.child.wait().expect("wait").code()
    }

    /// Asks it to stop, and answers with its exit status.
    pub(crate) fn stop(self) -> Option<i32> {
        self.terminate();
        self.wait()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A containerd, by the directory of its programs and what it is called.
#[derive(Clone, Debug)]
pub(crate) struct Version {
    pub(crate) name: &'static str,
    dir: PathBuf,
}

impl Version {
    /// The distribution's.
    pub(crate) fn installed() -> Option<Self> {
        let dir = ["/usr/bin", "/usr/local/bin"].into_iter().find(|dir| Path::new(dir).join("containerd").exists());
        let found = dir.map(PathBuf::from).ok_or_else(|| "containerd is not installed".to_owned());
        let dir = found.clone().unwrap_or_default();
        (support::require("containerd", found.map(drop)) && support::require("runc", runc()))
            .then_some(Self { name: "the distribution's", dir })
    }

    /// 1.7, unpacked by `vagrant/provision.sh`.
    pub(crate) fn unpacked() -> Option<Self> {
        Self::below("1.7", "containerd-1.7")
    }

    /// The newest that Debian has, unpacked by `vagrant/provision.sh`.
    pub(crate) fn newest() -> Option<Self> {
        Self::below("2", "containerd-2")
    }

    /// The one that was unpacked below `target/DIR`, which is also what requires it.
    fn below(name: &'static str, dir: &str) -> Option<Self> {
        let programs = Path::new(env!("CARGO_MANIFEST_DIR")).join("target").join(dir).join("usr/bin");
        let there = programs.join("containerd").exists();
        let found = if there { Ok(()) } else { Err("vagrant/provision.sh did not unpack it".to_owned()) };
        (support::require(dir, found) && support::require("runc", runc())).then_some(Self { name, dir: programs })
    }

    fn program(&self, name: &str) -> Command {
        let mut command = Command::new(self.dir.join(name));
        let path = std::env::var("PATH").unwrap_or_default();
        // containerd looks for its shim there.
        command.env("PATH", format!("{}:{path}:/usr/sbin:/sbin", self.dir.display())).stdin(Stdio::null());
        command
    }
}

fn runc() -> Result<(), String> {
    let there = ["/usr/sbin/runc", "/usr/bin/runc", "/usr/local/sbin/runc"].iter().any(|path| Path::new(path).exists());
    if there { Ok(()) } else { Err("runc is not installed".to_owned()) }
}

/// A containerd on directories of its own.
pub(crate) struct Containerd {
    version: Version,
    pub(crate) socket: PathBuf,
    process: Process,
}

impl Containerd {
    /// Starts it with the settings that strata prints for it.
    pub(crate) fn start(bench: &Bench, version: &Version) -> Self {
        Self::start_with(bench, version, "")
    }

    /// Starts it with those and `more`.
    pub(crate) fn start_with(bench: &Bench, version: &Version, more: &str) -> Self {
        let socket = bench.path("containerd.sock");
        let config = bench.path("containerd.toml");
        let (root, state) = (bench.path("containerd"), bench.path("run/containerd-state"));
        let number = version.program("containerd").arg("--version").output().expect("run containerd");
        let number = String::from_utf8_lossy(&number.stdout).split_whitespace().nth(2).expect("a version").to_owned();
        let mut strata = bench.strata(&["serve", "--print-config", "containerd", "--for", &number, "--socket"]);
        let printed = text(&strata.arg(bench.socket()).output().expect("run")).expect("settings");
        let limits = LIMITS.map(|name| format!("  \"io.containerd.timeout.{name}\" = \"{}s\"\n", PATIENCE.as_secs()));
        let settings = format!(
            "root = {root:?}\nstate = {state:?}\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n{printed}\n\
             [timeouts]\n{}[grpc]\n  address = {socket:?}\n{more}",
            limits.concat()
        );
        fs::write(&config, settings).expect("write");
        let mut command = version.program("containerd");
        let process = Process::start(command.arg("-c").arg(&config), &bench.path("containerd.log"));
        let containerd = Self { version: version.clone(), socket, process };
        let began = Instant::now();
        while !containerd.ctr(&["version"]).output().expect("run ctr").status.success() {
            assert!(began.elapsed() < PATIENCE, "it does not start: {}", containerd.process.log());
            std::thread::sleep(Duration::from_millis(50));
        }
        containerd
    }

    pub(crate) fn ctr(&self, arguments: &[&str]) -> Command {
        let mut command = self.version.program("ctr");
        // Of its own accord it waits for 10 s.
        command.arg("--connect-timeout").arg(format!("{}s", PATIENCE.as_secs()));
        command.arg("--address").arg(&self.socket).args(arguments).env("CONTAINERD_SNAPSHOTTER", "strata");
        command
    }

    /// A name for the container `name` that is unique on this machine: the names of cgroups are shared with everything
    /// that runs beside this test.
    pub(crate) fn container(&self, name: &str) -> String {
        format!("strata-{}-{name}", self.process.child.id())
    }

    /// `ctr run` of a script, in cgroups that go with the container: those of the namespace would stay on the machine.
    pub(crate) fn run(&self, options: &[&str], image: &str, name: &str, script: &str) -> Command {
        let mut command = self.ctr(&["run", "--cgroup", ""]);
        command.args(options).arg(image).arg(self.container(name)).args(["/bin/sh", "-c", script]);
        command
    }

    /// The output of a `ctr` command that must succeed.
    pub(crate) fn ok(&self, arguments: &[&str]) -> String {
        text(&self.ctr(arguments).output().expect("run ctr"))
            .unwrap_or_else(|failed| panic!("{}: ctr {arguments:?}: {failed}", self.version.name))
    }

    /// The keys and names of its snapshots, sorted.
    pub(crate) fn snapshots(&self) -> Vec<String> {
        let list = self.ok(&["snapshots", "ls"]);
        let mut names: Vec<_> = list.lines().skip(1).filter_map(|line| line.split_whitespace().next()).collect();
        names.sort_unstable();
        names.into_iter().map(str::to_owned).collect()
    }
}

/// The output of a command, or everything that is known of its failure.
pub(crate) fn text(output: &Output) -> Result<String, String> {
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(stdout);
    }
    Err(format!("{}: {stdout}{}", output.status, String::from_utf8_lossy(&output.stderr)))
}

/// The keys and names that a client sees, sorted.
pub(crate) fn names(client: &dyn Snapshotter) -> Vec<String> {
    let mut names = Vec::new();
    client
        .walk(&[], &mut |info| {
            names.push(info.name.clone());
            Ok(())
        })
        .expect("walk");
    names
}
