//! Power cuts after a disk failed while a store worked: writes, flushes, or both failed for a while, and the store, or
//! another process, went on without a mount in between. A cut behind that takes nothing that was acknowledged.
//!
//! A write that failed is in no log. While every flush fails, the disk forgets its cache: the replay drops what no
//! earlier flush brought to disk, although the kernel counts those writes as done.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Instant;

use proptest::prelude::Rng as _;
use proptest::test_runner::TestRng;
use rusqlite::Connection;
use strata::backends::{COPY, OVERLAY};
use strata::id::Digest;
use strata::mount::scratch::{FsType, Scratch};
use strata::snapshotter::Kind;
use strata::store::Store;
use strata::{Error, ErrorKind};

use super::disk::{Disk, Manner};
use super::power::{BATCH, Case, Tally};
use super::script::{REMOVE_IMAGE, Script, State, Step, Under};
use super::{OpenStore as _, Setting, random, settings, support, wanted};

/// Points that one recorded run is cut at, at most: another run fails elsewhere.
const RUN_POINTS: usize = 24;

/// Draws for each point that is looked for.
const DRAWS: usize = 4;

/// Calls of the script before which the disk may begin to fail: calls of the last round come behind all of them.
const FIRST_CALLS: usize = 26;

/// Recorded runs of a store without marks, at most.
const UNMARKED_RUNS: u64 = 24;

/// The kind of a snapshot, and the digest of its tree if it is committed.
type Is = (Kind, Option<Digest>);

/// The promises of some calls, and the states that their failures allow.
#[derive(Clone, Debug, Default)]
pub(crate) struct Claims {
    held: State,
    /// States that calls which failed may have left, by name.
    may: BTreeMap<String, BTreeSet<Option<Is>>>,
    may_images: BTreeSet<String>,
    /// Names of calls that failed: each may be there with any content that a check accepts.
    tried: BTreeSet<String>,
    /// Names of which the removal was acknowledged.
    gone: BTreeSet<String>,
    /// Whether a call of several steps failed.
    any: bool,
}

impl Claims {
    /// The reason why `seen` cannot be the state of a store that was cut off after the call `done` of `steps`.
    pub(crate) fn differ(steps: &[Step], done: usize, seen: &State) -> Option<String> {
        let before = Self::of(&steps[..done]);
        let after = Self::of(&steps[..steps.len().min(done + 1)]);
        let lost = before.held.snapshots.iter().find(|(name, is)| {
            let left = seen.snapshots.get(*name);
            left != Some(is) && !after.allows(name, left)
        });
        if let Some((name, is)) = lost {
            return Some(format!("{name}: acknowledged as {is:?}, is {:?}", seen.snapshots.get(name)));
        }
        let strange =
            seen.snapshots.iter().find(|(name, is)| !before.allows(name, Some(is)) && !after.allows(name, Some(is)));
        if let Some((name, is)) = strange {
            return Some(format!("{name}: is {is:?}, was {:?}", before.held.snapshots.get(name)));
        }
        let lost =
            before.held.images.iter().find(|name| !seen.images.contains(name) && after.held.images.contains(name));
        if let Some(name) = lost {
            return Some(format!("the image {name} was acknowledged"));
        }
        let strange = seen.images.iter().find(|name| !before.allows_image(name) && !after.allows_image(name));
        strange.map(|name| format!("the image {name} was never there, or was removed"))
    }

    fn allows_image(&self, name: &String) -> bool {
        self.any || self.held.images.contains(name) || self.may_images.contains(name)
    }

    fn of(steps: &[Step]) -> Self {
        let mut claims = Self::default();
        let nothing = State::default();
        let mut before = &nothing;
        for step in steps {
            claims.add(before, step);
            before = &step.state;
        }
        claims
    }

    fn add(&mut self, before: &State, step: &Step) {
        let subjects = if step.failed { subjects(&step.call) } else { Vec::new() };
        for name in before.snapshots.keys().chain(step.state.snapshots.keys()) {
            let (was, is) = (before.snapshots.get(name), step.state.snapshots.get(name));
            if was != is {
                self.change(name, was, is, step);
            }
        }
        for name in subjects {
            self.held.snapshots.remove(&name);
            self.gone.remove(&name);
            self.tried.insert(name);
        }
        self.any |= step.failed && step.in_steps;
        match (step.failed, step.call == REMOVE_IMAGE) {
            (false, _) => self.held.images.clone_from(&step.state.images),
            (true, true) => self.doubt_images(),
            (true, false) => self.may_images.extend(step.state.images.iter().cloned()),
        }
    }

