//! The comparison: what it measures, and that nothing is left of it.

use serde_json::Value;
use strata::mount::scratch::FsType;

use super::Bench;

const SMALL: [&str; 5] = ["compare", "--samples", "2", "--files", "50"];

#[test]
fn figures_for_every_strategy_that_the_machine_has() {
    let Some(bench) = Bench::mounting() else { return };
    let report = bench.json(&SMALL);
    assert_eq!((&report["interrupted"], &report["image"]["files"]), (&Value::Bool(false), &Value::from(50)));
    let missing = report["not_measured"].as_array().expect("a list");
    let steps = report["comparisons"].as_array().expect("a list");
    assert!(steps.len() >= 9, "{report}");
    for step in steps {
        let rows = step["rows"].as_array().expect("a list");
        assert_eq!(rows.len() + missing.len(), 5, "{step}");
        for row in rows {
            assert_eq!((&row["failure"], &row["figures"]["samples"]), (&Value::Null, &Value::from(2)), "{step}");
        }
    }
    if super::support::scratch(FsType::Ext4).is_some() {
        let text = bench.ok(&SMALL);
        for word in ["overlay on ext4", "copy on ext4", "prepare", "WHAT IS TIMED", "seed 1"] {
            assert!(text.contains(word), "{word}: {text}");
        }
    }
    assert_eq!(std::fs::read_dir(bench.dir.path()).expect("the directory").count(), 0, "no store was made");
}

#[test]
fn what_is_no_number_of_rounds_is_refused() {
    Bench::bare().misuse(&["compare", "--samples", "0"]);
}
