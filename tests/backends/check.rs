//! Layers on real file systems, read and compared with their digests.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use strata::Snapshotter;
use strata::changeset::tar::{Limits, decode};
use strata::id::Digest;
use strata::registry::Choice;
use strata::snapshotter::Labels;
use strata::store::{CheckOptions, Checked, Flush, Origin, Problem, Remedy, Store, Terms};

use super::lifecycle::write;
use super::{Bench, on_each};

const NONE: &Labels = &BTreeMap::new();

const DEEP: CheckOptions<'_> = CheckOptions { deep: true, record: false, cancel: None };

/// `base` and `child`, each with a file of its name.
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

/// The directory of the layer of the snapshot that was made as the `number`th.
fn layer(store: &Store, number: usize) -> PathBuf {
    let id = store.backend().inventory().expect("inventory")[number];
    let dir = store.root().join("s").join(id.to_string());
    let inner = dir.join("fs");
    if inner.is_dir() { inner } else { dir }
}

fn check(store: &Store, options: CheckOptions<'_>) -> Checked {
    store.check(&options).expect("check")
}

#[test]
fn bit_rot_is_found() {
    on_each(|bench| {
        let store = furnished(bench);
        let who = bench.setting.name;
        let unknown = check(&store, DEEP);
        assert!(
            matches!(&unknown.findings[..], [a, b] if [a, b].iter().all(|f| matches!(f.problem, Problem::Unknown(_))))
        );
        let recorded = check(&store, CheckOptions { record: true, ..CheckOptions::default() });
        assert_eq!((recorded.recorded, recorded.findings.len()), (2, 0), "{who}");
        let sound = check(&store, DEEP);
        assert_eq!((sound.verified, sound.findings), (2, Vec::new()), "{who}");
        let dir = layer(&store, 1);
        if bench.setting.strategy == Choice::Btrfs {
            let thaw = Command::new("btrfs").args(["property", "set", "-f"]).arg(&dir).args(["ro", "false"]).status();
            assert!(thaw.expect("btrfs").success());
        }
        // Neither the size nor the time changes.
        let file = dir.join("child");
        let time = fs::metadata(&file).and_then(|stat| stat.modified()).expect("stat");
        fs::write(&file, b"as it wAs").expect("write");
        fs::File::options().write(true).open(&file).and_then(|file| file.set_modified(time)).expect("set the time");
        let rotten = check(&store, DEEP);
        assert_eq!((rotten.verified, rotten.damaged()), (1, 1), "{who}: {rotten:?}");
        let finding = &rotten.findings[0];
        assert!(
            matches!(&finding.problem, Problem::Content { snapshot, .. } if snapshot.name == "child"),
            "{finding:?}"
        );
        assert!(matches!(finding.remedy, Remedy::None(_)), "nobody brings it again");
        store.repair(&rotten.findings).expect("repair");
        assert_eq!(check(&store, DEEP), rotten, "what a user made is the user's to remove");
    });
}

/// A layer that came as an archive of another spelling is verified in that.
#[test]
fn rot_in_an_imported_layer_is_found() {
    on_each(|bench| {
        if bench.setting.strategy == Choice::Btrfs {
            return;
        }
        let (store, who) = (bench.store("store"), bench.setting.name);
        let mut archive = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(9);
        header.set_mode(0o644);
        archive.append_data(&mut header, "file", &b"as it was"[..]).expect("memory");
        let archive = archive.into_inner().expect("memory");
        let (diff_id, limits) = (Digest::of(&archive), Limits::default());
        store.prepare_layer("making", "").expect("prepare");
        store.apply_layer("making", &mut |sink| decode(&mut &archive[..], &limits, sink).map(drop)).expect("apply");
        let terms = Terms { flush: Flush::Now, origin: Origin::Image, diff_id: Some(diff_id) };
        store.commit_with("layer", "making", NONE, terms).expect("commit");
        let sound = check(&store, DEEP);
        assert_eq!((sound.verified, sound.findings), (1, Vec::new()), "{who}");
        fs::write(layer(&store, 0).join("file"), b"as it wAs").expect("write");
        let rotten = check(&store, DEEP);
        let [finding] = &rotten.findings[..] else { panic!("{who}: {rotten:?}") };
        assert!(matches!(finding.problem, Problem::Content { recorded, .. } if recorded == diff_id), "{finding:?}");
    });
}

#[test]
fn an_unreadable_layer_is_named_with_the_path() {
    on_each(|bench| {
        if bench.setting.strategy != Choice::Copy {
            return;
        }
        let store = furnished(bench);
        let terms = Terms { flush: Flush::Now, origin: Origin::Image, diff_id: Some(Digest::of(b"an archive")) };
        store.prepare("making", "", NONE).expect("prepare");
        store.commit_with("layer", "making", NONE, terms).expect("commit");
        let record = CheckOptions { deep: true, record: true, cancel: None };
        let other = check(&store, record);
        let [finding] = &other.findings[..] else { panic!("{other:?}") };
        assert!(matches!(finding.problem, Problem::Content { .. }), "it is not what it was committed as: {finding:?}");
        assert!(matches!(finding.remedy, Remedy::None(_)), "no import brings it again: {finding:?}");
        // What no tree may hold, as a stand-in for what no disk gives back.
        let path = layer(&store, 2).join("lost");
        assert!(Command::new("mknod").arg(&path).args(["c", "0", "0"]).status().expect("mknod").success());
        let damaged = check(&store, DEEP);
        let [finding] = &damaged.findings[..] else { panic!("{damaged:?}") };
        let Problem::Unreadable { snapshot, why } = &finding.problem else { panic!("{finding:?}") };
        assert!(snapshot.name == "layer" && why.contains("lost"), "{why}");
        assert_eq!(store.repair(&damaged.findings).expect("repair").snapshots, ["layer"]);
        assert_eq!(check(&store, DEEP).findings, []);
    });
}

#[test]
fn a_check_can_be_called_off() {
    on_each(|bench| {
        let store = furnished(bench);
        let cancel = std::sync::atomic::AtomicBool::new(true);
        let options = CheckOptions { deep: true, record: true, cancel: Some(&cancel) };
        let error = store.check(&options).expect_err("called off");
        assert_eq!(error.kind(), strata::ErrorKind::Cancelled);
    });
}
