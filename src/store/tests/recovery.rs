//! Recovery after dead processes and power cuts.

use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::id::Digest;
use crate::store::{CommitOptions, Origin};

#[test]
fn what_nobody_waited_for_goes_with_a_boot() {
    let place = Place::new();
    let store = place.store();
    committed(&store, "base", "", Flush::Now);
    committed(&store, "later", "base", Flush::Later);
    store.prepare_with("on later", "later", NONE, Flush::Later).expect("prepare");
    store.view("sight", "base", NONE).expect("view");
    store.prepare("on base", "base", NONE).expect("prepare");
    let highest = place.ids().pop().expect("an id");
    // The writer lives, so it can still bring its rows to disk.
    place.store().cleanup().expect("cleanup");
    assert_eq!(names(&store), ["base", "later", "on base", "on later", "sight"]);
    drop(store);
    place.reboot();
    let store = place.store();
    store.cleanup().expect("cleanup");
    assert_eq!(names(&store), ["base", "on base", "sight"]);
    assert_eq!(place.ids().len(), 2, "{:?}", place.ids());
    store.prepare("new", "", NONE).expect("prepare");
    assert!(place.ids().pop() > Some(highest), "an id was used again: {:?} after {highest}", place.ids());
    // Rows are dropped once after a boot: later rows stay.
    committed(&store, "later", "base", Flush::Later);
    place.store().cleanup().expect("cleanup");
    assert!(names(&store).contains(&"later".to_owned()));
}

#[test]
fn what_was_synced_stays() {
    let place = Place::new();
    let store = place.store();
    committed(&store, "one", "", Flush::Later);
    committed(&store, "two", "one", Flush::Later);
    store.prepare_with("top", "two", NONE, Flush::Later).expect("prepare");
    store.sync().expect("sync");
    committed(&store, "late", "two", Flush::Later);
    drop(store);
    place.reboot();
    let store = place.store();
    store.cleanup().expect("cleanup");
    assert_eq!(names(&store), ["one", "top", "two"]);
}

#[test]
fn a_durable_child_makes_its_ancestors_durable() {
    let place = Place::new();
    let store = place.store();
    committed(&store, "one", "", Flush::Later);
    committed(&store, "two", "one", Flush::Later);
    committed(&store, "aside", "one", Flush::Later);
    store.prepare("top", "two", NONE).expect("prepare");
    drop(store);
    place.reboot();
    let store = place.store();
    store.cleanup().expect("cleanup");
    assert_eq!(names(&store), ["one", "top", "two"]);
}

#[test]
fn a_clean_boot_costs_a_store_without_syncs_nothing() {
    let place = Place::new();
    let store = place.open(Durability::None, place.plain(During::nothing()), LOCAL);
    committed(&store, "one", "", Flush::Now);
    committed(&store, "two", "one", Flush::Later);
    store.sync().expect("sync");
    drop(store);
    place.reboot();
    let store = place.store();
    assert_eq!(store.durability(), Durability::None, "the store knows, whatever is asked for");
    store.cleanup().expect("cleanup");
    assert_eq!(names(&store), ["one", "two"]);
}

/// An empty snapshot is acknowledged before its directory is on disk.
#[test]
fn directories_that_a_power_cut_took_are_made_again() {
    let place = Place::new();
    let store = place.store();
    committed(&store, "base", "", Flush::Now);
    store.prepare("top", "base", NONE).expect("prepare");
    store.view("bare", "", NONE).expect("view");
    store.view("sight", "base", NONE).expect("view");
    drop(store);
    let made = place.ids();
    for id in &made[1..] {
        fs::remove_dir(place.root().join("s").join(id.to_string())).expect("remove");
    }
    place.reboot();
    // If one directory cannot be made again, other snapshots can be used, and a call that needs the directory tries
    // once more.
    let store = place.store_during(During::failing("create", |_| ()));
    store.prepare("another", "base", NONE).expect("prepare");
    store.remove("another").expect("remove");
    store.cleanup().expect("cleanup");
    drop(store);
    place.store().mounts("top").expect("mounts");
    assert_eq!(place.ids(), made);
}

/// Two processes start after a boot. A snapshot that one of them makes right after its recovery survives the recovery
/// of the other.
#[test]
fn recoveries_take_turns() {
    let place = Place::new();
    place.store().cleanup().expect("cleanup");
    place.reboot();
    let started = Arc::new(std::sync::Barrier::new(2));
    let start = Arc::clone(&started);
    let slow = place.store_during(During::new(move |method, _| {
        if method == "inventory" {
            start.wait();
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        Ok(())
    }));
    let other = place.store();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            started.wait();
            committed(&other, "new", "", Flush::Later);
        });
        slow.cleanup().expect("cleanup");
    });
    slow.cleanup().expect("cleanup");
    assert_eq!((names(&slow), place.ids().len()), (vec!["new".to_owned()], 1));
}

/// A process ended without a crash, but could not end its rows in the database, or still held layers for an image.
#[test]
fn rows_of_a_process_that_left_are_ended() {
    let place = Place::new();
    let store = place.store();
    store.prepare("top", "", NONE).expect("prepare");
    store.prepare("half", "", NONE).expect("prepare");
    committed(&store, "held", "", Flush::Now);
    drop(store);
    place.execute("UPDATE snapshot SET state = 2, worker = '1' WHERE name = 'top'");
    place.execute("UPDATE snapshot SET state = 1, worker = '1' WHERE name = 'half'");
    place.execute("UPDATE snapshot SET origin = 1, worker = '1' WHERE name = 'held'");
    let store = place.store();
    store.prepare("half", "", NONE).expect("the key is free");
    store.commit("name", "top", NONE).expect("the key can be committed");
    store.gc().expect("gc");
    assert_eq!(names(&store), ["half", "name"]);
    assert_eq!(place.ids().len(), 2);
}

