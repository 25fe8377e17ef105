use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::PathBuf;

use super::*;
use crate::ErrorKind;
use crate::mount::scratch::{FsType, Scratch};
use crate::mount::{LOWER_MAX, Upper};
use crate::testing;

/// Directories on a scratch file system.
struct Bench {
    scratch: Scratch,
}

impl Bench {
    fn new(fs: FsType) -> Option<Self> {
        Some(Self { scratch: testing::scratch(fs)? })
    }

    fn dir(&self, name: &str) -> PathBuf {
        let dir = self.scratch.path().join(name);
        fs::DirBuilder::new().recursive(true).mode(0o755).create(&dir).expect("mkdir");
        dir
    }

    /// Creates a layer with one file whose name contains the layer's name.
    fn layer(&self, name: &str) -> PathBuf {
        let dir = self.dir(name);
        fs::write(dir.join(format!("file-of-{}", name.replace('/', "-"))), name).expect("write");
        dir
    }

    fn upper(&self) -> Upper {
        Upper { dir: self.dir("upper"), work: self.dir("work") }
    }
}

fn overlay(lower: Vec<PathBuf>, upper: Option<Upper>) -> Mount {
    Mount::Overlay { lower, upper, userxattr: false }
}

fn inside(mount: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", mount.as_raw_fd()))
}

fn names(dir: &Path) -> usize {
    fs::read_dir(dir).expect("read directory").count()
}

#[test]
fn overlay_on_every_file_system() {
    for fs_type in FsType::ALL {
        let Some(bench) = Bench::new(fs_type) else { continue };
        let upper = bench.upper();
        let mount = overlay(vec![bench.layer("a"), bench.layer("b")], Some(upper.clone()));
        let made = detached(&[mount]).expect("mount");
        let merged = inside(&made);
        assert_eq!(names(&merged), 2);
        fs::remove_file(merged.join("file-of-b")).expect("remove");
        fs::write(merged.join("new"), "x").expect("write");
        let whiteout = fs::symlink_metadata(upper.dir.join("file-of-b")).expect("whiteout");
        assert!(whiteout.file_type().is_char_device() && whiteout.rdev() == 0, "{fs_type}");
        assert!(upper.dir.join("new").exists());
        // The `upperdir` option identifies the mount in the table; the mount is gone after its last descriptor is
        // closed.
        drop(made);
        let table = fs::read_to_string("/proc/thread-self/mountinfo").expect("mountinfo");
        assert!(!table.contains(&format!("upperdir={}", upper.dir.display())), "{table}");
    }
}

