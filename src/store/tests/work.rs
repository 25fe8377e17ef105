//! Calls that fail, calls that run at the same time, and the files and rows that remain.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::*;
use crate::id::Digest;
use crate::store::CheckOptions;
use crate::store::db::durability;
use crate::task::Cancel;

/// On a full disk the database may not even take the note that a call failed.
#[test]
fn a_failed_call_that_cannot_be_noted_is_noted_later() {
    for method in ["create", "seal"] {
        let place = Place::new();
        let root = place.root().to_owned();
        let during = During::failing(method, move |_| {
            let sql = Connection::open(root.join("strata.db")).expect("open");
            sql.execute_batch(
                "CREATE TRIGGER jam_d BEFORE DELETE ON snapshot BEGIN SELECT RAISE(FAIL, 'jammed'); END;
                 CREATE TRIGGER jam_u BEFORE UPDATE ON snapshot BEGIN SELECT RAISE(FAIL, 'jammed'); END;",
            )
            .expect("jam");
        });
        let store = place.moving(during);
        if method == "create" {
            assert!(store.prepare("key", "", NONE).is_err());
            assert_eq!(place.ids(), [], "the space of what failed is still in use");
        } else {
            store.prepare("key", "", NONE).expect("prepare");
            assert!(store.commit("name", "key", NONE).is_err());
            assert_eq!(place.ids().len(), 1, "the space of what failed is still in use");
        }
        place.execute("DROP TRIGGER jam_d; DROP TRIGGER jam_u");
        if method == "create" {
            store.prepare("key", "", NONE).expect("the key is free");
        }
        store.commit("name", "key", NONE).expect("the name is free");
        assert_eq!(names(&store), ["name"]);
        assert_eq!(place.count("snapshot WHERE worker IS NOT NULL"), 0);
    }
}

/// Each kind of call on a key and names that a `prepare` is working on.
#[test]
fn calls_in_the_middle_of_a_prepare() {
    let place = Place::new();
    committed(&place.store(), "base", "", Flush::Now);
    let other = place.store();
    let store = place.store_during(During::new(move |method, _| {
        if method == "create" {
            assert_eq!(kind(other.stat("key")), Some(ErrorKind::NotFound), "not there yet");
            assert_eq!(kind(other.prepare("key", "", NONE)), Some(ErrorKind::AlreadyExists));
            assert_eq!(kind(other.view("key", "base", NONE)), Some(ErrorKind::AlreadyExists));
            assert_eq!(kind(other.commit("name", "key", NONE)), Some(ErrorKind::NotFound));
            assert_eq!(kind(other.remove("key")), Some(ErrorKind::NotFound));
            assert_eq!(kind(other.prepare("x", "key", NONE)), Some(ErrorKind::NotFound));
            assert_eq!(kind(other.remove("base")), Some(ErrorKind::FailedPrecondition), "it gets a child");
            other.prepare("aside", "base", NONE).map(drop)?;
            other.commit("beside", "aside", NONE)?;
        }
        Ok(())
    }));
    store.prepare("key", "base", NONE).expect("prepare");
    assert_eq!(names(&store), ["base", "beside", "key"]);
}

#[test]
fn a_prepare_in_one_transaction_fails_whole() {
    for method in ["create", "mounts"] {
        let place = Place::new();
        let store = place.brief(During::failing(method, |_| {}));
        assert_eq!(kind(store.prepare("key", "", NONE)), Some(ErrorKind::Io));
        assert_eq!((place.count("snapshot"), place.count("trash"), place.ids()), (0, 0, Vec::new()), "{method}");
        store.prepare("key", "", NONE).expect("prepare");
        assert_eq!((names(&store), place.ids()), (vec!["key".to_owned()], vec![Id(1)]), "{method}");
    }
}

#[test]
fn a_prepare_in_one_transaction_passes_by_what_is_in_the_way() {
    let place = Place::new();
    let store = place.brief(During::nothing());
    fs::create_dir(place.root().join("s/1")).expect("mkdir");
    store.prepare("key", "", NONE).expect("prepare");
    assert_eq!(place.ids(), [Id(1), Id(2)]);
    store.gc().expect("gc");
    assert_eq!(place.ids(), [Id(2)]);
}

