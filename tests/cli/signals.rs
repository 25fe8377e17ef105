//! SIGINT and SIGTERM.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{self, Signal};
use serde_json::{Value, json};

use super::Bench;
use super::archive::docker_archive;

/// How long a command may take that has nothing to wait for.
const SOON: Duration = Duration::from_secs(4);

/// An image that takes far longer to unpack than it takes to be caught at it.
const LARGE_FILES: usize = 2000;
const LARGE_FILE_BYTES: usize = 64 << 10;

/// Files that take longer to remove than a signal takes to come.
const MANY_FILES: usize = 50_000;

/// A command, caught when it waits for a pipe that stays silent.
fn reading(bench: &Bench, arguments: &[&str]) -> Child {
    let mut command = bench.command(arguments);
    let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("spawn");
    let began = Instant::now();
    while !fs::read_to_string(format!("/proc/{}/wchan", child.id())).expect("wchan").contains("pipe_read") {
        assert!(began.elapsed() < SOON, "it does not read");
        std::thread::sleep(Duration::from_millis(5));
    }
    child
}

pub(super) fn send(child: &Child, signal: Signal) {
    let pid = nix::unistd::Pid::from_raw(child.id().try_into().expect("a pid"));
    signal::kill(pid, signal).expect("kill");
}

#[test]
fn a_signal_stops_in_good_order() {
    let Some(bench) = Bench::mounting() else { return };
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        for arguments in [&["apply", "k", "--json"][..], &["import", "-", "--json"]] {
            bench.ok(&["prepare", "k"]);
            let mut child = reading(&bench, arguments);
            let mut stdin = child.stdin.take().expect("stdin");
            send(&child, signal);
            // It is asleep in a read; the next bytes wake it up.
            let began = Instant::now();
            std::thread::sleep(Duration::from_millis(100));
            stdin.write_all(&[0; 512]).expect("write");
            let mut said = String::new();
            BufReader::new(child.stderr.take().expect("stderr")).read_line(&mut said).expect("read");
            assert_eq!(child.wait().expect("wait").code(), Some(1), "{said}");
            let error: Value = serde_json::from_str(&said).expect("an object");
            assert_eq!(error["error"]["kind"], "cancelled", "{said}");
            assert!(began.elapsed() < SOON, "{arguments:?} stops at once, and not when its grace is over");
            bench.ok(&["rm", "k"]);
            assert_eq!(bench.ok(&["ls"]) + &bench.ok(&["images"]), "");
        }
    }
}

/// Unlinking what was unpacked may take longer than the grace.
#[test]
fn an_interrupted_import_leaves_the_space_to_others() {
    let Some(bench) = Bench::mounting() else { return };
    let files = (0..LARGE_FILES).map(|number| (format!("{number}"), vec![0; LARGE_FILE_BYTES])).collect();
    fs::write(bench.path("large.tar"), docker_archive(&[("large", vec![files])])).expect("write");
    let archive = bench.path("large.tar").display().to_string();
    let mut child = bench.command(&["import", &archive]).stderr(Stdio::null()).spawn().expect("spawn");
    let began = Instant::now();
    let has_file =
        |snapshot: &fs::DirEntry| snapshot.path().join("0").exists() || snapshot.path().join("fs/0").exists();
    while !fs::read_dir(bench.path("store/s")).is_ok_and(|all| all.flatten().any(|snapshot| has_file(&snapshot))) {
        assert!(began.elapsed() < SOON, "it unpacks nothing");
        std::thread::sleep(Duration::from_millis(1));
    }
    send(&child, Signal::SIGINT);
    assert_eq!(child.wait().expect("wait").code(), Some(1));
    let found = bench.json(&["check"]);
    assert_eq!(found["findings"][0]["problem"], "waiting", "{found}");
    assert_eq!(bench.json(&["gc"])["freed"], 1);
}

/// Neither a removal nor a collection goes on to the end of a large snapshot, and nothing of that is lost.
#[test]
fn freeing_space_stops_inside_a_snapshot() {
    let Some(bench) = Bench::mounting() else { return };
    bench.ok(&["prepare", "large"]);
    let tree = bench.path("store/s/1/fs");
    (0..MANY_FILES).for_each(|file| fs::write(tree.join(file.to_string()), "").expect("write"));
    let changed = || fs::metadata(&tree).and_then(|stat| stat.modified()).expect("it is not gone");
    let interrupted = |arguments: &[&str]| {
        let (before, began) = (changed(), Instant::now());
        let mut command = bench.command(arguments);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("spawn");
        while changed() == before {
            assert!(began.elapsed() < SOON, "it frees nothing");
        }
        send(&child, Signal::SIGINT);
        child.wait_with_output().expect("wait")
    };
    let output = interrupted(&["rm", "large", "--json"]);
    let removed: Value = serde_json::from_slice(&output.stdout).expect("a document");
    assert_eq!(removed, json!({"removed": ["large"], "freed": 0, "waiting": 1}));
    assert_eq!(output.status.code(), Some(0), "it is gone as asked");
    let output = interrupted(&["gc"]);
    let said = super::text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("1 removed snapshot still takes space: strata gc goes on"), "{said}");
    assert_eq!(bench.json(&["gc"])["freed"], 1);
    assert!(!tree.exists());
}

#[test]
fn a_second_signal_kills() {
    let Some(bench) = Bench::mounting() else { return };
    bench.ok(&["prepare", "k"]);
    let mut child = reading(&bench, &["apply", "k"]);
    let began = Instant::now();
    let status = loop {
        send(&child, Signal::SIGTERM);
        std::thread::sleep(Duration::from_millis(20));
        if let Some(status) = child.try_wait().expect("wait") {
            break status;
        }
        assert!(began.elapsed() < SOON, "it goes on");
    };
    assert_eq!(status.signal(), Some(nix::libc::SIGTERM));
    bench.ok(&["rm", "k"]);
}

/// Takes as long as the grace that silent work is given.
#[test]
fn silent_work_ends_by_itself() {
    let Some(bench) = Bench::mounting() else { return };
    bench.ok(&["prepare", "k"]);
    let mut child = reading(&bench, &["apply", "k"]);
    send(&child, Signal::SIGINT);
    let _stdin = child.stdin.take();
    let mut said = String::new();
    child.stderr.take().expect("stderr").read_to_string(&mut said).expect("read");
    assert_eq!(child.wait().expect("wait").code(), Some(1));
    assert!(said.starts_with("strata: interrupted") && said.lines().count() == 1, "{said}");
    bench.ok(&["rm", "k"]);
}
