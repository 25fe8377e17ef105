//! `--limit`: bounds for layers and Dockerfiles, as users write them.

use std::str::FromStr;

use crate::build;
use crate::changeset::blob::Expansion;
use crate::changeset::tar::Limits;
use crate::error::{Error, Result};

/// The limits that a layer of good faith can reach.
#[derive(Debug, clap::Args)]
pub(super) struct LayerLimits {
    /// Let a layer have more, or less: entries=NUMBER (4194304 otherwise), bytes=NUMBER when decompressed (1T),
    /// ratio=NUMBER of these to compressed ones (250, from the first gigabyte on); K, M, G and T stand for powers of
    /// 1024
    #[arg(long = "limit", value_name = "WHAT=NUMBER")]
    given: Vec<Limit>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Limit {
    Entries(u64),
    Bytes(u64),
    Ratio(u64),
}

impl FromStr for Limit {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (what, number) = text.split_once('=').unwrap_or((text, ""));
        let limit = match what {
            "entries" => Self::Entries,
            "bytes" => Self::Bytes,
            "ratio" => Self::Ratio,
            other => return Err(Error::invalid(format!("{other:?} is no limit: entries, bytes, ratio"))),
        };
        scaled(number).map(limit).ok_or_else(|| Error::invalid(format!("{number:?} is no number of {what}")))
    }
}

/// The limits that a Dockerfile of good faith can reach.
#[derive(Debug, clap::Args)]
pub(super) struct BuildLimits {
    /// Let a build have more, or less: instructions=NUMBER (10000 otherwise), stages=NUMBER (1000), expanded=NUMBER of
    /// bytes of texts with their variables replaced (64M), patterns=NUMBER in .dockerignore (10000); K, M, G and T
    /// stand for powers of 1024
    #[arg(long = "limit", value_name = "WHAT=NUMBER", value_parser = build_limit)]
    given: Vec<(BuildLimit, usize)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BuildLimit {
    Instructions,
    Stages,
    Expanded,
    Patterns,
}

fn build_limit(text: &str) -> Result<(BuildLimit, usize)> {
    let (what, number) = text.split_once('=').unwrap_or((text, ""));
    let limit = match what {
        "instructions" => BuildLimit::Instructions,
        "stages" => BuildLimit::Stages,
        "expanded" => BuildLimit::Expanded,
        "patterns" => BuildLimit::Patterns,
        other => {
            return Err(Error::invalid(format!("{other:?} is no limit: instructions, stages, expanded, patterns")));
        }
    };
    let number = scaled(number).and_then(|number| usize::try_from(number).ok());
    number.map(|number| (limit, number)).ok_or_else(|| Error::invalid(format!("{text:?} has no number")))
}

impl BuildLimits {
    /// The bounds for a Dockerfile and an ignore file.
    pub(super) fn limits(&self) -> build::Limits {
        self.given.iter().fold(build::Limits::default(), |limits, (limit, number)| match limit {
            BuildLimit::Instructions => build::Limits { instructions: *number, ..limits },
            BuildLimit::Stages => build::Limits { stages: *number, ..limits },
            BuildLimit::Expanded => build::Limits { expanded_bytes: *number, ..limits },
            BuildLimit::Patterns => build::Limits { patterns: *number, ..limits },
        })
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
    /// The bounds for an archive.
    pub(super) fn limits(&self) -> Limits {
        self.given.iter().fold(Limits::default(), |limits, given| match *given {
            Limit::Entries(entries) => Limits { entries, ..limits },
            Limit::Bytes(total_bytes) => Limits { total_bytes, ..limits },
            Limit::Ratio(_) => limits,
        })
    }

    /// How much the blob may grow.
    pub(super) fn expansion(&self) -> Expansion {
        self.given.iter().fold(Expansion::default(), |expansion, given| match *given {
            Limit::Entries(_) => expansion,
            Limit::Bytes(bytes) => Expansion { bytes, ..expansion },
            Limit::Ratio(ratio) => Expansion { ratio, ..expansion },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::changeset::blob::{DECOMPRESSED_BYTES_MAX, RATIO_MAX};
    use crate::changeset::tar::{ENTRIES_MAX, TOTAL_BYTES_MAX};

    #[test]
    fn what_users_say() {
        for (text, expected) in [
            ("entries=10", Some(Limit::Entries(10))),
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
        let limits = LayerLimits { given };
        assert_eq!(limits.limits(), Limits { total_bytes: 2, ..Limits::default() });
        assert_eq!(limits.expansion(), Expansion { bytes: 2, ratio: 7, ..Expansion::default() });
    }

    #[test]
    fn limits_of_builds() {
        let given = ["instructions=1", "stages=2", "expanded=1K", "patterns=4", "stages=3"];
        let limits = BuildLimits { given: given.map(|text| build_limit(text).expect(text)).to_vec() }.limits();
        let expected = build::Limits { instructions: 1, stages: 3, expanded_bytes: 1024, patterns: 4 };
        assert_eq!(limits, expected);
        assert!(["layers=1", "stages", "stages=x"].iter().all(|text| build_limit(text).is_err()));
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
