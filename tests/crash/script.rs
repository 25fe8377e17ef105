//! What a store is asked for before it is cut off, and what it must hold afterwards.

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
use strata::{Result, Snapshotter, mount};

use super::archive::{archive, docker_archive};

const NONE: &Labels = &BTreeMap::new();

/// How often the calls of [`Script::round`] are made.
const ROUNDS: u64 = 3;

/// More files than are brought to disk one by one.
const MANY_FILES: u64 = strata::backend::FSYNC_INODES_MAX as u64 + 20;

/// What a store lists: each snapshot, with the digest of its tree if it is committed; and each image.
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

    /// What speaks against `self` being what is left of a store that held `before` and was cut off in a call that would
    /// have made it `after`. Only a call of several steps may be there in part, and never a snapshot in part.
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

/// A call that was acknowledged.
#[derive(Clone, Debug)]
pub(crate) struct Acknowledged {
    /// What was asked for.
    pub(crate) call: String,
    /// Whether it makes several changes.
    pub(crate) in_steps: bool,
    /// Where in the log that was.
    pub(crate) log_bytes: u64,
    /// What the store held then.
    pub(crate) state: State,
}

/// Makes the calls, and notes what was acknowledged when.
pub(crate) struct Script<'a> {
    store: &'a Store,
    log_bytes: &'a dyn Fn() -> u64,
    random: TestRng,
    acknowledged: Vec<Acknowledged>,
}

impl<'a> Script<'a> {
    /// Runs on `store`; archives lie in `place`, which is not on its disk.
    pub(crate) fn run(
        store: &'a Store,
        place: &Path,
        random: TestRng,
        log_bytes: &'a dyn Fn() -> u64,
    ) -> Vec<Acknowledged> {
        let mut script = Self { store, log_bytes, random, acknowledged: Vec::new() };
        (0..ROUNDS).for_each(|round| script.round(round, place));
        script.acknowledged
    }

    fn call(&mut self, call: impl Into<String>, in_steps: bool, work: impl FnOnce(&Store) -> Result<()>) {
        let call = call.into();
        work(self.store).unwrap_or_else(|error| panic!("{call}: {}", error.chain()));
        let log_bytes = (self.log_bytes)();
        let nothing = State::default();
        let before = self.acknowledged.last().map_or(&nothing, |last| &last.state);
        let state =
            State::read_on(self.store, before).unwrap_or_else(|error| panic!("after {call}: {}", error.chain()));
        self.acknowledged.push(Acknowledged { call, in_steps, log_bytes, state });
    }

    fn prepare(&mut self, key: &str, parent: &str) {
        self.call(format!("prepare {key} {parent}"), false, |store| store.prepare(key, parent, NONE).map(drop));
    }

    fn commit(&mut self, name: &str, key: &str) {
        self.call(format!("commit {name} {key}"), false, |store| store.commit(name, key, NONE));
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
            self.call("remove an image", false, |store| store.remove_image(&format!("image{}:latest", round - 1)));
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

    fn write(&mut self, key: &str, count: u64) {
        let files = self.files(count);
        let write = || -> Result<()> {
            let dir = Dir::from_fd(mount::detached(&self.store.mounts(key)?)?, key);
            for (name, bytes) in &files {
                dir.create_file(name)?.write_all(bytes).expect("write");
            }
            Ok(())
        };
        write().unwrap_or_else(|error| panic!("writing to {key}: {}", error.chain()));
    }
}
