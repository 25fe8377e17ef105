//! Power cuts: a store is used while all writes to its disk are noted; then the disk is put together as a cut may leave
//! it at any moment, and the store on it opened as after another boot.
//!
//! Whether the test would notice is tested by stores that do not wait for their disk.

use std::error::Error;
use std::fs::{self, File};
use std::path::Path;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use proptest::prelude::Rng as _;
use proptest::test_runner::TestRng;
use rusqlite::Connection;
use strata::Snapshotter;
use strata::backend::{Backend, Capabilities, Chain, Survey, Usage};
use strata::backends::{BTRFS, COPY, OVERLAY};
use strata::changeset::{Candidates, Layer};
use strata::id::Id;
use strata::mount::scratch::FsType;
use strata::mount::{Access, Mount};
use strata::snapshotter::Labels;
use strata::store::{CheckOptions, Durability, Store};

use super::disk::{self, Disk, Manner, Recorded};
use super::failing::Claims;
use super::replay::Log;
use super::script::{Script, State, Step, Under};
use super::{OpenStore as _, Setting, budget, random, settings, support, tally, wanted};

/// How many points are looked at before the time is: they are replayed in order.
pub(crate) const BATCH: usize = 8;

/// Points at which a store that does not wait for its disk is looked at, at most.
const CARELESS_POINTS: usize = 64;

/// How the file systems share the budget.
const SHARES: u32 = 6;

pub(crate) type Verdict = Result<(), Box<dyn Error>>;

/// A recorded run of a store: the log of its disk, and the answers of its calls.
pub(crate) struct Case {
    pub(crate) setting: Setting,
    recorded: Recorded,
    pub(crate) log: Log,
    pub(crate) steps: Vec<Step>,
}

/// A disk that only notes.
struct Noting<'a>(&'a Disk);

impl Under for Noting<'_> {
    fn log_bytes(&self) -> u64 {
        self.0.log_bytes()
    }

    fn before(&self, _number: usize) {}

    fn failed(&self) -> bool {
        false
    }

    fn is_left(&self) -> bool {
        false
    }

    fn open(&self) -> strata::Result<Store> {
        unreachable!("no other process goes on")
    }
}

impl Case {
    /// `None` where the machine lacks what it needs.
    fn record(setting: Setting, open: impl FnOnce(&Path) -> strata::Result<Store>) -> Option<Self> {
        let disk = Disk::new(setting.fs, Manner::Recording)?;
        let place = support::gate("tmpfs", strata::mount::scratch::Scratch::new(FsType::Tmpfs, 64 << 20))?;
        let store = support::gate(setting.strategy.name, open(&disk.path().join("store")))?;
        let steps = Script::run(store, place.path(), random::rng(1), &Noting(&disk));
        Some(Self::of(setting, disk, steps))
    }

    /// The case of `steps` that were made on `disk`.
    pub(crate) fn of(setting: Setting, disk: Disk, steps: Vec<Step>) -> Self {
        let recorded = disk.stop();
        let log = Log::open(&recorded.file("log.raw"));
        Self { setting, recorded, log, steps }
    }

    /// Looks at the store after cuts at `points`, and tells `failed` of each that is not as it must be.
    pub(crate) fn cut(&self, mut points: Vec<usize>, random: &mut TestRng, failed: &mut dyn FnMut(String)) {
        points.sort_unstable();
        let (lasting, cut) = (self.recorded.file("lasting.raw"), self.recorded.file("cut.raw"));
        disk::copy(&self.recorded.file("base.raw"), &lasting);
        let disk = File::options().write(true).open(&lasting).expect("open");
        let mut done = 0;
        for point in points {
            let flushed = self.log.flushed(point);
            self.log.apply(&disk, done, flushed, &mut || true);
            done = flushed;
            disk::copy(&lasting, &cut);
            let left = File::options().write(true).open(&cut).expect("open");
            // None, some, most, all of what is in the cache.
            let of_four = random.next_u32() % 5;
            self.log.apply(&left, flushed, point, &mut || random.next_u32() % 4 < of_four);
            drop(left);
            if let Err(error) = self.look(&cut, point) {
                let why = error.downcast_ref().map_or_else(|| error.to_string(), strata::Error::chain);
                let (setting, last) = (self.setting, self.after(point).checked_sub(1));
                let call = last.map_or("nothing", |last| &self.steps[last].call);
                failed(format!("{setting}: cut after {point} of {} writes, behind {call}: {why}", self.log.len()));
            }
        }
    }

    /// How many calls ended before a cut at `point`.
    fn after(&self, point: usize) -> usize {
        let bytes = self.log.bytes_at(point);
        self.steps.partition_point(|step| step.log_bytes <= bytes)
    }

    fn look(&self, cut: &Path, point: usize) -> Verdict {
        let target = self.recorded.file("cut");
        disk::mount(self.setting.fs, cut, &target);
        let root = target.join("store");
        let done = self.after(point);
        let fails = self.steps.iter().any(|step| step.failed);
        let verdict = (|| {
            boot(&root)?;
            let store = self.setting.store(&root)?;
            store.cleanup()?;
            let seen = State::read(&store)?;
            let differs = if fails { Claims::differ(&self.steps, done, &seen) } else { self.differs(done, &seen) };
            match differs {
                Some(differs) => Err(differs.into()),
                None if fails => is_intact(&store).and_then(|()| goes_on(&store)),
                None => goes_on(&store),
            }
        })();
        disk::unmount(&target);
        verdict
    }

