//! A disk under a file system on the running kernel, of which every write is noted, or which fails when it is told to.
//!
//! A loop device lies on a file that `qemu-storage-daemon` shows by FUSE; what the daemon does with a request is put
//! together of its block drivers: `blklogwrites` notes it, `blkdebug` fails it. All of it lies in memory and in a mount
//! namespace of the calling thread, and ends with that thread.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use strata::mount::scratch::{FsType, Scratch};

use super::support;

/// File system type by which `statfs(2)` names a FUSE mount.
const FUSE_SUPER_MAGIC: u64 = 0x6573_5546;

/// Size of the place that holds disks, logs and copies.
const PLACE_BYTES: u64 = 8 << 30;

/// Flushes that fail, at most: more than a few calls of a script need.
const FLUSHES: usize = 200;

/// How long what takes no time is waited for.
const PATIENCE: Duration = Duration::from_secs(30);

/// The smallest that each file system takes.
fn size_bytes(fs: FsType) -> u64 {
    match fs {
        FsType::Ext4 => 64 << 20,
        FsType::Btrfs => 160 << 20,
        FsType::Xfs | FsType::Tmpfs => 320 << 20,
    }
}

/// Behaviour of a disk besides keeping its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    /// The disk notes each write and each flush that did not fail.
    Recording,
    /// The disk notes nothing.
    Failing,
}

impl Manner {
    /// The block node of the daemon below the one that is shown.
    fn node(self) -> &'static str {
        match self {
            Self::Recording => "noted",
            Self::Failing => "file",
        }
    }
}

/// A rule of `blkdebug` by which each request of the type `iotype` fails, or only the next one.
fn failing(iotype: &str, once: bool) -> Value {
    json!({"event": "none", "iotype": iotype, "errno": 5, "once": once})
}

/// A mounted file system on such a disk.
#[derive(Debug)]
pub(crate) struct Disk {
    place: Scratch,
    daemon: Daemon,
    /// The block node of the daemon that does what it is asked for.
    sound: &'static str,
    mounted: bool,
}

impl Disk {
    /// A fresh one, or `None` (the test must return) where the machine lacks what it needs.
    pub(crate) fn new(fs: FsType, manner: Manner) -> Option<Self> {
        drop(support::scratch(fs)?);
        Self::with(fs, manner, |base| {
            File::create(base).and_then(|file| file.set_len(size_bytes(fs))).expect("make a disk");
            let options: &[&str] = match fs {
                FsType::Ext4 => &["-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0"],
                _ => &["-q", "-f"],
            };
            run(Command::new(format!("mkfs.{fs}")).args(options).arg(base));
        })
    }

    /// One that begins with the file system in the file `image`.
    pub(crate) fn of_image(fs: FsType, manner: Manner, image: &Path) -> Option<Self> {
        Self::with(fs, manner, |base| copy(image, base))
    }

    fn with(fs: FsType, manner: Manner, make: impl FnOnce(&Path)) -> Option<Self> {
        if !support::require("powercut", can_be_shown()) {
            return None;
        }
        let place = support::gate("tmpfs", Scratch::new(FsType::Tmpfs, PLACE_BYTES))?;
        let base = place.path().join("base.raw");
        make(&base);
        copy(&base, &place.path().join("disk.raw"));
        let daemon = Daemon::start(place.path(), manner);
        let mut disk = Self { place, daemon, sound: manner.node(), mounted: false };
        mount(fs, &disk.place.path().join("disk"), disk.path());
        disk.mounted = true;
        Some(disk)
    }

    /// Where the file system is.
    pub(crate) fn path(&self) -> PathBuf {
        self.place.path().join("mnt")
    }

    /// How much was noted by now: what is acknowledged after a write was done has this as its place in the log.
    pub(crate) fn log_bytes(&self) -> u64 {
        fs::metadata(self.place.path().join("log.raw")).expect("the log").len()
    }

