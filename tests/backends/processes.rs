//! Several processes with several threads on one store; some processes are killed at random moments.
//!
//! Each thread makes random calls on its own keys and on shared parents. It mounts and writes, walks, reads snapshots
//! that others committed, and frees space. It logs each call before making it, and each acknowledgement. Afterwards the
//! store must hold exactly the acknowledged state, except for the one unanswered call of each thread.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use strata::snapshotter::{Info, Kind, Labels};
use strata::store::{Durability, Store};
use strata::{ErrorKind, Snapshotter};

use super::lifecycle::{open, write};
use super::{Bench, on_each, settings, support};

const NONE: &Labels = &BTreeMap::new();

/// Environment variable with the order for a child: position in the matrix, file system, name, seed, number of calls.
const ORDER: &str = "STRATA_TEST_WORK";

const PROCESSES: usize = 3;

/// Threads in each process, which share one handle of the store.
const THREADS: usize = 2;

/// Number of times that each process is killed and started again before its last run.
const LIVES: u64 = 3;

/// Number of calls in the last run; the earlier runs go on until they are killed.
const CALLS: u64 = 25;

/// Pseudorandom numbers: the same seed gives the same numbers.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

fn spawn(bench: &Bench, place: usize, process: usize, life: u64) -> Child {
    let seed = life * 100 + process as u64 * 7 + place as u64;
    let calls = if life < LIVES { u64::MAX } else { CALLS };
    Command::new(std::env::current_exe().expect("this test"))
        .args(["--exact", "processes::child", "--ignored", "--nocapture"])
        .env(ORDER, format!("{place} {} w{process} {seed} {calls}", bench.scratch.path().display()))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("start a child")
}

#[test]
fn killed_workers_lose_nothing_and_leave_nothing() {
    on_each(|bench| {
        let place = settings().iter().position(|setting| setting.name() == bench.setting.name()).expect("its place");
        let mut numbers = Numbers(place as u64 + 1);
        for life in 0..LIVES {
            let mut children: Vec<_> = (0..PROCESSES).map(|process| spawn(bench, place, process, life)).collect();
            for child in &mut children {
                std::thread::sleep(Duration::from_millis(20 + numbers.below(150)));
                child.kill().expect("kill");
            }
            for child in children {
                let output = child.wait_with_output().expect("wait");
                let said = String::from_utf8_lossy(&output.stderr);
                assert!(output.status.signal().is_some(), "{}: it ended by itself: {said}", bench.setting.name());
            }
        }
        let children: Vec<_> = (0..PROCESSES).map(|process| spawn(bench, place, process, LIVES)).collect();
        for child in children {
            let output = child.wait_with_output().expect("wait");
            assert!(output.status.success(), "{}: {}", bench.setting.name(), String::from_utf8_lossy(&output.stderr));
        }
        let calls = check(bench);
        support::say(&format!(
            "{}: {calls} calls acknowledged to {PROCESSES} processes of {THREADS} threads",
            bench.setting.name()
        ));
        assert!(calls > 40, "{calls} calls");
    });
}

/// State according to the journal of one worker: the certain snapshots, and calls without an answer.
#[derive(Debug, Default)]
struct Journal {
    active: BTreeSet<String>,
    committed: BTreeSet<String>,
    open_calls: Vec<String>,
    acknowledged: usize,
}

impl Journal {
    fn read(path: &Path) -> Self {
        let mut journal = Self::default();
        let text = fs::read_to_string(path).unwrap_or_default();
        let mut begun = None;
        for line in text.lines() {
            match line.split_once(' ') {
                Some(("begin", call)) => journal.open_calls.extend(begun.replace(call.to_owned())),
                Some(("done", call)) => {
                    begun = None;
                    journal.acknowledged += 1;
                    journal.note(call);
                }
                _ => begun = None,
            }
        }
        journal.open_calls.extend(begun);
        journal
    }

