use std::fs::{self, File};
use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt, symlink};
use std::process::Command;
use std::thread;

use rustix::fs::IFlags;
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};

use super::*;
use crate::mount::scratch::{FsType, Scratch};
use crate::testing;
use crate::tree::Timestamp;

struct Fixture {
    backend: Btrfs,
    root: PathBuf,
    _scratch: Scratch,
}

impl Fixture {
    fn new() -> Option<Self> {
        let scratch = testing::scratch(FsType::Btrfs)?;
        let root = scratch.path().to_owned();
        Some(Self { backend: Btrfs::new(&root).unwrap(), root, _scratch: scratch })
    }

    fn path(&self, id: u64) -> PathBuf {
        self.root.join(SNAPSHOTS).join(id.to_string())
    }

    /// Creates the active snapshot `id`, runs `edit` in it, and seals it as `id + 1`.
    fn layer(&self, id: u64, parents: &Chain, edit: impl FnOnce(&Path)) {
        self.backend.create(Id(id), parents).unwrap();
        edit(&self.path(id));
        self.backend.seal(Id(id), Id(id + 1)).unwrap();
    }

    /// Returns all names in the directory of the snapshots, also names that are not ids.
    fn names(&self) -> Vec<OsString> {
        self.backend.snapshots.names().unwrap().into_iter().map(|entry| entry.name).collect()
    }
}

fn make_subvolume(at: &Path) -> Dir {
    let dir = Dir::open(at.parent().unwrap()).unwrap();
    sys::create_subvolume(dir.as_fd(), at.file_name().unwrap()).unwrap();
    Dir::open(at).unwrap()
}

/// Creates a directory so deep that no path reaches it.
fn deep_dir(top: &Path) -> Dir {
    let mut dir = Dir::open(top).unwrap();
    for _ in 0..30 {
        let name = "d".repeat(200);
        dir.make_dir(&name).unwrap();
        dir = dir.open_dir(&name).unwrap();
    }
    dir
}

