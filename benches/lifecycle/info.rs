//! Measures a whole command, from the start of its process to its end.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use strata::backends::OVERLAY;
use strata::compare::measure::{Statistics, three_digits};
use strata::snapshotter::{Labels, Snapshotter};
use strata::tree::copy::CloneMode;
use strata::{Error, Result};

use super::support::bench_dir::BenchDir;
use super::support::table::Table;

/// Number of snapshots in the store.
const SNAPSHOTS: u64 = 1000;

/// Number of runs of the command.
const ROUNDS: u64 = 100;

/// Maximum time of the command.
const TIME_MAX: Duration = Duration::from_millis(5);

pub fn rows(place: &BenchDir, table: &mut Table) -> Result<()> {
    let store = place.store("info", OVERLAY, CloneMode::Auto)?;
    for number in 0..SNAPSHOTS {
        store.prepare(&format!("key{number}"), "", &Labels::new())?;
    }
    let (mut info, mut nothing) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let mut command = Command::new(env!("CARGO_BIN_EXE_strata"));
        command.arg("--root").arg(store.root()).args(["info", &format!("key{}", round * 7)]);
        info.push(run(&mut command)?);
        nothing.push(run(&mut Command::new("true"))?);
    }
    let floor =
        Statistics::of(nothing).map_or_else(String::new, |floor| format!("true: {}", three_digits(floor.median_ns)));
    table.limit("strata info KEY, 1,000 snapshots", &info, &floor, TIME_MAX);
    Ok(())
}

fn run(command: &mut Command) -> Result<Duration> {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let started = Instant::now();
    let output = command.output();
    let took = started.elapsed();
    match output {
        Ok(output) if output.status.success() => Ok(took),
        other => Err(Error::precondition(format!("{command:?} failed: {other:?}"))),
    }
}
