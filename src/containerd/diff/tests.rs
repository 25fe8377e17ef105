//! Cases that cannot be tested through containerd: times, and mounts of somebody else.

use std::io::Read;
use std::path::PathBuf;

use super::*;
use crate::backends::{self, COPY, Config};
use crate::changeset::Change;
use crate::changeset::tar::{Limits, decode};
use crate::door::{EmitOptions, emit};
use crate::error::ErrorKind;
use crate::snapshotter::{Labels, Snapshotter as _};
use crate::testing;
use crate::tree::{Dir, Timestamp};

const LATE: Timestamp = Timestamp { seconds: 2_000_000_000, nanos: 5 };

const EARLY: Timestamp = Timestamp { seconds: 1_000, nanos: 7 };

/// A store with `top`, an active snapshot with a late file and an early one in a late directory, on `base`.
fn store(dir: &Path) -> Option<Store> {
    let config = Config { backend: Some(COPY), ..Config::new(dir.join("store")) };
    let store = testing::gate("copy", backends::open(&config))?;
    let none = Labels::new();
    store.prepare("making", "", &none).expect("prepare");
    store.commit("base", "making", &none).expect("commit");
    let mounts = store.prepare("top", "base", &none).expect("prepare");
    let root = Dir::open(mounts[0].source()).expect("open");
    root.make_dir("dir").expect("mkdir");
    let inner = root.open_dir("dir").expect("open");
    for (name, time) in [("late", LATE), ("early", EARLY)] {
        inner.create_file(name).expect("create");
        inner.set_mtime(name, time).expect("utimes");
    }
    root.set_mtime("dir", LATE).expect("utimes");
    Some(store)
}

/// The paths and times of the layer that `top` makes.
fn times(store: &Store, epoch: Option<Timestamp>) -> Vec<(PathBuf, Timestamp)> {
    let mut layer = Vec::new();
    emit(store, "top", &EmitOptions { epoch, ..EmitOptions::default() }, &mut layer).expect("a layer");
    let mut times = Vec::new();
    let mut note = |change: &Change, _: &mut dyn Read| {
        if let Change::Put { path, meta, .. } = change {
            times.push((path.clone(), meta.mtime));
        }
        Ok(())
    };
    decode(&mut &*layer, &Limits::default(), &mut note).expect("decode");
    times
}

#[test]
fn no_time_is_after_the_epoch_that_is_asked_for() {
    let dir = tempfile::tempdir().expect("a directory");
    let Some(store) = store(dir.path()) else { return };
    let named = |name: &str, times: &[(PathBuf, Timestamp)]| {
        times.iter().find(|(path, _)| path == Path::new(name)).map(|(_, time)| *time)
    };
    let as_they_are = times(&store, None);
    assert_eq!([named("dir", &as_they_are), named("dir/late", &as_they_are)], [Some(LATE), Some(LATE)]);
    let epoch = Timestamp { seconds: 1_500_000_000, nanos: 0 };
    let capped = times(&store, Some(epoch));
    assert_eq!(named("dir/early", &capped), Some(EARLY), "what is before it stays");
    assert_eq!([named("dir", &capped), named("dir/late", &capped)], [Some(epoch), Some(epoch)]);
    assert!(capped.iter().all(|(_, time)| *time <= epoch), "{capped:?}");
}

/// A layer of two snapshots is made here, or of none of them.
#[test]
fn both_sides_are_ours_or_none_is() {
    let dir = tempfile::tempdir().expect("a directory");
    let Some(store) = store(dir.path()) else { return };
    store.view("look", "base", &Labels::new()).expect("view");
    let mounts = |key: &str| convert::mounts(&store.mounts(key).expect("mounts"));
    let foreign = [Mount { r#type: "bind".into(), source: "/elsewhere".into(), ..Mount::default() }];
    let (own, below) = (mounts("top"), mounts("look"));
    assert_eq!(sides(&store, &below, &own).expect("both"), ("base".to_owned(), "top".to_owned()));
    assert_eq!(sides(&store, &[], &own).expect("everything"), (String::new(), "top".to_owned()));
    for (left, right, kind) in [
        (&foreign[..], &foreign[..], ErrorKind::Unsupported),
        (&[], &foreign, ErrorKind::Unsupported),
        (&foreign, &own, ErrorKind::FailedPrecondition),
        (&below, &foreign, ErrorKind::FailedPrecondition),
        (&below, &[], ErrorKind::FailedPrecondition),
    ] {
        assert_eq!(sides(&store, left, right).expect_err("not both").kind(), kind, "{left:?} {right:?}");
    }
}

#[test]
fn a_layer_that_nobody_waits_for_is_not_written() {
    let dir = tempfile::tempdir().expect("a directory");
    let Some(store) = store(dir.path()) else { return };
    let cancel = Cancel::default();
    drop(cancel.on_drop());
    let options = EmitOptions { cancel: cancel.clone(), ..EmitOptions::default() };
    let answer = emit(&store, "top", &options, &mut Vec::new());
    assert_eq!(answer.expect_err("cancelled").kind(), ErrorKind::Cancelled);
}
