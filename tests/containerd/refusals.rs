//! Bad input: each has its code, on the wire as gRPC numbers them, one line in the log, and changes nothing.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;

use strata::backends::OVERLAY;
use strata::mount::scratch::{FsType, Scratch};
use strata::snapshotter::{Info, Labels};
use strata::{ErrorKind, Snapshotter};
use tonic::Code;

use super::harness::Process;
use super::wire::{DIFF, SNAPSHOTS, Wire, field, fields};
use super::{Bench, support};

const NONE: &Labels = &BTreeMap::new();

/// A request to make `key` on `parent`, and then to commit `key` as `name` on `parent`, by the fields of their
/// messages.
fn make(key: &str, parent: &str) -> Vec<u8> {
    fields([(1, "strata"), (2, key), (3, parent)])
}

fn commit(name: &str, key: &str, parent: &str) -> Vec<u8> {
    fields([(1, "strata"), (2, name), (3, key), (5, parent)])
}

/// A request about `key`.
fn about(key: &str) -> Vec<u8> {
    fields([(1, "strata"), (2, key)])
}

/// A request to give `name` a label with a value of `length` bytes, by the mask `path`.
fn update(name: &str, length: usize, path: &str) -> Vec<u8> {
    let label = fields([(1, "l"), (2, &"v".repeat(length))]);
    let info = [field(1, name), field(6, label)].concat();
    [field(2, info), field(3, field(1, path))].concat()
}

/// A label of a new snapshot, as long as that.
fn labelled(length: usize) -> Vec<u8> {
    [make("new", ""), field(4, fields([(1, "l"), (2, &"v".repeat(length))]))].concat()
}

fn filter(text: &str) -> Vec<u8> {
    field(2, text)
}

/// `base`, `child` on it (committed), `active` and `view` on `base`.
fn furnish(client: &dyn Snapshotter) {
    for (name, parent) in [("base", ""), ("child", "base")] {
        client.prepare("making", parent, NONE).expect("prepare");
        client.commit(name, "making", NONE).expect("commit");
    }
    client.prepare("active", "base", NONE).expect("prepare");
    client.view("view", "base", NONE).expect("view");
}

fn all(client: &dyn Snapshotter) -> Vec<Info> {
    let mut all = Vec::new();
    let mut note = |info: &Info| {
        all.push(info.clone());
        Ok(())
    };
    client.walk(&[], &mut note).expect("walk");
    all
}

/// How many lines of the log tell of a call that did not succeed.
fn told(daemon: &Process) -> usize {
    daemon.log().lines().filter(|line| line.contains("refused") || line.contains("failed")).count()
}

/// Sends each message to its method: the code is the one that it stands with, the log gets a line, and nothing changes.
fn refused(messages: Vec<(&str, &str, Vec<u8>, Code)>) {
    let Some(bench) = Bench::new((OVERLAY, FsType::Tmpfs)) else { return };
    let (daemon, client) = (bench.daemon(), bench.client());
    furnish(&client);
    let (wire, before) = (Wire::connect(&bench.socket()), all(&client));
    for (what, method, message, code) in messages {
        let lines = told(&daemon);
        let call = if method.contains('/') { method.to_owned() } else { format!("{SNAPSHOTS}/{method}") };
        assert_eq!(wire.call(&call, &message), Err(code), "{what}: {method}");
        assert_eq!(told(&daemon), lines + 1, "{what}: {method}: {}", daemon.log());
        assert_eq!(all(&client), before, "{what}: {method}");
    }
    assert_eq!(daemon.stop(), Some(0));
}