    /// From now on every write fails with `EIO`.
    pub(crate) fn fail_writes(&mut self) {
        self.fail(&[failing("write", false)]);
    }

    /// The next write fails with `EIO`, and is lost.
    pub(crate) fn fail_next_write(&mut self) {
        self.fail_next_writes(1);
    }

    /// The next `count` writes fail with `EIO`, and are lost.
    pub(crate) fn fail_next_writes(&mut self, count: usize) {
        self.fail(&vec![failing("write", true); count]);
    }

    /// From now on every flush fails with `EIO`, up to [`FLUSHES`] of them. Writes reach the cache of the disk, and are
    /// noted.
    pub(crate) fn fail_flushes(&mut self) {
        self.fail(&vec![failing("flush", true); FLUSHES]);
    }

    /// From now on every write fails with `EIO`, and every flush as in [`Disk::fail_flushes`].
    pub(crate) fn fail_all(&mut self) {
        let mut errors = vec![failing("flush", true); FLUSHES];
        errors.push(failing("write", false));
        self.fail(&errors);
    }

    fn fail(&mut self, errors: &[Value]) {
        let broken = json!({"driver": "blkdebug", "node-name": "broken", "image": self.sound, "inject-error": errors});
        self.daemon.ask("blockdev-add", broken);
        self.show("broken");
    }

    /// Shows the block node `node` of the daemon as the disk.
    fn show(&mut self, node: &str) {
        let disk = json!({"options": [{"driver": "raw", "node-name": "disk", "file": node}]});
        // The daemon flushes the disk first: each attempt uses up one flush that fails.
        let shown = (0..=FLUSHES).any(|_| self.daemon.try_ask("blockdev-reopen", &disk).is_ok());
        assert!(shown, "the disk cannot be changed");
    }

    /// Brings all of the file system to disk.
    pub(crate) fn flush(&self) {
        let root = File::open(self.path()).expect("open");
        rustix::fs::syncfs(&root).expect("sync");
    }

    /// Writes and flushes succeed again.
    pub(crate) fn heal(&mut self) {
        self.show(self.sound);
    }

    /// Unmounts it and mounts it anew, as after another boot.
    pub(crate) fn mount_again(&mut self, fs: FsType) {
        unmount(&self.path());
        self.mounted = false;
        mount(fs, &self.place.path().join("disk"), self.path());
        self.mounted = true;
    }

    /// Ends it, with all that it noted in order.
    pub(crate) fn stop(mut self) -> Recorded {
        unmount(&self.path());
        self.mounted = false;
        self.daemon.stop();
        Recorded { disk: self }
    }
}

/// Whether such disks can be had.
fn can_be_shown() -> Result<(), String> {
    if !Path::new("/dev/fuse").exists() {
        return Err("the kernel has no FUSE: modprobe fuse".to_owned());
    }
    let found = Command::new("qemu-storage-daemon").arg("--version").output();
    found
        .map(drop)
        .map_err(|error| format!("qemu-storage-daemon (package qemu-utils, on Debian 12 qemu-system-common): {error}"))
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.mounted {
            // A test failed: the rest goes with the daemon and the namespace.
            let _ = Command::new("umount").arg("--lazy").arg(self.path()).status();
        }
        self.daemon.kill();
    }
}

/// The log of a disk, and the disk's content before the log.
#[derive(Debug)]
pub(crate) struct Recorded {
    disk: Disk,
}

impl Recorded {
    /// The file `name` beside it: `base.raw`, `log.raw`, or a copy of the caller's.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.disk.place.path().join(name)
    }
}

