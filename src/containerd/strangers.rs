//! Messages of strangers, generated: requests of the snapshots and diff services, mounts, and requests for figures.
//! The socket is root's, but containerd passes on what its own clients say.

use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use prost::Message;
use tokio::runtime::{Builder, Runtime};
use tonic::{Request, Status};

use super::diff::Differ;
use super::metrics::{self, Address, Metrics};
use super::mounted;
use super::proto::diff::diff_server::Diff as _;
use super::proto::diff::{ApplyRequest, DiffRequest};
use super::proto::snapshots::snapshots_server::Snapshots as _;
use super::proto::snapshots::*;
use super::proto::types::{Descriptor, Mount};
use super::server::Service;
use crate::backends::{self, COPY, Config};
use crate::snapshotter::{Labels, Snapshotter as _};
use crate::store::{Durability, Store};
use crate::strangers::try_each;
use crate::testing;

/// A store with `base` (committed) and `active` and `view` on it.
fn store(dir: &Path) -> Option<Arc<Store>> {
    let config = Config { backend: Some(COPY), durability: Durability::None, ..Config::new(dir.join("store")) };
    let store = testing::gate("copy", backends::open(&config))?;
    let none = Labels::new();
    store.prepare("making", "", &none).expect("prepare");
    store.commit("base", "making", &none).expect("commit");
    store.prepare("active", "base", &none).expect("prepare");
    store.view("view", "base", &none).expect("view");
    Some(Arc::new(store))
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// A message behind the number of its call.
fn seed(call: u8, message: &impl Message) -> Vec<u8> {
    [&[call][..], &message.encode_to_vec()].concat()
}

fn mount(source: &str, options: &[&str]) -> Mount {
    let options = options.iter().map(|option| (*option).to_owned()).collect();
    Mount { r#type: "overlay".into(), source: source.into(), target: String::new(), options }
}

fn labels() -> std::collections::HashMap<String, String> {
    [("containerd.io/gc.root".to_owned(), "now".to_owned())].into()
}

fn seeds() -> Vec<Vec<u8>> {
    let (key, parent, name) = ("new".to_owned(), "base".to_owned(), "done".to_owned());
    let info = Info { name: "active".into(), labels: labels(), ..Info::default() };
    let update_mask = Some(prost_types::FieldMask { paths: vec!["labels.a".into(), "labels".into()] });
    let filters = vec!["labels.\"a.b\"==c,kind==active".into(), "name~=\"b.*\"".into()];
    let mounts = vec![mount("overlay", &["lowerdir=/a:/b\\:c", "upperdir=/u", "workdir=/w"])];
    let layer = Descriptor { digest: "sha256:00".into(), size: 5, ..Descriptor::default() };
    vec![
        seed(
            0,
            &PrepareSnapshotRequest {
                key: key.clone(),
                parent: parent.clone(),
                labels: labels(),
                ..Default::default()
            },
        ),
        seed(
            1,
            &ViewSnapshotRequest { key: key.clone(), parent: parent.clone(), labels: labels(), ..Default::default() },
        ),
        seed(2, &MountsRequest { key: "active".into(), ..Default::default() }),
        seed(3, &CommitSnapshotRequest { name, key: key.clone(), parent, labels: labels(), ..Default::default() }),
        seed(4, &RemoveSnapshotRequest { key: key.clone(), ..Default::default() }),
        seed(5, &StatSnapshotRequest { key: "base".into(), ..Default::default() }),
        seed(6, &UpdateSnapshotRequest { info: Some(info), update_mask, ..Default::default() }),
        seed(7, &ListSnapshotsRequest { filters, ..Default::default() }),
        seed(8, &UsageRequest { key, ..Default::default() }),
        seed(9, &CleanupRequest::default()),
        seed(10, &ApplyRequest { diff: Some(layer), mounts: mounts.clone(), ..Default::default() }),
        seed(
            11,
            &DiffRequest {
                left: mounts.clone(),
                right: mounts,
                r#ref: "r".into(),
                labels: labels(),
                ..Default::default()
            },
        ),
    ]
}

/// Decodes the message of a call and makes the call; `None` for what is no message.
macro_rules! call {
    ($runtime:expr, $service:expr, $method:ident, $bytes:expr) => {
        match Message::decode($bytes) {
            Ok(message) => Some($runtime.block_on($service.$method(Request::new(message))).map(drop)),
            Err(_) => None,
        }
    };
}

#[test]
fn requests() {
    let dir = tempfile::tempdir().expect("a directory");
    let Some(store) = store(dir.path()) else { return };
    let (runtime, figures) = (runtime(), Arc::new(Metrics::new()));
    let (freeable, _waits) = std::sync::mpsc::sync_channel(1);
    let service = Service::new(Arc::clone(&store), 2, freeable, &figures);
    let _guard = runtime.enter();
    let differ = Differ::new(store, None, &figures).expect("a differ");
    let words = [
        "active",
        "base",
        "view",
        "new",
        "done",
        "labels",
        "kind==",
        "name~=",
        "(a|b)*",
        "\\w{100}",
        ",",
        "\"",
        "\0",
        "\n",
        "..",
        "/",
        "sha256:",
        "\u{a}\u{4}",
        "\u{12}\u{4}",
        "\u{1a}\u{4}",
        "\u{22}\u{2}",
        "\u{7f}",
        "containerd.io/snapshot/",
    ];
    try_each(concat!(module_path!(), "::requests"), &seeds(), &words, |input| {
        let (call, bytes) = input.split_first().unwrap_or((&0, &[]));
        let answer: Option<Result<(), Status>> = match call % 12 {
            0 => call!(runtime, service, prepare, bytes),
            1 => call!(runtime, service, view, bytes),
            2 => call!(runtime, service, mounts, bytes),
            3 => call!(runtime, service, commit, bytes),
            4 => call!(runtime, service, remove, bytes),
            5 => call!(runtime, service, stat, bytes),
            6 => call!(runtime, service, update, bytes),
            7 => call!(runtime, service, list, bytes),
            8 => call!(runtime, service, usage, bytes),
            9 => call!(runtime, service, cleanup, bytes),
            10 => call!(runtime, differ, apply, bytes),
            _ => call!(runtime, differ, diff, bytes),
        };
        if let Some(Err(status)) = answer {
            assert_ne!(status.code(), tonic::Code::Internal, "{status}");
        }
    });
}

/// `find_by_mounts` reads options as a client spells them; what it answers is a snapshot or an error.
#[test]
fn mounts() {
    let dir = tempfile::tempdir().expect("a directory");
    let Some(store) = store(dir.path()) else { return };
    let root = dir.path().join("store/s").display().to_string();
    let seeds = [
        "overlay\noverlay\nlowerdir=/a:/b\\:c\nupperdir=/u,workdir=/w\nindex=off,lowerdir+=/x".to_owned(),
        format!("bind\n{root}/2/fs\nrbind,rw"),
        format!("overlay\noverlay\nlowerdir={root}/1/fs\nlowerdir={root}/1/fs:{root}/2/fs\nro"),
        format!("overlay\noverlay\n{}", ",".repeat(500_000)),
    ];
    let words = [
        ",",
        ":",
        "\\",
        "\n",
        "=",
        "lowerdir=",
        "lowerdir+=",
        "upperdir=",
        "workdir=",
        "datadir+=",
        "/",
        "..",
        "ro",
        "rbind",
        &root,
        "/1/fs",
        "\0",
    ];
    let seeds = seeds.map(String::into_bytes);
    try_each(concat!(module_path!(), "::mounts"), &seeds, &words, |input| {
        let text = String::from_utf8_lossy(input);
        let mut lines = text.split('\n');
        let (kind, source) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
        let options: Vec<&str> = lines.collect();
        let mounts = [Mount { r#type: kind.into(), ..mount(source, &options) }];
        for found in [mounted::shown(&store, &mounts), mounted::written(&store, &mounts)].into_iter().flatten() {
            assert!(["base", "active", "view"].contains(&found.name.as_str()), "{}", found.name);
        }
    });
}

#[test]
fn requests_for_figures() {
    let dir = tempfile::tempdir().expect("a directory");
    let Some(store) = store(dir.path()) else { return };
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let path = dir.path().join("figures");
    let address = Address::Socket(path.clone());
    let _socket = runtime.block_on(metrics::serve(&address, Arc::new(Metrics::new()), store)).expect("serve");
    let ask = |request: &[u8], ends: bool| {
        let mut stream = UnixStream::connect(&path).expect("connect");
        stream.set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout");
        // A server that has seen enough ends the connection.
        let _ = stream.write_all(request);
        if ends {
            let _ = stream.shutdown(Shutdown::Write);
        }
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        answer
    };
    let good = b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let seeds = [
        good.to_vec(),
        b"POST /metrics HTTP/1.0\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
            .to_vec(),
    ];
    let words = [
        "\r\n",
        "\r\n\r\n",
        " ",
        "/",
        "GET ",
        "HTTP/1.1",
        "HTTP/2.0",
        "Content-Length: 99999999999\r\n",
        "Expect: 100-continue\r\n",
        "\0",
        "%00",
        "x: y\r\n",
        "Upgrade: h2c\r\n",
    ];
    let mut number = 0;
    try_each(concat!(module_path!(), "::requests_for_figures"), &seeds, &words, |input| {
        ask(input, true);
        number += 1;
        if number % 50 == 0 {
            assert!(ask(good, false).starts_with(b"HTTP/1.1 200"), "it serves nobody any more");
        }
    });
}
