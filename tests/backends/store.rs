//! Promises of a store on real file systems: after a boot, on a full disk, and during concurrent calls.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::thread;
use std::time::Duration;

use rusqlite::Connection;

use strata::backends::{self, BTRFS, COPY, Config, OVERLAY};
use strata::mount::scratch::{FsType, Scratch};
use strata::snapshotter::Labels;
use strata::store::{Durability, Store};
use strata::{ErrorKind, Snapshotter};

use super::lifecycle::{names, open, write};
use super::{Bench, Setting, on_each, settings, support};

const NONE: &Labels = &BTreeMap::new();

/// Size of a file system that is soon full.
const SMALL_BYTES: u64 = 24 << 20;

/// Size of a small file system for types with a minimum: xfs needs 300 MiB.
const LEAST_BYTES: u64 = 320 << 20;

/// Free space that is smaller than a copy of the test's snapshot.
const ROOM_BYTES: u64 = 512 << 10;

/// How many calls a disk with that much room takes at most.
const CALLS_MAX: u32 = 5_000;

/// How many refused calls are enough.
const REFUSALS: usize = 20;

/// How often a prepare is tried after a file was removed, and the pause between two tries.
const SPACE_TRIES_MAX: u32 = 50;
const SPACE_PAUSE: Duration = Duration::from_millis(100);

fn kind<T>(result: strata::Result<T>) -> Option<ErrorKind> {
    result.err().map(|error| error.kind())
}

/// An acknowledged empty snapshot exists after a power cut that removed its directory.
#[test]
fn an_empty_active_is_made_again_after_a_boot() {
    on_each(|bench| {
        let store = bench.store("store");
        store.prepare("making", "", NONE).expect("prepare");
        write(&store, "making", "file", b"x");
        store.commit("base", "making", NONE).expect("commit");
        store.prepare("top", "base", NONE).expect("prepare");
        store.prepare("bare", "", NONE).expect("prepare");
        let ids = store.backend().inventory().expect("inventory");
        // A copy of a parent was synced before it was acknowledged, so a power cut cannot remove it.
        let taken = if store.backend().capabilities().create_needs_sync { 1 } else { 2 };
        for id in &ids[ids.len() - taken..] {
            store.backend().remove(*id).expect("what a power cut does");
        }
        drop(store);
        let database = Connection::open(bench.root("store").join("strata.db")).expect("open");
        database.execute("UPDATE setting SET value = 'other' WHERE name = 'boot_id'", []).expect("another boot");
        let store = bench.store("store");
        assert!(open(&store, "top").stat("file").is_ok(), "{}", bench.setting.name());
        write(&store, "bare", "file", b"x");
        assert_eq!(store.backend().inventory().expect("inventory"), ids);
    });
}

/// A snapshot cannot be committed or removed while an `apply` writes to it.
#[test]
fn an_apply_has_its_snapshot_to_itself() {
    on_each(|bench| {
        let store = bench.store("store");
        let other = bench.store("store");
        store.prepare("key", "", NONE).expect("prepare");
        let produce = &mut |_: &mut dyn strata::changeset::Sink| {
            assert_eq!(kind(other.commit("name", "key", NONE)), Some(ErrorKind::FailedPrecondition));
            assert_eq!(kind(other.remove("key")), Some(ErrorKind::FailedPrecondition));
            assert_eq!(kind(other.apply("key", &mut |_| Ok(()))), Some(ErrorKind::FailedPrecondition));
            Ok(())
        };
        store.apply("key", produce).expect("apply");
        let failing = &mut |_: &mut dyn strata::changeset::Sink| Err(strata::Error::invalid("no more"));
        assert_eq!(kind(store.apply("key", failing)), Some(ErrorKind::InvalidArgument));
        other.commit("name", "key", NONE).expect("it is free again");
    });
}

/// A daemon is asked for the usage of active snapshots by many clients at once.
#[test]
fn usage_is_asked_for_by_several() {
    on_each(|bench| {
        let store = &bench.store("store");
        store.prepare("key", "", NONE).expect("prepare");
        write(store, "key", "file", &[7; 100_000]);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..10 {
                        let usage = store.usage("key").unwrap_or_else(|error| panic!("{}: {error}", bench.setting));
                        assert!(usage.size_bytes >= 100_000, "{}: {usage:?}", bench.setting.name());
                    }
                });
            }
        });
        store.commit("name", "key", NONE).expect("commit");
        assert_eq!(store.backend().inventory().expect("inventory").len(), 1 + usize::from(fresh(bench)));
    });
}

/// Returns true if the active snapshot is in the trash after a commit.
fn fresh(bench: &Bench) -> bool {
    bench.setting.strategy == BTRFS
}

/// Fills the disk except for a little space with which the database can begin, so that the disk gets full during the
/// work.
fn fill(path: &Path) {
    let mut file = fs::File::create(path).expect("create");
    for size in [1 << 20, 1 << 16, 1 << 12, 1] {
        while file.write(&vec![1; size]).is_ok_and(|written| written > 0) && file.sync_data().is_ok() {}
    }
    let size = file.metadata().expect("stat").len();
    file.set_len(size - ROOM_BYTES).and_then(|()| file.sync_all()).expect("make some room");
}

