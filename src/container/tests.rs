use std::os::unix::fs::{PermissionsExt as _, symlink};

use super::*;
use crate::ErrorKind;

/// A root with these account files.
fn root(passwd: &str, group: &str) -> (tempfile::TempDir, Dir) {
    let dir = tempfile::tempdir().expect("a directory");
    fs::create_dir(dir.path().join("etc")).expect("mkdir");
    fs::write(dir.path().join("etc/passwd"), passwd).expect("write");
    fs::write(dir.path().join("etc/group"), group).expect("write");
    let root = Dir::open(dir.path()).expect("open");
    (dir, root)
}

const PASSWD: &str =
    "root:x:0:0:root:/root:/bin/sh\n# no line\nalice:x:1000:100::/home/alice:/bin/sh\n12:x:7:8::/seven:\n";
const GROUP: &str = "root:x:0:\nusers:x:100:\nextra:x:200:bob, alice\nlast:x:300:alice\nbroken\n";

#[test]
fn users_by_name_and_number() {
    let (_dir, root) = root(PASSWD, GROUP);
    for (text, uid, gid, groups, home) in [
        ("", 0, 0, &[0][..], "/root"),
        ("root", 0, 0, &[0], "/root"),
        ("alice", 1000, 100, &[100, 200, 300], "/home/alice"),
        ("1000", 1000, 100, &[100, 200, 300], "/home/alice"),
        ("alice:extra", 1000, 200, &[200], "/home/alice"),
        ("alice:7", 1000, 7, &[7], "/home/alice"),
        (":users", 0, 100, &[100], "/root"),
        // A name counts before a number, even if it is made of digits.
        ("12", 7, 8, &[8], "/seven"),
        ("4000000000", 4_000_000_000, 0, &[0], "/"),
    ] {
        let user = find_user(&root, text).unwrap_or_else(|error| panic!("{text:?}: {}", error.chain()));
        let expected = User { uid, gid, groups: groups.to_vec(), home: home.to_owned() };
        assert_eq!(user, expected, "{text:?}");
    }
    for text in ["eve", "alice:nobody", "4294967296", "-1"] {
        assert_eq!(find_user(&root, text).expect_err(text).kind(), ErrorKind::NotFound, "{text:?}");
    }
}

#[test]
fn account_files_are_a_strangers() {
    let (dir, root) = root(PASSWD, GROUP);
    let passwd = dir.path().join("etc/passwd");
    // A link leads to the container's file, not to the machine's.
    fs::remove_file(&passwd).expect("remove");
    symlink("/../../etc/hostname-of-nobody", &passwd).expect("link");
    assert_eq!(find_user(&root, "5").expect("a number").uid, 5);
    fs::write(dir.path().join("etc/hostname-of-nobody"), "linked:x:9:9::/:\n").expect("write");
    assert_eq!(find_user(&root, "linked").expect("through the link").uid, 9);
    for make in [
        |path: &Path| fs::create_dir(path).expect("mkdir"),
        |path: &Path| nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRWXU).expect("mkfifo"),
        |path: &Path| fs::File::create(path).expect("create").set_len(1 << 32).expect("a long one"),
    ] {
        fs::remove_file(&passwd).expect("remove");
        make(&passwd);
        assert_eq!(find_user(&root, "5").expect_err("no file").kind(), ErrorKind::InvalidArgument);
        if passwd.is_dir() {
            fs::remove_dir(&passwd).expect("remove");
            fs::write(&passwd, "").expect("write");
        }
    }
}

#[test]
fn a_runtime_is_found_by_name_or_path() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = std::ffi::OsString::from(format!("/nope:{}", dir.path().display()));
    let error = Runtime::find(None, &path).expect_err("none is there");
    assert!(error.kind() == ErrorKind::NotFound && error.to_string().contains("install the package"), "{error}");
    for name in ["runc", "crun", "other"] {
        let program = dir.path().join(name);
        fs::write(&program, "").expect("write");
        assert!(Runtime::find(Some(name), &path).is_err(), "{name} is no program yet");
        rustix::fs::chmod(&program, rustix::fs::Mode::RWXU).expect("chmod");
        assert_eq!(Runtime::find(Some(name), &path).expect(name).program(), program);
        assert_eq!(Runtime::find(Some(&program.to_string_lossy()), "".as_ref()).expect(name).program(), program);
    }
    assert_eq!(Runtime::find(None, &path).expect("the first").program(), dir.path().join("crun"));
}