    /// A call failed that removes an image, and layers with it: any image and any layer may be gone or left.
    fn doubt_images(&mut self) {
        self.may_images.extend(std::mem::take(&mut self.held.images));
        let layers = self.held.snapshots.keys().filter(|name| name.contains(':'));
        self.tried.extend(layers.cloned());
        self.held.snapshots.retain(|name, _| !name.contains(':'));
    }

    fn change(&mut self, name: &str, was: Option<&Is>, is: Option<&Is>, step: &Step) {
        if step.failed {
            let may = self.may.entry(name.to_owned()).or_default();
            may.extend([was.copied(), is.copied()]);
            if step.in_steps {
                self.held.snapshots.remove(name);
            }
            return;
        }
        self.may.remove(name);
        self.tried.remove(name);
        if let Some(is) = is {
            self.held.snapshots.insert(name.to_owned(), *is);
            self.gone.remove(name);
        } else {
            self.held.snapshots.remove(name);
            self.gone.insert(name.to_owned());
        }
    }

    fn allows(&self, name: &str, is: Option<&Is>) -> bool {
        let held = self.held.snapshots.get(name);
        let may = || self.may.get(name).is_some_and(|may| may.contains(&is.copied()));
        let tried = || !self.gone.contains(name) && (self.any || self.tried.contains(name));
        held == is || held.is_none() && (is.is_none() || may() || tried())
    }
}

/// The snapshots that `call` makes, changes or removes.
fn subjects(call: &str) -> Vec<String> {
    let words: Vec<&str> = call.split(' ').collect();
    let subjects = match words[0] {
        "commit" => &words[1..],
        "prepare" | "view" | "apply" | "remove" => &words[1..2],
        _ => &[],
    };
    subjects.iter().map(|name| (*name).to_owned()).collect()
}

/// How a disk fails.
#[derive(Clone, Copy, Debug)]
enum Failure {
    /// That many writes are lost.
    Writes(usize),
    /// Every flush fails until the first call failed.
    Flushes,
    /// Everything fails until the first call failed.
    All,
}

impl Failure {
    fn any(random: &mut TestRng) -> Self {
        match random.next_u32() % 8 {
            0 => Self::All,
            1 | 2 => Self::Flushes,
            more => Self::Writes(more as usize - 2),
        }
    }
}

/// When a disk failed, in bytes of its log.
#[derive(Clone, Copy, Debug, Default)]
struct Window {
    from: Option<u64>,
    to: Option<u64>,
}

/// A disk that fails during a script.
struct Sick {
    setting: Setting,
    disk: RefCell<Disk>,
    failure: Failure,
    /// The call before which the disk begins to fail, and the one before which it is healed if no call failed.
    calls: (usize, usize),
    /// Whether another process goes on after a call that failed.
    is_left: bool,
    window: RefCell<Window>,
}

impl Sick {
    fn root(&self) -> PathBuf {
        self.disk.borrow().path().join("store")
    }

    fn begin(&self) {
        let mut disk = self.disk.borrow_mut();
        match self.failure {
            Failure::Writes(count) => disk.fail_next_writes(count),
            Failure::Flushes => disk.fail_flushes(),
            Failure::All => disk.fail_all(),
        }
        // A flush until now did its work.
        self.window.borrow_mut().from = Some(disk.log_bytes());
    }

    fn heal(&self) {
        let mut window = self.window.borrow_mut();
        if window.from.is_some() && window.to.is_none() {
            let mut disk = self.disk.borrow_mut();
            window.to = Some(disk.log_bytes());
            disk.heal();
        }
    }
}

impl Under for Sick {
    fn log_bytes(&self) -> u64 {
        self.disk.borrow().log_bytes()
    }

    fn before(&self, number: usize) {
        let (from, to) = self.calls;
        if number == from {
            self.begin();
        } else if number == to {
            self.heal();
        }
    }

    fn failed(&self) -> bool {
        self.heal();
        self.window.borrow().from.is_some()
    }

    fn is_left(&self) -> bool {
        self.is_left
    }

    fn open(&self) -> strata::Result<Store> {
        let root = self.root();
        // A file system that was shut down does not show what is there.
        if self.window.borrow().from.is_some() {
            std::fs::metadata(&root).map_err(|error| Error::new(ErrorKind::Io, "stat").with_source(error))?;
        }
        self.setting.store(&root)
    }
}