/// Creates a store with the snapshot `base` of 1 MiB, on a disk of that size.
fn on_a_disk_of(size_bytes: u64, setting: Setting) -> Option<(Bench, Store)> {
    let scratch = support::gate(setting.fs.as_str(), Scratch::new(setting.fs, size_bytes))?;
    let bench = Bench { setting, scratch };
    let store = bench.store("store");
    store.prepare("making", "", NONE).expect("prepare");
    write(&store, "making", "file", &vec![3; 1 << 20]);
    store.commit("base", "making", NONE).expect("commit");
    Some((bench, store))
}

fn full_disk(setting: Setting) {
    let size_bytes = if setting.fs == FsType::Ext4 { SMALL_BYTES } else { LEAST_BYTES };
    let Some((bench, store)) = on_a_disk_of(size_bytes, setting) else { return };
    store.prepare("ready", "base", NONE).expect("prepare");
    let filler = bench.root("filler");
    fill(&filler);
    let mut made = 0;
    let mut expected = vec!["base".to_owned()];
    let mut count = |result: strata::Result<()>| match result {
        Ok(()) => {
            made += 1;
            true
        }
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::ResourceExhausted, "{}: {}", setting.name(), error.chain());
            false
        }
    };
    expected.push(if count(store.commit("done", "ready", NONE)) { "done" } else { "ready" }.to_owned());
    // A transaction that fits in the log still succeeds, and the log is allocated: the calls are repeated.
    let mut refused = Vec::new();
    for number in 0..CALLS_MAX {
        let key = format!("x{number:04}");
        match count(store.prepare(&key, "base", NONE).map(drop)) {
            true => expected.push(key),
            false => refused.push(key),
        }
        if refused.len() == REFUSALS {
            break;
        }
    }
    assert!(!refused.is_empty(), "{}: {made} calls succeeded on a full disk", setting.name());
    assert_eq!(names(&store), expected, "{}", setting.name());
    fs::remove_file(&filler).expect("make space");
    prepare_when_there_is_space(&bench, &store, "x again");
    store.prepare(&refused[0], "base", NONE).expect("a key that failed is free");
    store.remove(&refused[0]).expect("remove");
    store.commit("last", "x again", NONE).expect("commit");
    store.cleanup().expect("cleanup");
    assert_eq!(store.backend().inventory().expect("inventory").len(), names(&store).len(), "{}", setting.name());
    drop(store);
    assert_no_work(&bench.root("store"));
}

/// Prepares `key` on `base` after space was freed. btrfs gives back the space of a removed file only with a
/// transaction commit, so a refusal that follows the removal directly is no fault of the store.
fn prepare_when_there_is_space(bench: &Bench, store: &Store, key: &str) {
    for _ in 0..SPACE_TRIES_MAX {
        rustix::fs::syncfs(File::open(bench.root("store")).expect("open the store")).expect("syncfs");
        match store.prepare(key, "base", NONE) {
            Err(error) if error.kind() == ErrorKind::ResourceExhausted => thread::sleep(SPACE_PAUSE),
            result => return drop(result.expect("there is space")),
        }
    }
    panic!("{}: the space of a removed file did not come back", bench.setting.name());
}

/// A removed snapshot does not block new ones, even before its space is freed.
#[test]
fn what_was_removed_makes_room() {
    for setting in settings().into_iter().filter(|setting| setting.strategy == COPY) {
        let Some((bench, store)) = on_a_disk_of(LEAST_BYTES, setting) else { return };
        store.prepare("old", "base", NONE).expect("prepare");
        // More than the space that xfs reserves for itself.
        write(&store, "old", "own", &vec![4; 48 << 20]);
        fill(&bench.root("filler"));
        let refused = (0..1000).map(|number| store.prepare(&format!("x{number}"), "base", NONE)).find_map(Result::err);
        assert_eq!(refused.map(|error| error.kind()), Some(ErrorKind::ResourceExhausted), "{}", setting.name());
        store.remove("old").expect("remove");
        store
            .prepare("new", "base", NONE)
            .map(drop)
            .unwrap_or_else(|error| panic!("{}: {}", setting.name(), error.chain()));
        assert_eq!(store.backend().inventory().expect("inventory").len(), names(&store).len(), "{}", setting.name());
    }
}

fn assert_no_work(root: &Path) {
    let database = Connection::open(root.join("strata.db")).expect("open");
    let count = |table: &str| -> i64 {
        database.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).expect(table)
    };
    assert_eq!((count("snapshot WHERE worker IS NOT NULL"), count("trash")), (0, 0));
}

#[test]
fn a_full_disk_loses_nothing() {
    settings().into_iter().for_each(full_disk);
}

/// A store keeps the strategy that it was created with.
#[test]
fn a_store_keeps_its_backend() {
    on_each(|bench| {
        drop(bench.store("store"));
        let other = if bench.setting.strategy == COPY { OVERLAY } else { COPY };
        let config = Config { backend: Some(other), ..Config::new(bench.root("store")) };
        let error = backends::open(&config).expect_err("another backend");
        assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
        for name in [other.name, bench.setting.strategy.name] {
            assert!(error.to_string().contains(name), "{error}");
        }
        let config = Config { backend: None, ..config };
        let store: Store = backends::open(&config).expect("the store knows");
        assert_eq!(store.backend().capabilities().name, bench.setting.strategy.name);
        assert_eq!(store.durability(), Durability::Commit);
    });
}
