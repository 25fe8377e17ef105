//! Building and running, on every strategy, with the OCI runtimes that are installed.

#[path = "../support/random.rs"]
mod random;
#[path = "../support/mod.rs"]
mod support;
#[path = "../support/tally.rs"]
mod tally;

mod binds;
mod cache;
mod copy;
mod debian;
mod docker;
mod dockerfiles;
mod layers;
mod mounts;
mod remotes;
mod run;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use strata::backend::Strategy;
use strata::backends::{self, BTRFS, COPY, Config, OVERLAY};
use strata::build::{Built, Limits, Options, Outcome, Progress, build};
use strata::container::{Network, Runtime};
use strata::door::IngestOptions;
use strata::mount::scratch::{FsType, Scratch};
use strata::snapshotter::{Kind, Snapshotter};
use strata::store::{Durability, Store};
use strata::task::Cancel;
use strata::tree::memory::Tree;

/// A strategy, and the file system that it is tested on.
pub(crate) const MATRIX: [(Strategy, FsType); 3] =
    [(OVERLAY, FsType::Ext4), (BTRFS, FsType::Btrfs), (COPY, FsType::Xfs)];

/// A Dockerfile for an image with the commands of busybox.
const BASE: &str = "FROM scratch\nCOPY busybox /bin/\nRUN [\"/bin/busybox\", \"--install\", \"-s\", \"/bin\"]\n\
                    COPY passwd group /etc/\n";

/// A store with a strategy, and a build context beside it.
#[derive(Debug)]
pub(crate) struct Bench {
    pub(crate) scratch: Scratch,
    pub(crate) strategy: Strategy,
    pub(crate) store: Store,
}

/// The progress of a build, recorded.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    pub(crate) steps: RefCell<Vec<(String, Option<Outcome>)>>,
    pub(crate) output: RefCell<Vec<u8>>,
    pub(crate) warnings: RefCell<Vec<String>>,
}

impl Progress for Heard {
    fn warn(&self, warning: &str) {
        self.warnings.borrow_mut().push(warning.to_owned());
    }

    fn started(&self, _number: usize, _total: usize, _stage: &str, text: &str) {
        self.steps.borrow_mut().push((text.to_owned(), None));
    }

    fn output(&self, bytes: &[u8]) {
        self.output.borrow_mut().extend_from_slice(bytes);
    }

    fn done(&self, _number: usize, outcome: &Outcome) {
        if let Some(last) = self.steps.borrow_mut().last_mut() {
            last.1 = Some(outcome.clone());
        }
    }
}

impl Heard {
    /// The steps that could change files, by their text, with whether they made a layer and whether they were cached.
    pub(crate) fn layers(&self) -> Vec<(String, bool, bool)> {
        let steps = self.steps.borrow();
        let done = steps.iter().filter_map(|(text, outcome)| Some((text.clone(), outcome.clone()?)));
        done.filter(|(_, outcome)| outcome.writes).map(|(text, o)| (text, o.layer.is_some(), o.cached)).collect()
    }
}

/// How a build differs from a plain one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wish<'a> {
    pub(crate) arguments: &'a [(&'a str, &'a str)],
    pub(crate) no_cache: bool,
    pub(crate) explain: bool,
    pub(crate) epoch: Option<i64>,
    pub(crate) runtime: Option<&'a str>,
    pub(crate) secrets: &'a [(&'a str, &'a str)],
    /// The socket of the default agent.
    pub(crate) agent: Option<&'a Path>,
    /// Another context than the bench's.
    pub(crate) context: Option<&'a Path>,
    /// Stops the build.
    pub(crate) cancel: Option<&'a Cancel>,
}

/// The runtime `name`, or the first; `None` (the test must return) where there is none.
pub(crate) fn runtime(name: Option<&str>) -> Option<Runtime> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = Runtime::find(name, &path);
    let gate = name.unwrap_or("oci-runtime");
    support::require(gate, found.as_ref().map(drop).map_err(|error| error.chain())).then(|| found.expect("it is there"))
}

/// A busybox that needs nothing else.
pub(crate) fn busybox() -> Option<PathBuf> {
    let path = Path::new("/bin/busybox");
    let bytes = fs::read(path).unwrap_or_default();
    let linked = |needle: &[u8]| bytes.windows(needle.len()).any(|window| window == needle);
    let usable = match bytes.is_empty() || linked(b"/ld-linux") {
        true => Err("install busybox-static".to_owned()),
        false => Ok(()),
    };
    support::require("busybox", usable).then(|| path.to_owned())
}

impl Bench {
    /// `None` where the machine lacks something that is not required.
    pub(crate) fn new(strategy: Strategy, fs: FsType) -> Option<Self> {
        Self::on(strategy, support::scratch(fs)?)
    }

