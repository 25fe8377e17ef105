//! Tests with real stores and small images: results, failures, and runs that end early.

use std::path::PathBuf;

use super::workload::CONTAINER;
use super::*;
use crate::backend::Strategy;
use crate::backends::{self, BTRFS, COPY, Config, OVERLAY};
use crate::compare::cost::MeasuredFs;
use crate::compare::image::Image;
use crate::mount::scratch::{FsType, Scratch};
use crate::store::Store;
use crate::testing;

/// A store and a mount point on a file system that only this test uses.
struct Stage {
    store: Store,
    target: PathBuf,
    scratch: Scratch,
}

impl Stage {
    fn measured_fs(&self) -> Option<MeasuredFs> {
        Some(MeasuredFs { dir: self.scratch.path().to_owned(), disk: self.scratch.statistics() })
    }
}

fn stage(backend: Strategy, fs: FsType) -> Option<Stage> {
    let scratch = testing::scratch(fs)?;
    let (root, target) = (scratch.path().join("store"), scratch.path().join("target"));
    std::fs::create_dir(&target).expect("mkdir");
    let store = backends::open(&Config { backend: Some(backend), ..Config::new(root) }).expect("open");
    Some(Stage { store, target, scratch })
}

fn plan(samples: u64) -> Plan {
    Plan { samples, end: None }
}

