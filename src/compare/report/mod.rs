//! The results of a run as a value, and the forms in which it is written.
//!
//! Every form contains the same: the machine, conclusions in plain words, each row, and the subjects that could not be
//! measured with the reason.

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
use crate::size::size;

/// All results of a run.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Machine that the run was made on.
    pub machine: Machine,
    /// The image that was used.
    pub image: ImageFigures,
    /// Amount of work.
    pub sizes: Sizes,
    /// Maximum number of counted rounds.
    pub samples: u64,
    /// Description of the devices that hold the file systems.
    pub file_systems: String,
    /// Mount options of the file systems.
    pub mounts: Vec<MountOptions>,
    /// Other programs that were measured, with their versions.
    pub peers: Vec<String>,
    /// Point at which an operation counts as done.
    pub durability: &'static str,
    /// State of the caches.
    pub caches: &'static str,
    /// Median overhead of taking a time, in nanoseconds.
    pub overhead_ns: u64,
    /// Duration of the run, in milliseconds.
    pub took_ms: u64,
    /// True if the run was ended early.
    pub interrupted: bool,
    /// Conclusions from the figures, in plain words.
    pub summary: Vec<String>,
    /// Results by workload.
    pub workloads: Vec<Measured>,
    /// Subjects that could not be measured.
    pub not_measured: Vec<NotMeasured>,
}

/// Figures of the image.
#[derive(Clone, Debug, Serialize)]
pub struct ImageFigures {
    /// Source of the image.
    pub source: String,
    /// Number of regular files.
    pub files: u64,
    /// Number of names, including directories.
    pub inodes: u64,
    /// Sum of the file sizes.
    pub size_bytes: u64,
    /// Seed of generated content.
    pub seed: u64,
}

/// Mount options of a file system.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MountOptions {
    /// Type of the file system.
    pub fs: String,
    /// Options as the kernel shows them.
    pub options: String,
}

/// A subject that could not be measured on this machine.
#[derive(Clone, Debug, Serialize)]
pub struct NotMeasured {
    /// Name of the subject.
    pub subject: String,
    /// The reason.
    pub reason: String,
}

impl Report {
    /// Computes the summary again from the current figures.
    pub fn conclude(&mut self) {
        self.summary = summary::sentences(&self.workloads);
    }

    /// Returns the conditions of the run as names and values.
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
        let ImageFigures { source, files, inodes, size_bytes, seed } = &self.image;
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

/// Returns the remark beside a row: the rank as a word, so that no colour is needed, and what the subject lacks.
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

/// Formats a ratio with a sensible number of digits.
pub fn times(ratio: f64) -> String {
    let places = usize::from(ratio < 99.95);
    format!("{ratio:.places$}x")
}

#[cfg(test)]
pub(super) mod tests;
