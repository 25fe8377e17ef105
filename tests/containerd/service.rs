//! The daemon itself: who may start it, what it refuses, how it stops.

use std::collections::BTreeMap;
use std::fs::Permissions;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Uid;
use serde_json::json;

use strata::backends::OVERLAY;
use strata::mount::scratch::FsType;
use strata::snapshotter::Labels;
use strata::{ErrorKind, Snapshotter};

use super::{Bench, PATIENCE, text};

const NONE: &Labels = &BTreeMap::new();

/// The strategy does not matter.
fn bench() -> Option<Bench> {
    Bench::new((OVERLAY, FsType::Tmpfs))
}

/// The message with which `strata serve` with `arguments` refuses to start.
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

/// The answer of `/metrics` on the socket `path`, after waiting until a daemon listens there. A daemon that is starting
/// may answer without figures.
pub(crate) fn figures(path: &Path) -> String {
    let began = Instant::now();
    let mut stream = loop {
        match UnixStream::connect(path) {
            Ok(stream) => break stream,
            Err(failed) => assert!(began.elapsed() < PATIENCE, "connect: {failed}"),
        }
        thread::sleep(Duration::from_millis(5));
    };
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").expect("ask");
    let mut said = String::new();
    stream.read_to_string(&mut said).expect("read");
    said
}

