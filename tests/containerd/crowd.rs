//! A client that opens connections by the thousand, or sends half of what it has to, keeps nobody else from work.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::process::Command;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use strata::Snapshotter as _;
use strata::snapshotter::Labels;

use super::service::figures;
use super::wire::{SNAPSHOTS, Wire};
use super::{Bench, PATIENCE, SETTINGS};

/// Connections that are opened and kept.
const CROWD: usize = 10_000;

/// Descriptors that the daemon may have.
const DESCRIPTORS: usize = 400;

/// The first words of a client of HTTP/2, but for its last byte.
const HALF_A_GREETING: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r";

/// Lets this process have so many descriptors; false where it may not.
fn allow_descriptors(count: u64) -> bool {
    let limit = getrlimit(Resource::Nofile);
    limit.current.is_none_or(|current| current >= count)
        || setrlimit(Resource::Nofile, Rlimit { current: Some(count), maximum: limit.maximum }).is_ok()
}

#[test]
fn a_crowd_keeps_nobody_from_work() {
    let Some(bench) = Bench::new(SETTINGS[0]) else { return };
    assert!(allow_descriptors(CROWD as u64 + 1000), "this test opens {CROWD} connections");
    let (socket, metrics) = (bench.socket(), bench.path("figures/socket"));
    let mut serve = bench.strata(&["serve", "--metrics", metrics.to_str().expect("a path"), "--socket"]);
    serve.arg(&socket);
    let mut command = Command::new("prlimit");
    command.arg(format!("--nofile={DESCRIPTORS}:{DESCRIPTORS}")).arg(serve.get_program()).args(serve.get_args());
    command.env("STRATA_ROOT", bench.path("store"));
    let daemon = bench.start(&mut command, &socket);
    let early = bench.client();
    early.prepare("before", "", &Labels::new()).expect("prepare");
    let mut crowd = Vec::with_capacity(CROWD);
    for number in 0..CROWD {
        let path = if number % 4 == 0 { &metrics } else { &socket };
        let Ok(mut stream) = UnixStream::connect(path) else { continue };
        if number % 2 == 0 {
            let _ = stream.write_all(if number % 4 == 0 { b"GET /met" } else { HALF_A_GREETING });
        }
        crowd.push(stream);
    }
    early.prepare("beside", "", &Labels::new()).expect("a connection from before");
    let late = bench.client();
    late.prepare("after", "", &Labels::new()).expect("a new connection");
    late.commit("done", "after", &Labels::new()).expect("commit");
    assert!(figures(&metrics).contains("strata_snapshots"));
    let open = std::fs::read_dir(format!("/proc/{}/fd", daemon.child.id())).expect("its descriptors").count();
    assert!(open < DESCRIPTORS, "{open} descriptors");
    crate::support::say(&format!("{} connections of a crowd, {open} descriptors of the daemon", crowd.len()));
}

/// Half a greeting, and half a request behind a whole one.
#[test]
fn what_is_half_sent_ends() {
    let Some(bench) = Bench::new(SETTINGS[0]) else { return };
    let _daemon = bench.daemon();
    let mut stream = UnixStream::connect(bench.socket()).expect("connect");
    stream.write_all(HALF_A_GREETING).expect("write");
    stream.set_read_timeout(Some(PATIENCE)).expect("a limit");
    let mut said = Vec::new();
    let ended = stream.read_to_end(&mut said);
    assert!(!matches!(&ended, Err(error) if error.kind() == std::io::ErrorKind::WouldBlock), "{ended:?}: it is kept");
    let wire = Wire::connect(&bench.socket());
    let pending = wire.begin_endless(&format!("{SNAPSHOTS}/Stat"));
    assert!(wire.end(pending).is_err(), "it has to end");
    assert!(wire.snapshots("Stat", &super::wire::field(2, "none")).is_err_and(|code| code == tonic::Code::NotFound));
}