/// Rows of a living process and their directories survive a recovery by another process.
#[test]
fn a_recovery_beside_a_process_at_work() {
    let place = Place::new();
    let root = place.root().to_owned();
    let working = place.store_during(During::new(move |method, _| {
        if matches!(method, "create" | "seal") {
            // A dead process leaves such a lock file.
            fs::write(root.join("run/1"), "").expect("a lock file");
            let database = Database::create(&root, Durability::Commit).expect("database");
            let snapshots = root.canonicalize().expect("root").join("s");
            let backend =
                Plain { snapshots, seals_to_fresh_id: true, create_is_brief: false, during: During::nothing() };
            Store::new(database, Box::new(backend), LOCAL).expect("store").cleanup().expect("cleanup");
            assert!(!root.join("run/1").exists(), "nothing was recovered");
        }
        Ok(())
    }));
    working.prepare("key", "", NONE).expect("prepare");
    working.commit("name", "key", NONE).expect("commit");
    assert_eq!((names(&working), place.ids().len()), (vec!["name".to_owned()], 1));
}

/// A directory without a row, as after the loss of the last rows.
#[test]
fn a_directory_in_the_way_is_passed_by_and_collected() {
    let place = Place::new();
    let store = place.store();
    committed(&store, "one", "", Flush::Now);
    fs::create_dir(place.root().join("s/3")).expect("mkdir");
    store.prepare("a", "", NONE).expect("prepare");
    store.prepare("b", "", NONE).expect("prepare");
    store.gc().expect("gc");
    assert_eq!(place.ids(), [Id(1), Id(2), Id(4)]);
}

/// A snapshot that cannot be made again does not block changes of other snapshots.
#[test]
fn a_snapshot_whose_parent_is_lost_can_be_removed() {
    let place = Place::new();
    let store = place.store();
    committed(&store, "base", "", Flush::Now);
    store.prepare("top", "base", NONE).expect("prepare");
    drop(store);
    for id in place.ids() {
        fs::remove_dir(place.root().join("s").join(id.to_string())).expect("remove");
    }
    place.reboot();
    let lost = |called: &str, _| match called {
        "create" => Err(Error::not_found("the parent is missing")),
        _ => Ok(()),
    };
    let store = place.store_during(During::new(lost));
    store.remove("top").expect("remove");
    store.remove("base").expect("remove");
    store.cleanup().expect("cleanup");
    assert_eq!(place.ids(), []);
}

/// After a boot each existing active snapshot is completed once. A failure does not block other calls.
#[test]
fn an_active_snapshot_is_mended_after_a_boot() {
    let place = Place::new();
    let store = place.store();
    committed(&store, "base", "", Flush::Now);
    store.prepare("top", "base", NONE).expect("prepare");
    drop(store);
    let mended = Arc::new(AtomicU64::new(0));
    let open = || {
        let count = Arc::clone(&mended);
        let repair = move |called: &str, id| match called {
            "complete_create" => {
                count.fetch_add(1, Ordering::Relaxed);
                Err(Error::data_loss(format!("{id:?} is broken")))
            }
            _ => Ok(()),
        };
        place.store_during(During::new(repair))
    };
    open().prepare("first", "", NONE).expect("prepare");
    assert_eq!(mended.load(Ordering::Relaxed), 0);
    place.reboot();
    let store = open();
    store.prepare("second", "base", NONE).expect("prepare");
    store.remove("top").expect("remove");
    assert_eq!(mended.load(Ordering::Relaxed), 2, "the two that were there");
    open().prepare("third", "", NONE).expect("prepare");
    assert_eq!(mended.load(Ordering::Relaxed), 2, "once");
}

/// Every removal of an id removes its tar-split data too. Tar-split data without a row is debris.
#[test]
fn streams_go_with_their_ids() {
    for moves in [false, true] {
        let place = Place::new();
        let store = if moves { place.moving(During::nothing()) } else { place.store() };
        fs::create_dir(place.root().join("streams")).expect("mkdir");
        let stream = |id: &dyn fmt::Display| place.root().join(format!("streams/{id}.zst"));
        let layer = |name: &str, diff_id| {
            store.prepare_layer("making", "").expect("prepare");
            let id = *place.ids().last().expect("an id");
            fs::write(stream(&id), name).expect("write");
            let options = CommitOptions { flush: Flush::Now, origin: Origin::Image, diff_id };
            store.commit_with(name, "making", NONE, options).expect("commit");
            store.drain(None, None).expect("drain");
            *place.ids().last().expect("an id")
        };
        let known = layer("known", Some(Digest::of(b"layer")));
        let other = layer("other", None);
        assert_eq!(fs::read(stream(&known)).expect("its stream"), b"known");
        assert!(!stream(&other).exists(), "what was written into it is not what it was committed as");
        fs::write(stream(&77), "debris").expect("write");
        assert_eq!(fs::read_dir(place.root().join("streams")).expect("streams").count(), 2);
        place.reboot();
        // A new handle recovers the store, while `store` stays open.
        let again = place.store_during(During::nothing());
        again.cleanup().expect("cleanup");
        assert!(stream(&known).exists() && !stream(&77).exists());
        again.remove("known").expect("remove");
        again.cleanup().expect("cleanup");
        assert_eq!(fs::read_dir(place.root().join("streams")).expect("streams").count(), 0);
    }
}
