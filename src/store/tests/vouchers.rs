//! Rows whose data was not on disk when a sync failed, or when their writer ended.

use rustix::fs::{Mode, OFlags};

use super::*;
use crate::id::Digest;
use crate::store::{CachedStep, CheckOptions, CommitOptions, Held, NewImage, Origin, Problem};

/// Makes the syncs of `store` fail.
fn break_syncs(store: &mut Store) {
    // `syncfs(2)` refuses an `O_PATH` descriptor.
    store.root_fd = rustix::fs::open(&store.root, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).expect("open");
}

/// Makes the syncs succeed again, as they do after the kernel has reported an error once.
fn repair_syncs(store: &mut Store) {
    store.root_fd = Dir::open(&store.root).expect("open").into_fd();
}

fn layer(store: &Store, name: &str, parent: &str) {
    store.prepare_layer("making", parent).expect("prepare");
    let options = CommitOptions { flush: Flush::Later, origin: Origin::Image, diff_id: None };
    store.commit_with(name, "making", NONE, options).expect("commit");
}

fn name_image(store: &Store, top: &str) -> Result<()> {
    store.set_image(&NewImage { name: "image", config: b"config", manifest: b"manifest", top: Some(top) })
}

fn problems(store: &Store) -> Vec<Problem> {
    let findings = store.check(&CheckOptions::default()).expect("check").findings;
    findings.into_iter().map(|finding| finding.problem).collect()
}

#[test]
fn after_a_failed_sync_the_same_process_does_not_vouch() {
    let place = Place::new();
    let mut store = place.store();
    layer(&store, "one", "");
    break_syncs(&mut store);
    name_image(&store, "one").expect_err("the sync failed");
    repair_syncs(&mut store);
    let error = name_image(&store, "one").expect_err("it was not on disk when a sync failed");
    assert!(error.to_string().contains("a sync of the disk failed"), "{error}");
    assert!(matches!(problems(&store)[..], [Problem::Unvouched(_)]), "{:?}", problems(&store));
    store.settle();
    store.sync().expect("sync");
    store.settle();
    assert_eq!(names(&store), ["one"], "a call that ended well settles nothing");
    store.gc().expect("gc");
}

#[test]
fn after_a_failed_sync_another_process_writes_again() {
    for lives in [true, false] {
        let place = Place::new();
        let mut store = place.store();
        layer(&store, "one", "");
        layer(&store, "two", "one");
        break_syncs(&mut store);
        name_image(&store, "two").expect_err("the sync failed");
        let _writer = lives.then_some(store);
        let store = place.store();
        if lives {
            // The writer holds its layers as long as it lives.
            assert_eq!(store.hold_layer("two").expect("look"), Held::Committed);
            let error = name_image(&store, "two").expect_err("nobody can vouch");
            assert_eq!(error.kind(), ErrorKind::Io, "{error}");
            continue;
        }
        assert_eq!(store.hold_layer("two").expect("look"), Held::Missing);
        layer(&store, "one", "");
        name_image(&store, "one").expect("written again");
        assert_eq!(names(&store), ["one"]);
        assert_eq!(problems(&store).len(), 2, "the space of the dropped: {:?}", problems(&store));
    }
}

#[test]
fn a_call_that_fails_drops_what_it_cannot_vouch_for() {
    let place = Place::new();
    let mut store = place.store();
    committed(&store, "base", "", Flush::Now);
    layer(&store, "one", "base");
    break_syncs(&mut store);
    name_image(&store, "one").expect_err("the sync failed");
    store.settle();
    assert_eq!(names(&store), ["base"]);
    repair_syncs(&mut store);
    layer(&store, "one", "base");
    name_image(&store, "one").expect("the process goes on");
}

#[test]
fn a_call_that_fails_for_another_reason_leaves_its_layers() {
    let place = Place::new();
    let store = place.store();
    layer(&store, "one", "");
    store.settle();
    drop(store);
    let store = place.store();
    assert_eq!(store.hold_layer("one").expect("look"), Held::Committed);
    name_image(&store, "one").expect("it is on disk");
}

#[test]
fn the_layers_of_a_process_that_died_are_written_again() {
    let place = Place::new();
    let store = place.store();
    layer(&store, "one", "");
    let digest = Digest::of(b"step");
    store.note_step(digest, &CachedStep { top: Some("one".to_owned()), layer: None }).expect("note");
    drop(store);
    let store = place.store();
    assert!(matches!(problems(&store)[..], [Problem::Abandoned(_), Problem::Unvouched(_)]), "{:?}", problems(&store));
    assert_eq!(store.step(digest).expect("look"), None);
    assert_eq!(names(&store), Vec::<String>::new());
}

