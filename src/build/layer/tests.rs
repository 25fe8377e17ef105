//! Two builds that make the same layer at the same time.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use tempfile::TempDir;

use super::*;
use crate::backend::{Backend, Capabilities, Chain, Usage};
use crate::error::Context as _;
use crate::id::Id;
use crate::mount::{Access, Mount};
use crate::store::{Database, Durability, LOCAL};
use crate::tree::{Meta, Node, Xattrs};

/// A backend of plain directories that seals to a fresh id, as btrfs does: a commit then reserves the name first.
#[derive(Debug)]
struct Plain {
    snapshots: PathBuf,
    pause: Option<Pause>,
}

/// Stops a call of `seal` until the test tells its outcome.
#[derive(Debug)]
struct Pause {
    reached: Sender<()>,
    outcome: Mutex<Receiver<bool>>,
}

impl Plain {
    fn dir(&self, id: Id) -> PathBuf {
        self.snapshots.join(id.to_string())
    }
}

impl Backend for Plain {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            name: "plain",
            seals_to_fresh_id: true,
            seal_is_durable: true,
            seal_hides_errors: false,
            create_needs_sync: false,
            create_is_brief: false,
            layers_max: None,
        }
    }

    fn create(&self, id: Id, _parents: &Chain) -> Result<()> {
        fs::create_dir(self.dir(id)).at("make directory", self.dir(id))?;
        // Equal roots, so that both builds make the same layer.
        Dir::open(self.dir(id))?.set_meta("", &Meta::implied_dir())
    }

    fn mounts(&self, stack: &Chain, access: Access) -> Result<Vec<Mount>> {
        Ok(vec![Mount::Bind { source: self.dir(stack[0]), access }])
    }

    fn seal(&self, active: Id, sealed: Id) -> Result<()> {
        if let Some(Pause { reached, outcome }) = &self.pause {
            reached.send(()).expect("the test waits");
            if !outcome.lock().expect("lock").recv().expect("the test tells the outcome") {
                return Err(Error::new(ErrorKind::Io, "the test lets it fail"));
            }
        }
        fs::rename(self.dir(active), self.dir(sealed)).at("rename", self.dir(active))
    }

    fn remove(&self, id: Id) -> Result<()> {
        match fs::remove_dir_all(self.dir(id)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed.at("remove", self.dir(id)),
        }
    }

    fn usage(&self, _id: Id, _parents: &Chain) -> Result<Usage> {
        Ok(Usage::default())
    }

    fn inventory(&self) -> Result<Vec<Id>> {
        let entries = fs::read_dir(&self.snapshots).at("list", &self.snapshots)?;
        entries.map(|entry| entry.at("list", &self.snapshots)?.file_name().to_string_lossy().parse()).collect()
    }
}

/// Opens the store in `root`, with an active snapshot `key` that has one file.
fn store(root: &Path, key: &str, pause: Option<Pause>) -> Store {
    let backend = Plain { snapshots: root.canonicalize().expect("the root").join("s"), pause };
    let database = Database::create(root, Durability::Commit).expect("the database");
    let store = Store::new(database, Box::new(backend), LOCAL).expect("the store");
    store.prepare_layer(key, "").expect("prepare");
    let meta = Meta {
        node: Node::File { size: 0 },
        mode: 0o644,
        uid: 0,
        gid: 0,
        mtime: Timestamp::EPOCH,
        xattrs: Xattrs::new(),
    };
    let put = Change::Put { path: "file".into(), existed: false, meta };
    store.apply(key, &mut |sink| sink.change(&put, &mut io::empty())).expect("apply");
    store
}

/// The build `other` has reserved the ChainID and has not sealed yet: the build `own` waits for the outcome of `other`.
#[test]
fn another_build_makes_the_same_layer() {
    for succeeds in [true, false] {
        let root = TempDir::new().expect("a directory");
        let ((reached, reserved), (tell, outcome)) = (channel(), channel());
        let pause = Pause { reached, outcome: Mutex::new(outcome) };
        let (other, own) = (store(root.path(), "other", Some(pause)), store(root.path(), "own", None));
        let never = Cancel::default();
        let (others, owns) = thread::scope(|scope| {
            let others = scope.spawn(|| commit(&other, "other", None, &never));
            reserved.recv().expect("it seals");
            let owns = scope.spawn(|| commit(&own, "own", None, &never));
            // A build that wrongly does not wait fails within this time. A slow build cannot fail the test.
            for _ in 0..30 {
                if !owns.is_finished() {
                    thread::sleep(Duration::from_millis(10));
                }
            }
            tell.send(succeeds).expect("it waits");
            (others.join().expect("no panic"), owns.join().expect("no panic"))
        });
        assert_eq!(others.is_ok(), succeeds);
        let step = owns.unwrap_or_else(|error| panic!("the other succeeds: {succeeds}: {}", error.chain()));
        let (top, layer) = (step.top.expect("a layer"), step.layer.expect("a layer"));
        assert_eq!(own.diff_id(&top).expect("the layer"), Some(layer.0));
        let left = if succeeds { vec![top] } else { vec!["other".to_owned(), top] };
        let mut names = Vec::new();
        own.walk(&[], &mut |info| {
            names.push(info.name.clone());
            Ok(())
        })
        .expect("walk");
        names.sort();
        assert_eq!(names, left);
    }
}
