//! The settings that suites and benchmarks run on, from the table of strategies.

use strata::backends::{Setting, Strategies};
use strata::mount::scratch::FsType;

/// Returns each setting that people use on ext4 and xfs, and on btrfs those that no other file system has.
pub fn settings() -> Vec<Setting> {
    settings_on(&[FsType::Ext4, FsType::Xfs])
}

/// Returns each setting that people use on these file systems, and on btrfs those that no other file system has.
pub fn settings_on(systems: &[FsType]) -> Vec<Setting> {
    let table = Strategies::default();
    let elsewhere = systems.iter().flat_map(|fs| table.settings_on(*fs));
    let only_there = |setting: &Setting| setting.variant.file_systems == [FsType::Btrfs.as_str()];
    elsewhere.chain(table.settings_on(FsType::Btrfs).into_iter().filter(only_there)).collect()
}
