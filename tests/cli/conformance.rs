//! The conformance command: its forms, its exit status, and that nothing is left of it.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;

use super::{Bench, support, text};

/// A few cases of each group on one file system that every machine has.
const SMALL: [&str; 8] =
    ["conformance", "--durability", "none", "--strategy", "copy,overlay", "--fs", "tmpfs", "--scripts=3"];

const CASES: [&str; 5] = [
    "--case=lifecycle/[a-c]*",
    "--case=content/append*",
    "--case=concurrency/one-*",
    "--case=layers/0[1-3]*",
    "--case=random/*",
];

fn arguments<'a>(more: &[&'a str]) -> Vec<&'a str> {
    SMALL.into_iter().chain(more.iter().copied()).collect()
}

/// Every case, on every strategy.
#[test]
fn every_case_on_every_strategy() {
    let Some(bench) = Bench::mounting() else { return };
    for (strategy, fs) in [("overlay", "ext4"), ("btrfs", "btrfs"), ("copy", "tmpfs"), ("copy+reflink", "xfs")] {
        let output = bench.run(&["conformance", "--durability=none", "--strategy", strategy, "--fs", fs, "--json"]);
        let answer = text(&output.stdout);
        let report: Value = serde_json::from_str(&answer).unwrap_or_else(|error| panic!("{error}: {answer}"));
        let results = report["judged"][0]["results"].as_array().expect("a list");
        if results.len() == 1 && results[0]["outcome"] == "skipped" {
            support::require(fs, Err(results[0]["detail"].to_string()));
            continue;
        }
        assert_eq!(output.status.code(), Some(0), "{}", failures(&report));
        let tried = results.iter().filter(|result| result["outcome"] != "skipped").count();
        assert!(tried >= 100, "{strategy} on {fs}: {tried} cases");
    }
}

/// As root of a user namespace, of 65,536 ids as `unshare --map-auto` gives them to a user who has them.
#[test]
fn every_case_in_a_user_namespace() {
    let Some(bench) = Bench::mounting() else { return };
    let root = rustix::process::geteuid().is_root();
    if !support::require("root", root.then_some(()).ok_or_else(|| "only root maps ids that are others'".to_owned())) {
        return;
    }
    let script = "echo ready; read -r mapped; exec \"$@\"";
    let mut command = Command::new("unshare");
    command.args([
        "--user",
        "--mount",
        "sh",
        "-c",
        script,
        "sh",
        env!("CARGO_BIN_EXE_strata"),
        "conformance",
        "--json",
    ]);
    command
        .args(["--durability=none", "--strategy=overlay,copy", "--fs=tmpfs"])
        .env("STRATA_ROOT", bench.path("store"));
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("run unshare");
    let mut answer = BufReader::new(child.stdout.take().expect("standard output"));
    let mut line = String::new();
    answer.read_line(&mut line).expect("read");
    assert_eq!(line, "ready\n");
    for map in ["uid_map", "gid_map"] {
        fs::write(format!("/proc/{}/{map}", child.id()), "0 0 65536\n").expect("map ids");
    }
    writeln!(child.stdin.take().expect("standard input"), "mapped").expect("write");
    let report: Value = serde_json::from_reader(answer).expect("a document");
    assert_eq!(child.wait().expect("wait").code(), Some(0), "{}", failures(&report));
    for judged in report["judged"].as_array().expect("a list") {
        let count = |word: &str| {
            judged["results"].as_array().into_iter().flatten().filter(|result| result["outcome"] == word).count()
        };
        assert!(count("passed") >= 150, "{}: {} passed, {} skipped", judged["name"], count("passed"), count("skipped"));
    }
}

fn failures(report: &Value) -> String {
    let judged = report["judged"].as_array().into_iter().flatten();
    let results = judged.flat_map(|judged| judged["results"].as_array().into_iter().flatten());
    results.filter(|result| result["outcome"] == "failed").map(|result| format!("{result:#}\n")).collect()
}

