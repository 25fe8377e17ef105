//! Every case passes on a store of each strategy, or deviates as is known; and a snapshotter that breaks a promise is found
//! out.

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
    for (backend, fs) in [(Choice::Overlay, FsType::Ext4), (Choice::Btrfs, FsType::Btrfs), (Choice::Copy, FsType::Xfs)]
    {
        let Some(scratch) = testing::scratch(fs) else { continue };
        let store = store(scratch.path().join("store"), backend);
        let subject = Subject::new(&store, "").expect("a subject");
        let failed: Vec<_> = cases()
            .iter()
            .filter(|case| case.group != Group::Layers)
            .map(|case| (case.name.clone(), case.run(&subject)))
            .filter(|(_, outcome)| matches!(outcome, Outcome::Failed(_)))
            .collect();
        assert!(failed.is_empty(), "{backend}: {failed:#?}");
        store.walk(&[], &mut |info| panic!("{} is left", info.name)).expect("walk");
    }
}

#[test]
fn names_are_told_apart() {
    let cases = cases();
    let distinct: std::collections::BTreeSet<_> = cases.iter().map(|case| &case.name).collect();
    assert_eq!(distinct.len(), cases.len());
    assert_eq!(cases.iter().filter(|case| case.source.contains("containerd suite: ")).count(), 21);
    assert!(cases.iter().all(|case| !case.source.is_empty() && !case.meaning.is_empty()));
    assert!(cases.len() >= 100, "{} cases", cases.len());
}

/// A table of deviations that names nothing would hide nothing, and help nobody.
#[test]
fn what_is_known_to_deviate_is_a_case() {
    let cases = cases();
    for deviation in deviations::of("overlay") {
        assert!(cases.iter().any(|case| case.name == deviation.case), "{}", deviation.case);
    }
}
