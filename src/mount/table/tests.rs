use std::fs;
use std::os::unix::ffi::OsStrExt;

use proptest::prelude::*;

use super::*;
use crate::mount::attach::layers_one_by_one;
use crate::mount::scratch::FsType;
use crate::mount::{Access, Mount, Mounted, Upper, detached};
use crate::testing;

/// Escapes a path as the kernel does in the table (`mangle`): the characters that would end a field.
fn escape(path: &Path, special: &[u8]) -> Vec<u8> {
    let mut text = Vec::new();
    for byte in path.as_os_str().as_bytes() {
        match special.contains(byte) {
            true => text.extend(format!("\\{byte:03o}").bytes()),
            false => text.push(*byte),
        }
    }
    text
}

fn any_path() -> impl Strategy<Value = PathBuf> {
    prop::collection::vec(1..=255_u8, 0..40).prop_map(|mut bytes| {
        bytes.insert(0, b'/');
        PathBuf::from(OsString::from_vec(bytes))
    })
}

proptest! {
    #[test]
    fn any_line(id: u64, root in any_path(), point in any_path(), peers in 0..3_usize, lower in any_path()) {
        prop_assume!(!root.as_os_str().as_bytes().ends_with(DELETED));
        let mut line = format!("{id} 1 0:5 ").into_bytes();
        line.extend(escape(&root, b" \t\n\\"));
        line.push(b' ');
        line.extend(escape(&point, b" \t\n\\"));
        line.extend(b" rw,relatime");
        line.extend(b" shared:4".repeat(peers));
        line.extend(b" - overlay overlay rw,lowerdir+=");
        line.extend(escape(&lower, b",= \t\n\\"));
        line.extend(b",index=off");
        let entry = parse(&line).expect("a line");
        prop_assert_eq!((entry.id, entry.root, entry.point), (id, Some(root), point));
        prop_assert_eq!((entry.device, entry.fstype), (&b"0:5"[..], &b"overlay"[..]));
        prop_assert_eq!(layers(entry.options).collect::<Vec<_>>(), [lower]);
    }

    #[test]
    fn any_bytes_do_no_harm(line: Vec<u8>) {
        let _ = parse(&line).map(|entry| layers(entry.options).count());
    }
}

#[test]
fn lines() {
    let line = br"36 35 98:0 /a\040b /c\134d rw master:1 - ext4  rw";
    let entry = parse(line).expect("a source may be empty");
    assert_eq!(entry.root.as_deref(), Some(Path::new("/a b")));
    assert_eq!(entry.point, Path::new(r"/c\d"));
    let gone = parse(b"36 35 98:0 /a//deleted /b rw - ext4 /dev/x rw").expect("a line");
    assert_eq!(gone.root, None);
    for broken in [&b""[..], b"36", b"x 35 98:0 / / rw - a b c", b"36 35 98:0 / / rw a b c"] {
        assert_eq!(parse(broken), None);
    }
    let names: Vec<_> = layers(br"rw,lowerdir=/a\134:b:/c::/d,upperdir=/u\054,workdir=/w,xino=off").collect();
    assert_eq!(names, ["/a:b", "/c", "/d", "/u,", "/w"].map(PathBuf::from));
}

#[test]
fn every_way_to_use_a_directory() {
    for fs_type in FsType::ALL {
        let Some(scratch) = testing::scratch(fs_type) else { continue };
        let at = |name: &str| {
            let dir = scratch.path().join(name);
            fs::create_dir_all(&dir).expect("mkdir");
            dir
        };
        let used = at("s/1");
        let (upper, point, deep) = (Upper { dir: at("s/1/fs"), work: at("s/1/work") }, at("point"), at("s/1/fs/deep"));
        let (two, three) = (at("s/2/fs"), at("s/3/fs"));
        at("s/11/fs");
        let bind = |source: &Path| Mount::Bind { source: source.to_owned(), access: Access::ReadOnly };
        let overlay = |lower: &[&PathBuf], upper: Option<&Upper>| Mount::Overlay {
            lower: lower.iter().map(|dir| (*dir).clone()).collect(),
            upper: upper.cloned(),
            userxattr: false,
        };
        let uses =
            [bind(&used), bind(&deep), overlay(&[&two], Some(&upper)), overlay(&[&two, &upper.dir, &three], None)];
        for mount in uses {
            assert_eq!(users_of(&used).expect("table"), Vec::<PathBuf>::new(), "{fs_type}");
            let mounted = Mounted::new(std::slice::from_ref(&mount), &point).expect("mount");
            assert_eq!(users_of(&used).expect("table"), [point.as_path()], "{fs_type} {mount:?}");
            assert_eq!(users_of(&at("s/11")).expect("table"), Vec::<PathBuf>::new(), "{fs_type} {mount:?}");
            mounted.unmount().expect("unmount");
        }
        for mount in [bind(&two), overlay(&[&two, &three], None), bind(scratch.path())] {
            let _mounted = Mounted::new(std::slice::from_ref(&mount), &point).expect("mount");
            assert_eq!(users_of(&used).expect("table"), Vec::<PathBuf>::new(), "{fs_type} {mount:?}");
        }
        let inside = Mounted::new(&[bind(&two)], &deep).expect("mount");
        assert_eq!(users_of(&used).expect("table"), [deep.as_path()], "{fs_type}");
        drop(inside);
        assert_eq!(users_of(&scratch.path().join("none")).expect("table"), Vec::<PathBuf>::new());
    }
}