fn go_on(_: Turn<'_>) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// Workloads of a container and its image that need no special base.
fn everyday() -> Vec<Workload> {
    [
        "unpack",
        "container",
        "diff",
        "commit-nothing",
        "commit-many",
        "start",
        "copy-up",
        "small-files",
        "fsync",
        "chown",
    ]
    .into_iter()
    .chain(["rename", "read", "walk"])
    .map(find)
    .collect()
}

fn find(name: &str) -> Workload {
    Workload::find(name).expect(name)[0]
}

#[test]
fn every_step_of_every_contestant_is_measured_and_nothing_is_left() {
    let strategies = [(OVERLAY, FsType::Ext4), (BTRFS, FsType::Btrfs), (COPY, FsType::Xfs)];
    let stages: Vec<_> = strategies.into_iter().filter_map(|(backend, fs)| stage(backend, fs)).collect();
    let image = Image::new(60, 4096, 1);
    let subjects: Vec<_> = stages
        .iter()
        .map(|stage| {
            let label = Label::new("strategy", stage.scratch.fs().as_str(), Role::Strategy);
            let profile = SubjectProfile::new(label).with_measured_fs(stage.measured_fs());
            SnapshotterSubject::new(profile, &stage.store, &image, &stage.target).expect("unpack")
        })
        .collect();
    let subjects: Vec<&dyn Subject> = subjects.iter().map(|subject| subject as _).collect();
    let measured = run(&subjects, &everyday(), plan(3), &mut go_on);
    assert_eq!(measured.len(), everyday().len());
    for (Measured { name, steps, costs, .. }, workload) in measured.iter().zip(everyday()) {
        assert_eq!(steps.len(), workload.steps.len(), "{name}");
        assert_eq!(costs.len(), subjects.len(), "{name}");
        for Comparison { step, rows, .. } in steps {
            assert_eq!(rows.len(), subjects.len(), "{step:?}");
            for row in rows {
                let figures = row.figures.unwrap_or_else(|| panic!("{step:?}: {:?}", row.failure));
                assert_eq!(figures.statistics.samples, 3, "the warm-up does not count: {step:?}");
                assert!(figures.times_best >= 1.0, "{figures:?}");
                assert_eq!(figures.times_floor, None, "there is no floor");
            }
        }
    }
    for Stage { store, target, .. } in &stages {
        assert_eq!(store.backend().inventory().expect("inventory").len(), 2, "the image, and the small one");
        assert_eq!(std::fs::read_dir(target).expect("read").count(), 0);
    }
}

#[test]
fn the_floor_is_compared_with_and_does_not_compete() {
    let Some(stage) = stage(OVERLAY, FsType::Ext4) else { return };
    let [dir, target] = ["plain", "floor"].map(|name| stage.scratch.path().join(name));
    [&dir, &target].iter().for_each(|dir| std::fs::create_dir(dir).expect("mkdir"));
    let image = Image::new(60, 4096, 1);
    let profile = SubjectProfile::new(Label::new("plain directory", "ext4", Role::Floor));
    let floor = DirectorySubject::new(profile, dir.clone(), target, &image, workload::Sizes::QUICK).expect("plain");
    let label = Label::new("overlay", "ext4", Role::Strategy);
    let overlay = SnapshotterSubject::new(label, &stage.store, &image, &stage.target).expect("unpack");
    for Measured { name, steps, .. } in run(&[&overlay, &floor], &everyday(), plan(3), &mut go_on) {
        for Comparison { step, rows, .. } in steps {
            for row in &rows {
                assert_eq!(row.failure, None, "{name}, {step:?}");
            }
            let strategy = rows[0].figures.expect("figures");
            assert_eq!(strategy.standing, Some(Standing::Best), "nobody else competes: {step:?}");
            if let Some(floor) = rows.get(1) {
                let figures = floor.figures.expect("figures");
                assert_eq!((floor.label.role, figures.standing), (Role::Floor, None), "{step:?}");
                let ratio = strategy.statistics.median_ns as f64 / figures.statistics.median_ns as f64;
                assert_eq!(strategy.times_floor, Some(ratio), "{step:?}");
            }
        }
    }
    let left: Vec<_> = std::fs::read_dir(&dir).expect("read").map(|entry| entry.expect("entry").file_name()).collect();
    assert_eq!(left.len(), 2, "the image and the small one: {left:?}");
}

#[test]
fn a_stack_is_read_as_deep_as_it_could_be_made() {
    let Some(stage) = stage(OVERLAY, FsType::Tmpfs) else { return };
    let image = Image::new(60, 4096, 1);
    let subject = SnapshotterSubject::new("overlay", &stage.store, &image, &stage.target).expect("unpack");
    let deep = find("deep");
    let measured = run(&[&subject], &[deep], plan(1), &mut go_on);
    let steps: Vec<_> = measured[0].steps.iter().map(|comparison| comparison.step.name).collect();
    assert!(steps.starts_with(&["mount, 1 layer", "mount, 20 layers"]), "{steps:?}");
    assert!(steps.len().is_multiple_of(4), "{steps:?}");
    for Comparison { step, rows, .. } in &measured[0].steps {
        assert!(rows[0].figures.is_some(), "{step:?}: {rows:?}");
    }
    assert_eq!(stage.store.backend().inventory().expect("inventory").len(), 2, "the stack is gone");
}

#[test]
fn a_failure_is_a_row_and_the_others_go_on() {
    let (Some(sound), Some(broken)) = (stage(OVERLAY, FsType::Ext4), stage(OVERLAY, FsType::Ext4)) else {
        return;
    };
    let image = Image::new(60, 4096, 1);
    let subjects = [
        SnapshotterSubject::new("broken", &broken.store, &image, broken.target.join("missing")).expect("unpack"),
        SnapshotterSubject::new("sound", &sound.store, &image, &sound.target).expect("unpack"),
    ];
    let measured = run(&[&subjects[0], &subjects[1]], &[CONTAINER], plan(2), &mut go_on);
    for Comparison { step, rows, .. } in &measured[0].steps {
        assert!(rows[0].figures.is_none(), "{step:?}");
        assert!(rows[0].failure.as_ref().is_some_and(|why| why.contains("missing")), "{step:?}: {rows:?}");
        let Figures { statistics, standing, .. } = rows[1].figures.expect("figures");
        assert_eq!((statistics.samples, standing), (2, Some(Standing::Best)), "{step:?}");
    }
}

#[test]
fn an_early_end_keeps_what_was_measured() {
    let Some(stage) = stage(OVERLAY, FsType::Ext4) else { return };
    let image = Image::new(60, 4096, 1);
    let subject = SnapshotterSubject::new("overlay", &stage.store, &image, &stage.target).expect("unpack");
    let mut watch = |progress: Turn<'_>| {
        assert_eq!(progress.total, 18);
        if progress.done == 4 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let measured = run(&[&subject], &[CONTAINER, CONTAINER], plan(8), &mut watch);
    assert_eq!(measured.len(), 1, "the second was not begun");
    let counted = |row: &Row| row.figures.expect("figures").statistics.samples;
    assert!(measured[0].steps.iter().all(|comparison| counted(&comparison.rows[0]) == 3), "{measured:?}");
}

/// A subject in which every step takes the time that `taken` returns for the round.
struct Scripted<'a> {
    profile: SubjectProfile<'static>,
    taken: &'a dyn Fn(u64) -> Duration,
}

