//! Archives are reproduced byte for byte from the tree that was made of them and the recording.

use std::cell::Cell;
use std::fs::{self, File};
use std::io::{Read as _, Seek as _};
use std::time::{Duration, Instant};

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{Config, TestRunner};

use super::properties::{directory, soup};
use super::*;
use crate::changeset::apply::Applier;
use crate::changeset::notation::{apply, fresh};
use crate::changeset::tar_split::{TarSplitWriter, replay};
use crate::mount::scratch::{FsType, Scratch};
use crate::tree::Dir;
use crate::tree::walk::remove_all;
use crate::{random, testing};

/// Default duration of the random suite in seconds.
const BUDGET_S: u64 = 4;

/// A file system for trees and recordings.
struct Bench {
    scratch: Scratch,
    round: Cell<u64>,
}

/// A tree made of an archive, and its recording.
struct Recorded {
    tree: Dir,
    recording: File,
}

impl Bench {
    fn new() -> Option<Self> {
        Some(Self { scratch: testing::scratch(FsType::Tmpfs)?, round: Cell::new(0) })
    }

    /// Applies `archive` over the tree given by `lower`, and records it.
    fn record(&self, lower: &[&str], archive: &[u8]) -> Result<Recorded> {
        self.round.set(self.round.get() + 1);
        let tree = fresh(self.scratch.path().join(self.round.get().to_string()));
        apply(&tree, lower).expect("the lower tree");
        let recording = tempfile::tempfile_in(self.scratch.path()).expect("a file");
        let tar_split = TarSplitWriter::new(recording.try_clone().expect("clone"))?;
        let mut applier = Applier::with_tar_split(tree.try_clone()?, tar_split);
        decode(&mut &archive[..], &Limits::default(), &mut applier)?;
        applier.finish()?;
        Ok(Recorded { tree, recording })
    }

    /// Returns the reproduced archive, and true if the recording contained file contents.
    fn replay(&self, recorded: &Recorded) -> Result<(Vec<u8>, bool)> {
        let mut spooled = false;
        let mut spool = || {
            spooled = true;
            Ok(tempfile::tempfile_in(self.scratch.path()).expect("a file"))
        };
        let mut bytes = Vec::new();
        replay(&recorded.recording, &recorded.tree, &mut spool, &mut bytes)?;
        Ok((bytes, spooled))
    }

    /// Checks that `archive` is reproduced; `rescues` says whether the recording must contain file contents.
    #[track_caller]
    fn check(&self, name: &str, lower: &[&str], rescues: bool, archive: &[u8]) {
        let recorded = self.record(lower, archive).unwrap_or_else(|error| panic!("{name}: {}", error.chain()));
        let (bytes, spooled) = self.replay(&recorded).unwrap_or_else(|error| panic!("{name}: {}", error.chain()));
        assert!(bytes == archive, "{name}: it came out as something else");
        assert_eq!(spooled, rescues, "{name}: contents that the tree has need not be recorded");
    }

    fn clear(&self) {
        let root = Dir::open(self.scratch.path()).expect("open");
        remove_all(&root, self.round.get().to_string()).expect("remove");
    }
}

fn new() -> Archive {
    Archive::default()
}

#[test]
fn what_the_tree_has_is_not_recorded() {
    let Some(bench) = Bench::new() else { return };
    let check =
        |name: &str, archive: Archive| bench.check(name, &["d d", "f d/f \"low\"", "l l -> d"], false, &archive.end());
    check("nothing", new());
    check("files", new().file("a", "1").dir("b/").file("b/c", &"2".repeat(513)).file("e", ""));
    check("odd names", new().file("./a", "1").file("/x//y", "2").file("d/../z", "3").dir("./"));
    check("through a link", new().file("l/f", "new").file("l/g", "2"));
    check(
        "long names",
        new().entry(b'L', "././@LongLink", b"a/long/name\0").file("x", "1").pax(&[("path", b"p")]).file("x", "2"),
    );
    check("content that nobody gets", new().file("d/.wh.f", "why").file("dir/", "junk").file(".wh..wh.plnk/1", "x"));
    check("globals", new().entry(b'g', "g", b"11 comment=\n").entry(b'V', "label", b"").file("a", "1"));
    check("removals", new().file("d/new", "1").file("d/.wh.new", "").file("d/.wh..wh..opq", ""));
    check("links", new().link(b'1', "h", "later").file("later", "1").link(b'1', "i", "d/f").link(b'2', "s", "d"));
    check(
        "another owner's spelling",
        new().edited(b'0', b"a", b"1", |block| block[108..116].copy_from_slice(b"  17777 ")),
    );
    check("sparse", super::cases::gnu_sparse(&[(3, 5), (600, 2), (1000, 0)], 1000, b"helloyo").file("b", "1"));
    let map = [("GNU.sparse.size", &b"1000"[..]), ("GNU.sparse.map", b"3,5,600,2")];
    check("sparse by PAX", new().pax(&map).file("s", "helloyo"));
}

