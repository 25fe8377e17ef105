//! What a run found, as a value, and the forms in which it is written.
//!
//! Every form says the same: on what it was measured, what follows from the figures in plain words, each row, and what
//! could not be measured and why.

mod csv;
mod html;
mod markdown;
mod summary;

pub use csv::csv;
pub use html::html;
pub use markdown::markdown;

use serde::Serialize;

use super::machine::Machine;
use super::measure::{Standing, three_digits};
use super::workload::Sizes;
use super::{Measured, Role, Row};

/// All that is known of a run.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// What it was made on.
    pub machine: Machine,
    /// What was unpacked.
    pub image: Described,
    /// How much there was to do.
    pub sizes: Sizes,
    /// The most rounds that were to count.
    pub samples: u64,
    /// What the file systems lie on.
    pub file_systems: String,
    /// The options that they were mounted with.
    pub mounts: Vec<MountOptions>,
    /// The programs beside strata, with their versions.
    pub peers: Vec<String>,
    /// When an operation is called done.
    pub durability: &'static str,
    /// What is in the caches.
    pub caches: &'static str,
    /// What taking a time costs, in the median, in nanoseconds.
    pub overhead_ns: u64,
    /// How long the run took, in milliseconds.
    pub took_ms: u64,
    /// Whether it was ended early.
    pub interrupted: bool,
    /// What follows from the figures, in plain words.
    pub summary: Vec<String>,
    /// The figures.
    pub workloads: Vec<Measured>,
    /// What could not be measured.
    pub not_measured: Vec<NotMeasured>,
}

/// The image, in figures.
#[derive(Clone, Debug, Serialize)]
pub struct Described {
    /// Where it is from.
    pub source: String,
    /// Regular files.
    pub files: u64,
    /// Names, directories included.
    pub inodes: u64,
    /// The bytes of the files.
    pub size_bytes: u64,
    /// What was made up follows from it.
    pub seed: u64,
}

/// How a file system was mounted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MountOptions {
    /// Its type.
    pub fs: String,
    /// The options, as the kernel shows them.
    pub options: String,
}

/// What the machine cannot do.
#[derive(Clone, Debug, Serialize)]
pub struct NotMeasured {
    /// Who was to be measured.
    pub subject: String,
    /// Why not.
    pub reason: String,
}

impl Report {
    /// Draws its conclusions anew from the figures that it has.
    pub fn conclude(&mut self) {
        self.summary = summary::sentences(&self.workloads);
    }

    /// What it was measured on: names and values.
    pub fn conditions(&self) -> Vec<(&'static str, String)> {
        let machine = &self.machine;
        let mut conditions = vec![
            ("strata", machine.strata.to_owned()),
            ("kernel", format!("Linux {}", machine.kernel)),
            ("processor", format!("{} cores of {}", machine.cores, machine.cpu.as_deref().unwrap_or("unknown make"))),
            ("memory", machine.memory_bytes.map_or_else(|| "unknown".to_owned(), size)),
            ("file systems", self.file_systems.clone()),
        ];
        conditions
            .extend(self.mounts.iter().map(|mount| ("mount options", format!("{}: {}", mount.fs, mount.options))));
        conditions.extend(self.peers.iter().map(|peer| ("peer", peer.clone())));
        let Described { source, files, inodes, size_bytes, seed } = &self.image;
        conditions.extend([
            ("image", format!("{source}: {files} files, {inodes} names, {}", size(*size_bytes))),
            ("seed", seed.to_string()),
            ("work", self.work()),
            ("rounds", format!("up to {}, interleaved, after one that does not count", self.samples)),
            ("durability", self.durability.to_owned()),
            ("caches", self.caches.to_owned()),
            ("taking a time", format!("costs {}", three_digits(self.overhead_ns))),
            ("the run", format!("took {}", three_digits(self.took_ms.saturating_mul(1_000_000)))),
        ]);
        if self.interrupted {
            conditions.push(("interrupted", "what was measured by then is shown".to_owned()));
        }
        conditions
    }

    fn work(&self) -> String {
        let Sizes { new_files, containers, large_bytes, small_files, transactions } = self.sizes;
        format!(
            "{containers} containers are started, {new_files} new files committed, a file of {} copied up, {small_files} \
             small files written, {transactions} transactions made",
            size(large_bytes)
        )
    }
}

/// What is said beside a row: its mark as a word, so that no colour is needed, and what its contestant lacks.
pub fn mark(row: &Row) -> String {
    let mark = match row.figures.and_then(|figures| figures.standing) {
        Some(Standing::Best) => "best",
        Some(Standing::Level) => "no difference measured",
        Some(Standing::Worst) => "worst",
        None if row.label.role == Role::Floor && row.figures.is_some() => "floor",
        Some(Standing::Slower) | None => "",
    };
    let said = [mark, &row.label.lacks];
    said.into_iter().filter(|said| !said.is_empty()).collect::<Vec<_>>().join("; ")
}

/// A number of bytes for people: three digits and a binary unit.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64;
    let mut unit = 0;
    // What would be printed as 1024 is 1.00 of the next unit.
    while value >= 1023.5 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let places = match value {
        value if value < 9.995 => 2,
        value if value < 99.95 => 1,
        _ => 0,
    };
    format!("{value:.places$} {}", UNITS[unit])
}

/// A difference in bytes for people.
pub fn size_change(bytes: i64) -> String {
    let sign = if bytes < 0 { "-" } else { "" };
    format!("{sign}{}", size(bytes.unsigned_abs()))
}

/// How many times as much, with as many digits as mean something.
pub fn times(ratio: f64) -> String {
    let places = usize::from(ratio < 99.95);
    format!("{ratio:.places$}x")
}

#[cfg(test)]
pub(super) mod tests;
