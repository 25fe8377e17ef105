//! A directory of a stranger with very many names takes little memory to compare and to commit.

use std::collections::BTreeMap;
use std::process::Command;

use strata::changeset::Change;
use strata::mount::scratch::FsType;
use strata::snapshotter::{Labels, Snapshotter as _};

use super::lifecycle::open;
use super::settings::settings_on;
use super::{Bench, Setting, support};

const NONE: &Labels = &BTreeMap::new();

const NAMES: usize = 300_000;

/// The memory that the process may have had in memory at most, the program itself included.
const PEAK_KIB_MAX: u64 = 64 << 10;

/// Which of the settings the process that has this variable tries.
const CHILD: &str = "STRATA_TEST_LARGE_DIRECTORY";

/// File systems that have room for so many inodes.
const SYSTEMS: [FsType; 1] = [FsType::Tmpfs];

#[test]
fn many_names_in_one_directory() {
    if let Some(number) = std::env::var_os(CHILD) {
        let number: usize = number.to_str().and_then(|text| text.parse().ok()).expect("a number");
        return compare_and_commit(settings_on(&SYSTEMS)[number]);
    }
    let this = std::env::current_exe().expect("the test's program");
    for (number, setting) in settings_on(&SYSTEMS).into_iter().enumerate() {
        let mut child = Command::new(&this);
        child.args(["--exact", "large::many_names_in_one_directory", "--nocapture"]).env(CHILD, number.to_string());
        let output = child.output().expect("run the test's program");
        let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
        assert!(output.status.success(), "{}: {said}", setting.name());
        said.lines().filter(|line| line.contains(" KiB") || line.contains("skipped: ")).for_each(support::say);
    }
}

fn compare_and_commit(setting: Setting) {
    let Some(bench) = Bench::new(setting) else { return };
    let store = bench.store("store");
    store.prepare("first", "", NONE).expect("prepare");
    store.commit("base", "first", NONE).expect("commit");
    store.prepare("work", "base", NONE).expect("prepare");
    let dir = open(&store, "work");
    for number in 0..NAMES {
        drop(dir.create_file(format!("name-{number:08}")).expect("create"));
    }
    drop(dir);
    let mut found = 0;
    let mut sink = |change: &Change, _: &mut dyn std::io::Read| {
        found += usize::from(!change.path().as_os_str().is_empty());
        Ok(())
    };
    store.changes("work", None, &mut sink).expect("changes");
    assert_eq!(found, NAMES);
    let compared = peak_kib();
    store.commit("done", "work", NONE).expect("commit");
    let peak = peak_kib();
    let name = &setting.name();
    support::say(&format!("{name}: {NAMES} names: {compared} KiB to compare, {peak} KiB with the commit"));
    assert!(peak <= PEAK_KIB_MAX, "{}: {peak} KiB", setting.name());
}

/// The most memory that this process had.
fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("read");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
    line.trim().strip_suffix(" kB").and_then(|number| number.parse().ok()).expect("a number")
}