#[test]
fn what_the_same_archive_takes_away_is_recorded() {
    let Some(bench) = Bench::new() else { return };
    let check = |name: &str, archive: Archive| bench.check(name, &["d d", "l l -> d"], true, &archive.end());
    check("twice", new().file("a", "first").file("a", "second, longer"));
    check("three times", new().file("a", "1").file("a", "2").file("a", "3"));
    check("by another path", new().file("l/a", "first").file("d/a", "second"));
    check("a directory", new().file("a", "1").dir("a/").file("a/b", "2"));
    check("a directory's content", new().file("a/b/c", "1").file("a/x", "2").link(b'2', "a", "elsewhere"));
    check("a parent", new().file("a", "1").file("a/b", "2"));
    check("links", new().file("a", "1").link(b'1', "b", "a").link(b'2', "a", "b"));
    check("a link", new().file("a", "1").file("b", "2").link(b'1', "a", "b"));
    let sparse = super::cases::gnu_sparse(&[(3, 5), (600, 2), (1000, 0)], 1000, b"helloyo");
    check("sparse", sparse.file("s", "1"));
    check("a link between", new().file("x", "0").file("a", "1").link(b'1', "a", "x").file("a", "2").file("a", "3"));
    // Contents are recorded also when the lower tree is known to be empty.
    let empty = new().dir("d/").file("d/a", "1").file("d/a", "2").file("d/b/c", "3").file("d/b", "4");
    bench.check("over nothing", &[], true, &empty.end());
}

#[test]
fn ends_of_all_kinds() {
    let Some(bench) = Bench::new() else { return };
    let whole = new().file("a", "1").end();
    let check = |name: &str, archive: &[u8]| bench.check(name, &[], false, archive);
    check("a record", &[&whole[..], &[0; 10_240 - 2048]].concat());
    check("garbage", &[&whole[..], b"garbage"].concat());
    check("one zero block", &whole[..whole.len() - BLOCK_BYTES]);
    check("no end", &whole[..2 * BLOCK_BYTES]);
    check("no padding", &whole[..BLOCK_BYTES + 1]);
}

/// A damaged recording is refused or gives the same archive; nothing panics.
#[test]
fn damaged_recordings() {
    let Some(bench) = Bench::new() else { return };
    let archive = new().file("a", "first").file("a", "second").dir("d/").end();
    let mut recorded = bench.record(&[], &archive).expect("applies");
    let mut whole = Vec::new();
    recorded.recording.rewind().expect("seek");
    recorded.recording.read_to_end(&mut whole).expect("read");
    let damaged = (0..whole.len()).flat_map(|at| {
        let mut flipped = whole.clone();
        flipped[at] ^= 0x41;
        [whole[..at].to_vec(), flipped]
    });
    for bytes in damaged {
        let path = bench.scratch.path().join("damaged");
        fs::write(&path, &bytes).expect("write");
        let tree = recorded.tree.try_clone().expect("clone");
        match bench.replay(&Recorded { tree, recording: File::open(path).expect("open") }) {
            Ok((bytes, _)) => assert!(bytes == archive),
            Err(error) => assert!(!error.chain().is_empty()),
        }
    }
}

