//! Commands that wait for the disk, and what can be seen of their work.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use strata::container::Network;
use strata::door::IngestOptions;
use strata::id::Digest;
use strata::image::{self, Destination, ExportOptions, Options, Place, Source};
use strata::snapshotter::Labels;
use strata::store::{CheckOptions, RemoveScope, Store};
use strata::tree::memory::Tree;
use strata::tree::{Dir, text};
use strata::{Result, Snapshotter, build, changeset, mount};

use super::script::State;
use super::{OpenStore as _, Setting, settings};

const NONE: &Labels = &BTreeMap::new();

/// Environment variable that tells the child its command: the file system, the number of the setting, the number of the
/// command, the directory of the disk, the directory of what is not on the disk.
pub(crate) const CHILD: &str = "STRATA_TEST_SYNCS";

/// More files than are brought to disk one by one.
const MANY_FILES: usize = strata::backend::FSYNC_INODES_MAX + 20;

/// The time of files that a trial writes.
const TIME: std::time::SystemTime = std::time::UNIX_EPOCH;

/// A command, as the binary takes it and as a program calls it that has the store open.
pub(crate) struct Subject {
    /// Words of the command line, with `{out}` for the directory of exports and `{place}` for that of archives.
    pub(crate) words: &'static str,
    /// Whether the command makes several changes.
    pub(crate) in_steps: bool,
    pub(crate) prepare: fn(&Store) -> Result<()>,
    pub(crate) call: fn(&Store, &Ground) -> Result<()>,
}

pub(crate) const SUBJECTS: &[Subject] = &[
    // The first command makes the store.
    Subject {
        words: "prepare work",
        in_steps: true,
        prepare: |_| Ok(()),
        call: |store, _| store.prepare("work", "", NONE).map(drop),
    },
    Subject {
        words: "prepare work base",
        in_steps: false,
        prepare: |_| Ok(()),
        call: |store, _| store.prepare("work", "base", NONE).map(drop),
    },
    Subject {
        words: "view sight base",
        in_steps: false,
        prepare: |_| Ok(()),
        call: |store, _| store.view("sight", "base", NONE).map(drop),
    },
    Subject {
        words: "commit done work",
        in_steps: false,
        prepare: |store| written(store, "work", 3),
        call: |store, _| store.commit("done", "work", NONE),
    },
    Subject {
        words: "commit many work",
        in_steps: false,
        prepare: |store| written(store, "work", MANY_FILES),
        call: |store, _| store.commit("many", "work", NONE),
    },
    Subject {
        words: "label base role=test",
        in_steps: false,
        prepare: |_| Ok(()),
        call: |store, _| {
            let mut info = store.stat("base")?;
            info.labels.insert("role".to_owned(), "test".to_owned());
            store.update(&info, &["labels.role"]).map(drop)
        },
    },
    Subject {
        words: "rm work",
        in_steps: false,
        prepare: |store| store.prepare("work", "base", NONE).map(drop),
        call: |store, _| store.remove("work"),
    },
    Subject {
        words: "rm -r --wait base",
        in_steps: true,
        prepare: |store| store.prepare("work", "base", NONE).map(drop),
        call: |store, _| store.remove_with("base", RemoveScope::WithDescendants).and_then(|_| store.cleanup()),
    },
    Subject {
        words: "apply work {place}/layer.tar",
        in_steps: false,
        prepare: |store| store.prepare("work", "base", NONE).map(drop),
        call: |store, ground| {
            let layer = fs::read(ground.place.join("layer.tar")).expect("read");
            let limits = changeset::tar::Limits::default();
            let produce =
                &mut |sink: &mut dyn changeset::Sink| changeset::tar::decode(&mut &layer[..], &limits, sink).map(drop);
            store.apply("work", produce).map(drop)
        },
    },
    Subject {
        words: "import {place}/new.tar",
        in_steps: true,
        prepare: |_| Ok(()),
        call: |store, ground| ground.import(store, "new.tar"),
    },
    Subject {
        words: "rmi image:latest",
        in_steps: true,
        prepare: |_| Ok(()),
        call: |store, _| store.remove_image("image:latest"),
    },
    Subject {
        words: "gc",
        in_steps: true,
        prepare: |store| store.remove_image("image:latest"),
        call: |store, _| store.gc().map(drop),
    },
    Subject {
        words: "check --record",
        in_steps: true,
        prepare: |_| Ok(()),
        call: |store, _| store.check(&CheckOptions { record: true, ..CheckOptions::default() }).map(drop),
    },
    Subject {
        words: "build -t built:latest --no-cache {place}/context",
        in_steps: true,
        prepare: |_| Ok(()),
        call: |store, ground| ground.build(store),
    },
    Subject {
        words: "export image:latest oci:{out}/layout",
        in_steps: false,
        prepare: |_| Ok(()),
        call: |store, ground| ground.export(store, "oci", "layout"),
    },
    Subject {
        words: "export image:latest oci-archive:{out}/oci.tar",
        in_steps: false,
        prepare: |_| Ok(()),
        call: |store, ground| ground.export(store, "oci-archive", "oci.tar"),
    },
    Subject {
        words: "export image:latest docker-archive:{out}/docker.tar",
        in_steps: false,
        prepare: |_| Ok(()),
        call: |store, ground| ground.export(store, "docker-archive", "docker.tar"),
    },
];

/// The Dockerfile of the build: layers that hold files, and a step that makes none.
pub(crate) const DOCKERFILE: &str = "FROM image:latest\nCOPY one /one\nLABEL a=b\nCOPY two /two\n";