/// The figure `name`, labels included, of those.
pub(crate) fn figure(figures: &str, name: &str) -> Option<u64> {
    let line = figures.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
    line.parse().ok()
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
        "strata_trash_bytes 0",
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

/// A removed snapshot takes space until that is freed, which somebody holds up here.
#[test]
fn what_waits_to_be_freed_is_counted() {
    const BYTES: u64 = 3 << 20;
    let Some(bench) = bench() else { return };
    let metrics = bench.path("figures/socket");
    let _daemon = bench.daemon_with(&["--metrics", metrics.to_str().expect("a path")]);
    let client = bench.client();
    let drain = bench.hold("drain");
    for (key, committed) in [("active", false), ("committed", true)] {
        let mounts = client.prepare(key, "", NONE).expect("prepare");
        let file = Path::new(&mounts[0].source()).join("file");
        std::fs::write(file, vec![1; BYTES as usize / 2]).expect("write");
        if committed {
            client.commit("name", key, NONE).expect("commit");
        }
    }
    let waiting = || {
        let said = figures(&metrics);
        ["strata_trash_snapshots", "strata_trash_bytes"].map(|name| figure(&said, name).expect(name))
    };
    assert_eq!(waiting(), [0, 0]);
    client.remove("active").expect("remove");
    client.remove("name").expect("remove");
    let [snapshots, bytes] = waiting();
    assert_eq!(snapshots, 2);
    assert!((BYTES..BYTES + (64 << 10)).contains(&bytes), "{bytes} bytes");
    drop(drain);
    client.cleanup().expect("cleanup");
    assert_eq!(waiting(), [0, 0]);
}

/// The daemon checks the user of each connection itself, since the mode of the socket, which the kernel enforces, can
/// be changed.
#[test]
fn another_user_is_not_served() {
    let Some(bench) = bench() else { return };
    let daemon = bench.daemon();
    let (socket, dir) = (bench.socket(), bench.path("strata"));
    std::fs::set_permissions(&socket, Permissions::from_mode(0o666)).expect("chmod");
    std::fs::set_permissions(&dir, Permissions::from_mode(0o755)).expect("chmod");
    // A thread with a mount namespace of its own has a working directory of its own: the way there is root's alone.
    std::env::set_current_dir(&dir).expect("chdir");
    // The first bytes that a daemon sends, by the protocol; none if the daemon hangs up.
    let first_words = |user: u32| {
        let words = move || {
            let user = Uid::from_raw(user);
            rustix::thread::set_thread_res_uid(user, user, user).expect("setresuid");
            let mut stream = UnixStream::connect("strata.sock").expect("connect");
            let _ = stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0");
            let mut first = [0; 9];
            stream.read(&mut first).unwrap_or(0)
        };
        std::thread::scope(|scope| scope.spawn(words).join().expect("a thread"))
    };
    assert_eq!(first_words(0), 9);
    assert_eq!(first_words(65534), 0, "it was served");
    std::env::set_current_dir("/").expect("chdir");
    let lines = daemon.log().lines().filter(|line| line.contains("another user")).count();
    assert_eq!(lines, 1, "{}", daemon.log());
    bench.client().prepare("a", "", NONE).expect("its own user is served");
    assert_eq!(daemon.stop(), Some(0));
}

#[test]
fn sockets_that_cannot_be() {
    let Some(bench) = bench() else { return };
    let dir = bench.path("sockets");
    std::fs::create_dir(&dir).expect("mkdir");
    let at = |name: &str| dir.join(name).into_os_string().into_string().expect("a path");
    let long = at(&"x".repeat(108));
    let said = refused(&bench, &["--socket", &long]);
    assert!(said.contains("107"), "{said}");
    std::fs::write(at("file"), "text").expect("write");
    let _others = UnixListener::bind(at("others")).expect("bind");
    std::os::unix::fs::chown(at("others"), Some(65534), None).expect("chown");
    for name in ["file", "others"] {
        let said = refused(&bench, &["--socket", &at(name)]);
        assert!(said.contains(&at(name)) && said.contains("choose another path"), "{said}");
        assert!(dir.join(name).exists(), "{name} was removed");
    }
    std::fs::set_permissions(&dir, Permissions::from_mode(0o777)).expect("chmod");
    let said = refused(&bench, &["--socket", &at("new")]);
    assert!(said.contains("may write"), "{said}");
    assert!(!bench.path("store/s").read_dir().is_ok_and(|mut names| names.next().is_some()), "a snapshot was made");
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
    for (wrong, named) in [("sockett = \"/x\"\n", "sockett"), ("owner = \"o\"\n", "socket"), ("socket = 1\n", "socket")]
    {
        std::fs::write(&file, wrong).expect("write");
        let said = refused(&bench, &["--config", file_name]);
        assert!(said.contains(named), "{said}");
    }
    let (metrics, root) = (bench.path("figures/socket"), bench.path("elsewhere"));
    let settings = format!(
        "socket = {:?}\nowner = \"somebody\"\ncontainerd = \"/run/containerd.sock\"\nmetrics = {metrics:?}\nroot = {root:?}\n\
         backend = \"copy\"\ndurability = \"none\"\n",
        bench.socket()
    );
    std::fs::write(&file, settings).expect("write");
    let serve = |more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_strata"));
        command.args(["serve", "--config", file_name]).args(more).env_remove("STRATA_LOG").env_remove("STRATA_ROOT");
        bench.start(&mut command, &bench.socket())
    };
    let daemon = serve(&[]);
    bench.client().prepare("a", "", NONE).expect("prepare");
    assert_eq!(figure(&figures(&metrics), "strata_snapshots{kind=\"active\"}"), Some(1));
    let log = daemon.log();
    for said in ["backend=\"copy\"", "durability=\"none\"", "owner=\"somebody\"", "elsewhere"] {
        assert!(log.contains(said), "{said}: {log}");
    }
    assert_eq!(daemon.stop(), Some(0));
    // An option of the command line wins over the file.
    let _daemon = serve(&["--owner", "else"]);
    assert_eq!(super::names(&bench.client()), Vec::<String>::new());
}

/// systemd finds nothing to say of the unit but that its program is not installed here.
#[test]
fn the_unit_is_one() {
    let unit = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/strata.service");
    let Ok(output) = Command::new("systemd-analyze").arg("verify").arg(&unit).output() else {
        return super::support::say("systemd is not installed: nobody else has read the unit");
    };
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let about: Vec<&str> = said.lines().filter(|line| line.contains("strata")).collect();
    assert!(about.iter().all(|line| line.contains("/usr/local/bin/strata")), "{said}");
}
