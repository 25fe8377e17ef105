//! Preconditions and errors of the contract, in its order of checks: from containerd's storage suite, and errors that
//! containerd's drivers return wrongly.

use std::collections::BTreeMap;
use std::fs;

use strata::mount::{self, Access};
use strata::snapshotter::{Info, Kind, Labels};
use strata::store::Store;
use strata::tree::{Dir, Timestamp};
use strata::{ErrorKind, Snapshotter};

use super::on_each;

const NONE: &Labels = &BTreeMap::new();

fn kind<T>(result: strata::Result<T>) -> Option<ErrorKind> {
    result.err().map(|error| error.kind())
}

/// Creates `base` (committed, contains `file`), `top` (active on it), `sight` (view of it), `bare` (view of nothing).
fn furnish(store: &Store) {
    store.prepare("making", "", NONE).expect("prepare");
    write(store, "making", "file", b"old");
    store.commit("base", "making", NONE).expect("commit");
    store.prepare("top", "base", NONE).expect("prepare");
    store.view("sight", "base", NONE).expect("view");
    store.view("bare", "", NONE).expect("view");
}

pub(crate) fn open(store: &Store, key: &str) -> Dir {
    let mounts = store.mounts(key).expect("mounts");
    Dir::from_fd(mount::detached(&mounts).expect("mount"), key)
}

pub(crate) fn write(store: &Store, key: &str, name: &str, bytes: &[u8]) {
    use std::io::Write as _;
    let mut file = open(store, key).create_file(name).expect("create");
    file.write_all(bytes).expect("write");
}

#[test]
fn errors_by_kind() {
    use ErrorKind::{AlreadyExists, FailedPrecondition, InvalidArgument, NotFound};
    on_each(|bench| {
        let store = &bench.store("store");
        furnish(store);
        let long = "k".repeat(1025);
        for key in ["", "a\nb", "a\0b", &long] {
            assert_eq!(kind(store.stat(key)), Some(InvalidArgument), "stat {key:?}");
            assert_eq!(kind(store.prepare(key, "", NONE)), Some(InvalidArgument), "prepare {key:?}");
            assert_eq!(kind(store.view(key, "", NONE)), Some(InvalidArgument), "view {key:?}");
            assert_eq!(kind(store.commit(key, "top", NONE)), Some(InvalidArgument), "commit {key:?}");
            assert_eq!(kind(store.remove(key)), Some(InvalidArgument), "remove {key:?}");
        }
        assert_eq!(kind(store.stat("nothing")), Some(NotFound));
        assert_eq!(kind(store.usage("nothing")), Some(NotFound));
        assert_eq!(kind(store.mounts("nothing")), Some(NotFound));
        assert_eq!(kind(store.remove("nothing")), Some(NotFound));
        assert_eq!(kind(store.mounts("base")), Some(FailedPrecondition));
        for taken in ["base", "top", "sight"] {
            assert_eq!(kind(store.prepare(taken, "base", NONE)), Some(AlreadyExists), "{taken}");
            assert_eq!(kind(store.view(taken, "nothing", NONE)), Some(AlreadyExists), "the key is checked first");
        }
        assert_eq!(kind(store.prepare("new", "nothing", NONE)), Some(NotFound));
        assert_eq!(kind(store.prepare("new", "top", NONE)), Some(InvalidArgument));
        assert_eq!(kind(store.view("new", "sight", NONE)), Some(InvalidArgument));
        assert_eq!(kind(store.commit("new", "nothing", NONE)), Some(NotFound));
        assert_eq!(kind(store.commit("base", "nothing", NONE)), Some(NotFound), "the key comes before the name");
        assert_eq!(kind(store.commit("base", "top", NONE)), Some(AlreadyExists));
        assert_eq!(kind(store.commit("top", "top", NONE)), Some(AlreadyExists));
        assert_eq!(kind(store.commit("base", "sight", NONE)), Some(AlreadyExists), "the name comes before the kind");
        assert_eq!(kind(store.commit("new", "sight", NONE)), Some(FailedPrecondition));
        assert_eq!(kind(store.commit("new", "base", NONE)), Some(FailedPrecondition));
        let error = store.remove("base").expect_err("it has children");
        assert_eq!(error.kind(), FailedPrecondition);
        assert!(error.to_string().contains("remove"), "{error}");
        assert_eq!(kind(store.walk(&["name="], &mut |_| Ok(()))), Some(InvalidArgument));
        assert_eq!(names(store), ["bare", "base", "sight", "top"], "failed calls left something");
    });
}

