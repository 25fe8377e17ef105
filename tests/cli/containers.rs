//! `build`, `run` and `commit-image` from outside: what they print, and what stops them.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;
use strata::mount::scratch::FsType;

use super::signals::send;
use super::tally::Tally;
use super::{Bench, support, text};

pub(super) const BASE: &str =
    "FROM scratch\nCOPY busybox /bin/\nRUN [\"/bin/busybox\", \"--install\", \"-s\", \"/bin\"]\nCMD [\"sh\"]\n";

/// How long a container may go on after its end was asked for.
const SOON: Duration = Duration::from_secs(10);

/// A bench with a context and the image `base`, or `None` where there can be none.
pub(super) fn containers() -> Option<Bench> {
    containers_on("copy", FsType::Tmpfs)
}

/// The same with another strategy.
pub(super) fn containers_on(backend: &'static str, fs: FsType) -> Option<Bench> {
    let found = ["crun", "runc"].iter().any(|name| Command::new(name).arg("--version").output().is_ok());
    if !support::require("oci-runtime", if found { Ok(()) } else { Err("install crun or runc".to_owned()) }) {
        return None;
    }
    let busybox = fs::read("/bin/busybox").ok().filter(|bytes| !bytes.windows(9).any(|bytes| bytes == b"/ld-linux"));
    let usable = busybox.as_ref().map(drop).ok_or_else(|| "install busybox-static".to_owned());
    if !support::require("busybox", usable) {
        return None;
    }
    let bench = Bench::on(backend, fs)?;
    fs::create_dir(bench.path("context")).expect("mkdir");
    fs::copy("/bin/busybox", bench.path("context/busybox")).expect("copy");
    bench.build("base", BASE, &["-q"]);
    Some(bench)
}

impl Bench {
    /// The arguments of a build of this Dockerfile.
    pub(super) fn dockerfile(&self, text: &str) -> Vec<String> {
        let file = self.path("Dockerfile");
        fs::write(&file, text).expect("write");
        // No test asks a registry outside this machine.
        let (file, context) = (file.to_string_lossy(), self.path("context"));
        ["build", "--pull=never", "-f", &file, &context.to_string_lossy()].map(str::to_owned).into()
    }

    pub(super) fn build(&self, name: &str, text: &str, options: &[&str]) -> std::process::Output {
        let arguments = self.dockerfile(text);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).chain(["-t", name]).collect();
        self.run(&[&arguments[..], options].concat())
    }

    /// A command, caught when its container has said `up`.
    fn up(&self, arguments: &[&str]) -> (Child, BufReader<ChildStdout>) {
        let mut command = self.command(arguments);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("spawn");
        let mut stdout = BufReader::new(child.stdout.take().expect("stdout"));
        let mut line = String::new();
        stdout.read_line(&mut line).expect("read");
        assert_eq!(line, "up\n");
        (child, stdout)
    }
}

