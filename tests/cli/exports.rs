//! Files that commands write outside the store: kills, failing syncs, and what other users planted.

use std::fs;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _, chown, symlink};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::archive::docker_archive;
use super::tally::Tally;
use super::{Bench, NOBODY, support, text};

const IMAGE: &str = "app";

/// Bytes of the image's one file: an export of it takes longer than a kill takes to come.
const FILE_BYTES: usize = 24 << 20;

/// Number of kills of each form of export, spread over the time that an export takes.
const KILLS: u32 = 12;

/// More syncs than an export makes.
const SYNCS_MAX: usize = 64;

/// A bench with an image of one file.
fn bench(file_bytes: usize) -> Option<Bench> {
    let bench = Bench::mounting()?;
    let file = ("content".to_owned(), vec![7; file_bytes]);
    fs::write(bench.path("image.tar"), docker_archive(&[("image", vec![vec![file]])])).expect("write");
    bench.ok(&["import", bench.path("image.tar").to_str().expect("UTF-8"), "--name", IMAGE]);
    fs::create_dir(bench.path("out")).expect("mkdir");
    Some(bench)
}

/// The names in the directory of the exports.
fn names(bench: &Bench) -> Vec<String> {
    let entries = fs::read_dir(bench.path("out")).expect("read");
    let mut names: Vec<_> = entries.map(|entry| entry.expect("an entry").file_name()).collect();
    names.sort();
    names.iter().map(|name| name.to_string_lossy().into_owned()).collect()
}

fn is_partial(name: &str) -> bool {
    name.starts_with(".strata-") && name.ends_with(".partial")
}

fn destination(bench: &Bench, form: &str) -> String {
    format!("{form}:{}", bench.path("out/image").display())
}

/// Kills an export after `delay`. Returns true if the export left something in the making.
fn kill_export(bench: &Bench, destination: &str, delay: Duration) -> bool {
    let mut command = bench.command(&["export", IMAGE, destination]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("spawn");
    std::thread::sleep(delay);
    child.kill().expect("kill");
    child.wait().expect("wait");
    let left = names(bench);
    let partials = left.iter().filter(|name| is_partial(name)).count();
    assert!(partials <= 1, "the leftover of the kill before is gone: {left:?}");
    assert!(left.iter().all(|name| is_partial(name) || name == "image"), "{left:?}");
    if left.contains(&"image".to_owned()) {
        // A file with the final name is complete.
        let image = bench.path("out/image");
        bench.ok(&["import", image.to_str().expect("UTF-8"), "--name", "again"]);
        if image.is_dir() { fs::remove_dir_all(&image) } else { fs::remove_file(&image) }.expect("remove");
    }
    partials == 1
}

#[test]
fn a_killed_export_leaves_what_the_next_removes() {
    let Some(bench) = bench(FILE_BYTES) else { return };
    let tally = Tally::new("writing");
    for form in ["oci", "oci-archive", "docker-archive"] {
        let destination = destination(&bench, form);
        let began = Instant::now();
        bench.ok(&["export", IMAGE, &destination]);
        let whole = began.elapsed();
        let path = bench.path("out/image");
        if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) }.expect("remove");
        let left = (1..=KILLS).filter(|at| kill_export(&bench, &destination, whole * *at / (KILLS + 1))).count();
        assert!(left > 0, "{form}: no kill came in the middle");
        support::say(&format!("{form}: {KILLS} kills, {left} of them left something in the making"));
        tally.add(KILLS as usize, 0);
        bench.ok(&["export", IMAGE, &destination]);
        assert_eq!(names(&bench), ["image"], "{form}");
        if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) }.expect("remove");
    }
}

/// A command under strace that fails the sync of number `number`.
fn failing_sync(bench: &Bench, number: usize, arguments: &[&str]) -> Command {
    let strata = bench.command(arguments);
    let inject = format!("inject=fsync:error=EIO:when={number}");
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=fsync", "-e", &inject]);
    command.arg(strata.get_program()).args(strata.get_args()).env("STRATA_ROOT", bench.path("store"));
    command
}

