//! What strata's operations cost against the raw operations below them: `make bench`, as root.
//!
//! First criterion measures the steps of the workloads of `strata compare` on small images, so that `--save-baseline` and
//! `--baseline` show what a change did. Then a table is printed: each operation of the store over a parent of 60,000
//! files beside the raw system calls that it cannot do without, in the same run, one after the other. A filter that matches
//! no benchmark, as in `cargo bench --bench lifecycle -- table`, leaves the table alone.
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

use criterion::Criterion;
use strata::compare::machine::Machine;
use strata::compare::measure::Timer;

use table::Table;

/// Files of the parent.
const PARENT_FILES: u64 = 60_000;

/// Files of the parent that is to cost the same.
const SMALL_PARENT_FILES: u64 = 600;

/// No file is longer: 60,000 of them, and copies of them, have to fit into memory.
const FILE_BYTES_MAX: u64 = 16 << 10;

/// The seed of everything that is made up.
const SEED: u64 = 1;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    criteria::steps(&mut criterion);
    criterion.final_summary();
    // What `cargo test --benches` and `--list` ask for.
    if std::env::args().any(|argument| argument == "--test" || argument == "--list") {
        return;
    }
    describe();
    let mut table = Table::default();
    for fs in [place::FsType::Ext4, place::FsType::Xfs, place::FsType::Btrfs] {
        match place::Place::new(fs) {
            Ok(place) => rows(&place, &mut table),
            Err(why) => table.skip(fs.as_str(), &why),
        }
    }
    println!("\n{table}");
}

/// Every row that can be measured on `place`.
fn rows(place: &place::Place, table: &mut Table) {
    use place::FsType::{Btrfs, Ext4, Xfs};
    type Part = fn(&place::Place, &mut Table) -> strata::Result<()>;
    let parts: &[(&str, Part)] = match place.fs {
        Ext4 => &[("overlay", constant::overlay), ("copy", copy::rows), ("load", load::ext4), ("info", info::rows)],
        Xfs => &[("copy", copy::rows)],
        Btrfs => &[("btrfs", constant::btrfs), ("copy", copy::rows), ("load", load::btrfs)],
        _ => &[],
    };
    for (name, part) in parts {
        eprintln!("measuring {name} on {}", place.fs);
        if let Err(error) = part(place, table) {
            table.skip(&format!("{name} on {}", place.fs), &error.chain());
        }
    }
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
