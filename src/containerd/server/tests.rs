//! Requests that strata's own client does not send.

use std::collections::HashMap;

use tokio::runtime::Builder;
use tonic::Code;

use super::*;
use crate::backends::{self, COPY, Config};
use crate::snapshotter::Labels;
use crate::testing;

/// A store in `dir` with `base`, `other` (committed) and `active` and `view` on `base`, served.
fn service(dir: &std::path::Path) -> Option<Service> {
    let config = Config { backend: Some(COPY), ..Config::new(dir.join("store")) };
    let store = testing::gate("copy", backends::open(&config))?;
    let none = Labels::new();
    for name in ["base", "other"] {
        store.prepare("making", "", &none).expect("prepare");
        store.commit(name, "making", &none).expect("commit");
    }
    store.prepare("active", "base", &none).expect("prepare");
    store.view("view", "base", &none).expect("view");
    let (freeable, _) = std::sync::mpsc::sync_channel(1);
    Some(Service::new(Arc::new(store), 2, freeable, &Arc::new(Metrics::new())))
}

fn run<T>(call: impl Future<Output = Answer<T>>) -> Result<T, Code> {
    let runtime = Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(call).map(Response::into_inner).map_err(|status| status.code())
}

/// The order of checks is containerd's; a commit onto the parent that is there is an ordinary one.
#[test]
fn nothing_is_moved_to_another_parent() {
    let dir = tempfile::tempdir().expect("a directory");
    let Some(service) = service(dir.path()) else { return };
    let commit = |name: &str, key: &str, parent: &str| {
        let (name, key, parent) = (name.to_owned(), key.to_owned(), parent.to_owned());
        let request = CommitSnapshotRequest { name, key, parent, ..CommitSnapshotRequest::default() };
        run(service.commit(Request::new(request)))
    };
    assert_eq!(commit("new", "missing", "other"), Err(Code::NotFound));
    assert_eq!(commit("other", "active", "other"), Err(Code::AlreadyExists));
    assert_eq!(commit("active", "active", "other"), Err(Code::AlreadyExists));
    assert_eq!(commit("new", "view", "other"), Err(Code::FailedPrecondition));
    assert_eq!(commit("new", "active", "other"), Err(Code::InvalidArgument));
    assert_eq!(commit("new", "active", "missing"), Err(Code::InvalidArgument));
    assert_eq!(commit("new", "active", "base"), Ok(()));
}

#[test]
fn an_update_says_what_it_updates() {
    let dir = tempfile::tempdir().expect("a directory");
    let Some(service) = service(dir.path()) else { return };
    let update = |info: Option<Info>| {
        run(service.update(Request::new(UpdateSnapshotRequest { info, ..UpdateSnapshotRequest::default() })))
    };
    assert_eq!(update(None).map(drop), Err(Code::InvalidArgument));
    assert_eq!(update(Some(Info::default())).map(drop), Err(Code::InvalidArgument), "no name");
    let labels = HashMap::from([("l".to_owned(), "v".repeat(4096))]);
    let info = Info { name: "active".into(), labels, ..Info::default() };
    assert_eq!(update(Some(info)).map(drop), Err(Code::InvalidArgument), "a label without end");
}

#[test]
fn messages_have_an_end() {
    let info = |bytes: usize| Info { name: "x".repeat(bytes), ..Info::default() };
    let mut messages = Messages::default();
    (0..250).for_each(|_| messages.push(info(10)));
    let lengths = |messages: &Messages| messages.messages.iter().map(|message| message.info.len()).collect::<Vec<_>>();
    assert_eq!(lengths(&messages), [100, 100, 50]);
    let mut messages = Messages::default();
    [600 << 10, 600 << 10, 2 << 20, 10].into_iter().for_each(|bytes| messages.push(info(bytes)));
    assert_eq!(lengths(&messages), [1, 1, 1, 1]);
}