#[test]
fn a_prepare_on_what_is_not_durable_brings_that_to_disk_outside_the_transaction() {
    let place = Place::new();
    let other = Arc::new(place.store());
    let beside = Arc::clone(&other);
    let store = place.brief(During::new(move |method, _| {
        // If this call were inside a write transaction, the write of the other handle would wait for it.
        if method == "create" { beside.prepare("aside", "", NONE).map(drop) } else { Ok(()) }
    }));
    store.cleanup().expect("a handle vouches for what is written after it was opened");
    committed(&other, "base", "", Flush::Later);
    store.prepare("key", "base", NONE).expect("prepare");
    assert_eq!(place.sql().query_row("SELECT min(durable) FROM snapshot", [], |row| row.get(0)), Ok(1));
}

#[test]
fn a_check_beside_a_prepare_takes_nothing_for_debris() {
    let place = Place::new();
    let (other, during) = (Arc::new(place.store()), Arc::new(Mutex::new(None)));
    let started = Arc::clone(&during);
    let store = place.brief(During::new(move |method, _| {
        if method == "create" {
            let other = Arc::clone(&other);
            let checked = thread::spawn(move || other.check(&CheckOptions::default()).expect("check").findings);
            // A check that waits for no transaction would end within this time.
            thread::sleep(Duration::from_millis(200));
            *started.lock().expect("lock") = Some(checked);
        }
        Ok(())
    }));
    store.prepare("key", "", NONE).expect("prepare");
    let checked = during.lock().expect("lock").take().expect("a check");
    assert_eq!(checked.join().expect("the check"), []);
}

/// A snapshot may be removed after the check has listed it, and its row number may be used again.
#[test]
fn a_check_beside_a_removal_finds_nothing_wrong() {
    let place = Place::new();
    let (other, listed) = (place.store(), Mutex::new(0));
    for name in ["stays", "goes", "gone"] {
        committed(&other, name, "", Flush::Later);
    }
    let store = place.brief(During::new(move |method, _| {
        if method == "inventory" {
            let mut count = listed.lock().expect("lock");
            *count += 1;
            // The second inventory comes after the rows were read.
            if *count == 2 {
                ["gone", "goes"].into_iter().for_each(|name| other.remove(name).expect("remove"));
                committed(&other, "new", "", Flush::Later);
            }
        }
        Ok(())
    }));
    let options = CheckOptions { deep: true, record: true, ..CheckOptions::default() };
    let checked = store.check(&options).expect("check");
    assert_eq!((checked.recorded, checked.damaged()), (1, 0), "{:?}", checked.findings);
}

#[test]
fn calls_in_the_middle_of_a_commit() {
    for moving in [false, true] {
        let place = Place::new();
        let other = if moving { place.moving(During::nothing()) } else { place.store() };
        let during = During::new(move |method, _| {
            if method == "seal" {
                assert_eq!(other.stat("key").expect("stat").kind, crate::snapshotter::Kind::Active);
                assert_eq!(kind(other.stat("name")), Some(ErrorKind::NotFound));
                assert_eq!(kind(other.commit("other", "key", NONE)), Some(ErrorKind::FailedPrecondition));
                if moving {
                    assert_eq!(kind(other.commit("name", "key", NONE)), Some(ErrorKind::AlreadyExists));
                    assert_eq!(kind(other.prepare("name", "", NONE)), Some(ErrorKind::AlreadyExists));
                }
                assert_eq!(kind(other.prepare("x", "name", NONE)), Some(ErrorKind::NotFound));
                assert_eq!(kind(other.remove("key")), Some(ErrorKind::FailedPrecondition));
                assert_eq!(kind(other.remove("name")), Some(ErrorKind::NotFound));
                assert_eq!(kind(other.remove("base")), Some(ErrorKind::FailedPrecondition));
                other.gc().expect("gc");
            }
            Ok(())
        });
        let store = if moving { place.moving(during) } else { place.store_during(during) };
        store.prepare("making", "", NONE).expect("prepare");
        // `committed` would not do: the calls during `seal` refer to these names.
        place.execute("UPDATE snapshot SET name = 'base', kind = 3");
        store.prepare("key", "base", NONE).expect("prepare");
        store.commit("name", "key", NONE).expect("commit");
        assert_eq!(names(&store), ["base", "name"]);
        assert_eq!(store.stat("name").expect("stat").parent, "base");
        store.gc().expect("gc");
        assert_eq!(place.ids().len(), 2);
        assert_eq!(place.count("snapshot WHERE worker IS NOT NULL"), 0);
    }
}