#[test]
fn the_most_layers_with_and_without_upper() {
    let Some(bench) = Bench::new(FsType::Ext4) else { return };
    let mut lower: Vec<_> = (0..LOWER_MAX).map(|number| bench.layer(&format!("{number}/fs"))).collect();
    for upper in [None, Some(bench.upper())] {
        let read_only = upper.is_none();
        let made = detached(&[overlay(lower.clone(), upper)]).expect("500 layers");
        assert_eq!(names(&inside(&made)), LOWER_MAX);
        assert_eq!(fs::write(inside(&made).join("new"), "x").is_err(), read_only);
    }
    lower.push(bench.layer("one-more"));
    let error = detached(&[overlay(lower, None)]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
    assert!(error.to_string().contains("500"), "{error}");
}

#[test]
fn any_path_can_be_a_layer() {
    let Some(bench) = Bench::new(FsType::Ext4) else { return };
    let long = "d".repeat(200);
    let strange = ["with:colon", "with,comma", "with\\backslash", "with space", "line\nbreak", "ö=é"];
    let mut dirs: Vec<_> = strange.iter().map(|name| bench.layer(name)).collect();
    let deep = bench.dir(&format!("{long}/{long}"));
    fs::write(deep.join("deep"), "x").expect("write");
    dirs.push(deep);
    let upper = Upper { dir: bench.dir("up,per:\\x"), work: bench.dir("wo,rk:\\x") };
    for legacy in [false, true] {
        if !legacy && !layers_one_by_one() {
            continue;
        }
        let given = Overlay::own(&dirs, Some(&upper), false);
        let made = if legacy { legacy::make(&given) } else { overlay::add_layers(&given) };
        let made = made.unwrap_or_else(|error| panic!("legacy {legacy}: {}", error.chain()));
        assert_eq!(names(&inside(&made)), dirs.len(), "legacy {legacy}");
        fs::write(inside(&made).join("new"), "x").expect("write");
        assert!(upper.dir.join("new").exists(), "legacy {legacy}");
        fs::remove_file(inside(&made).join("new")).expect("remove");
    }
}

#[test]
fn the_old_way_takes_500_layers_too() {
    let Some(bench) = Bench::new(FsType::Ext4) else { return };
    let lower: Vec<_> = (0..LOWER_MAX).map(|number| bench.layer(&format!("{number}/fs"))).collect();
    let before = fs::read_to_string("/proc/thread-self/mountinfo").expect("mountinfo");
    let made = legacy::make(&Overlay::own(&lower, Some(&bench.upper()), false)).expect("500 layers");
    assert_eq!(names(&inside(&made)), LOWER_MAX);
    fs::write(inside(&made).join("new"), "x").expect("write");
    let target = bench.dir("target");
    place(&made, &target).expect("attach");
    drop(made);
    assert!(target.join("new").exists());
    unmount(&target).expect("unmount");
    assert_eq!(fs::read_to_string("/proc/thread-self/mountinfo").expect("mountinfo"), before);
}

/// Returns the line of the mount table for `target`, because the machine may have overlays of its own.
fn mounted_at(target: &Path) -> String {
    let table = fs::read_to_string("/proc/thread-self/mountinfo").expect("mountinfo");
    let is_target = |line: &&str| line.split(' ').nth(4) == target.to_str();
    table.lines().find(is_target).expect("mounted").to_owned()
}

#[test]
fn our_options_are_set_whatever_the_defaults_are() {
    let Some(bench) = Bench::new(FsType::Ext4) else { return };
    let target = bench.dir("target");
    attach(&[overlay(vec![bench.layer("a")], Some(bench.upper()))], &target).expect("mount");
    let line = mounted_at(&target);
    // The kernel shows an option only if it differs from the default.
    for wrong in ["index=on", "metacopy=on", "nfs_export=on", "redirect_dir=on", "redirect_dir=follow"] {
        assert!(!line.contains(wrong), "{line}");
    }
    assert!(line.contains("redirect_dir=nofollow"), "{line}");
    unmount(&target).expect("unmount");
}

#[test]
fn binds() {
    let Some(bench) = Bench::new(FsType::Ext4) else { return };
    let (source, target) = (bench.layer("a"), bench.dir("target"));
    attach(&[Mount::Bind { source: source.clone(), access: Access::ReadOnly }], &target).expect("bind");
    let error = fs::write(target.join("new"), "x").unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EROFS));
    assert!(target.join("file-of-a").exists());
    fs::write(source.join("still-writable-here"), "x").expect("write");

    // A read-only mount cannot be bound writable.
    let error = detached(&[Mount::Bind { source: target.clone(), access: Access::ReadWrite }]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
    unmount(&target).expect("unmount");

    let made = detached(&[Mount::Bind { source, access: Access::ReadWrite }]).expect("bind");
    fs::write(inside(&made).join("new"), "x").expect("write");
}

