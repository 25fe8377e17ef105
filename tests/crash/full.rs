//! Full disks: whatever filled the store's file system, a removal succeeds and gives its space back.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use strata::backends::{BTRFS, COPY};
use strata::mount::scratch::{FsType, Scratch};
use strata::snapshotter::Labels;
use strata::store::Store;
use strata::tree::Dir;
use strata::{Snapshotter, mount};

use super::archive::docker_archive;
use super::disk::remount;
use super::tally::Tally;
use super::{OpenStore as _, Setting, settings, support, wanted};

const NONE: &Labels = &BTreeMap::new();

/// The length of what each case removes.
const VICTIM_BYTES: usize = 6 << 20;

/// The inodes of a tmpfs; a disk's follow from its size.
const TMPFS_INODES: u64 = 300;

/// More than a store takes before it is filled.
const QUOTA: &str = "40M";

/// How many empty files fill a file system that makes inodes out of space.
const INODES_MAX: u64 = 40_000;

/// How long the cases of one run take at most, unless all are wanted.
const BUDGET_S: u64 = 45;

/// Where the space went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Filler {
    /// A container wrote to the snapshot that is removed.
    Snapshot,
    /// An import ran out of space.
    Import,
    /// A file that is not the store's.
    Stranger,
    /// Empty files that are not the store's took all inodes, and another file all space.
    Inodes,
    /// A file that is not the store's, and whatever is freed goes into it at once.
    Rival,
    /// A container wrote until the quota of the store's subvolume was used up.
    Quota,
}

/// Those that fill a whole file system.
const FILLERS: [Filler; 5] = [Filler::Snapshot, Filler::Import, Filler::Stranger, Filler::Inodes, Filler::Rival];

/// The command that is to free the space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Freeing {
    Rm,
    RmDescendants,
    Rmi,
    Gc,
    Repair,
    /// `Remove` and `Cleanup` of a daemon, which has the store open.
    Daemon,
}

const FREEING: [Freeing; 6] =
    [Freeing::Rm, Freeing::RmDescendants, Freeing::Rmi, Freeing::Gc, Freeing::Repair, Freeing::Daemon];

#[derive(Clone, Copy, Debug)]
struct Case {
    setting: Setting,
    filler: Filler,
    freeing: Freeing,
}

impl std::fmt::Display for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { setting, filler, freeing } = self;
        write!(f, "{setting}, {filler:?}, {freeing:?}")
    }
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for fs in FsType::ALL {
        let mut settings = settings(fs);
        if fs == FsType::Xfs {
            settings.push(Setting { strategy: COPY, variant: COPY.variants[0], fs });
        }
        for setting in settings {
            // A snapshot of the strategy btrfs is a subvolume of its own, with a quota of its own.
            let has_quota = fs == FsType::Btrfs && setting.strategy.name != BTRFS.name;
            for filler in FILLERS.into_iter().chain(has_quota.then_some(Filler::Quota)) {
                cases.extend(FREEING.map(|freeing| Case { setting, filler, freeing }));
            }
        }
    }
    cases
}

fn size_bytes(fs: FsType) -> u64 {
    match fs {
        FsType::Ext4 | FsType::Tmpfs => 48 << 20,
        FsType::Btrfs => 160 << 20,
        FsType::Xfs => 320 << 20,
    }
}

/// A store on a small disk, with `base` and the image `victim` in it.
struct Bench {
    case: Case,
    scratch: Scratch,
    root: PathBuf,
}

impl Bench {
    fn new(case: Case) -> Option<Self> {
        let Setting { fs, strategy, .. } = case.setting;
        let scratch = support::gate(fs.as_str(), Scratch::new(fs, size_bytes(fs)))?;
        if fs == FsType::Tmpfs {
            remount(scratch.path(), &format!("remount,nr_inodes={TMPFS_INODES}"));
        }
        let root = scratch.path().join("store");
        if case.filler == Filler::Quota {
            btrfs(&["quota", "enable"], scratch.path());
            btrfs(&["subvolume", "create"], &root);
        }
        let bench = Self { case, scratch, root };
        support::gate(strategy.name, case.setting.store(&bench.root).map(drop))?;
        bench.furnish();
        Some(bench)
    }

    fn store(&self) -> Store {
        self.case.setting.store(&self.root).unwrap_or_else(|error| panic!("{}: {}", self.case, error.chain()))
    }

    fn furnish(&self) {
        let store = self.store();
        store.prepare("making", "", NONE).expect("prepare");
        store.commit("base", "making", NONE).expect("commit");
        for key in ["work", "trash"] {
            store.prepare(key, "base", NONE).expect("prepare");
            write(&store, key, VICTIM_BYTES).expect("write");
        }
        drop(store);
        let files = vec![vec![("file".to_owned(), vec![1; VICTIM_BYTES])]];
        let image = self.archive("victim", files);
        assert!(image.status.success(), "{}: {image:?}", self.case);
    }