#[test]
fn a_tree_that_changed_is_noticed() {
    let Some(bench) = Bench::new() else { return };
    let recorded = bench.record(&[], &new().file("a", "content").end()).expect("applies");
    let file = bench.scratch.path().join("1/a");
    fs::write(&file, "short").expect("write");
    let error = bench.replay(&recorded).expect_err("a byte is missing");
    assert!(error.kind() == crate::ErrorKind::DataLoss && error.chain().contains("content of a"), "{}", error.chain());
    fs::remove_file(&file).expect("remove");
    assert_eq!(bench.replay(&recorded).expect_err("gone").kind(), crate::ErrorKind::NotFound);
}

/// Generates entries with few paths, so that entries collide; the content tells them apart.
fn collisions() -> impl Strategy<Value = Vec<u8>> {
    let path = || select(vec!["a", "a/b", "a/b/c", "d", "d/b", "l", "l/b", "./a", "d/../a", "a/b/c/e"]);
    let kind = select(b"0000000055512LKxS".to_vec());
    let whiteout = prop::bool::weighted(0.1);
    let content = select(vec![0_usize, 1, 511, 512, 513, 1500]);
    vec((kind, path(), path(), whiteout, content, any::<u8>()), 0..12).prop_map(|entries| {
        let mut archive = Archive::default();
        for (kind, path, target, whiteout, length, byte) in entries {
            let name = if whiteout { path.replace('b', ".wh.b") } else { path.to_owned() };
            archive = match kind {
                b'1' | b'2' => archive.link(kind, &name, target),
                b'5' => archive.dir(&name),
                b'L' | b'K' => archive.entry(kind, "x", target.as_bytes()).file(&name, "long"),
                b'x' => archive.pax(&[("path", target.as_bytes())]).file(&name, "pax"),
                b'S' => {
                    let map = format!("{length},2,{},1", length + 600);
                    let size = (length + 700).to_string();
                    let records = [("GNU.sparse.size", size.as_bytes()), ("GNU.sparse.map", map.as_bytes())];
                    archive.pax(&records).file(&name, "abc")
                }
                _ => archive.entry(kind, &name, &vec![byte; length]),
            };
        }
        archive.end()
    })
}

/// Generates streams of our own, headers of every kind, and colliding entries. Each archive that can be applied must be
/// reproduced.
fn archives() -> impl Strategy<Value = Vec<u8>> {
    let ours = directory().prop_filter_map("a stream", |tree| write(&tree.stream(false)).ok());
    let end = (0..600_usize, any::<bool>());
    (prop_oneof![1 => ours, 2 => soup(), 4 => collisions()], end).prop_map(|(mut archive, (trailing, longer))| {
        let length = if longer { archive.len() + trailing } else { archive.len() };
        archive.resize(length, 0);
        archive
    })
}

#[test]
fn whatever_is_applied_comes_out_as_it_went_in() {
    let Some(bench) = Bench::new() else { return };
    let wanted = |variable: &str| std::env::var(variable).ok().and_then(|text| text.parse::<u64>().ok());
    let scripts = wanted("STRATA_SCRIPTS");
    let budget = Duration::from_secs(wanted("STRATA_BUDGET_S").unwrap_or(BUDGET_S));
    let (started, mut rounds) = (Instant::now(), 0);
    let (applied, rescued) = (Cell::new(0_u64), Cell::new(0_u64));
    while scripts.map_or_else(|| started.elapsed() < budget, |wanted| rounds < wanted) {
        let config = Config { cases: 1, failure_persistence: None, max_shrink_iters: 2000, ..Config::default() };
        let answer = TestRunner::new_with_rng(config, random::rng(rounds)).run(&archives(), |archive| {
            if let Ok(recorded) = bench.record(&["d d", "l l -> d", "f d/b \"low\""], &archive) {
                let (bytes, spooled) = bench.replay(&recorded).map_err(|error| TestCaseError::fail(error.chain()))?;
                prop_assert!(bytes == archive, "it came out as something else");
                applied.set(applied.get() + 1);
                rescued.set(rescued.get() + u64::from(spooled));
            }
            bench.clear();
            Ok(())
        });
        if let Err(failure) = answer {
            panic!("round {rounds}: {failure}");
        }
        rounds += 1;
    }
    assert!(rounds < 100 || (applied.get() > rounds / 4 && rescued.get() > 0), "too few were archives at all");
    testing::say(&format!(
        "archives written again: {} of {rounds}, {} with recorded content, in {:?}",
        applied.get(),
        rescued.get(),
        started.elapsed()
    ));
}