/// The run `number` of the script on a disk that fails during it. `Ok(None)` if no call failed; `Err` where the machine
/// lacks what it needs. `prepare` changes the store first.
fn record(setting: Setting, number: u64, prepare: impl FnOnce(&Sick)) -> Result<Option<(Case, usize)>, ()> {
    let mut random = random::rng(100 + number);
    let disk = Disk::new(setting.fs, Manner::Recording).ok_or(())?;
    let place = support::gate("tmpfs", Scratch::new(FsType::Tmpfs, 64 << 20)).ok_or(())?;
    let from = random.next_u64() as usize % FIRST_CALLS;
    let calls = (from, from + 1 + random.next_u64() as usize % 3);
    let (failure, is_left) = (Failure::any(&mut random), random.next_u32().is_multiple_of(2));
    let window = RefCell::default();
    let sick = Sick { setting, disk: RefCell::new(disk), failure, calls, is_left, window };
    let store = support::gate(setting.strategy.name, sick.open()).ok_or(())?;
    prepare(&sick);
    let steps = Script::run(store, place.path(), random, &sick);
    sick.heal();
    let Window { from: Some(from), to: Some(to) } = *sick.window.borrow() else { return Ok(None) };
    let mut case = Case::of(setting, sick.disk.into_inner(), steps);
    let (from, to) = (case.log.count_at(from), case.log.count_at(to));
    if !matches!(failure, Failure::Writes(_)) {
        case.log.lose(from, to);
    }
    Ok(case.steps.iter().any(|step| step.failed).then_some((case, to)))
}

/// Different points of `case` from the entry `from` on.
fn points(case: &Case, from: usize, count: usize, random: &mut TestRng) -> Vec<usize> {
    let mut points = BTreeSet::from([case.log.len()]);
    for _ in 0..DRAWS * count {
        let point = case.point(random);
        if points.len() < count && point >= from {
            points.insert(point);
        }
    }
    points.into_iter().collect()
}

/// How many points somebody wants, however long it takes.
fn points_wanted() -> Option<usize> {
    wanted("STRATA_FAILING_POINTS").map(|points| points as usize)
}

fn survives(fs: FsType) {
    let Some(points_wanted) = points_wanted() else {
        // A disk that fails slows every file system down: this takes the time of `make test-long`.
        support::say("power cuts behind a failing flush: tried by make test-long (STRATA_FAILING_POINTS)");
        return;
    };
    for setting in settings(fs) {
        let (started, mut runs, mut met, mut tally) = (Instant::now(), 0, 0, Tally::new(true));
        let mut acknowledged = 0;
        while tally.tried < points_wanted {
            let Ok(run) = record(setting, runs, |_| {}) else { return };
            runs += 1;
            let Some((case, from)) = run else { continue };
            met += 1;
            acknowledged += case.acknowledged_behind(from);
            let most = RUN_POINTS.min(points_wanted - tally.tried);
            let mut random = random::rng(200 + runs);
            let points = points(&case, from, most, &mut random);
            tally.cut(&case, points, &mut random);
        }
        support::say(&format!(
            "{setting}: a call failed in {met} of {runs} runs, and {acknowledged} calls were acknowledged behind it"
        ));
        tally.end(setting, started);
    }
}

#[test]
fn a_power_cut_behind_a_failing_flush_on_ext4_takes_nothing_that_was_acknowledged() {
    survives(FsType::Ext4);
}

#[test]
fn a_power_cut_behind_a_failing_flush_on_xfs_takes_nothing_that_was_acknowledged() {
    survives(FsType::Xfs);
}

#[test]
fn a_power_cut_behind_a_failing_flush_on_btrfs_takes_nothing_that_was_acknowledged() {
    survives(FsType::Btrfs);
}

/// Has the database drop each mark of a failed sync.
fn without_marks(sick: &Sick) {
    let database = Connection::open(sick.root().join("strata.db")).expect("open the database");
    let triggers = "CREATE TRIGGER no_voucher BEFORE UPDATE OF voucher ON snapshot WHEN NEW.voucher = ''
                      BEGIN SELECT RAISE(IGNORE); END;
                    CREATE TRIGGER no_log BEFORE INSERT ON setting WHEN NEW.name = 'lost_log'
                      BEGIN SELECT RAISE(IGNORE); END;";
    database.execute_batch(triggers).expect("make the triggers");
}

#[test]
fn a_failing_flush_that_is_not_marked_is_noticed() {
    for (strategy, fs) in [(COPY, FsType::Ext4), (OVERLAY, FsType::Xfs)] {
        let Some(setting) = settings(fs).into_iter().find(|setting| setting.strategy == strategy) else { continue };
        let (mut noticed, mut count) = (Vec::new(), 0);
        for run in 0..UNMARKED_RUNS {
            let Ok(run) = record(setting, run, without_marks) else { return };
            let Some((case, from)) = run else { continue };
            let mut random = random::rng(300);
            let points = points(&case, from, BATCH, &mut random);
            count += points.len();
            case.cut(points, &mut random, &mut |failure| noticed.push(failure));
            if !noticed.is_empty() {
                break;
            }
        }
        assert!(!noticed.is_empty(), "{setting}: {count} power cuts of a store without marks, and nothing was lost");
        support::say(&format!("{} of {count} cuts noticed: {}", noticed.len(), noticed[0]));
    }
}