/// Fails each sync of a command in turn. Returns the number of syncs.
fn fail_syncs(bench: &Bench, arguments: &[&str], check: impl Fn(&str)) -> usize {
    for number in 1..SYNCS_MAX {
        let output = failing_sync(bench, number, arguments).output().expect("run strace");
        let said = text(&output.stderr);
        if output.status.success() {
            return number - 1;
        }
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("sync"), "{said}");
        assert!(!names(bench).iter().any(|name| is_partial(name)), "{said}");
        check(&said);
    }
    panic!("{arguments:?} syncs without an end")
}

fn has_strace() -> bool {
    let works = Command::new("strace").args(["-qq", "-o", "/dev/null", "true"]).output();
    let reason = || "strace is missing or may not trace".to_owned();
    support::require("strace", works.is_ok_and(|output| output.status.success()).then_some(()).ok_or_else(reason))
}

#[test]
fn a_failed_sync_fails_the_export_and_leaves_the_old_file() {
    if !has_strace() {
        return;
    }
    let Some(bench) = bench(1 << 10) else { return };
    let (archive, parent) = (bench.path("out/image"), format!("sync {}:", bench.path("out").display()));
    let layer = archive.to_str().expect("UTF-8");
    let (oci, docker) = (destination(&bench, "oci-archive"), destination(&bench, "docker-archive"));
    let commands = [&["export", IMAGE, &oci][..], &["export", IMAGE, &docker], &["diff", IMAGE, "--tar", layer]];
    for arguments in commands {
        fs::write(&archive, "old").expect("write");
        let syncs = fail_syncs(&bench, arguments, |said| {
            // Only the name may be lost in a power cut if the last sync fails, that of the directory.
            let is_old = fs::read(&archive).expect("read") == b"old";
            assert_eq!(is_old, !said.contains(&parent), "{said}");
        });
        assert_eq!(syncs, 2, "{arguments:?}: the file's, its directory's");
        fs::remove_file(&archive).expect("remove");
    }
    let layout = destination(&bench, "oci");
    let syncs = fail_syncs(&bench, &["export", IMAGE, &layout], |said| {
        assert_eq!(archive.exists(), said.contains(&parent), "{said}");
        if archive.exists() {
            fs::remove_dir_all(&archive).expect("remove");
        }
    });
    assert!(syncs > 6, "{syncs}: each file's and each directory's");
}

/// Runs a program as a user without privileges.
fn as_nobody(bench: &Bench, program: &str, arguments: &[&Path]) {
    use std::os::unix::process::CommandExt as _;
    let status = Command::new(program).args(arguments).uid(NOBODY).gid(NOBODY).current_dir(bench.path("out")).status();
    assert!(status.expect("run").success(), "{program} {arguments:?}");
}

/// A bench whose directory for exports belongs to another user, or `None` without root.
fn bench_of_nobody() -> Option<Bench> {
    let is_root = rustix::process::geteuid().is_root();
    if !support::require("root", is_root.then_some(()).ok_or_else(|| "files of another user".to_owned())) {
        return None;
    }
    let bench = bench(1 << 10)?;
    fs::set_permissions(bench.dir.path(), fs::Permissions::from_mode(0o755)).expect("chmod");
    chown(bench.path("out"), Some(NOBODY), Some(NOBODY)).expect("chown");
    Some(bench)
}

/// The commands that write to `out/image`.
fn writers(bench: &Bench) -> Vec<Vec<String>> {
    let forms = ["oci-archive", "docker-archive", "oci"];
    let mut writers: Vec<_> =
        forms.iter().map(|form| vec!["export".to_owned(), IMAGE.to_owned(), destination(bench, form)]).collect();
    writers.push(["diff", IMAGE, "--tar"].map(str::to_owned).to_vec());
    writers[3].push(bench.path("out/image").display().to_string());
    writers
}

