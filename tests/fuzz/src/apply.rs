//! A layer that is applied changes nothing but the tree below its root, and leaves a tree that can be read.
//!
//! Each input is two layers on top of each other: whatever the first one leaves (links to anywhere, above all) is what
//! the second one meets. All happens in a thread whose own root directory is a file system in memory, so that even an
//! escape reaches nothing of the machine's.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::{fs, thread};

use super::TIGHT;
use strata::changeset::apply::Applier;
use strata::changeset::tar::decode;
use strata::mount::scratch::{FsType, Scratch};
use strata::tree::Dir;
use strata::tree::memory::Tree;

/// The room that the trees have.
const SCRATCH_BYTES: u64 = 64 << 20;

/// Where inputs go, and where the answer comes back.
type Cell = (SyncSender<Vec<u8>>, std::sync::Mutex<Receiver<()>>);

static CELL: OnceLock<Cell> = OnceLock::new();

/// Panics if the property does not hold for `archive`.
pub fn check(archive: &[u8]) {
    let (inputs, answers) = CELL.get_or_init(|| {
        let (inputs, received) = sync_channel(0);
        let (answer, answers) = sync_channel(0);
        thread::spawn(move || serve(&received, &answer));
        (inputs, answers.into())
    });
    inputs.send(archive.to_vec()).expect("the thread lives");
    answers.lock().expect("one at a time").recv().expect("the thread lives");
}

fn serve(inputs: &Receiver<Vec<u8>>, answer: &SyncSender<()>) {
    let scratch = Scratch::new(FsType::Tmpfs, SCRATCH_BYTES).expect("root, or a user namespace: unshare -rm");
    nix::unistd::chroot(scratch.path()).expect("chroot");
    std::env::set_current_dir("/").expect("chdir");
    fs::create_dir_all("/outside/dir").expect("mkdir");
    fs::write("/outside/dir/file", "safe").expect("write");
    symlink("file", "/outside/dir/link").expect("symlink");
    let outside = state(Path::new("/outside"));
    while let Ok(archive) = inputs.recv() {
        fs::create_dir("/root").expect("mkdir");
        symlink("../outside", "/root/out").expect("symlink");
        symlink("/outside/dir", "/root/dir").expect("symlink");
        for layer in halves(&archive) {
            apply(layer);
        }
        Tree::read(&Dir::open("/root").expect("open")).expect("a tree that can be read");
        assert_eq!(state(Path::new("/outside")), outside);
        let names: Vec<_> = fs::read_dir("/").expect("list").map(|entry| entry.expect("entry").file_name()).collect();
        assert_eq!(names.len(), 2, "{names:?}");
        fs::remove_dir_all("/root").expect("remove");
        answer.send(()).expect("somebody waits");
    }
}

/// The two layers of an input: cut at the block boundary nearest to its middle.
fn halves(archive: &[u8]) -> [&[u8]; 2] {
    let (first, second) = archive.split_at(archive.len() / 2 / 512 * 512);
    [first, second]
}

fn apply(layer: &[u8]) {
    let mut applier = Applier::new(Dir::open("/root").expect("open"));
    // An error is as good as success: only what happens outside counts.
    if decode(&mut &layer[..], &TIGHT, &mut applier).is_ok() {
        drop(applier.finish());
    }
}

fn state(path: &Path) -> Tree {
    Tree::read(&Dir::open(path).expect("open")).expect("read")
}
