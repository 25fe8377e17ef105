//! The snapshot is found however its mounts are spelled, and no other one is.

use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use super::*;
use crate::backend::Strategy as Chosen;
use crate::backends::{self, COPY, Config, OVERLAY};
use crate::containerd::convert;
use crate::error::ErrorKind;
use crate::snapshotter::{Labels, Snapshotter as _};
use crate::testing;

/// Options that change no layer: a client may add them, once or twice, anywhere.
const ADDED: [&str; 16] = [
    "index=off",
    "index=on",
    "redirect_dir=off",
    "redirect_dir=nofollow",
    "userxattr",
    "volatile",
    "xino=off",
    "metacopy=off",
    "noexec",
    "nodev",
    "rw",
    "uidmap=0:100000:65536",
    "gidmap=0:100000:65536",
    "X-containerd.custom=/elsewhere",
    "workdir=/elsewhere",
    "index=off,xino=off",
];

/// A store with the active snapshots `top` and `other` and the view `look` on `middle` on `base`, and `first` on
/// nothing.
fn store(dir: &Path, backend: Chosen) -> Option<Store> {
    let config = Config { backend: Some(backend), ..Config::new(dir.join("store")) };
    let store = testing::gate(backend.name, backends::open(&config))?;
    let none = Labels::new();
    for (name, parent) in [("base", ""), ("middle", "base")] {
        store.prepare("making", parent, &none).expect("prepare");
        store.commit(name, "making", &none).expect("commit");
    }
    for key in ["top", "other"] {
        store.prepare(key, "middle", &none).expect("prepare");
    }
    store.prepare("first", "", &none).expect("prepare");
    store.view("look", "middle", &none).expect("view");
    Some(store)
}

/// Runs `test` on a store of each strategy that needs nothing of the machine but a directory.
fn on_each(test: impl Fn(&Store)) {
    for backend in [OVERLAY, COPY] {
        let dir = tempfile::tempdir().expect("a directory");
        if let Some(store) = store(dir.path(), backend) {
            test(&store);
        }
    }
}

fn mount_of(store: &Store, key: &str) -> types::Mount {
    convert::mounts(&store.mounts(key).expect("mounts")).remove(0)
}

fn says_layers(option: &str) -> bool {
    ["upperdir=", "lowerdir=", "datadir+="].iter().any(|name| option.starts_with(name))
}

/// `mount` as a client may spell it: what says no layer is there or not, anything is there once or twice, in any order.
fn spelled(mount: &types::Mount) -> impl Strategy<Value = types::Mount> + use<> {
    let (layers, others): (Vec<_>, Vec<_>) = mount.options.iter().cloned().partition(|option| says_layers(option));
    let read_only = others.iter().any(|option| option == "ro");
    let others: Vec<_> = others.into_iter().filter(|option| option != "ro").collect();
    let added: Vec<_> = ADDED.iter().filter(|option| !read_only || **option != "rw").map(|&o| o.to_owned()).collect();
    let (count, repeated) = (others.len(), layers.clone());
    let parts = (
        subsequence(others, 0..=count),
        proptest::collection::vec(select(added), 0..6),
        subsequence(repeated.clone(), 0..=repeated.len()),
    );
    let mount = mount.clone();
    parts
        .prop_map(move |(kept, added, again)| {
            let ro = read_only.then(|| "ro".to_owned());
            [layers.clone(), kept, added, again, ro.into_iter().collect()].concat()
        })
        .prop_shuffle()
        .prop_map(move |options| types::Mount { options, ..mount.clone() })
}

/// Runs `check` with many spellings of `mount`.
fn each_spelling(mount: &types::Mount, check: impl Fn(&types::Mount)) {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let checked = runner.run(&spelled(mount), |mount| {
        check(&mount);
        Ok(())
    });
    checked.expect("every spelling");
}

#[test]
fn any_spelling_leads_to_the_snapshot() {
    on_each(|store| {
        for (key, seen) in [("top", "top"), ("other", "other"), ("first", "first"), ("look", "middle")] {
            each_spelling(&mount_of(store, key), |mount| {
                let found =
                    shown(store, std::slice::from_ref(mount)).unwrap_or_else(|error| panic!("{mount:?}: {error}"));
                assert_eq!(found.name, seen, "{mount:?}");
                let written = written(store, std::slice::from_ref(mount)).map(|info| info.name);
                match key {
                    "look" => assert_eq!(written.expect_err("read-only").kind(), ErrorKind::FailedPrecondition),
                    _ => assert_eq!(written.expect("an active one"), seen, "{mount:?}"),
                }
            });
        }
    });
}

/// `mount` with `change` made to each of its options.
fn changed(mount: &types::Mount, change: impl Fn(&str) -> Option<String>) -> types::Mount {
    let options = mount.options.iter().filter_map(|option| change(option)).collect();
    types::Mount { options, ..mount.clone() }
}

