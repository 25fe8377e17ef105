//! What the benchmarks share: where is measured, and the table that is printed at the end.

#[allow(dead_code, reason = "a benchmark may have criteria of its own")]
pub mod criteria;
pub mod place;
#[allow(dead_code, reason = "a benchmark need not have every kind of row")]
pub mod table;

use std::time::Instant;

use strata::compare::machine::Machine;
use strata::compare::measure::Timer;

use place::{FsType, Place};
use table::Table;

/// No file is longer: 60,000 of them, and copies of them, have to fit into memory.
pub const FILE_BYTES_MAX: u64 = 16 << 10;

/// The seed of everything that is made up.
pub const SEED: u64 = 1;

/// What adds rows to the table.
pub struct Part {
    pub name: &'static str,
    pub fs: FsType,
    pub rows: fn(&Place, &mut Table) -> strata::Result<()>,
}

/// Measures those of `parts` that the arguments want, each on a file system of its own, and prints the table.
pub fn print_table(parts: &[Part]) {
    let wanted: Vec<&Part> = parts.iter().filter(|part| is_wanted(part)).collect();
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