#[test]
fn a_bind_takes_and_hides_the_mounts_below() {
    let Some(bench) = Bench::new(FsType::Ext4) else { return };
    let (source, target) = (bench.dir("a"), bench.dir("target"));
    let below = bench.dir("a/below");
    place(&new("tmpfs", &[]).expect("tmpfs"), &below).expect("mount");
    fs::write(below.join("f"), "x").expect("write");
    attach(&[Mount::Bind { source: source.clone(), access: Access::ReadOnly }], &target).expect("bind");
    assert!(target.join("below/f").exists());
    assert!(fs::write(target.join("below/g"), "x").is_err(), "read-only all the way down");
    fs::write(below.join("g"), "x").expect("the original stays writable");
    let error = unmount(&target).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::FailedPrecondition, "{error}");
    unmount(&target.join("below")).expect("unmount");
    unmount(&target).expect("unmount");
    unmount(&below).expect("unmount");
}

#[test]
fn what_others_handed_out() {
    let Some(bench) = Bench::new(FsType::Ext4) else { return };
    let (target, upper) = (bench.dir("target"), bench.upper());
    let ours = overlay(vec![bench.layer("a"), bench.layer("b:c")], Some(upper));
    let other = |mount: &Mount, extra: &[&str]| {
        let options = mount.options().into_iter().map(|option| option.replace("b:c", "b\\:c"));
        let options = options.chain(extra.iter().map(ToString::to_string)).collect();
        Mount::Other { fstype: mount.fstype().to_owned(), source: mount.source(), options }
    };
    attach(&[other(&ours, &["nodev", "noatime"])], &target).expect("overlay");
    assert_eq!(names(&target), 2);
    let line = mounted_at(&target);
    assert!(line.contains("rw,nodev,noatime"), "{line}");
    fs::write(target.join("new"), "x").expect("write");
    unmount(&target).expect("unmount");

    let bind = Mount::Bind { source: bench.dir("a"), access: Access::ReadOnly };
    let made = detached(&[other(&bind, &["nosuid"])]).expect("bind");
    assert!(fs::write(inside(&made).join("new"), "x").is_err());

    let tmpfs = |options: &[&str]| Mount::Other {
        fstype: "tmpfs".to_owned(),
        source: "here".to_owned(),
        options: options.iter().map(ToString::to_string).collect(),
    };
    attach(&[tmpfs(&["size=1m,mode=0700", "noexec"])], &target).expect("tmpfs");
    assert_eq!(fs::metadata(&target).expect("stat").permissions().mode() & 0o7777, 0o700);
    unmount(&target).expect("unmount");
    let error = detached(&[tmpfs(&["nosuchoption"])]).unwrap_err();
    assert!(error.to_string().contains("nosuchoption"), "{}", error.chain());
}

#[test]
fn refusals_name_the_directory_and_the_reason() {
    let Some(bench) = Bench::new(FsType::Ext4) else { return };
    let Some(elsewhere) = Bench::new(FsType::Tmpfs) else { return };
    let (a, inner, file) = (bench.layer("a"), bench.dir("a/inner"), bench.layer("b").join("file-of-b"));
    let upper = bench.upper();
    let missing = bench.scratch.path().join("missing");
    let with = |dir: &Path, work: &Path| Some(Upper { dir: dir.to_owned(), work: work.to_owned() });
    let invalid = ErrorKind::InvalidArgument;
    let cases = [
        (overlay(vec![a.clone(), missing.clone()], None), ErrorKind::NotFound, "lower directory"),
        (overlay(vec![a.clone(), file], None), invalid, "not a directory"),
        (overlay(vec![a.clone(), a.clone()], None), invalid, "overlap"),
        (overlay(vec![a.clone(), inner], None), invalid, "overlap"),
        (overlay(vec![a.clone()], None), invalid, "bind it"),
        (overlay(vec![], Some(upper.clone())), invalid, "needs a lower"),
        (overlay(vec!["relative".into(), a.clone()], None), invalid, "absolute"),
        (overlay(vec![a.clone()], with(&missing, &upper.work)), ErrorKind::NotFound, "upper directory"),
        (overlay(vec![a.clone()], with(&upper.dir, &elsewhere.dir("w"))), invalid, "different file systems"),
        (overlay(vec![a.clone()], with(&upper.dir, &bench.dir("upper/w"))), invalid, "inside"),
        (Mount::Bind { source: missing.clone(), access: Access::ReadOnly }, ErrorKind::NotFound, "missing"),
    ];
    for (mount, kind, part) in cases {
        let error = detached(std::slice::from_ref(&mount)).expect_err(part);
        assert_eq!(error.kind(), kind, "{mount:?}: {}", error.chain());
        assert!(error.to_string().contains(part), "{mount:?}: {}", error.chain());
        if let Mount::Overlay { .. } = mount {
            let Mount::Overlay { lower, upper, .. } = &mount else { continue };
            let given = Overlay::own(lower, upper.as_ref(), false);
            if lower.len() + usize::from(upper.is_some()) > 1 && lower.iter().all(|dir| dir.is_absolute()) {
                let error = legacy::make(&given).map(drop);
                assert_eq!(error.as_ref().map_err(Error::kind), Err(kind), "legacy {mount:?}: {error:?}");
            }
        }
    }
    for (target, kind) in [(missing, ErrorKind::NotFound), (a.join("file-of-a"), invalid)] {
        let error = attach(&[overlay(vec![a.clone()], Some(upper.clone()))], &target).unwrap_err();
        assert_eq!(error.kind(), kind, "{}", error.chain());
    }
    assert_eq!(attach(&[], &a).unwrap_err().kind(), invalid);
}

