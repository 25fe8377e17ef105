//! The daemon itself: who may start it, what it refuses, how it stops.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::Path;
use std::process::Stdio;

use serde_json::json;

use strata::mount::scratch::FsType;
use strata::registry::Choice;
use strata::snapshotter::Labels;
use strata::{ErrorKind, Snapshotter};

use super::{Bench, text};

const NONE: &Labels = &BTreeMap::new();

/// The strategy does not matter.
fn bench() -> Option<Bench> {
    Bench::new((Choice::Overlay, FsType::Tmpfs))
}

/// What `strata serve` with `arguments` says when it refuses to start.
fn refused(bench: &Bench, arguments: &[&str]) -> String {
    let output = bench.strata(&[&["serve", "-q"], arguments].concat()).output().expect("run");
    let said = text(&output).expect_err("it must be refused");
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    said
}

#[test]
fn one_daemon_an_owner_and_a_socket() {
    let Some(bench) = bench() else { return };
    let daemon = bench.daemon();
    let (socket, other) = (bench.socket(), bench.path("other/s"));
    let (socket, other) = (socket.to_str().expect("a path"), other.to_str().expect("a path"));
    let holder = format!("process {}", daemon.child.id());
    let said = refused(&bench, &["--socket", other]);
    assert!(said.contains(&holder) && said.contains("--owner"), "{said}");
    let said = refused(&bench, &["--socket", socket, "--owner", "second"]);
    assert!(said.contains(&holder), "{said}");
    let said = refused(&bench, &["--socket", other, "--owner", "local"]);
    assert!(said.contains("--owner"), "{said}");
    assert_eq!(bench.client().prepare("a", "", NONE).expect("the first one still serves").len(), 1);
    // Another owner has a daemon, a socket and snapshots of its own.
    let mut second = bench.strata(&["serve", "--socket", other, "--owner", "second"]);
    let mut second = second.stderr(Stdio::piped()).spawn().expect("spawn");
    let mut log = BufReader::new(second.stderr.take().expect("stderr"));
    let mut line = String::new();
    log.read_line(&mut line).expect("read");
    assert!(line.contains("serving") && line.contains("second"), "{line}");
    second.kill().expect("kill");
    second.wait().expect("wait");
    drop(daemon);
    // A daemon that was killed is in nobody's way, nor is its socket.
    let daemon = bench.daemon();
    assert_eq!(super::names(&bench.client()), ["a"]);
    assert_eq!(daemon.stop(), Some(0));
}

#[test]
fn what_makes_no_sense_is_refused_by_its_code() {
    let Some(bench) = bench() else { return };
    let daemon = bench.daemon();
    let client = bench.client();
    let kind = |answer: strata::Result<()>| answer.err().map(|error| error.kind());
    let long = Labels::from([("l".to_owned(), "x".repeat(4096))]);
    for key in ["", "a\nb", &"k".repeat(1025)] {
        assert_eq!(kind(client.prepare(key, "", NONE).map(drop)), Some(ErrorKind::InvalidArgument), "{key:?}");
    }
    assert_eq!(kind(client.prepare("a", "", &long).map(drop)), Some(ErrorKind::InvalidArgument));
    assert_eq!(super::names(&client), Vec::<String>::new(), "what was refused left something");
    let lines = daemon.log().lines().filter(|line| line.contains("refused")).count();
    assert_eq!(lines, 4, "one line for each: {}", daemon.log());
}

/// More snapshots, and longer labels, than one message takes.
#[test]
fn a_list_has_no_end() {
    let Some(bench) = bench() else { return };
    let _daemon = bench.daemon();
    let client = bench.client();
    let labels: Labels = (0..60).map(|number| (format!("label{number}"), "x".repeat(4000))).collect();
    let mut expected = Vec::new();
    for number in 0..250 {
        let key = format!("{number:03}");
        client.prepare(&key, "", if number % 2 == 0 { &labels } else { NONE }).expect("prepare");
        expected.push(key);
    }
    assert_eq!(super::names(&client), expected);
}