/// A commit in place does not reserve its name. The later commit fails, and its snapshot can be committed under another
/// name.
#[test]
fn of_two_commits_to_a_name_the_first_has_it() {
    let place = Place::new();
    let other = place.store();
    let store = place.store_during(During::new(move |method, _| {
        if method == "seal" && other.stat("name").is_err() {
            committed(&other, "name", "", Flush::Now);
        }
        Ok(())
    }));
    store.prepare("key", "", NONE).expect("prepare");
    assert_eq!(kind(store.commit("name", "key", NONE)), Some(ErrorKind::AlreadyExists));
    assert_eq!(names(&store), ["key", "name"]);
    store.commit("another", "key", NONE).expect("commit");
    assert_eq!(place.count("snapshot WHERE worker IS NOT NULL"), 0);
}

/// A sync does not cover a snapshot that is made during the sync, even if its row number is used again.
#[test]
fn sync_vouches_only_for_what_was_there_before() {
    let place = Place::new();
    let store = place.store();
    committed(&store, "gone", "", Flush::Later);
    store.prepare_with("key", "", NONE, Flush::Later).expect("prepare");
    committed(&store, "stays", "", Flush::Later);
    let known = store.meta.view(durability::unvouched).expect("what is not durable");
    // During the sync:
    store.remove("stays").expect("remove");
    committed(&store, "new", "", Flush::Later);
    store
        .commit_with(
            "grown",
            "key",
            NONE,
            super::super::CommitOptions { flush: Flush::Later, ..super::super::CommitOptions::PLAIN },
        )
        .expect("commit");
    store.vouch(&known).expect("vouch");
    drop(store);
    place.reboot();
    let store = place.store();
    store.cleanup().expect("cleanup");
    assert_eq!(names(&store), ["gone"]);
}

#[test]
fn removal_leaves_the_work_to_who_drains() {
    let place = Place::new();
    let removed = Arc::new(Mutex::new(0));
    let counter = Arc::clone(&removed);
    let store = place.store_during(During::new(move |method, _| {
        *counter.lock().expect("lock") += usize::from(method == "remove");
        Ok(())
    }));
    for key in ["a", "b", "c"] {
        store.prepare(key, "", NONE).expect("prepare");
        store.remove(key).expect("remove");
        store.prepare(key, "", NONE).expect("the key is free at once");
    }
    assert_eq!((*removed.lock().expect("lock"), place.ids().len()), (0, 6));
    let freed = store.drain(Some(Duration::ZERO), None).expect("drain");
    assert_eq!((freed.snapshots, freed.waiting), (1, 2), "every call gets on");
    let freed = store.drain(None, None).expect("drain");
    assert_eq!((freed.snapshots, freed.waiting), (2, 0));
    assert_eq!((place.count("trash"), place.ids().len()), (0, 3));
}

/// A snapshot that is half removed waits in the trash, also for another process after a crash.
#[test]
fn draining_stops_inside_a_snapshot() {
    let place = Place::new();
    let store = place.store();
    for key in ["a", "b"] {
        store.prepare(key, "", NONE).expect("prepare");
    }
    for file in 0..10 {
        fs::write(place.root().join(format!("s/1/{file}")), "").expect("write");
    }
    ["a", "b"].iter().for_each(|key| store.remove(key).expect("remove"));
    let asked = Cancel::default();
    asked.request();
    for (limit, cancel) in [(Some(Duration::ZERO), None), (None, Some(&asked))] {
        let freed = store.drain(limit, cancel).expect("drain");
        assert_eq!((freed.snapshots, freed.waiting, place.count("trash")), (0, 2, 2));
    }
    assert_eq!(fs::read_dir(place.root().join("s/1")).expect("list").count(), 8, "every call gets on");
    drop(store);
    place.reboot();
    let freed = place.store().gc().expect("gc");
    assert_eq!((freed.snapshots, freed.waiting), (2, 0));
    assert_eq!((place.count("trash"), place.ids()), (0, vec![]));
}