/// Waits until no process has `word` in its arguments.
fn assert_gone(word: &str) {
    let began = Instant::now();
    let lives = || {
        let processes = fs::read_dir("/proc").expect("proc").filter_map(Result::ok);
        processes
            .map(|entry| entry.path().join("cmdline"))
            .any(|path| fs::read(path).is_ok_and(|line| line.windows(word.len()).any(|part| part == word.as_bytes())))
    };
    while lives() {
        assert!(began.elapsed() < SOON, "{word} goes on");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn what_build_prints() {
    let Some(bench) = containers() else { return };
    let dockerfile = "FROM base\nARG A\nRUN echo a word; echo $A > /x\nRUN true\n";
    let options = ["--build-arg", "A=1", "--explain"];
    let output = bench.build("one", dockerfile, &options);
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success() && stdout.starts_with("one sha256:"), "{stdout}{stderr}");
    for line in ["[2/3 0] RUN echo a word; echo $A > /x", "a word", "    A /x", "[3/3] no change, "] {
        assert!(stderr.lines().any(|known| known.starts_with(line)), "{line}: {stderr}");
    }
    // A layer is called by its snapshot.
    let top = bench.json(&["images"]).as_array().expect("a list").last().expect("an image")["top"].clone();
    let layer = format!("[2/3] {}, ", &top.as_str().expect("a snapshot")[..19]);
    assert!(stderr.lines().any(|line| line.starts_with(&layer)), "{layer}: {stderr}");
    let output = bench.build("one", dockerfile, &options);
    assert!(text(&output.stderr).contains("no change, cached"), "{output:?}");
    let output = bench.build("one", dockerfile, &["-q"]);
    assert_eq!(text(&output.stderr), "");
    let output = bench.build("one", dockerfile, &["--json"]);
    assert_eq!(text(&output.stderr), "");
    let document: Value = serde_json::from_slice(&output.stdout).expect("a document");
    assert_eq!(document["name"], "one");
    assert_eq!(document["layers"].as_array().map(Vec::len), Some(3));
    let output = bench.build("two", "FROM base\nRUN echo x; exit 9\n", &[]);
    let stderr = text(&output.stderr);
    let last = stderr.lines().last().expect("a line");
    assert!(output.status.code() == Some(1) && last.starts_with("strata: "), "{stderr}");
    assert!(last.contains("Dockerfile:2:1: RUN echo x; exit 9: exit status 9: its output ends: x"), "{stderr}");
    let output = bench.build("two", "FROM base\nFOO\n", &["--json"]);
    let error: Value = serde_json::from_slice(&output.stderr).expect("one object");
    assert_eq!(error["error"]["kind"], "invalid_argument");
}

#[test]
fn run_passes_everything_on() {
    let Some(bench) = containers() else { return };
    let run = |arguments: &[&str]| bench.run(&[&["run", "--rm"], arguments].concat());
    for status in [0, 1, 2, 77, 255] {
        let output = run(&["base", "sh", "-c", &format!("echo out; echo err >&2; exit {status}")]);
        let seen = (output.status.code(), text(&output.stdout), text(&output.stderr));
        assert_eq!(seen, (Some(status), "out\n".to_owned(), "err\n".to_owned()));
    }
    assert_eq!(run(&["base", "sh", "-c", "kill -KILL $$; sleep 5 & kill -9 $!; wait $!"]).status.code(), Some(137));
    let volume = format!("{}:/in:ro", bench.path("context").display());
    let output =
        run(&["-e", "A=b c", "-v", &volume, "-w", "/in", "-u", "7", "base", "sh", "-c", "echo $A; pwd; id -u; ls"]);
    assert_eq!(text(&output.stdout), "b c\n/in\n7\nbusybox\n");
    assert_eq!(text(&run(&["base", "cat"]).stdout), "", "standard input is not its");
    let mut command = bench.command(&["run", "--rm", "-i", "base", "cat"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("spawn");
    child.stdin.take().expect("stdin").write_all(b"typed").expect("write");
    assert_eq!(text(&child.wait_with_output().expect("wait").stdout), "typed");
    assert_eq!(bench.names(&["kind==active"]), Vec::<String>::new());

    assert_eq!(bench.ok(&["run", "--name", "kept", "base", "sh", "-c", "echo > /new"]), "");
    assert_eq!(bench.ok(&["diff", "kept"]), "M /\nA /new\n");
    assert!(bench.ok(&["commit-image", "child", "kept"]).starts_with("child sha256:"));
    assert_eq!(run(&["child", "test", "-e", "/new"]).status.code(), Some(0));
    bench.fails(&["info", "kept"], "not_found");
    bench.fails(&["commit-image", "child", "nope"], "not_found");
    bench.fails_with(125, &["run", "nope"], "not_found");
    bench.fails_with(125, &["run", "--runtime", "nope", "base"], "not_found");
    bench.fails_with(125, &["run", "--tty", "base"], "invalid_argument");
    // Options behind the image are the command's, so --json cannot follow it.
    for (status, program) in [(127, "nope"), (126, "/new")] {
        let output = run(&["child", program]);
        let said = text(&output.stderr);
        assert!(output.status.code() == Some(status) && said.matches('\n').count() == 1, "{program}: {said}");
    }
    assert!(bench.misuse(&["run", "-v", "x", "base"]).contains("SRC:DST"));
}

#[test]
fn a_terminal_is_the_containers() {
    let Some(bench) = containers() else { return };
    let strata = env!("CARGO_BIN_EXE_strata");
    let store = bench.path("store");
    let line =
        format!("{strata} --root {} run --rm -it base sh -c 'test -t 0 -a -t 1 && tty && echo $TERM'", store.display());
    let output = Command::new("script").args(["-qec", &line, "/dev/null"]).env("TERM", "vt100").output();
    let output = output.expect("run script");
    // `script` tells its terminal the end of its own input, which shows as ^@.
    let said = text(&output.stdout).replace('\r', "").replace("^@", "");
    assert!(said.ends_with("/dev/pts/0\nxterm\n"), "{output:?}");
}

#[test]
fn signals_are_the_containers() {
    let Some(bench) = containers() else { return };
    let script = "trap 'echo int' INT; trap 'echo term; exit 3' TERM; echo up; while :; do sleep 0.1; done";
    let (mut child, mut stdout) = bench.up(&["run", "--rm", "base", "sh", "-c", script]);
    send(&child, Signal::SIGINT);
    let mut line = String::new();
    stdout.read_line(&mut line).expect("read");
    assert_eq!(line, "int\n");
    send(&child, Signal::SIGTERM);
    assert_eq!(child.wait().expect("wait").code(), Some(3));
    // A command that ignores signals is killed in the end.
    let (mut child, _stdout) = bench.up(&["run", "--rm", "base", "sh", "-c", "echo up; sleep 424201"]);
    for _ in 0..3 {
        send(&child, Signal::SIGTERM);
        std::thread::sleep(Duration::from_millis(200));
    }
    assert_eq!(child.wait().expect("wait").code(), Some(137));
    assert_gone("424201");
    assert_eq!(bench.names(&["kind==active"]), Vec::<String>::new());
}

/// A signal that ends strata ends the container too, and the store is as it was.
#[test]
fn nothing_outlives_a_kill() {
    let Some(bench) = containers() else { return };
    let tally = Tally::new("small");
    let script = ["sh", "-c", "echo > /x; echo up; sleep 424202"];
    let (mut child, _stdout) = bench.up(&[&["run", "--rm", "base"], &script[..]].concat());
    send(&child, Signal::SIGKILL);
    assert_eq!(child.wait().expect("wait").signal(), Some(9));
    assert_gone("424202");
    let (mut child, _stdout) = bench.up(&[&["run", "--name", "kept", "base"], &script[..]].concat());
    bench.fails(&["rm", "kept"], "failed_precondition");
    bench.fails(&["commit-image", "x", "kept"], "failed_precondition");
    let dir = bench.path("m");
    fs::create_dir(&dir).expect("mkdir");
    let said = bench.fails(&["mount", "kept", &dir.to_string_lossy()], "failed_precondition");
    assert!(said.contains("a container or another call works on it"), "{said}");
    send(&child, Signal::SIGKILL);
    child.wait().expect("wait");
    assert_gone("424202");
    bench.ok(&["gc"]);
    assert_eq!(bench.names(&["kind==active"]), ["kept"]);
    bench.ok(&["rm", "kept"]);
    tally.add(4, 0);
}

/// The control groups of strata's that the process with `word` in its arguments is in.
fn groups_of(word: &str) -> Vec<PathBuf> {
    let mut groups = Vec::new();
    for entry in fs::read_dir("/proc").expect("proc").filter_map(Result::ok) {
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if !line.windows(word.len()).any(|part| part == word.as_bytes()) {
            continue;
        }
        for line in fs::read_to_string(entry.path().join("cgroup")).unwrap_or_default().lines() {
            let mut fields = line.splitn(3, ':').skip(1);
            let (Some(controller), Some(path)) = (fields.next(), fields.next()) else { continue };
            if path.contains("/strata-") {
                groups.push(Path::new("/sys/fs/cgroup").join(controller).join(path.trim_start_matches('/')));
            }
        }
    }
    groups
}

/// A kill while runc ran left a control group for good. The next container removes it, with each runtime.
#[test]
fn control_groups_do_not_outlive_a_kill() {
    let Some(bench) = containers() else { return };
    for runtime in ["crun", "runc"].into_iter().filter(|name| Command::new(name).arg("--version").output().is_ok()) {
        let run = ["run", "--rm", "--network", "none", "--runtime", runtime, "base"];
        let (mut child, _stdout) = bench.up(&[&run[..], &["sh", "-c", "echo up; sleep 424205"]].concat());
        let groups = groups_of("424205");
        send(&child, Signal::SIGKILL);
        child.wait().expect("wait");
        assert_gone("424205");
        bench.ok(&[&run[..], &["true"]].concat());
        let left: Vec<&PathBuf> = groups.iter().filter(|group| group.exists()).collect();
        assert!(left.is_empty(), "{runtime}: {left:?}");
        support::say(&format!("{runtime}: {} control groups were made and are gone", groups.len()));
    }
}

/// Mount points that strata made in a root file system are no change of the container, even if strata was killed
/// before it could remove them.
#[test]
fn mount_points_do_not_outlive_a_kill() {
    let commands: [&[&str]; 3] = [&["diff", "kept"], &["commit-image", "child", "kept"], &["gc"]];
    for (backend, fs) in [("copy", FsType::Xfs), ("overlay", FsType::Ext4), ("btrfs", FsType::Btrfs)] {
        let Some(bench) = containers_on(backend, fs) else { continue };
        let volumes = ["/data/in", "/bin/data"].map(|target| format!("{}:{target}", bench.path("context").display()));
        let script = ["sh", "-c", "echo > /x; mkdir /empty; echo up; sleep 424204"];
        let run = ["run", "--name", "kept", "-v", &volumes[0], "-v", &volumes[1], "base"];
        for first in commands {
            let (mut child, _stdout) = bench.up(&[&run[..], &script[..]].concat());
            let points = || bench.json(&["info", "kept"])["labels"]["strata/mount-points"].clone();
            assert!(points().as_str().is_some_and(|points| points.contains("d data/in\n")), "{backend}: {}", points());
            send(&child, Signal::SIGKILL);
            child.wait().expect("wait");
            assert_gone("424204");
            bench.ok(first);
            let key = if first.contains(&"child") {
                bench.json(&["images"])[1]["top"].as_str().expect("a layer").to_owned()
            } else {
                "kept".to_owned()
            };
            assert_eq!(bench.ok(&["diff", &key]), "M /\nA /empty\nA /x\n", "{backend}: {first:?}");
            let kept = bench.json(&["info", &key]);
            assert_eq!(kept["labels"]["strata/mount-points"], Value::Null, "{backend}");
            bench.ok(&if first.contains(&"child") { ["rmi", "child"] } else { ["rm", "kept"] });
        }
        // Nor is there a note of a container that ended in good order.
        bench.ok(&["run", "--name", "kept", "base", "true"]);
        assert_eq!(bench.json(&["info", "kept"])["labels"]["strata/mount-points"], Value::Null, "{backend}");
        assert_eq!(bench.ok(&["diff", "kept"]), "", "{backend}");
    }
}

#[test]
fn a_build_is_stopped_at_any_step() {
    let Some(bench) = containers() else { return };
    let dockerfile = "FROM base\nRUN echo 1 > /one\nRUN sleep 424203\n";
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGKILL] {
        let arguments = bench.dockerfile(dockerfile);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).chain(["-t", "never"]).collect();
        let mut child = bench.command(&arguments).stderr(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("spawn");
        let mut stderr = BufReader::new(child.stderr.take().expect("stderr"));
        let mut line = String::new();
        while !line.contains("424203") {
            line.clear();
            assert_ne!(stderr.read_line(&mut line).expect("read"), 0, "it ended");
        }
        std::thread::sleep(Duration::from_millis(300));
        send(&child, signal);
        let mut said = String::new();
        stderr.read_to_string(&mut said).expect("read");
        let status = child.wait().expect("wait");
        if signal == Signal::SIGKILL {
            assert_eq!(status.signal(), Some(9));
        } else {
            assert_eq!((status.code(), said.as_str()), (Some(1), "strata: interrupted\n"), "{signal}");
        }
        assert_gone("424203");
        bench.ok(&["gc"]);
        assert_eq!(bench.names(&["kind==active"]), Vec::<String>::new(), "{signal}");
        bench.fails_with(125, &["run", "never"], "not_found");
        let output = bench.build("kept", "FROM base\nRUN echo 1 > /one\n", &[]);
        assert!(output.status.success(), "{output:?}");
    }
}