#[test]
fn a_store_reached_by_a_link_or_another_mount() {
    let Some(scratch) = testing::scratch(FsType::Ext4) else { return };
    let at = |name: &str| {
        let dir = scratch.path().join(name);
        fs::create_dir_all(&dir).expect("mkdir");
        dir
    };
    let (store, view, point) = (at("store"), at("view"), at("point"));
    for name in ["store/s/1/fs", "store/s/1/work", "store/s/2/fs"] {
        at(name);
    }
    let link = scratch.path().join("link");
    std::os::unix::fs::symlink(&store, &link).expect("link");
    let _view = Mounted::new(&[Mount::Bind { source: store.clone(), access: Access::ReadWrite }], &view).expect("bind");
    for root in [&store, &view, &link] {
        let upper = Upper { dir: root.join("s/1/fs"), work: root.join("s/1/work") };
        let mounts = [
            Mount::Overlay { lower: vec![root.join("s/2/fs")], upper: Some(upper.clone()), userxattr: false },
            Mount::Bind { source: upper.dir, access: Access::ReadWrite },
        ];
        for mount in mounts {
            let _mounted = Mounted::new(&[mount], &point).expect("mount");
            for seen_by in [&store, &view, &link] {
                assert_eq!(users_of(&seen_by.join("s/1")).expect("table"), [point.as_path()], "{root:?} {seen_by:?}");
            }
        }
    }
}

#[test]
fn the_same_path_on_another_file_system_is_another_directory() {
    let [Some(one), Some(other)] = [FsType::Tmpfs; 2].map(testing::scratch) else { return };
    for scratch in [&one, &other] {
        fs::create_dir_all(scratch.path().join("s/1/fs")).expect("mkdir");
    }
    let point = one.path().join("point");
    fs::create_dir(&point).expect("mkdir");
    let mount = Mount::Bind { source: other.path().join("s/1/fs"), access: Access::ReadWrite };
    let _mounted = Mounted::new(&[mount], &point).expect("bind");
    assert_eq!(users_of(&one.path().join("s/1")).expect("table"), Vec::<PathBuf>::new());
    assert_eq!(users_of(&other.path().join("s/1")).expect("table"), [point]);
}

#[test]
fn lines_longer_than_a_page_and_what_no_table_shows() {
    let Some(scratch) = testing::scratch(FsType::Ext4) else { return };
    let long = "n".repeat(100);
    let lower: Vec<_> = (0..100).map(|number| scratch.path().join(format!("{long}/{number}/fs"))).collect();
    for dir in &lower {
        fs::create_dir_all(dir).expect("mkdir");
    }
    let point = scratch.path().join("a point");
    fs::create_dir(&point).expect("mkdir");
    let mount = Mount::Overlay { lower: lower.clone(), upper: None, userxattr: false };
    let mounted = Mounted::new(std::slice::from_ref(&mount), &point).expect("mount");
    // Before Linux 6.8 a list this long is passed as relative links, so the layers cannot be found.
    if layers_one_by_one() {
        assert_eq!(users_of(&lower[99]).expect("table"), [point.as_path()]);
    }
    mounted.unmount().expect("unmount");
    let _detached = detached(&[mount]).expect("mount");
    assert_eq!(users_of(&lower[99]).expect("table"), Vec::<PathBuf>::new());
}

#[test]
fn a_mount_of_a_removed_directory_uses_nothing() {
    let Some(scratch) = testing::scratch(FsType::Ext4) else { return };
    let [source, point] = ["s/1/fs", "point"].map(|name| scratch.path().join(name));
    for dir in [&source, &point] {
        fs::create_dir_all(dir).expect("mkdir");
    }
    let mount = Mount::Bind { source: source.clone(), access: Access::ReadOnly };
    let _mounted = Mounted::new(&[mount], &point).expect("bind");
    fs::remove_dir(&source).expect("rmdir");
    fs::create_dir(&source).expect("mkdir");
    assert_eq!(users_of(&source).expect("table"), Vec::<PathBuf>::new());
}