#[test]
fn other_layers_are_another_thing() {
    let dir = tempfile::tempdir().expect("a directory");
    let Some(store) = store(dir.path(), OVERLAY) else { return };
    let (top, other) = (mount_of(&store, "top"), mount_of(&store, "other"));
    let lowers = |option: &str| option.strip_prefix("lowerdir=").map(str::to_owned);
    let value = |mount: &types::Mount, name: &str| {
        mount.options.iter().find_map(|option| option.strip_prefix(name)).expect(name).to_owned()
    };
    let lower = value(&top, "lowerdir=");
    let (near, far) = lower.split_once(':').expect("two lowers");
    let spelled =
        |lower: String| changed(&top, |o| Some(lowers(o).map_or(o.to_owned(), |_| format!("lowerdir={lower}"))));
    let upper = value(&other, "upperdir=");
    let wrong = [
        ("a lower is missing", spelled(near.to_owned())),
        ("in another order", spelled(format!("{far}:{near}"))),
        ("one more", spelled(format!("{lower}:/etc"))),
        ("one twice", spelled(format!("{near}:{near}:{far}"))),
        ("another one", spelled(format!("/etc:{far}"))),
        ("an empty one", spelled(format!("{lower}:"))),
        ("no lower", changed(&top, |o| (!o.starts_with("lowerdir=")).then(|| o.to_owned()))),
        ("two uppers", changed(&top, |o| Some(format!("{o},")).map(|o| o.trim_end_matches(',').to_owned()))),
        (
            "a foreign upper",
            changed(&top, |o| Some(o.strip_prefix("upperdir=").map_or(o.to_owned(), |_| "upperdir=/etc".into()))),
        ),
        ("data of others", changed(&top, |o| Some(o.replace("index=off", "datadir+=/etc")))),
    ];
    for (what, mount) in wrong.into_iter().map(|(what, mut mount)| {
        if what == "two uppers" {
            mount.options.push(format!("upperdir={upper}"));
        }
        (what, mount)
    }) {
        each_spelling(&mount, |mount| {
            let error = shown(&store, std::slice::from_ref(mount)).expect_err(what);
            assert_eq!(error.kind(), ErrorKind::FailedPrecondition, "{what}: {mount:?}");
        });
    }
    let by_lowers = changed(&top, |option| match option.strip_prefix("upperdir=") {
        Some(_) => None,
        None => Some(
            lowers(option).map_or(option.to_owned(), |lower| format!("lowerdir={}:{lower}", value(&top, "upperdir="))),
        ),
    });
    let found = shown(&store, std::slice::from_ref(&by_lowers)).expect("the same layers, to be read");
    assert_eq!(found.name, "top");
    assert!(written(&store, &[by_lowers]).is_err(), "nobody can write to it");
}

#[test]
fn mounts_of_others_are_left_to_others() {
    on_each(|store| {
        let mount = |kind: &str, source: &str, options: &[&str]| types::Mount {
            r#type: kind.into(),
            source: source.into(),
            target: String::new(),
            options: options.iter().map(|&option| option.into()).collect(),
        };
        let overlay = ["workdir=/elsewhere/3/work", "upperdir=/elsewhere/3/fs", "lowerdir=/elsewhere/2/fs"];
        for foreign in [
            vec![],
            vec![mount("bind", "/elsewhere/1/fs", &["rbind", "rw"])],
            vec![mount("overlay", "overlay", &overlay)],
            vec![mount("ext4", "/dev/loop0", &["ro"]), mount("erofs", "/elsewhere/layer", &[])],
            vec![mount("overlay", "overlay", &[])],
        ] {
            assert_eq!(shown(store, &foreign).expect_err("not ours").kind(), ErrorKind::Unsupported, "{foreign:?}");
        }
        let own = mount_of(store, "first");
        for strange in [
            vec![own.clone(), own.clone()],
            vec![types::Mount { target: "etc".into(), ..own.clone() }],
            vec![mount("ext4", &own.source, &["loop"])],
            vec![mount("bind", &format!("{}/inside", own.source), &["rbind"])],
            vec![mount("bind", store.root().to_str().expect("a path"), &["rbind"])],
        ] {
            let kind = shown(store, &strange).expect_err("no snapshot").kind();
            assert_eq!(kind, ErrorKind::FailedPrecondition, "{strange:?}");
        }
    });
}

/// A daemon answers for its owner only; another differ must not take what belongs to another owner either.
#[test]
fn snapshots_of_another_owner_are_not_found() {
    let dir = tempfile::tempdir().expect("a directory");
    let Some(store) = store(dir.path(), COPY) else { return };
    let own = mount_of(&store, "top");
    let config = Config { owner: "second".into(), ..Config::new(dir.path().join("store")) };
    let second = backends::open(&config).expect("open");
    let error = shown(&second, &[own]).expect_err("it is the first one's");
    assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
}
