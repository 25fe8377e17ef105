//! Every case passes on a store of each strategy; and a snapshotter that breaks a promise is found out.

use super::*;
use crate::mount::scratch::FsType;
use crate::registry::{self, Choice, Config};
use crate::store::{Durability, Store};
use crate::testing;

fn store(root: std::path::PathBuf, backend: Choice) -> Store {
    let config = Config { backend, durability: Durability::None, ..Config::new(root) };
    registry::open(&config).expect("a store")
}

#[test]
fn every_strategy_keeps_every_promise() {
    for (backend, fs) in [(Choice::Overlay, FsType::Ext4), (Choice::Btrfs, FsType::Btrfs), (Choice::Copy, FsType::Ext4)]
    {
        let Some(scratch) = testing::scratch(fs) else { continue };
        let store = store(scratch.path().join("store"), backend);
        let failed: Vec<_> = cases()
            .map(|case| (case.name, case.run(&store, "", &[])))
            .filter(|(_, outcome)| !matches!(outcome, Outcome::Passed | Outcome::Skipped(_)))
            .collect();
        assert!(failed.is_empty(), "{backend}: {failed:#?}");
        store.walk(&[], &mut |info| panic!("{} is left", info.name)).expect("walk");
    }
}

#[test]
fn names_are_told_apart() {
    let names: Vec<_> = cases().map(|case| case.name).collect();
    let distinct: std::collections::BTreeSet<_> = names.iter().collect();
    assert_eq!(distinct.len(), names.len(), "{names:?}");
    assert_eq!(cases().filter(|case| case.source.contains("containerd suite: ")).count(), 21);
}
