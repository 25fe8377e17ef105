//! Timers, and statistics over their samples.

use std::time::{Duration, Instant};

use serde::Serialize;

use super::cost::{Cost, CostMeter, MeasuredFs};

/// Number of empty steps that are timed to measure the timer's own overhead.
const EMPTY_STEPS: usize = 1000;

/// The times of workload steps, and optionally the cost of the workload.
#[derive(Clone, Debug, Default)]
pub struct Timer {
    taken: Vec<(&'static str, Duration)>,
    meter: Option<CostMeter>,
}

impl Timer {
    /// Creates a timer that also measures the workload's cost on `measured_fs`. Reading the cost waits for the disk, so
    /// the times of such a timer must not be used.
    pub fn with_cost(measured_fs: MeasuredFs) -> Self {
        Self { taken: Vec::new(), meter: Some(CostMeter::new(measured_fs)) }
    }

    /// Marks the beginning of the work whose cost is measured.
    ///
    /// # Errors
    /// Errors of reading the file system's usage.
    pub fn start_cost(&mut self) -> crate::Result<()> {
        self.meter.as_mut().map_or(Ok(()), CostMeter::start_cost)
    }

    /// Marks the end of the work whose cost is measured. Call it before the workload removes its results.
    ///
    /// # Errors
    /// Errors of reading the file system's usage.
    pub fn stop_cost(&mut self) -> crate::Result<()> {
        self.meter.as_mut().map_or(Ok(()), CostMeter::stop_cost)
    }

    /// Returns the cost of the work between `start_cost` and `stop_cost`.
    pub fn cost(&self) -> Option<Cost> {
        self.meter.as_ref().map(CostMeter::cost)
    }

    /// Runs `work` and records its time as a sample of `step`, unless `work` fails.
    pub fn time<T, E>(&mut self, step: &'static str, work: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        let started = Instant::now();
        let answer = work();
        let taken = started.elapsed();
        if answer.is_ok() {
            self.taken.push((step, taken));
        }
        answer
    }

    /// Returns the samples of `step` in the order of recording.
    pub fn samples(&self, step: &str) -> Vec<Duration> {
        self.taken.iter().filter(|(name, _)| *name == step).map(|(_, taken)| *taken).collect()
    }

    /// Returns the sum of all samples.
    pub fn total(&self) -> Duration {
        self.taken.iter().map(|(_, taken)| *taken).sum()
    }

    /// Adds a sample that the caller computed from other samples.
    pub fn record(&mut self, step: &'static str, taken: Duration) {
        self.taken.push((step, taken));
    }

    /// Appends the samples of another timer.
    pub fn extend(&mut self, other: Self) {
        self.taken.extend(other.taken);
    }

    /// Measures the overhead of timing: the statistics of steps that do nothing.
    pub fn overhead() -> Option<Statistics> {
        let mut timer = Self::default();
        for _ in 0..EMPTY_STEPS {
            let Ok(()) = timer.time("nothing", || Ok::<_, std::convert::Infallible>(()));
        }
        Statistics::of(timer.samples("nothing"))
    }
}

/// Statistics of several samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Statistics {
    /// Number of samples.
    pub samples: usize,
    /// Shortest sample, in nanoseconds.
    pub min_ns: u64,
    /// Lower quartile: a quarter of the samples are no longer.
    pub lower_quartile_ns: u64,
    /// Median: half of the samples are no longer.
    pub median_ns: u64,
    /// Upper quartile: three quarters of the samples are no longer.
    pub upper_quartile_ns: u64,
    /// 99th percentile; with fewer than 100 samples, the longest sample.
    pub percentile_99_ns: u64,
    /// Longest sample.
    pub max_ns: u64,
}

impl Statistics {
    /// Computes the statistics; returns `None` without a sample.
    pub fn of(mut samples: Vec<Duration>) -> Option<Self> {
        samples.sort_unstable();
        let nanos = |taken: &Duration| u64::try_from(taken.as_nanos()).unwrap_or(u64::MAX);
        let rank = |percent: usize| samples.get((samples.len() * percent).div_ceil(100).saturating_sub(1)).map(nanos);
        Some(Self {
            samples: samples.len(),
            min_ns: samples.first().map(nanos)?,
            lower_quartile_ns: rank(25)?,
            median_ns: rank(50)?,
            upper_quartile_ns: rank(75)?,
            percentile_99_ns: rank(99)?,
            max_ns: samples.last().map(nanos)?,
        })
    }

    /// Returns true if the two interquartile ranges overlap: then the samples show no difference.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.lower_quartile_ns <= other.upper_quartile_ns && other.lower_quartile_ns <= self.upper_quartile_ns
    }
}

/// Formats a time for people: three digits and a unit.
pub fn three_digits(ns: u64) -> String {
    let (value, unit) = match ns {
        0..1_000 => return format!("{ns} ns"),
        1_000..999_500 => (ns as f64 / 1e3, "us"),
        999_500..999_500_000 => (ns as f64 / 1e6, "ms"),
        _ => (ns as f64 / 1e9, "s"),
    };
    let places = if value < 9.995 { 2 } else { usize::from(value < 99.95) };
    format!("{value:.places$} {unit}")
}

