use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown};
use std::process::Command;

use super::*;
use crate::ErrorKind;
use crate::mount::scratch::{FsType, Scratch};
use crate::mount::{Mounted, table};
use crate::testing;
use crate::tree::Timestamp;

struct Bench {
    scratch: Scratch,
    backend: Overlay,
    point: PathBuf,
}

impl Bench {
    fn new(fs_type: FsType) -> Option<Self> {
        Self::on(testing::scratch(fs_type)?)
    }

    fn on(scratch: Scratch) -> Option<Self> {
        let [root, point] = ["root", "point"].map(|name| scratch.path().join(name));
        for dir in [&root, &point] {
            fs::create_dir(dir).expect("mkdir");
        }
        let backend = testing::gate("overlay", Overlay::new(&root))?;
        Some(Self { scratch, backend, point })
    }

    fn root(&self) -> PathBuf {
        self.scratch.path().join("root")
    }

    fn mount(&self, stack: &Chain, access: Access) -> Mounted {
        let mounts = self.backend.mounts(stack, access).expect("mounts");
        Mounted::new(&mounts, &self.point).unwrap_or_else(|error| panic!("{mounts:?}: {}", error.chain()))
    }

    /// Creates `stack[0]` on top of the others, runs `edit` in it, and seals it.
    fn make(&self, stack: &Chain, edit: impl FnOnce(&Path)) {
        self.backend.create(stack[0], &stack[1..]).expect("create");
        let mounted = self.mount(stack, Access::ReadWrite);
        edit(mounted.path());
        mounted.unmount().expect("unmount");
        self.backend.seal(stack[0], stack[0]).expect("seal");
    }
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(dir)
        .expect("read")
        .map(|entry| entry.expect("entry").file_name().into_string().expect("utf-8"))
        .collect();
    names.sort();
    names
}

fn life_of_three(bench: &Bench) {
    bench.make(&[Id(1)], |dir| {
        fs::write(dir.join("kept"), "1").expect("write");
        fs::write(dir.join("gone"), "1").expect("write");
        fs::create_dir(dir.join("again")).expect("mkdir");
        fs::write(dir.join("again/old"), "1").expect("write");
    });
    bench.make(&[Id(2), Id(1)], |dir| {
        fs::write(dir.join("kept"), "2").expect("write");
        fs::remove_file(dir.join("gone")).expect("remove");
        fs::remove_dir_all(dir.join("again")).expect("remove");
        fs::create_dir(dir.join("again")).expect("mkdir");
        fs::write(dir.join("again/new"), "2").expect("write");
    });
    bench.make(&[Id(3), Id(2), Id(1)], |dir| fs::write(dir.join("top"), "3").expect("write"));

    for (stack, expected) in [
        (&[Id(1)][..], vec!["again", "gone", "kept"]),
        (&[Id(2), Id(1)], vec!["again", "kept"]),
        (&[Id(3), Id(2), Id(1)], vec!["again", "kept", "top"]),
    ] {
        let mounted = bench.mount(stack, Access::ReadOnly);
        assert_eq!(names(mounted.path()), expected, "{stack:?}");
        let error = fs::write(mounted.path().join("new"), "x").unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EROFS), "{stack:?}");
        assert!(fs::set_permissions(mounted.path(), fs::Permissions::from_mode(0o700)).is_err(), "{stack:?}");
        if stack.len() > 1 {
            assert_eq!(names(&mounted.path().join("again")), ["new"]);
            assert_eq!(fs::read(mounted.path().join("kept")).expect("read"), b"2");
        }
        mounted.unmount().expect("unmount");
    }
    assert_eq!(bench.backend.inventory().expect("inventory"), [Id(1), Id(2), Id(3)]);
    for id in [Id(3), Id(2), Id(1), Id(1)] {
        bench.backend.remove(id).expect("remove");
    }
    assert_eq!(names(&bench.root()), ["s"]);
    let marks = usize::from(bench.backend.userxattr);
    assert_eq!(names(&bench.root().join("s")), [USER_MARK; 1][..marks]);
}

#[test]
fn the_format_is_the_stores() {
    let Some(bench) = Bench::new(FsType::Tmpfs) else { return };
    let snapshots = &bench.backend.snapshots;
    assert!(!uses_user_xattrs(snapshots, false).expect("outside"));
    bench.backend.create(Id(1), &[]).expect("create");
    let error = uses_user_xattrs(snapshots, true).expect_err("made outside");
    assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
    bench.backend.remove(Id(1)).expect("remove");
    assert!(uses_user_xattrs(snapshots, true).expect("an empty one"));
    bench.backend.create(Id(2), &[]).expect("create");
    assert!(uses_user_xattrs(snapshots, true).expect("inside") && uses_user_xattrs(snapshots, false).expect("outside"));
    assert_eq!(bench.backend.inventory().expect("inventory"), [Id(2)]);
}

