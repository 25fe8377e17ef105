//! Performs the random scripts of [`strata::conformance::random`] on every strategy and on the model in lock step.
//!
//! In addition to the comparisons there: every strategy gives the same DiffID, a strategy's hints about changes do not
//! alter the result of the comparison, and nothing is left on disk. A failing script is shortened and printed.

use std::time::{Duration, Instant};

use strata::Snapshotter as _;
use strata::conformance::model::Model;
use strata::conformance::ops::Op;
use strata::conformance::random::{self, Runner};
use strata::snapshotter::Kind;
use strata::store::{Durability, Store};

use super::narrow::narrowed_is_generic;
use super::{Bench, settings};
use crate::support;

/// Default duration of the random suite, in seconds.
const BUDGET_S: u64 = 20;

pub(crate) fn budget() -> Duration {
    let seconds = std::env::var("STRATA_BUDGET_S").ok().and_then(|text| text.parse().ok()).unwrap_or(BUDGET_S);
    Duration::from_secs(seconds)
}

/// Returns the number of scripts to run regardless of time: `make test-long` sets 20,000.
pub(crate) fn scripts_wanted() -> Option<usize> {
    std::env::var("STRATA_SCRIPTS").ok().and_then(|text| text.parse().ok())
}

/// Runs one script, each strategy in a store of its own.
fn run(benches: &[Bench], script: &[Op]) -> Result<(), String> {
    let store = |bench: &Bench| bench.store_with("round", Durability::None, |backend| backend).expect("a store");
    let stores: Vec<(String, Store)> = benches.iter().map(|bench| (bench.setting.name(), store(bench))).collect();
    let mut watch = |model: &Model, name: &str| {
        let active = model.snapshots.iter().filter(|(_, snapshot)| snapshot.kind == Kind::Active);
        let looked_at: Vec<&str> = active.map(|(key, _)| key.as_str()).chain([name]).collect();
        stores.iter().try_for_each(|(who, store)| {
            let narrowed = looked_at.iter().try_for_each(|key| narrowed_is_generic(store, key));
            narrowed.map_err(|why| format!("{who}: {why}"))
        })
    };
    let mut runners: Vec<_> = stores.iter().map(|(who, store)| Runner::new(who, store, "")).collect();
    let done = random::run(&mut runners, script, &mut watch).map(drop);
    drop(runners);
    let ended = stores.into_iter().map(|(who, store)| end(&who, store)).fold(Ok(()), Result::and);
    done.and(ended)
}

/// Checks that everything can be removed, and that nothing is left.
fn end(who: &str, store: Store) -> Result<(), String> {
    while let names @ [_, ..] = super::lifecycle::names(&store).as_slice() {
        let removed = names.iter().filter(|name| store.remove(name).is_ok()).count();
        if removed == 0 {
            return Err(format!("{who}: {names:?} cannot be removed"));
        }
    }
    store.cleanup().expect("cleanup");
    let left = store.backend().inventory().expect("inventory");
    let root = store.root().to_owned();
    drop(store);
    std::fs::remove_dir_all(root).expect("remove the store");
    if left.is_empty() { Ok(()) } else { Err(format!("{who}: {left:?} is left")) }
}

#[test]
fn strategies_agree() {
    let benches: Vec<Bench> = settings().into_iter().filter_map(Bench::new).collect();
    if benches.is_empty() {
        return;
    }
    let (started, seed) = (Instant::now(), crate::random::seed());
    let (mut rounds, mut commits) = (0, 0);
    while scripts_wanted().map_or_else(|| started.elapsed() < budget(), |wanted| rounds < wanted) {
        let script = random::script(seed, rounds as u64);
        if let Err(why) = run(&benches, &script) {
            let script = random::shrink(script, &mut |script| run(&benches, script).is_err());
            let why = run(&benches, &script).err().unwrap_or(why);
            let script = random::print(&script);
            panic!(
                "the strategies disagree in script {rounds} (STRATA_SEED={seed}); the shortest script found:\n\
                 {script}\n{why}"
            );
        }
        commits += script.iter().filter(|op| matches!(op, Op::Commit { .. })).count();
        rounds += 1;
    }
    support::say(&format!(
        "lock step: {rounds} scripts, {commits} commits on {} strategies in {:.0} s (STRATA_SEED={seed})",
        benches.len(),
        started.elapsed().as_secs_f64(),
    ));
}
