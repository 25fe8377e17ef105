//! Refused arguments, and the selection of settings.

use std::ffi::OsString;

use super::*;
use crate::backend::{Strategy, Variant};
use crate::backends::OVERLAY;
use crate::cli::Command as Parsed;

fn parse(line: &str) -> Compare {
    let words = ["strata", "compare"].into_iter().chain(line.split_whitespace());
    let arguments: Vec<OsString> = words.map(OsString::from).collect();
    match crate::cli::parse(&arguments, &Strategies::default()).expect("arguments").command {
        Parsed::Compare(compare) => compare,
        other => panic!("{other:?}"),
    }
}

#[test]
fn too_little_space_is_refused_before_anything_is_made() {
    let compare = parse("--files 1000000 --full");
    // 22 KiB for each file, and 50 copies of the image.
    let error = compare.check_space(
        &compare.settings(&Strategies::default(), false).expect("settings"),
        &Image::new(1_000_000, u64::MAX, 1),
    );
    let error = error.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ResourceExhausted);
    assert!(error.to_string().contains("choose fewer --files"), "{error}");
}

#[test]
fn what_is_named_is_measured_with_its_floor() {
    let names = |line: &str| -> Vec<String> {
        parse(line).settings(&Strategies::default(), false).expect("settings").iter().map(ToString::to_string).collect()
    };
    assert_eq!(names("--strategy overlay --fs xfs"), ["overlay on xfs", "plain directory on xfs"]);
    assert_eq!(names("--strategy btrfs --fs ext4,btrfs").len(), 4);
    assert_eq!(names("--quick").len(), 7);
    assert_eq!(names("").len(), 18);
    assert_eq!(names("--full").len(), 20);
    let of_a_user = parse("--quick").settings(&Strategies::default(), true).expect("settings");
    assert!(of_a_user.len() == 5 && of_a_user.iter().all(|setting| setting.fs == "tmpfs"), "{of_a_user:?}");
}

#[test]
fn a_strategy_from_outside_is_measured() {
    const OTHER: Strategy = Strategy { name: "other", variants: &[VARIANT], ..OVERLAY };
    const VARIANT: Variant = Variant { name: "other+fast", ..OVERLAY.variants[0] };
    let table = Strategies::default().with(OTHER);
    let settings = parse("--fs tmpfs").settings(&table, false).expect("settings");
    assert!(settings.iter().any(|setting| setting.to_string() == "other+fast on tmpfs"), "{settings:?}");
}

#[test]
fn a_short_run_has_five_workloads_and_more() {
    assert!(parse("--quick").workloads().len() >= 5);
    assert_eq!(parse("").workloads().len(), Workload::ALL.len());
    assert_eq!(parse("--workload diff,walk").workloads().len(), 2);
    assert_eq!(parse("--workload diff --run true").workloads().len(), 2);
}