    /// How many calls were acknowledged when more than `count` entries were written.
    pub(crate) fn acknowledged_behind(&self, count: usize) -> usize {
        let behind = |step: &&Step| !step.failed && self.log.count_at(step.log_bytes) > count;
        self.steps.iter().filter(behind).count()
    }

    /// The reason why `seen` cannot be the state of a store that was cut off after the call `done`.
    fn differs(&self, done: usize, seen: &State) -> Option<String> {
        let nothing = State::default();
        let before = done.checked_sub(1).map_or(&nothing, |last| &self.steps[last].state);
        let next = self.steps.get(done);
        let (after, in_steps) = next.map_or((before, false), |next| (&next.state, next.in_steps));
        seen.differs(before, after, in_steps)
    }

    /// A point anywhere, more often near the end of a call than chance would have it.
    pub(crate) fn point(&self, random: &mut TestRng) -> usize {
        let any = random.next_u64() as usize % self.log.len() + 1;
        if random.next_u32().is_multiple_of(2) {
            return any;
        }
        let call = &self.steps[random.next_u64() as usize % self.steps.len()];
        let near = (1..self.log.len()).find(|count| self.log.bytes_at(*count) >= call.log_bytes).unwrap_or(any);
        (near + random.next_u64() as usize % 3).min(self.log.len())
    }
}

/// Gives the store another boot id, as a boot does.
pub(crate) fn boot(root: &Path) -> Verdict {
    let path = root.join("strata.db");
    if fs::metadata(&path).is_ok_and(|stat| stat.len() > 0) {
        let database = Connection::open(path)?;
        match database.execute("UPDATE setting SET value = 'another' WHERE name = 'boot_id'", []) {
            // It was cut off while it was made.
            Err(error) if error.to_string().contains("no such table") => {}
            done => drop(done?),
        }
    }
    Ok(())
}

/// Checks that nothing is left over, and that the store can be used.
pub(crate) fn goes_on(store: &Store) -> Verdict {
    let labels = Labels::new();
    store.prepare("after", "", &labels)?;
    store.commit("afterwards", "after", &labels)?;
    store.prepare("top", "afterwards", &labels)?;
    store.remove("top")?;
    store.remove("afterwards")?;
    store.cleanup()?;
    match store.check(&CheckOptions::default())?.findings.first() {
        None => Ok(()),
        Some(finding) => Err(format!("a check says: {}", finding.problem).into()),
    }
}

/// Reads each layer of which a digest is recorded, and compares.
fn is_intact(store: &Store) -> Verdict {
    let report = store.check(&CheckOptions { deep: true, ..CheckOptions::default() })?;
    match report.damaged() {
        0 => Ok(()),
        _ => Err(format!("a deep check says: {:?}", report.findings).into()),
    }
}

/// How many points somebody wants, however long it takes.
fn points_wanted() -> Option<usize> {
    wanted("STRATA_POWER_POINTS").map(|points| points as usize)
}

/// Power cuts of all tests of this process.
static TRIED: AtomicUsize = AtomicUsize::new(0);

/// Those among them that came behind a failing flush.
static FAILING: AtomicUsize = AtomicUsize::new(0);

/// Those among them that took something which was acknowledged.
static LOST: AtomicUsize = AtomicUsize::new(0);

/// Power cuts of one setting, and what was lost.
pub(crate) struct Tally {
    is_failing: bool,
    pub(crate) tried: usize,
    lost: Vec<String>,
}

impl Tally {
    pub(crate) fn new(is_failing: bool) -> Self {
        Self { is_failing, tried: 0, lost: Vec::new() }
    }

    pub(crate) fn cut(&mut self, case: &Case, points: Vec<usize>, random: &mut TestRng) {
        self.tried += points.len();
        case.cut(points, random, &mut |failure| self.lost.push(failure));
    }

    /// Prints what was tried on `setting` since `started`, and what all tests of this process tried by now.
    ///
    /// # Panics
    /// If something was lost.
    pub(crate) fn end(self, setting: Setting, started: Instant) {
        tally::Tally::new("power-cuts").add(self.tried, self.lost.len());
        if self.is_failing {
            tally::Tally::new("power-cuts-failing-flush").add(self.tried, self.lost.len());
        }
        let tried = TRIED.fetch_add(self.tried, Relaxed) + self.tried;
        let failing = if self.is_failing { self.tried } else { 0 };
        let failing = FAILING.fetch_add(failing, Relaxed) + failing;
        let lost = LOST.fetch_add(self.lost.len(), Relaxed) + self.lost.len();
        let (behind, each) = (if self.is_failing { " behind a failing flush" } else { "" }, self.tried.max(1));
        let each_ms = started.elapsed().as_millis() / each as u128;
        support::say(&format!("{setting}: {} power cuts{behind}, {each_ms} ms each", self.tried));
        support::say(&format!("power cuts: {tried} tried, of these {failing} with a failing flush, {lost} lost"));
        let (count, seed) = (self.lost.len(), random::seed());
        assert!(count == 0, "{count} of {} (STRATA_SEED={seed}):\n{}", self.tried, self.lost.join("\n"));
    }
}

