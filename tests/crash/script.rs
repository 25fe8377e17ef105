//! The calls that a store answers before it is cut off, and the state that it must have afterwards.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::Path;

use proptest::prelude::Rng as _;
use proptest::test_runner::TestRng;
use strata::changeset::Sink;
use strata::changeset::tar::{self, Limits};
use strata::id::Digest;
use strata::image::{self, Options, Place, Source};
use strata::snapshotter::{Info, Kind, Labels};
use strata::store::Store;
use strata::tree::memory::Tree;
use strata::tree::{Dir, text};
use strata::{Error, ErrorKind, Result, Snapshotter, mount};

use super::archive::{archive, docker_archive};

const NONE: &Labels = &BTreeMap::new();

/// The call that removes an image.
pub(crate) const REMOVE_IMAGE: &str = "remove an image";

/// How often the calls of [`Script::round`] are made.
const ROUNDS: u64 = 3;

/// More files than are brought to disk one by one.
const MANY_FILES: u64 = strata::backend::FSYNC_INODES_MAX as u64 + 20;

/// The list of a store: each snapshot, with the digest of its tree if it is committed; and each image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) snapshots: BTreeMap<String, (Kind, Option<Digest>)>,
    pub(crate) images: Vec<String>,
}

impl State {
    pub(crate) fn read(store: &Store) -> Result<Self> {
        Self::read_on(store, &Self::default())
    }

    /// The same of a store that held `known`: what was committed then is not read again, for it does not change.
    fn read_on(store: &Store, known: &Self) -> Result<Self> {
        let digest = |name: &str| match known.snapshots.get(name) {
            Some((Kind::Committed, Some(digest))) => Ok(*digest),
            _ => store.open_tree(name).and_then(|dir| Tree::read(&dir)).map(|tree| text::digest(&tree)),
        };
        let mut infos: Vec<Info> = Vec::new();
        store.walk(&[], &mut |info| {
            infos.push(info.clone());
            Ok(())
        })?;
        let mut snapshots = BTreeMap::new();
        for Info { kind, name, .. } in infos {
            let digest = (kind == Kind::Committed).then(|| digest(&name)).transpose()?;
            snapshots.insert(name, (kind, digest));
        }
        let images = store.images()?.into_iter().map(|image| image.name).collect();
        Ok(Self { snapshots, images })
    }

    /// The reason why `self` cannot be the state of a store that held `before` and was cut off in a call that would
    /// have made it `after`. Only a call of several steps may be done in part, and a snapshot is never there in part.
    pub(crate) fn differs(&self, before: &Self, after: &Self, in_steps: bool) -> Option<String> {
        if self == before || self == after {
            return None;
        }
        for (name, was) in &before.snapshots {
            if after.snapshots.get(name) == Some(was) && self.snapshots.get(name) != Some(was) {
                return Some(format!("{name}: acknowledged as {was:?}, is {:?}", self.snapshots.get(name)));
            }
        }
        for (name, is) in &self.snapshots {
            if before.snapshots.get(name) != Some(is) && after.snapshots.get(name) != Some(is) {
                let (was, would) = (before.snapshots.get(name), after.snapshots.get(name));
                return Some(format!("{name}: is {is:?}, was {was:?}, would be {would:?}"));
            }
        }
        let images = [&before.images, &after.images];
        if in_steps && images.contains(&&self.images) {
            return None;
        }
        Some(format!("neither what was before nor after: {self:?}; {before:?}; {after:?}"))
    }
}

/// A call that was made, and what came of it.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    /// The call, in words.
    pub(crate) call: String,
    /// Whether the call makes several changes.
    pub(crate) in_steps: bool,
    /// Whether the call failed: a call that did not is acknowledged.
    pub(crate) failed: bool,
    /// Where in the log the call ended.
    pub(crate) log_bytes: u64,
    /// The state of the store after the call.
    pub(crate) state: State,
}

/// The disk under the store of a script.
pub(crate) trait Under {
    /// How long the log of the disk is.
    fn log_bytes(&self) -> u64;

    /// Called before the call `number`.
    fn before(&self, number: usize);

    /// Called after a call that failed. Returns whether the failure was to be expected.
    fn failed(&self) -> bool;

    /// Whether another process goes on after a call that failed.
    fn is_left(&self) -> bool;

    /// The store as another process opens it.
    fn open(&self) -> Result<Store>;
}

/// Makes the calls, and notes what came of each.
pub(crate) struct Script<'a> {
    /// `None` where the store could not be opened again.
    store: Option<Store>,
    under: &'a dyn Under,
    random: TestRng,
    made: usize,
    steps: Vec<Step>,
    /// The digest of what was written to each active snapshot, where the disk may fail.
    written: BTreeMap<String, Digest>,
}

impl<'a> Script<'a> {
    /// Runs on `store`; archives lie in `place`, which is not on its disk.
    pub(crate) fn run(store: Store, place: &Path, random: TestRng, under: &'a dyn Under) -> Vec<Step> {
        let mut script =
            Self { store: Some(store), under, random, made: 0, steps: Vec::new(), written: BTreeMap::new() };
        (0..ROUNDS).for_each(|round| script.round(round, place));
        script.steps
    }

