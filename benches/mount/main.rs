//! Measures mounting a snapshot: `cargo bench --bench mount`, as root.
//!
//! First, criterion measures the steps of the workloads of `strata compare` that mount, so that `--save-baseline` and
//! `--baseline` show the effect of a change. Then a table is printed: mounting and unmounting beside the bare
//! `mount(2)` and `umount2(2)` of the same directories, in turn in the same run. `-- table` prints only the table.
//!
//! File systems are created in memory and mounted privately. `STRATA_BENCH_DIR` names a directory of a real one
//! instead: then only the rows of its type are measured.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a benchmark reports to whoever started it")]

#[path = "../support/mod.rs"]
mod support;

use std::path::Path;

use criterion::Criterion;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use strata::backend::Strategy;
use strata::backends::{BTRFS, COPY, OVERLAY};
use strata::compare::image::Image;
use strata::compare::measure::Timer;
use strata::compare::workload::{CONTAINER, START, Workload};
use strata::mount::{Mount, Mounted};
use strata::snapshotter::{Labels, Snapshotter};
use strata::tree::copy::CloneMode;
use strata::{Error, Result};

use support::bench_dir::{BenchDir, FsType};
use support::table::Table;
use support::{FILE_BYTES_MAX, Part, SEED, criteria, print_table};

/// Steps that mount.
const STEPS: [(Workload, &str); 3] = [(CONTAINER, "mount"), (CONTAINER, "unmount"), (START, "start all")];

/// Number of files in the image.
const FILES: u64 = 600;

/// Number of layers of the deep stack: the maximum that images have in practice.
const LAYERS: usize = 100;

/// Number of counted rounds, and of rounds before them.
const ROUNDS: u64 = 200;
const WARM_UP_ROUNDS: u64 = 5;

/// Maximum ratio of a mount to the bare system call.
const TIMES_RAW_MAX: f64 = 1.5;

/// Parts of the table, each on a file system of its own.
const PARTS: [Part; 4] = [
    Part { name: "overlay-ext4", fs: FsType::Ext4, rows: |place, table| shallow(place, OVERLAY, table) },
    Part { name: "overlay-deep-ext4", fs: FsType::Ext4, rows: deep },
    Part { name: "btrfs", fs: FsType::Btrfs, rows: |place, table| shallow(place, BTRFS, table) },
    Part { name: "copy-ext4", fs: FsType::Ext4, rows: |place, table| shallow(place, COPY, table) },
];

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    criteria::steps(&mut criterion, &STEPS);
    criterion.final_summary();
    print_table(&PARTS);
}

/// Measures a writable snapshot of the image.
fn shallow(place: &BenchDir, choice: Strategy, table: &mut Table) -> Result<()> {
    let store = place.store("mounts", choice, CloneMode::Auto)?;
    let image = Image::new(FILES, FILE_BYTES_MAX, SEED);
    place.subject(&store, &image)?;
    let mounts = store.prepare("work", "image", &Labels::new())?;
    rows(place, &choice.to_string(), &mounts, table)
}

/// Measures a writable snapshot of many layers.
fn deep(place: &BenchDir, table: &mut Table) -> Result<()> {
    let store = place.store("mounts", OVERLAY, CloneMode::Auto)?;
    let mut parent = String::new();
    for depth in 1..=LAYERS {
        let name = format!("layer{depth}");
        store.prepare("layer", &parent, &Labels::new())?;
        store.commit(&name, "layer", &Labels::new())?;
        parent = name;
    }
    let mounts = store.prepare("work", &parent, &Labels::new())?;
    rows(place, &format!("overlay, {LAYERS} layers:"), &mounts, table)
}

fn rows(place: &BenchDir, what: &str, mounts: &[Mount], table: &mut Table) -> Result<()> {
    let [mount] = mounts else {
        return Err(Error::unsupported(format!("there are {} mounts, and one is compared", mounts.len())));
    };
    let target = place.dir("mount-raw");
    let mut times = [Timer::default(), Timer::default()];
    for round in 0..WARM_UP_ROUNDS + ROUNDS {
        if round == WARM_UP_ROUNDS {
            times = [Timer::default(), Timer::default()];
        }
        let [ours, raw] = &mut times;
        let mounted = ours.time("mount", || Mounted::new(mounts, &target))?;
        ours.time("unmount", || mounted.unmount())?;
        raw.time("mount", || bare_mount(mount, &target))?;
        raw.time("unmount", || umount2(&target, MntFlags::empty())).map_err(failed)?;
    }
    for (step, against) in [("mount", "mount(2)"), ("unmount", "umount2(2)")] {
        let [ours, raw] = times.each_ref().map(|timer| timer.samples(step));
        table.ratio(&format!("{what} {step}, {}", place.fs), &ours, against, &raw, TIMES_RAW_MAX);
    }
    Ok(())
}

/// Mounts with `mount(2)`, the system call from before the mount API.
fn bare_mount(what: &Mount, target: &Path) -> Result<()> {
    let (source, none) = (what.source(), None::<&str>);
    let made = match what {
        Mount::Bind { .. } => mount(Some(source.as_str()), target, none, MsFlags::MS_BIND, none),
        _ => {
            let options = what.options().join(",");
            mount(Some(source.as_str()), target, Some(what.fstype()), MsFlags::empty(), Some(options.as_str()))
        }
    };
    made.map_err(failed)
}

fn failed(errno: nix::Error) -> Error {
    Error::precondition(format!("the raw operation failed: {errno}"))
}