#[test]
fn lifecycle() {
    let Some(at) = Fixture::new() else { return };
    // The umask belongs to this thread only, because the thread has a mount namespace of its own.
    rustix::process::umask(Mode::from_raw_mode(0o077));
    at.backend.create(Id(1), &[]).unwrap();
    let meta = fs::metadata(at.path(1)).unwrap();
    assert_eq!((meta.mode(), meta.uid(), meta.gid(), meta.mtime()), (0o40755, 0, 0, 0));
    assert_eq!(at.backend.create(Id(1), &[]).unwrap_err().kind(), ErrorKind::AlreadyExists);
    assert_eq!(at.names(), ["1"]);

    fs::write(at.path(1).join("f"), "one").unwrap();
    let root = Dir::open(at.path(1)).unwrap();
    root.set_xattr("", b"user.a", b"x").unwrap();
    root.set_owner("", 5, 6).unwrap();
    root.set_mode("", 0o1711).unwrap();
    root.set_mtime("", Timestamp { seconds: -7, nanos: 8 }).unwrap();
    at.backend.seal(Id(1), Id(2)).unwrap();
    assert_eq!(at.backend.seal(Id(1), Id(2)).unwrap_err().kind(), ErrorKind::AlreadyExists);

    at.backend.create(Id(3), &[Id(2)]).unwrap();
    let child = Dir::open(at.path(3)).unwrap();
    assert_eq!(child.meta("", &child.stat("").unwrap()).unwrap(), root.meta("", &root.stat("").unwrap()).unwrap());
    fs::write(at.path(3).join("f"), "two").unwrap();
    assert_eq!(fs::read(at.path(2).join("f")).unwrap(), b"one");
    assert_eq!(fs::write(at.path(2).join("f"), "x").unwrap_err().kind(), std::io::ErrorKind::ReadOnlyFilesystem);

    assert_eq!(at.backend.inventory().unwrap(), [Id(1), Id(2), Id(3)]);
    for id in [1, 2, 3, 3, 4] {
        at.backend.remove(Id(id)).unwrap();
    }
    assert_eq!(at.names(), [""; 0]);
    assert_eq!(at.backend.create(Id(5), &[Id(2)]).unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn mounts_are_binds_of_the_top() {
    let Some(at) = Fixture::new() else { return };
    let mounts = at.backend.mounts(&[Id(3), Id(2)], Access::ReadOnly).unwrap();
    assert_eq!(mounts, [Mount::Bind { source: at.path(3), access: Access::ReadOnly }]);
    assert_eq!(at.backend.layer(Id(3)).unwrap(), Layer { dir: at.path(3), format: Format::Tree });
    assert_eq!(at.backend.mounts(&[], Access::ReadWrite).unwrap_err().kind(), ErrorKind::InvalidArgument);
}

#[test]
fn a_writer_that_is_still_there_changes_nothing_sealed() {
    let Some(at) = Fixture::new() else { return };
    at.backend.create(Id(1), &[]).unwrap();
    let mut file = File::create_new(at.path(1).join("f")).unwrap();
    file.write_all(b"before").unwrap();
    at.backend.seal(Id(1), Id(2)).unwrap();
    file.write_all(b" after").unwrap();
    file.write_all_at(b"B", 0).unwrap();
    file.sync_all().unwrap();
    assert_eq!(fs::read(at.path(2).join("f")).unwrap(), b"before");
    at.backend.remove(Id(1)).unwrap();
    file.rewind().unwrap();
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    assert_eq!(text, "Before after", "the open file outlives the name of its subvolume");
    assert_eq!(at.backend.inventory().unwrap(), [Id(2)]);
}

#[test]
fn an_empty_subvolume_inside_becomes_a_directory() {
    let Some(at) = Fixture::new() else { return };
    at.backend.create(Id(1), &[]).unwrap();
    let holder = at.path(1).join("var/lib");
    fs::create_dir_all(&holder).unwrap();
    let holder = Dir::open(&holder).unwrap();
    let inside = make_subvolume(&at.path(1).join("var/lib/vols"));
    inside.set_xattr("", b"user.a", b"x").unwrap();
    inside.set_owner("", 7, 8).unwrap();
    inside.set_mode("", 0o2750).unwrap();
    inside.set_mtime("", Timestamp { seconds: 9, nanos: 10 }).unwrap();
    let deep = deep_dir(&at.path(1));
    sys::create_subvolume(deep.as_fd(), "v".as_ref()).unwrap();
    deep.set_mtime("", Timestamp { seconds: 11, nanos: 12 }).unwrap();
    holder.set_mtime("", Timestamp { seconds: 13, nanos: 14 }).unwrap();

    at.backend.seal(Id(1), Id(2)).unwrap();

    assert_eq!(at.names(), ["1", "2"]);
    let sealed = Dir::open(at.path(2)).unwrap();
    assert!(sys::is_read_only(sealed.as_fd()).unwrap());
    let lib = Dir::open(at.path(2).join("var/lib")).unwrap();
    assert_eq!(lib.stat("").unwrap().mtime, Timestamp { seconds: 13, nanos: 14 });
    let stat = lib.stat("vols").unwrap();
    assert!(stat.ino > sys::ROOT_INODE, "a directory of its own: {stat:?}");
    assert_eq!(lib.meta("vols", &stat).unwrap(), inside.meta("", &inside.stat("").unwrap()).unwrap());

    // No placeholder is left that a child could inherit, also not where no path leads.
    at.backend.create(Id(3), &[Id(2)]).unwrap();
    fs::write(at.path(3).join("var/lib/vols/f"), "x").unwrap();
    let mut dir = Dir::open(at.path(3)).unwrap();
    for _ in 0..30 {
        dir = dir.open_dir("d".repeat(200)).unwrap();
    }
    assert_eq!(dir.stat("").unwrap().mtime, Timestamp { seconds: 11, nanos: 12 });
    assert!(dir.stat("v").unwrap().ino > sys::ROOT_INODE);
    assert!(inside.names().unwrap().is_empty(), "the active one keeps its subvolume");
}

#[test]
fn a_subvolume_with_content_refuses_the_seal() {
    let Some(at) = Fixture::new() else { return };
    at.backend.create(Id(1), &[]).unwrap();
    make_subvolume(&at.path(1).join("empty"));
    let full = at.path(1).join("full");
    make_subvolume(&full);
    fs::write(full.join("f"), "x").unwrap();

    let error = at.backend.seal(Id(1), Id(2)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
    let text = error.to_string();
    assert!(text.starts_with("\"full\" is a subvolume with content"), "{text}");
    assert!(text.ends_with(&format!("btrfs subvolume delete {full:?}")), "{text}");
    at.backend.remove(Id(2)).unwrap();
    assert_eq!(at.names(), ["1"]);

    // A subvolume that only contains another subvolume is not empty either.
    fs::remove_file(full.join("f")).unwrap();
    make_subvolume(&full.join("inner"));
    assert_eq!(at.backend.seal(Id(1), Id(2)).unwrap_err().kind(), ErrorKind::FailedPrecondition);
    sys::destroy(Dir::open(&full).unwrap().as_fd(), "inner".as_ref()).unwrap();
    at.backend.seal(Id(1), Id(2)).unwrap();
    assert_eq!(at.names(), ["1", "2"]);
}

/// If subvolumes are created during a seal, the result is an error or a sound layer, never a layer with placeholders.
#[test]
fn subvolumes_that_come_while_sealing() {
    let Some(at) = Fixture::new() else { return };
    at.backend.create(Id(1), &[]).unwrap();
    thread::scope(|scope| {
        scope.spawn(|| {
            for number in 0..40 {
                make_subvolume(&at.path(1).join(format!("v{number}")));
                thread::sleep(std::time::Duration::from_millis(1));
            }
        });
        for sealed in (2..20).map(Id) {
            match at.backend.seal(Id(1), sealed) {
                Ok(()) => {
                    let dir = at.backend.open(sealed).unwrap();
                    for entry in dir.names().unwrap() {
                        assert!(dir.stat(&entry.name).unwrap().ino > sys::ROOT_INODE, "{sealed}: {entry:?}");
                    }
                }
                Err(error) => assert_eq!(error.kind(), ErrorKind::Unavailable, "{}", error.chain()),
            }
        }
    });
    at.backend.inventory().unwrap().into_iter().for_each(|id| at.backend.remove(id).unwrap());
    assert_eq!(at.names(), [""; 0]);
}

#[test]
fn removal_takes_everything_inside() {
    let Some(at) = Fixture::new() else { return };
    at.backend.create(Id(1), &[]).unwrap();
    // Nested subvolumes, adjacent ones, one that no path reaches, and one in use.
    let mut path = at.path(1);
    for _ in 0..10 {
        path.push("n");
        make_subvolume(&path);
        make_subvolume(&path.with_file_name("m"));
        fs::write(path.join("f"), "x").unwrap();
    }
    sys::create_subvolume(deep_dir(&at.path(1)).as_fd(), "v".as_ref()).unwrap();
    let open = File::open(path.join("f")).unwrap();

    at.backend.remove(Id(1)).unwrap();

    assert_eq!(at.names(), [""; 0]);
    assert_eq!(open.metadata().unwrap().len(), 1);
    at.backend.create(Id(1), &[]).unwrap();
}

#[test]
fn removal_lifts_what_forbids_it() {
    let Some(at) = Fixture::new() else { return };
    let lock = |path: &Path| rustix::fs::ioctl_setflags(File::open(path).unwrap(), IFlags::IMMUTABLE).unwrap();
    let freeze = |path: &Path| {
        let done = Command::new("btrfs").args(["property", "set"]).arg(path).args(["ro", "true"]).status().unwrap();
        assert!(done.success());
    };
    type Prepare<'a> = (&'a str, &'a dyn Fn(&Path));
    let cases: [Prepare<'_>; 5] = [
        ("an immutable root", &lock),
        ("a read-only and immutable root", &|top| {
            lock(top);
            freeze(top);
        }),
        ("a subvolume in a read-only one", &|top| {
            make_subvolume(&top.join("v"));
            freeze(top);
        }),
        ("an immutable subvolume", &|top| {
            make_subvolume(&top.join("v"));
            lock(&top.join("v"));
        }),
        ("a subvolume in an immutable directory of a read-only one", &|top| {
            make_subvolume(&top.join("v"));
            fs::create_dir(top.join("v/d")).unwrap();
            make_subvolume(&top.join("v/d/w"));
            lock(&top.join("v/d"));
            freeze(&top.join("v"));
        }),
    ];
    for (what, prepare) in cases {
        at.backend.create(Id(1), &[]).unwrap();
        prepare(&at.path(1));
        assert!(at.backend.remove(Id(1)).is_ok(), "{what}: {:?}", at.backend.remove(Id(1)));
        assert_eq!(at.names(), [""; 0], "{what}");
    }
}

#[test]
fn an_empty_snapshot_gets_its_attributes_after_a_power_cut() {
    let Some(at) = Fixture::new() else { return };
    let implied = |id: u64| {
        let dir = at.backend.open(Id(id)).unwrap();
        dir.meta("", &dir.stat("").unwrap()).unwrap() == Meta::implied_dir()
    };
    // The power cut came right after the ioctl.
    let cut = |id: u64| drop(make_subvolume(&at.path(id)));
    cut(1);
    assert!(!implied(1));
    at.backend.complete_create(Id(1), &[]).unwrap();
    assert!(implied(1));
    // A user already wrote to the second snapshot.
    cut(2);
    fs::write(at.path(2).join("f"), "x").unwrap();
    at.backend.complete_create(Id(2), &[]).unwrap();
    assert!(!implied(2) && at.path(2).join("f").exists());
    // A user changed the third snapshot after it was complete.
    at.backend.create(Id(3), &[]).unwrap();
    rustix::fs::syncfs(&at.backend.snapshots).unwrap();
    fs::set_permissions(at.path(3), fs::Permissions::from_mode(0o700)).unwrap();
    rustix::fs::syncfs(&at.backend.snapshots).unwrap();
    at.backend.complete_create(Id(3), &[]).unwrap();
    assert!(!implied(3));
    // A snapshot with a parent got its attributes from the parent.
    at.layer(4, &[], |dir| fs::set_permissions(dir, fs::Permissions::from_mode(0o711)).unwrap());
    at.backend.create(Id(6), &[Id(5)]).unwrap();
    at.backend.complete_create(Id(6), &[Id(5)]).unwrap();
    assert!(!implied(6));
    assert_eq!(at.backend.complete_create(Id(9), &[]).unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn debris_is_listed_and_goes() {
    let Some(at) = Fixture::new() else { return };
    let snapshots = at.root.join(SNAPSHOTS);
    fs::create_dir_all(snapshots.join("5/a/b")).unwrap();
    fs::write(snapshots.join("6"), "x").unwrap();
    symlink("5", snapshots.join("7")).unwrap();
    make_subvolume(&snapshots.join("8.new"));
    make_subvolume(&snapshots.join("8.new/inside"));
    make_subvolume(&snapshots.join("9.now"));
    fs::create_dir(snapshots.join("9.gone")).unwrap();
    make_subvolume(&snapshots.join("9.gone/9"));
    make_subvolume(&snapshots.join("9.gone/9/inside"));
    fs::write(snapshots.join("8.gone"), "x").unwrap();
    make_subvolume(&snapshots.join("9"));
    for stranger in ["x", "05", "9.other", ".now"] {
        fs::create_dir(snapshots.join(stranger)).unwrap();
    }
    let ids = [5, 6, 7, 8, 9].map(Id);
    assert_eq!(at.backend.inventory().unwrap(), ids);
    assert_eq!(at.backend.create(Id(10), &[Id(5)]).unwrap_err().kind(), ErrorKind::DataLoss);
    ids.iter().for_each(|id| at.backend.remove(*id).unwrap());
    assert_eq!(at.backend.inventory().unwrap(), []);
    assert_eq!(at.names(), [".now", "05", "9.other", "x"]);
}

#[test]
fn a_large_one_is_destroyed_aside() {
    let Some(at) = Fixture::new() else { return };
    let fill = |dir: &Path| {
        // Small files lie in the tree itself.
        (0..2500).for_each(|number| fs::write(dir.join(number.to_string()), [0x5a; 2000]).unwrap());
        make_subvolume(&dir.join("inside"));
    };
    at.layer(1, &[], fill);
    at.backend.create(Id(3), &[Id(2)]).unwrap();
    fs::write(at.path(3).join("0"), "open").unwrap();
    let names = ["2", "3"];
    for name in names {
        let id = Id(name.parse().unwrap());
        assert!(aside::is_large(&at.backend.snapshots, &name.into()).unwrap(), "{name}");
        aside::move_aside(&at.backend.snapshots, id, &name.into()).unwrap();
        // As after a crash: the subvolume is not at its id, but the inventory lists it.
        assert!(at.backend.inventory().unwrap().contains(&id));
        assert!(!at.path(id.0).exists() && at.path(id.0).with_extension("gone").join(name).exists(), "{name}");
        at.backend.remove(id).unwrap();
    }
    at.backend.remove(Id(1)).unwrap();
    assert_eq!(at.backend.inventory().unwrap(), []);
    assert!(at.names().is_empty());
    // A small subvolume stays where it is.
    at.layer(5, &[], |dir| fs::write(dir.join("f"), "x").unwrap());
    assert!(!aside::is_large(&at.backend.snapshots, &"6".into()).unwrap());
    assert!(!aside::is_large(&at.backend.snapshots, &"7".into()).unwrap());
}

#[test]
fn a_long_chain() {
    let Some(at) = Fixture::new() else { return };
    let mut parents: Vec<Id> = Vec::new();
    for id in (1..200).step_by(2) {
        at.layer(id, &parents, |dir| fs::write(dir.join(format!("f{id}")), "x").unwrap());
        at.backend.remove(Id(id)).unwrap();
        parents.insert(0, Id(id + 1));
    }
    assert_eq!(at.backend.inventory().unwrap().len(), 100);
    assert_eq!(fs::read_dir(at.path(200)).unwrap().count(), 100);
    for (depth, id) in parents.iter().enumerate() {
        let usage = at.backend.usage(*id, &parents[depth + 1..]).unwrap();
        let root_too = u64::from(depth == 99);
        assert_eq!(usage, Usage { size_bytes: 1, inodes: 1 + root_too }, "{id}");
    }
    parents.iter().for_each(|id| at.backend.remove(*id).unwrap());
    assert_eq!(at.names(), [""; 0]);
}

#[test]
fn usage_is_what_was_written_since() {
    /// One new file touches about four leaves of at most a few hundred items each; the whole tree has 30,000 items.
    const ITEMS_MAX: u64 = 2_000;
    let Some(at) = Fixture::new() else { return };
    at.layer(1, &[], |dir| {
        for number in 0..5_000 {
            fs::write(dir.join(format!("f{number}")), "small").unwrap();
        }
        fs::write(dir.join("big"), vec![1; 1 << 20]).unwrap();
    });
    let base = at.backend.usage(Id(2), &[]).unwrap();
    assert_eq!(base, Usage { size_bytes: 5_000 * 5 + (1 << 20), inodes: 5_002 });

    for writer in 0..20 {
        let id = 10 + 2 * writer;
        at.layer(id, &[Id(2)], |dir| fs::write(dir.join("new"), vec![2; 100_000]).unwrap());
        let expected = Usage { size_bytes: 25 * 4096, inodes: 1 };
        assert_eq!(at.backend.usage(Id(id + 1), &[Id(2)]).unwrap(), expected);
        assert_eq!(at.backend.usage(Id(id), &[Id(2)]).unwrap(), expected, "active and sealed agree");
        let (_, items) =
            usage::count(&Dir::open(at.path(id + 1)).unwrap(), at.backend.origin(&[Id(2)]).unwrap()).unwrap();
        assert!(items < ITEMS_MAX, "{items} items searched for one new file beside 5,000 old ones");
    }
    at.backend.create(Id(90), &[Id(2)]).unwrap();
    assert_eq!(at.backend.usage(Id(90), &[Id(2)]).unwrap(), Usage::default());
    fs::write(at.path(90).join("still in memory"), vec![3; 100_000]).unwrap();
    assert_eq!(at.backend.usage(Id(90), &[Id(2)]).unwrap(), Usage { size_bytes: 25 * 4096, inodes: 1 });
    assert!(!at.names().contains(&"90.now".into()));
}

/// Each edit is made on top of one file of 1 MiB; the expected usage is given for each.
#[test]
fn usage_counts_extents_once_and_the_parents_never() {
    let Some(at) = Fixture::new() else { return };
    at.layer(1, &[], |dir| fs::write(dir.join("big"), vec![1; 1 << 20]).unwrap());
    let clone = |from: PathBuf, to: PathBuf| {
        rustix::fs::ioctl_ficlone(File::create(to).unwrap(), File::open(from).unwrap()).unwrap();
    };
    type Edit<'a> = (&'a str, u64, u64, &'a dyn Fn(&Path));
    let edits: [Edit<'_>; 9] = [
        ("nothing", 0, 0, &|_| {}),
        ("chmod", 0, 0, &|dir| fs::set_permissions(dir.join("big"), PermissionsExt::from_mode(0o600)).unwrap()),
        ("rename", 0, 0, &|dir| fs::rename(dir.join("big"), dir.join("moved")).unwrap()),
        ("unlink", 0, 0, &|dir| fs::remove_file(dir.join("big")).unwrap()),
        ("clone of the parent's", 0, 1, &|dir| clone(dir.join("big"), dir.join("c"))),
        ("one block inside", 4096, 0, &|dir| {
            File::options().write(true).open(dir.join("big")).unwrap().write_all_at(&[2; 100], 8192).unwrap();
        }),
        ("new, linked and cloned", 65536, 2, &|dir| {
            fs::write(dir.join("n"), vec![3; 65536]).unwrap();
            fs::hard_link(dir.join("n"), dir.join("l")).unwrap();
            clone(dir.join("n"), dir.join("c"));
        }),
        ("a hole, a link, a directory", 3, 3, &|dir| {
            File::create(dir.join("h")).unwrap().set_len(1 << 30).unwrap();
            symlink("big", dir.join("s")).unwrap();
            fs::create_dir(dir.join("d")).unwrap();
        }),
        ("written and gone again", 0, 0, &|dir| {
            fs::write(dir.join("n"), vec![3; 65536]).unwrap();
            fs::remove_file(dir.join("n")).unwrap();
        }),
    ];
    for (number, (what, size_bytes, inodes, edit)) in (0..).zip(edits) {
        let id = 10 + 2 * number;
        at.layer(id, &[Id(2)], edit);
        let expected = Usage { size_bytes, inodes };
        assert_eq!(at.backend.usage(Id(id + 1), &[Id(2)]).unwrap(), expected, "{what}");
        assert_eq!(at.backend.usage(Id(id), &[Id(2)]).unwrap(), expected, "{what}, active");
    }
}

#[test]
fn any_directory_can_be_the_root() {
    let Some(at) = Fixture::new() else { return };
    make_subvolume(&at.root.join("sub"));
    let root = at.root.join("sub/a/b");
    fs::create_dir_all(&root).unwrap();
    let backend = Btrfs::new(&root).unwrap();
    backend.create(Id(1), &[]).unwrap();
    make_subvolume(&root.join("s/1/v"));
    backend.seal(Id(1), Id(2)).unwrap();
    backend.create(Id(3), &[Id(2)]).unwrap();
    assert_eq!(backend.usage(Id(3), &[Id(2)]).unwrap(), Usage::default());
    assert_eq!(backend.inventory().unwrap(), [1, 2, 3].map(Id));
    for id in 1..=3 {
        backend.remove(Id(id)).unwrap();
    }
    assert_eq!(backend.inventory().unwrap(), []);
    assert_eq!(at.backend.inventory().unwrap(), []);
}

#[test]
fn two_file_systems_do_not_mix() {
    let (Some(one), Some(two)) = (Fixture::new(), Fixture::new()) else { return };
    one.layer(1, &[], |dir| fs::write(dir.join("f"), "one").unwrap());
    two.layer(1, &[], |dir| fs::write(dir.join("f"), "two").unwrap());
    make_subvolume(&one.path(1).join("v"));
    one.backend.remove(Id(1)).unwrap();
    assert_eq!(two.backend.inventory().unwrap(), [1, 2].map(Id));
    assert_eq!(fs::read(one.path(2).join("f")).unwrap(), b"one");
    assert_eq!(fs::read(two.path(2).join("f")).unwrap(), b"two");
}

#[test]
fn threads_do_not_disturb_each_other() {
    let Some(at) = Fixture::new() else { return };
    at.layer(1, &[], |dir| fs::write(dir.join("f"), "base").unwrap());
    thread::scope(|scope| {
        for worker in 1..=4_u64 {
            let at = &at;
            scope.spawn(move || {
                for round in 0..10 {
                    let id = worker * 1_000 + round * 2;
                    at.layer(id, &[Id(2)], |dir| {
                        fs::write(dir.join("f"), id.to_string()).unwrap();
                        if round % 3 == 0 {
                            make_subvolume(&dir.join("v"));
                        }
                    });
                    assert_eq!(fs::read_to_string(at.path(id + 1).join("f")).unwrap(), id.to_string());
                    let usage = at.backend.usage(Id(id), &[Id(2)]).unwrap();
                    assert_eq!(usage.size_bytes, 4);
                    at.backend.remove(Id(id)).unwrap();
                    if round % 2 == 0 {
                        at.backend.remove(Id(id + 1)).unwrap();
                    }
                }
            });
        }
    });
    assert_eq!(at.backend.inventory().unwrap().len(), 2 + 4 * 5);
    assert_eq!(at.names().len(), 2 + 4 * 5);
}

#[test]
fn other_file_systems_are_refused_by_name() {
    let Some(scratch) = testing::scratch(FsType::Tmpfs) else { return };
    let error = Btrfs::new(scratch.path()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("is on tmpfs, not on btrfs"), "{error}");
    assert!(error.to_string().contains("overlay or copy"), "{error}");
    assert_eq!(Btrfs::new(Path::new("relative")).unwrap_err().kind(), ErrorKind::InvalidArgument);
    assert_eq!(Btrfs::new(&scratch.path().join("none")).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 0, "a refusal makes nothing");
}

#[test]
fn without_privilege_the_reason_is_said() {
    let Some(scratch) = testing::scratch(FsType::Btrfs) else { return };
    // Dropped for this thread only, and permanently.
    let mut sets = capabilities(None).unwrap();
    sets.effective.remove(CapabilitySet::SYS_ADMIN);
    set_capabilities(None, sets).unwrap();
    let error = Btrfs::new(scratch.path()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    assert!(error.to_string().contains("CAP_SYS_ADMIN"), "{error}");
    assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 0, "a refusal makes nothing");
    sets.effective.insert(CapabilitySet::SYS_ADMIN);
    set_capabilities(None, sets).unwrap();
}

#[test]
fn what_an_active_snapshot_is_looked_at_by_goes_with_the_answer() {
    let Some(at) = Fixture::new() else { return };
    at.layer(1, &[], |dir| fs::write(dir.join("f"), "base").unwrap());
    at.backend.create(Id(3), &[Id(2)]).unwrap();
    let committed = at.backend.candidates(Id(2), Id(2)).unwrap();
    assert_eq!(at.names(), ["1", "2", "3"], "a sealed one is looked at itself");
    let active = at.backend.candidates(Id(3), Id(2)).unwrap();
    assert_eq!(at.names(), ["1", "2", "3", "3.now"]);
    drop((committed, active));
    assert_eq!(at.names(), ["1", "2", "3"]);
    assert_eq!(at.backend.usage(Id(3), &[Id(2)]).unwrap(), Usage::default(), "nobody has the lock");
}
