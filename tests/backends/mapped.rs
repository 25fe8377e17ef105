//! Snapshots for user namespaces: the same edits give the same layer as without a user namespace.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, chown, lchown, symlink};
use std::path::Path;
use std::thread;

use rustix::thread::{CapabilitiesSecureBits, set_capabilities_secure_bits};
use strata::door::{EmitOptions, emit};
use strata::mount::Mounted;
use strata::snapshotter::Labels;
use strata::store::Store;
use strata::tree::memory::Tree;
use strata::tree::text;
use strata::{ErrorKind, Snapshotter};

use super::{Bench, on_each};

/// First id of the machine that stands for an id of the user namespace.
const SHIFT: u32 = 300_000;

const UIDS: &str = "containerd.io/snapshot/uidmapping";
const REF: &str = "containerd.io/snapshot.ref";
const GIDS: &str = "containerd.io/snapshot/gidmapping";

fn labels(uids: &str, gids: &str) -> Labels {
    [(UIDS, uids), (GIDS, gids)].map(|(name, list)| (name.to_owned(), list.to_owned())).into()
}

fn shifted() -> Labels {
    labels(&format!("0:{SHIFT}:65536"), &format!("0:{SHIFT}:65536"))
}

/// An access control list that lets user `uid` read and write.
fn acl(uid: u32) -> Vec<u8> {
    let entry = |tag: u16, mode: u16, id: u32| {
        [tag.to_le_bytes().to_vec(), mode.to_le_bytes().to_vec(), id.to_le_bytes().to_vec()].concat()
    };
    let no = u32::MAX;
    let entries = [entry(1, 6, no), entry(2, 6, uid), entry(4, 4, no), entry(16, 6, no), entry(32, 0, no)];
    [vec![2, 0, 0, 0], entries.concat()].concat()
}

/// The capability to bind low ports; with a root id where the file's owner is root of a user namespace.
fn capability(root: Option<u32>) -> Vec<u8> {
    let revision: u32 = if root.is_some() { 0x0300_0001 } else { 0x0200_0001 };
    let words = [revision, 1 << 10, 0, 0, 0].into_iter().chain(root);
    words.flat_map(u32::to_le_bytes).collect()
}

fn set(path: &Path, name: &str, value: &[u8]) {
    rustix::fs::setxattr(path, name, value, rustix::fs::XattrFlags::empty()).expect("setxattr");
}

/// Calls `work` as root of the user namespace whose ids begin at `shift`, on a thread of its own: new files belong to
/// `shift`, and every capability stays.
fn as_root_of(shift: u32, work: impl FnOnce()) {
    set_capabilities_secure_bits(CapabilitiesSecureBits::NO_SETUID_FIXUP).expect("keep the capabilities");
    nix::unistd::setfsgid(shift.into());
    nix::unistd::setfsuid(shift.into());
    work();
}

/// Makes `base`: files of several owners, hard links, a list and a capability, in two layers.
fn furnish(store: &Store, bench: &Bench) {
    edit(store, bench, "making", "", &Labels::new(), |root| {
        for (name, owner) in [("root", 0), ("user", 1000), ("last", 65535)] {
            fs::write(root.join(name), name).expect("write");
            chown(root.join(name), Some(owner), Some(owner)).expect("chown");
        }
        fs::hard_link(root.join("user"), root.join("user again")).expect("link");
        // Linux copies a list of xfs up twice: translated, and then once more as the attribute in which xfs keeps the
        // list, with the ids of the layer (seen with 6.18).
        if bench.setting.name() != "overlay on xfs" {
            set(&root.join("user"), "system.posix_acl_access", &acl(7));
        }
        set(&root.join("root"), "security.capability", &capability(None));
        chown(root, Some(3), Some(4)).expect("chown");
        set(root, "system.posix_acl_access", &acl(9));
    });
    store.commit("first", "making", &Labels::new()).expect("commit");
    edit(store, bench, "making", "first", &Labels::new(), |root| {
        fs::create_dir(root.join("dir")).expect("mkdir");
        fs::write(root.join("dir/deep"), "deep").expect("write");
    });
    store.commit("base", "making", &Labels::new()).expect("commit");
}

