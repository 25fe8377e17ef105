//! The comparison: what it measures, where it writes it, and that nothing is left of it.

use std::process::Command;

use serde_json::Value;
use strata::mount::scratch::{FsType, Scratch};
use strata::mount::{self, Access, Mount};

use super::archive::docker_archive;
use super::{Bench, signals, support, text};

const SMALL: [&str; 7] =
    ["compare", "--quick", "--samples", "2", "--files", "50", "--workload=container,diff,copy-up,walk,unpack"];

#[test]
fn figures_for_every_strategy_that_the_machine_has() {
    let Some(bench) = Bench::mounting() else { return };
    let report = bench.json(&SMALL);
    assert_eq!((&report["interrupted"], &report["image"]["files"]), (&Value::Bool(false), &Value::from(50)));
    let missing = report["not_measured"].as_array().expect("a list");
    let workloads = report["workloads"].as_array().expect("a list");
    assert_eq!(workloads.len(), 5, "{report}");
    for step in workloads.iter().flat_map(|workload| workload["steps"].as_array().expect("a list")) {
        let rows = step["rows"].as_array().expect("a list");
        assert!(rows.len() + missing.len() >= 4, "{step}");
        for row in rows {
            assert_eq!((&row["failure"], &row["figures"]["samples"]), (&Value::Null, &Value::from(2)), "{step}");
        }
    }
    assert!(!report["summary"].as_array().expect("a list").is_empty(), "{report}");
    assert_eq!(std::fs::read_dir(bench.dir.path()).expect("the directory").count(), 0, "no store was made");
}

#[test]
fn a_table_and_files_say_the_same() {
    let Some(bench) = Bench::mounting() else { return };
    if support::scratch(FsType::Ext4).is_none() {
        return;
    }
    let files = ["page.html", "figures.csv", "tables.md"].map(|name| bench.path(name));
    let [html, csv, markdown] = files.each_ref().map(|path| path.to_str().expect("UTF-8"));
    let arguments = ["--fs", "ext4", "--html", html, "--csv", csv, "--markdown", markdown, "--run", "echo > made"];
    let table = bench.ok(&[&SMALL[..], &arguments].concat());
    let [html, csv, markdown] = files.each_ref().map(|path| std::fs::read_to_string(path).expect("a file"));
    for word in ["overlay on ext4", "copy on ext4", "plain directory on ext4", "prepare", "append", "command", "1 GiB"]
    {
        let everywhere = [&table, &html, &csv, &markdown].map(|text| text.contains(word));
        assert!(word == "1 GiB" || everywhere == [true; 4], "{word}: {everywhere:?}");
    }
    assert!(table.contains("WHAT IS TIMED") && table.contains("seed:"), "{table}");
    assert!(html.contains("<svg") && html.ends_with("</html>\n"), "{html}");
    assert!(csv.lines().skip(1).all(|line| line.split(',').count() >= 16), "{csv}");
}

/// In a directory of the user's, which is empty again afterwards.
#[test]
fn a_real_directory_is_left_as_it_was() {
    let Some(bench) = Bench::mounting() else { return };
    let dir = bench.path("disk");
    std::fs::create_dir(&dir).expect("mkdir");
    let on = ["--on", dir.to_str().expect("UTF-8")];
    let report = bench.json(&[&SMALL[..], &on].concat());
    let reasons = report["not_measured"].to_string();
    assert!(reasons.contains("btrfs on tmpfs") && reasons.contains("copy+reflink on tmpfs"), "{reasons}");
    assert_eq!(std::fs::read_dir(&dir).expect("read").count(), 0);
}

#[test]
fn a_command_that_fails_is_a_row() {
    let Some(bench) = Bench::mounting() else { return };
    let arguments = ["compare", "--quick", "--files", "50", "--samples=2", "--fs", "tmpfs", "--strategy", "copy"];
    let command = ["--workload", "walk", "--run", "echo no such luck >&2; exit 3"];
    let report = bench.json(&[&arguments[..], &command].concat());
    let workloads = report["workloads"].as_array().expect("a list");
    assert_eq!(workloads.len(), 2, "{report}");
    assert!(workloads[0]["steps"][0]["rows"][0]["figures"].is_object(), "{report}");
    let failure = workloads[1]["steps"][0]["rows"][0]["failure"].as_str().expect("a reason");
    assert!(failure.contains("exit status: 3") && failure.contains("no such luck"), "{failure}");
}

