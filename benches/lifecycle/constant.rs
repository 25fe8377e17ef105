//! Operations whose time must not depend on the size of the parent: on overlay and btrfs.

use std::path::PathBuf;
use std::time::Duration;

use strata::backend::Strategy;
use strata::backends::{BTRFS, OVERLAY};
use strata::compare::image::Image;
use strata::compare::measure::{Statistics, Timer};
use strata::compare::workload;
use strata::compare::workload::CONTAINER;
use strata::mount::Mounted;
use strata::snapshotter::{Labels, Snapshotter};
use strata::store::Store;
use strata::tree::Dir;
use strata::tree::copy::CloneMode;
use strata::{Error, Result};

use super::raw::{self, source};
use super::support::bench_dir::BenchDir;
use super::support::table::Table;
use super::support::{FILE_BYTES_MAX, SEED};
use super::{PARENT_FILES, SMALL_PARENT_FILES};

/// Number of counted rounds.
const ROUNDS: u64 = 100;

/// Number of rounds before the counted ones.
const WARM_UP_ROUNDS: u64 = 5;

/// Maximum ratio of the store to the raw operation.
const TIMES_RAW_MAX: f64 = 2.0;

/// Maximum ratio of the time over a large parent to the time over a small one.
const TIMES_SMALL_MAX: f64 = 1.3;

pub fn overlay(place: &BenchDir, table: &mut Table) -> Result<()> {
    let raw = |name: &str, source| {
        raw::Overlay::new(place.dir(&format!("raw-{name}")), place.dir(&format!("mount-{name}")), source)
    };
    strategy(place, OVERLAY, "system calls + transaction", table, raw, raw::Overlay::round)
}

pub fn btrfs(place: &BenchDir, table: &mut Table) -> Result<()> {
    let raw = |name: &str, source| raw::Btrfs::new(place.dir(&format!("raw-{name}")), source);
    strategy(place, BTRFS, "ioctl + transaction", table, raw, raw::Btrfs::round)?;
    usage(place, table)
}

/// Times over the large and the small parent, of strata and of the raw operations.
#[derive(Default)]
struct Times {
    ours: [Timer; 2],
    raw: [Timer; 2],
}

impl Times {
    /// Adds two rows for `step`: against the raw operation, and against the small parent.
    fn rows(&self, operation: &str, step: &str, against: &str, table: &mut Table) {
        let [ours, small] = [0, 1].map(|index: usize| self.ours[index].samples(step));
        let [raw, raw_small] = [0, 1].map(|index: usize| self.raw[index].samples(step));
        table.ratio(operation, &ours, against, &raw, TIMES_RAW_MAX);
        let median = |samples: &[Duration]| Statistics::of(samples.to_vec()).map_or(0.0, |s| s.median_ns as f64);
        // The kernel's own ratio is printed, because the store cannot be better than the raw operation.
        let kernel = median(&raw) / median(&raw_small);
        table.ratio(operation, &ours, &format!("600 files (raw: {kernel:.2})"), &small, TIMES_SMALL_MAX);
    }
}

/// A store with the large parent, then one with the small parent.
struct Stores {
    stores: [Store; 2],
    images: [Image; 2],
}

impl Stores {
    const NAMES: [&str; 2] = ["large", "small"];

    fn new(place: &BenchDir, choice: Strategy) -> Result<Self> {
        let [large, small] = Self::NAMES.map(|name| place.store(name, choice, CloneMode::Auto));
        let images = [PARENT_FILES, SMALL_PARENT_FILES].map(|files| Image::new(files, FILE_BYTES_MAX, SEED));
        Ok(Self { stores: [large?, small?], images })
    }
}

/// Measures the steps over both parents, in the store and raw, in turn.
fn strategy<R>(
    place: &BenchDir,
    choice: Strategy,
    against: &str,
    table: &mut Table,
    make_raw: impl Fn(&str, PathBuf) -> raw::Result<R>,
    raw_round: impl Fn(&mut R, &Image, u64, &mut Timer) -> raw::Result<()>,
) -> Result<()> {
    let Stores { stores, images } = Stores::new(place, choice)?;
    let mut each = Vec::new();
    for ((store, image), name) in stores.iter().zip(&images).zip(Stores::NAMES) {
        let subject = place.subject(store, image)?;
        each.push((subject, image, make_raw(name, source(store, "image")?).map_err(failed)?));
    }
    let mut times = Times::default();
    for round in 0..WARM_UP_ROUNDS + ROUNDS {
        if round == WARM_UP_ROUNDS {
            times = Times::default();
        }
        for (index, (subject, image, raw)) in each.iter_mut().enumerate() {
            CONTAINER.run(subject, round, &mut times.ours[index])?;
            raw_round(raw, image, round, &mut times.raw[index]).map_err(failed)?;
        }
    }
    for (step, against) in [("prepare", against), ("commit", against), ("remove", "transaction")] {
        times.rows(&format!("{choice} {step}"), step, against, table);
    }
    Ok(())
}

/// Measures the usage of an active snapshot in which ten files were just written.
fn usage(place: &BenchDir, table: &mut Table) -> Result<()> {
    let Stores { stores, images } = Stores::new(place, BTRFS)?;
    let target = place.dir("mount-usage");
    let mut times = Times::default();
    for round in 0..ROUNDS {
        let name = format!("usage{round}");
        for (index, (store, image)) in stores.iter().zip(&images).enumerate() {
            let mounted = Mounted::new(&store.prepare(&name, "image", &Labels::new())?, &target)?;
            workload::write(&Dir::open(&target)?, image, round)?;
            mounted.unmount()?;
            times.ours[index].time("usage", || store.usage(&name))?;
            store.remove(&name)?;
            store.cleanup()?;

            let raw = raw::Btrfs::new(place.dir("raw-usage"), source(store, "image")?).map_err(failed)?;
            let active = raw.active(&name).map_err(failed)?;
            workload::write(&Dir::open(&active)?, image, round)?;
            times.raw[index].time("usage", || raw.usage(&active)).map_err(failed)?;
            raw.destroy(&name).map_err(failed)?;
        }
    }
    times.rows("btrfs usage, active", "usage", "ioctls", table);
    Ok(())
}

pub fn failed(error: Box<dyn std::error::Error>) -> Error {
    Error::precondition(format!("the raw operation failed: {error}"))
}
