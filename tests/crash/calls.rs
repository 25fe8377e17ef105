//! Every system call of the commands that change a store fails once, and the process is killed once at each: nothing
//! that was acknowledged is lost, nothing half-made is visible, nothing is left over, and the error is one line.
//!
//! `strace` does it from outside, to the binary as users have it. A *point* is one call of one command: its name, and
//! which one of that name it is in its thread. What the loader and the runtime do before `main` is left out.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Instant;

use proptest::prelude::Rng as _;
use strata::backend::Strategy;
use strata::backends::{BTRFS, COPY, OVERLAY};
use strata::changeset::Sink;
use strata::changeset::tar::{self, Limits};
use strata::id::Digest;
use strata::image::{self, Options, Place, Source};
use strata::mount::scratch::{FsType, Scratch};
use strata::snapshotter::Labels;
use strata::store::{CheckOptions, Problem, Store};
use strata::tree::memory::Tree;
use strata::tree::text;
use strata::{Result, Snapshotter};

use super::archive::{archive, docker_archive};
use super::script::State;
use super::{OpenStore as _, Setting, budget, random, settings, support, wanted};

const NONE: &Labels = &BTreeMap::new();

/// Errors that a call answers instead of doing its work.
const ERRORS: [&str; 4] = ["EIO", "ENOSPC", "EINTR", "EMFILE"];

/// System calls that are made to fail: calls on files and mounts.
const CAN_FAIL: &str = "%file,%desc";

/// System calls that are left alone. The Rust runtime ends the process when the first ones fail. `close` and `fcntl`
/// release files and locks and cannot fail at that, while an injected error would keep them from being done.
/// `rt_sigaction` marks the start of `main`.
const CANNOT_FAIL: [&str; 6] = ["mmap", "execve", "poll", "close", "fcntl", "rt_sigaction"];

/// How `strace` calls what is newer than it, which it can trace and not strike: the calls of 2024 for attributes by
/// path.
const NEWER: &str = "syscall_0x";

/// The last system call of the Rust runtime before `main`.
const BEFORE_MAIN: &str = "rt_sigaction(SIGPIPE, {sa_handler=SIG_IGN";

/// How many suites share the budget.
const SHARES: u32 = 3;

/// Longer than anything takes that will end.
const PATIENCE_S: &str = "60";

/// The fault at a point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Error(&'static str),
    Kill,
}

/// A call of a command, and what happens there.
#[derive(Clone, Debug)]
struct Point {
    command: usize,
    call: String,
    number: usize,
    fault: Fault,
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { command, call, number, fault } = self;
        let what = match fault {
            Fault::Error(errno) => format!("fails with {errno}"),
            Fault::Kill => "is killed".to_owned(),
        };
        write!(f, "strata {} {what} at {call} number {number}", COMMANDS[*command].words)
    }
}

/// A command that changes a store in which `base` is.
struct Subject {
    words: &'static str,
    /// Whether it makes several changes.
    in_steps: bool,
    prepare: fn(&Bench, &Store) -> Result<()>,
}

const COMMANDS: [Subject; 6] = [
    Subject { words: "prepare work base", in_steps: false, prepare: |_, _| Ok(()) },
    Subject {
        words: "commit done work",
        in_steps: false,
        prepare: |bench, store| {
            store.prepare("work", "base", NONE)?;
            let mut layer = &bench.layer[..];
            let produce = &mut |sink: &mut dyn Sink| tar::decode(&mut layer, &Limits::default(), sink).map(drop);
            store.apply("work", produce).map(drop)
        },
    },
    Subject { words: "rm work", in_steps: false, prepare: |_, store| store.prepare("work", "base", NONE).map(drop) },
    Subject {
        words: "apply work layer.tar",
        in_steps: false,
        prepare: |_, store| store.prepare("work", "base", NONE).map(drop),
    },
    Subject { words: "import image.tar", in_steps: true, prepare: |_, _| Ok(()) },
    Subject {
        words: "gc",
        in_steps: true,
        prepare: |bench, store| {
            let source = Source { place: Place::Path(bench.place.path().join("image.tar")), reference: None };
            let imported = image::import(store, &source, &Options::default(), &())?;
            store.remove_image(&imported.name)
        },
    },
];

/// The store after a command.
#[derive(Clone, Debug, PartialEq)]
struct Effect {
    state: State,
    /// The digest of the snapshot that a layer was applied to.
    work: Option<Digest>,
}

impl Effect {
    fn read(store: &Store) -> Result<Self> {
        let state = State::read(store)?;
        let work = match state.snapshots.contains_key("work") {
            true => Some(text::digest(&Tree::read(&store.open_tree("work")?)?)),
            false => None,
        };
        Ok(Self { state, work })
    }
}

