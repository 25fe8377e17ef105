//! Resources that a workload uses besides time: space, inodes, bytes written, disk flushes and memory.
//!
//! Space and inodes are read from `statfs` after a sync, so shared blocks count once and the file system's own
//! structures count too. Bytes written and flushes are the kernel's counters of the block device. All four cover the
//! whole file system, so the figures are only meaningful where no other process uses it: a [`MeasuredFs`] is such a
//! file system.
//!
//! System calls are not counted, because a tracer would slow down the measured work. A flush is what an `fsync` causes
//! on the disk if the file system does not know yet that everything is on disk.
//!
//! # References
//! `statfs(2)`; kernel document `block/stat.rst`; `proc_pid_status(5)`, `proc_pid_clear_refs(5)`.

use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use serde::Serialize;

use crate::error::{Context, Result};

/// Sector size in the kernel's block statistics, whatever the sector size of the disk is.
const SECTOR_BYTES: u64 = 512;

/// Fields of a block device's statistics: sectors written, and flushes.
const WRITTEN_FIELD: usize = 6;
const FLUSHES_FIELD: usize = 15;

/// Value that, written to `/proc/self/clear_refs`, resets the process's peak resident memory.
const RESET_PEAK: &str = "5";

/// A file system that no other process uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MeasuredFs {
    /// A directory on the file system.
    pub dir: PathBuf,
    /// Path of the disk's statistics file in sysfs; `None` for a file system in memory.
    pub disk: Option<PathBuf>,
}

/// Resources that a workload used; `None` where a figure cannot be known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Cost {
    /// Additional bytes in use on the file system.
    pub size_bytes: Option<i64>,
    /// Additional inodes in use on the file system; `None` on btrfs, which does not count inodes.
    pub inodes: Option<i64>,
    /// Bytes written to the disk until all data was on it.
    pub written_bytes: Option<u64>,
    /// Flushes of the disk's cache.
    pub flushes: Option<u64>,
    /// Rise of this process's resident memory, in bytes.
    pub memory_bytes: Option<u64>,
}

impl Cost {
    /// Returns true if no figure is known.
    pub fn is_unknown(&self) -> bool {
        *self == Self::default()
    }
}

/// Usage of a file system at one moment.
#[derive(Clone, Copy, Debug)]
struct Reading {
    size_bytes: i64,
    inodes: Option<i64>,
    written_bytes: Option<u64>,
    flushes: Option<u64>,
}

impl Reading {
    /// Syncs the file system, then reads its usage.
    fn take(measured_fs: &MeasuredFs) -> Result<Self> {
        let dir = rustix::fs::open(&measured_fs.dir, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
        let dir = dir.at("open", &measured_fs.dir)?;
        rustix::fs::syncfs(&dir).at("sync the file system of", &measured_fs.dir)?;
        let stat = rustix::fs::fstatfs(&dir).at("stat the file system of", &measured_fs.dir)?;
        let used = stat.f_blocks.saturating_sub(stat.f_bfree);
        let fields = statistics(measured_fs);
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

fn statistics(measured_fs: &MeasuredFs) -> Option<Vec<u64>> {
    let text = std::fs::read_to_string(measured_fs.disk.as_ref()?).ok()?;
    text.split_whitespace().map(|field| field.parse().ok()).collect()
}

/// Measures a [`Cost`]: the difference between two readings of the same file system.
#[derive(Clone, Debug)]
pub(super) struct CostMeter {
    measured_fs: MeasuredFs,
    before: Option<Reading>,
    cost: Cost,
}

impl CostMeter {
    pub(super) fn new(measured_fs: MeasuredFs) -> Self {
        Self { measured_fs, before: None, cost: Cost::default() }
    }

    /// Takes the first reading; usage up to now is not counted.
    pub(super) fn start_cost(&mut self) -> Result<()> {
        self.before = Some(Reading::take(&self.measured_fs)?);
        Ok(())
    }

    /// Takes the second reading and stores the difference as the cost.
    pub(super) fn stop_cost(&mut self) -> Result<()> {
        let Some(before) = self.before else { return Ok(()) };
        // The flushes are read before `Reading::take` syncs, because that sync is not part of the workload.
        let flushes = statistics(&self.measured_fs).and_then(|fields| fields.get(FLUSHES_FIELD).copied());
        let now = Reading::take(&self.measured_fs)?;
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

/// Measures how far this process's resident memory rises above its value at the start.
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
        let measured_fs = MeasuredFs { dir: scratch.path().to_owned(), disk: scratch.statistics() };
        let mut meter = CostMeter::new(measured_fs);
        meter.start_cost().expect("read");
        std::fs::write(scratch.path().join("f"), vec![1; 1 << 20]).expect("write");
        let file = std::fs::File::open(scratch.path().join("f")).expect("open");
        file.sync_all().expect("sync");
        meter.stop_cost().expect("read");
        let Cost { size_bytes, inodes, written_bytes, flushes, .. } = meter.cost();
        assert!((1 << 20..2 << 20).contains(&size_bytes.expect("bytes")), "{:?}", meter.cost());
        assert_eq!(inodes, Some(1));
        assert!(written_bytes.is_some_and(|bytes| bytes >= 1 << 20), "{:?}", meter.cost());
        assert!(flushes.is_some_and(|flushes| flushes >= 1), "{:?}", meter.cost());
    }

    #[test]
    fn memory_in_use_is_seen() {
        let memory = Memory::watch();
        let bytes = std::hint::black_box(vec![1_u8; 32 << 20]);
        let rise = memory.rise();
        assert_eq!(bytes.len(), 32 << 20);
        // Only a rise is asserted, not its size: tests in other threads allocate and free memory at the same time.
        assert!(rise.is_some_and(|rise| rise > 0), "{rise:?}");
    }
}
