//! Measures reading and changing many inodes in a snapshot: `cargo bench --bench metadata`, as root.
//!
//! First, criterion measures the workloads of `strata compare` that concern inodes, so that `--save-baseline` and
//! `--baseline` show the effect of a change. Then a table is printed: the same work in a snapshot and in a plain
//! directory on the same file system, in turn in the same run. `-- table` prints only the table.
//!
//! These are the kernel's costs more than strata's: they follow from the mounts of a strategy. File systems are created
//! in memory and mounted privately. `STRATA_BENCH_DIR` names a directory of a real one instead: then only the rows of
//! its type are measured.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a benchmark reports to whoever started it")]

#[path = "../support/mod.rs"]
mod support;

use criterion::Criterion;
use strata::Result;
use strata::backend::Strategy;
use strata::backends::{BTRFS, COPY, OVERLAY};
use strata::compare::image::Image;
use strata::compare::measure::Timer;
use strata::compare::workload::{CHOWN, RENAME, Sizes, WALK, Workload};
use strata::compare::{DirectorySubject, Label, Role, Subject, SubjectProfile};
use strata::tree::copy::CloneMode;

use support::bench_dir::{BenchDir, FsType};
use support::table::Table;
use support::{FILE_BYTES_MAX, Part, SEED, criteria, print_table};

/// Workloads that concern inodes, with the measured step.
const STEPS: [(Workload, &str); 3] = [(WALK, "find"), (CHOWN, "chown -R"), (RENAME, "mv")];

/// Number of files in the table's image, as in a Debian base.
const FILES: u64 = 6000;

/// Number of counted rounds, after one that is not counted.
const ROUNDS: u64 = 10;

/// Maximum ratio of a bind mount to the directory it shows: no more than noise.
const TIMES_BIND_MAX: f64 = 1.3;

/// Maximum ratios of overlayfs for each step: it reads two inodes for one, and copies files that are changed.
const TIMES_OVERLAY_MAX: [f64; 3] = [4.0, 40.0, 1000.0];

/// Parts of the table, each on a file system of its own.
const PARTS: [Part; 4] = [
    Part { name: "overlay-ext4", fs: FsType::Ext4, rows: |place, table| rows(place, OVERLAY, table) },
    Part { name: "overlay-xfs", fs: FsType::Xfs, rows: |place, table| rows(place, OVERLAY, table) },
    Part { name: "btrfs", fs: FsType::Btrfs, rows: |place, table| rows(place, BTRFS, table) },
    Part { name: "copy-ext4", fs: FsType::Ext4, rows: |place, table| rows(place, COPY, table) },
];

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    criteria::steps(&mut criterion, &STEPS);
    criterion.final_summary();
    print_table(&PARTS);
}

fn rows(place: &BenchDir, choice: Strategy, table: &mut Table) -> Result<()> {
    let image = Image::new(FILES, FILE_BYTES_MAX, SEED);
    let store = place.store("inodes", choice, CloneMode::Auto)?;
    let subject = place.subject(&store, &image)?;
    let entry = SubjectProfile::new(Label::new("plain directory", place.fs.as_str(), Role::Floor));
    let floor = DirectorySubject::new(entry, place.dir("plain"), place.dir("mount-plain"), &image, Sizes::QUICK)?;
    let subjects: [&dyn Subject; 2] = [&subject, &floor];
    for ((workload, step), overlay_max) in STEPS.into_iter().zip(TIMES_OVERLAY_MAX) {
        let mut timers = [Timer::default(), Timer::default()];
        for subject in subjects {
            subject.begin(&workload)?;
        }
        for round in 0..=ROUNDS {
            for (subject, timer) in subjects.iter().zip(&mut timers) {
                let mut taken = Timer::default();
                subject.run(&workload, round, &mut taken)?;
                // The first round only warms the caches.
                if round > 0 {
                    timer.extend(taken);
                }
            }
        }
        for subject in subjects {
            subject.end(&workload)?;
        }
        let [ours, plain] = timers.each_ref().map(|timer| timer.samples(step));
        let most = if choice == OVERLAY { overlay_max } else { TIMES_BIND_MAX };
        table.ratio(&format!("{choice} on {}: {step}", place.fs), &ours, "a plain directory", &plain, most);
    }
    Ok(())
}