/// A handle that was opened after a write may have missed the error of that write.
#[test]
fn nobody_vouches_for_what_was_written_before_its_time() {
    let place = Place::new();
    let writer = place.store();
    let early = place.store();
    early.cleanup().expect("a first change");
    layer(&writer, "one", "");
    let late = place.store();
    late.prepare("key", "one", NONE).map(drop).expect_err("it is the writer's");
    assert_eq!(kind(late.prepare("key", "one", NONE)), Some(ErrorKind::Unavailable));
    late.sync().expect("there is nothing of its own");
    assert_eq!(place.count("snapshot WHERE durable = 0"), 1);
    early.prepare("key", "one", NONE).expect("it saw all of the writes");
    assert_eq!(place.count("snapshot WHERE durable = 0"), 0);
    name_image(&late, "one").expect("it is durable now");
}

#[test]
fn an_image_waits_for_the_layers_of_another_process() {
    let place = Place::new();
    let writer = place.store();
    layer(&writer, "one", "");
    let store = place.store();
    layer(&store, "two", "one");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(std::time::Duration::from_millis(100));
            writer.sync().expect("sync");
        });
        name_image(&store, "two").expect("both are on disk");
    });
    assert_eq!(place.count("snapshot WHERE durable = 0"), 0);
}

#[test]
fn a_commit_that_could_not_be_brought_to_disk_is_not_tried_again() {
    for moving in [false, true] {
        let place = Place::new();
        let open = || if moving { place.moving(During::nothing()) } else { place.store() };
        let mut store = open();
        store.prepare("key", "", NONE).expect("prepare");
        store.prepare("other", "", NONE).expect("prepare");
        break_syncs(&mut store);
        store.commit("name", "key", NONE).expect_err("the sync failed");
        repair_syncs(&mut store);
        for key in ["key", "other"] {
            assert_eq!(kind(store.commit("name", key, NONE)), Some(ErrorKind::DataLoss), "the same process, {key}");
            assert_eq!(kind(open().commit("name", key, NONE)), Some(ErrorKind::DataLoss), "another process, {key}");
        }
        assert!(
            problems(&store).iter().all(|problem| matches!(problem, Problem::Doubtful(_))),
            "{:?}",
            problems(&store)
        );
        store.prepare("new", "", NONE).expect("prepare");
        store.commit("name", "new", NONE).expect("what is written since is on disk");
        drop(store);
        place.reboot();
        let store = open();
        store.commit("after", "key", NONE).expect("it shows what is on disk");
        assert_eq!(names(&store), ["after", "name", "other"]);
    }
}

/// A sync that fails during a commit may have concerned the data of the commit.
#[test]
fn a_failure_of_one_is_a_failure_of_all_under_way() {
    let place = Place::new();
    let other = Mutex::new(place.store());
    let store = place.store_during(During::new(move |method, _| {
        if method == "usage" {
            let mut other = other.lock().expect("lock");
            committed(&other, "theirs", "", Flush::Later);
            break_syncs(&mut other);
            other.sync().expect_err("the sync failed");
        }
        Ok(())
    }));
    store.prepare("key", "", NONE).expect("prepare");
    assert_eq!(kind(store.commit("name", "key", NONE)), Some(ErrorKind::DataLoss));
}

#[test]
fn what_an_older_strata_left_without_a_sync_is_nobodys() {
    let place = Place::new();
    let store = place.store();
    committed(&store, "durable", "", Flush::Now);
    committed(&store, "later", "", Flush::Later);
    drop(store);
    place.execute(
        "ALTER TABLE snapshot DROP COLUMN voucher; ALTER TABLE snapshot DROP COLUMN id_map; PRAGMA user_version = 2",
    );
    let store = place.store();
    assert_eq!(names(&store), ["durable", "later"]);
    store.cleanup().expect("cleanup");
    assert_eq!(names(&store), ["durable"]);
}

/// A store with `Durability::None` needs no vouchers.
#[test]
fn a_store_without_syncs_keeps_what_its_writer_left() {
    let place = Place::new();
    let store = place.open(Durability::None, place.plain(During::nothing()), LOCAL);
    committed(&store, "later", "", Flush::Later);
    drop(store);
    let store = place.store();
    store.cleanup().expect("cleanup");
    assert_eq!(names(&store), ["later"]);
    assert_eq!(problems(&store), []);
}

/// [`Store::doubts`], which `strata doctor` prints, has the findings of a check.
#[test]
fn what_is_in_doubt_is_told() {
    let place = Place::new();
    let mut store = place.store();
    assert_eq!(store.doubts().expect("look"), []);
    store.prepare("key", "", NONE).expect("prepare");
    layer(&store, "one", "");
    break_syncs(&mut store);
    store.commit("name", "key", NONE).expect_err("the sync failed");
    let doubts = store.doubts().expect("look");
    let told: Vec<_> = doubts.into_iter().map(|finding| finding.problem).collect();
    assert!(matches!(&told[..], [Problem::Unvouched(_), Problem::Doubtful(_)]), "{told:?}");
    assert_eq!(told, problems(&store));
}
