//! `--limit`: bounds for layers and Dockerfiles, as users write them.

use std::str::FromStr;

use crate::build;
use crate::door::IngestOptions;
use crate::error::{Error, Result};
use crate::task::Cancel;

/// The limits that a layer of good faith can reach.
#[derive(Debug, clap::Args)]
pub(super) struct LayerLimits {
    /// Let a layer have more, or less: entries=NUMBER (4194304 otherwise), bytes=NUMBER when decompressed (1T),
    /// ratio=NUMBER of these to compressed ones (250, from the first gigabyte on); and an image: layers=NUMBER (128);
    /// K, M, G and T stand for powers of 1024
    #[arg(long = "limit", value_name = "WHAT=NUMBER")]
    given: Vec<Limit>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Limit {
    Layers(u64),
    Entries(u64),
    Bytes(u64),
    Ratio(u64),
}

impl FromStr for Limit {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (what, number) = text.split_once('=').unwrap_or((text, ""));
        let limit = match what {
            "layers" => Self::Layers,
            "entries" => Self::Entries,
            "bytes" => Self::Bytes,
            "ratio" => Self::Ratio,
            other => return Err(Error::invalid(format!("{other:?} is no limit: layers, entries, bytes, ratio"))),
        };
        scaled(number).map(limit).ok_or_else(|| Error::invalid(format!("{number:?} is no number of {what}")))
    }
}

/// The limits that a Dockerfile of good faith can reach.
#[derive(Debug, clap::Args)]
pub(super) struct BuildLimits {
    /// Let a build have more, or less: instructions=NUMBER (10000 otherwise), stages=NUMBER (1000), expanded=NUMBER of
    /// bytes of texts with their variables replaced (64M), patterns=NUMBER in .dockerignore (10000); of an archive that
    /// ADD unpacks: entries=NUMBER, bytes=NUMBER, ratio=NUMBER, as for strata import; K, M, G and T stand for powers of
    /// 1024
    #[arg(long = "limit", value_name = "WHAT=NUMBER", value_parser = build_limit)]
    given: Vec<BuildLimit>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BuildLimit {
    Instructions(usize),
    Stages(usize),
    Expanded(usize),
    Patterns(usize),
    Archive(Limit),
}

fn build_limit(text: &str) -> Result<BuildLimit> {
    let (what, number) = text.split_once('=').unwrap_or((text, ""));
    let limit = match what {
        "instructions" => BuildLimit::Instructions,
        "stages" => BuildLimit::Stages,
        "expanded" => BuildLimit::Expanded,
        "patterns" => BuildLimit::Patterns,
        "entries" | "bytes" | "ratio" => return text.parse().map(BuildLimit::Archive),
        other => {
            let known = "instructions, stages, expanded, patterns, entries, bytes, ratio";
            return Err(Error::invalid(format!("{other:?} is no limit: {known}")));
        }
    };
    let number = scaled(number).and_then(|number| usize::try_from(number).ok());
    number.map(limit).ok_or_else(|| Error::invalid(format!("{text:?} has no number")))
}

impl BuildLimits {
    /// The bounds for a Dockerfile and an ignore file.
    pub(super) fn limits(&self) -> build::Limits {
        self.given.iter().fold(build::Limits::default(), |limits, limit| match *limit {
            BuildLimit::Instructions(instructions) => build::Limits { instructions, ..limits },
            BuildLimit::Stages(stages) => build::Limits { stages, ..limits },
            BuildLimit::Expanded(expanded_bytes) => build::Limits { expanded_bytes, ..limits },
            BuildLimit::Patterns(patterns) => build::Limits { patterns, ..limits },
            BuildLimit::Archive(_) => limits,
        })
    }

