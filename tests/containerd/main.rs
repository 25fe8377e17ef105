//! `strata serve` from outside: by its socket, and behind real containerds.
//!
//! Every test has a mount namespace of its own with a file system of its own in it, and a `/run` of its own: containerd's
//! shims, and runc, keep their state there. What a failed test leaves running ends with it, or by itself.
//!
//! Two versions of containerd are used: the distribution's, and 1.7 (`vagrant/provision.sh` unpacks it below `target`).

#[path = "../support/mod.rs"]
mod support;

mod conformance;
mod everyday;
mod image;
mod killed;
mod layers;
mod service;

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use strata::Snapshotter;
use strata::containerd::{Client, Plugin};
use strata::mount::scratch::{FsType, Scratch};
use strata::mount::{self, Access, Mount};
use strata::registry::Choice;

/// How long something may take that a machine under load does in a second.
const PATIENCE: Duration = Duration::from_secs(60);

/// A strategy and the file system that it is tested on.
type Setting = (Choice, FsType);

const SETTINGS: [Setting; 3] =
    [(Choice::Overlay, FsType::Ext4), (Choice::Btrfs, FsType::Btrfs), (Choice::Copy, FsType::Xfs)];

/// A file system for one test.
struct Bench {
    scratch: Scratch,
    strategy: Choice,
}

impl Bench {
    /// `None` where the machine lacks something: then the test must return.
    fn new((strategy, fs): Setting) -> Option<Self> {
        let scratch = support::scratch(fs)?;
        let bench = Self { scratch, strategy };
        fs::create_dir(bench.path("run")).expect("mkdir");
        let run = Mount::Bind { source: bench.path("run"), access: Access::ReadWrite };
        mount::attach(&[run], Path::new("/run")).expect("a /run of our own");
        Some(bench)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    fn socket(&self) -> PathBuf {
        self.path("strata/strata.sock")
    }

    /// The command line on the store.
    fn strata(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_strata"));
        command.env_remove("STRATA_LOG").env("STRATA_ROOT", self.path("store")).stdin(Stdio::null());
        command.args(["--backend", self.strategy.as_str()]).args(arguments);
        command
    }

    /// A daemon that can be called.
    fn daemon(&self) -> Process {
        let socket = self.socket();
        let mut command = self.strata(&["serve"]);
        command.arg("--socket").arg(&socket).arg("--containerd").arg(self.path("containerd.sock"));
        let daemon = Process::start(&mut command, &self.path("strata.log"));
        let began = Instant::now();
        while Client::connect(&socket, Plugin::default()).is_err() {
            assert!(began.elapsed() < PATIENCE, "it does not start: {}", daemon.log());
            std::thread::sleep(Duration::from_millis(20));
        }
        daemon
    }

    fn client(&self) -> Client {
        Client::connect(&self.socket(), Plugin::default()).expect("connect")
    }

    /// The ids of which something is on disk.
    fn on_disk(&self) -> usize {
        fs::read_dir(self.path("store/s")).expect("the store").count()
    }

    /// Waits until there is nothing on disk but `count` snapshots.
    fn wait_for_space(&self, count: usize) {
        let began = Instant::now();
        while self.on_disk() > count {
            assert!(began.elapsed() < PATIENCE, "{} snapshots are on disk, and {count} should be", self.on_disk());
            std::thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(self.on_disk(), count);
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        // The namespace goes with the thread, and what is mounted in it.
        let _ = mount::unmount(Path::new("/run"));
    }
}

/// A program that runs until it is dropped.
struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    fn start(command: &mut Command, log: &Path) -> Self {
        let file = fs::File::options().create(true).append(true).open(log).expect("a log");
        let child = command.stdout(file.try_clone().expect("dup")).stderr(file).process_group(0).spawn();
        Self { child: child.unwrap_or_else(|error| panic!("{command:?}: {error}")), log: log.to_owned() }
    }

    fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    fn pid(&self) -> nix::unistd::Pid {
        nix::unistd::Pid::from_raw(self.child.id().try_into().expect("a pid"))
    }

    /// Asks it to stop, and answers with its exit status.
    fn stop(mut self) -> Option<i32> {
        nix::sys::signal::kill(self.pid(), nix::sys::signal::Signal::SIGTERM).expect("kill");
        self.child.wait().expect("wait").code()
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
struct Version {
    name: &'static str,
    dir: PathBuf,
}

impl Version {
    /// The distribution's.
    fn installed() -> Option<Self> {
        let dir = ["/usr/bin", "/usr/local/bin"].into_iter().find(|dir| Path::new(dir).join("containerd").exists());
        let found = dir.map(PathBuf::from).ok_or_else(|| "containerd is not installed".to_owned());
        let dir = found.clone().unwrap_or_default();
        (support::require("containerd", found.map(drop)) && support::require("runc", runc()))
            .then_some(Self { name: "the distribution's", dir })
    }

    /// 1.7, unpacked by `vagrant/provision.sh`.
    fn unpacked() -> Option<Self> {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/containerd-1.7/usr/bin");
        let there = dir.join("containerd").exists();
        let found = if there { Ok(()) } else { Err("vagrant/provision.sh did not unpack it".to_owned()) };
        (support::require("containerd-1.7", found) && support::require("runc", runc()))
            .then_some(Self { name: "1.7", dir })
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
struct Containerd {
    version: Version,
    socket: PathBuf,
    process: Process,
}

impl Containerd {
    /// Starts it with the settings that strata prints for it.
    fn start(bench: &Bench, version: &Version) -> Self {
        let socket = bench.path("containerd.sock");
        let config = bench.path("containerd.toml");
        let (root, state) = (bench.path("containerd"), bench.path("run/containerd-state"));
        let number = version.program("containerd").arg("--version").output().expect("run containerd");
        let number = String::from_utf8_lossy(&number.stdout).split_whitespace().nth(2).expect("a version").to_owned();
        let mut strata = bench.strata(&["serve", "--print-config", "containerd", "--for", &number, "--socket"]);
        let printed = text(&strata.arg(bench.socket()).output().expect("run")).expect("settings");
        let settings = format!(
            "root = {root:?}\nstate = {state:?}\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n{printed}\n\
             [grpc]\n  address = {socket:?}\n"
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

    fn ctr(&self, arguments: &[&str]) -> Command {
        let mut command = self.version.program("ctr");
        command.arg("--address").arg(&self.socket).args(arguments).env("CONTAINERD_SNAPSHOTTER", "strata");
        command
    }

    /// What it answers, if it succeeds.
    fn ok(&self, arguments: &[&str]) -> String {
        text(&self.ctr(arguments).output().expect("run ctr"))
            .unwrap_or_else(|failed| panic!("{}: ctr {arguments:?}: {failed}", self.version.name))
    }

    /// The keys and names of its snapshots, sorted.
    fn snapshots(&self) -> Vec<String> {
        let list = self.ok(&["snapshots", "ls"]);
        let mut names: Vec<_> = list.lines().skip(1).filter_map(|line| line.split_whitespace().next()).collect();
        names.sort_unstable();
        names.into_iter().map(str::to_owned).collect()
    }
}

/// What a command printed, or everything that is known of its failure.
fn text(output: &Output) -> Result<String, String> {
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(stdout);
    }
    Err(format!("{}: {stdout}{}", output.status, String::from_utf8_lossy(&output.stderr)))
}

/// The keys and names that a client sees, sorted.
fn names(client: &dyn Snapshotter) -> Vec<String> {
    let mut names = Vec::new();
    client
        .walk(&[], &mut |info| {
            names.push(info.name.clone());
            Ok(())
        })
        .expect("walk");
    names
}
