//! The steps of `strata compare`'s workloads on each strategy, for criterion.

use std::time::Duration;

use criterion::Criterion;
use strata::Result;
use strata::compare::image::Image;
use strata::compare::measure::Timer;
use strata::compare::workload::{CONTAINER, DIFF, Workload};
use strata::registry::Choice;
use strata::tree::copy::CloneMode;

use super::SMALL_PARENT_FILES;
use super::support::place::{FsType, Place};
use super::support::{FILE_BYTES_MAX, SEED};

/// The strategies, where they are measured.
const STRATEGIES: [(&str, Choice, CloneMode, FsType); 5] = [
    ("overlay-ext4", Choice::Overlay, CloneMode::Auto, FsType::Ext4),
    ("overlay-xfs", Choice::Overlay, CloneMode::Auto, FsType::Xfs),
    ("btrfs", Choice::Btrfs, CloneMode::Auto, FsType::Btrfs),
    ("copy-ext4", Choice::Copy, CloneMode::Bytes, FsType::Ext4),
    ("copy-reflink-xfs", Choice::Copy, CloneMode::Reflink, FsType::Xfs),
];

/// The steps that take most; each sample goes through all of its workload.
const STEPS: [(Workload, &str); 4] =
    [(CONTAINER, "prepare"), (CONTAINER, "commit"), (CONTAINER, "remove"), (DIFF, "diff")];

/// Small figures, since every sample is a whole life of a container.
const SAMPLES: usize = 20;
const MEASUREMENT: Duration = Duration::from_secs(2);
const WARM_UP: Duration = Duration::from_millis(300);

pub fn steps(criterion: &mut Criterion) {
    for (name, choice, clone, fs) in STRATEGIES {
        if let Err(why) = strategy(criterion, name, choice, clone, fs) {
            eprintln!("{name} is not measured: {}", why.chain());
        }
    }
}

fn strategy(criterion: &mut Criterion, name: &str, choice: Choice, clone: CloneMode, fs: FsType) -> Result<()> {
    let image = Image::new(SMALL_PARENT_FILES, FILE_BYTES_MAX, SEED);
    let place = Place::new(fs)?;
    let store = place.store(name, choice, clone)?;
    let subject = place.subject(&store, &image)?;
    let mut group = criterion.benchmark_group(name);
    group.sample_size(SAMPLES).measurement_time(MEASUREMENT).warm_up_time(WARM_UP);
    let mut round = 0;
    for (workload, step) in STEPS {
        group.bench_function(step, |bencher| {
            bencher.iter_custom(|iterations| {
                let mut timer = Timer::default();
                for _ in 0..iterations {
                    round += 1;
                    workload.run(&subject, round, &mut timer).expect("a container's life");
                }
                timer.samples(step).iter().sum()
            });
        });
    }
    group.finish();
    Ok(())
}
