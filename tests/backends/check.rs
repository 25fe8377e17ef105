//! Reads layers on real file systems and compares them with their digests.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, lchown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use rustix::fs::XattrFlags;
use strata::Snapshotter;
use strata::backends::{BTRFS, COPY};
use strata::changeset::Sink;
use strata::changeset::tar::{Limits, decode};
use strata::door::{EmitOptions, emit};
use strata::id::{DiffId, Digest};
use strata::snapshotter::Labels;
use strata::store::{CheckOptions, Checked, CommitOptions, Flush, Judged, Origin, Problem, Remedy, Store, UNVERIFIED};
use strata::task::Cancel;

use super::lifecycle::write;
use super::{Bench, on_each};

const NONE: &Labels = &BTreeMap::new();

fn deep() -> CheckOptions {
    CheckOptions { deep: true, ..CheckOptions::default() }
}

/// Creates `base` and `child`, each with a file of the same name.
fn furnished(bench: &Bench) -> Store {
    let store = bench.store("store");
    for (name, parent) in [("base", ""), ("child", "base")] {
        store.prepare("making", parent, NONE).expect("prepare");
        write(&store, "making", name, b"as it was");
        store.commit(name, "making", NONE).expect("commit");
    }
    store.cleanup().expect("cleanup");
    store
}

/// Returns the directory of the layer of the `number`th created snapshot.
fn layer(store: &Store, number: usize) -> PathBuf {
    let mut ids = store.backend().inventory().expect("inventory");
    ids.sort();
    let id = ids[number];
    let dir = store.root().join("s").join(id.to_string());
    let inner = dir.join("fs");
    if inner.is_dir() { inner } else { dir }
}

fn check(store: &Store, options: CheckOptions) -> Checked {
    store.check(&options).expect("check")
}

#[test]
fn bit_rot_is_found() {
    on_each(|bench| {
        let store = furnished(bench);
        let who = bench.setting.name();
        let unknown = check(&store, deep());
        assert!(
            matches!(&unknown.findings[..], [a, b] if [a, b].iter().all(|f| matches!(f.problem, Problem::Unknown(_))))
        );
        let recorded = check(&store, CheckOptions { record: true, ..CheckOptions::default() });
        assert_eq!((recorded.recorded, recorded.findings.len()), (2, 0), "{who}");
        let sound = check(&store, deep());
        assert_eq!((sound.verified, sound.findings), (2, Vec::new()), "{who}");
        let dir = layer(&store, 1);
        thaw(bench, &dir);
        // Neither the size nor the time changes.
        let file = dir.join("child");
        let time = fs::metadata(&file).and_then(|stat| stat.modified()).expect("stat");
        fs::write(&file, b"as it wAs").expect("write");
        fs::File::options().write(true).open(&file).and_then(|file| file.set_modified(time)).expect("set the time");
        let rotten = check(&store, deep());
        assert_eq!((rotten.verified, rotten.damaged()), (1, 1), "{who}: {rotten:?}");
        let finding = &rotten.findings[0];
        assert!(
            matches!(&finding.problem, Problem::Content { snapshot, .. } if snapshot.name == "child"),
            "{finding:?}"
        );
        assert!(matches!(finding.remedy, Remedy::None(_)), "nobody brings it again");
        store.repair(&rotten.findings).expect("repair");
        assert_eq!(check(&store, deep()), rotten, "what a user made is the user's to remove");
    });
}

/// A layer that was imported from an archive with another encoding is verified in that encoding.
#[test]
fn rot_in_an_imported_layer_is_found() {
    on_each(|bench| {
        let (store, who) = (bench.store("store"), bench.setting.name());
        let diff_id = imported(&store, "layer", "", &small_archive(&[("file", tar::EntryType::Regular)]));
        let sound = check(&store, deep());
        assert_eq!((sound.verified, sound.findings), (1, Vec::new()), "{who}");
        let dir = layer(&store, 0);
        thaw(bench, &dir);
        fs::write(dir.join("file"), b"as it wAs").expect("write");
        let rotten = check(&store, deep());
        let [finding] = &rotten.findings[..] else { panic!("{who}: {rotten:?}") };
        assert!(matches!(finding.problem, Problem::Content { recorded, .. } if recorded == diff_id), "{finding:?}");
    });
}