/// A store on a file system of its own: in memory where the strategy can, for there is no disk to wait for.
struct Bench {
    setting: Setting,
    disk: Scratch,
    /// Archives, and a directory for temporary files.
    place: Scratch,
    layer: Vec<u8>,
}

impl Bench {
    fn new(setting: Setting) -> Option<Self> {
        let found = Command::new("strace").arg("-V").output().map(drop).map_err(|error| format!("strace: {error}"));
        if !support::require("strace", found) {
            return None;
        }
        let disk = support::scratch(setting.fs)?;
        let place = support::scratch(FsType::Tmpfs)?;
        let files = |names: &[&str]| -> Vec<(String, Vec<u8>)> {
            names.iter().map(|name| ((*name).to_owned(), name.repeat(3000).into_bytes())).collect()
        };
        let layer = archive(&files(&["one", "two", "three"]));
        let image = docker_archive(&[("app", vec![files(&["low"]), files(&["high", "higher"])])]);
        fs::write(place.path().join("layer.tar"), &layer).expect("write");
        fs::write(place.path().join("image.tar"), image).expect("write");
        fs::create_dir(place.path().join("tmp")).expect("make directory");
        let bench = Self { setting, disk, place, layer };
        support::gate(setting.strategy.name, bench.furnish())?;
        Some(bench)
    }

    fn furnish(&self) -> Result<()> {
        let store = self.store()?;
        store.prepare("making", "", NONE)?;
        let mut layer = &self.layer[..];
        store.apply("making", &mut |sink| tar::decode(&mut layer, &Limits::default(), sink).map(drop))?;
        store.commit("base", "making", NONE)?;
        store.cleanup()
    }

    fn root(&self) -> PathBuf {
        self.disk.path().join("store")
    }

    fn store(&self) -> Result<Store> {
        self.setting.store(&self.root())
    }

    /// The store as it is before every command.
    fn reset(&self, command: usize) -> Result<Effect> {
        let store = self.store()?;
        for image in store.images()? {
            store.remove_image(&image.name)?;
        }
        let names: BTreeSet<String> = State::read(&store)?.snapshots.into_keys().collect();
        for name in ["work", "done"].into_iter().filter(|name| names.contains(*name)) {
            store.remove(name)?;
        }
        store.gc()?;
        (COMMANDS[command].prepare)(self, &store)?;
        Effect::read(&store)
    }

    /// Runs a command under `strace`.
    fn run(&self, command: usize, options: &[&str]) -> Output {
        Command::new("timeout")
            .args(["--signal=KILL", PATIENCE_S, "strace", "-f", "--seccomp-bpf", "-qq"])
            .args(options)
            .arg(env!("CARGO_BIN_EXE_strata"))
            .args(COMMANDS[command].words.split(' '))
            .env("STRATA_ROOT", self.root())
            .env("TMPDIR", self.place.path().join("tmp"))
            .env_remove("STRATA_LOG")
            .current_dir(self.place.path())
            .stdin(Stdio::null())
            .output()
            .expect("run strace")
    }

    /// The points of a command, and what it makes of the store.
    fn points(&self, command: usize) -> Result<(Vec<Point>, Effect)> {
        let mut points = Vec::new();
        let log = self.place.path().join("log");
        for (calls, faults) in [(CAN_FAIL, &ERRORS.map(Fault::Error)[..]), ("all", &[Fault::Kill])] {
            self.reset(command)?;
            let traced = format!("trace={calls},rt_sigaction");
            let output = self.run(command, &["-e", &traced, "-o", log.to_str().expect("UTF-8")]);
            assert!(output.status.success(), "{}: {output:?}", COMMANDS[command].words);
            for (call, first, last) in count(&fs::read_to_string(&log).expect("the log")) {
                for &fault in faults.iter().filter(|_| calls == "all" || !CANNOT_FAIL.contains(&call.as_str())) {
                    points.extend((first..=last).map(|number| Point { command, call: call.clone(), number, fault }));
                }
            }
        }
        fs::remove_file(&log).expect("remove the log");
        Ok((points, Effect::read(&self.store()?)?))
    }

    /// The points of all commands, and what each makes of the store.
    fn all_points(&self) -> (Vec<Point>, Vec<Effect>) {
        let of = |command| self.points(command).unwrap_or_else(|error| panic!("{}: {}", self.setting, error.chain()));
        let (points, effects): (Vec<_>, _) = (0..COMMANDS.len()).map(of).unzip();
        (points.concat(), effects)
    }

