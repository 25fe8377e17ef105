//! Disks in trouble: one that fails every write, one that may not be written any more, one without inodes. Nothing that
//! was committed is lost, the error says what happened, and the store goes on when the trouble is over.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;

use strata::backends::{COPY, OVERLAY};
use strata::image::{self, Options, Place, Source};
use strata::mount::scratch::{FsType, Scratch};
use strata::snapshotter::Labels;
use strata::store::{CheckOptions, Store};
use strata::tree::Dir;
use strata::{Error, ErrorKind, Result, Snapshotter, mount};

use super::archive::docker_archive;
use super::disk::{Disk, Manner, remount};
use super::power::{boot, goes_on};
use super::script::State;
use super::{OpenStore as _, Setting, settings, support};

const NONE: &Labels = &BTreeMap::new();

/// As few inodes as `mkfs` makes of it are soon used up.
const SMALL_BYTES: u64 = 24 << 20;

/// `base` (committed), `ready` (on it, to be committed), `old` (to be removed).
fn furnish(store: &Store) -> State {
    store.prepare("making", "", NONE).expect("prepare");
    write(store, "making").expect("write");
    store.commit("base", "making", NONE).expect("commit");
    store.prepare("ready", "base", NONE).expect("prepare");
    store.prepare("old", "", NONE).expect("prepare");
    State::read(store).expect("read")
}

fn write(store: &Store, key: &str) -> Result<()> {
    let dir = Dir::from_fd(mount::detached(&store.mounts(key)?)?, key);
    let written = dir.create_file(key)?.write_all(&[7; 100_000]);
    written.map_err(|error| Error::new(ErrorKind::Io, "write").with_source(error))
}

/// Makes the calls that change something. None may succeed; answers what each said.
fn refused(store: &Store, setting: Setting) -> Vec<Error> {
    let calls: [(&str, &dyn Fn() -> Result<()>); 4] = [
        ("prepare", &|| store.prepare("new", "base", NONE).map(drop)),
        ("commit", &|| store.commit("done", "ready", NONE)),
        ("view", &|| store.view("sight", "base", NONE).map(drop)),
        ("remove", &|| store.remove("old")),
    ];
    let refused = |(call, work): &(&str, &dyn Fn() -> Result<()>)| match work() {
        Ok(()) => panic!("{setting}: {call} succeeded"),
        Err(error) => error,
    };
    calls.iter().map(refused).collect()
}

/// The store holds what was acknowledged, is sound, and can be used.
fn is_well(store: &Store, was: &State, setting: Setting) {
    store.cleanup().unwrap_or_else(|error| panic!("{setting}: {}", error.chain()));
    assert_eq!(&State::read(store).expect("read"), was, "{setting}");
    write(store, "ready").unwrap_or_else(|error| panic!("{setting}: {}", error.chain()));
    store.commit("done", "ready", NONE).expect("commit");
    store.remove("old").expect("remove");
    goes_on(store).unwrap_or_else(|error| panic!("{setting}: {error}"));
}

fn on_each(case: impl Fn(Setting)) {
    for fs in [FsType::Ext4, FsType::Xfs, FsType::Btrfs] {
        settings(fs).into_iter().for_each(&case);
    }
}

#[test]
fn a_disk_that_fails_takes_nothing_that_was_acknowledged() {
    on_each(|setting| {
        let Some(mut disk) = Disk::new(setting.fs, Manner::Failing) else { return };
        let root = disk.path().join("store");
        let Some(store) = support::gate(setting.strategy.name, setting.store(&root)) else { return };
        let was = furnish(&store);
        disk.fail_writes();
        for error in refused(&store, setting) {
            // Some file systems turn read-only then; some forget what they had not written, which looks like damage.
            let said = error.chain();
            let kinds = [ErrorKind::Io, ErrorKind::PermissionDenied];
            let told = kinds.contains(&error.kind()) || error.kind() == ErrorKind::DataLoss && said.contains("dmesg");
            assert!(told, "{setting}: {:?}: {said}", error.kind());
        }
        drop(store);
        disk.heal();
        disk.mount_again(setting.fs);
        boot(&root).expect("boot");
        is_well(&setting.store(&root).expect("the store"), &was, setting);
    });
}

#[test]
fn a_file_system_that_turns_read_only_is_read() {
    on_each(|setting| {
        let Some(scratch) = support::scratch(setting.fs) else { return };
        let root = scratch.path().join("store");
        let Some(store) = support::gate(setting.strategy.name, setting.store(&root)) else { return };
        let was = furnish(&store);
        // The kernel does not remount a file system read-only while a file is open for writing.
        drop(store);
        remount(scratch.path(), "remount,ro");
        let says_so = |error: &Error| {
            let said = error.chain().to_lowercase();
            assert!(said.contains("read-only") || said.contains("readonly"), "{setting}: {said}");
        };
        match setting.store(&root) {
            Ok(store) => {
                assert_eq!(State::read(&store).expect("what is there can be read"), was, "{setting}");
                refused(&store, setting).iter().for_each(says_so);
            }
            // A strategy that was asked for reflinks tries whether it can have them.
            Err(error) => says_so(&error),
        }
        remount(scratch.path(), "remount,rw");
        is_well(&setting.store(&root).expect("the store"), &was, setting);
    });
}