/// A kind of damage: its name, the function that damages a layer's directory, and the paths in the finding.
type Befall = (&'static str, fn(&Path), &'static [&'static str]);

/// Damage that no file content shows is found by comparison with a tree made anew from the layer.
#[test]
fn what_befell_an_imported_tree_is_found() {
    let befalls: [Befall; 7] = [
        (
            "a mode",
            |dir| fs::set_permissions(dir.join("file"), Permissions::from_mode(0o600)).expect("chmod"),
            &["dir/link", "file"],
        ),
        ("an owner", |dir| lchown(dir.join("dir"), Some(7), Some(7)).expect("chown"), &["dir"]),
        ("a time", |dir| set_time(&dir.join("file"), 12345), &["dir/link", "file"]),
        (
            "an attribute",
            |dir| rustix::fs::setxattr(dir.join("file"), "security.x", b"y", XattrFlags::empty()).expect("setxattr"),
            &["dir/link", "file"],
        ),
        (
            "a link less",
            |dir| {
                fs::remove_file(dir.join("dir/link"))
                    .and_then(|()| fs::write(dir.join("dir/link"), "as it was"))
                    .expect("write")
            },
            &["dir", "dir/link", "file"],
        ),
        (
            "what comes back",
            // Removes a whiteout, if there is one.
            |dir| {
                let file = dir.join("lower");
                fs::remove_file(&file).or_else(|_| fs::write(&file, "as it was")).expect("write");
            },
            &["", "lower"],
        ),
        ("a file more", |dir| fs::write(dir.join("more"), "").expect("write"), &["", "more"]),
    ];
    on_each(|bench| {
        let (store, who) = (bench.store("store"), bench.setting.name());
        imported(&store, "base", "", &small_archive(&[("lower", tar::EntryType::Regular)]));
        let whiteout = (".wh.lower", tar::EntryType::Regular);
        for (number, (what, befall, paths)) in befalls.iter().enumerate() {
            let name = format!("layer{number}");
            let entries = [
                ("file", tar::EntryType::Regular),
                ("dir/", tar::EntryType::Directory),
                whiteout,
                ("dir/link", tar::EntryType::Link),
            ];
            imported(&store, &name, "base", &small_archive(&entries));
            let sound = check(&store, deep());
            assert_eq!((sound.damaged(), sound.findings.len()), (number, number), "{who}, before {what}: {sound:?}");
            let dir = layer(&store, number + 1);
            thaw(bench, &dir);
            befall(&dir);
            let rotten = check(&store, deep());
            let found = rotten.findings.iter().find_map(|finding| match &finding.problem {
                Problem::Tree { snapshot, paths } if snapshot.name == name => Some((paths, &finding.remedy)),
                _ => None,
            });
            let (found, remedy) = found.unwrap_or_else(|| panic!("{who}, {what}: {rotten:?}"));
            assert_eq!(
                found.iter().map(|path| path.to_str().expect("text")).collect::<Vec<_>>(),
                *paths,
                "{who}, {what}"
            );
            assert!(matches!(remedy, Remedy::ImportAgain { .. }), "{who}, {what}: {remedy:?}");
        }
        let rotten = check(&store, deep());
        assert_eq!(store.repair(&rotten.findings).expect("repair").snapshots.len(), befalls.len(), "{who}");
        assert_eq!(check(&store, deep()).findings, [], "{who}: nothing of the checks is left");
        assert_eq!(store.backend().inventory().expect("inventory").len(), 1, "{who}");
    });
}

fn small_archive(entries: &[(&str, tar::EntryType)]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (path, kind) in entries {
        let content: &[u8] =
            if *kind == tar::EntryType::Regular && !path.contains(".wh.") { b"as it was" } else { b"" };
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(*kind);
        header.set_size(content.len() as u64);
        header.set_mode(0o755);
        header.set_mtime(1);
        if *kind == tar::EntryType::Link {
            archive.append_link(&mut header, path, "file").expect("memory");
        } else {
            archive.append_data(&mut header, path, content).expect("memory");
        }
    }
    archive.into_inner().expect("memory")
}

/// Commits `archive` as an import does.
fn imported(store: &Store, name: &str, parent: &str, archive: &[u8]) -> DiffId {
    let (diff_id, limits) = (Digest::of(archive), Limits::default());
    store.prepare_layer("making", parent).expect("prepare");
    store.apply_layer("making", &mut |sink| decode(&mut &archive[..], &limits, sink).map(drop)).expect("apply");
    let options = CommitOptions { flush: Flush::Now, origin: Origin::Image, diff_id: Some(diff_id) };
    store.commit_with(name, "making", NONE, options).expect("commit");
    store.cleanup().expect("cleanup");
    diff_id
}

/// Makes a sealed layer writable.
fn thaw(bench: &Bench, dir: &Path) {
    if bench.setting.strategy == BTRFS {
        let thaw = Command::new("btrfs").args(["property", "set", "-f"]).arg(dir).args(["ro", "false"]).status();
        assert!(thaw.expect("btrfs").success());
    }
}

fn set_time(path: &Path, seconds: u64) {
    let file = fs::File::options().write(true).open(path).expect("open");
    file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)).expect("set the time");
}