/// Prepares `key` and lets `change` write to it.
fn edit(store: &Store, bench: &Bench, key: &str, parent: &str, labels: &Labels, change: impl Fn(&Path) + Sync) {
    let mounts = store.prepare(key, parent, labels).expect("prepare");
    let target = bench.root(&format!("mount of {key}"));
    fs::create_dir(&target).expect("mkdir");
    let mounted = Mounted::new(&mounts, &target).expect("mount");
    let shift = if labels.is_empty() || labels.contains_key(REF) { 0 } else { SHIFT };
    thread::scope(|scope| scope.spawn(|| as_root_of(shift, || change(&target))).join()).expect("edits");
    mounted.unmount().expect("unmount");
    fs::remove_dir(&target).expect("rmdir");
}

/// Edits of a container whose ids begin at `shift` on this machine.
fn work(root: &Path, shift: u32) {
    let is_shifted = shift > 0;
    let owner = |path: &Path| fs::symlink_metadata(path).map(|stat| (stat.uid(), stat.gid())).expect("stat");
    assert_eq!(owner(root), (shift + 3, shift + 4), "the root directory");
    assert_eq!(owner(&root.join("user")), (shift + 1000, shift + 1000));
    fs::write(root.join("user"), "changed").expect("write");
    chown(root.join("last"), Some(shift + 5), None).expect("chown");
    fs::write(root.join("new"), "new").expect("write");
    chown(root.join("new"), Some(shift + 33), Some(shift + 44)).expect("chown");
    set(&root.join("new"), "system.posix_acl_access", &acl(shift + 12));
    fs::write(root.join("capable"), "x").expect("write");
    chown(root.join("capable"), Some(shift), Some(shift)).expect("chown");
    set(&root.join("capable"), "security.capability", &capability(is_shifted.then_some(shift)));
    symlink("user", root.join("link")).expect("symlink");
    lchown(root.join("link"), Some(shift + 1), Some(shift + 1)).expect("lchown");
    fs::remove_file(root.join("dir/deep")).expect("rm");
    fs::remove_dir(root.join("dir")).expect("rmdir");
    fs::create_dir(root.join("dir")).expect("mkdir");
    chown(root.join("dir"), Some(shift + 2), Some(shift + 2)).expect("chown");
    for name in ["user", "new", "capable", "link", "dir", "last"] {
        let path = root.join(name);
        let time = rustix::fs::Timespec { tv_sec: 1_700_000_000, tv_nsec: 5 };
        let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
        rustix::fs::utimensat(rustix::fs::CWD, &path, &times, rustix::fs::AtFlags::SYMLINK_NOFOLLOW)
            .expect("utimensat");
    }
    let time = rustix::fs::Timespec { tv_sec: 1_600_000_000, tv_nsec: 0 };
    let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(rustix::fs::CWD, root, &times, rustix::fs::AtFlags::empty()).expect("utimensat");
}

fn layer(store: &Store, key: &str) -> String {
    let mut bytes = Vec::new();
    emit(store, key, &EmitOptions::default(), &mut bytes).expect("emit").diff_id.to_string()
}

#[test]
fn the_same_edits_give_the_same_layer() {
    on_each(|bench| {
        let store = bench.store("store");
        furnish(&store, bench);
        for parent in ["first", "base"] {
            let parent_work = |root: &Path, shift| {
                if parent == "first" {
                    fs::create_dir(root.join("dir")).expect("mkdir");
                    fs::write(root.join("dir/deep"), "deep").expect("write");
                }
                work(root, shift);
            };
            let [plain, mapped] = ["plain", "mapped"].map(|name| format!("{name} on {parent}"));
            edit(&store, bench, &plain, parent, &Labels::new(), |root| parent_work(root, 0));
            edit(&store, bench, &mapped, parent, &shifted(), |root| parent_work(root, SHIFT));
            let tree = |name: &str| text::print(&Tree::read(&store.open_tree(name).expect("tree")).expect("read"));
            assert_eq!(tree(&mapped), tree(&plain), "{}, {parent}: the tree before the commit", bench.setting);
            assert_eq!(layer(&store, &mapped), layer(&store, &plain), "{parent}: before the commit");
            let size = store.usage(&mapped).expect("usage");
            for key in [&plain, &mapped] {
                store.commit(&format!("{key}, committed"), key, &Labels::new()).expect("commit");
            }
            let [plain, mapped] = [plain, mapped].map(|key| format!("{key}, committed"));
            assert_eq!(layer(&store, &mapped), layer(&store, &plain), "{parent}: after the commit");
            assert!(size.inodes > 0, "{size:?}");
            assert_eq!(tree(&mapped), tree(&plain), "{parent}: the tree");
            edit(&store, bench, "on top", &mapped, &Labels::new(), |root| {
                let stat = fs::metadata(root.join("new")).expect("stat");
                assert_eq!((stat.uid(), stat.gid()), (33, 44), "seen without a user namespace");
            });
            store.remove("on top").expect("remove");
        }
    });
}

