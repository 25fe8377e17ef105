//! Compares the diff with a strategy's hint to walking both trees.

use std::io::{self, Read};
use std::time::Duration;

use criterion::Criterion;
use strata::backend::Strategy;
use strata::backends::{BTRFS, COPY, OVERLAY};
use strata::changeset::{Candidates, Change, diff};
use strata::compare::image::Image;
use strata::compare::measure::{Statistics, Timer, three_digits};
use strata::compare::workload;
use strata::mount::Mounted;
use strata::snapshotter::{Labels, Snapshotter};
use strata::store::Store;
use strata::tree::Dir;
use strata::tree::copy::CloneMode;
use strata::{Error, Result};

use super::support::bench_dir::{BenchDir, FsType};
use super::support::table::Table;
use super::support::{FILE_BYTES_MAX, SEED};

/// Number of files in the tree.
const FILES: u64 = 50_000;

/// Number of files in the tree for criterion.
const SMALL_FILES: u64 = 600;

/// Number of changes: five files are extended, five are new.
const CHANGES: u64 = 10;

/// Number of counted rounds, after one that is not counted.
const ROUNDS: u64 = 15;

/// Maximum time of a diff, whatever the size of the tree.
const OVERLAY_TIME_MAX: Duration = Duration::from_millis(2);
const BTRFS_TIME_MAX: Duration = Duration::from_millis(5);

/// Maximum ratio to the walk of both trees for a strategy that walks one tree.
const COPY_TIMES_GENERIC_MAX: f64 = 0.6;

/// Names of the compared snapshot and of its parent.
const LAYER: &str = "layer";
const IMAGE: &str = "image";

pub fn overlay(place: &BenchDir, table: &mut Table) -> Result<()> {
    limit(place, OVERLAY, OVERLAY_TIME_MAX, table)
}

pub fn btrfs(place: &BenchDir, table: &mut Table) -> Result<()> {
    limit(place, BTRFS, BTRFS_TIME_MAX, table)
}

pub fn copy(place: &BenchDir, table: &mut Table) -> Result<()> {
    let timer = measure(place, COPY)?;
    let (narrowed, generic) = (timer.samples("narrowed"), timer.samples("generic"));
    table.ratio(&operation(place, COPY), &narrowed, "walk of both", &generic, COPY_TIMES_GENERIC_MAX);
    Ok(())
}

fn limit(place: &BenchDir, choice: Strategy, most: Duration, table: &mut Table) -> Result<()> {
    let timer = measure(place, choice)?;
    let generic = Statistics::of(timer.samples("generic"));
    let beside = generic.map_or_else(String::new, |time| format!("walk of both: {}", three_digits(time.median_ns)));
    table.limit(&operation(place, choice), &timer.samples("narrowed"), &beside, most);
    Ok(())
}

fn operation(place: &BenchDir, choice: Strategy) -> String {
    format!("{choice} diff of {CHANGES} changes in {FILES} files, {}", place.fs)
}

/// Measures both ways in turn.
fn measure(place: &BenchDir, choice: Strategy) -> Result<Timer> {
    let store = furnish(place, choice, CloneMode::Auto, FILES)?;
    let mut timer = Timer::default();
    for round in 0..=ROUNDS {
        timer.time("generic", || generic(&store))?;
        timer.time("narrowed", || narrowed(&store))?;
        if round == 0 {
            timer = Timer::default();
        }
    }
    Ok(timer)
}

/// Creates a store with an image and a layer on it.
fn furnish(place: &BenchDir, choice: Strategy, clone: CloneMode, files: u64) -> Result<Store> {
    let image = Image::new(files, FILE_BYTES_MAX, SEED);
    let store = place.store(choice.name, choice, clone)?;
    place.subject(&store, &image)?;
    let mounted = Mounted::new(&store.prepare("key", IMAGE, &Labels::new())?, place.dir("mount"))?;
    workload::write(&Dir::open(mounted.path())?, &image, 0)?;
    mounted.unmount()?;
    store.commit(LAYER, "key", &Labels::new())?;
    Ok(store)
}

/// Reads the changes as `strata diff` does, including content.
fn narrowed(store: &Store) -> Result<()> {
    count(|sink| store.changes(LAYER, None, sink))
}

/// Reads the changes without the strategy's hint.
fn generic(store: &Store) -> Result<()> {
    count(|sink| diff::diff(Some(&store.open_tree(IMAGE)?), &store.open_tree(LAYER)?, Candidates::All, sink))
}

fn count(produce: impl FnOnce(&mut dyn strata::changeset::Sink) -> Result<()>) -> Result<()> {
    let mut files = 0;
    let mut sink = |_: &Change, data: &mut dyn Read| {
        let read = io::copy(data, &mut io::sink()).map_err(|error| Error::precondition(error.to_string()))?;
        files += u64::from(read > 0);
        Ok(())
    };
    produce(&mut sink)?;
    if files == CHANGES {
        Ok(())
    } else {
        Err(Error::data_loss(format!("{CHANGES} files were changed, {files} found")))
    }
}

/// Measures both ways on each strategy, on small trees.
pub fn criteria(criterion: &mut Criterion) {
    let all = [(OVERLAY, FsType::Ext4), (BTRFS, FsType::Btrfs), (COPY, FsType::Ext4)];
    for (choice, fs) in all {
        if let Err(why) = strategy(criterion, choice, fs) {
            eprintln!("{choice} is not measured: {}", why.chain());
        }
    }
}

fn strategy(criterion: &mut Criterion, choice: Strategy, fs: FsType) -> Result<()> {
    let place = BenchDir::new(fs)?;
    let store = furnish(&place, choice, CloneMode::Auto, SMALL_FILES)?;
    let mut group = criterion.benchmark_group(format!("diff/{choice}"));
    group.measurement_time(Duration::from_secs(1)).warm_up_time(Duration::from_millis(300));
    group.bench_function("narrowed", |bencher| bencher.iter(|| narrowed(&store).expect("a diff")));
    group.bench_function("generic", |bencher| bencher.iter(|| generic(&store).expect("a diff")));
    group.finish();
    Ok(())
}
