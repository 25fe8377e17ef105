//! Claims of active snapshots by writers, and the results of build steps.

use super::*;
use crate::id::Digest;
use crate::store::{CachedStep, CommitOptions, Origin};

/// A claim refuses other calls until it is dropped. A snapshot that is taken back is removed.
#[test]
fn claims_and_what_is_taken_back() {
    let place = Place::new();
    let store = place.store();
    store.prepare("named", "", NONE).expect("prepare");
    store.prepare_layer("layer", "").expect("prepare");
    for key in ["named", "layer"] {
        let mounts = store.mounts(key).expect("mounts");
        store.check_mountable(key, &mounts).expect("nothing runs in it");
        let claim = store.claim(key, "cannot write").expect("claim");
        assert_eq!(kind(store.check_mountable(key, &mounts)), Some(ErrorKind::FailedPrecondition), "{key}");
        assert_eq!(claim.mounts(), store.mounts(key).expect("mounts"));
        let refused = [store.remove(key), store.take_back(key), store.commit("name", key, NONE)];
        assert!(refused.into_iter().all(|answer| kind(answer) == Some(ErrorKind::FailedPrecondition)), "{key}");
        assert_eq!(kind(store.claim(key, "cannot write").map(drop)), Some(ErrorKind::FailedPrecondition));
        drop(claim);
        store.take_back(key).expect("take back");
        assert_eq!(kind(store.stat(key)), Some(ErrorKind::NotFound));
        assert_eq!(kind(store.take_back(key)), Some(ErrorKind::NotFound));
    }
    store.prepare("base", "", NONE).expect("prepare");
    store.commit("base", "base", NONE).expect_err("its own name");
    store.commit("committed", "base", NONE).expect("commit");
    assert_eq!(kind(store.claim("committed", "cannot write").map(drop)), Some(ErrorKind::FailedPrecondition));
    assert_eq!(place.count("snapshot WHERE worker IS NOT NULL"), 0);
}

/// The result of a step is removed with its snapshot.
#[test]
fn steps() {
    let place = Place::new();
    let store = place.store();
    let (digest, other, diff_id) = (Digest::of(b"step"), Digest::of(b"other"), Digest::of(b"layer"));
    assert_eq!(store.step(digest).expect("look"), None);
    let nothing = CachedStep { top: None, layer: None };
    store.note_step(other, &nothing).expect("note");
    assert_eq!(store.step(other).expect("look"), Some(nothing));
    store.prepare("key", "", NONE).expect("prepare");
    let step = CachedStep { top: Some("layer".to_owned()), layer: Some((diff_id, 1024)) };
    assert_eq!(kind(store.note_step(digest, &step)), Some(ErrorKind::NotFound));
    let options = CommitOptions { flush: Flush::Later, origin: Origin::Image, diff_id: Some(diff_id) };
    store.commit_with("layer", "key", NONE, options).expect("commit");
    store.note_step(digest, &step).expect("note");
    assert_eq!(place.store().step(digest).expect("by another process"), Some(step));
    store.remove("layer").expect("remove");
    assert_eq!(store.step(digest).expect("look"), None);
    assert_eq!(place.count("step"), 1, "the note went too");
}
