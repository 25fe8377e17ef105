//! Measures strata's operations against the raw operations below them: `make bench`, as root.
//!
//! First, criterion measures the steps of the workloads of `strata compare` on small images, so that `--save-baseline`
//! and `--baseline` show the effect of a change. Then a table is printed: each operation of the store over a parent of
//! 60,000 files beside the raw system calls that it needs at least, in turn in the same run. Both run without an
//! argument; `cargo bench --bench lifecycle -- table` prints only the table, `-- table/btrfs` only those rows.
//!
//! File systems are created in memory and mounted privately. `STRATA_BENCH_DIR` names a directory of a real one
//! instead: then only the rows of its type are measured.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a benchmark reports to whoever started it")]

mod constant;
mod copy;
mod info;
mod load;
mod raw;
#[path = "../support/mod.rs"]
mod support;

use criterion::Criterion;
use strata::compare::workload::{CONTAINER, DIFF, Workload};

use support::bench_dir::FsType;
use support::{Part, criteria, print_table};

/// Number of files in the parent.
const PARENT_FILES: u64 = 60_000;

/// Number of files in the small parent, over which an operation must take the same time.
const SMALL_PARENT_FILES: u64 = 600;

/// Steps that take most of the time.
const STEPS: [(Workload, &str); 4] =
    [(CONTAINER, "prepare"), (CONTAINER, "commit"), (CONTAINER, "remove"), (DIFF, "diff")];

/// Parts of the table, each on a file system of its own.
const PARTS: [Part; 9] = [
    Part { name: "overlay-ext4", fs: FsType::Ext4, rows: constant::overlay },
    Part { name: "btrfs", fs: FsType::Btrfs, rows: constant::btrfs },
    Part { name: "copy-ext4", fs: FsType::Ext4, rows: copy::rows },
    Part { name: "copy-xfs", fs: FsType::Xfs, rows: copy::rows },
    Part { name: "copy-btrfs", fs: FsType::Btrfs, rows: copy::rows },
    Part { name: "load-overlay-ext4", fs: FsType::Ext4, rows: load::overlay },
    Part { name: "load-copy-ext4", fs: FsType::Ext4, rows: load::copy },
    Part { name: "load-btrfs", fs: FsType::Btrfs, rows: load::btrfs },
    Part { name: "info", fs: FsType::Ext4, rows: info::rows },
];

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    criteria::steps(&mut criterion, &STEPS);
    criterion.final_summary();
    print_table(&PARTS);
}