    /// Makes a call, and once more if the disk failed it.
    fn call(&mut self, call: impl Into<String>, in_steps: bool, work: impl Fn(&Store) -> Result<()>) {
        let call = call.into();
        self.under.before(self.made);
        self.made += 1;
        if self.attempt(&call, in_steps, &work) {
            return;
        }
        if self.under.is_left() {
            self.store = None;
            // The rest of the script is not made where a file system that was shut down cannot be opened.
            self.store = self.under.open().ok();
        }
        if !self.attempt(&call, in_steps, &work) && call.ends_with(" making") {
            self.attempt("remove making", false, &|store| store.remove("making"));
        }
    }

    /// Makes a call and notes what came of it. Returns whether it succeeded.
    fn attempt(&mut self, call: &str, in_steps: bool, work: &dyn Fn(&Store) -> Result<()>) -> bool {
        let Some(store) = &self.store else { return false };
        let done = work(store);
        let log_bytes = self.under.log_bytes();
        if let Err(error) = &done {
            assert!(self.under.failed(), "{call}: {}", error.chain());
        }
        let nothing = State::default();
        let before = self.steps.last().map_or(&nothing, |last| &last.state);
        let state = match State::read_on(store, before) {
            Ok(state) => state,
            // A file system that was shut down shows nothing.
            Err(_) if self.under.failed() => before.clone(),
            Err(error) => panic!("after {call}: {}", error.chain()),
        };
        self.steps.push(Step { call: call.to_owned(), in_steps, failed: done.is_err(), log_bytes, state });
        done.is_ok()
    }

    fn prepare(&mut self, key: &str, parent: &str) {
        self.call(format!("prepare {key} {parent}"), false, |store| store.prepare(key, parent, NONE).map(drop));
    }

    fn commit(&mut self, name: &str, key: &str) {
        let written = self.written.remove(key);
        self.call(format!("commit {name} {key}"), false, |store| store.commit(name, key, NONE));
        // A file system may forget what it could not write while it still shows the rest.
        let committed = self.steps.last_mut().filter(|step| !step.failed && step.call.starts_with("commit"));
        if let (Some(step), Some(digest)) = (committed, written) {
            step.state.snapshots.insert(name.to_owned(), (Kind::Committed, Some(digest)));
        }
    }

    fn remove(&mut self, key: &str) {
        self.call(format!("remove {key}"), false, |store| store.remove(key));
    }

    fn round(&mut self, round: u64, place: &Path) {
        let name = |what: &str| format!("{what}{round}");
        let (base, child, applied, kept) = (name("base"), name("child"), name("applied"), name("kept"));
        self.prepare("making", "");
        self.write("making", 8);
        self.commit(&base, "making");
        self.prepare("making", &base);
        self.write("making", MANY_FILES);
        self.commit(&child, "making");
        self.prepare(&kept, &child);
        self.write(&kept, 3);
        let layer = archive(&self.files(12));
        self.prepare("making", &child);
        self.call("apply making", true, |store| {
            let produce = &mut |sink: &mut dyn Sink| tar::decode(&mut &layer[..], &Limits::default(), sink).map(drop);
            store.apply("making", produce).map(drop)
        });
        self.commit(&applied, "making");
        self.import(round, place);
        self.call("view sight", false, |store| store.view("sight", &child, NONE).map(drop));
        self.remove("sight");
        self.remove(&applied);
        if round > 0 {
            self.call(REMOVE_IMAGE, false, |store| store.remove_image(&format!("image{}:latest", round - 1)));
        }
        self.call("gc", true, |store| store.gc().map(drop));
    }

    fn import(&mut self, round: u64, place: &Path) {
        let layers = vec![self.files(6), self.files(MANY_FILES)];
        let path = place.join("image.tar");
        fs::write(&path, docker_archive(&[(&format!("image{round}"), layers)])).expect("write the archive");
        let source = Source { place: Place::Path(path), reference: None };
        let options = Options { name: Some(format!("image{round}:latest")), ..Options::default() };
        self.call("import", true, |store| image::import(store, &source, &options, &()).map(drop));
    }

    /// Small files, and one that is larger.
    fn files(&mut self, count: u64) -> Vec<(String, Vec<u8>)> {
        let random = &mut self.random;
        let mut file = |number: u64| {
            let length = if number == 0 { 60_000 } else { random.next_u32() % 3000 };
            let mut bytes = vec![0; length as usize];
            random.fill_bytes(&mut bytes);
            (format!("f{:x}", random.next_u32()), bytes)
        };
        (0..count).map(&mut file).collect()
    }

    /// Writes to `key`, outside any call.
    fn write(&mut self, key: &str, count: u64) {
        let files = self.files(count);
        let Some(store) = &self.store else { return };
        let write = || -> Result<Digest> {
            let dir = Dir::from_fd(mount::detached(&store.mounts(key)?)?, key);
            for (name, bytes) in &files {
                let written = dir.create_file(name)?.write_all(bytes);
                written.map_err(|error| Error::new(ErrorKind::Io, "write").with_source(error))?;
            }
            let tree = store.open_tree(key).and_then(|dir| Tree::read(&dir))?;
            Ok(text::digest(&tree))
        };
        match write() {
            Ok(digest) => drop(self.written.insert(key.to_owned(), digest)),
            Err(error) => assert!(self.under.failed(), "writing to {key}: {}", error.chain()),
        }
    }
}
