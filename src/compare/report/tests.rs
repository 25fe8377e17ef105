//! Reports of invented figures: their content, and the escaping of markup in names.

use std::time::Duration;

use super::*;
use crate::compare::measure::Statistics;
use crate::compare::workload::WorkloadStep;
use crate::compare::{Comparison, Cost, Figures, Label, SubjectCost};

/// Creates a row with samples around `ms`.
fn row(strategy: &str, role: Role, ms: u64, standing: Option<Standing>, best_ms: u64) -> Row {
    let samples = [98, 99, 100, 101, 102].map(|percent| Duration::from_micros(ms * 10 * percent));
    let statistics = Statistics::of(samples.to_vec()).expect("samples");
    let times = |other: u64| ms as f64 / other as f64;
    let floor = (role != Role::Floor).then(|| times(2));
    let figures = Figures { statistics, standing, times_best: times(best_ms), times_floor: floor };
    Row { label: Label::new(strategy, "ext4", role), figures: Some(figures), failure: None }
}

/// Creates a report with three strategies, a floor and a failure; the names contain markup.
fn sample() -> Report {
    let step = WorkloadStep { name: "prepare", about: "make <one>" };
    let mut broken = row("broken|\"<b>", Role::Peer, 1, None, 1);
    broken.figures = None;
    broken.failure = Some("no, \"never\"\n<script>alert(1)</script>".to_owned());
    let rows = vec![
        row("overlay", Role::Strategy, 4, Some(Standing::Best), 4),
        row("btrfs", Role::Strategy, 10, Some(Standing::Slower), 4),
        row("copy", Role::Strategy, 800, Some(Standing::Worst), 4),
        row("plain directory", Role::Floor, 2, None, 4),
        broken,
    ];
    let level = vec![
        row("overlay", Role::Strategy, 5, Some(Standing::Level), 5),
        row("btrfs", Role::Strategy, 6, Some(Standing::Level), 5),
    ];
    let weighed = |subject: &str, size: i64| SubjectCost {
        subject: subject.to_owned(),
        cost: Cost { size_bytes: Some(size), ..Cost::default() },
    };
    let measured = Measured {
        name: "container",
        about: "a life & a death",
        steps: vec![
            Comparison { step, headline: true, rows },
            Comparison { step: WorkloadStep { name: "commit", about: "keep it" }, headline: true, rows: level },
        ],
        costs: vec![weighed("overlay on ext4", 4096), weighed("copy on ext4", 100 << 20)],
        took_ms: 900,
    };
    let mut report = Report {
        machine: Machine::here(),
        image: ImageFigures { source: "made up".to_owned(), files: 6, inodes: 9, size_bytes: 4096, seed: 1 },
        sizes: Sizes::QUICK,
        samples: 5,
        file_systems: "fresh".to_owned(),
        mounts: vec![MountOptions { fs: "ext4".to_owned(), options: "rw".to_owned() }],
        peers: Vec::new(),
        durability: "commit",
        caches: "warm",
        overhead_ns: 20,
        took_ms: 1000,
        interrupted: false,
        summary: Vec::new(),
        workloads: vec![measured],
        not_measured: vec![NotMeasured { subject: "btrfs on ext4".to_owned(), reason: "it is <not> btrfs".to_owned() }],
    };
    report.conclude();
    report
}

#[test]
fn the_words_follow_from_the_figures() {
    let expected = [
        "overlay on ext4 is best, or not to be told apart from the best, in 2 of 2 headline steps.",
        "btrfs on ext4 is best, or not to be told apart from the best, in 1 of 2 headline steps; furthest from the best in \
         \"prepare\": 2.5x as long.",
        "prepare: overlay on ext4 is best (4.00 ms, 2.0x the floor); copy on ext4 takes 200x as long (800 ms).",
        "commit: overlay on ext4 (5.00 ms, 2.5x the floor); no difference measured to btrfs on ext4.",
        "Space for \"container\": 4.00 KiB on overlay on ext4, 100 MiB on copy on ext4.",
    ];
    assert_eq!(sample().summary, expected);
}

#[test]
fn nothing_is_said_of_one_alone() {
    let mut report = sample();
    report.workloads[0].steps.truncate(1);
    report.workloads[0].steps[0].rows.truncate(1);
    report.workloads[0].costs.truncate(1);
    report.conclude();
    assert_eq!(report.summary, Vec::<String>::new());
}

#[test]
fn csv_is_quoted() {
    let text = csv(&sample());
    let lines: Vec<&str> = text.split("\r\n").collect();
    assert_eq!(lines[0].split(',').count(), 16);
    assert!(lines[1].starts_with("container,prepare,overlay on ext4,overlay,ext4,strategy,5,3920000,"), "{}", lines[1]);
    assert!(lines[1].ends_with(",1.000,2.000,best,"), "{}", lines[1]);
    assert_eq!(lines[1].split(',').count(), 16);
    assert!(text.contains(r#""broken|""<b> on ext4""#) && text.contains(r#""no, ""never"""#), "{text}");
}

#[test]
fn markdown_is_escaped() {
    let text = markdown(&sample());
    assert!(
        text.contains("| prepare | overlay on ext4 | 4.00 ms | 3.96 ms to 4.04 ms | 5 | 1.0x | 2.0x | best |"),
        "{text}"
    );
    assert!(text.contains(r#"broken\|"\<b> on ext4 | failed | no, "never" \<script>"#), "{text}");
    assert!(text.lines().all(|line| !line.starts_with("<")), "{text}");
}

#[test]
fn a_page_holds_no_foreign_markup() {
    let page = html(&sample());
    assert!(!page.contains("<script>alert") && !page.contains("<b>"), "{page}");
    assert_eq!(page.matches("<script>").count(), 1);
    for part in ["<svg role=\"img\"", "aria-labelledby", "default-src 'none'", "it is &lt;not&gt; btrfs", "4.00 ms"] {
        assert!(page.contains(part), "{part}: {page}");
    }
    let asks_the_network = ["src=", "@import", "url("].into_iter().find(|word| page.contains(word));
    assert_eq!(asks_the_network, None);
}

#[test]
fn ratios() {
    assert_eq!(["1.0x", "99.9x", "100x", "345x"], [1.0, 99.94, 99.96, 345.2].map(times).each_ref().map(String::as_str));
}