#[test]
fn keys_parents_and_kinds() {
    let long = "k".repeat(1025);
    refused(vec![
        ("no key", "Prepare", make("", ""), Code::InvalidArgument),
        ("a newline", "Prepare", make("a\nb", ""), Code::InvalidArgument),
        ("a NUL", "View", make("a\0b", ""), Code::InvalidArgument),
        ("a long key", "Prepare", make(&long, ""), Code::InvalidArgument),
        ("a long parent", "Prepare", make("new", &long), Code::InvalidArgument),
        ("a key in use", "Prepare", make("active", ""), Code::AlreadyExists),
        ("a view's key", "Prepare", make("view", "base"), Code::AlreadyExists),
        ("a name", "View", make("base", ""), Code::AlreadyExists),
        ("no such parent", "Prepare", make("new", "missing"), Code::NotFound),
        ("no such parent", "View", make("new", "missing"), Code::NotFound),
        ("an active parent", "Prepare", make("new", "active"), Code::InvalidArgument),
        ("a view as the parent", "View", make("new", "view"), Code::InvalidArgument),
        ("no such key", "Mounts", about("missing"), Code::NotFound),
        ("mounts of what is committed", "Mounts", about("base"), Code::FailedPrecondition),
        ("no key", "Mounts", Vec::new(), Code::InvalidArgument),
        ("no such key", "Stat", about("missing"), Code::NotFound),
        ("no key", "Stat", Vec::new(), Code::InvalidArgument),
        ("no such key", "Usage", about("missing"), Code::NotFound),
        ("no such key", "Remove", about("missing"), Code::NotFound),
        ("children", "Remove", about("base"), Code::FailedPrecondition),
        ("no such key", "Commit", commit("new", "missing", ""), Code::NotFound),
        ("no such key, and the name is in use", "Commit", commit("base", "missing", ""), Code::NotFound),
        ("a name in use", "Commit", commit("base", "active", ""), Code::AlreadyExists),
        ("its own key", "Commit", commit("active", "active", ""), Code::AlreadyExists),
        ("no name", "Commit", commit("", "active", ""), Code::InvalidArgument),
        ("a view", "Commit", commit("new", "view", ""), Code::FailedPrecondition),
        ("what is committed", "Commit", commit("new", "base", ""), Code::FailedPrecondition),
        ("another parent", "Commit", commit("new", "active", "child"), Code::InvalidArgument),
    ]);
}

#[test]
fn labels_fields_and_filters() {
    refused(vec![
        ("a giant label", "Prepare", labelled(4096), Code::InvalidArgument),
        ("a giant label", "View", labelled(1 << 20), Code::InvalidArgument),
        ("a giant label", "Update", update("active", 4096, "labels"), Code::InvalidArgument),
        (
            "a giant label",
            "Commit",
            [commit("new", "active", ""), field(4, fields([(1, "l"), (2, &"v".repeat(4096))]))].concat(),
            Code::InvalidArgument,
        ),
        ("beyond what a message may be", "Prepare", labelled(17 << 20), Code::OutOfRange),
        ("nothing to update", "Update", Vec::new(), Code::InvalidArgument),
        ("no such key", "Update", update("missing", 1, "labels"), Code::NotFound),
        ("what never changes", "Update", update("active", 1, "parent"), Code::InvalidArgument),
        ("what never changes", "Update", update("active", 1, "kind"), Code::InvalidArgument),
        ("no label", "Update", update("active", 1, "labels."), Code::InvalidArgument),
        ("a field that there is not", "Update", update("active", 1, "size"), Code::InvalidArgument),
        ("no operator", "List", filter("kind=active"), Code::InvalidArgument),
        ("half a string", "List", filter("name==\"a"), Code::InvalidArgument),
        ("no value", "List", filter("name=="), Code::InvalidArgument),
        ("no expression", "List", filter("name~=("), Code::InvalidArgument),
        ("the second of two", "List", [filter("name==a"), filter("==")].concat(), Code::InvalidArgument),
    ]);
}

/// The methods of a snapshotter that read something of their message.
const METHODS: [&str; 9] = ["Prepare", "View", "Mounts", "Commit", "Remove", "Stat", "Update", "List", "Usage"];

#[test]
fn what_is_no_message() {
    let mut messages = Vec::new();
    for method in METHODS {
        messages.push(("noise", method, vec![0xff; 64], Code::Internal));
        messages.push(("cut short", method, field(2, "key")[..3].to_vec(), Code::Internal));
        messages.push(("a number for a string", method, vec![2 << 3, 1], Code::Internal));
    }
    messages.push(("not UTF-8", "Stat", field(2, [0xff, 0xfe]), Code::Internal));
    messages.push(("noise", "Cleanup", vec![0xff; 64], Code::Internal));
    messages.push(("no such method", "Destroy", Vec::new(), Code::Unimplemented));
    messages.push(("no such service", "containerd.services.images.v1.Images/List", Vec::new(), Code::Unimplemented));
    refused(messages);
}

/// containerd goes on to its next differ for `Unimplemented`, and fails for anything else.
#[test]
fn layers() {
    let [apply, diff] = ["Apply", "Diff"].map(|method| format!("{DIFF}/{method}"));
    let (apply, diff) = (apply.as_str(), diff.as_str());
    let layer = |media_type: &str| field(1, fields([(1, media_type), (2, "sha256:0")]));
    let plain = layer("application/vnd.oci.image.layer.v1.tar");
    let foreign = fields([(1, "overlay"), (2, "overlay"), (4, "lowerdir=/a:/b")]);
    let encrypted = "application/vnd.oci.image.layer.v1.tar+gzip+encrypted";
    refused(vec![
        ("no layer", apply, Vec::new(), Code::InvalidArgument),
        ("no mounts", apply, plain.clone(), Code::Unimplemented),
        ("mounts of others", apply, [plain, field(2, &foreign)].concat(), Code::Unimplemented),
        ("what is no layer", apply, layer("text/plain"), Code::Unimplemented),
        ("what cannot be read", apply, layer(encrypted), Code::Unimplemented),
        ("mounts of others", diff, [field(1, &foreign), field(2, &foreign)].concat(), Code::Unimplemented),
        ("another media type", diff, field(3, "text/plain"), Code::Unimplemented),
        ("noise", apply, vec![0xff; 64], Code::Internal),
        ("noise", diff, vec![0xff; 64], Code::Internal),
    ]);
}