#[test]
fn every_form_says_the_same() {
    let Some(bench) = Bench::mounting() else { return };
    let report = bench.json(&arguments(&CASES));
    let judged = report["judged"].as_array().expect("a list");
    let results: Vec<&Value> = judged.iter().flat_map(|judged| judged["results"].as_array().expect("a list")).collect();
    let count = |word: &str| results.iter().filter(|result| result["outcome"] == word).count();
    assert!(count("passed") > 30 && count("deviation") == 0, "{report:#}");
    assert_eq!(count("failed"), 0, "{}", failures(&report));

    let tap = bench.ok(&arguments(&[&CASES[..], &["--format", "tap"]].concat()));
    let lines: Vec<&str> = tap.lines().collect();
    let [version, lines @ .., plan] = &lines[..] else { panic!("{tap}") };
    assert_eq!([*version, plan], ["TAP version 14", &format!("1..{}", results.len())]);
    assert_eq!(lines.len(), results.len(), "{tap}");
    for (number, line) in (1..).zip(lines) {
        assert!(line.starts_with(&format!("ok {number} - ")), "{line}");
    }
    let skipped = lines.iter().filter(|line| line.contains(" # SKIP ")).count();
    assert_eq!(skipped, count("skipped"), "{tap}");

    let xml = bench.ok(&arguments(&[&CASES[..], &["--format", "junit"]].concat()));
    assert!(xml.starts_with("<?xml version=\"1.0\" encoding=\"UTF-8\"?>"), "{xml}");
    assert_eq!(xml.matches("<testcase ").count(), results.len(), "{xml}");
    assert_eq!(xml.matches("<skipped ").count(), count("skipped"), "{xml}");

    let table = bench.ok(&arguments(&CASES));
    assert!(table.contains("copy on tmpfs") && table.contains("PASSED"), "{table}");
    assert_eq!(fs::read_dir(bench.dir.path()).expect("the directory").count(), 0, "something is left");
}

#[test]
fn a_known_deviation_is_no_failure() {
    let Some(bench) = Bench::mounting() else { return };
    let only = ["--strategy=overlay", "--case=content/lower-directory-is-renamed"];
    let small = ["conformance", "--durability", "none", "--fs", "tmpfs"];
    let tap = bench.ok(&[&small[..], &only, &["--format=tap"]].concat());
    let line = tap.lines().nth(1).expect("a line");
    let expected = "not ok 1 - overlay on tmpfs: content/lower-directory-is-renamed # TODO EXDEV";
    assert!(line.starts_with(expected), "{line}");
    let report = bench.json(&[&small[..], &only, &["--format=tap"]].concat());
    assert_eq!(report["judged"][0]["results"][0]["outcome"], "deviation", "one document, whatever the form");
}

/// By a script of which the model and the kernel cannot agree: the model keeps bits of a mode that no file has.
#[test]
fn a_failure_is_told_in_every_form() {
    let Some(bench) = Bench::mounting() else { return };
    let script = bench.path("script");
    let lines = ["prepare k -", "in k at 7.000000000: mkdir a", "in k at 7.000000000: chmod 777777 a", "commit n k"];
    let superfluous = "in k at 7.000000000: mkdir b";
    fs::write(&script, format!("# modes\n\n{superfluous}\n{}\n{superfluous}\n", lines.join("\n"))).expect("write");
    let small = ["conformance", "--durability=none", "--strategy=copy", "--fs=tmpfs", "--replay"];
    let path = script.display().to_string();
    let run = |format: &str| {
        let output = bench.run(&[&small[..], &[&path, "--format", format]].concat());
        assert_eq!(output.status.code(), Some(1), "{}", text(&output.stdout));
        assert_eq!(text(&output.stderr), "strata: 1 of 1 cases failed\n");
        text(&output.stdout)
    };
    let tap = run("tap");
    assert!(tap.contains("not ok 1 - copy on tmpfs: random/replay\n  ---\n  message: "), "{tap}");
    let xml = run("junit");
    assert!(xml.contains("failures=\"1\"") && xml.contains("<failure message=\""), "{xml}");
    let report: Value = serde_json::from_str(&run("json")).expect("a document");
    assert_eq!(report["judged"][0]["results"][0]["outcome"], "failed");
    let detail = report["judged"][0]["results"][0]["detail"].as_str().expect("a text");
    assert!(detail.ends_with(&format!("--replay FILE:\n{}\n", lines.join("\n"))), "it was not made shorter: {detail}");
    assert!(run("text").contains("FAILED    copy on tmpfs: random/replay: "));
}