#[test]
fn an_interrupted_run_keeps_what_it_has() {
    let Some(bench) = Bench::mounting() else { return };
    let csv = bench.path("figures.csv");
    let arguments = ["compare", "--quick", "--files", "50", "--samples", "1000", "--fs", "tmpfs", "--json"];
    let output = ["--workload", "walk,diff", "--csv", csv.to_str().expect("UTF-8")];
    let mut command = bench.command(&[&arguments[..], &output].concat());
    command.env("STRATA_LOG", "strata=info").stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let mut child = command.spawn().expect("spawn");
    // Until it measures: a line is logged for each turn.
    let mut log = std::io::BufReader::new(child.stderr.take().expect("stderr"));
    let mut line = String::new();
    while !line.contains("done=20") {
        line.clear();
        assert!(std::io::BufRead::read_line(&mut log, &mut line).expect("read") > 0, "it ended early");
    }
    signals::send(&child, nix::sys::signal::Signal::SIGINT);
    let drained = std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
    let output = child.wait_with_output().expect("wait");
    drained.join().expect("join").expect("read");
    assert_eq!(output.status.code(), Some(1));
    let report: Value = serde_json::from_str(&text(&output.stdout)).expect("a document");
    assert_eq!(report["interrupted"], true);
    let samples = report["workloads"][0]["steps"][0]["rows"][0]["figures"]["samples"].as_u64().expect("a number");
    assert!((1..1000).contains(&samples), "{report}");
    assert!(std::fs::read_to_string(csv).expect("the file").lines().count() > 1);
}

/// Whether tests may use what a user namespace has not.
fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    support::require("root", root.then_some(()).ok_or_else(|| "loop devices and other tools need root".to_owned()))
}

#[test]
fn other_tools_are_measured_beside_it() {
    let Some(bench) = Bench::mounting().filter(|_| is_root()) else { return };
    let arguments =
        ["compare", "--quick", "--peers", "--samples", "2", "--files", "50", "--workload", "import,commands"];
    let report = bench.json(&arguments);
    for absent in report["not_measured"].as_array().expect("a list") {
        let (subject, reason) = (absent["subject"].as_str().expect("who"), absent["reason"].as_str().expect("why"));
        let tool = subject.split_whitespace().next().expect("a name");
        support::require(tool, Err(reason.to_owned()));
        assert!(reason.contains("install the package"), "{absent}");
    }
    let steps =
        report["workloads"].as_array().expect("a list").iter().flat_map(|w| w["steps"].as_array().expect("a list"));
    let rows: Vec<&Value> = steps.flat_map(|step| step["rows"].as_array().expect("a list")).collect();
    for row in &rows {
        assert_eq!((&row["failure"], &row["figures"]["samples"]), (&Value::Null, &Value::from(2)), "{row}");
        let subject = row["subject"].as_str().expect("a name");
        assert!(subject.split(' ').any(|word| word.starts_with(|c: char| c.is_ascii_digit())), "no version: {row}");
        let lacks = row["lacks"].as_str().expect("what it does not do");
        assert_eq!(lacks.is_empty(), row["role"] == "command", "{row}");
    }
    let ours: Vec<_> =
        rows.iter().filter(|row| row["strategy"].as_str().is_some_and(|s| s.starts_with("strata "))).collect();
    assert!(ours.len() > 10, "{report}");
    assert!(ours.iter().any(|row| row["figures"]["times_floor"].is_number()), "the plain commands are the floor");
}

