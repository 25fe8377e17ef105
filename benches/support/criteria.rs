//! Steps of the workloads of `strata compare` on each strategy, measured by criterion: `--save-baseline` and
//! `--baseline` show the effect of a change.

use std::time::Duration;

use criterion::Criterion;
use strata::Result;
use strata::backends::{self, Setting};
use strata::compare::Subject as _;
use strata::compare::image::Image;
use strata::compare::measure::Timer;
use strata::compare::workload::Workload;

use super::bench_dir::BenchDir;
use super::settings::settings;
use super::{FILE_BYTES_MAX, SEED};

/// Number of files in the image.
const FILES: u64 = 600;

/// Small numbers, because every sample runs its whole workload.
const SAMPLES: usize = 20;
const MEASUREMENT: Duration = Duration::from_secs(2);
const WARM_UP: Duration = Duration::from_millis(300);

/// Measures `steps`, each of a workload.
pub fn steps(criterion: &mut Criterion, steps: &[(Workload, &'static str)]) {
    for setting in settings() {
        if let Err(why) = measure(criterion, setting, steps) {
            eprintln!("{setting} is not measured: {}", why.chain());
        }
    }
}

fn measure(criterion: &mut Criterion, setting: Setting, steps: &[(Workload, &'static str)]) -> Result<()> {
    let image = Image::new(FILES, FILE_BYTES_MAX, SEED);
    let place = BenchDir::new(setting.fs)?;
    let name = format!("{}-{}", setting.variant.name, setting.fs);
    let store = backends::open(&setting.config(place.dir(&name)))?;
    let subject = place.subject(&store, &image)?;
    let mut group = criterion.benchmark_group(&name);
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