#[test]
fn an_unusable_work_directory_is_an_error_and_not_a_read_only_mount() {
    let Some(bench) = Bench::new(FsType::Ext4) else { return };
    let upper = bench.upper();
    // overlayfs creates `work` in the work directory and cannot clear a tree that is deeper than its own.
    fs::create_dir_all(upper.work.join("work/x/y/z")).expect("mkdir");
    fs::write(upper.work.join("work/x/y/z/f"), "x").expect("write");
    let error = detached(&[overlay(vec![bench.layer("a")], Some(upper.clone()))]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::FailedPrecondition, "{}", error.chain());
    assert!(error.to_string().contains(&*upper.work.to_string_lossy()), "{error}");
}

#[test]
fn a_volatile_mount_left_behind_is_named() {
    let Some(bench) = Bench::new(FsType::Ext4) else { return };
    let upper = bench.upper();
    fs::create_dir_all(upper.work.join("work/incompat/volatile")).expect("mkdir");
    let error = detached(&[overlay(vec![bench.layer("a")], Some(upper))]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::FailedPrecondition, "{}", error.chain());
    assert!(error.to_string().contains("volatile"), "{error}");
}

#[test]
fn an_upper_on_an_overlay_is_refused_with_the_cure() {
    let Some(bench) = Bench::new(FsType::Ext4) else { return };
    let target = bench.dir("target");
    let _outer =
        crate::mount::Mounted::new(&[overlay(vec![bench.layer("a")], Some(bench.upper()))], &target).expect("mount");
    let [dir, work] = ["u", "w"].map(|name| bench.dir(&format!("target/{name}")));
    let error = detached(&[overlay(vec![bench.layer("b")], Some(Upper { dir, work }))]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{}", error.chain());
    assert!(error.to_string().contains("volume or a tmpfs"), "{error}");
}

#[test]
fn a_failed_call_leaves_nothing_mounted() {
    let Some(bench) = Bench::new(FsType::Ext4) else { return };
    let target = bench.dir("target");
    let before = fs::read_to_string("/proc/thread-self/mountinfo").expect("mountinfo");
    let good = Mount::Bind { source: bench.layer("a"), access: Access::ReadOnly };
    let bad = Mount::Bind { source: "/no/such/directory".into(), access: Access::ReadOnly };
    attach(&[good.clone(), good, bad], &target).unwrap_err();
    assert_eq!(fs::read_to_string("/proc/thread-self/mountinfo").expect("mountinfo"), before);
}