/// After a crash, only mount points that are still as they were made are removed; their directories keep the times.
#[test]
fn mount_points_are_taken_away_by_their_note() {
    let root = if rustix::process::geteuid().is_root() { Ok(()) } else { Err("not root".to_owned()) };
    if !crate::testing::require("root", root) {
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let path = |name: &str| dir.path().join(name);
    for name in ["dev", "data", "data/in", "full", "changed"] {
        fs::create_dir(path(name)).expect("mkdir");
        fs::set_permissions(path(name), fs::Permissions::from_mode(0o755)).expect("chmod");
    }
    fs::set_permissions(path("changed"), fs::Permissions::from_mode(0o700)).expect("chmod");
    for (name, text) in [("full/mine", ""), ("a b", ""), ("written", "x"), ("link-target", "")] {
        fs::write(path(name), text).expect("write");
        fs::set_permissions(path(name), fs::Permissions::from_mode(0o644)).expect("chmod");
    }
    symlink("link-target", path("link")).expect("link");
    let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
    fs::File::open(dir.path()).expect("open").set_modified(time).expect("set the time");
    let root = Dir::open(dir.path()).expect("open");
    let note =
        "d dev\nd data\nd data/in\nd full\nd changed\nf a\\x20b\nf written\nf link\nd gone\nf gone/file\nf link/x\n";
    mount_points::take_away(&root, note).expect("take away");
    let mut left: Vec<_> = root.names().expect("names").into_iter().map(|entry| entry.name).collect();
    left.sort();
    assert_eq!(left, ["changed", "full", "link", "link-target", "written"]);
    assert_eq!(fs::metadata(dir.path()).expect("stat").modified().expect("a time"), time);
    for wrong in ["d", "d ", "x a", "d ../a", "d /a", "d a\\", "a\nd b"] {
        assert_eq!(mount_points::take_away(&root, wrong).expect_err(wrong).kind(), ErrorKind::DataLoss, "{wrong:?}");
    }
}

#[test]
fn what_may_not_be_executed_is_said_with_its_mode() {
    let dir = tempfile::tempdir().expect("a directory");
    let write = |path: &str, content: &str, mode: u32| {
        let path = dir.path().join(path);
        fs::create_dir_all(path.parent().expect("a parent")).expect("mkdir");
        fs::write(&path, content).expect("write");
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("chmod");
    };
    write("a/tool", "", 0o644);
    write("a/both", "", 0o600);
    write("b/both", "", 0o755);
    write("script", "#!/a/tool\n", 0o755);
    write("bare", "echo no line of an interpreter\n", 0o755);
    fs::create_dir(dir.path().join("a/dir")).expect("mkdir");
    let root = Dir::open(dir.path()).expect("open");
    let checked = |program: &str| {
        let (args, env) = (vec![program.to_owned()], vec!["PATH=/a:/b".to_owned()]);
        let process =
            Process { args, env, dir: "/".to_owned(), user: String::new(), terminal: false, no_new_privs: false };
        command::check(&root, &process, &[]).map_err(|error| (error.kind(), error.to_string()))
    };
    let not_executable = |start: &str| {
        let said = format!("the image's file {start} is not executable: its mode is 0644 (chmod +x; COPY --chmod=755)");
        Err((ErrorKind::FailedPrecondition, said))
    };
    assert_eq!(checked("/a/tool"), not_executable("\"/a/tool\""));
    assert_eq!(checked("tool"), not_executable("\"/a/tool\""));
    assert_eq!(checked("/script"), not_executable("\"/a/tool\", by which \"/script\" is run,"));
    assert_eq!(checked("both"), Ok(()), "the search goes on");
    let (kind, said) = checked("/bare").expect_err("the kernel does not run it");
    assert_eq!(kind, ErrorKind::FailedPrecondition);
    assert!(said.contains("\"/bare\" is a text without an interpreter") && said.contains("#!/bin/sh"), "{said}");
    for program in ["/a/dir", "dir", "none"] {
        assert_eq!(checked(program).expect_err(program).0, ErrorKind::NotFound, "{program}");
    }
}
