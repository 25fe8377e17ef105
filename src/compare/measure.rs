//! Taking times, and what can be said of several.

use std::time::{Duration, Instant};

use serde::Serialize;

use super::cost::{Cost, Place, Scale};

/// How many empty steps tell what timing itself costs.
const EMPTY_STEPS: usize = 1000;

/// The steps of workloads with the time that each took.
#[derive(Clone, Debug, Default)]
pub struct Timer {
    taken: Vec<(&'static str, Duration)>,
    scale: Option<Scale>,
}

impl Timer {
    /// One that also takes down what the workload takes on the file system of `place`: its times do not count, for
    /// that waits for the disk.
    pub fn weighing(place: Place) -> Self {
        Self { taken: Vec::new(), scale: Some(Scale::new(place)) }
    }

    /// Says that the work begins here.
    ///
    /// # Errors
    /// What reading the state of the file system reports.
    pub fn tare(&mut self) -> crate::Result<()> {
        self.scale.as_mut().map_or(Ok(()), Scale::tare)
    }

    /// Says that the work is done, and what it made is still there.
    ///
    /// # Errors
    /// What reading the state of the file system reports.
    pub fn weigh(&mut self) -> crate::Result<()> {
        self.scale.as_mut().map_or(Ok(()), Scale::weigh)
    }

    /// What the work took between the two.
    pub fn cost(&self) -> Option<Cost> {
        self.scale.as_ref().map(Scale::cost)
    }

    /// Does `work`, which is one sample of `step`. A failure is none.
    pub fn time<T, E>(&mut self, step: &'static str, work: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        let started = Instant::now();
        let answer = work();
        let taken = started.elapsed();
        if answer.is_ok() {
            self.taken.push((step, taken));
        }
        answer
    }

    /// The samples of `step`, in the order in which they were taken.
    pub fn samples(&self, step: &str) -> Vec<Duration> {
        self.taken.iter().filter(|(name, _)| *name == step).map(|(_, taken)| *taken).collect()
    }

    /// The time of all steps together.
    pub fn total(&self) -> Duration {
        self.taken.iter().map(|(_, taken)| *taken).sum()
    }

    /// Adds a sample that was put together from others.
    pub fn record(&mut self, step: &'static str, taken: Duration) {
        self.taken.push((step, taken));
    }

    /// Adds the samples of another timer.
    pub fn extend(&mut self, other: Self) {
        self.taken.extend(other.taken);
    }

    /// What timing costs: the statistics of steps that do nothing.
    pub fn overhead() -> Option<Statistics> {
        let mut timer = Self::default();
        for _ in 0..EMPTY_STEPS {
            let Ok(()) = timer.time("nothing", || Ok::<_, std::convert::Infallible>(()));
        }
        Statistics::of(timer.samples("nothing"))
    }
}

/// What can be said of several samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Statistics {
    /// How many there are.
    pub samples: usize,
    /// The shortest, in nanoseconds.
    pub min_ns: u64,
    /// A quarter of the samples are at most so long.
    pub lower_quartile_ns: u64,
    /// Half of the samples are at most so long.
    pub median_ns: u64,
    /// Three quarters of the samples are at most so long.
    pub upper_quartile_ns: u64,
    /// 99 of 100 samples are at most so long; the longest where there are fewer than 100.
    pub percentile_99_ns: u64,
    /// The longest.
    pub max_ns: u64,
}

impl Statistics {
    /// `None` without a sample.
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

    /// Whether half of the samples of one lie where half of the other's do: then the two cannot be told apart.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.lower_quartile_ns <= other.upper_quartile_ns && other.lower_quartile_ns <= self.upper_quartile_ns
    }
}

/// A time for people: three digits and a unit.
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

/// How one stands among several.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// The shortest median, and nobody near it.
    Best,
    /// The shortest median, or one whose samples overlap with it: no difference was measured.
    Level,
    /// Slower, by more than the spread.
    Slower,
    /// The longest median of three or more, and nobody near it.
    Worst,
}

/// How each stands; `None` for who was not measured.
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

/// The slowest of three or more, unless another cannot be told apart from it.
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
