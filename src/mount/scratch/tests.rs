use std::fs;
use std::os::unix::fs::MetadataExt;

use super::*;
use crate::testing;

fn mount_lines(file: &str) -> usize {
    fs::read_to_string(file).expect(file).lines().count()
}

#[test]
fn every_type_mounts_and_unmounts() {
    for fs in FsType::ALL {
        let Some(scratch) = testing::scratch(fs) else { continue };
        let before = mount_lines("/proc/thread-self/mountinfo");
        fs::write(scratch.path().join("f"), "x").expect("write");
        assert_ne!(
            fs::metadata(scratch.path()).expect("stat").dev(),
            fs::metadata(base().expect("base")).expect("stat").dev()
        );
        let table = fs::read_to_string("/proc/thread-self/mountinfo").expect("mountinfo");
        let line = table.lines().find(|line| line.contains(scratch.path().to_str().expect("utf-8"))).expect("mounted");
        assert!(line.contains(&format!(" - {fs} ")), "{line}");
        let path = scratch.path().to_owned();
        drop(scratch);
        assert!(!path.exists());
        assert_eq!(mount_lines("/proc/thread-self/mountinfo"), before - 1);
    }
}

#[test]
fn threads_started_later_share_the_namespace_and_others_see_nothing() {
    let Some(scratch) = testing::scratch(FsType::Tmpfs) else { return };
    fs::write(scratch.path().join("f"), "x").expect("write");
    let path = scratch.path().to_owned();
    std::thread::spawn(move || {
        assert!(path.join("f").exists());
        private_namespace().expect("already private");
        assert!(path.join("f").exists(), "a second namespace was made");
        let second = Scratch::new(FsType::Tmpfs, 1 << 20).expect("scratch in the same namespace");
        assert_ne!(second.path(), path);
    })
    .join()
    .expect("thread");
    let first_thread = fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
    assert!(!first_thread.contains("strata-scratch"), "{first_thread}");
}

#[test]
fn many_threads_at_once() {
    let threads: Vec<_> = (0..6)
        .map(|_| {
            std::thread::spawn(|| {
                let Some(scratch) = testing::scratch(FsType::Ext4) else { return };
                let names = fs::read_dir(scratch.path()).expect("read").count();
                assert_eq!(names, 1, "lost+found alone");
                fs::write(scratch.path().join("f"), "x").expect("write");
            })
        })
        .collect();
    for thread in threads {
        thread.join().expect("thread");
    }
}

#[test]
fn xfs_and_btrfs_share_extents() {
    for fs in [FsType::Xfs, FsType::Btrfs] {
        let Some(scratch) = testing::scratch(fs) else { continue };
        let from = fs::File::create_new(scratch.path().join("a")).expect("create");
        rustix::io::write(&from, &[1; 8192]).expect("write");
        let to = fs::File::create_new(scratch.path().join("b")).expect("create");
        rustix::fs::ioctl_ficlone(&to, &from).expect("reflink");
    }
}

#[test]
fn size_is_a_limit_and_mkfs_speaks() {
    let Some(scratch) = testing::gate("tmpfs", Scratch::new(FsType::Tmpfs, 1 << 20)) else { return };
    let error = fs::write(scratch.path().join("f"), vec![0; 2 << 20]).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENOSPC));
    let Some(_root) = testing::scratch(FsType::Xfs) else { return };
    let error = Scratch::new(FsType::Xfs, 1 << 20).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    assert!(error.to_string().contains("mkfs.xfs failed"), "{error}");
}

#[test]
fn a_missing_program_names_its_package() {
    let image = image(1 << 20).expect("memfd");
    let error = make_file_system("mkfs.nosuch", &[], "nosuch-progs", &image).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("nosuch-progs"), "{error}");
}

/// Runs in a process of its own, started by [`a_killed_process_leaves_nothing`].
#[test]
#[ignore = "waits to be killed"]
fn wait_to_be_killed() {
    let scratch = Scratch::new(FsType::Ext4, 64 << 20).expect("scratch");
    fs::write(scratch.path().join("f"), "x").expect("write");
    let table = fs::read_to_string("/proc/thread-self/mountinfo").expect("mountinfo");
    let line = table
        .lines()
        .find(|line| line.contains(" - ext4 /dev/loop") && line.contains(&*scratch.path().to_string_lossy()));
    let device = line.and_then(|line| line.split("/dev/loop").nth(1)).and_then(|rest| rest.split(' ').next());
    println!("\nloop:{}", device.expect("a loop device"));
    // Long enough to be killed, and finite for a person who runs the ignored tests.
    std::thread::park_timeout(std::time::Duration::from_secs(20));
}

#[test]
fn a_killed_process_leaves_nothing() {
    use std::io::{BufRead, BufReader};
    use std::process::Stdio;

    if testing::scratch(FsType::Ext4).is_none() {
        return;
    }
    let mut child = Command::new(std::env::current_exe().expect("own path"))
        .args(["--exact", "mount::scratch::tests::wait_to_be_killed", "--ignored", "--nocapture"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("start");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines().map_while(|line| line.ok());
    let number = lines.find_map(|line| line.strip_prefix("loop:").map(str::to_owned)).expect("the child's device");
    let backing = PathBuf::from(format!("/sys/block/loop{number}/loop/backing_file"));
    assert!(backing.exists(), "the child has a loop device");
    child.kill().expect("kill");
    child.wait().expect("wait");
    // The kernel takes the namespace apart after it has reported the death of the process.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while fs::read_to_string(&backing).is_ok_and(|name| name.contains("strata-scratch")) {
        assert!(std::time::Instant::now() < deadline, "loop{number} is still set up");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}
