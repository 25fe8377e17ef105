//! Real stores, small images: what is answered, and how failures and an early end show.

use super::workload::CONTAINER;
use super::*;
use crate::mount::scratch::{FsType, Scratch};
use crate::registry::{self, Choice, Config};
use crate::store::Store;
use crate::testing;

/// A store and a directory to mount at, on a file system of their own.
struct Stage {
    store: Store,
    target: PathBuf,
    _scratch: Scratch,
}

fn stage(backend: Choice, fs: FsType) -> Option<Stage> {
    let scratch = testing::scratch(fs)?;
    let (root, target) = (scratch.path().join("store"), scratch.path().join("target"));
    std::fs::create_dir(&target).expect("mkdir");
    let store = registry::open(&Config { backend, ..Config::new(root) }).expect("open");
    Some(Stage { store, target, _scratch: scratch })
}

fn go_on(_: Progress<'_>) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

#[test]
fn every_step_of_every_subject_is_measured_and_nothing_is_left() {
    let strategies = [(Choice::Overlay, FsType::Ext4), (Choice::Btrfs, FsType::Btrfs), (Choice::Copy, FsType::Xfs)];
    let stages: Vec<_> = strategies.into_iter().filter_map(|(backend, fs)| stage(backend, fs)).collect();
    let image = Image::new(60, 4096, 1);
    let subjects: Vec<_> = stages
        .iter()
        .map(|stage| Subject::new("subject", &stage.store, &image, &stage.target).expect("unpack"))
        .collect();
    let comparisons = run(&subjects, &Workload::ALL, 3, &mut go_on);
    assert_eq!(comparisons.len(), Workload::ALL.iter().map(|workload| workload.steps.len()).sum::<usize>());
    for Comparison { step, rows, .. } in &comparisons {
        assert_eq!(rows.len(), subjects.len(), "{step:?}");
        for row in rows {
            let figures = row.figures.unwrap_or_else(|| panic!("{step:?}: {:?}", row.failure));
            assert_eq!(figures.statistics.samples, 3, "the warm-up does not count: {step:?}");
            assert!(figures.times_best >= 1.0, "{figures:?}");
        }
    }
    for Stage { store, target, .. } in &stages {
        assert_eq!(store.backend().inventory().expect("inventory").len(), 1, "the image");
        assert_eq!(std::fs::read_dir(target).expect("read").count(), 0);
    }
}

#[test]
fn a_failure_is_a_row_and_the_others_go_on() {
    let (Some(sound), Some(broken)) = (stage(Choice::Overlay, FsType::Ext4), stage(Choice::Overlay, FsType::Ext4))
    else {
        return;
    };
    let image = Image::new(60, 4096, 1);
    let subjects = [
        Subject::new("broken", &broken.store, &image, broken.target.join("missing")).expect("unpack"),
        Subject::new("sound", &sound.store, &image, &sound.target).expect("unpack"),
    ];
    for Comparison { step, rows, .. } in run(&subjects, &[CONTAINER], 2, &mut go_on) {
        assert!(rows[0].figures.is_none(), "{step:?}");
        assert!(rows[0].failure.as_ref().is_some_and(|why| why.contains("missing")), "{step:?}: {rows:?}");
        let Figures { statistics, standing, .. } = rows[1].figures.expect("figures");
        assert_eq!((statistics.samples, standing), (2, Standing::Best), "{step:?}");
    }
}

#[test]
fn an_early_end_keeps_what_was_measured() {
    let Some(stage) = stage(Choice::Overlay, FsType::Ext4) else { return };
    let image = Image::new(60, 4096, 1);
    let subjects = [Subject::new("overlay", &stage.store, &image, &stage.target).expect("unpack")];
    let mut turns = 0;
    let mut watch = |progress: Progress<'_>| {
        assert_eq!((progress.done, progress.total), (turns, 9));
        turns += 1;
        if progress.done == 4 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let comparisons = run(&subjects, &[CONTAINER], 8, &mut watch);
    let counted = |row: &Row| row.figures.expect("figures").statistics.samples;
    assert!(comparisons.iter().all(|comparison| counted(&comparison.rows[0]) == 3), "{comparisons:?}");
}