pub(crate) fn names(store: &Store) -> Vec<String> {
    let mut names = Vec::new();
    store
        .walk(&[], &mut |info| {
            names.push(info.name.clone());
            Ok(())
        })
        .expect("walk");
    names
}

#[test]
fn a_new_store_is_empty() {
    on_each(|bench| {
        let store = bench.store("store");
        assert_eq!(names(&store), Vec::<String>::new());
        store.cleanup().expect("cleanup");
        assert_eq!(kind(store.stat("x")), Some(ErrorKind::NotFound));
    });
}

#[test]
fn keys_are_free_again() {
    on_each(|bench| {
        let store = bench.store("store");
        for _ in 0..3 {
            store.prepare("key", "", NONE).expect("prepare");
            store.remove("key").expect("remove");
            store.view("key", "", NONE).expect("view");
            store.remove("key").expect("remove");
            store.prepare("key", "", NONE).expect("prepare");
            store.commit("name", "key", NONE).expect("commit");
            store.remove("name").expect("remove");
        }
        store.cleanup().expect("cleanup");
        assert_eq!(store.backend().inventory().expect("inventory"), []);
    });
}

#[test]
fn layers_shadow_and_views_refuse_writes() {
    on_each(|bench| {
        let store = bench.store("store");
        furnish(&store);
        write(&store, "top", "new", b"new");
        open(&store, "top").unlink("file").expect("unlink");
        store.commit("child", "top", NONE).expect("commit");
        store.view("above", "child", NONE).expect("view");
        for (key, expected) in [("sight", "file"), ("above", "new")] {
            assert!(store.mounts(key).expect("mounts").iter().all(|mount| mount.access() == Access::ReadOnly));
            let dir = open(&store, key);
            let found: Vec<_> = dir.names().expect("names").into_iter().map(|entry| entry.name).collect();
            assert_eq!(found, [expected], "{key}");
            assert!(dir.create_file("x").is_err(), "{key} can be written");
        }
        assert!(open(&store, "bare").create_file("x").is_err(), "an empty view can be written");
    });
}

#[test]
fn the_root_directory_is_inherited() {
    on_each(|bench| {
        let store = bench.store("store");
        store.prepare("key", "", NONE).expect("prepare");
        let fresh = open(&store, "key").stat("").expect("stat");
        assert_eq!((fresh.mode, fresh.uid, fresh.gid), (0o755, 0, 0), "{}", bench.setting.name());
        let time = Timestamp { seconds: 1_000_000_000, nanos: 5 };
        let root = open(&store, "key");
        root.set_owner("", 5, 6).expect("chown");
        root.set_xattr("", b"user.a", b"b").expect("set");
        root.set_mode("", 0o1711).expect("chmod");
        root.set_mtime("", time).expect("utimes");
        drop(root);
        store.commit("base", "key", NONE).expect("commit");
        store.prepare("child", "base", NONE).expect("prepare");
        store.commit("same", "child", NONE).expect("commit");
        store.view("sight", "same", NONE).expect("view");
        store.prepare("grandchild", "same", NONE).expect("prepare");
        for key in ["sight", "grandchild"] {
            let dir = open(&store, key);
            let stat = dir.stat("").expect("stat");
            assert_eq!((stat.mode, stat.uid, stat.gid, stat.mtime), (0o1711, 5, 6, time), "{key}");
            assert_eq!(dir.xattrs("").expect("xattrs").get(&b"user.a"[..]), Some(&b"b".to_vec()), "{key}");
        }
    });
}