    /// Imports an image of these layers.
    fn archive(&self, name: &str, layers: Vec<Vec<(String, Vec<u8>)>>) -> Output {
        // In memory: the disk is the store's.
        let memory = Scratch::new(FsType::Tmpfs, 256 << 20).expect("a tmpfs");
        let path = memory.path().join("archive.tar");
        fs::write(&path, docker_archive(&[(name, layers)])).expect("write");
        self.strata(&["import", &format!("docker-archive:{}", path.display())])
    }

    fn strata(&self, arguments: &[&str]) -> Output {
        let options = self
            .case
            .setting
            .variant
            .options
            .iter()
            .flat_map(|(name, value)| [format!("--{name}"), (*value).to_owned()]);
        let mut command = Command::new(env!("CARGO_BIN_EXE_strata"));
        command.arg("--root").arg(&self.root).args(options).args(arguments);
        command.output().expect("run strata")
    }

    /// Fills the disk.
    fn fill(&self) {
        match self.case.filler {
            Filler::Snapshot => self.fill_through_snapshot(),
            Filler::Import => {
                fill_to(&self.filler(), 8 << 20, self.scratch.path());
                let layers = (0..4).map(|layer| vec![(format!("file{layer}"), vec![layer; 5 << 20])]).collect();
                let output = self.archive("big", layers);
                assert!(!output.status.success(), "{}: a large image on a full disk", self.case);
            }
            Filler::Stranger | Filler::Rival => fill(&self.filler()),
            Filler::Quota => {
                btrfs(&["qgroup", "limit", QUOTA], &self.root);
                self.fill_through_snapshot();
                let refused = File::create(self.root.join("probe")).expect_err("the quota is used up");
                assert_eq!(refused.raw_os_error(), Some(Errno::DQUOT.raw_os_error()), "{}: {refused}", self.case);
            }
            Filler::Inodes => {
                let dir = self.filler();
                fs::create_dir(&dir).expect("make directory");
                fill(&dir.join("space"));
                let made = |number: &u64| File::create(dir.join(number.to_string())).is_ok();
                (0..INODES_MAX).take_while(made).for_each(drop);
            }
        }
    }

    /// As a container does that writes until nothing more goes in.
    fn fill_through_snapshot(&self) {
        let store = self.store();
        let mounts = store.mounts("work").expect("mounts");
        let dir = Dir::from_fd(mount::detached(&mounts).expect("mount"), "work");
        let mut file = dir.create_file("filler").expect("create");
        write_all_there_is(&mut file);
        for number in 0..64 {
            let Ok(mut file) = dir.create_file(format!("more{number}")) else { break };
            write_all_there_is(&mut file);
        }
    }

    /// A file outside the store that takes the rest of the space.
    fn filler(&self) -> PathBuf {
        self.scratch.path().join("filler")
    }

    /// Runs the command while another process takes each block that becomes free.
    fn free_beside_rival(&self, daemon: &Store) -> Result<(), String> {
        let ended = AtomicBool::new(false);
        let mut file = File::options().append(true).open(self.filler()).expect("open");
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !ended.load(Ordering::Relaxed) {
                    for size in [1 << 16, 1 << 12, 1] {
                        let _ = file.write(&vec![1; size]);
                    }
                }
            });
            let freed = self.free(daemon);
            ended.store(true, Ordering::Relaxed);
            freed
        })
    }

    /// Runs the command; answers with what it said where it failed.
    fn free(&self, daemon: &Store) -> Result<(), String> {
        let ran = |arguments: &[&str]| {
            let output = self.strata(arguments);
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            output.status.success().then_some(()).ok_or_else(|| format!("{arguments:?}: {} {said}", output.status))
        };
        match self.case.freeing {
            Freeing::Rm => ran(&["rm", "--wait", "work"]),
            Freeing::RmDescendants => ran(&["rm", "-r", "--wait", "base"]),
            Freeing::Rmi => ran(&["rmi", "victim:latest"]).and_then(|()| ran(&["gc"])),
            Freeing::Gc => ran(&["gc"]),
            Freeing::Repair => ran(&["check", "--repair"]),
            Freeing::Daemon => {
                let called = daemon.remove("work").and_then(|()| daemon.cleanup());
                called.map_err(|error| error.chain())
            }
        }
    }

    /// After the filler is gone too, the store is sound and takes new work.
    fn goes_on(&self) -> Result<(), String> {
        let filler = self.filler();
        let _ = fs::remove_file(&filler).or_else(|_| fs::remove_dir_all(&filler));
        for arguments in [&["rm", "--wait", "work"][..], &["gc"], &["check"], &["doctor"]] {
            let output = self.strata(arguments);
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            let may_fail = arguments[0] == "rm";
            if !may_fail && !output.status.success() {
                return Err(format!("afterwards: {arguments:?}: {said}"));
            }
            let answer = String::from_utf8_lossy(&output.stdout).into_owned();
            if arguments[0] == "check" && !answer.contains("all is well") {
                return Err(format!("afterwards: {answer}"));
            }
        }
        let output = self.archive("again", vec![vec![("file".to_owned(), vec![2; 100_000])]]);
        output.status.success().then_some(()).ok_or_else(|| format!("an import afterwards: {output:?}"))
    }
}