#[test]
fn an_unreadable_layer_is_named_with_the_path() {
    on_each(|bench| {
        if bench.setting.strategy != COPY {
            return;
        }
        let store = furnished(bench);
        let options =
            CommitOptions { flush: Flush::Now, origin: Origin::Image, diff_id: Some(Digest::of(b"an archive")) };
        store.prepare("making", "", NONE).expect("prepare");
        store.commit_with("layer", "making", NONE, options).expect("commit");
        let record = CheckOptions { deep: true, record: true, ..CheckOptions::default() };
        let other = check(&store, record);
        let [finding] = &other.findings[..] else { panic!("{other:?}") };
        assert!(matches!(finding.problem, Problem::Content { .. }), "it is not what it was committed as: {finding:?}");
        assert!(matches!(finding.remedy, Remedy::None(_)), "no import brings it again: {finding:?}");
        // A device 0:0 stands in for an unreadable file, because no tree may contain it.
        let path = layer(&store, 2).join("lost");
        assert!(Command::new("mknod").arg(&path).args(["c", "0", "0"]).status().expect("mknod").success());
        let damaged = check(&store, deep());
        let [finding] = &damaged.findings[..] else { panic!("{damaged:?}") };
        let Problem::Unreadable { snapshot, why } = &finding.problem else { panic!("{finding:?}") };
        assert!(snapshot.name == "layer" && why.contains("lost"), "{why}");
        assert_eq!(store.repair(&damaged.findings).expect("repair").snapshots, ["layer"]);
        assert_eq!(check(&store, deep()).findings, []);
    });
}

#[test]
fn a_check_can_be_called_off() {
    on_each(|bench| {
        let store = furnished(bench);
        let cancel = Cancel::default();
        cancel.request();
        let options = CheckOptions { deep: true, record: true, cancel };
        let error = store.check(&options).expect_err("called off");
        assert_eq!(error.kind(), strata::ErrorKind::Cancelled);
    });
}

/// The caller of the commit decides whether the snapshot is exactly the layer that was applied to it.
#[test]
fn a_layer_is_known_if_the_committer_says_so() {
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_mode(0o640);
    header.set_size(7);
    archive.append_data(&mut header, "file", &b"content"[..]).expect("memory");
    let layer = archive.into_inner().expect("memory");
    let diff_id = Digest::of(&layer);
    on_each(|bench| {
        let (store, who) = (bench.store("store"), bench.setting.name());
        let apply = |key: &str| {
            store.prepare(key, "", NONE).expect("prepare");
            let mut produce =
                |sink: &mut dyn Sink| decode(&mut &layer[..], &Limits::default(), sink).map(|_| Digest::of(&layer));
            store.apply_named_layer(key, &mut produce).expect("apply");
            assert_eq!(store.diff_id(key).expect("stat"), None, "{who}: it may still change");
        };
        for (name, known) in [(format!("default/3/{diff_id}"), Some(diff_id)), ("app".to_owned(), None)] {
            apply("making");
            let judge =
                |applied: Option<Digest>, _: Option<&str>| Ok(Judged { layer: applied.and(known), unverified: false });
            let judged = store.commit_judged(&name, "making", NONE, &judge).expect("commit");
            assert_eq!(judged.layer, known, "{who}: {name}");
            assert_eq!(store.diff_id(&name).expect("stat"), known, "{who}: {name}");
        }
        let mut again = Vec::new();
        let name = format!("default/3/{diff_id}");
        emit(&store, &name, &EmitOptions::default(), &mut again).expect("write");
        assert!(again == layer, "{who}: byte for byte");
        // Changes that are applied afterwards without a layer are not in the layer.
        apply("mixed");
        store.apply("mixed", &mut |sink| decode(&mut &layer[..], &Limits::default(), sink).map(drop)).expect("apply");
        let all =
            |applied: Option<Digest>, _: Option<&str>| Ok(Judged { layer: applied, unverified: applied.is_none() });
        store.commit_judged("mixture", "mixed", NONE, &all).expect("commit");
        assert_eq!(store.diff_id("mixture").expect("stat"), None, "{who}");
        assert!(store.stat("mixture").expect("stat").labels.contains_key(UNVERIFIED), "{who}");
        // A file that was changed in addition is found, because the commit claims that it is unchanged.
        apply("touched");
        let dir = PathBuf::from(store.mounts("touched").expect("mounts")[0].source());
        fs::write(dir.join("file"), b"changed").expect("write");
        store.commit_judged("changed", "touched", NONE, &all).expect("commit");
        let checked = check(&store, deep());
        assert_eq!((checked.verified, checked.damaged()), (1, 1), "{who}: {checked:?}");
    });
}