#[test]
fn a_snapshot_without_a_parent() {
    on_each(|bench| {
        let store = bench.store("store");
        edit(&store, bench, "mapped", "", &shifted(), |root| {
            assert_eq!(fs::metadata(root).expect("stat").uid(), SHIFT);
            fs::write(root.join("file"), "x").expect("write");
            chown(root.join("file"), Some(SHIFT + 8), Some(SHIFT)).expect("chown");
        });
        store.commit("done", "mapped", &Labels::new()).expect("commit");
        let tree = store.open_tree("done").expect("tree");
        assert_eq!(tree.stat("file").map(|stat| (stat.uid, stat.gid)).expect("stat"), (8, 0));
        assert_eq!(tree.stat("").map(|stat| stat.uid).expect("stat"), 0);
    });
}

#[test]
fn a_view_shows_the_machines_ids() {
    on_each(|bench| {
        let store = bench.store("store");
        furnish(&store, bench);
        for parent in ["first", "base"] {
            let mounts = store.view("sight", parent, &shifted()).expect("view");
            assert_eq!(store.mounts("sight").expect("mounts"), mounts);
            let target = bench.root("sight");
            fs::create_dir(&target).expect("mkdir");
            let mounted = Mounted::new(&mounts, &target).expect("mount");
            assert_eq!(fs::metadata(target.join("user")).expect("stat").uid(), SHIFT + 1000);
            assert!(fs::write(target.join("user"), "x").is_err());
            mounted.unmount().expect("unmount");
            fs::remove_dir(&target).expect("rmdir");
            // Readers of the snapshot itself get the ids of the layer.
            assert_eq!(store.open_tree("sight").expect("tree").stat("user").expect("stat").uid, 1000);
            store.remove("sight").expect("remove");
        }
    });
}

#[test]
fn bad_maps_make_nothing() {
    on_each(|bench| {
        let store = bench.store("store");
        furnish(&store, bench);
        let good = "0:300000:65536";
        let mut lone = shifted();
        lone.remove(GIDS);
        for (labels, said) in [
            (labels("", good), "inside:outside:count"),
            (labels("0:300000:10,5:400000:10", good), "overlap"),
            (labels(good, "1:300000:10"), "does not map id 0"),
            (lone, "needs the label"),
            // The root directory of the parent belongs to 3:4.
            (labels("0:300000:3", good), "the owner 3:4 of the root directory"),
        ] {
            let error = store.prepare("bad", "base", &labels).expect_err(said);
            assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
            assert!(error.to_string().contains(said), "{error}");
            assert!(store.stat("bad").is_err(), "{said}");
        }
        // The annotations of an image can carry labels to the snapshots that it is unpacked into.
        let mut unpacking = shifted();
        unpacking.insert(REF.into(), "sha256:0".into());
        edit(&store, bench, "unpacking", "base", &unpacking, |root| {
            assert_eq!(fs::metadata(root.join("user")).expect("stat").uid(), 1000);
        });
    });
}

#[test]
fn nothing_is_applied_to_it() {
    on_each(|bench| {
        let store = bench.store("store");
        furnish(&store, bench);
        store.prepare("mapped", "base", &shifted()).expect("prepare");
        let error = store.apply("mapped", &mut |_| Ok(())).expect_err("it is for a user namespace");
        assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
        assert!(error.to_string().contains("user namespace"), "{error}");
    });
}
