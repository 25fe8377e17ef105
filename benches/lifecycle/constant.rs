//! What must not depend on the size of the parent: overlay and btrfs.

use std::time::Duration;

use strata::compare::image::Image;
use strata::compare::measure::Timer;
use strata::compare::workload;
use strata::compare::workload::CONTAINER;
use strata::mount::Mounted;
use strata::registry::Choice;
use strata::snapshotter::{Labels, Snapshotter};
use strata::tree::Dir;
use strata::tree::copy::CloneMode;
use strata::{Error, Result};

use super::place::{Place, source};
use super::raw;
use super::table::Table;
use super::{FILE_BYTES_MAX, PARENT_FILES, SEED, SMALL_PARENT_FILES};

/// Rounds that count.
const ROUNDS: u64 = 100;

/// Rounds before them.
const WARM_UP_ROUNDS: u64 = 5;

/// What the store may take of the raw operation.
const TIMES_RAW_MAX: f64 = 2.0;

/// What it may take over a large parent of what it takes over a small one.
const TIMES_SMALL_MAX: f64 = 1.3;

pub fn overlay(place: &Place, table: &mut Table) -> Result<()> {
    let raw = |source| raw::Overlay::new(place.dir("raw"), place.dir("mount-raw"), source);
    strategy(place, Choice::Overlay, "system calls + transaction", table, raw, raw::Overlay::round)
}

pub fn btrfs(place: &Place, table: &mut Table) -> Result<()> {
    let raw = |source| raw::Btrfs::new(place.dir("raw"), source);
    strategy(place, Choice::Btrfs, "ioctl + transaction", table, raw, raw::Btrfs::round)?;
    usage(place, table)
}

/// The steps over both parents and raw, in turn.
fn strategy<R>(
    place: &Place,
    choice: Choice,
    against: &str,
    table: &mut Table,
    make_raw: impl FnOnce(std::path::PathBuf) -> raw::Result<R>,
    raw_round: impl Fn(&mut R, &Image, u64, &mut Timer) -> raw::Result<()>,
) -> Result<()> {
    let [large, small] = [PARENT_FILES, SMALL_PARENT_FILES].map(|files| Image::new(files, FILE_BYTES_MAX, SEED));
    let large_store = place.store(&format!("{choice}-large"), choice, CloneMode::Auto)?;
    let small_store = place.store(&format!("{choice}-small"), choice, CloneMode::Auto)?;
    let subjects = [place.subject(&large_store, &large)?, place.subject(&small_store, &small)?];
    let mut raw = make_raw(source(&large_store, "image")?).map_err(failed)?;
    let mut timers = [Timer::default(), Timer::default(), Timer::default()];
    for round in 0..WARM_UP_ROUNDS + ROUNDS {
        if round == WARM_UP_ROUNDS {
            timers = [Timer::default(), Timer::default(), Timer::default()];
        }
        CONTAINER.run(&subjects[0], round, &mut timers[0])?;
        raw_round(&mut raw, &large, round, &mut timers[2]).map_err(failed)?;
        CONTAINER.run(&subjects[1], round, &mut timers[1])?;
    }
    for step in ["prepare", "commit", "remove"] {
        let [large, small, raw] = [0, 1, 2].map(|index: usize| timers[index].samples(step));
        let against = if step == "remove" { "transaction" } else { against };
        table.ratio(&format!("{choice} {step}"), &large, against, &raw, TIMES_RAW_MAX);
        table.ratio(&format!("{choice} {step}"), &large, "600 files", &small, TIMES_SMALL_MAX);
    }
    Ok(())
}

/// The usage of an active snapshot in which ten files were just written.
fn usage(place: &Place, table: &mut Table) -> Result<()> {
    let [large, small] = [PARENT_FILES, SMALL_PARENT_FILES].map(|files| Image::new(files, FILE_BYTES_MAX, SEED));
    let [large_store, small_store] =
        ["btrfs-large", "btrfs-small"].map(|name| place.store(name, Choice::Btrfs, CloneMode::Auto));
    let (large_store, small_store) = (large_store?, small_store?);
    let raw = raw::Btrfs::new(place.dir("raw"), source(&large_store, "image")?).map_err(failed)?;
    let mut timers = [Timer::default(), Timer::default(), Timer::default()];
    for round in 0..ROUNDS {
        let name = format!("usage{round}");
        for (timer, store, image) in [(0, &large_store, &large), (1, &small_store, &small)] {
            let mounts = store.prepare(&name, "image", &Labels::new())?;
            let mounted = Mounted::new(&mounts, place.dir("mount-usage"))?;
            workload::write(&Dir::open(mounted.path())?, image, round)?;
            mounted.unmount()?;
            timers[timer].time("usage", || store.usage(&name))?;
            store.remove(&name)?;
            store.cleanup()?;
        }
        let active = raw.active(&name).map_err(failed)?;
        workload::write(&Dir::open(&active)?, &large, round)?;
        timers[2].time("usage", || raw.usage(&active)).map_err(failed)?;
        raw.destroy(&name).map_err(failed)?;
    }
    let [large, small, raw] = timers.map(|timer: Timer| -> Vec<Duration> { timer.samples("usage") });
    table.ratio("btrfs usage, active", &large, "ioctls", &raw, TIMES_RAW_MAX);
    table.ratio("btrfs usage, active", &large, "600 files", &small, TIMES_SMALL_MAX);
    Ok(())
}

pub fn failed(error: Box<dyn std::error::Error>) -> Error {
    Error::precondition(format!("the raw operation failed: {error}"))
}