/// Where the store of a trial is, and what is beside it.
pub(crate) struct Ground {
    pub(crate) setting: Setting,
    /// The file system of the store and of exports.
    pub(crate) disk: PathBuf,
    /// Archives and the context of a build, on another one.
    pub(crate) place: PathBuf,
    pub(crate) subject: usize,
}

impl Ground {
    pub(crate) fn root(&self) -> PathBuf {
        self.disk.join(if self.subject == 0 { "fresh" } else { "store" })
    }

    pub(crate) fn store(&self) -> Result<Store> {
        self.setting.store(&self.root())
    }

    pub(crate) fn import(&self, store: &Store, name: &str) -> Result<()> {
        let source = Source { place: Place::Path(self.place.join(name)), reference: None };
        image::import(store, &source, &Options::default(), &()).map(drop)
    }

    fn export(&self, store: &Store, form: &str, name: &str) -> Result<()> {
        let destination = format!("{form}:{}", self.disk.join("out").join(name).display());
        let destination = Destination::parse(destination.as_ref())?;
        image::export(store, "image:latest", &destination, &ExportOptions::default(), &()).map(drop)
    }

    fn build(&self, store: &Store) -> Result<()> {
        let (secrets, agents) = (BTreeMap::new(), BTreeMap::new());
        let options = build::Options {
            name: "built:latest",
            dockerfile: DOCKERFILE,
            file: Path::new("Dockerfile"),
            context: Some(self.place.join("context")),
            arguments: BTreeMap::new(),
            target: None,
            no_cache: true,
            explain: false,
            runtime: &|| Err(strata::Error::not_found("a runtime")),
            network: Network::Host,
            pids_max: None,
            epoch: None,
            secrets: &secrets,
            agents: &agents,
            limits: build::Limits::default(),
            pull: None,
            ingest: IngestOptions::default(),
        };
        build::build(store, &options, &()).map(drop)
    }

    /// The command as users type it.
    pub(crate) fn binary(&self) -> Command {
        let out = self.disk.join("out");
        let word = |word: &str| {
            word.replace("{out}", out.to_str().expect("UTF-8")).replace("{place}", self.place.to_str().expect("UTF-8"))
        };
        let mut command = Command::new(env!("CARGO_BIN_EXE_strata"));
        command.args(["--backend", self.setting.strategy.name]);
        for (name, value) in self.setting.variant.options {
            command.args([&format!("--{name}"), *value]);
        }
        command.args(SUBJECTS[self.subject].words.split(' ').map(word));
        command.env("STRATA_ROOT", self.root()).env("TMPDIR", &self.place).env_remove("STRATA_LOG");
        command
    }

    /// A program that makes the call, and once more with the same store if it is refused.
    pub(crate) fn program(&self) -> Command {
        let Setting { fs, .. } = self.setting;
        let number = settings(fs).iter().position(|setting| setting.to_string() == self.setting.to_string());
        let (disk, place) = (self.disk.display(), self.place.display());
        let order = format!("{fs} {} {} {disk} {place}", number.expect("a setting"), self.subject);
        let mut command = Command::new(std::env::current_exe().expect("this test"));
        command.args(["--exact", "syncs::child", "--ignored", "--nocapture"]);
        command.env(CHILD, order).env("TMPDIR", &self.place);
        command
    }

    /// Reads the effect of the command.
    pub(crate) fn effect(&self) -> Result<Effect> {
        let store = self.store()?;
        store.cleanup()?;
        let state = State::read(&store)?;
        let has_layer = SUBJECTS[self.subject].words.starts_with("apply");
        let work = match has_layer && state.snapshots.contains_key("work") {
            true => Some(text::digest(&Tree::read(&store.open_tree("work")?)?)),
            false => None,
        };
        let label = match state.snapshots.contains_key("base") {
            true => store.stat("base")?.labels.contains_key("role"),
            false => false,
        };
        Ok(Effect { state, work, label, exported: exported(&self.disk.join("out")) })
    }
}

/// Makes `key` on `base` with files in it that nobody brought to disk.
fn written(store: &Store, key: &str, count: usize) -> Result<()> {
    store.prepare(key, "base", NONE)?;
    let dir = Dir::from_fd(mount::detached(&store.mounts(key)?)?, key);
    for number in 0..count {
        let mut file = dir.create_file(format!("file{number}"))?;
        file.write_all(&vec![number as u8; 3000]).expect("write");
        file.set_modified(TIME).expect("set the time");
    }
    // The digest of a tree has the times in it.
    File::from(dir.into_fd()).set_modified(TIME).expect("set the time");
    Ok(())
}

/// The state of the store, and the files that were exported.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Effect {
    pub(crate) state: State,
    /// The digest of the snapshot that a layer was applied to.
    work: Option<Digest>,
    label: bool,
    pub(crate) exported: BTreeMap<PathBuf, Digest>,
}

/// The digest of each file below `dir`, but for files in the making.
fn exported(dir: &Path) -> BTreeMap<PathBuf, Digest> {
    let (mut found, mut dirs) = (BTreeMap::new(), vec![dir.to_owned()]);
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten() {
            let path = entry.expect("an entry").path();
            if path.to_string_lossy().ends_with(".partial") {
                continue;
            }
            if path.is_dir() {
                dirs.push(path);
            } else {
                let digest = Digest::of(&fs::read(&path).expect("read"));
                found.insert(path, digest);
            }
        }
    }
    found.into_iter().map(|(path, digest)| (path.strip_prefix(dir).expect("below").to_owned(), digest)).collect()
}