    /// Lets it happen; answers whether the command noticed, and what is wrong then.
    fn strike(&self, point: &Point, after: &Effect) -> std::result::Result<bool, String> {
        let chain = |error: strata::Error| error.chain();
        let before = self.reset(point.command).map_err(chain)?;
        let mounts = self.mounts();
        let Point { call, number, .. } = point;
        let fault = match point.fault {
            Fault::Error(errno) => format!("error={errno}"),
            Fault::Kill => "signal=KILL".to_owned(),
        };
        let injected = format!("inject={call}:{fault}:when={number}");
        let output = self.run(point.command, &["-e", &format!("trace={call}"), "-e", &injected, "-o", "/dev/null"]);
        check_words(&output, point.fault)?;
        let store = self.store().map_err(chain)?;
        let seen = Effect::read(&store).map_err(chain)?;
        if output.status.success() && seen != *after {
            return Err(format!("it said that it was done: {seen:?} is not {after:?}"));
        }
        store.cleanup().map_err(chain)?;
        let seen = Effect::read(&store).map_err(chain)?;
        if let Some(differs) = seen.state.differs(&before.state, &after.state, COMMANDS[point.command].in_steps) {
            return Err(differs);
        }
        let checked = store.check(&CheckOptions::default()).map_err(chain)?;
        drop(store);
        // A snapshot that a failed sync was about is not committed before the next boot.
        let doubted = |problem: &Problem| matches!(problem, Problem::Doubtful(_)) && point.call.contains("sync");
        let finding = checked.findings.iter().find(|finding| !doubted(&finding.problem));
        self.check_rest(finding.map(|finding| finding.problem.to_string()), mounts)?;
        Ok(!output.status.success())
    }

    /// How many mounts there are of the store, or in it.
    fn mounts(&self) -> usize {
        let disk = fs::metadata(self.disk.path()).expect("the disk").dev();
        let device = format!(" {}:{} ", rustix::fs::major(disk), rustix::fs::minor(disk));
        let root = self.disk.path().to_str().expect("UTF-8");
        let mounts = fs::read_to_string("/proc/thread-self/mountinfo").expect("the mounts");
        mounts.lines().filter(|line| line.contains(&device) || line.contains(root)).count()
    }

    /// Nothing may be left over anywhere.
    fn check_rest(&self, finding: Option<String>, mounts: usize) -> std::result::Result<(), String> {
        let left = |dir: &Path, known: &[&str]| -> Vec<String> {
            let entries = fs::read_dir(dir).expect("list");
            let names = entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8"));
            names.filter(|name| !known.contains(&name.as_str())).collect()
        };
        let standing = ["s", "streams", "run", "reserve", "strata.db", "strata.db-wal", "strata.db-shm"];
        let mut rest = left(&self.root().join("run"), &["drain", "recover"]);
        rest.extend(left(&self.root(), &standing));
        let streams = self.root().join("streams");
        if streams.exists() {
            // Each goes with its snapshot.
            let own: Vec<String> = left(&self.root().join("s"), &[]).iter().map(|id| format!("{id}.zst")).collect();
            rest.extend(left(&streams, &own.iter().map(String::as_str).collect::<Vec<_>>()));
        }
        rest.extend(left(&self.place.path().join("tmp"), &[]));
        rest.extend(left(self.place.path(), &["tmp", "layer.tar", "image.tar"]));
        rest.extend(finding);
        if self.mounts() != mounts {
            rest.push("a mount".to_owned());
        }
        if rest.is_empty() { Ok(()) } else { Err(format!("left over: {}", rest.join(", "))) }
    }
}

/// How a command has to end.
fn check_words(output: &Output, fault: Fault) -> std::result::Result<(), String> {
    let said = String::from_utf8_lossy(&output.stderr);
    if fault == Fault::Kill && output.status.signal() == Some(libc::SIGKILL) {
        return Ok(());
    }
    // Of several things that failed each has a line.
    let lines = said.lines().all(|line| line.starts_with("strata: "));
    match output.status.code() {
        Some(0) if said.is_empty() => Ok(()),
        Some(1) if lines && !said.is_empty() => Ok(()),
        _ => Err(format!("{}: {said}", output.status)),
    }
}