/// xfs and btrfs make inodes as long as there is space.
#[test]
fn a_file_system_without_inodes_takes_nothing() {
    for strategy in [OVERLAY, COPY] {
        let setting = settings(FsType::Ext4).into_iter().find(|setting| setting.strategy == strategy).expect("ext4");
        let Some(scratch) = support::gate("ext4", Scratch::new(FsType::Ext4, SMALL_BYTES)) else { return };
        let root = scratch.path().join("store");
        let Some(store) = support::gate(setting.strategy.name, setting.store(&root)) else { return };
        let was = furnish(&store);
        let fill = scratch.path().join("fill");
        fs::create_dir(&fill).expect("make directory");
        let used = (0..).take_while(|number| fs::File::create(fill.join(number.to_string())).is_ok()).count();
        for call in ["new", "newer"] {
            let error = store.prepare(call, "base", NONE).expect_err("there are no inodes");
            assert_eq!(error.kind(), ErrorKind::ResourceExhausted, "{setting}: {}", error.chain());
        }
        let error = write(&store, "ready").expect_err("there are no inodes");
        assert_eq!(error.kind(), ErrorKind::ResourceExhausted, "{setting}: {}", error.chain());
        assert_eq!(State::read(&store).expect("read"), was, "{setting}");
        fs::remove_dir_all(&fill).expect("remove");
        support::say(&format!("{setting}: {used} files took all inodes"));
        is_well(&store, &was, setting);
    }
}

/// A write of an import is lost, the kernel says so once, and the disk is well again. The next process must not find
/// the layers of the failed import on disk, where they are not: what it acknowledges is whole after the next mount.
#[test]
fn what_was_lost_with_a_failed_sync_is_written_again() {
    on_each(|setting| {
        let Some(mut disk) = Disk::new(setting.fs, Manner::Failing) else { return };
        let place = support::gate("tmpfs", Scratch::new(FsType::Tmpfs, 16 << 20)).expect("memory");
        let path = place.path().join("image.tar");
        let file = |name: &str| (name.to_owned(), name.repeat(40_000).into_bytes());
        fs::write(&path, docker_archive(&[("app", vec![vec![file("low")], vec![file("high")]])])).expect("write");
        let source = Source { place: Place::Path(path), reference: None };
        let import = |store: &Store| image::import(store, &source, &Options::default(), &()).map(drop);
        let root = disk.path().join("store");
        let Some(store) = support::gate(setting.strategy.name, setting.store(&root)) else { return };
        let was = furnish(&store);
        drop(store);
        disk.flush();
        disk.fail_next_write();
        let failed = setting.store(&root).and_then(|store| import(&store));
        disk.heal();
        let again = setting.store(&root).and_then(|store| import(&store));
        // A file system that met the failure elsewhere takes no more writes: nothing is acknowledged then.
        let held = if again.is_ok() { setting.store(&root).and_then(|store| State::read(&store)) } else { Ok(was) };
        let held = held.expect("read");
        disk.mount_again(setting.fs);
        boot(&root).expect("boot");
        let store = setting.store(&root).expect("the store");
        store.cleanup().expect("cleanup");
        assert_eq!(State::read(&store).expect("read"), held, "{setting}: {failed:?}, then {again:?}");
        let deep = CheckOptions { deep: true, ..CheckOptions::default() };
        assert_eq!(store.check(&deep).expect("check").damaged(), 0, "{setting}");
        let words = |done: Result<()>| done.map_or_else(|error| error.chain(), |()| "done".to_owned());
        support::say(&format!("{setting}: {}; the next process: {}", words(failed), words(again)));
    });
}

/// The same of a snapshot that somebody wrote to: a commit that failed is not tried again with success.
#[test]
fn what_a_failed_commit_lost_is_not_committed() {
    on_each(|setting| {
        let Some(mut disk) = Disk::new(setting.fs, Manner::Failing) else { return };
        let root = disk.path().join("store");
        let Some(store) = support::gate(setting.strategy.name, setting.store(&root)) else { return };
        furnish(&store);
        disk.flush();
        write(&store, "ready").expect("write");
        drop(store);
        disk.fail_next_write();
        let commit = || setting.store(&root).and_then(|store| store.commit("done", "ready", NONE));
        let failed = commit();
        disk.heal();
        let again = commit();
        let held = setting.store(&root).and_then(|store| State::read(&store));
        disk.mount_again(setting.fs);
        boot(&root).expect("boot");
        let store = setting.store(&root).expect("the store");
        store.cleanup().expect("cleanup");
        let seen = State::read(&store).expect("read");
        if failed.is_ok() || again.is_ok() {
            assert_eq!(seen, held.expect("read"), "{setting}: {failed:?}, then {again:?}");
        }
        let words = |done: Result<()>| done.map_or_else(|error| error.chain(), |()| "done".to_owned());
        support::say(&format!("{setting}: {}; the next process: {}", words(failed), words(again)));
    });
}
