//! What is refused, and what is chosen.

use clap::Parser as _;

use super::*;
use crate::cli::{Arguments, Command as Parsed};

fn parse(line: &str) -> Compare {
    let arguments = Arguments::try_parse_from(["strata", "compare"].into_iter().chain(line.split_whitespace()));
    match arguments.expect("arguments").command {
        Parsed::Compare(compare) => compare,
        other => panic!("{other:?}"),
    }
}

#[test]
fn too_little_space_is_refused_before_anything_is_made() {
    let compare = parse("--files 1000000 --full");
    // 22 KiB each, and 50 copies of it.
    let error =
        compare.check_space(&compare.contenders(false).expect("contenders"), &Image::new(1_000_000, u64::MAX, 1));
    let error = error.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ResourceExhausted);
    assert!(error.to_string().contains("choose fewer --files"), "{error}");
}

#[test]
fn what_is_named_is_measured_with_its_floor() {
    let names = |line: &str| -> Vec<String> {
        parse(line).contenders(false).expect("contenders").iter().map(ToString::to_string).collect()
    };
    assert_eq!(names("--strategy overlay --fs xfs"), ["overlay on xfs", "plain directory on xfs"]);
    assert_eq!(names("--strategy btrfs --fs ext4,btrfs").len(), 4);
    assert_eq!(names("--quick").len(), 7);
    assert_eq!(names("").len(), 18);
    assert_eq!(names("--full").len(), 20);
    let of_a_user = parse("--quick").contenders(true).expect("contenders");
    assert!(of_a_user.len() == 5 && of_a_user.iter().all(|contender| contender.fs == "tmpfs"), "{of_a_user:?}");
}

#[test]
fn a_short_run_has_five_workloads_and_more() {
    assert!(parse("--quick").workloads().len() >= 5);
    assert_eq!(parse("").workloads().len(), Workload::ALL.len());
    assert_eq!(parse("--workload diff,walk").workloads().len(), 2);
    assert_eq!(parse("--workload diff --run true").workloads().len(), 2);
}
