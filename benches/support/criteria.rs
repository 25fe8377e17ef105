//! Steps of the workloads of `strata compare` on each strategy, measured by criterion: `--save-baseline` and
//! `--baseline` show the effect of a change.

use std::time::Duration;

use criterion::Criterion;
use strata::Result;
use strata::backend::Strategy;
use strata::backends::{BTRFS, COPY, OVERLAY};
use strata::compare::Subject as _;
use strata::compare::image::Image;
use strata::compare::measure::Timer;
use strata::compare::workload::Workload;
use strata::tree::copy::CloneMode;

use super::bench_dir::{BenchDir, FsType};
use super::{FILE_BYTES_MAX, SEED};

/// The strategies, each with its file system.
pub const STRATEGIES: [(&str, Strategy, CloneMode, FsType); 5] = [
    ("overlay-ext4", OVERLAY, CloneMode::Auto, FsType::Ext4),
    ("overlay-xfs", OVERLAY, CloneMode::Auto, FsType::Xfs),
    ("btrfs", BTRFS, CloneMode::Auto, FsType::Btrfs),
    ("copy-ext4", COPY, CloneMode::Bytes, FsType::Ext4),
    ("copy-reflink-xfs", COPY, CloneMode::Reflink, FsType::Xfs),
];

/// Number of files in the image.
const FILES: u64 = 600;

/// Small numbers, because every sample runs its whole workload.
const SAMPLES: usize = 20;
const MEASUREMENT: Duration = Duration::from_secs(2);
const WARM_UP: Duration = Duration::from_millis(300);

/// Measures `steps`, each of a workload.
pub fn steps(criterion: &mut Criterion, steps: &[(Workload, &'static str)]) {
    for (name, choice, clone, fs) in STRATEGIES {
        if let Err(why) = strategy(criterion, (name, choice, clone, fs), steps) {
            eprintln!("{name} is not measured: {}", why.chain());
        }
    }
}

fn strategy(
    criterion: &mut Criterion,
    (name, choice, clone, fs): (&str, Strategy, CloneMode, FsType),
    steps: &[(Workload, &'static str)],
) -> Result<()> {
    let image = Image::new(FILES, FILE_BYTES_MAX, SEED);
    let place = BenchDir::new(fs)?;
    let store = place.store(name, choice, clone)?;
    let subject = place.subject(&store, &image)?;
    let mut group = criterion.benchmark_group(name);
    group.sample_size(SAMPLES).measurement_time(MEASUREMENT).warm_up_time(WARM_UP);
    let mut round = 0;
    for (workload, step) in steps {
        subject.begin(workload)?;
        group.bench_function(*step, |bencher| {
            bencher.iter_custom(|iterations| {
                let mut timer = Timer::default();
                for _ in 0..iterations {
                    round += 1;
                    workload.run(&subject, round, &mut timer).expect("a workload");
                }
                timer.samples(step).iter().sum()
            });
        });
        subject.end(workload)?;
    }
    group.finish();
    Ok(())
}
