//! Properties of every layer: removals apply first, wherever they stand, and nothing leads outside.

use std::cell::Cell;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use proptest::test_runner::{Config, TestCaseError, TestRunner};

use super::{scratch, tree};
use crate::changeset::notation::{apply, show};
use crate::random;
use crate::testing;
use crate::tree::Dir;

/// How long each suite takes if nobody says: a share of what random suites have.
const BUDGET_S: u64 = 8;
const BUDGET_SHARE: u32 = 4;

/// Entries of the lower tree: each path of any type, its parents as needed.
const LOWER: [&str; 16] = [
    "f a \"0\" 600",
    "d a 711",
    "f b \"1\"",
    "h b -> a",
    "l b -> a",
    "d d 700 1:2 @9 user.a=b",
    "f d \"2\"",
    "f d/a \"3\" 600",
    "h d/a -> a",
    "d d/a 711",
    "f d/b \"4\"",
    "d d/e 711 @8",
    "f d/e/a \"5\"",
    "l d/e/b -> ../a",
    "p g",
    "f g/a \"6\"",
];

/// Entries of a layer: one type for a path, so that entries do not undo each other.
const ENTRIES: [&str; 14] = [
    "f a \"x\"",
    "h a -> d/a",
    "f b \"y\" 4755",
    "h b -> a",
    "h b -> d/e/a",
    "d d 750 3:4 @5",
    "f d/a \"z\"",
    "h d/a -> b",
    "l d/b -> a",
    "h d/b -> d/a",
    "d d/e 1777",
    "f d/e/a \"w\"",
    "h d/e/a -> g/a",
    "f g/a \"v\"",
];

const REMOVALS: [&str; 11] = ["- a", "- b", "- d", "- d/a", "- d/b", "- d/e", "- d/e/a", "- g", "! d", "! d/e", "! ."];

/// Links to everywhere, and what one can try with them.
const HOSTILE: [&str; 24] = [
    "l l -> ../outside",
    "l l -> /outside",
    "l l -> ../../../../../..",
    "l l -> /proc/self/cwd",
    "l m -> l",
    "l m -> l/d",
    "l d/l -> ../../outside",
    "l d -> l",
    "l d -> m",
    "d d",
    "d l",
    "f l/f \"evil\"",
    "f m/f \"evil\"",
    "f d/f \"evil\"",
    "f d/l/f \"evil\"",
    "d m/d 777 1:2",
    "d d/d 777 1:2",
    "- l/f",
    "- d/l/d",
    "! m",
    "! d",
    "h stolen -> l/f",
    "h d/stolen -> m/f",
    "h m/stolen -> d",
];

/// Runs `case` on random values for a share of the budget, each time in a fresh directory.
fn for_each<S: Strategy>(what: &str, strategy: &S, case: impl Fn(&Path, S::Value) -> Result<(), TestCaseError>) {
    let Some(scratch) = scratch() else { return };
    let number = |variable: &str| std::env::var(variable).ok().and_then(|text| text.parse::<u64>().ok());
    let budget = Duration::from_secs(number("STRATA_BUDGET_S").unwrap_or(BUDGET_S)) / BUDGET_SHARE;
    let wanted = number("STRATA_SCRIPTS");
    let (started, mut rounds, place) = (Instant::now(), 0, Cell::new(0));
    while wanted.map_or_else(|| started.elapsed() < budget, |wanted| rounds < wanted) {
        let config = Config { cases: 1, failure_persistence: None, max_shrink_iters: 2000, ..Config::default() };
        let answer = TestRunner::new_with_rng(config, random::rng(rounds)).run(strategy, |value| {
            place.set(place.get() + 1);
            let dir = scratch.path().join(format!("{}", place.get()));
            fs::create_dir(&dir).expect("mkdir");
            let answer = case(&dir, value);
            fs::remove_dir_all(&dir).expect("remove");
            answer
        });
        if let Err(failure) = answer {
            panic!("{what}, round {rounds}: {failure}");
        }
        rounds += 1;
    }
    testing::say(&format!("{what}: {rounds} layers"));
}

/// Returns the tree that a layer makes of a lower tree, or nothing if there is no such lower tree.
fn outcome(path: &Path, lower: &[&str], layer: &[&str]) -> Option<Result<Vec<String>, String>> {
    let root = tree(path, &[]);
    apply(&root, lower).ok()?;
    Some(apply(&root, layer).map(|_| show(&root)).map_err(|error| error.kind().to_string()))
}

/// OCI image specification, layer.md, "Whiteouts": they apply to the layers below, whatever their order.
#[test]
fn removals_may_stand_anywhere() {
    let lower = subsequence(LOWER.to_vec(), 0..8);
    let (entries, removals) = (vec(select(&ENTRIES[..]), 0..6), vec(select(&REMOVALS[..]), 0..4));
    let mixed = vec(any::<prop::sample::Index>(), 4);
    for_each("removals in any order", &(lower, entries, removals, mixed), |dir, (lower, entries, removals, at)| {
        let first = [&removals[..], &entries[..]].concat();
        let mut mixed = entries;
        removals.iter().zip(at).for_each(|(removal, at)| mixed.insert(at.index(mixed.len() + 1), removal));
        let expected = outcome(&dir.join("first"), &lower, &first);
        let found = outcome(&dir.join("mixed"), &lower, &mixed);
        prop_assert_eq!(found, expected, "{:?} and {:?}", first, mixed);
        Ok(())
    });
}

#[test]
fn no_layer_leads_outside() {
    let layers = vec(vec(select(&HOSTILE[..]), 0..8), 1..4);
    for_each("layers full of links", &layers, |dir, layers| {
        let outside = ["d d", "f f \"safe\"", "f d/f \"safe\""];
        tree(&dir.join("outside"), &outside);
        let before = show(&Dir::open(dir.join("outside")).expect("open"));
        let root = tree(&dir.join("root"), &[]);
        for layer in &layers {
            // An error is as good: nothing may happen outside.
            drop(apply(&root, layer));
        }
        prop_assert_eq!(show(&Dir::open(dir.join("outside")).expect("open")), before);
        for line in show(&root) {
            prop_assert!(!line.contains("safe"), "{} came in", line);
        }
        Ok(())
    });
}