/// A newer containerd may say more than this strata knows.
#[test]
fn unknown_fields_mean_nothing() {
    let Some(bench) = Bench::new((OVERLAY, FsType::Tmpfs)) else { return };
    let (_daemon, client) = (bench.daemon(), bench.client());
    furnish(&client);
    let wire = Wire::connect(&bench.socket());
    // A string, a number of 64 bits and one of 32, none of which there are.
    let unknown =
        [field(15, "unknown"), vec![14 << 3 | 1, 1, 2, 3, 4, 5, 6, 7, 8], vec![13 << 3 | 5, 1, 2, 3, 4]].concat();
    for method in ["Stat", "Mounts", "Usage"] {
        let plain = wire.snapshots(method, &about("active")).expect("an answer");
        assert_eq!(wire.snapshots(method, &[about("active"), unknown.clone()].concat()), Ok(plain), "{method}");
    }
    wire.snapshots("Prepare", &[make("new", "base"), unknown].concat()).expect("prepare");
    assert_eq!(client.stat("new").expect("stat").parent, "base");
}

#[test]
fn health() {
    let Some(bench) = Bench::new((OVERLAY, FsType::Tmpfs)) else { return };
    let _daemon = bench.daemon();
    let wire = Wire::connect(&bench.socket());
    let check = |service: &str| wire.call("grpc.health.v1.Health/Check", &field(1, service));
    // The field 1 is 1: serving.
    assert_eq!(check(SNAPSHOTS), Ok(vec![1 << 3, 1]));
    assert_eq!(check(""), Ok(vec![1 << 3, 1]));
    assert_eq!(check("other"), Err(Code::NotFound));
}

/// Fills the file system of `scratch`, as long as the value lives.
fn fill(scratch: &Scratch) -> tempfile::TempPath {
    let path = scratch.path().join("ballast");
    let mut file = File::create(&path).expect("create");
    for length in [64 << 10, 4 << 10, 1] {
        while file.write_all(&vec![1; length]).is_ok() {}
    }
    tempfile::TempPath::try_from_path(path).expect("its path")
}

#[test]
fn a_full_disk() {
    let Some(bench) = Bench::new((OVERLAY, FsType::Tmpfs)) else { return };
    let Some(small) = support::gate("tmpfs", Scratch::new(FsType::Tmpfs, 8 << 20)) else { return };
    let daemon = bench.daemon_of(&small.path().join("store"), &bench.socket(), &[]);
    let client = bench.client();
    furnish(&client);
    let before = all(&client);
    let full = fill(&small);
    let kind = |answer: strata::Result<()>| answer.err().map(|error| error.kind());
    let exhausted = Some(ErrorKind::ResourceExhausted);
    let labels: Labels = (0..100).map(|number| (format!("l{number}"), "v".repeat(4000))).collect();
    let refused: [(&str, &dyn Fn() -> strata::Result<()>); 3] = [
        ("prepare", &|| client.prepare("new", "base", &labels).map(drop)),
        ("view", &|| client.view("new", "base", &labels).map(drop)),
        ("commit", &|| client.commit("new", "active", &labels)),
    ];
    for (number, (what, call)) in refused.into_iter().enumerate() {
        assert_eq!(kind(call()), exhausted, "{what}");
        let log = daemon.log();
        assert_eq!(log.lines().filter(|line| line.contains("ERROR")).count(), number + 1, "{what}: {log}");
        assert_eq!(all(&client), before, "{what}");
    }
    let wire = Wire::connect(&bench.socket());
    let many: Vec<u8> = labels.iter().flat_map(|(name, value)| field(4, fields([(1, name), (2, value)]))).collect();
    assert_eq!(wire.snapshots("Prepare", &[make("new", "base"), many].concat()), Err(Code::ResourceExhausted));
    drop(full);
    client.prepare("new", "base", &labels).expect("there is space again");
    client.commit("newer", "active", NONE).expect("what could not be committed can be now");
    assert_eq!(daemon.stop(), Some(0));
}
