use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};

use tempfile::TempDir;

use super::*;
use crate::error::ErrorKind;

fn names(dir: &TempDir) -> Vec<String> {
    let names = fs::read_dir(dir.path()).expect("read").map(|entry| entry.expect("an entry").file_name());
    let mut names: Vec<_> = names.map(|name| name.to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

fn write(target: &Path) -> Result<()> {
    let (partial, mut file) = Partial::file(target, PRIVATE)?;
    file.write_all(b"new").at("write", target)?;
    partial.keep()
}

#[test]
fn a_file_appears_when_it_is_kept_and_is_private() {
    let dir = TempDir::new().expect("a directory");
    let target = dir.path().join("f");
    let (partial, _) = Partial::file(&target, PRIVATE).expect("make");
    assert!(!target.exists());
    drop(partial);
    assert!(names(&dir).is_empty());
    write(&target).expect("write");
    write(&target).expect("write again");
    assert_eq!(names(&dir), ["f"]);
    assert_eq!(fs::metadata(&target).expect("stat").mode() & 0o7777, 0o600);
}

/// Another user plants something under the target's name: the file behind a link stays as it is.
#[test]
fn what_others_planted_is_not_written_to() {
    let outside = TempDir::new().expect("a directory");
    let secret = outside.path().join("secret");
    fs::write(&secret, "old").expect("write");
    let dir = TempDir::new().expect("a directory");
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).expect("chmod");
    let target = dir.path().join("f");
    for planted in [secret.as_path(), Path::new("/dev/null"), Path::new("/nowhere")] {
        symlink(planted, &target).expect("symlink");
        write(&target).expect("write");
        assert!(target.symlink_metadata().expect("stat").is_file(), "{planted:?} is replaced, not followed");
        assert_eq!(fs::read_to_string(&secret).expect("read"), "old");
        fs::remove_file(&target).expect("remove");
    }
    let fifo = nix::unistd::mkfifo(&target, nix::sys::stat::Mode::S_IRWXU);
    fifo.expect("mkfifo");
    // As root, the pipe of another user.
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(&target, Some(65_534), None).expect("chown");
        assert_eq!(write(&target).unwrap_err().kind(), ErrorKind::FailedPrecondition);
    }
    assert_eq!(names(&dir), ["f"]);
}

#[test]
fn a_partial_of_a_dead_process_is_removed_and_one_of_a_living_stays() {
    let dir = TempDir::new().expect("a directory");
    let left = dir.path().join(random_name());
    fs::create_dir(&left).expect("mkdir");
    fs::set_permissions(&left, fs::Permissions::from_mode(0o700)).expect("chmod");
    fs::write(left.join("blob"), "x").expect("write");
    fs::write(dir.path().join(random_name()), "x").expect("write");
    let (living, _) = Partial::file(&dir.path().join("living"), PRIVATE).expect("make");
    write(&dir.path().join("f")).expect("write");
    assert_eq!(names(&dir).len(), 2, "{:?}", names(&dir));
    living.keep().expect("keep");
    assert_eq!(names(&dir), ["f", "living"]);
}

/// Another user who may write to the directory takes the partial file away and puts one of theirs there.
#[test]
fn an_exchanged_partial_is_found_out() {
    let dir = TempDir::new().expect("a directory");
    let target = dir.path().join("f");
    let (partial, _) = Partial::file(&target, PRIVATE).expect("make");
    let name = dir.path().join(&names(&dir)[0]);
    fs::remove_file(&name).and_then(|()| symlink("/etc/passwd", &name)).expect("exchange");
    assert_eq!(partial.keep().unwrap_err().kind(), ErrorKind::FailedPrecondition);
    assert!(names(&dir).is_empty());
}

#[test]
fn the_directory_is_opened_once() {
    let dir = TempDir::new().expect("a directory");
    let (one, other) = (dir.path().join("one"), dir.path().join("other"));
    fs::create_dir(&one).and_then(|()| fs::create_dir(&other)).expect("mkdir");
    let (partial, mut file) = Partial::file(&one.join("f"), PRIVATE).expect("make");
    fs::rename(&one, dir.path().join("moved")).and_then(|()| symlink(&other, &one)).expect("exchange");
    file.write_all(b"x").expect("write");
    partial.keep().expect("keep");
    assert!(dir.path().join("moved/f").exists() && !other.join("f").exists());
}

/// Another user can rename a directory of the caller's where the sticky bit is missing, but must not have it emptied.
#[test]
fn a_directory_that_was_named_as_a_leftover_stays() {
    let dir = TempDir::new().expect("a directory");
    let left = dir.path().join(random_name());
    fs::create_dir(&left).and_then(|()| fs::write(left.join("mine"), "x")).expect("make");
    fs::set_permissions(&left, fs::Permissions::from_mode(0o700)).expect("chmod");
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).expect("chmod");
    write(&dir.path().join("f")).expect("write");
    assert!(left.join("mine").exists());
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o1777)).expect("chmod");
    write(&dir.path().join("f")).expect("write");
    assert_eq!(names(&dir), ["f"], "with the sticky bit only the caller can have named it");
}

/// Another user gives the name of a directory in the making to another directory of the caller's.
#[test]
fn an_exchanged_directory_is_neither_used_nor_emptied() {
    let dir = TempDir::new().expect("a directory");
    let (mine, target) = (dir.path().join("mine"), dir.path().join("target"));
    fs::create_dir(&mine).and_then(|()| fs::write(mine.join("f"), "x")).expect("make");
    let (partial, root) = Partial::dir(&target).expect("make");
    root.create_file("blob").expect("create");
    let name = dir.path().join(&names(&dir)[0]);
    fs::rename(&name, dir.path().join("moved")).and_then(|()| fs::rename(&mine, &name)).expect("exchange");
    assert_eq!(partial.keep().unwrap_err().kind(), ErrorKind::FailedPrecondition);
    assert!(name.join("f").exists() && !target.exists());
    assert!(!dir.path().join("moved/blob").exists(), "what was written goes");
}