#[test]
fn what_a_power_cut_took_is_made_again() {
    let Some(bench) = Bench::new(FsType::Tmpfs) else { return };
    bench.backend.create(Id(1), &[]).expect("create");
    let at = |name: &str| bench.root().join("s/1").join(name);
    fs::write(at("fs/f"), "x").expect("write");
    fs::remove_dir(at("work")).expect("remove");
    bench.backend.complete_create(Id(1), &[]).expect("complete_create");
    assert!(at("work").is_dir() && at("fs/f").exists());
    fs::remove_dir_all(at("fs")).expect("remove");
    bench.backend.complete_create(Id(1), &[]).expect("complete_create");
    let upper = bench.backend.upper(Id(1)).expect("upper");
    assert_eq!(upper.meta("", &upper.stat("").expect("stat")).expect("meta"), Meta::implied_dir());
}

#[test]
fn lifecycle() {
    for fs_type in FsType::ALL {
        let Some(bench) = Bench::new(fs_type) else { continue };
        life_of_three(&bench);
        assert_eq!(bench.backend.layer(Id(7)).map(|layer| layer.format), Some(Format::Overlay));
    }
}

/// Runs itself again in a user namespace, unless it already is in one.
#[test]
fn lifecycle_in_a_user_namespace() {
    if probe::in_user_namespace().expect("/proc") {
        let Some(bench) = Bench::on(Scratch::new(FsType::Tmpfs, 64 << 20).expect("tmpfs")) else { return };
        life_of_three(&bench);
        assert_eq!(bench.backend.layer(Id(7)).map(|layer| layer.format), Some(Format::OverlayUserXattr));
        let mounts = bench.backend.mounts(&[Id(9), Id(8)], Access::ReadWrite).expect("mounts");
        assert!(mounts[0].options().contains(&"userxattr".to_owned()), "{mounts:?}");
        println!("lived in a user namespace");
    } else if testing::gate("userns", user_namespaces()).is_some() {
        let output = Command::new("unshare")
            .arg("-rm")
            .arg(std::env::current_exe().expect("own path"))
            .args(["--exact", "backend::overlay::tests::lifecycle_in_a_user_namespace", "--nocapture"])
            .output()
            .expect("start");
        let [said, skipped] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
        assert!(output.status.success(), "{said} {skipped}");
        if !said.contains("lived in a user namespace") {
            // tmpfs supports `user.*` attributes since Linux 6.6.
            testing::require("userns", Err(skipped.into_owned()));
        }
    }
}

fn user_namespaces() -> Result<()> {
    match Command::new("unshare").args(["-rm", "true"]).status() {
        Ok(status) if status.success() => Ok(()),
        _ => Err(Error::unsupported("unshare -rm fails")),
    }
}

#[test]
fn what_is_mounted() {
    let Some(bench) = Bench::new(FsType::Tmpfs) else { return };
    let at = |name: &str| bench.root().join("s").join(name);
    let of = |stack: &Chain, access| bench.backend.mounts(stack, access).expect("mounts").remove(0);
    for access in [Access::ReadOnly, Access::ReadWrite] {
        assert_eq!(of(&[Id(1)], access), Mount::Bind { source: at("1/fs"), access });
    }
    let lower = vec![at("2/fs"), at("1/fs")];
    let view = Mount::Overlay { lower: lower.clone(), upper: None, userxattr: false };
    assert_eq!(of(&[Id(2), Id(1)], Access::ReadOnly), view);
    let active = of(&[Id(3), Id(2), Id(1)], Access::ReadWrite);
    let upper = Some(Upper { dir: at("3/fs"), work: at("3/work") });
    assert_eq!(active, Mount::Overlay { lower, upper, userxattr: false });
    assert_eq!(
        active.options(),
        [
            format!("workdir={}", at("3/work").display()),
            format!("upperdir={}", at("3/fs").display()),
            format!("lowerdir={}:{}", at("2/fs").display(), at("1/fs").display()),
            "index=off".to_owned(),
            "redirect_dir=nofollow".to_owned(),
        ]
    );
    assert_eq!(bench.backend.mounts(&[], Access::ReadOnly).unwrap_err().kind(), ErrorKind::InvalidArgument);
}

