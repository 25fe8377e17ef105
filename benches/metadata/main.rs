//! What a snapshot costs those who look at many inodes and change them: `cargo bench --bench metadata`, as root.
//!
//! First criterion measures the workloads of `strata compare` that are about inodes, so that `--save-baseline` and
//! `--baseline` show what a change did. Then a table is printed: the same work in a snapshot and in a plain directory
//! on the same file system, in the same run, one after the other. `-- table` is the table alone.
//!
//! These are the kernel's costs more than strata's: what a strategy has to offer here follows from the mounts it chose.
//! File systems are made in memory and mounted privately. `STRATA_BENCH_DIR` names a directory of a real one instead:
//! then only the rows of its type are measured.

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
use strata::compare::{Contestant, Entry, Label, Plain, Role};
use strata::tree::copy::CloneMode;

use support::place::{FsType, Place};
use support::table::Table;
use support::{FILE_BYTES_MAX, Part, SEED, criteria, print_table};

/// What is about inodes, with what a strategy without layers may take of a plain directory.
const STEPS: [(Workload, &str); 3] = [(WALK, "find"), (CHOWN, "chown -R"), (RENAME, "mv")];

/// Files of the image in the table: those of a Debian base.
const FILES: u64 = 6000;

/// Rounds that count; there is one more before them.
const ROUNDS: u64 = 10;

/// What a bind may take of the directory that it shows: nothing more, but for noise.
const TIMES_BIND_MAX: f64 = 1.3;

/// What overlayfs may take: it looks at two inodes for one, and copies what is changed.
const TIMES_OVERLAY_MAX: [f64; 3] = [4.0, 40.0, 1000.0];

/// Each has a file system of its own.
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

fn rows(place: &Place, choice: Strategy, table: &mut Table) -> Result<()> {
    let image = Image::new(FILES, FILE_BYTES_MAX, SEED);
    let store = place.store("inodes", choice, CloneMode::Auto)?;
    let subject = place.subject(&store, &image)?;
    let entry = Entry::new(Label::new("plain directory", place.fs.as_str(), Role::Floor));
    let floor = Plain::new(entry, place.dir("plain"), place.dir("mount-plain"), &image, Sizes::QUICK)?;
    let contestants: [&dyn Contestant; 2] = [&subject, &floor];
    for ((workload, step), overlay_max) in STEPS.into_iter().zip(TIMES_OVERLAY_MAX) {
        let mut timers = [Timer::default(), Timer::default()];
        for contestant in contestants {
            contestant.begin(&workload)?;
        }
        for round in 0..=ROUNDS {
            for (contestant, timer) in contestants.iter().zip(&mut timers) {
                let mut taken = Timer::default();
                contestant.run(&workload, round, &mut taken)?;
                // The first warms the caches.
                if round > 0 {
                    timer.extend(taken);
                }
            }
        }
        for contestant in contestants {
            contestant.end(&workload)?;
        }
        let [ours, plain] = timers.each_ref().map(|timer| timer.samples(step));
        let most = if choice == OVERLAY { overlay_max } else { TIMES_BIND_MAX };
        table.ratio(&format!("{choice} on {}: {step}", place.fs), &ours, "a plain directory", &plain, most);
    }
    Ok(())
}