impl Subject for Scripted<'_> {
    fn profile(&self) -> &SubjectProfile<'_> {
        &self.profile
    }

    fn does(&self, _: &Workload) -> bool {
        true
    }

    fn begin(&self, _: &Workload) -> Result<()> {
        Ok(())
    }

    fn run(&self, workload: &Workload, round: u64, timer: &mut Timer) -> Result<()> {
        let taken = (self.taken)(round);
        workload.steps.iter().for_each(|step| timer.record(step.name, taken));
        Ok(())
    }

    fn end(&self, _: &Workload) -> Result<()> {
        Ok(())
    }
}

/// Returns about `ms` milliseconds, with a deterministic spread that depends on the round.
fn about(ms: u64) -> impl Fn(u64) -> Duration {
    move |round| Duration::from_micros(ms * 10 * (100 + round % 5))
}

#[test]
fn the_end_is_the_end() {
    let end = Instant::now() + Duration::from_secs(2);
    let taken = |round: u64| {
        // Round 2 is the third turn, counting the warm-up round; it sleeps until the end of the plan.
        let left = if round == 2 { end.saturating_duration_since(Instant::now()) } else { Duration::ZERO };
        std::thread::sleep(left);
        Duration::from_millis(1)
    };
    let slow = Scripted { profile: SubjectProfile::new("slow"), taken: &taken };
    let measured = run(&[&slow], &[CONTAINER, CONTAINER], Plan { samples: 9, end: Some(end) }, &mut go_on);
    assert_eq!(measured.len(), 1, "there was no time for the second");
    let figures = measured[0].steps[0].rows[0].figures.expect("figures");
    assert_eq!(figures.statistics.samples, 2, "fewer than three, and it says so");
    assert_eq!(run(&[&slow], &[CONTAINER], Plan { samples: 9, end: Some(end) }, &mut go_on), []);
}

#[test]
fn nobody_takes_the_time_of_the_others() {
    let end = Instant::now() + Duration::from_secs(12);
    let began = std::cell::Cell::new(false);
    let taken = |_: u64| {
        // The first turn takes more than three shares of one second each.
        if !began.replace(true) {
            std::thread::sleep(Duration::from_millis(3500));
        }
        Duration::from_millis(1)
    };
    let slow = Scripted { profile: SubjectProfile::new("slow"), taken: &taken };
    let measured = run(&[&slow], &[CONTAINER; 12], Plan { samples: 9, end: Some(end) }, &mut go_on);
    assert_eq!(measured.len(), 12);
    let figures = |index: usize| measured[index].steps[0].rows[0].figures;
    assert_eq!(figures(0), None, "it had its time");
    assert!(figures(1).is_some(), "the others have theirs");
}

#[test]
fn a_floor_of_a_kind_is_the_floor_of_its_kind() {
    let taken = [20, 90, 10, 30, 5].map(about);
    let of = |index: usize, name: &str, kind: &str, role| {
        let label = Label { kind: kind.to_owned(), ..Label::new(name, "ext4", role) };
        Scripted { profile: SubjectProfile::new(label), taken: &taken[index] }
    };
    let all = [
        of(0, "a", "overlay", Role::Command),
        of(1, "b", "copy", Role::Peer),
        of(2, "mount", "overlay", Role::Floor),
        of(3, "cp", "copy", Role::Floor),
        of(4, "c", "btrfs", Role::Peer),
    ];
    let subjects: Vec<&dyn Subject> = all.iter().map(|one| one as _).collect();
    let measured = run(&subjects, &[CONTAINER], plan(3), &mut go_on);
    let times = |index: usize| measured[0].steps[0].rows[index].figures.expect("figures").times_floor;
    assert_eq!([0, 1, 2, 3, 4].map(times), [Some(2.0), Some(3.0), None, None, None]);
}