    fn note(&mut self, call: &str) {
        match call.split(' ').collect::<Vec<_>>().as_slice() {
            ["prepare", key, ..] => drop(self.active.insert((*key).to_owned())),
            ["commit", name, key] => {
                self.active.remove(*key);
                self.committed.insert((*name).to_owned());
            }
            ["remove", key] => {
                self.active.remove(*key);
                self.committed.remove(*key);
            }
            _ => panic!("{call}"),
        }
    }
}

/// Compares the store with the journals, and returns the number of acknowledged calls.
fn check(bench: &Bench) -> usize {
    let store = bench.store("store");
    store.cleanup().expect("cleanup");
    let who = bench.setting.name();
    let mut listed = BTreeMap::new();
    let mut own_directories = 0;
    let mut visit = |info: &Info| {
        listed.insert(info.name.clone(), info.kind);
        own_directories += usize::from(info.kind != Kind::View);
        Ok(())
    };
    store.walk(&[], &mut visit).expect("walk");
    let ids = store.backend().inventory().expect("inventory");
    assert_eq!(ids.len(), own_directories, "{who}: debris: {ids:?} for {listed:?}");
    let mut acknowledged = 0;
    let workers = (0..PROCESSES).flat_map(|process| (0..THREADS).map(move |thread| format!("w{process}.{thread}")));
    for worker in workers {
        let journal = Journal::read(&bench.root(&format!("{worker}.log")));
        acknowledged += journal.acknowledged;
        let unsure: BTreeSet<&str> = journal.open_calls.iter().flat_map(|call| call.split(' ').skip(1)).collect();
        for (names, kind) in [(&journal.active, Kind::Active), (&journal.committed, Kind::Committed)] {
            for name in names.iter().filter(|name| !unsure.contains(name.as_str())) {
                assert_eq!(listed.get(name), Some(&kind), "{who}: {name} was acknowledged: {journal:?}");
            }
        }
        let prefix = format!("{worker}-");
        for name in listed.keys().filter(|name| name.starts_with(&prefix)) {
            let known = journal.active.contains(name) || journal.committed.contains(name);
            assert!(known || unsure.contains(name.as_str()), "{who}: nobody was told of {name}: {journal:?}");
        }
    }
    for (name, _) in listed.iter().filter(|(_, kind)| **kind == Kind::Committed) {
        let mut text = String::new();
        let tree = store.open_tree(name).expect("the tree of a committed snapshot");
        tree.open_file(name).expect("its file").read_to_string(&mut text).expect("read");
        assert_eq!(&text, name, "{who}: what was committed changed");
    }
    acknowledged
}

/// Runs in one of the processes. It finds its file system in the mount namespace that it was started in.
#[test]
#[ignore = "waits to be killed"]
fn child() {
    let Ok(order) = std::env::var(ORDER) else { return };
    let [place, base, name, seed, calls] = order.split(' ').collect::<Vec<_>>()[..] else { panic!("{order}") };
    let setting = settings()[place.parse::<usize>().expect("a place")];
    let root = Path::new(base).join("store");
    fs::create_dir_all(&root).expect("make the root");
    let backend = setting.backend(&root).expect("the backend");
    let database = strata::store::Database::create(&root, Durability::Commit).expect("the database");
    let store = Store::new(database, backend, strata::store::LOCAL).expect("the store");
    let (seed, calls): (u64, u64) = (seed.parse().expect("a seed"), calls.parse().expect("a number"));
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let name = format!("{name}.{thread}");
            let log = Log::open(&Path::new(base).join(format!("{name}.log")));
            let mut worker = Worker { store: &store, log, name, numbers: Numbers(seed * 10 + thread as u64) };
            scope.spawn(move || (0..calls).for_each(|number| worker.step(&format!("{seed}-{number}"))));
        }
    });
}

/// Journal that a worker writes. A kill can leave its last line incomplete.
struct Log(File);

impl Log {
    /// Opens the journal for appending and cuts an incomplete last line: its writer was killed before it got an answer.
    fn open(path: &Path) -> Self {
        let file = File::options().create(true).append(true).open(path).expect("log");
        let text = fs::read(path).expect("log");
        let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
        file.set_len(whole as u64).expect("log");
        Self(file)
    }

