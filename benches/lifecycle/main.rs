//! What strata's operations cost against the raw operations below them: `make bench`, as root.
//!
//! First criterion measures the steps of the workloads of `strata compare` on small images, so that `--save-baseline` and
//! `--baseline` show what a change did. Then a table is printed: each operation of the store over a parent of 60,000
//! files beside the raw system calls that it cannot do without, in the same run, one after the other. Both happen without
//! an argument; `cargo bench --bench lifecycle -- table` is the table alone, `-- table/btrfs` those of its rows.
//!
//! File systems are made in memory and mounted privately. `STRATA_BENCH_DIR` names a directory of a real one instead: then
//! only the rows of its type are measured.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a benchmark reports to whoever started it")]

mod constant;
mod copy;
mod criteria;
mod info;
mod load;
mod place;
mod raw;
mod table;

use std::time::Instant;

use criterion::Criterion;
use strata::compare::machine::Machine;
use strata::compare::measure::Timer;

use place::{FsType, Place};
use table::Table;

/// Files of the parent.
const PARENT_FILES: u64 = 60_000;

/// Files of the parent that is to cost the same.
const SMALL_PARENT_FILES: u64 = 600;

/// No file is longer: 60,000 of them, and copies of them, have to fit into memory.
const FILE_BYTES_MAX: u64 = 16 << 10;

/// The seed of everything that is made up.
const SEED: u64 = 1;

/// What adds rows to the table.
struct Part {
    name: &'static str,
    fs: FsType,
    rows: fn(&Place, &mut Table) -> strata::Result<()>,
}

/// Each has a file system of its own.
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
    criteria::steps(&mut criterion);
    criterion.final_summary();
    let wanted: Vec<&Part> = PARTS.iter().filter(|part| is_wanted(part)).collect();
    if wanted.is_empty() {
        return;
    }
    describe();
    let mut table = Table::default();
    for part in wanted {
        let started = Instant::now();
        match Place::new(part.fs).and_then(|place| (part.rows)(&place, &mut table)) {
            Ok(()) => eprintln!("{}: {:.0} s", part.name, started.elapsed().as_secs_f64()),
            Err(error) => table.skip(part.name, &error.chain()),
        }
    }
    println!("\n{table}");
}

/// By the arguments: all parts where there are none but cargo's own, else those that are named.
fn is_wanted(part: &Part) -> bool {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let name = format!("table/{}", part.name);
    arguments.is_empty() || arguments.iter().any(|argument| name.starts_with(argument))
}

fn describe() {
    let machine = Machine::here();
    let gib = |bytes: Option<u64>| bytes.map_or_else(|| "?".to_owned(), |bytes| format!("{} GiB", bytes >> 30));
    println!(
        "\nstrata {}, Linux {}, {} cores of {}, {} of memory ({} available)",
        machine.strata,
        machine.kernel,
        machine.cores,
        machine.cpu.as_deref().unwrap_or("unknown make"),
        gib(machine.memory_bytes),
        gib(machine.available_bytes),
    );
    println!("{}", place::description());
    println!("caches warm; durability commit: every operation is on disk when it returns; seed {SEED}");
    if let Some(empty) = Timer::overhead() {
        println!("taking a time costs {} ns", empty.median_ns);
    }
}