/// What is at `/metrics` on the socket `path`.
fn figures(path: &Path) -> String {
    let mut stream = UnixStream::connect(path).expect("connect");
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").expect("ask");
    let mut said = String::new();
    stream.read_to_string(&mut said).expect("read");
    said
}

#[test]
fn calls_are_counted() {
    let Some(bench) = bench() else { return };
    let metrics = bench.path("figures/socket");
    let _daemon = bench.daemon_with(&["--metrics", metrics.to_str().expect("a path"), "--log-format", "json"]);
    let client = bench.client();
    client.prepare("a", "", NONE).expect("prepare");
    client.view("v", "", NONE).expect("view");
    client.prepare("a", "", NONE).expect_err("the key is in use");
    let said = figures(&metrics);
    for line in [
        "strata_calls_total{call=\"Prepare\",code=\"ok\"} 1",
        "strata_calls_total{call=\"Prepare\",code=\"already_exists\"} 1",
        "strata_calls_in_flight{call=\"Prepare\"} 0",
        "strata_call_seconds_count{call=\"Prepare\"} 2",
        "strata_snapshots{kind=\"active\"} 1",
        "strata_snapshots{kind=\"view\"} 1",
        "strata_snapshots{kind=\"committed\"} 0",
        "strata_trash_snapshots 0",
    ] {
        assert!(said.lines().any(|found| found == line), "{line} is not in {said}");
    }
    let log = std::fs::read_to_string(bench.path("strata.log")).expect("the log");
    let calls: Vec<serde_json::Value> = log.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let refused = calls.iter().find(|line| line["message"] == "refused").expect("a line for the call that failed");
    assert_eq!(
        (&refused["call"], &refused["key"], &refused["kind"]),
        (&json!("Prepare"), &json!("a"), &json!("already_exists"))
    );
    assert!(refused["micros"].as_u64().is_some(), "{refused}");
}

/// Noise, and clients that go away in the middle, are nobody's trouble.
#[test]
fn nonsense_is_survived() {
    let Some(bench) = bench() else { return };
    let _daemon = bench.daemon();
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    for noise in
        [&b""[..], b"\0", b"GET / HTTP/1.1\r\n\r\n", preface, &[&preface[..], &[0xff; 64]].concat(), &[0xff; 100_000]]
    {
        let mut stream = UnixStream::connect(bench.socket()).expect("connect");
        // It may have hung up already.
        let _ = stream.write_all(noise);
        bench.client().stat("nothing").expect_err("it still answers");
    }
}

#[test]
fn the_service_manager_hears_of_it() {
    let Some(bench) = bench() else { return };
    let path = bench.path("notify");
    let manager = UnixDatagram::bind(&path).expect("bind");
    let mut command = bench.strata(&["serve", "--socket"]);
    let daemon = bench.start(command.arg(bench.socket()).env("NOTIFY_SOCKET", &path), &bench.socket());
    let mut said = [0; 100];
    let length = manager.recv(&mut said).expect("a message");
    assert_eq!(&said[..length], b"READY=1\n");
    assert_eq!(daemon.stop(), Some(0));
}

#[test]
fn settings_come_from_a_file_too() {
    let Some(bench) = bench() else { return };
    let file = bench.path("strata.toml");
    let file_name = file.to_str().expect("a path");
    std::fs::write(&file, "sockett = \"/x\"\n").expect("write");
    let said = refused(&bench, &["--config", file_name]);
    assert!(said.contains("sockett") && said.contains(file_name), "{said}");
    std::fs::write(&file, format!("socket = {:?}\nowner = \"local\"\n", bench.socket())).expect("write");
    let said = refused(&bench, &["--config", file_name]);
    assert!(said.contains("\"local\""), "the file's owner is used: {said}");
}