#[test]
fn the_highest_stack() {
    let Some(bench) = Bench::new(FsType::Ext4) else { return };
    let mut stack = Vec::new();
    for number in 1..=501 {
        bench.backend.create(Id(number), &stack).expect("create");
        let own = bench.backend.upper(Id(number)).expect("upper");
        own.create_file(number.to_string()).expect("create");
        stack.insert(0, Id(number));
    }
    assert_eq!(bench.backend.capabilities().layers_max, Some(500));
    let mounted = bench.mount(&stack, Access::ReadWrite);
    assert_eq!(names(mounted.path()).len(), 501);
    fs::remove_file(mounted.path().join("1")).expect("remove from the lowest");
    assert_eq!(names(mounted.path()).len(), 500);
    mounted.unmount().expect("unmount");
    let _view = bench.mount(&stack[1..], Access::ReadOnly);
    for (stack, access) in [(stack.clone(), Access::ReadOnly), ([&[Id(502)], &stack[..]].concat(), Access::ReadWrite)] {
        let error = bench.backend.mounts(&stack, access).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
        assert!(error.to_string().contains("500"), "{error}");
    }
}

#[test]
fn the_root_directory_is_like_the_parents() {
    for fs_type in FsType::ALL {
        let Some(bench) = Bench::new(fs_type) else { continue };
        bench.make(&[Id(1)], |dir| {
            let metadata = fs::metadata(dir).expect("stat");
            assert_eq!((metadata.mode() & 0o7777, metadata.uid(), metadata.gid()), (0o755, 0, 0), "{fs_type}");
        });
        let base = bench.backend.upper(Id(1)).expect("upper");
        let mut meta = base.meta("", &base.stat("").expect("stat")).expect("meta");
        (meta.mode, meta.uid, meta.gid) = (0o3771, 12, 34);
        meta.mtime = Timestamp { seconds: 1_000_000_000, nanos: 5 };
        if fs_type != FsType::Tmpfs {
            // tmpfs supports `user.*` attributes only since Linux 6.6.
            meta.xattrs.insert(b"user.name".to_vec(), b"value".to_vec());
        }
        meta.xattrs.insert(b"trusted.name".to_vec(), b"value".to_vec());
        base.set_meta("", &meta).expect("set");
        // State of overlayfs must not be copied: an opaque root would hide all parents.
        base.set_xattr("", b"trusted.overlay.opaque", b"y").expect("set");
        for stack in [&[Id(2), Id(1)][..], &[Id(3), Id(2), Id(1)]] {
            bench.backend.create(stack[0], &stack[1..]).expect("create");
            let mounted = bench.mount(stack, Access::ReadWrite);
            let merged = Dir::open(mounted.path()).expect("open");
            let seen = merged.meta("", &merged.stat("").expect("stat")).expect("meta");
            assert_eq!(seen, meta, "{fs_type} {stack:?}");
            let upper = bench.backend.upper(stack[0]).expect("upper");
            assert_eq!(upper.xattr("", c"trusted.overlay.opaque").expect("get"), None);
        }
    }
}

