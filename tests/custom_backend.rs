//! The example of a strategy from outside the crate keeps the contract: the whole conformance suite passes on it.

#[path = "../examples/custom_backend.rs"]
#[expect(dead_code, reason = "the example is a program; its strategy is what is tested")]
mod example;
mod support;

use strata::backends::{self, Config, Strategies};
use strata::conformance::Outcome;
use strata::conformance::suite::{Subject, cases};
use strata::mount::scratch::FsType;
use strata::store::Durability;

/// Random scripts in each run.
const SCRIPTS: u64 = 5;

#[test]
fn a_strategy_of_another_crate_passes_the_suite() {
    for fs in [FsType::Ext4, FsType::Tmpfs] {
        let Some(scratch) = support::scratch(fs) else { return };
        let config = Config {
            backend: Some(example::MIRROR),
            durability: Durability::None,
            strategies: Strategies::default().with(example::MIRROR),
            ..Config::new(scratch.path().join("store"))
        };
        let store = backends::open(&config).expect("make a store");
        let subject = Subject::new(&store, "").expect("a subject");
        let mut passed = 0;
        for case in cases(1, SCRIPTS) {
            match case.run(&subject) {
                Outcome::Passed => passed += 1,
                Outcome::Skipped(_) => {}
                other => panic!("{} on {fs}: {other:?}", case.name),
            }
        }
        assert!(passed > 100, "{passed} cases passed");
        drop(store);
        // The store knows its strategy; a program that does not know the strategy says so.
        let error = backends::open(&Config::new(&config.root)).expect_err("mirror is unknown");
        assert!(error.to_string().contains("\"mirror\""), "{error}");
    }
}
