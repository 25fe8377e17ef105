//! Every call of the store to its backend fails once, and the process is killed once at each call. No acknowledged
//! change may be lost, nothing half-made may be visible, no debris may be left, and the store must continue to work.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Write as _;
use std::os::unix::process::ExitStatusExt as _;
use std::process::Command;

use strata::Snapshotter;
use strata::backend::faulty::{Action, Fault, Faulty, When};
use strata::mount;
use strata::snapshotter::{Info, Kind, Labels};
use strata::store::{Durability, Store};
use strata::tree::Dir;

use super::lifecycle::names;
use super::{Bench, on_each, settings};

const NONE: &Labels = &BTreeMap::new();

/// Environment variable that tells the child where to die: position in the matrix, root, number of the call, before or
/// after it.
const CHILD: &str = "STRATA_TEST_DIE";

/// Steps of the script, each one acknowledged call, with the snapshots that the store must then list.
const SCRIPT: [(&str, &[&str]); 9] = [
    ("prepare a", &["a"]),
    ("commit base a", &["base"]),
    ("prepare b base", &["b", "base"]),
    ("commit child b", &["base", "child"]),
    ("view sight child", &["base", "child", "sight"]),
    ("prepare c child", &["base", "c", "child", "sight"]),
    ("rm c", &["base", "child", "sight"]),
    ("rm sight", &["base", "child"]),
    ("gc", &["base", "child"]),
];

fn step(store: &Store, step: &str) -> strata::Result<()> {
    match step.split(' ').collect::<Vec<_>>().as_slice() {
        ["prepare", key] => store.prepare(key, "", NONE).map(drop),
        ["prepare", key, parent] => store.prepare(key, parent, NONE).map(drop),
        ["view", key, parent] => store.view(key, parent, NONE).map(drop),
        ["commit", name, key] => {
            let dir = Dir::from_fd(mount::detached(&store.mounts(key)?)?, key);
            dir.create_file(name)?.write_all(name.as_bytes()).expect("write");
            drop(dir);
            store.commit(name, key, NONE)
        }
        ["rm", key] => store.remove(key),
        _ => store.cleanup(),
    }
}

/// Checks that the store lists the snapshots after `done` steps, or, if `or_next` is true, after one more, and that
/// they are complete.
fn check(bench: &Bench, root: &str, done: usize, or_next: bool) {
    let store = bench.store(root);
    store.cleanup().expect("cleanup");
    let listed = names(&store);
    let allowed: Vec<&[&str]> = SCRIPT[..done].last().map(|(_, names)| *names).into_iter().collect();
    let none: &[&str] = &[];
    let before = allowed.first().copied().unwrap_or(none);
    let after = if or_next && done < SCRIPT.len() { SCRIPT[done].1 } else { before };
    let who = bench.setting.name();
    assert!(listed == before || listed == after, "{who}, {done} steps: {listed:?} is neither {before:?} nor {after:?}");
    for (name, files) in [("base", &["base"][..]), ("child", &["base", "child"])] {
        if listed.iter().any(|listed| listed == name) {
            let tree = store.open_tree(name).expect("the tree of a committed snapshot");
            let found: Vec<_> = tree.names().expect("names").into_iter().map(|entry| entry.name).collect();
            assert_eq!(found, files, "{who}: {name}");
        }
    }
    let mut own = 0;
    let mut count = |info: &Info| {
        own += usize::from(info.kind != Kind::View || info.parent.is_empty());
        Ok(())
    };
    store.walk(&[], &mut count).expect("walk");
    let ids: BTreeSet<_> = store.backend().inventory().expect("inventory").into_iter().collect();
    assert_eq!(ids.len(), own, "{who}: debris after {done} steps: {ids:?} for {listed:?}");
    store.prepare("new", "", NONE).expect("the store works");
    store.commit("newer", "new", NONE).expect("the store works");
    store.remove("newer").expect("the store works");
}