/// The process that plays the disk.
#[derive(Debug)]
struct Daemon {
    child: Child,
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Daemon {
    /// Starts one in `place` that shows `disk.raw` there as `disk`.
    fn start(place: &Path, manner: Manner) -> Self {
        let shown = place.join("disk");
        for file in ["disk", "log.raw"] {
            File::create(place.join(file)).expect("create");
        }
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "qemu-storage-daemon", "--chardev", "stdio,id=orders"]);
        command.args([
            "--monitor",
            "chardev=orders",
            "--blockdev",
            "driver=file,node-name=file,filename=disk.raw,discard=unmap",
        ]);
        if manner == Manner::Recording {
            command.args(["--blockdev", "driver=file,node-name=log,filename=log.raw"]);
            command.args(["--blockdev", "driver=blklogwrites,node-name=noted,file=file,log=log,log-sector-size=512"]);
        }
        command.args(["--blockdev", &format!("driver=raw,node-name=disk,file={}", manner.node())]);
        let export = format!("type=fuse,id=shown,node-name=disk,mountpoint={},writable=on", shown.display());
        command.args(["--export", &export]).current_dir(place);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("start the disk");
        let (orders, answers) = (child.stdin.take(), child.stdout.take().expect("piped"));
        let mut daemon = Self { child, orders, answers: BufReader::new(answers) };
        daemon.wait_for(&shown);
        daemon.line();
        daemon.ask("qmp_capabilities", json!({}));
        daemon
    }

    fn wait_for(&mut self, shown: &Path) {
        let started = Instant::now();
        while rustix::fs::statfs(shown).is_ok_and(|stat| stat.f_type as u64 != FUSE_SUPER_MAGIC) {
            assert!(self.child.try_wait().expect("wait").is_none(), "the disk ended at once");
            assert!(started.elapsed() < PATIENCE, "the disk does not appear");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn line(&mut self) -> Value {
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("an answer of the disk");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
    }

    /// Gives an order and waits until it is done.
    fn ask(&mut self, order: &str, arguments: Value) {
        self.try_ask(order, &arguments).unwrap_or_else(|error| panic!("{order}: {error}"));
    }

    /// Gives an order, waits for the answer, and returns the error that the daemon tells.
    fn try_ask(&mut self, order: &str, arguments: &Value) -> Result<(), Value> {
        let orders = self.orders.as_mut().expect("it runs");
        // At once: the last brace of `quit` ends it, and what came after that would find nobody.
        let words = format!("{}\n", json!({"execute": order, "arguments": arguments}));
        orders.write_all(words.as_bytes()).expect("order");
        loop {
            let mut answer = self.line();
            if let Some(error) = answer.get_mut("error") {
                return Err(error.take());
            }
            if answer.get("return").is_some() {
                return Ok(());
            }
        }
    }

    /// Ends it in good order: its log is whole then.
    fn stop(&mut self) {
        self.ask("quit", json!({}));
        self.orders = None;
        assert!(self.child.wait().expect("wait").success(), "the disk ended badly");
    }

    fn kill(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Mounts the file system in the file `image` at `target`, which is made.
pub(crate) fn mount(fs: FsType, image: &Path, target: impl AsRef<Path>) {
    let target = target.as_ref();
    fs::create_dir_all(target).expect("make the mount point");
    run(Command::new("mount").args(["-t", fs.as_str(), "-o", "loop"]).args([image, target]));
}

pub(crate) fn unmount(target: &Path) {
    run_patiently(Command::new("umount").arg(target));
}

/// Changes how the file system at `target` is mounted.
pub(crate) fn remount(target: &Path, options: &str) {
    run_patiently(Command::new("mount").args(["-o", options]).arg(target));
}

/// Runs what cannot be done while a file is open: a child that another test starts has all that this process has, until
/// it becomes another program.
fn run_patiently(command: &mut Command) {
    let started = Instant::now();
    while started.elapsed() < PATIENCE {
        if command.output().is_ok_and(|output| output.status.success()) {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    run(command);
}

/// Copies a file, but not what is empty in it.
pub(crate) fn copy(from: &Path, to: &Path) {
    run(Command::new("cp").arg("--sparse=auto").args([from, to]));
}

/// Runs a program of the system, where Debian keeps it too.
fn run(command: &mut Command) {
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    let output = command.env("PATH", path).output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
