//! Callers that do not wait, and daemons that are told to stop while somebody does.
//!
//! The tests hold up `Cleanup` by the lock by which recoveries take turns: no other call waits for this lock.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use strata::Snapshotter;
use strata::backends::OVERLAY;
use strata::mount::scratch::FsType;
use strata::snapshotter::Labels;
use tonic::Code;

use super::harness::{Held, Process};
use super::service::{figure, figures};
use super::wire::{SNAPSHOTS, Wire};
use super::{Bench, PATIENCE};

const NONE: &Labels = &BTreeMap::new();

/// A daemon with figures.
fn daemon(bench: &Bench) -> (Process, PathBuf) {
    let metrics = bench.path("figures/socket");
    (bench.daemon_with(&["--metrics", metrics.to_str().expect("a path")]), metrics)
}

fn bench() -> Option<Bench> {
    Bench::new((OVERLAY, FsType::Tmpfs))
}

/// Waits until `done`.
fn until(what: &str, mut done: impl FnMut() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < PATIENCE, "{what}: it does not happen");
        thread::sleep(Duration::from_millis(10));
    }
}

fn cleanup() -> String {
    format!("{SNAPSHOTS}/Cleanup")
}

/// A removed snapshot whose space nobody frees while the answer lives: what `Cleanup` would free then.
fn removed(bench: &Bench) -> Held {
    let drain = bench.hold("drain");
    bench.client().prepare("gone", "", NONE).expect("prepare");
    bench.client().remove("gone").expect("remove");
    drain
}

#[test]
fn a_deadline_ends_the_wait_and_not_the_work() {
    let Some(bench) = bench() else { return };
    let (daemon, metrics) = daemon(&bench);
    let drain = removed(&bench);
    let turn = bench.hold("recover");
    let wire = Wire::connect(&bench.socket());
    let answer = wire.end(wire.begin(&cleanup(), &[], &[("grpc-timeout", "100m")]));
    // tonic's client watches the deadline too, and says so in its way.
    assert!(matches!(answer, Err(Code::DeadlineExceeded | Code::Cancelled)), "{answer:?}");
    let line = |log: &str| log.lines().filter(|line| line.contains("Cleanup")).map(str::to_owned).collect::<Vec<_>>();
    until("a line in the log", || !line(&daemon.log()).is_empty());
    let said = line(&daemon.log());
    assert!(said.len() == 1 && said[0].contains("the caller did not wait"), "{said:?}");
    let said = figures(&metrics);
    assert_eq!(figure(&said, "strata_calls_total{call=\"Cleanup\",code=\"cancelled\"}"), Some(1), "{said}");
    assert_eq!(figure(&said, "strata_calls_in_flight{call=\"Cleanup\"}"), Some(0), "{said}");
    // Others were not held up, and what was begun goes on.
    assert_eq!(super::names(&bench.client()), Vec::<String>::new());
    assert_eq!(bench.on_disk(), 1);
    drop(drain);
    drop(turn);
    until("the space is freed by the call that nobody waits for", || bench.on_disk() == 0);
    assert_eq!(daemon.stop(), Some(0));
}

/// A deadline that is not over does nothing.
#[test]
fn who_has_time_gets_an_answer() {
    let Some(bench) = bench() else { return };
    let _daemon = bench.daemon();
    let wire = Wire::connect(&bench.socket());
    assert_eq!(wire.end(wire.begin(&cleanup(), &[], &[("grpc-timeout", "1H")])), Ok(Vec::new()));
}

#[test]
fn a_client_that_goes_away_leaves_nothing_undone() {
    let Some(bench) = bench() else { return };
    let (daemon, metrics) = daemon(&bench);
    let drain = removed(&bench);
    let turn = bench.hold("recover");
    let wire = Wire::connect(&bench.socket());
    let _pending = wire.begin(&cleanup(), &[], &[]);
    let under_way = || figure(&figures(&metrics), "strata_calls_in_flight{call=\"Cleanup\"}");
    until("the call is under way", || under_way() == Some(1));
    drop(wire);
    until("the daemon notices", || under_way() == Some(0));
    drop(drain);
    drop(turn);
    until("what was begun is done", || bench.on_disk() == 0);
    // In the middle of a message, and of the first words.
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    let half = b"\0\0\x40\0\0\0\0\0\x01half a message";
    for words in [&preface[..10], &preface[..], &[&preface[..], &half[..]].concat()] {
        UnixStream::connect(bench.socket()).and_then(|mut stream| stream.write_all(words)).expect("write");
    }
    bench.client().prepare("a", "", NONE).expect("it still answers");
    assert_eq!(daemon.stop(), Some(0));
}

#[test]
fn a_call_under_way_is_waited_for() {
    let Some(bench) = bench() else { return };
    let (daemon, metrics) = daemon(&bench);
    let turn = bench.hold("recover");
    let wire = Wire::connect(&bench.socket());
    let pending = wire.begin(&cleanup(), &[], &[]);
    let under_way = || figure(&figures(&metrics), "strata_calls_in_flight{call=\"Cleanup\"}");
    until("the call is under way", || under_way() == Some(1));
    daemon.terminate();
    until("the daemon hears it", || daemon.log().contains("stopping"));
    assert!(!pending.is_finished());
    drop(turn);
    assert_eq!(wire.end(pending), Ok(Vec::new()));
    assert_eq!(daemon.wait(), Some(0));
    assert!(!bench.socket().exists());
}

/// A second signal ends the daemon at once.
#[test]
fn the_second_signal_ends_it() {
    let Some(bench) = bench() else { return };
    let (daemon, metrics) = daemon(&bench);
    let turn = bench.hold("recover");
    let wire = Wire::connect(&bench.socket());
    let pending = wire.begin(&cleanup(), &[], &[]);
    let under_way = || figure(&figures(&metrics), "strata_calls_in_flight{call=\"Cleanup\"}");
    until("the call is under way", || under_way() == Some(1));
    daemon.terminate();
    until("the daemon hears it", || daemon.log().contains("stopping"));
    daemon.terminate();
    assert_eq!(daemon.wait(), Some(0), "the call is still held up");
    assert!(wire.end(pending).is_err());
    drop(turn);
    // The work that was cut off does not trouble the next daemon.
    let daemon = bench.daemon();
    bench.client().cleanup().expect("cleanup");
    assert_eq!(daemon.stop(), Some(0));
}