/// Returns the number of backend calls of the script without faults.
fn calls(bench: &Bench) -> u64 {
    let mut counter = None;
    let store = bench
        .store_with("counted", Durability::Commit, |backend| {
            let faulty = Faulty::new(backend, Fault::NONE);
            counter = Some(faulty.calls());
            Box::new(faulty)
        })
        .expect("a store");
    for (words, listed) in SCRIPT {
        step(&store, words).expect(words);
        assert_eq!(names(&store), listed);
    }
    counter.expect("the backend was wrapped").load(std::sync::atomic::Ordering::Relaxed)
}

#[test]
fn every_call_fails_once() {
    on_each(|bench| {
        let calls = calls(bench);
        assert!(calls > 10, "{calls} calls");
        for at_call in 1..=calls {
            for when in [When::Before, When::After] {
                let root = format!("fail{at_call}{when:?}");
                let fault = Fault { at_call, when, action: Action::Fail };
                let wrap = |backend| Box::new(Faulty::new(backend, fault)) as Box<_>;
                let store = bench.store_with(&root, Durability::Commit, wrap).expect("a store");
                let mut done = 0;
                for (words, _) in SCRIPT {
                    if step(&store, words).is_err() {
                        break;
                    }
                    done += 1;
                }
                drop(store);
                assert!(done < SCRIPT.len(), "{}: nobody noticed that call {at_call} failed", bench.setting.name());
                check(bench, &root, done, false);
            }
        }
    });
}

#[test]
fn the_process_dies_at_every_call() {
    for (place, setting) in settings().into_iter().enumerate() {
        let Some(bench) = Bench::new(setting) else { continue };
        for at_call in 1..=calls(&bench) {
            for when in ["before", "after"] {
                let root = format!("die{at_call}{when}");
                let log = bench.root(&format!("{root}.log"));
                let status = Command::new(std::env::current_exe().expect("this test"))
                    .args(["--exact", "faults::child", "--ignored", "--nocapture"])
                    .env(CHILD, format!("{place} {} {root} {at_call} {when}", bench.scratch.path().display()))
                    .output()
                    .expect("start the child");
                let said = String::from_utf8_lossy(&status.stderr);
                let killed = status.status.signal() == Some(libc::SIGKILL);
                assert!(killed, "the child lived on, or did not live: call {at_call} {when}: {said}");
                let done = std::fs::read_to_string(&log).expect("it began").lines().count();
                check(&bench, &root, done, true);
            }
        }
    }
}

/// Runs in the process that dies. It finds its file system in the mount namespace that it was started in.
#[test]
#[ignore = "waits to be killed"]
fn child() {
    let Ok(order) = std::env::var(CHILD) else { return };
    let [place, base, root, at_call, when] = order.split(' ').collect::<Vec<_>>()[..] else { panic!("{order}") };
    let setting = settings()[place.parse::<usize>().expect("a place")];
    let when = if when == "before" { When::Before } else { When::After };
    let fault = Fault { at_call: at_call.parse().expect("a call"), when, action: Action::Die(die) };
    let root_path = std::path::Path::new(base).join(root);
    std::fs::create_dir_all(&root_path).expect("make the root");
    let backend = setting.backend(&root_path).expect("the backend");
    let database = strata::store::Database::create(&root_path, Durability::Commit).expect("the database");
    let store = Store::new(database, Box::new(Faulty::new(backend, fault)), strata::store::LOCAL).expect("the store");
    let mut log = File::create(std::path::Path::new(base).join(format!("{root}.log"))).expect("the log");
    for (words, _) in SCRIPT {
        step(&store, words).expect(words);
        writeln!(log, "{words}").expect("log");
    }
}

/// Kills the process, so that no destructor runs.
fn die() {
    let _ = nix::sys::signal::kill(nix::unistd::Pid::this(), nix::sys::signal::Signal::SIGKILL);
    loop {
        std::thread::park();
    }
}
