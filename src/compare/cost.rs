//! What a workload takes besides time: space, inodes, writes and flushes of the disk, memory.
//!
//! Space is what the file system says is in use once all is written, so shared blocks count once and its own structures
//! count too. What a disk was asked for is counted by the kernel for the block device. Both are those of the whole file
//! system, so they mean something only where nobody else uses it: a [`Place`] says so by naming its disk.
//!
//! System calls are not counted: that takes a tracer, which would slow down what is measured. A flush is what an
//! `fsync` comes to where the file system does not already know that all is on the disk.
//!
//! # References
//! `statfs(2)`; kernel document `block/stat.rst`; `proc_pid_status(5)`, `proc_pid_clear_refs(5)`.

use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use serde::Serialize;

use crate::error::{Context, Result};

/// The unit of the kernel's statistics, whatever the sectors of the disk are.
const SECTOR_BYTES: u64 = 512;

/// Where in the statistics of a block device the written sectors and the flushes stand.
const WRITTEN_FIELD: usize = 6;
const FLUSHES_FIELD: usize = 15;

/// Resets the peak of resident memory of the process that writes it.
const RESET_PEAK: &str = "5";

/// A file system that nobody else uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// A directory on it.
    pub dir: PathBuf,
    /// The kernel's statistics of its disk, as a file of sysfs; none for a file system in memory.
    pub disk: Option<PathBuf>,
}

/// What a workload took; nothing where it cannot be known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Cost {
    /// Bytes on the file system.
    pub size_bytes: Option<i64>,
    /// Inodes on the file system; btrfs does not count them.
    pub inodes: Option<i64>,
    /// Bytes written to the disk, until all of it was there.
    pub written_bytes: Option<u64>,
    /// How often the disk was told to bring its cache to safety.
    pub flushes: Option<u64>,
    /// How far this process's resident memory rose, in bytes.
    pub memory_bytes: Option<u64>,
}

impl Cost {
    /// Whether nothing at all is known.
    pub fn is_unknown(&self) -> bool {
        *self == Self::default()
    }
}

/// What is in use at a moment.
#[derive(Clone, Copy, Debug)]
struct Reading {
    size_bytes: i64,
    inodes: Option<i64>,
    written_bytes: Option<u64>,
    flushes: Option<u64>,
}

impl Reading {
    /// Brings the file system to rest, and reads.
    fn take(place: &Place) -> Result<Self> {
        let dir = rustix::fs::open(&place.dir, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
        let dir = dir.at("open", &place.dir)?;
        rustix::fs::syncfs(&dir).at("sync the file system of", &place.dir)?;
        let stat = rustix::fs::fstatfs(&dir).at("stat the file system of", &place.dir)?;
        let used = stat.f_blocks.saturating_sub(stat.f_bfree);
        let fields = statistics(place);
        let field = |index: usize| fields.as_ref().and_then(|fields| fields.get(index).copied());
        let sectors = field(WRITTEN_FIELD);
        Ok(Self {
            size_bytes: i64::try_from(used).unwrap_or(i64::MAX).saturating_mul(stat.f_bsize),
            inodes: (stat.f_files > 0).then(|| stat.f_files as i64 - stat.f_ffree as i64),
            written_bytes: sectors.map(|sectors| sectors * SECTOR_BYTES),
            flushes: field(FLUSHES_FIELD),
        })
    }
}

fn statistics(place: &Place) -> Option<Vec<u64>> {
    let text = std::fs::read_to_string(place.disk.as_ref()?).ok()?;
    text.split_whitespace().map(|field| field.parse().ok()).collect()
}

/// A balance: what was there when it was set up, and what came on it.
#[derive(Clone, Debug)]
pub(super) struct Scale {
    place: Place,
    before: Option<Reading>,
    cost: Cost,
}

impl Scale {
    pub(super) fn new(place: Place) -> Self {
        Self { place, before: None, cost: Cost::default() }
    }

    /// Takes what is there now for nothing.
    pub(super) fn tare(&mut self) -> Result<()> {
        self.before = Some(Reading::take(&self.place)?);
        Ok(())
    }

    /// Takes down what has come since.
    pub(super) fn weigh(&mut self) -> Result<()> {
        let Some(before) = self.before else { return Ok(()) };
        // Before the sync, which is not the workload's.
        let flushes = statistics(&self.place).and_then(|fields| fields.get(FLUSHES_FIELD).copied());
        let now = Reading::take(&self.place)?;
        let since = |now: Option<u64>, before: Option<u64>| Some(now?.saturating_sub(before?));
        self.cost = Cost {
            size_bytes: Some(now.size_bytes - before.size_bytes),
            inodes: now.inodes.zip(before.inodes).map(|(now, before)| now - before),
            written_bytes: since(now.written_bytes, before.written_bytes),
            flushes: since(flushes, before.flushes),
            memory_bytes: None,
        };
        Ok(())
    }

    pub(super) fn cost(&self) -> Cost {
        self.cost
    }
}

/// Watches how far the resident memory of this process rises.
#[derive(Debug)]
pub(super) struct Memory {
    before: Option<u64>,
}

impl Memory {
    pub(super) fn watch() -> Self {
        let reset = std::fs::write("/proc/self/clear_refs", RESET_PEAK);
        Self { before: reset.ok().and_then(|()| resident("VmRSS")) }
    }

    pub(super) fn rise(&self) -> Option<u64> {
        Some(resident("VmHWM")?.saturating_sub(self.before?))
    }
}

fn resident(name: &str) -> Option<u64> {
    let status = std::fs::read_to_string(Path::new("/proc/self/status")).ok()?;
    super::machine::field(&status, name).and_then(super::machine::kib)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mount::scratch::FsType;
    use crate::testing;

    #[test]
    fn what_a_file_takes() {
        let Some(scratch) = testing::scratch(FsType::Ext4) else { return };
        let place = Place { dir: scratch.path().to_owned(), disk: scratch.statistics() };
        let mut scale = Scale::new(place);
        scale.tare().expect("read");
        std::fs::write(scratch.path().join("f"), vec![1; 1 << 20]).expect("write");
        let file = std::fs::File::open(scratch.path().join("f")).expect("open");
        file.sync_all().expect("sync");
        scale.weigh().expect("read");
        let Cost { size_bytes, inodes, written_bytes, flushes, .. } = scale.cost();
        assert!((1 << 20..2 << 20).contains(&size_bytes.expect("bytes")), "{:?}", scale.cost());
        assert_eq!(inodes, Some(1));
        assert!(written_bytes.is_some_and(|bytes| bytes >= 1 << 20), "{:?}", scale.cost());
        assert!(flushes.is_some_and(|flushes| flushes >= 1), "{:?}", scale.cost());
    }

    #[test]
    fn memory_in_use_is_seen() {
        let memory = Memory::watch();
        let bytes = std::hint::black_box(vec![1_u8; 32 << 20]);
        let rise = memory.rise();
        assert_eq!(bytes.len(), 32 << 20);
        // How much is not certain: the memory of other tests comes and goes.
        assert!(rise.is_some_and(|rise| rise > 0), "{rise:?}");
    }
}