/// Each graph driver workload checks its own counts, so a run without failure proves that the results are right.
#[test]
fn the_graph_drivers_benchmarks_run_on_every_strategy() {
    let strategies = [(OVERLAY, FsType::Ext4), (BTRFS, FsType::Btrfs), (COPY, FsType::Tmpfs)];
    let stages: Vec<_> = strategies.into_iter().filter_map(|(backend, fs)| stage(backend, fs)).collect();
    let image = Image::new(60, 4096, 1);
    let subjects: Vec<_> = stages
        .iter()
        .map(|stage| SnapshotterSubject::new("strategy", &stage.store, &image, &stage.target).expect("unpack"))
        .collect();
    let subjects: Vec<&dyn Subject> = subjects.iter().map(|subject| subject as _).collect();
    let workloads = Workload::find("graph-driver/*").expect("workloads");
    assert_eq!(workloads.len(), Workload::GRAPH_DRIVER.len());
    for Measured { name, steps, .. } in run(&subjects, &workloads, plan(1), &mut go_on) {
        for row in steps.iter().flat_map(|step| &step.rows) {
            assert!(row.figures.is_some(), "{name}: {:?}", row.failure);
        }
    }
    for Stage { store, .. } in &stages {
        assert_eq!(store.backend().inventory().expect("inventory").len(), 2, "its layers are gone");
    }
}

#[test]
fn two_runs_rank_alike_beyond_the_spread() {
    let taken = [10, 30, 10, 90].map(about);
    let all = ["a", "b", "c", "d"].map(SubjectProfile::new);
    let all: Vec<_> = all.into_iter().zip(&taken).map(|(profile, taken)| Scripted { profile, taken }).collect();
    let subjects: Vec<&dyn Subject> = all.iter().map(|one| one as _).collect();
    let standings = || -> Vec<_> {
        let measured = run(&subjects, &[CONTAINER], plan(5), &mut go_on);
        measured[0].steps[0].rows.iter().map(|row| row.figures.and_then(|figures| figures.standing)).collect()
    };
    let first = standings();
    use Standing::{Level, Slower, Worst};
    assert_eq!(first, [Level, Slower, Level, Worst].map(Some));
    assert_eq!(first, standings());
}

/// Runs the quick workloads twice on real stores: if all samples of one run show an order, the other run's samples must
/// not show the opposite order.
#[test]
fn two_real_runs_rank_alike_beyond_the_spread() {
    let stages = [("overlay", OVERLAY), ("copy", COPY)].map(|(name, choice)| (name, stage(choice, FsType::Tmpfs)));
    let stages: Vec<_> = stages.into_iter().filter_map(|(name, stage)| Some((name, stage?))).collect();
    let image = Image::new(600, 16 << 10, 7);
    let workloads: Vec<Workload> = Workload::ALL.into_iter().filter(|workload| workload.quick).collect();
    let measure = || -> Vec<(String, Vec<Statistics>)> {
        let subjects: Vec<_> = stages
            .iter()
            .map(|(name, stage)| SnapshotterSubject::new(*name, &stage.store, &image, &stage.target).expect("unpack"))
            .collect();
        let subjects: Vec<&dyn Subject> = subjects.iter().map(|subject| subject as _).collect();
        let measured = run(&subjects, &workloads, plan(5), &mut go_on);
        for name in [IMAGE, SMALL] {
            stages.iter().for_each(|(_, stage)| crate::Snapshotter::remove(&stage.store, name).expect("remove"));
        }
        let of_step = |step: &Comparison| step.rows.iter().filter_map(|row| Some(row.figures?.statistics)).collect();
        let named = |one: &Measured| -> Vec<_> {
            one.steps.iter().map(|step| (format!("{} {}", one.name, step.step.name), of_step(step))).collect()
        };
        measured.iter().flat_map(named).collect()
    };
    // Between equal subjects, quartiles of five samples differ by chance now and then, so the ranges of all samples are
    // compared. For `container prepare` quartiles suffice: copying every file and copying none differ widely.
    let is_faster = |step: &str, a: &Statistics, b: &Statistics| match step {
        "container prepare" => a.upper_quartile_ns < b.lower_quartile_ns,
        _ => a.max_ns < b.min_ns,
    };
    for ((step, first), (_, second)) in measure().iter().zip(&measure()) {
        let ([a, b], [again_a, again_b]) = (&first[..], &second[..]) else { continue };
        let contradicts = is_faster(step, a, b) && is_faster(step, again_b, again_a)
            || is_faster(step, b, a) && is_faster(step, again_a, again_b);
        assert!(!contradicts, "{step}: {first:?}, and then {second:?}");
    }
}