#[test]
fn labels_and_times() {
    on_each(|bench| {
        let store = bench.store("store");
        let labels = |pairs: &[(&str, &str)]| -> Labels {
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
        };
        store.prepare("key", "", &labels(&[("a", "1"), ("b", "2")])).expect("prepare");
        let made = store.stat("key").expect("stat");
        assert_eq!((made.kind, made.created), (Kind::Active, made.updated));
        assert_eq!(made.labels, labels(&[("a", "1"), ("b", "2")]));
        let wish = |pairs: &[(&str, &str)]| Info { labels: labels(pairs), parent: "ignored".into(), ..made.clone() };
        let some = store.update(&wish(&[("a", "9"), ("c", "3")]), &["labels.a", "labels.b"]).expect("update");
        assert_eq!(some.labels, labels(&[("a", "9")]), "b was absent, c was not named");
        assert_eq!(some.created, made.created);
        assert!(some.updated > made.updated);
        assert_eq!(some.parent, "");
        assert_eq!(store.update(&wish(&[("x.y/z", "1")]), &["labels.x.y/z"]).expect("update").labels.len(), 2);
        assert_eq!(store.update(&wish(&[("d", "4")]), &[]).expect("update").labels, labels(&[("d", "4")]));
        for path in ["parent", "kind", "name", "labels.", "nonsense"] {
            assert_eq!(kind(store.update(&wish(&[]), &[path])), Some(ErrorKind::InvalidArgument), "{path}");
        }
        assert_eq!(store.stat("key").expect("stat").labels, labels(&[("d", "4")]), "a failed update changed labels");
        store.commit("name", "key", &labels(&[("e", "5")])).expect("commit");
        let committed = store.stat("name").expect("stat");
        assert_eq!(committed.labels, labels(&[("e", "5")]), "labels are replaced at commit");
        assert_eq!(committed.created, committed.updated);
        assert!(committed.created > made.created);
    });
}

#[test]
fn a_mounted_snapshot_is_busy() {
    on_each(|bench| {
        let store = bench.store("store");
        furnish(&store);
        let target = bench.root("target");
        fs::create_dir(&target).expect("mkdir");
        let mounts = store.mounts("top").expect("mounts");
        store.check_mountable("top", &mounts).expect("it is mounted nowhere");
        mount::attach(&mounts, &target).expect("attach");
        let twice = store.check_mountable("top", &mounts);
        let is_overlay = bench.setting.strategy == strata::backends::OVERLAY;
        assert_eq!(kind(twice), is_overlay.then_some(ErrorKind::FailedPrecondition), "{}", bench.setting.name());
        for error in [store.commit("new", "top", NONE), store.remove("top")] {
            let error = error.expect_err("it is mounted");
            assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
            assert!(error.chain().contains(&target.display().to_string()), "{}", error.chain());
        }
        fs::write(target.join("late"), "x").expect("the mount still works");
        mount::unmount(&target).expect("unmount");
        store.commit("new", "top", NONE).expect("commit");
        store.prepare("again", "new", NONE).expect("prepare");
        assert!(open(&store, "again").stat("late").is_ok());
    });
}

/// overlay has the kernel's limit; the other strategies have none.
#[test]
fn a_chain_may_be_as_deep_as_the_strategy_mounts() {
    on_each(|bench| {
        let Some(most) = bench.store("store").backend().capabilities().layers_max else { return };
        let store = bench
            .store_with("deep", strata::store::Durability::None, |backend| backend)
            .expect("a store without syncs");
        let mut parent = String::new();
        for height in 1..most {
            let name = format!("layer{height}");
            store.prepare("key", &parent, NONE).expect(&name);
            store.commit(&name, "key", NONE).expect(&name);
            parent = name;
        }
        store.prepare("last", &parent, NONE).expect("as many layers as the kernel takes");
        write(&store, "last", "file", b"x");
        let has_file = |key: &str| store.open_tree(key).expect(key).stat("file").is_ok();
        assert!(has_file("last"));
        store.commit("highest", "last", NONE).expect("commit");
        store.view("look", "highest", NONE).expect("view");
        assert!(has_file("highest") && has_file("look"));
        let error = store.prepare("over", "highest", NONE).expect_err("one more");
        assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
        assert!(error.to_string().contains("500"), "{error}");
    });
}