    /// One on a file system of its own.
    pub(crate) fn on(strategy: Strategy, scratch: Scratch) -> Option<Self> {
        runtime(None)?;
        let busybox = busybox()?;
        let store = Self::open(&scratch, strategy)?;
        let bench = Self { scratch, strategy, store };
        fs::create_dir(bench.context()).expect("mkdir");
        fs::copy(busybox, bench.context().join("busybox")).expect("copy");
        bench.write("passwd", "root:x:0:0::/root:/bin/sh\nalice:x:1000:100::/home/alice:/bin/sh\n");
        bench.write("group", "root:x:0:\nusers:x:100:\nextra:x:200:bob,alice\n");
        bench.build("base", BASE);
        Some(bench)
    }

    pub(crate) fn overlay() -> Option<Self> {
        Self::new(OVERLAY, FsType::Ext4)
    }

    fn open(scratch: &Scratch, backend: Strategy) -> Option<Store> {
        let root = scratch.path().join("store");
        let config = Config { backend: Some(backend), durability: Durability::None, ..Config::new(root) };
        support::gate(backend.name, backends::open(&config))
    }

    /// The same store, as another process opens it.
    pub(crate) fn reopen(&mut self) {
        self.store = Self::open(&self.scratch, self.strategy).expect("open again");
    }

    pub(crate) fn context(&self) -> PathBuf {
        self.scratch.path().join("context")
    }

    /// A file of the context, with a time that is always the same.
    pub(crate) fn write(&self, name: &str, text: &str) {
        let path = self.context().join(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("mkdir");
        fs::write(&path, text).expect("write");
        self.touch(name, 1_000_000_000);
    }

    pub(crate) fn touch(&self, name: &str, seconds: u64) {
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
        let file = fs::File::open(self.context().join(name)).expect("open");
        file.set_modified(time).expect("set the time");
    }

    pub(crate) fn build_with(
        &self,
        name: &str,
        dockerfile: &str,
        wish: &Wish<'_>,
        heard: &dyn Progress,
    ) -> strata::Result<Built> {
        self.build_in(&self.store, name, dockerfile, wish, heard)
    }

    /// Builds in another handle of the store.
    pub(crate) fn build_in(
        &self,
        store: &Store,
        name: &str,
        dockerfile: &str,
        wish: &Wish<'_>,
        heard: &dyn Progress,
    ) -> strata::Result<Built> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let cancel = wish.cancel.cloned().unwrap_or_default();
        let arguments: BTreeMap<_, _> =
            wish.arguments.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let secret = |(id, text): &(&str, &str)| ((*id).to_owned(), text.as_bytes().to_vec());
        let secrets = wish.secrets.iter().map(secret).collect();
        let agents = wish.agent.map(|socket| ("default".to_owned(), socket.to_owned())).into_iter().collect();
        let options = Options {
            name,
            dockerfile,
            file: Path::new("Dockerfile"),
            context: Some(wish.context.map_or_else(|| self.context(), Path::to_owned)),
            arguments,
            target: None,
            no_cache: wish.no_cache,
            explain: wish.explain,
            runtime: &|| Runtime::find(wish.runtime, &path),
            network: Network::Host,
            pids_max: Some(200),
            epoch: wish.epoch,
            secrets: &secrets,
            agents: &agents,
            limits: Limits::default(),
            pull: None,
            ingest: IngestOptions { cancel, ..IngestOptions::default() },
        };
        build(store, &options, heard)
    }

    /// Builds what has to succeed.
    pub(crate) fn build(&self, name: &str, dockerfile: &str) -> (Built, Heard) {
        let heard = Heard::default();
        let built = self.build_with(name, dockerfile, &Wish::default(), &heard);
        let built = built.unwrap_or_else(|error| panic!("{}: {dockerfile}: {}", self.strategy, error.chain()));
        self.assert_clean();
        (built, heard)
    }

    /// The tree of the image `name`.
    pub(crate) fn tree(&self, name: &str) -> Tree {
        let top = self.store.image(name).expect("the image").top.expect("a layer");
        Tree::read(&self.store.open_tree(&top).expect("open the tree")).expect("read the tree")
    }

    /// The config of the image `name`.
    pub(crate) fn config(&self, name: &str) -> serde_json::Value {
        let image = self.store.image(name).expect("the image");
        serde_json::from_slice(&self.store.document(image.config).expect("the config")).expect("JSON")
    }

    /// Nothing is left of a build but layers, and nothing is mounted.
    pub(crate) fn assert_clean(&self) {
        self.store
            .walk(&[], &mut |info| {
                assert_eq!(info.kind, Kind::Committed, "{}: {} is left", self.strategy, info.name);
                Ok(())
            })
            .expect("walk");
        let table = fs::read_to_string("/proc/thread-self/mountinfo").expect("the mount table");
        let store = self.scratch.path().join("store");
        assert!(!table.contains(&*store.to_string_lossy()), "something is mounted:\n{table}");
    }
}

/// Runs `case` on each strategy that this machine can have.
pub(crate) fn on_each(mut case: impl FnMut(&Bench)) {
    for (strategy, fs) in MATRIX {
        if let Some(bench) = Bench::new(strategy, fs) {
            case(&bench);
        }
    }
}