    /// Writes a line with one call, so that at most this line is incomplete.
    fn line(&mut self, what: &str, call: &str) {
        self.0.write_all(format!("{what} {call}\n").as_bytes()).expect("log");
    }
}

struct Worker<'a> {
    store: &'a Store,
    log: Log,
    name: String,
    numbers: Numbers,
}

impl Worker<'_> {
    fn step(&mut self, number: &str) {
        let (mine, committed) = self.listed();
        let key = format!("{}-{number}", self.name);
        let any = |numbers: &mut Numbers, of: &[String]| of[numbers.below(of.len() as u64) as usize].clone();
        match self.numbers.below(10) {
            0..=2 => {
                let none = committed.is_empty() || self.numbers.below(3) == 0;
                let parent = if none { String::new() } else { any(&mut self.numbers, &committed) };
                self.call(&format!("prepare {key} {parent}"));
            }
            3..=5 if !mine.is_empty() => {
                let active = any(&mut self.numbers, &mine);
                if !open(self.store, &active).names().expect("names").iter().any(|name| name == key.as_str()) {
                    write(self.store, &active, &key, key.as_bytes());
                }
                self.call(&format!("commit {key} {active}"));
            }
            6 if !mine.is_empty() => {
                let active = any(&mut self.numbers, &mine);
                self.call(&format!("remove {active}"));
            }
            7 if !committed.is_empty() => {
                let name = any(&mut self.numbers, &committed);
                self.look(&format!("look-{key}"), &name);
            }
            8 => drop(self.store.gc().expect("collect garbage")),
            _ => {
                let own: Vec<String> = committed.into_iter().filter(|name| name.starts_with(&self.name)).collect();
                if !own.is_empty() {
                    let name = any(&mut self.numbers, &own);
                    self.call(&format!("remove {name}"));
                }
                self.store.drain(Some(Duration::ZERO), None).expect("drain");
            }
        }
    }

    /// Reads the content of a committed snapshot through a view. Its owner may remove it first.
    fn look(&self, view: &str, name: &str) {
        match self.store.view(view, name, NONE) {
            Ok(_) => {
                let mut text = String::new();
                open(self.store, view).open_file(name).expect("its file").read_to_string(&mut text).expect("read");
                assert_eq!(text, name, "what was committed changed");
                self.store.remove(view).expect("remove the view");
            }
            Err(error) => assert_eq!(error.kind(), ErrorKind::NotFound, "{name}: {}", error.chain()),
        }
    }

    /// Returns this worker's active snapshots, and the committed ones of all workers.
    fn listed(&self) -> (Vec<String>, Vec<String>) {
        let (mut mine, mut committed) = (Vec::new(), Vec::new());
        let prefix = format!("{}-", self.name);
        let mut visit = |info: &Info| {
            match info.kind {
                Kind::Active if info.name.starts_with(&prefix) => mine.push(info.name.clone()),
                Kind::Committed => committed.push(info.name.clone()),
                _ => {}
            }
            Ok(())
        };
        self.store.walk(&[], &mut visit).expect("walk");
        (mine, committed)
    }

    /// Makes one call. It may only fail because another worker removed the parent or built on the snapshot to be
    /// removed.
    fn call(&mut self, call: &str) {
        self.log.line("begin", call);
        let answer = match call.split(' ').collect::<Vec<_>>().as_slice() {
            ["prepare", key, parent] => self.store.prepare(key, parent, NONE).map(drop),
            ["commit", name, key] => self.store.commit(name, key, NONE),
            ["remove", key] => self.store.remove(key),
            _ => panic!("{call}"),
        };
        match answer {
            Ok(()) => self.log.line("done", call),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::FailedPrecondition) => {
                self.log.line("refused", call);
            }
            Err(error) => panic!("{call}: {}", error.chain()),
        }
    }
}
