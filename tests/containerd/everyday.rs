//! Everyday use of containerd on every strategy: import, run, commit, remove, while the command line uses the store.

use std::process::Command;

use strata::Snapshotter;

use super::image::{Image, Layer, shell};
use super::{Bench, Containerd, SETTINGS, Version, support, text};

/// How many containers run at once.
const CONTAINERS: usize = 20;

/// Three layers with a shell; the last hides a file and changes another.
pub(crate) fn small_image() -> Image {
    let hello = Layer::new().file("etc/hello", b"hello\n").file("etc/hidden", b"hidden\n").finish();
    let last = Layer::new().file("etc/.wh.hidden", b"").file("etc/hello", b"good day\n").finish();
    Image { name: "test.local/small:1", layers: vec![shell(), hello, last] }
}

pub(crate) fn run(containerd: &Containerd, image: &str, name: &str, script: &str) -> (Option<i32>, String) {
    let output = containerd.run(&["--rm"], image, name, script).output().expect("run ctr");
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.code(), said)
}

pub(crate) fn ok(command: &mut Command) -> String {
    text(&command.output().expect("run")).unwrap_or_else(|failed| panic!("{command:?}: {failed}"))
}

/// The findings of `strata check` in the store, for all owners.
pub(crate) fn check(bench: &Bench, options: &[&str]) -> serde_json::Value {
    let said = ok(bench.strata(&["check", "--json"]).args(options));
    serde_json::from_str(&said).expect("JSON")
}

/// The snapshot of the topmost layer of the only image.
pub(crate) fn top(containerd: &Containerd) -> String {
    let list = containerd.ok(&["snapshots", "ls"]);
    let rows: Vec<Vec<&str>> = list.lines().skip(1).map(|line| line.split_whitespace().collect()).collect();
    let is_parent = |name: &str| rows.iter().any(|row| row.len() == 3 && row[1] == name);
    rows.iter().find(|row| !is_parent(row[0])).expect("a snapshot")[0].to_owned()
}

/// Runs a container, makes an image of what it wrote, and runs that.
fn commit_a_container(bench: &Bench, containerd: &Containerd, small: Image) {
    let script = "echo written > /tmp/written; echo changed > /etc/hello";
    ok(&mut containerd.run(&[], small.name, "writer", script));
    let writer = containerd.container("writer");
    let layer = containerd.ctr(&["snapshots", "diff", &writer]).output().expect("run ctr");
    text(&layer).unwrap_or_else(|failed| panic!("diff: {failed}"));
    containerd.ok(&["containers", "rm", &writer]);
    let layers = small.layers.into_iter().chain([layer.stdout]).collect();
    Image { name: "test.local/written:1", layers }.write(&bench.path("written.tar"));
    containerd.ok(&["images", "import", bench.path("written.tar").to_str().expect("a path")]);
    let read = "while read line; do echo $line; done < /tmp/written; while read line; do echo $line; done < /etc/hello";
    assert_eq!(run(containerd, "test.local/written:1", "reader", read), (Some(0), "written\nchanged\n".to_owned()));
}

fn everyday(bench: &Bench, containerd: &Containerd) {
    let small = small_image();
    let archive = bench.path("small.tar");
    small.write(&archive);
    let archive = archive.to_str().expect("a path");
    // Somebody uses the store by the command line.
    ok(&mut bench.strata(&["import", archive, "--name", "mine"]));
    let listed = ok(&mut bench.strata(&["ls", "--json"]));
    let own: serde_json::Value = serde_json::from_str(&listed).expect("JSON");
    let own = own.as_array().expect("a list");
    let key = own[0]["name"].as_str().expect("a name").to_owned();
    let tree = ok(&mut bench.strata(&["tree", "--digest", &key]));

    containerd.ok(&["images", "import", archive]);
    assert_eq!(containerd.snapshots().len(), 3, "a snapshot for each layer");
    let script = "while read line; do echo $line; done < /etc/hello; test ! -e /etc/hidden && exit 3";
    assert_eq!(run(containerd, small.name, "first", script), (Some(3), "good day\n".to_owned()));

    let many: Vec<_> = (0..CONTAINERS)
        .map(|number| {
            let (name, script) = (
                format!("many{number}"),
                format!("echo {number} > /tmp/it; read it < /tmp/it; echo $it; exit {number}"),
            );
            let mut ctr = containerd.run(&["--rm"], small.name, &name, &script);
            ctr.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().expect("run ctr")
        })
        .collect();
    for (number, child) in many.into_iter().enumerate() {
        let output = child.wait_with_output().expect("wait");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), said), (i32::try_from(number).ok(), format!("{number}\n")), "{complaint}");
    }
    commit_a_container(bench, containerd, small_image());
    assert_eq!(containerd.snapshots().len(), 4, "three layers and the one that was committed");

    containerd.ok(&["images", "rm", "--sync", "test.local/small:1", "test.local/written:1"]);
    assert_eq!(containerd.snapshots(), Vec::<String>::new(), "the garbage collector left something");
    assert_eq!(super::names(&bench.client()), Vec::<String>::new(), "containerd left something with us");
    bench.wait_for_space(own.len());
    bench.client().cleanup().expect("cleanup");
    let checked = check(bench, &["--deep"]);
    assert_eq!(checked["findings"], serde_json::json!([]), "{checked}");
    assert_eq!(ok(&mut bench.strata(&["tree", "--digest", &key])), tree, "containerd changed what is not its own");
    assert_eq!(ok(&mut bench.strata(&["ls", "--json"])), listed);
}

#[test]
fn on_every_strategy() {
    Version::installed().into_iter().for_each(|version| on(&version));
}

#[test]
fn on_every_strategy_with_1_7() {
    Version::unpacked().into_iter().for_each(|version| on(&version));
}

fn on(version: &Version) {
    for setting in SETTINGS {
        let Some(bench) = Bench::new(setting) else { continue };
        let daemon = bench.daemon();
        let containerd = Containerd::start(&bench, version);
        let socket = bench.path("containerd.sock");
        let doctor = ["doctor", "--containerd", socket.to_str().expect("a path")];
        let said = ok(&mut bench.strata(&doctor));
        assert!(said.contains("answers at") && !said.contains("wrong"), "{said}");
        everyday(&bench, &containerd);
        assert_eq!(daemon.stop(), Some(0), "{}", setting.0);
        let output = bench.strata(&doctor).output().expect("run");
        let said = text(&output).expect_err("nobody is behind the plugin");
        assert!(said.contains("daemon") && said.contains("is the daemon running?"), "{said}");
        support::say(&format!("{}: {} containers", setting.0, CONTAINERS + 3));
    }
}