/// Runs a command of the program that comes with `mkfs.btrfs`.
fn btrfs(arguments: &[&str], place: &Path) {
    let output = Command::new("btrfs").args(arguments).arg(place).output().expect("run btrfs");
    assert!(output.status.success(), "btrfs {arguments:?}: {output:?}");
}

fn write(store: &Store, key: &str, length: usize) -> std::io::Result<()> {
    let dir = Dir::from_fd(mount::detached(&store.mounts(key).expect("mounts")).expect("mount"), key);
    dir.create_file("file").expect("create").write_all(&vec![7; length])
}

/// Fills the file system with one file.
fn fill(path: &Path) {
    write_all_there_is(&mut File::create(path).expect("create"));
}

fn write_all_there_is(file: &mut File) {
    // Twice: what the file system keeps for data that it has not placed yet is known when that is on disk.
    for _ in 0..2 {
        for size in [1 << 20, 1 << 16, 1 << 12, 1 << 9, 1] {
            let block = vec![1; size];
            while file.write(&block).is_ok_and(|written| written > 0) {}
        }
        let _ = file.sync_all();
    }
}

/// Fills the file system at `place` until `left` bytes are free.
fn fill_to(path: &Path, left: u64, place: &Path) {
    let mut file = File::create(path).expect("create");
    while available(place) > left && file.write(&vec![1; 1 << 18]).is_ok() && file.sync_all().is_ok() {}
}

fn available(place: &Path) -> u64 {
    let stat = rustix::fs::statvfs(place).expect("statvfs");
    stat.f_bavail * stat.f_frsize
}

/// Tries one case: `None` where the machine cannot, else what went wrong.
fn tried(case: Case) -> Option<Result<(), String>> {
    let bench = Bench::new(case)?;
    let daemon = bench.store();
    if case.freeing == Freeing::Daemon {
        // As one that has been at work.
        daemon.prepare("other", "base", NONE).expect("prepare");
    } else if matches!(case.freeing, Freeing::Gc | Freeing::Repair) {
        // Removed, but not freed yet.
        daemon.remove("trash").expect("remove");
    }
    bench.fill();
    Some(finish(&bench, &daemon))
}

fn finish(bench: &Bench, daemon: &Store) -> Result<(), String> {
    let _ = rustix::fs::syncfs(File::open(bench.scratch.path()).expect("open"));
    let before = available(bench.scratch.path());
    for look in [&["ls"][..], &["images"], &["usage"], &["info", "base"]] {
        let output = bench.strata(look);
        if !output.status.success() {
            return Err(format!("{look:?}: {}", String::from_utf8_lossy(&output.stderr)));
        }
    }
    if bench.case.filler == Filler::Rival {
        bench.free_beside_rival(daemon)?;
        return bench.goes_on();
    }
    bench.free(daemon)?;
    if bench.case.filler == Filler::Import && matches!(bench.case.freeing, Freeing::Gc | Freeing::Repair) {
        // The import freed what waited, in vain.
        return bench.goes_on();
    }
    let freed = || available(bench.scratch.path()).saturating_sub(before) >= VICTIM_BYTES as u64 / 2;
    let started = Instant::now();
    // btrfs and xfs give space back behind the call.
    while !freed() && started.elapsed() < Duration::from_secs(5) {
        let _ = rustix::fs::syncfs(File::open(bench.scratch.path()).expect("open"));
        std::thread::sleep(Duration::from_millis(20));
    }
    if !freed() {
        return Err(format!("{before} bytes were available before, {} after", available(bench.scratch.path())));
    }
    bench.goes_on()
}

#[test]
fn a_full_disk_can_be_freed() {
    let all = wanted("STRATA_SCRIPTS").is_some();
    let budget = Duration::from_secs(wanted("STRATA_BUDGET_S").unwrap_or(BUDGET_S).min(BUDGET_S));
    let wanted_cases = std::env::var("STRATA_FULL").unwrap_or_default();
    let cases: Vec<Case> = cases().into_iter().filter(|case| case.to_string().contains(&wanted_cases)).collect();
    let (started, mut count, mut failures) = (Instant::now(), 0, Vec::new());
    // A stride that has no divisor in common with the lengths of the lists: an early end has seen some of everything.
    let order = (0..cases.len()).map(|at| cases[at * 97 % cases.len()]);
    for case in order.take_while(|_| all || started.elapsed() < budget) {
        let Some(result) = tried(case) else { continue };
        count += 1;
        failures.extend(result.err().map(|why| format!("{case}: {}", why.trim())));
    }
    Tally::new("full-disk").add(count, failures.len());
    let freed = count - failures.len();
    support::say(&format!("full-disk cases: {count} tried, {freed} freed ({} in all)", cases.len()));
    assert!(failures.is_empty(), "{} of {count}:\n{}", failures.len(), failures.join("\n"));
}