/// Runs each writer with a time limit, and returns whether each succeeded.
fn run_limited(bench: &Bench, arguments: &[String]) -> bool {
    let strata = bench.command(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    let mut command = Command::new("timeout");
    command.arg("20").arg(strata.get_program()).args(strata.get_args()).env("STRATA_ROOT", bench.path("store"));
    let output = command.stdin(Stdio::null()).output().expect("run");
    let code = output.status.code();
    assert!(matches!(code, Some(0 | 1)), "{arguments:?} waits for another user: {code:?}");
    code == Some(0)
}

/// A link of another user's is replaced or refused; the file behind it stays, also its mode and owner.
#[test]
fn planted_links_are_not_followed() {
    let Some(bench) = bench_of_nobody() else { return };
    let tally = Tally::new("writing");
    let (target, secret) = (bench.path("out/image"), bench.path("secret"));
    fs::write(&secret, "old").expect("write");
    fs::create_dir(bench.path("mine")).expect("mkdir");
    for planted in [secret.clone(), bench.path("mine"), bench.path("missing"), bench.path("pipe")] {
        for writer in writers(&bench) {
            let _ = fs::remove_file(bench.path("pipe"));
            nix::unistd::mkfifo(&bench.path("pipe"), nix::sys::stat::Mode::S_IRWXU).expect("mkfifo");
            as_nobody(&bench, "ln", &[Path::new("-s"), &planted, Path::new("image")]);
            let done = run_limited(&bench, &writer);
            let is_link = target.symlink_metadata().expect("stat").is_symlink();
            assert_eq!(is_link, !done, "{writer:?}: {planted:?} is replaced, or the command fails");
            assert_eq!(fs::read(&secret).expect("read"), b"old");
            assert_eq!(fs::read_dir(bench.path("mine")).expect("read").count(), 0, "{writer:?}");
            assert!(!bench.path("missing").exists(), "{writer:?}");
            if is_link { fs::remove_file(&target) } else { remove(&target) }.expect("remove");
            tally.add(1, 0);
        }
    }
}

fn remove(path: &Path) -> std::io::Result<()> {
    if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }
}

#[test]
fn a_planted_pipe_gets_nothing() {
    let Some(bench) = bench_of_nobody() else { return };
    let tally = Tally::new("writing");
    let target = bench.path("out/image");
    as_nobody(&bench, "mkfifo", &[Path::new("image")]);
    // Another user waits at the other end, without waiting for a writer.
    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::NONBLOCK;
    let reader = rustix::fs::open(&target, flags, rustix::fs::Mode::empty()).expect("open");
    for writer in writers(&bench) {
        let done = run_limited(&bench, &writer);
        let mut bytes = [0; 512];
        assert_eq!(rustix::io::read(&reader, &mut bytes), Ok(0), "{writer:?}");
        assert!(!done && target.metadata().expect("stat").file_type().is_fifo(), "{writer:?}");
        tally.add(1, 0);
    }
}

/// A loop device that goes when it is dropped.
struct LoopDevice(String);

impl LoopDevice {
    fn new(file: &Path) -> Option<Self> {
        let output = Command::new("losetup").args(["--find", "--show"]).arg(file).output();
        let output = output.map_err(|error| error.to_string());
        let made =
            output.and_then(|output| if output.status.success() { Ok(output) } else { Err(text(&output.stderr)) });
        let path = made.as_ref().map(|output| text(&output.stdout).trim().to_owned()).unwrap_or_default();
        support::require("loop", made.map(drop)).then_some(Self(path))
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let status = Command::new("losetup").args(["--detach", &self.0]).status();
        assert!(status.is_ok_and(|status| status.success()) || std::thread::panicking(), "losetup --detach");
    }
}

/// Also a link to one.
#[test]
fn a_planted_block_device_gets_nothing() {
    let Some(bench) = bench_of_nobody() else { return };
    let tally = Tally::new("writing");
    let (disk, target) = (bench.path("disk"), bench.path("out/image"));
    fs::write(&disk, [7; 1 << 20]).expect("write");
    let Some(device) = LoopDevice::new(&disk) else { return };
    let number = rustix::fs::stat(&device.0).expect("stat").st_rdev;
    for writer in writers(&bench) {
        let node = (nix::sys::stat::SFlag::S_IFBLK, nix::sys::stat::Mode::from_bits_truncate(0o666));
        nix::sys::stat::mknod(&target, node.0, node.1, number).expect("mknod");
        chown(&target, Some(NOBODY), Some(NOBODY)).expect("chown");
        assert!(!run_limited(&bench, &writer), "{writer:?}");
        assert!(target.metadata().expect("stat").file_type().is_block_device(), "{writer:?}");
        fs::remove_file(&target).and_then(|()| symlink(&device.0, &target)).expect("symlink");
        run_limited(&bench, &writer);
        assert!(fs::read(&device.0).expect("read").iter().all(|byte| *byte == 7), "{writer:?}");
        remove(&target).expect("remove");
        tally.add(2, 0);
    }
}