/// Rank of one subject among several.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// Shortest median, and no other subject's samples overlap.
    Best,
    /// Shortest median, or samples that overlap with it: no difference was measured.
    Level,
    /// Slower than the best by more than the spread.
    Slower,
    /// Longest median of three or more, and no other subject's samples overlap.
    Worst,
}

/// Ranks every subject; `None` for a subject without statistics.
pub fn standings(measured: &[Option<Statistics>]) -> Vec<Option<Standing>> {
    let best = measured.iter().flatten().min_by_key(|statistics| statistics.median_ns);
    let level = |statistics: &Statistics| best.is_some_and(|best| best.overlaps(statistics));
    let alone = measured.iter().flatten().filter(|statistics| level(statistics)).count() == 1;
    let stands = |statistics: &Statistics| match (level(statistics), alone) {
        (false, _) => Standing::Slower,
        (true, false) => Standing::Level,
        (true, true) => Standing::Best,
    };
    let mut standings: Vec<_> = measured.iter().map(|statistics| statistics.as_ref().map(stands)).collect();
    if let Some(worst) = worst(measured).filter(|index| standings[*index] == Some(Standing::Slower)) {
        standings[worst] = Some(Standing::Worst);
    }
    standings
}

/// Returns the index of the slowest of three or more, or `None` if another subject's samples overlap with it.
fn worst(measured: &[Option<Statistics>]) -> Option<usize> {
    let known: Vec<_> = measured.iter().enumerate().filter_map(|(index, one)| Some((index, (*one)?))).collect();
    let (index, slowest) = known.iter().max_by_key(|(_, statistics)| statistics.median_ns)?;
    let near = known.iter().filter(|(_, statistics)| statistics.overlaps(slowest)).count();
    (known.len() > 2 && near == 1).then_some(*index)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn statistics(samples: &[u64]) -> Option<Statistics> {
        Statistics::of(samples.iter().map(|ns| Duration::from_nanos(*ns)).collect())
    }

    #[test]
    fn ranks() {
        assert_eq!(statistics(&[]), None);
        let hundred: Vec<u64> = (1..=100).rev().collect();
        for (samples, expected) in [
            (vec![7], [1, 7, 7, 7, 7, 7, 7]),
            (vec![3, 1], [2, 1, 1, 1, 3, 3, 3]),
            (vec![5, 1, 4, 2, 3], [5, 1, 2, 3, 4, 5, 5]),
            (hundred, [100, 1, 25, 50, 75, 99, 100]),
        ] {
            let s = statistics(&samples).expect("samples");
            let found = [
                s.samples as u64,
                s.min_ns,
                s.lower_quartile_ns,
                s.median_ns,
                s.upper_quartile_ns,
                s.percentile_99_ns,
                s.max_ns,
            ];
            assert_eq!(found, expected, "{samples:?}");
        }
    }

    #[test]
    fn who_cannot_be_told_apart_is_not_slower() {
        use Standing::{Best, Level, Slower, Worst};
        let (fast, near, slow) = ([10, 11, 12, 13], [12, 13, 14, 15], [50, 51, 52, 53]);
        let slowest = [90, 91, 92, 93];
        for (samples, expected) in [
            (vec![&fast[..], &slow, &[]], vec![Some(Best), Some(Slower), None]),
            (vec![&slow, &near, &fast], vec![Some(Worst), Some(Level), Some(Level)]),
            (vec![&slow, &fast, &slowest], vec![Some(Slower), Some(Best), Some(Worst)]),
            (vec![&slow, &fast, &slow], vec![Some(Slower), Some(Best), Some(Slower)]),
            (vec![&[]], vec![None]),
        ] {
            let measured: Vec<_> = samples.iter().map(|samples| statistics(samples)).collect();
            assert_eq!(standings(&measured), expected, "{samples:?}");
        }
    }

    #[test]
    fn times_have_three_digits() {
        for (ns, text) in [
            (0, "0 ns"),
            (999, "999 ns"),
            (1_000, "1.00 us"),
            (9_994, "9.99 us"),
            (9_996, "10.0 us"),
            (999_499, "999 us"),
            (999_500, "1.00 ms"),
            (123_456_789, "123 ms"),
            (2_345_678_901, "2.35 s"),
            (100_000_000_000, "100 s"),
        ] {
            assert_eq!(three_digits(ns), text, "{ns}");
        }
    }

    #[test]
    fn failures_are_no_samples() {
        let mut timer = Timer::default();
        assert_eq!(timer.time("a", || Err::<(), _>("no")), Err("no"));
        assert_eq!(timer.time("a", || Ok::<_, ()>(1)), Ok(1));
        timer.record("b", Duration::from_secs(2));
        assert_eq!((timer.samples("a").len(), timer.samples("b")), (1, vec![Duration::from_secs(2)]));
        assert!(timer.total() >= Duration::from_secs(2));
    }
}