    /// Returns the options of archives that `ADD` unpacks, for a build that `cancel` stops.
    pub(super) fn ingest(&self, cancel: &Cancel) -> IngestOptions {
        let archive = |limit: &BuildLimit| match limit {
            BuildLimit::Archive(limit) => Some(*limit),
            _ => None,
        };
        LayerLimits { given: self.given.iter().filter_map(archive).collect() }.options(cancel)
    }
}

/// A number with an optional K, M, G or T.
fn scaled(text: &str) -> Option<u64> {
    let power = text.chars().last().and_then(|last| "KMGT".find(last));
    let digits = power.map_or(text, |_| &text[..text.len() - 1]);
    let factor = 1024_u64.pow(power.map_or(0, |power| power as u32 + 1));
    digits.parse::<u64>().ok()?.checked_mul(factor)
}

impl LayerLimits {
    /// Returns the options of an ingest that `cancel` stops.
    pub(super) fn options(&self, cancel: &Cancel) -> IngestOptions {
        let mut options = IngestOptions { cancel: cancel.clone(), ..IngestOptions::default() };
        self.given.iter().for_each(|limit| limit.set(&mut options));
        options
    }
}

impl Limit {
    fn set(self, options: &mut IngestOptions) {
        match self {
            Self::Layers(layers) => options.limits.layers = usize::try_from(layers).unwrap_or(usize::MAX),
            Self::Entries(entries) => options.limits.entries = entries,
            Self::Bytes(bytes) => {
                options.limits.total_bytes = bytes;
                options.expansion.bytes = bytes;
            }
            Self::Ratio(ratio) => options.expansion.ratio = ratio,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::changeset::blob::{DECOMPRESSED_BYTES_MAX, Expansion, RATIO_MAX};
    use crate::changeset::tar::{ENTRIES_MAX, Limits, TOTAL_BYTES_MAX};

    #[test]
    fn what_users_say() {
        for (text, expected) in [
            ("entries=10", Some(Limit::Entries(10))),
            ("layers=400", Some(Limit::Layers(400))),
            ("bytes=2T", Some(Limit::Bytes(2 << 40))),
            ("ratio=1K", Some(Limit::Ratio(1024))),
            ("bytes=16777216T", None),
            ("bytes=", None),
            ("bytes=T", None),
            ("bytes", None),
            ("bytes=-1", None),
            ("bytes=1.5G", None),
            ("depth=9", None),
        ] {
            assert_eq!(text.parse::<Limit>().ok(), expected, "{text}");
        }
    }

    #[test]
    fn the_last_one_counts() {
        let given = ["bytes=1", "ratio=7", "bytes=2"].map(|text| text.parse().expect(text)).to_vec();
        let options = LayerLimits { given }.options(&Cancel::default());
        assert_eq!(options.limits, Limits { total_bytes: 2, ..Limits::default() });
        assert_eq!(options.expansion, Expansion { bytes: 2, ratio: 7, ..Expansion::default() });
    }

    #[test]
    fn limits_of_builds() {
        let given = ["instructions=1", "stages=2", "expanded=1K", "patterns=4", "stages=3", "bytes=5", "ratio=6"];
        let given = BuildLimits { given: given.map(|text| build_limit(text).expect(text)).to_vec() };
        let (limits, ingest) = (given.limits(), given.ingest(&Cancel::default()));
        assert_eq!((ingest.limits.total_bytes, ingest.expansion.bytes, ingest.expansion.ratio), (5, 5, 6));
        let expected = build::Limits { instructions: 1, stages: 3, expanded_bytes: 1024, patterns: 4 };
        assert_eq!(limits, expected);
        assert!(["layers=1", "stages", "stages=x", "bytes=x"].iter().all(|text| build_limit(text).is_err()));
        let usual = build::Limits { instructions: 10_000, stages: 1000, expanded_bytes: 64 << 20, patterns: 10_000 };
        assert_eq!(build::Limits::default(), usual, "the help says these");
    }

    /// The help says them.
    #[test]
    fn the_usual_ones() {
        assert_eq!(
            (ENTRIES_MAX, TOTAL_BYTES_MAX, DECOMPRESSED_BYTES_MAX, RATIO_MAX),
            (4_194_304, 1 << 40, 1 << 40, 250)
        );
    }
}
