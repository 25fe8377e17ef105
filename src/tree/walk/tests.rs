use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use super::*;

fn scratch() -> (tempfile::TempDir, Dir) {
    let temp = tempfile::tempdir().unwrap();
    let dir = Dir::open(temp.path()).unwrap();
    (temp, dir)
}

/// Creates nested directories of one name, by descriptors, because no path reaches so deep.
fn deep(dir: &Dir, depth: usize, name: &str) {
    let mut at = dir.try_clone().unwrap();
    for _ in 0..depth {
        at.make_dir(name).unwrap();
        drop(at.create_file("file").unwrap());
        let below = rustix::fs::openat(
            &at,
            name,
            rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC,
            rustix::fs::Mode::empty(),
        );
        at = Dir::from_fd(below.unwrap(), "deep");
    }
}

fn open_descriptors() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

#[test]
fn order_is_by_component_bytes() {
    let (temp, dir) = scratch();
    for path in ["a/x", "a-b", "a/b/c", "z"] {
        let path = temp.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "").unwrap();
    }
    symlink("a", temp.path().join("link")).unwrap();
    let mut seen = Vec::new();
    walk(&dir, |entry| {
        assert_eq!(entry.dir.stat(entry.name)?.ino, entry.stat.ino);
        seen.push(entry.path.to_path_buf());
        Ok(())
    })
    .unwrap();
    let expected = ["", "a", "a/b", "a/b/c", "a/x", "a-b", "link", "z"].map(PathBuf::from);
    assert_eq!(seen, expected);
    assert!(seen.is_sorted());
}

#[test]
fn skip_leaves_out_what_is_below() {
    let (temp, dir) = scratch();
    fs::create_dir_all(temp.path().join("a/b")).unwrap();
    fs::create_dir_all(temp.path().join("c/d")).unwrap();
    let mut walk = Walk::new(&dir).unwrap();
    let mut seen = Vec::new();
    while let Some(entry) = walk.next_entry().unwrap() {
        let path = entry.path.to_path_buf();
        if path == Path::new("a") {
            walk.skip();
        }
        seen.push(path);
    }
    assert_eq!(seen, ["", "a", "c", "c/d"].map(PathBuf::from));
}

#[test]
fn deep_trees_take_few_descriptors() {
    const DEPTH: usize = 1500;
    let (temp, dir) = scratch();
    deep(&dir, DEPTH, "d");
    let before = open_descriptors();
    let (mut count, mut most) = (0, 0);
    walk(&dir, |entry| {
        count += 1;
        if entry.path.as_os_str().len() % 100 == 0 {
            most = most.max(open_descriptors());
        }
        Ok(())
    })
    .unwrap();
    assert_eq!(count, 1 + 2 * DEPTH);
    // Other tests of this process open files too; without the limit there would be one descriptor for each level.
    assert!(most < before + 300, "{before} before, {most} at most");
    remove_all(&dir, "d").unwrap();
    assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 1);
}

#[test]
fn removes_what_its_owner_may_not_touch_and_follows_nothing() {
    let (temp, dir) = scratch();
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("kept"), "kept").unwrap();
    fs::create_dir_all(temp.path().join("x/y/z")).unwrap();
    fs::write(temp.path().join("x/y/file"), "").unwrap();
    symlink(outside.path(), temp.path().join("x/y/link")).unwrap();
    for path in ["x/y/z", "x/y", "x"] {
        fs::set_permissions(temp.path().join(path), fs::Permissions::from_mode(0o000)).unwrap();
    }
    remove_all(&dir, "x").unwrap();
    remove_all(&dir, "x").unwrap();
    assert!(!temp.path().join("x").exists());
    assert!(outside.path().join("kept").exists());
    symlink(outside.path(), temp.path().join("link")).unwrap();
    remove_all(&dir, "link").unwrap();
    assert!(outside.path().join("kept").exists());
}

/// Each call removes one entry, a directory once it is empty; the last call returns true.
#[test]
fn a_removal_that_is_to_stop_gets_on() {
    let (temp, dir) = scratch();
    fs::create_dir_all(temp.path().join("x/d/e")).unwrap();
    for file in ["x/f", "x/d/f", "x/d/e/f"] {
        fs::write(temp.path().join(file), "").unwrap();
    }
    let entries =
        || if temp.path().join("x").exists() { usage(&dir.open_dir("x").unwrap()).unwrap().inodes } else { 0 };
    for left in (0..6).rev() {
        assert_eq!(remove_all_until(&dir, "x", &|| true).unwrap(), left == 0);
        assert_eq!(entries(), left);
    }
    assert!(remove_all_until(&dir, "x", &|| true).unwrap(), "nothing is there");
}

#[test]
fn lifts_the_immutable_flag() {
    let (temp, dir) = scratch();
    fs::create_dir(temp.path().join("x")).unwrap();
    let file = fs::File::create(temp.path().join("x/file")).unwrap();
    let flags = rustix::fs::ioctl_getflags(&file);
    match flags.and_then(|flags| rustix::fs::ioctl_setflags(&file, flags | IFlags::IMMUTABLE)) {
        Ok(()) => {}
        Err(errno) => return println!("skipped: no immutable flag here: {errno}"),
    }
    let x = fs::File::open(temp.path().join("x")).unwrap();
    rustix::fs::ioctl_setflags(&x, rustix::fs::ioctl_getflags(&x).unwrap() | IFlags::IMMUTABLE).unwrap();
    remove_all(&dir, "x").unwrap();
    assert!(!temp.path().join("x").exists());
}

#[test]
fn removers_and_a_writer_race() {
    for _ in 0..20 {
        let (temp, dir) = scratch();
        for i in 0..20 {
            let path = temp.path().join(format!("x/{i}/a/b"));
            fs::create_dir_all(&path).unwrap();
            fs::write(path.join("f"), "").unwrap();
        }
        deep(&dir.open_dir("x").unwrap(), 60, "d");
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| remove_all(&dir, "x").unwrap());
            }
            scope.spawn(|| {
                for i in 0..20 {
                    drop(fs::write(temp.path().join(format!("x/{i}/late")), ""));
                }
            });
        });
        assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 0);
    }
}

#[test]
fn usage_counts_an_inode_once() {
    let (temp, dir) = scratch();
    fs::write(temp.path().join("a"), [1; 10_000]).unwrap();
    fs::hard_link(temp.path().join("a"), temp.path().join("b")).unwrap();
    let allocated = dir.stat("a").unwrap().allocated + dir.stat("").unwrap().allocated;
    assert_eq!(usage(&dir).unwrap(), Space { size_bytes: allocated, inodes: 2 });
}

#[test]
fn sync_says_when_it_is_not_enough() {
    let (temp, dir) = scratch();
    fs::create_dir(temp.path().join("d")).unwrap();
    fs::write(temp.path().join("d/f"), "x").unwrap();
    assert!(Inodes::of(&dir, 3).unwrap().sync(&dir).unwrap());
    assert!(!Inodes::of(&dir, 2).unwrap().sync(&dir).unwrap());
    symlink("f", temp.path().join("d/l")).unwrap();
    assert!(!Inodes::of(&dir, 100).unwrap().sync(&dir).unwrap());
}
