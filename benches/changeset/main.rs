//! Measures finding changes, and writing them as a layer: `cargo bench --bench changeset`, as root.
//!
//! First, criterion measures small trees, so that `--save-baseline` and `--baseline` show the effect of a change of the
//! code. Then a table is printed: the diff of 10 changes in a tree of 50,000 files with each strategy's hint, beside
//! the walk of both trees that finds the same, and a layer of a Debian `/usr` written beside pipes of tar and a
//! compressor, in turn in the same run. `-- table` prints only the table, `-- table/copy` only those rows.
//!
//! File systems are created in memory and mounted privately. `STRATA_BENCH_DIR` names a directory of a real one
//! instead: then only the rows of its type are measured.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a benchmark reports to whoever started it")]

mod narrow;
#[path = "../support/mod.rs"]
mod support;
mod write;

use criterion::Criterion;

use support::bench_dir::FsType;
use support::{Part, print_table};

/// Parts of the table, each on a file system of its own.
const PARTS: [Part; 5] = [
    Part { name: "overlay-ext4", fs: FsType::Ext4, rows: narrow::overlay },
    Part { name: "btrfs", fs: FsType::Btrfs, rows: narrow::btrfs },
    Part { name: "copy-ext4", fs: FsType::Ext4, rows: narrow::copy },
    Part { name: "copy-xfs", fs: FsType::Xfs, rows: narrow::copy },
    Part { name: "write-overlay-ext4", fs: FsType::Ext4, rows: write::rows },
];

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    narrow::criteria(&mut criterion);
    criterion.final_summary();
    print_table(&PARTS);
}
