//! Translation of user and group ids between a user namespace and the machine.
//!
//! # References
//! `user_namespaces(7)`; containerd, `core/snapshots`, `LabelSnapshotUIDMapping`.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};

/// Maximum number of ranges of one kind of id, as the kernel has it.
const RANGES_MAX: usize = 340;

/// A range of ids that a user namespace translates one to one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct IdRange {
    /// First id within the user namespace.
    inside: u32,
    /// First id on the machine.
    outside: u32,
    /// Number of ids.
    count: u32,
}

/// Ranges of one kind of id; no two of them overlap, on either side.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Ranges(Vec<IdRange>);

/// The user and group ids of a user namespace, and those that stand for them on the machine.
///
/// Id 0 of both kinds is mapped. [`fmt::Display`] and [`FromStr`] use the text `UIDS/GIDS`, in which each side is a
/// list as in containerd's labels: `inside:outside:count`, joined by commas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdMap {
    uids: Ranges,
    gids: Ranges,
}

impl IdMap {
    /// Parses one list for each kind of id: `inside:outside:count[,...]`.
    ///
    /// # Errors
    /// `InvalidArgument` for a list that is empty, has ranges that overlap or are empty, or does not map id 0.
    pub fn parse(uids: &str, gids: &str) -> Result<Self> {
        let list = |kind: &str, text: &str| {
            Ranges::parse(text).map_err(|why| Error::invalid(format!("the {kind} mapping {text:?} {why}")))
        };
        Ok(Self { uids: list("uid", uids)?, gids: list("gid", gids)? })
    }

    /// Returns the map in the other direction: files with the machine's ids are shown with those of the user namespace.
    #[must_use]
    pub fn inverse(&self) -> Self {
        Self { uids: self.uids.inverse(), gids: self.gids.inverse() }
    }

    /// Returns the uid on the machine that stands for `uid`.
    pub fn outside_uid(&self, uid: u32) -> Option<u32> {
        self.uids.outside(uid)
    }

    /// Returns the gid on the machine that stands for `gid`.
    pub fn outside_gid(&self, gid: u32) -> Option<u32> {
        self.gids.outside(gid)
    }

    /// Returns the pseudo options by which containerd is told to make an idmapped mount.
    pub fn options(&self) -> [String; 2] {
        [format!("uidmap={}", self.uids), format!("gidmap={}", self.gids)]
    }

    /// Returns the content of `/proc/PID/uid_map` and `/proc/PID/gid_map`.
    pub(super) fn proc_files(&self) -> [String; 2] {
        [&self.uids, &self.gids].map(|ranges| {
            let line = |range: &IdRange| format!("{} {} {}\n", range.inside, range.outside, range.count);
            ranges.0.iter().map(line).collect()
        })
    }
}

impl Ranges {
    fn parse(text: &str) -> Result<Self, &'static str> {
        let ranges: Vec<IdRange> = text.split(',').map(IdRange::parse).collect::<Result<_, _>>()?;
        let is_disjoint = |first: fn(&IdRange) -> u32| {
            let mut sides: Vec<(u32, u32)> = ranges.iter().map(|range| (first(range), range.count)).collect();
            sides.sort_unstable();
            sides.is_sorted_by(|one, next| u64::from(one.0) + u64::from(one.1) <= u64::from(next.0))
        };
        if ranges.len() > RANGES_MAX {
            return Err("has more than the 340 ranges that the kernel takes");
        }
        if !is_disjoint(|range| range.inside) || !is_disjoint(|range| range.outside) {
            return Err("has ranges that overlap");
        }
        let ranges = Self(ranges);
        if ranges.outside(0).is_none() { Err("does not map id 0") } else { Ok(ranges) }
    }

    fn outside(&self, id: u32) -> Option<u32> {
        self.0.iter().find_map(|range| {
            let offset = id.checked_sub(range.inside)?;
            (offset < range.count).then(|| range.outside + offset)
        })
    }

    fn inverse(&self) -> Self {
        let turned = |range: &IdRange| IdRange { inside: range.outside, outside: range.inside, count: range.count };
        Self(self.0.iter().map(turned).collect())
    }
}

impl IdRange {
    fn parse(text: &str) -> Result<Self, &'static str> {
        const WRONG: &str = "is not a list of inside:outside:count";
        // `parse` alone would accept a sign.
        let number = |part: &str| match part.bytes().all(|byte| byte.is_ascii_digit()) {
            true => part.parse::<u32>().map_err(|_| WRONG),
            false => Err(WRONG),
        };
        let parts: Vec<&str> = text.split(':').collect();
        let [inside, outside, count] = parts[..] else { return Err(WRONG) };
        let range = Self { inside: number(inside)?, outside: number(outside)?, count: number(count)? };
        match range.count {
            0 => Err("has a range of no ids"),
            // The last id, 4,294,967,295, means "no id" to the kernel.
            count if range.inside.max(range.outside).checked_add(count).is_none() => Err("goes beyond the last id"),
            _ => Ok(range),
        }
    }
}

impl fmt::Display for Ranges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, IdRange { inside, outside, count }) in self.0.iter().enumerate() {
            let comma = if number == 0 { "" } else { "," };
            write!(f, "{comma}{inside}:{outside}:{count}")?;
        }
        Ok(())
    }
}

impl fmt::Display for IdMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.uids, self.gids)
    }
}

impl FromStr for IdMap {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (uids, gids) = text.split_once('/').unwrap_or((text, ""));
        Self::parse(uids, gids)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn good_lists() {
        let map = IdMap::parse("0:100000:65536", "0:200000:10,10:5:1,4294967294:9:1").expect("a map");
        assert_eq!(map.to_string().parse::<IdMap>().expect("its text"), map);
        assert_eq!([0, 65535, 65536].map(|id| map.outside_uid(id)), [Some(100_000), Some(165_535), None]);
        assert_eq!([9, 10, 11].map(|id| map.outside_gid(id)), [Some(200_009), Some(5), None]);
        assert_eq!(map.inverse().outside_uid(100_001), Some(1));
        assert_eq!(map.inverse().inverse(), map);
        assert_eq!(map.options(), ["uidmap=0:100000:65536", "gidmap=0:200000:10,10:5:1,4294967294:9:1"]);
        assert_eq!(map.proc_files()[0], "0 100000 65536\n");
    }

    #[test]
    fn bad_lists() {
        for (list, why) in [
            ("", "inside:outside:count"),
            ("0:1", "inside:outside:count"),
            ("0:1:2:3", "inside:outside:count"),
            ("0:1:-1", "inside:outside:count"),
            ("0:+1:1", "inside:outside:count"),
            ("0:1:x", "inside:outside:count"),
            ("0:1:1,", "inside:outside:count"),
            ("0:4294967296:1", "inside:outside:count"),
            ("0:1:0", "no ids"),
            ("0:4294967295:1", "beyond"),
            ("0:1:4294967295", "beyond"),
            ("1:100000:65536", "id 0"),
            ("0:100:10,5:200:10", "overlap"),
            ("0:100:10,10:105:10", "overlap"),
        ] {
            for error in [IdMap::parse(list, "0:1:1"), IdMap::parse("0:1:1", list)].map(|map| map.expect_err(list)) {
                assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{list}");
                assert!(error.to_string().contains(why), "{list}: {error}");
            }
        }
        let many: Vec<String> = (0..341).map(|id| format!("{id}:{id}:1")).collect();
        assert!(IdMap::parse(&many.join(","), "0:1:1").is_err());
        assert!(IdMap::parse(&many[..340].join(","), "0:1:1").is_ok());
    }
}
