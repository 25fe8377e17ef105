//! Applies layers while another process swaps directories for links, the worst that can happen in a directory which is
//! not private.
//!
//! The store's own directories are private (mode 0700, and mounts that no other process sees). So this test checks only
//! the promise of the applier: nothing outside its root is written, whatever happens to the names below it.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use rustix::fs::{RenameFlags, renameat_with};
use strata::changeset::apply::Applier;
use strata::changeset::tar::{Limits, decode};
use strata::conformance::layers::notation::archive;
use strata::mount::scratch::FsType;
use strata::tree::memory::Tree;
use strata::tree::{Dir, FileType, text};

use super::tally::Tally;
use super::{lock_step, support};

/// Environment variable that tells a child where to swap.
const ORDER: &str = "STRATA_TEST_SWAP";

/// The suite gets one in this many parts of the time budget.
const BUDGET_SHARE: u32 = 4;

/// Layer that creates, replaces, links, removes and describes entries in directories that come and go.
const LAYER: [&str; 16] = [
    "d d 755 @5",
    "f d/file \"evil\"",
    "f d/new \"evil\"",
    "d d/e 700 1:2 @6 user.a=b",
    "f d/e/file \"evil\" 4755 1:2",
    "l d/e/link -> evil",
    "h d/e/hard -> d/file",
    "f d/e/.wh.gone \"\"",
    "c d/e/null dev=1:3",
    "f d/.wh.old \"\"",
    "f d/e/.wh..wh..opq \"\"",
    "f d/implied/deep/file \"evil\"",
    "p d/e/dir/pipe",
    "f d/.wh.dir \"\"",
    "h late -> d/later",
    "f d/later \"evil\"",
];

fn swapper(base: &Path) -> Child {
    Command::new(std::env::current_exe().expect("this test"))
        .args(["--exact", "race::child", "--ignored", "--nocapture"])
        .env(ORDER, base)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("start a child")
}

#[test]
fn nothing_outside_is_written_while_somebody_swaps_directories() {
    let Some(scratch) = support::scratch(FsType::Ext4) else { return };
    let base = scratch.path();
    let outside = base.join("outside");
    fs::create_dir_all(outside.join("e/dir")).expect("mkdir");
    fs::create_dir(outside.join("dir")).expect("mkdir");
    for name in ["file", "old", "e/file", "e/gone", "dir/file", "later"] {
        fs::write(outside.join(name), "safe").expect("write");
    }
    let before = shown(&outside);
    let layer = archive(&LAYER).expect("lines");
    let mut child = swapper(base);
    let (started, budget) = (Instant::now(), lock_step::budget() / BUDGET_SHARE);
    let (mut rounds, mut whole, mut linked) = (0_u64, 0_u64, 0_u64);
    let tally = Tally::new("escapes");
    while started.elapsed() < budget {
        renew(base, &outside);
        whole += u64::from(apply(&base.join("root"), &layer).is_ok());
        assert_eq!(shown(&outside), before, "round {rounds}");
        rounds += 1;
        tally.add(1, 0);
        linked += u64::from(is_link(&base.join("root")));
    }
    child.kill().expect("kill the child");
    child.wait().expect("wait for the child");
    support::say(&format!("{rounds} layers applied against a swapper, {whole} of them to their end"));
    assert!(linked > 0 && linked < rounds, "{linked} of {rounds} rounds ended on a link: nobody swaps");
}

fn shown(outside: &Path) -> String {
    text::print(&Tree::read(&Dir::open(outside).expect("open")).expect("read"))
}

fn apply(root: &Path, mut layer: &[u8]) -> strata::Result<()> {
    let mut applier = Applier::new(Dir::open(root)?);
    decode(&mut layer, &Limits::default(), &mut applier)?;
    applier.finish().map(drop)
}

fn is_link(root: &Path) -> bool {
    let stat = Dir::open(root).and_then(|root| root.stat_if_any("d")).expect("stat");
    stat.is_some_and(|stat| stat.file_type == FileType::Symlink)
}

/// Creates a new root with entries to swap, remove and replace.
fn renew(base: &Path, outside: &Path) {
    let [root, next, old] = ["root", "next", "old"].map(|name| base.join(name));
    fs::create_dir_all(next.join("d/e/dir")).expect("mkdir");
    symlink(outside, next.join("l")).expect("symlink");
    symlink("../../outside/e", next.join("d/m")).expect("symlink");
    if root.exists() {
        fs::rename(&root, &old).expect("rename");
    }
    fs::rename(&next, &root).expect("rename");
    // The swapping process may still hold a path into the old root for a moment.
    while old.exists() {
        let _ = fs::remove_dir_all(&old);
    }
}

/// Runs in the process that swaps. It finds the file system in the mount namespace that it was started in.
#[test]
#[ignore = "waits to be killed"]
fn child() {
    let Ok(base) = std::env::var(ORDER) else { return };
    let root = Path::new(&base).join("root");
    // The directory or the link may be missing at the moment.
    let swap = |dir: &Dir, one: &str, other: &str| {
        let _ = renameat_with(dir, one, dir, other, RenameFlags::EXCHANGE);
    };
    loop {
        // Opened by descriptors, so that a link cannot lead this process to swap directories outside.
        let Ok(root) = Dir::open(&root) else { continue };
        swap(&root, "d", "l");
        if let Ok(dir) = root.open_dir("d") {
            swap(&dir, "e", "m");
        }
        swap(&root, "d", "l");
        swap(&root, "l", "d");
    }
}