#[test]
fn taken_ids_and_debris() {
    let Some(bench) = Bench::new(FsType::Ext4) else { return };
    let snapshots = bench.root().join("s");
    bench.backend.create(Id(1), &[]).expect("create");
    fs::create_dir_all(snapshots.join("2.new/fs")).expect("mkdir");
    fs::create_dir(snapshots.join("3")).expect("mkdir");
    fs::write(snapshots.join("note"), "x").expect("write");
    for number in 1..=3 {
        let error = bench.backend.create(Id(number), &[]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{number}: {error}");
    }
    assert_eq!(bench.backend.inventory().expect("inventory"), [Id(1), Id(2), Id(3)]);
    for number in 1..=4 {
        bench.backend.remove(Id(number)).expect("remove");
    }
    assert_eq!(names(&snapshots), ["note"]);
    assert_eq!(bench.backend.create(Id(5), &[Id(4)]).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(bench.backend.seal(Id(5), Id(5)).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(bench.backend.seal(Id(5), Id(6)).unwrap_err().kind(), ErrorKind::InvalidArgument);
    assert_eq!(bench.backend.inventory().expect("inventory"), []);
}

#[test]
fn roots_that_cannot_be() {
    let Some(bench) = Bench::new(FsType::Tmpfs) else { return };
    for name in ["a,b", "a:b", "a\\b", "a\nb"] {
        let root = bench.scratch.path().join(name);
        fs::create_dir(&root).expect("mkdir");
        let error = Overlay::new(&root).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        assert_eq!(names(&root), [""; 0]);
    }
    assert_eq!(Overlay::new(Path::new("relative")).unwrap_err().kind(), ErrorKind::InvalidArgument);
    assert_eq!(Overlay::new(Path::new("/no/such/root")).unwrap_err().kind(), ErrorKind::NotFound);
    bench.make(&[Id(1)], |_| {});
    bench.make(&[Id(2), Id(1)], |_| {});
    let _mounted = {
        bench.backend.create(Id(3), &[Id(2), Id(1)]).expect("create");
        bench.mount(&[Id(3), Id(2), Id(1)], Access::ReadWrite)
    };
    let error = Overlay::new(&bench.point).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert!(error.to_string().contains("copy backend"), "{error}");
}

#[test]
fn usage_is_that_of_the_upper() {
    let Some(bench) = Bench::new(FsType::Ext4) else { return };
    bench.make(&[Id(1)], |dir| {
        for name in ["a", "b", "c"] {
            fs::write(dir.join(name), vec![1; 100_000]).expect("write");
        }
    });
    bench.backend.create(Id(2), &[Id(1)]).expect("create");
    let empty = bench.backend.usage(Id(2), &[Id(1)]).expect("usage");
    assert_eq!(empty.inodes, 1);
    let mounted = bench.mount(&[Id(2), Id(1)], Access::ReadWrite);
    fs::write(mounted.path().join("new"), vec![1; 1 << 20]).expect("write");
    fs::hard_link(mounted.path().join("new"), mounted.path().join("same")).expect("link");
    fs::write(mounted.path().join("sparse"), "").expect("write");
    fs::OpenOptions::new()
        .write(true)
        .open(mounted.path().join("sparse"))
        .and_then(|file| file.set_len(1 << 30))
        .expect("grow");
    for name in ["a", "b", "c"] {
        fs::remove_file(mounted.path().join(name)).expect("remove");
    }
    mounted.unmount().expect("unmount");
    let whiteouts: Vec<_> = ["a", "b", "c"]
        .iter()
        .map(|name| fs::symlink_metadata(bench.root().join("s/2/fs").join(name)).expect("whiteout"))
        .collect();
    assert!(whiteouts.iter().all(|metadata| metadata.file_type().is_char_device()));
    let inodes: std::collections::BTreeSet<_> = whiteouts.iter().map(MetadataExt::ino).collect();
    let usage = bench.backend.usage(Id(2), &[Id(1)]).expect("usage");
    assert_eq!(usage.inodes, 1 + 2 + inodes.len() as u64, "the root, two files, the whiteouts");
    let added = usage.size_bytes - empty.size_bytes;
    assert!((1 << 20..(1 << 20) + 64 * 1024).contains(&added), "{usage:?}");
}

#[test]
fn who_uses_a_snapshot() {
    let Some(bench) = Bench::new(FsType::Ext4) else { return };
    bench.make(&[Id(1)], |_| {});
    bench.make(&[Id(2), Id(1)], |_| {});
    bench.backend.create(Id(3), &[Id(2), Id(1)]).expect("create");
    let users = |number: u64| table::users_of(&bench.root().join("s").join(number.to_string())).expect("table");
    for (stack, access) in [
        (&[Id(1)][..], Access::ReadOnly),
        (&[Id(2), Id(1)], Access::ReadOnly),
        (&[Id(3), Id(2), Id(1)], Access::ReadWrite),
    ] {
        let mounted = bench.mount(stack, access);
        for number in 1..=3 {
            let expected = if stack.contains(&Id(number)) { vec![bench.point.clone()] } else { vec![] };
            assert_eq!(users(number), expected, "{stack:?} {number}");
        }
        mounted.unmount().expect("unmount");
    }
}

#[test]
fn removal_follows_nothing_and_undresses_what_is_locked() {
    let Some(bench) = Bench::new(FsType::Ext4) else { return };
    let outside = bench.scratch.path().join("outside");
    fs::create_dir(&outside).expect("mkdir");
    fs::write(outside.join("f"), "x").expect("write");
    bench.make(&[Id(1)], |dir| {
        std::os::unix::fs::symlink(&outside, dir.join("link")).expect("link");
        fs::create_dir_all(dir.join("closed/below")).expect("mkdir");
        chown(dir.join("closed"), Some(1000), Some(1000)).expect("chown");
        fs::set_permissions(dir.join("closed"), fs::Permissions::from_mode(0o000)).expect("chmod");
    });
    bench.backend.remove(Id(1)).expect("remove");
    assert_eq!(names(&outside), ["f"]);
    assert_eq!(bench.backend.inventory().expect("inventory"), []);
}

#[test]
fn removal_stops_at_a_mount() {
    let Some(bench) = Bench::new(FsType::Ext4) else { return };
    let outside = bench.scratch.path().join("outside");
    fs::create_dir(&outside).expect("mkdir");
    fs::write(outside.join("f"), "x").expect("write");
    bench.make(&[Id(1)], |dir| fs::create_dir(dir.join("inside")).expect("mkdir"));
    let inside = bench.root().join("s/1/fs/inside");
    let mount = Mount::Bind { source: outside.clone(), access: Access::ReadWrite };
    let mounted = Mounted::new(&[mount], inside).expect("bind");
    let error = bench.backend.remove(Id(1)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::FailedPrecondition, "{error}");
    assert_eq!(names(&outside), ["f"]);
    mounted.unmount().expect("unmount");
    bench.backend.remove(Id(1)).expect("remove");
    assert_eq!(bench.backend.inventory().expect("inventory"), []);
}