/// Two processes never remove one id at the same time, and no id is counted twice.
#[test]
fn two_drainers() {
    let place = Place::new();
    let other = place.store();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&seen);
    let store = place.store_during(During::new(move |method, id| {
        if method == "remove" {
            log.lock().expect("lock").push(id);
            let freed = other.drain(None, None).expect("drain");
            assert_eq!(freed.snapshots, 0, "two drain at the same time");
        }
        Ok(())
    }));
    for key in ["a", "b"] {
        store.prepare(key, "", NONE).expect("prepare");
        store.remove(key).expect("remove");
    }
    assert_eq!(store.drain(None, None).expect("drain").snapshots, 2);
    assert_eq!(*seen.lock().expect("lock"), [Id(1), Id(2)]);
}

/// A cleanup returns when all space is free, even if another process has begun to free it.
#[test]
fn a_cleanup_waits_for_who_is_at_it() {
    let place = Place::new();
    let (at_it, begun) = std::sync::mpsc::channel();
    let store = place.store_during(During::new(move |method, _| {
        if method == "remove" {
            at_it.send(()).expect("somebody waits");
            // A cleanup that does not wait would return within this time.
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }));
    store.prepare("a", "", NONE).expect("prepare");
    store.remove("a").expect("remove");
    std::thread::scope(|scope| {
        scope.spawn(|| store.drain(None, None).expect("drain"));
        begun.recv().expect("it begins");
        place.store().cleanup().expect("cleanup");
        assert_eq!(place.count("trash"), 0);
    });
}

#[test]
fn what_cannot_be_freed_keeps_nobody_waiting() {
    let place = Place::new();
    let store = place.store_during(During::failing("remove", |_| ()));
    for key in ["a", "b"] {
        store.prepare(key, "", NONE).expect("prepare");
        store.remove(key).expect("remove");
    }
    let error = store.cleanup().expect_err("the first fails");
    assert!(error.chain().contains("s/1"), "{}", error.chain());
    assert_eq!((place.count("trash"), place.ids()), (1, vec![]));
    store.cleanup().expect("the second time");
    assert_eq!(place.count("trash"), 0);
}

/// Two owners may use the same key for different snapshots.
#[test]
fn owners_share_nothing_but_the_disk() {
    let place = Place::new();
    let (local, other) = (place.store(), place.open(Durability::Commit, place.plain(During::nothing()), "daemon"));
    committed(&local, "base", "", Flush::Now);
    other.prepare("base", "", NONE).expect("a key of its own");
    assert_eq!(kind(other.prepare("x", "making", NONE)), Some(ErrorKind::NotFound));
    assert_eq!(kind(other.prepare("x", "base", NONE)), Some(ErrorKind::InvalidArgument), "its own base is active");
    other.remove("base").expect("remove");
    assert_eq!(kind(other.prepare("x", "base", NONE)), Some(ErrorKind::NotFound));
    assert_eq!(kind(other.remove("base")), Some(ErrorKind::NotFound));
    other.gc().expect("gc");
    assert_eq!((names(&local), names(&other)), (vec!["base".to_owned()], vec![]));
    assert_eq!(place.ids().len(), 1);
}

#[test]
fn a_parent_is_a_key_too() {
    let store = &Place::new().store();
    for parent in ["a\nb", "a\0b", &"k".repeat(1025)] {
        assert_eq!(kind(store.prepare("key", parent, NONE)), Some(ErrorKind::InvalidArgument), "{parent:?}");
    }
}

/// Short-lived processes never write the log back when they close the database.
#[test]
fn the_log_does_not_grow_for_ever() {
    let place = Place::new();
    let label: Labels = [("label".to_owned(), "v".repeat(3000))].into();
    for round in 0..60 {
        let store = place.open(Durability::None, place.plain(During::nothing()), LOCAL);
        for turn in 0..5 {
            store.prepare(&format!("{round} {turn}"), "", &label).expect("prepare");
        }
    }
    let bytes = fs::metadata(place.root().join("strata.db-wal")).expect("the log").len();
    assert!(bytes < 6 << 20, "{bytes} bytes");
}

/// Early syncs beside the work do not change its result, however many bytes the work reports.
#[test]
fn writing_back_beside_the_work() {
    let place = Place::new();
    for durability in [Durability::Commit, Durability::None] {
        let store = place.open(durability, place.plain(During::nothing()), LOCAL);
        let done = store.writing_back(|written| {
            (0..100).for_each(|_| written(1 << 30));
            Ok(7)
        });
        assert_eq!(done.expect("done"), 7);
        let failed: Result<()> = store.writing_back(|written| {
            written(1 << 40);
            Err(Error::new(ErrorKind::Cancelled, "enough"))
        });
        assert_eq!(failed.expect_err("passed on").kind(), ErrorKind::Cancelled);
    }
}

/// A call whose snapshot is removed meanwhile fails with `NotFound`, not with `DataLoss`.
#[test]
fn what_is_removed_meanwhile_is_not_found() {
    let place = Place::new();
    let other = place.store();
    let store = place.store_during(During::new(move |method, id| {
        if method != "usage" {
            return Ok(());
        }
        if id == Id(1) && other.stat("key").is_ok() {
            other.remove("key")?;
        }
        Err(Error::not_found("no such directory"))
    }));
    store.prepare("key", "", NONE).expect("prepare");
    store.prepare("ruined", "", NONE).expect("prepare");
    assert_eq!(kind(store.usage("key")), Some(ErrorKind::NotFound));
    assert_eq!(kind(store.usage("ruined")), Some(ErrorKind::DataLoss));
}

/// Two calls that find a directory missing make it once: the second would remove the files that were written after the
/// first.
#[test]
fn a_missing_directory_is_made_again_once() {
    let place = Place::new();
    let counted = Arc::new(Mutex::new(0));
    let count = Arc::clone(&counted);
    let store = place.store_during(During::new(move |method, _| {
        match method {
            "create" => *count.lock().expect("lock") += 1,
            // The other call looks for the directory within this time.
            "remove" => thread::sleep(Duration::from_millis(100)),
            _ => {}
        }
        Ok(())
    }));
    store.prepare("key", "", NONE).expect("prepare");
    fs::remove_dir(place.root().join("s/1")).expect("remove");
    thread::scope(|scope| {
        (0..2).for_each(|_| drop(scope.spawn(|| store.mounts("key").expect("mounts"))));
    });
    assert_eq!((*counted.lock().expect("lock"), place.ids()), (2, vec![Id(1)]));
}

/// The tar-split data and the DiffID of a layer are removed together, even if the commit that drops them fails.
#[test]
fn a_failed_commit_leaves_no_digest_without_a_stream() {
    let place = Place::new();
    let store = place.store();
    store.prepare("key", "", NONE).expect("prepare");
    let digest = Digest::of(b"layer");
    place.execute(&format!("UPDATE snapshot SET diff_id = '{digest}'"));
    let stream = place.root().join("streams/1.zst");
    fs::create_dir(place.root().join("streams")).and_then(|()| fs::write(&stream, "")).expect("write");
    place.execute("CREATE TRIGGER jam BEFORE UPDATE OF kind ON snapshot BEGIN SELECT RAISE(FAIL, 'jammed'); END");
    store.commit("edited", "key", NONE).expect_err("the publication fails");
    assert!(!stream.exists());
    place.execute("DROP TRIGGER jam");
    let name = digest.to_string();
    store.commit(&name, "key", NONE).expect("commit");
    assert_eq!(store.diff_id(&name).expect("look"), None);
}
