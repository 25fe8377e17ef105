//! The rules of layers: each example on every strategy.

use strata::conformance::layers;
use strata::store::Durability;

use crate::{Bench, settings, support};

#[test]
fn every_rule_holds_on_every_strategy() {
    let failures: Vec<String> =
        settings().into_iter().filter_map(Bench::new).flat_map(|bench| failures(&bench)).collect();
    assert!(failures.is_empty(), "{} examples fail:\n{}", failures.len(), failures.join("\n"));
}

/// Returns the examples that fail on one strategy, each with its error.
fn failures(bench: &Bench) -> Vec<String> {
    let store = bench.store_with("layers", Durability::None, |backend| backend).expect("a store");
    let (mut failures, mut count) = (Vec::new(), 0);
    let strategy = bench.setting.name();
    for rule in layers::rules() {
        for (at, example) in rule.examples.iter().enumerate() {
            count += 1;
            let (number, name) = (rule.number, example.name);
            if let Err(error) = example.check(&store, &format!("{number}.{at}")) {
                failures.push(format!("{strategy}: rule {number} ({}), {name}: {}", rule.name, error.chain()));
            }
        }
    }
    support::say(&format!("{strategy}: {count} examples of the rules of layers"));
    failures
}
