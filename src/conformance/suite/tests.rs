//! Tests that every case has a source and a meaning. The cases themselves run in `tests/cli/conformance.rs`.

use super::*;

#[test]
fn names_are_told_apart() {
    let cases = cases(1, 3);
    let distinct: std::collections::BTreeSet<_> = cases.iter().map(|case| &case.name).collect();
    assert_eq!(distinct.len(), cases.len());
    assert_eq!(cases.iter().filter(|case| case.source.contains("containerd suite: ")).count(), 21);
    assert!(cases.iter().all(|case| !case.source.is_empty() && !case.meaning.is_empty()));
    assert!(cases.len() >= 100, "{} cases", cases.len());
}

/// A deviation that names no existing case would have no effect.
#[test]
fn what_is_known_to_deviate_is_a_case() {
    let cases = cases(1, 3);
    for deviation in deviations::all() {
        assert!(cases.iter().any(|case| case.name == deviation.case), "{}", deviation.case);
    }
}