/// The calls that a trace names: each with the numbers of its first and last one behind the start of `main`.
fn count(trace: &str) -> Vec<(String, usize, usize)> {
    let mut started = BTreeSet::new();
    let mut counts: BTreeMap<(String, String), usize> = BTreeMap::new();
    let mut ranges: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    let main = trace.split(' ').next().unwrap_or_default();
    for line in trace.lines() {
        let Some((thread, rest)) = line.split_once(' ') else { continue };
        let rest = rest.trim_start();
        let call: String = rest.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
        if call.is_empty() || call.starts_with(NEWER) || !rest[call.len()..].starts_with('(') {
            // Beside those: the second half of a call, or the end of a thread.
            continue;
        }
        let number = counts.entry((thread.to_owned(), call.clone())).and_modify(|count| *count += 1).or_insert(1);
        if thread != main || started.contains(thread) {
            let range = ranges.entry(call).or_insert((*number, *number));
            *range = (range.0.min(*number), range.1.max(*number));
        }
        if rest.starts_with(BEFORE_MAIN) {
            started.insert(thread.to_owned());
        }
    }
    // A fault with the number of a call before `main` would strike there.
    let before = |call: &str| {
        let own = counts.get(&(main.to_owned(), call.to_owned())).copied().unwrap_or(0);
        let behind = trace.lines().skip_while(|line| !line.contains(BEFORE_MAIN)).skip(1);
        let start = format!("{call}(");
        own - behind
            .filter(|line| {
                line.split_once(' ')
                    .is_some_and(|(thread, rest)| thread == main && rest.trim_start().starts_with(&start))
            })
            .count()
    };
    let range = |(call, (first, last)): (String, (usize, usize))| {
        let first = first.max(before(&call) + 1);
        (call, first, last)
    };
    ranges.into_iter().map(range).collect()
}

fn survives(strategy: Strategy, fs: FsType) {
    let Some(setting) = settings(fs).into_iter().find(|setting| setting.strategy == strategy) else { return };
    let Some(bench) = Bench::new(setting) else { return };
    let (mut points, effects) = bench.all_points();
    // All of them take an hour: without a wish for that, as many as there is time for.
    let mut random = random::rng(4);
    for last in (1..points.len()).rev() {
        points.swap(last, random.next_u64() as usize % (last + 1));
    }
    let (started, all) = (Instant::now(), wanted("STRATA_SCRIPTS").is_some());
    let (mut tried, mut kills, mut noticed, mut failures) = (0, 0, 0, Vec::new());
    for point in &points {
        if !all && started.elapsed() > budget() / SHARES {
            break;
        }
        tried += 1;
        kills += usize::from(point.fault == Fault::Kill);
        match bench.strike(point, &effects[point.command]) {
            Ok(failed) => noticed += usize::from(failed),
            Err(why) => failures.push(format!("{point}: {why}")),
        }
    }
    let total = points.len();
    let all_kills = points.iter().filter(|point| point.fault == Fault::Kill).count();
    support::say(&format!(
        "{setting}: {tried} of {total} points tried ({kills} of {all_kills} kills), {noticed} ended the command"
    ));
    let seed = random::seed();
    assert!(failures.is_empty(), "{} of {tried} (STRATA_SEED={seed}):\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn overlay_survives_a_fault_at_every_system_call() {
    survives(OVERLAY, FsType::Tmpfs);
}

#[test]
fn btrfs_survives_a_fault_at_every_system_call() {
    survives(BTRFS, FsType::Btrfs);
}

#[test]
fn copy_survives_a_fault_at_every_system_call() {
    survives(COPY, FsType::Tmpfs);
}

/// A change that cannot be brought to disk is refused, and the next process does not find it done.
#[test]
fn every_wait_for_the_disk_fails() {
    let Some(setting) = settings(FsType::Tmpfs).into_iter().find(|setting| setting.strategy == OVERLAY) else {
        return;
    };
    let Some(bench) = Bench::new(setting) else { return };
    let (points, effects) = bench.all_points();
    let waits = |point: &&Point| point.call.contains("sync") && point.fault == Fault::Error("EIO");
    let tried = points.iter().filter(waits).map(|point| (point, bench.strike(point, &effects[point.command])));
    let failures: Vec<_> = tried.filter_map(|(point, done)| done.err().map(|why| format!("{point}: {why}"))).collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn calls_are_counted_from_main_on() {
    let trace = "10 read(3) = 1\n10 openat(4) = 4\n10 rt_sigaction(SIGPIPE, {sa_handler=SIG_IGN, ...}) = 0\n\
                 10 read(3 <unfinished ...>\n11 read(5) = 0\n10 <... read resumed>) = 1\n11 +++ exited with 0 +++\n\
                 10 read(3) = 1\n11 close(3) = 0\n10 syscall_0x1d1(0xb) = 0\n";
    let expected = [("close", 1, 1), ("read", 2, 3)];
    assert_eq!(count(trace), expected.map(|(call, first, last)| (call.to_owned(), first, last)));
}