#[test]
fn nothing_tried_is_a_failure() {
    let Some(bench) = Bench::mounting() else { return };
    let none = bench.run(&["conformance", "--case", "nothing/*"]);
    assert_eq!(none.status.code(), Some(1), "{}", text(&none.stderr));
    let impossible = ["conformance", "--strategy", "btrfs", "--fs", "tmpfs", "--format", "tap"];
    let skipped = bench.run(&impossible);
    assert_eq!(skipped.status.code(), Some(1), "{}", text(&skipped.stderr));
    assert!(text(&skipped.stdout).contains("ok 1 - btrfs on tmpfs: setup # SKIP "), "{}", text(&skipped.stdout));
    bench.misuse(&["conformance", "--fs", "vfat"]);
    bench.misuse(&["conformance", "--on", "/tmp", "--fs", "ext4"]);
    for format in ["text", "tap"] {
        let said = bench.fails(&["conformance", "--on", "/nonexist", "--format", format], "not_found");
        assert!(said.contains("/nonexist"), "{said}");
    }
}

/// A requirement that this machine does not meet fails the run.
#[test]
fn what_is_required_must_be_there() {
    let Some(bench) = Bench::mounting() else { return };
    // On tmpfs there are no subvolumes, whatever the machine has.
    let dir = bench.path("dir");
    fs::create_dir(&dir).expect("mkdir");
    let path = dir.display().to_string();
    let arguments = ["conformance", "--on", &path, "--strategy=btrfs,copy", "--case=lifecycle/stat*", "--format=tap"];
    let lenient = bench.command(&arguments).env_remove("STRATA_REQUIRE").output().expect("run");
    assert_eq!(lenient.status.code(), Some(0), "{}", text(&lenient.stderr));
    let lenient = text(&lenient.stdout);
    assert!(lenient.contains("ok 1 - btrfs in ") && lenient.contains(" # SKIP "), "{lenient}");
    let strict = bench.command(&arguments).env("STRATA_REQUIRE", "copy,btrfs").output().expect("run");
    assert_eq!(strict.status.code(), Some(1), "{}", text(&strict.stdout));
    assert!(text(&strict.stdout).contains("not ok 1 - btrfs in "), "{}", text(&strict.stdout));
    assert_eq!(fs::read_dir(&dir).expect("the directory").count(), 0, "something is left");
}

#[test]
fn cases_are_listed() {
    let bench = Bench::bare();
    let list = bench.run(&["conformance", "--list", "--json"]);
    let cases: Value = serde_json::from_slice(&list.stdout).expect("a document");
    let cases = cases.as_array().expect("a list");
    assert!(cases.len() >= 190, "{} cases", cases.len());
    for case in cases {
        for field in ["case", "source", "meaning"] {
            assert!(case[field].as_str().is_some_and(|text| !text.is_empty()), "{case}");
        }
    }
}

/// A harness shows what there is so far; a run that is ended early has no plan, so that nobody takes it for a whole
/// one.
#[test]
fn lines_are_told_as_cases_end() {
    let Some(bench) = Bench::mounting() else { return };
    let arguments = ["conformance", "--durability=none", "--strategy=copy", "--fs=tmpfs", "--format=tap"];
    let mut child = bench.command(&arguments).stdout(Stdio::piped()).spawn().expect("spawn");
    let mut lines =
        BufReader::new(child.stdout.take().expect("standard output")).lines().map(|line| line.expect("read"));
    assert_eq!(lines.next().as_deref(), Some("TAP version 14"));
    let first = lines.next().expect("a line");
    assert!(first.starts_with("ok 1 - copy on tmpfs: "), "{first}");
    super::signals::send(&child, Signal::SIGTERM);
    let rest: Vec<String> = lines.collect();
    assert_eq!(rest.last().map(String::as_str), Some("Bail out! interrupted"));
    assert!(rest.len() < 100 && !rest.iter().any(|line| line.starts_with("1..")), "{}", rest.join("\n"));
    assert_eq!(child.wait().expect("wait").code(), Some(1));
}

#[test]
fn a_signal_leaves_nothing() {
    let Some(bench) = Bench::mounting() else { return };
    let dir = bench.path("dir");
    fs::create_dir(&dir).expect("mkdir");
    let entries = || fs::read_dir(&dir).expect("the directory").count();
    let path = dir.display().to_string();
    let mut command = bench.command(&["conformance", "--on", &path, "--strategy", "copy", "--json"]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("spawn");
    while entries() == 0 {
        std::thread::sleep(Duration::from_millis(1));
    }
    super::signals::send(&child, Signal::SIGTERM);
    let output = child.wait_with_output().expect("wait");
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).expect("what was tried until then");
    assert_eq!(report["interrupted"], true);
    assert_eq!(entries(), 0, "something is left");
}
