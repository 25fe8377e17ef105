//! Measures `prepare` of another key while a large operation runs in the same store.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::Mode;
use strata::backend::Strategy;
use strata::backends::{BTRFS, COPY, OVERLAY};
use strata::compare::image::Image;
use strata::compare::measure::Statistics;
use strata::snapshotter::{Labels, Snapshotter};
use strata::store::Store;
use strata::tree::copy::CloneMode;
use strata::{Error, Result};

use super::PARENT_FILES;
use super::constant::failed;
use super::raw::{self, Database};
use super::support::bench_dir::BenchDir;
use super::support::table::{Rank, Table};
use super::support::{FILE_BYTES_MAX, SEED};

/// Number of samples of the idle store.
const SAMPLES_IDLE: usize = 200;

/// Number of samples beside one load: ten of them lie above the 99th percentile, so that it does not depend on two or
/// three.
const SAMPLES_BESIDE: usize = 1000;

/// Time after which no load is started again.
const LOAD_TIME_MAX: Duration = Duration::from_secs(40);

/// Maximum ratio of the median of `prepare` to its idle time.
const TIMES_IDLE_MAX: f64 = 1.5;

/// Maximum ratio of `prepare` to the raw operation beside the load, at the 99th percentile.
const TIMES_RAW_MAX: f64 = 2.0;

pub fn overlay(place: &BenchDir, table: &mut Table) -> Result<()> {
    rows(place, OVERLAY, &[Load::Commit, Load::Remove], table)
}

pub fn copy(place: &BenchDir, table: &mut Table) -> Result<()> {
    rows(place, COPY, &[Load::Copy, Load::Commit, Load::Remove], table)
}

pub fn btrfs(place: &BenchDir, table: &mut Table) -> Result<()> {
    rows(place, BTRFS, &[Load::Commit, Load::Remove], table)
}

/// A large operation.
#[derive(Clone, Copy, Debug)]
enum Load {
    Copy,
    Commit,
    Remove,
}

impl Load {
    fn name(self) -> &'static str {
        match self {
            Self::Copy => "copy",
            Self::Commit => "commit",
            Self::Remove => "removal",
        }
    }

    /// Creates what the operation needs.
    fn set_up(self, store: &Store, image: &Image, key: &str) -> Result<()> {
        match self {
            Self::Copy => Ok(()),
            Self::Commit | Self::Remove => {
                store.prepare(key, "", &Labels::new())?;
                store.apply(key, &mut |sink| image.produce(sink))?;
                if matches!(self, Self::Remove) { store.remove(key) } else { Ok(()) }
            }
        }
    }

    fn run(self, store: &Store, key: &str) -> Result<()> {
        match self {
            Self::Copy => store.prepare(key, "image", &Labels::new()).map(drop),
            Self::Commit => store.commit(&format!("{key}-layer"), key, &Labels::new()),
            Self::Remove => store.cleanup(),
        }
    }

    /// Removes the result of the operation.
    fn tear_down(self, store: &Store, key: &str) -> Result<()> {
        match self {
            Self::Copy => store.remove(key)?,
            Self::Commit => store.remove(&format!("{key}-layer"))?,
            Self::Remove => {}
        }
        store.cleanup()
    }
}

/// Times of `prepare` and of the raw operation, measured in turn.
#[derive(Default)]
struct Samples {
    prepare: Vec<Duration>,
    raw: Vec<Duration>,
}

fn rows(place: &BenchDir, choice: Strategy, loads: &[Load], table: &mut Table) -> Result<()> {
    let image = Image::new(PARENT_FILES, FILE_BYTES_MAX, SEED);
    let store = place.store(&format!("{choice}-load"), choice, CloneMode::Auto)?;
    place.subject(&store, &image)?;
    let mut small = Small { store: &store, dir: place.dir("raw-load"), database: None, count: 0 };
    let mut idle = Samples::default();
    while idle.prepare.len() < SAMPLES_IDLE {
        small.sample(&mut idle)?;
    }
    store.cleanup()?;
    for load in loads {
        let (beside, longest) = under(*load, &store, &image, &mut small)?;
        let operation = format!("{choice} prepare beside a {} ({:.1} s)", load.name(), longest.as_secs_f64());
        let raw = median(&beside.raw).as_secs_f64() / median(&idle.raw).as_secs_f64();
        table.ratio(&operation, &beside.prepare, &format!("idle (raw: {raw:.2})"), &idle.prepare, TIMES_IDLE_MAX);
        let against = "mkdir + transaction beside it";
        table.ratio_of(Rank::Percentile99, &operation, &beside.prepare, against, &beside.raw, TIMES_RAW_MAX);
    }
    Ok(())
}

fn median(samples: &[Duration]) -> Duration {
    Statistics::of(samples.to_vec()).map_or(Duration::ZERO, |statistics| Duration::from_nanos(statistics.median_ns))
}

/// Repeats `load` until there are enough samples; also returns its longest duration.
fn under(load: Load, store: &Store, image: &Image, small: &mut Small<'_>) -> Result<(Samples, Duration)> {
    let (mut samples, mut longest) = (Samples::default(), Duration::ZERO);
    let started = Instant::now();
    let mut turn = 0;
    while samples.prepare.len() < SAMPLES_BESIDE && started.elapsed() < LOAD_TIME_MAX {
        turn += 1;
        let key = format!("{}{turn}", load.name());
        load.set_up(store, image, &key)?;
        let done = AtomicBool::new(false);
        let took = thread::scope(|scope| {
            let work = scope.spawn(|| {
                let started = Instant::now();
                let answer = load.run(store, &key);
                done.store(true, Ordering::Relaxed);
                answer.map(|()| started.elapsed())
            });
            while !done.load(Ordering::Relaxed) {
                small.sample(&mut samples)?;
            }
            work.join().unwrap_or_else(|_| Err(Error::precondition("the load panicked")))
        })?;
        longest = longest.max(took);
        load.tear_down(store, &key)?;
    }
    Ok((samples, longest))
}

/// The small operations.
struct Small<'a> {
    store: &'a Store,
    dir: std::path::PathBuf,
    database: Option<Database>,
    count: u64,
}

impl Small<'_> {
    /// Measures one `prepare`, then one raw operation.
    fn sample(&mut self, samples: &mut Samples) -> Result<()> {
        self.count += 1;
        let key = format!("small{}", self.count);
        let started = Instant::now();
        self.store.prepare(&key, "", &Labels::new())?;
        samples.prepare.push(started.elapsed());
        let started = Instant::now();
        self.raw().map_err(failed)?;
        samples.raw.push(started.elapsed());
        self.store.remove(&key)
    }

    fn raw(&mut self) -> raw::Result<()> {
        rustix::fs::mkdir(self.dir.join(self.count.to_string()), Mode::RWXU)?;
        match &mut self.database {
            Some(database) => database.transaction(),
            none => none.insert(Database::new(&self.dir)?).transaction(),
        }
    }
}
