//! Several threads and processes on one store.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use strata::snapshotter::Labels;
use strata::store::Store;
use strata::{ErrorKind, Snapshotter};

use super::on_each;

const NONE: &Labels = &BTreeMap::new();

/// One caller succeeds, the others get an error, and nothing of theirs is left.
#[test]
fn one_key_has_one_winner() {
    on_each(|bench| {
        let stores: Vec<Store> = (0..4).map(|_| bench.store("store")).collect();
        for round in 0..10 {
            let key = format!("key{round}");
            let won = AtomicUsize::new(0);
            thread::scope(|scope| {
                for store in &stores {
                    scope.spawn(|| match store.prepare(&key, "", NONE) {
                        Ok(_) => _ = won.fetch_add(1, Ordering::Relaxed),
                        Err(error) => assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{error}"),
                    });
                }
            });
            assert_eq!(won.into_inner(), 1);
        }
        assert_eq!(stores[0].backend().inventory().expect("inventory").len(), 10);
    });
}

/// Concurrent prepares, commits and removals: each takes effect, and the final state is right.
#[test]
fn many_at_once() {
    on_each(|bench| {
        let stores: Vec<Store> = (0..4).map(|_| bench.store("store")).collect();
        thread::scope(|scope| {
            for (number, store) in stores.iter().enumerate() {
                scope.spawn(move || {
                    for round in 0..8 {
                        let (key, name) = (format!("k{number}"), format!("n{number}.{round}"));
                        let parent = if round == 0 { String::new() } else { format!("n{number}.{}", round - 1) };
                        store.prepare(&key, &parent, NONE).expect("prepare");
                        super::lifecycle::write(store, &key, &name, b"x");
                        store.commit(&name, &key, NONE).expect("commit");
                        store.view("sight", &name, NONE).map_or_else(
                            |error| assert_eq!(error.kind(), ErrorKind::AlreadyExists),
                            |_| store.remove("sight").expect("remove"),
                        );
                        store.drain(None, None).expect("drain");
                    }
                });
            }
        });
        let store = &stores[0];
        assert_eq!(super::lifecycle::names(store).len(), 32);
        for number in 0..4 {
            let dir = store.open_tree(&format!("n{number}.7")).expect("tree");
            assert_eq!(dir.names().expect("names").len(), 8);
        }
        for number in 0..4 {
            for round in (0..8).rev() {
                store.remove(&format!("n{number}.{round}")).expect("remove");
            }
        }
        store.cleanup().expect("cleanup");
        assert_eq!(store.backend().inventory().expect("inventory"), []);
    });
}

/// Owners do not see each other's snapshots.
#[test]
fn owners_are_apart() {
    on_each(|bench| {
        let mine = bench.store("store");
        mine.prepare("key", "", NONE).expect("prepare");
        let database = strata::store::Database::open(mine.root()).expect("open").expect("it is there");
        let setting = bench.setting;
        let backend = setting.backend(mine.root()).expect("the backend");
        let other = Store::new(database, backend, "containerd").expect("open");
        assert_eq!(super::lifecycle::names(&other), Vec::<String>::new());
        assert_eq!(other.stat("key").expect_err("another's").kind(), ErrorKind::NotFound);
        assert_eq!(other.remove("key").expect_err("another's").kind(), ErrorKind::NotFound);
        other.prepare("key", "", NONE).expect("the same key is free");
        let mut all = Vec::new();
        let mut visit = |owner: &str, info: &strata::snapshotter::Info| {
            all.push((owner.to_owned(), info.name.clone()));
            Ok(())
        };
        mine.walk_all(&["name==key"], &mut visit).expect("walk");
        mine.walk_all(&["kind==view"], &mut visit).expect("walk");
        assert_eq!(all, [("containerd".into(), "key".into()), ("local".into(), "key".into())], "whoever asks");
        other.cleanup().expect("cleanup");
        assert_eq!(super::lifecycle::names(&mine), ["key"]);
        assert_eq!(mine.backend().inventory().expect("inventory").len(), 2);
    });
}
