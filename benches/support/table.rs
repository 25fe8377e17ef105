//! The table printed at the end: an operation, what it is compared with, and whether the target was met.

use std::fmt;
use std::time::Duration;

use strata::compare::measure::{Statistics, three_digits as time};

/// The rows so far.
#[derive(Default)]
pub struct Table {
    rows: Vec<[String; 6]>,
}

/// Statistic that is compared.
#[derive(Clone, Copy)]
pub enum Rank {
    Median,
    Percentile99,
}

impl Rank {
    fn of(self, statistics: &Statistics) -> u64 {
        match self {
            Self::Median => statistics.median_ns,
            Self::Percentile99 => statistics.percentile_99_ns,
        }
    }
}

impl Table {
    /// Adds `operation` with a target of at most `most` times the time of `against`.
    pub fn ratio(&mut self, operation: &str, ours: &[Duration], against: &str, theirs: &[Duration], most: f64) {
        self.ratio_of(Rank::Median, operation, ours, against, theirs, most);
    }

    /// Adds a ratio like [`Self::ratio`], comparing by `rank`.
    pub fn ratio_of(
        &mut self,
        rank: Rank,
        operation: &str,
        ours: &[Duration],
        against: &str,
        theirs: &[Duration],
        most: f64,
    ) {
        let (Some(ours), Some(theirs)) = (Statistics::of(ours.to_vec()), Statistics::of(theirs.to_vec())) else {
            return self.skip(operation, "no sample was taken");
        };
        let ratio = rank.of(&ours) as f64 / rank.of(&theirs).max(1) as f64;
        self.add(operation, shown(rank, &ours), format!("{against}: {}", shown(rank, &theirs)), ratio, most);
    }

    /// Adds `operation` with a target of at most `most`.
    pub fn limit(&mut self, operation: &str, ours: &[Duration], beside: &str, most: Duration) {
        let Some(ours) = Statistics::of(ours.to_vec()) else { return self.skip(operation, "no sample was taken") };
        let verdict = if ours.median_ns <= most.as_nanos() as u64 { "met" } else { "MISSED" };
        let target = format!("<= {}", time(most.as_nanos() as u64));
        let cells = [operation, &shown(Rank::Median, &ours), beside, "", &target, verdict];
        self.push(cells);
    }

    /// Adds the size in bytes of the result of `operation`, with the size of the result of `against` as the target.
    pub fn sizes(&mut self, operation: &str, ours: u64, against: &str, theirs: u64) {
        let ratio = ours as f64 / theirs.max(1) as f64;
        self.add(operation, format!("{ours} bytes"), format!("{against}: {theirs} bytes"), ratio, 1.0);
    }

    /// Adds the reason why `operation` was not measured.
    pub fn skip(&mut self, operation: &str, why: &str) {
        self.push([operation, "-", why, "", "", "not measured"]);
    }

    fn add(&mut self, operation: &str, ours: String, theirs: String, ratio: f64, most: f64) {
        let verdict = if ratio <= most { "met" } else { "MISSED" };
        let cells = [operation, &ours, &theirs, &format!("{ratio:.2}"), &format!("<= {most:.2}"), verdict];
        self.push(cells);
    }

    /// Prints the row at once, so that a run that is ended early shows its results so far.
    fn push(&mut self, cells: [&str; 6]) {
        eprintln!("{}", cells.join(" | "));
        self.rows.push(cells.map(str::to_owned));
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = comfy_table::Table::new();
        table.load_style(comfy_table::presets::NOTHING).set_header([
            "OPERATION",
            "STRATA: MEDIAN (QUARTILES)",
            "AGAINST",
            "RATIO",
            "TARGET",
            "",
        ]);
        for row in &self.rows {
            table.add_row(row);
        }
        writeln!(f, "{}", table.trim_fmt())
    }
}

fn shown(rank: Rank, statistics: &Statistics) -> String {
    let Statistics { samples, lower_quartile_ns, upper_quartile_ns, max_ns, .. } = statistics;
    match rank {
        Rank::Median => format!(
            "{} ({} to {}), n={samples}",
            time(statistics.median_ns),
            time(*lower_quartile_ns),
            time(*upper_quartile_ns)
        ),
        Rank::Percentile99 => format!("p99 {}, max {}, n={samples}", time(statistics.percentile_99_ns), time(*max_ns)),
    }
}