#[test]
fn an_image_of_the_users_is_measured_with() {
    let Some(bench) = Bench::mounting() else { return };
    let layer = |number: u8| (0..40).map(|file| (format!("dir/file{number}{file}"), vec![number; 3000])).collect();
    std::fs::write(bench.path("image.tar"), docker_archive(&[("mine", vec![layer(1), layer(2)])])).expect("write");
    let (image, broken) = (bench.path("image.tar"), bench.path("broken.tar"));
    let [image, broken] = [&image, &broken].map(|path| path.to_str().expect("UTF-8"));
    let arguments = ["compare", "--quick", "--samples", "2", "--fs", "tmpfs", "--workload", "unpack,container,walk"];
    let report = bench.json(&[&arguments[..], &["--image", image]].concat());
    let measured = &report["image"];
    assert_eq!((&measured["files"], &measured["size_bytes"]), (&Value::from(80), &Value::from(240_000)), "{measured}");
    assert!(measured["source"].as_str().expect("a source").contains("image.tar"), "{measured}");
    for row in report["workloads"].as_array().expect("a list").iter().map(|workload| &workload["steps"][0]["rows"][0]) {
        assert_eq!(row["failure"], Value::Null, "{row}");
    }
    std::fs::write(broken, b"no image at all").expect("write");
    let said = bench.fails(&["compare", "--image", broken], "data_loss");
    assert!(said.contains("broken.tar"), "{said}");
    bench.fails(&["compare", "--image", "/nowhere.tar"], "not_found");
}

#[test]
fn without_loop_devices_the_rest_is_measured() {
    const SCRIPT: &str = "dev=$1; shift
        mount -t tmpfs none $dev
        for name in null zero urandom; do touch $dev/$name; mount --bind /dev/$name $dev/$name; done
        mount --rbind $dev /dev
        exec \"$@\"";
    let Some(bench) = Bench::mounting().filter(|_| is_root()) else { return };
    std::fs::create_dir(bench.path("dev")).expect("mkdir");
    let strata = bench.command(&["compare", "--quick", "--samples=1", "--files=50", "--workload=walk", "--json"]);
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-ec", SCRIPT, "sh"]).arg(bench.path("dev"));
    let output = command.arg(strata.get_program()).args(strata.get_args()).args(["--fs", "ext4,tmpfs"]).output();
    let output = output.expect("run unshare");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
    let reasons = report["not_measured"].to_string();
    assert!(reasons.contains("overlay on ext4") && reasons.contains("no loop devices"), "{reasons}");
    let row = &report["workloads"][0]["steps"][0]["rows"][0];
    assert_eq!((&row["subject"], &row["figures"]["samples"]), (&"overlay on tmpfs".into(), &1.into()), "{report}");
}

#[test]
fn where_nothing_can_be_written_is_said_first() {
    let Some(bench) = Bench::mounting() else { return };
    let full = support::gate("tmpfs", Scratch::new(FsType::Tmpfs, 64 << 10)).expect("a second one");
    let closed = bench.path("closed");
    std::fs::create_dir(&closed).expect("mkdir");
    let read_only = Mount::Bind { source: closed.clone(), access: Access::ReadOnly };
    mount::attach(&[read_only], &closed).expect("mount");
    for (dir, words) in [(full.path(), "No space left"), (&closed, "Read-only file system")] {
        let file = dir.join("figures.csv");
        let output = bench.run(&["compare", "--quick", "--csv", file.to_str().expect("UTF-8")]);
        let said = text(&output.stderr);
        assert_eq!((output.status.code(), text(&output.stdout).as_str()), (Some(1), ""), "{said}");
        assert!(said.contains(words) && !file.exists(), "{said}");
    }
    mount::unmount(&closed).expect("unmount");
}

#[test]
fn what_cannot_be_is_refused_first() {
    let bench = Bench::bare();
    for (arguments, known) in [
        (&["--samples", "0"][..], "1..=1000"),
        (&["--workload", "sleep"], "unpack, container, diff"),
        (&["--strategy", "zfs"], "btrfs, overlay, copy, copy+reflink"),
        (&["--fs", "ext2"], "ext4, xfs, btrfs, tmpfs"),
        (&["--quick", "--full"], "cannot be used with"),
        (&["--peers", "--on", "/tmp"], "cannot be used with"),
        (&["--image", "x.tar", "--files", "10"], "cannot be used with"),
        (&["--workload", "graph-driver/nothing"], "graph-driver/exists"),
    ] {
        let said = bench.misuse(&[&["compare"], arguments].concat());
        assert!(said.contains(known), "{said}");
    }
    bench.fails(&["compare", "--html", "/nowhere/page.html"], "not_found");
    assert!(bench.fails(&["compare", "--workload", "walk,import"], "invalid_argument").contains("--peers"));
    let full = bench.run(&["compare", "--csv", "/proc/figures.csv"]);
    assert_eq!(full.status.code(), Some(1));
}
