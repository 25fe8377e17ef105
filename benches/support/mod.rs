//! Code shared by the benchmarks: directories to measure in, and the table printed at the end.

pub mod bench_dir;
#[allow(dead_code, reason = "a benchmark may have criteria of its own")]
pub mod criteria;
#[allow(dead_code, reason = "a benchmark may have criteria of its own")]
#[path = "../../tests/support/settings.rs"]
pub mod settings;
#[allow(dead_code, reason = "a benchmark need not have every kind of row")]
pub mod table;

use std::time::Instant;

use strata::compare::machine::Machine;
use strata::compare::measure::Timer;
use strata::size::size;

use bench_dir::{BenchDir, FsType};
use table::Table;

/// Maximum length of a file: 60,000 files, and copies of them, must fit in memory.
pub const FILE_BYTES_MAX: u64 = 16 << 10;

/// Seed of all generated data.
pub const SEED: u64 = 1;

/// A part of the table.
pub struct Part {
    pub name: &'static str,
    pub fs: FsType,
    pub rows: fn(&BenchDir, &mut Table) -> strata::Result<()>,
}

/// Measures the `parts` that the arguments select, each on a file system of its own, and prints the table.
pub fn print_table(parts: &[Part]) {
    let wanted: Vec<&Part> = parts.iter().filter(|part| is_wanted(part)).collect();
    if wanted.is_empty() {
        return;
    }
    describe();
    let mut table = Table::default();
    for part in wanted {
        let started = Instant::now();
        match BenchDir::new(part.fs).and_then(|place| (part.rows)(&place, &mut table)) {
            Ok(()) => eprintln!("{}: {:.0} s", part.name, started.elapsed().as_secs_f64()),
            Err(error) => table.skip(part.name, &error.chain()),
        }
    }
    println!("\n{table}");
}

/// Returns true if the part is selected: all parts without arguments other than cargo's own, else those that are named.
fn is_wanted(part: &Part) -> bool {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let name = format!("table/{}", part.name);
    arguments.is_empty() || arguments.iter().any(|argument| name.starts_with(argument))
}

fn describe() {
    let machine = Machine::here();
    let shown = |bytes: Option<u64>| bytes.map_or_else(|| "?".to_owned(), size);
    println!(
        "\nstrata {}, Linux {}, {} cores of {}, {} of memory ({} available)",
        machine.strata,
        machine.kernel,
        machine.cores,
        machine.cpu.as_deref().unwrap_or("unknown make"),
        shown(machine.memory_bytes),
        shown(machine.available_bytes),
    );
    println!("{}", bench_dir::description());
    println!("caches warm; durability commit: every operation is on disk when it returns; seed {SEED}");
    if let Some(empty) = Timer::overhead() {
        println!("taking a time costs {} ns", empty.median_ns);
    }
}