fn survives(fs: FsType) {
    let settings = settings(fs);
    let share = budget() / SHARES / settings.len() as u32;
    for setting in settings {
        let Some(case) = Case::record(setting, |root| setting.store(root)) else { return };
        let mut random = random::rng(2);
        let (started, mut tally) = (Instant::now(), Tally::new(false));
        while points_wanted().map_or_else(|| started.elapsed() < share, |wanted| tally.tried < wanted) {
            // Points that are replayed together are replayed in order, from one copy of the disk.
            let more = points_wanted().unwrap_or(BATCH);
            let points: Vec<usize> = (0..more).map(|_| case.point(&mut random)).collect();
            tally.cut(&case, points, &mut random);
        }
        support::say(&format!("{setting}: {} writes, {} calls", case.log.len(), case.steps.len()));
        tally.end(setting, started);
    }
}

#[test]
fn a_power_cut_on_ext4_takes_nothing_that_was_acknowledged() {
    survives(FsType::Ext4);
}

#[test]
fn a_power_cut_on_xfs_takes_nothing_that_was_acknowledged() {
    survives(FsType::Xfs);
}

#[test]
fn a_power_cut_on_btrfs_takes_nothing_that_was_acknowledged() {
    survives(FsType::Btrfs);
}

/// A backend that says that all it does is on disk.
#[derive(Debug)]
struct Careless(Box<dyn Backend>);

#[deny(clippy::missing_trait_methods, reason = "a default would go by the backend inside")]
impl Backend for Careless {
    fn capabilities(&self) -> Capabilities {
        Capabilities { seal_is_durable: true, create_needs_sync: false, ..self.0.capabilities() }
    }

    fn create(&self, id: Id, parents: &Chain) -> strata::Result<()> {
        self.0.create(id, parents)
    }

    fn complete_create(&self, id: Id, parents: &Chain) -> strata::Result<()> {
        self.0.complete_create(id, parents)
    }

    fn mounts(&self, stack: &Chain, access: Access) -> strata::Result<Vec<Mount>> {
        self.0.mounts(stack, access)
    }

    fn seal(&self, active: Id, sealed: Id) -> strata::Result<()> {
        self.0.seal(active, sealed)
    }

    fn remove(&self, id: Id) -> strata::Result<()> {
        self.0.remove(id)
    }

    fn remove_until(&self, id: Id, stop: &dyn Fn() -> bool) -> strata::Result<bool> {
        self.0.remove_until(id, stop)
    }

    fn usage(&self, id: Id, parents: &Chain) -> strata::Result<Usage> {
        self.0.usage(id, parents)
    }

    fn survey(&self, id: Id, parents: &Chain) -> strata::Result<Survey> {
        self.0.survey(id, parents)
    }

    fn inventory(&self) -> strata::Result<Vec<Id>> {
        self.0.inventory()
    }

    fn layer(&self, id: Id) -> Option<Layer> {
        self.0.layer(id)
    }

    fn candidates(&self, id: Id, parent: Id) -> strata::Result<Candidates> {
        self.0.candidates(id, parent)
    }
}

fn is_noticed(setting: Setting, open: impl FnOnce(&Path) -> strata::Result<Store>) {
    let Some(case) = Case::record(setting, open) else { return };
    let mut random = random::rng(3);
    let mut noticed = Vec::new();
    let mut count = 0;
    let batch = points_wanted().map_or(BATCH, |wanted| BATCH.min(wanted.max(1)));
    while noticed.is_empty() && count < CARELESS_POINTS {
        let points: Vec<usize> = (0..batch).map(|_| case.point(&mut random)).collect();
        count += points.len();
        case.cut(points, &mut random, &mut |failure| noticed.push(failure));
    }
    assert!(!noticed.is_empty(), "{setting}: {count} power cuts of a store that does not wait, and nothing was lost");
    support::say(&format!("{} of {count} cuts noticed: {}", noticed.len(), noticed[0]));
}

#[test]
fn a_layer_that_was_not_brought_to_disk_is_noticed() {
    for (strategy, fs) in [(COPY, FsType::Ext4), (OVERLAY, FsType::Xfs)] {
        let Some(setting) = settings(fs).into_iter().find(|setting| setting.strategy == strategy) else { continue };
        let careless = |backend: Box<dyn Backend>| -> Box<dyn Backend> { Box::new(Careless(backend)) };
        is_noticed(setting, |root| setting.store_with(root, Durability::Commit, careless));
    }
}

#[test]
fn a_store_that_does_not_wait_is_noticed() {
    let strategies = settings(FsType::Btrfs);
    let setting = strategies.into_iter().find(|setting| setting.strategy == BTRFS).expect("btrfs on btrfs");
    is_noticed(setting, |root| setting.store_with(root, Durability::None, |backend| backend));
}
