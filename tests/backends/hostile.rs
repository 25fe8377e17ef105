//! Hostile layers: a regression test for each class of vulnerability that container engines and tar libraries had, on
//! every strategy.

use std::fs;
use std::io::Read;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use strata::changeset::blob::{BlobWriter, Compression, Decompress, Expansion};
use strata::changeset::tar::{Limits, decode};
use strata::conformance::layers::notation::{archive, tree};
use strata::id::Digest;
use strata::snapshotter::{Labels, Snapshotter};
use strata::store::{Durability, Store};
use strata::tree::memory::Tree;
use strata::tree::{Dir, text};
use strata::{Error, ErrorKind, Result};

use crate::tally::Tally;
use crate::{Bench, on_each};

/// Content of the file that no layer may read or write.
const SECRET: &str = "the machine's";

/// A store, and beside it a directory that the store must not touch.
struct Target<'a> {
    bench: &'a Bench,
    store: Store,
    before: String,
    tally: Tally,
}

impl<'a> Target<'a> {
    fn new(bench: &'a Bench) -> Self {
        let outside = bench.root("outside");
        fs::create_dir_all(outside.join("dir")).expect("mkdir");
        fs::write(outside.join("dir/file"), SECRET).expect("write");
        symlink("file", outside.join("dir/link")).expect("symlink");
        let store = bench.store_with("hostile", Durability::None, |backend| backend).expect("a store");
        let mut target = Self { bench, store, before: String::new(), tally: Tally::new("escapes") };
        target.before = target.outside();
        target
    }

    fn outside(&self) -> String {
        text::print(&Tree::read(&Dir::open(self.bench.root("outside")).expect("open")).expect("read"))
    }

    /// Targets of links that lead outside: an absolute path, a path with more `..` than there are directories, a magic
    /// link.
    fn ways_out(&self) -> [String; 5] {
        let absolute = self.bench.root("outside").display().to_string();
        let up = "../".repeat(20);
        [absolute.clone(), format!("{up}{absolute}"), format!("/proc/self/root{absolute}"), "../outside".into(), up]
    }

    /// Applies `layers`, each in a snapshot on top of the previous one, and then all of them as one layer. Returns the
    /// resulting trees or errors. In each case the directory outside must be unchanged and none of its content inside.
    fn attack(&self, layers: &[&[String]]) -> [Result<Tree>; 2] {
        let all = layers.concat();
        [self.apply_all(layers), self.apply_all(&[&all])]
    }

    fn apply_all(&self, layers: &[&[String]]) -> Result<Tree> {
        self.tally.add(1, 0);
        let (mut names, mut done) = (Vec::<String>::new(), Ok(()));
        for (number, lines) in layers.iter().enumerate() {
            let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
            let (key, parent) = (format!("active {number}"), names.last().cloned().unwrap_or_default());
            let name = format!("layer {number}");
            done = self
                .store
                .prepare(&key, &parent, &Labels::new())
                .and_then(|_| apply(&self.store, &key, &archive(&lines)?))
                .and_then(|()| self.store.commit(&name, &key, &Labels::new()));
            names.push(if done.is_ok() { name } else { key });
            if done.is_err() {
                break;
            }
        }
        let tree = done.and_then(|()| Tree::read(&self.store.open_tree(names.last().expect("a layer"))?));
        names.iter().rev().for_each(|name| self.store.remove(name).expect("remove"));
        assert_eq!(self.outside(), self.before, "{}: {layers:?} reached outside", self.bench.setting.name());
        if let Ok(tree) = &tree {
            let secret = Some(Digest::of(SECRET.as_bytes()));
            assert!(tree.iter().all(|named| named.inode.content != secret), "{layers:?} brought it in");
        }
        tree
    }
}

fn apply(store: &Store, key: &str, archive: &[u8]) -> Result<()> {
    apply_within(store, key, &mut &*archive, &Limits::default())
}

fn apply_within(store: &Store, key: &str, archive: &mut dyn Read, limits: &Limits) -> Result<()> {
    store.apply(key, &mut |sink| decode(archive, limits, sink).map(drop)).map(drop)
}

fn lines(lines: &[&str]) -> Vec<String> {
    lines.iter().map(|line| (*line).to_owned()).collect()
}

fn on_each_target(case: impl Fn(&Target<'_>)) {
    on_each(|bench| case(&Target::new(bench)));
}

/// CVE-2014-6407, CVE-2018-15664, RUSTSEC-2018-0002, RUSTSEC-2021-0080.
#[test]
fn a_symbolic_link_does_not_lead_outside() {
    on_each_target(|target| {
        for way in target.ways_out() {
            let link = [format!("l l -> {way}"), "d d".to_owned()];
            for attack in [
                "f l/dir/file \"evil\"",
                "f l/new \"evil\"",
                "d l/dir/new",
                "c l/dir/null dev=1:3",
                "f l/dir/.wh.file \"\"",
                "f l/dir/.wh..wh..opq \"\"",
                "f l/.wh.dir \"\"",
                "f dir/file \"evil\"",
            ] {
                drop(target.attack(&[&link, &lines(&[attack])]));
            }
        }
    });
}

/// CVE-2014-9356, CVE-2014-6407.
#[test]
fn a_hard_link_takes_nothing_from_outside() {
    on_each_target(|target| {
        for way in target.ways_out() {
            let link = [format!("l l -> {way}"), format!("l f -> {way}/dir/file")];
            for attack in ["h stolen -> l/dir/file", "h l/dir/stolen -> f", "h stolen -> dir/file", "h stolen -> f"] {
                drop(target.attack(&[&link, &lines(&[attack, "f stolen2 \"evil\""])]));
            }
        }
    });
}

/// CVE-2025-47290, CVE-2018-15664 within one layer: a directory is replaced with a link, and the other way round.
#[test]
fn a_parent_that_is_swapped_for_a_link_leads_nowhere_else() {
    on_each_target(|target| {
        for way in target.ways_out() {
            let swap = [
                "d dir".to_owned(),
                "f dir/a \"1\"".to_owned(),
                format!("l dir -> {way}"),
                "f dir/dir/file \"evil\"".to_owned(),
                "d dir".to_owned(),
                "f dir/file \"2\"".to_owned(),
                format!("l dir -> {way}/dir"),
                "f dir/file \"evil\"".to_owned(),
            ];
            drop(target.attack(&[&lines(&["d dir", "f dir/old \"x\""]), &swap]));
        }
    });
}

/// CVE-2014-9356, RUSTSEC-2021-0080.
#[test]
fn names_with_dots_and_absolute_names_stay_inside() {
    on_each_target(|target| {
        for path in target.ways_out() {
            drop(target.attack(&[&[format!("f {path}/dir/file \"evil\""), format!("h a -> {path}/dir/file")]]));
        }
        for refused in ["f ../outside/dir/file \"evil\"", "d ..", "l a/../../b -> x", "f x \"\" pax:path=../x"] {
            for attacked in target.attack(&[&lines(&[refused])]) {
                assert_eq!(attacked.expect_err(refused).kind(), ErrorKind::InvalidArgument, "{refused}");
            }
        }
    });
}

/// CVE-2021-29136.
#[test]
fn the_root_is_not_replaced() {
    on_each_target(|target| {
        let outside = target.bench.root("outside").display().to_string();
        for path in [".", "/", "./.", "a/.."] {
            let replaced = [format!("l {path} -> {outside}"), "f dir/file \"evil\"".to_owned()];
            for attacked in target.attack(&[&replaced]) {
                assert_eq!(attacked.expect_err(path).kind(), ErrorKind::InvalidArgument, "{path}");
            }
        }
    });
}

/// RUSTSEC-2026-0068, RUSTSEC-2026-0112, GHSA-3cv2-h65g-fgmm, CVE-2025-62518: an archive inside the content of a file.
/// One reader skips it by the size in the PAX header, another by the size in the file's own header.
#[test]
fn a_size_in_a_pax_header_hides_nothing() {
    let hidden = archive(&["f hidden \"evil\""]).expect("lines");
    let text = text::escape(&hidden[..1024]).replace('{', "\\x7b");
    let size = "pax:size=1024";
    let layers = [format!("f shown \"{text}\" size=0 {size}"), "f after \"x\"".to_owned()];
    on_each_target(|target| {
        for attacked in target.attack(&[&layers]) {
            let tree = attacked.expect("a layer");
            let names: Vec<PathBuf> = tree.iter().map(|named| named.path.to_owned()).collect();
            assert_eq!(names, [PathBuf::new(), "after".into(), "shown".into()]);
        }
    });
}

/// CVE-2021-32760, RUSTSEC-2026-0067: attributes of an entry were applied to the target of a link with the same name.
#[test]
fn attributes_do_not_go_through_a_link() {
    on_each_target(|target| {
        for way in target.ways_out() {
            for attack in ["d l 777 1:2", "f l \"\" 4777 1:2 user.a=b", "l l -> x 777 1:2", "p l 666 1:2", "h l -> d"] {
                let link = [format!("l l -> {way}/dir"), "d d".to_owned()];
                drop(target.attack(&[&link, &lines(&[attack])]));
                let link = [format!("l l -> {way}/dir/file"), "d d".to_owned()];
                drop(target.attack(&[&link, &lines(&[attack])]));
            }
        }
    });
}

/// CVE-2024-40635: an owner of more than 32 bits became root; and -1 means "unchanged" to `chown`.
#[test]
fn an_owner_does_not_wrap_around() {
    on_each_target(|target| {
        for owner in ["4294967295:0", "0:4294967295", "4294967296:0", "0:1099511627776"] {
            for attacked in target.attack(&[&[format!("f a \"x\" {owner}")]]) {
                assert_eq!(attacked.expect_err(owner).kind(), ErrorKind::InvalidArgument, "{owner}");
            }
        }
    });
}

/// CVE-2017-14992, CVE-2020-1702: a layer that is small when compressed and large when unpacked is refused at the
/// limit, before memory or disk is full.
#[test]
fn bombs_are_given_up() {
    let limits = Limits { entries: 10, total_bytes: 1 << 20, ..Limits::default() };
    let many: Vec<String> = (0..11).map(|number| format!("f {number} \"\"")).collect();
    let holes = "f a \"\" pax:GNU.sparse.size=9000000000000 pax:GNU.sparse.map=0,0".to_owned();
    let long = format!("f a \"\" pax:comment={{x*{}}}", 2 << 20);
    let attributes = format!("f a \"\" user.a={{x*{}}}", 600 << 10);
    let deep = "f x \"\" pax:path={a/*3000}b".to_owned();
    on_each_target(|target| {
        for bomb in
            [many.clone(), vec![holes.clone()], vec![long.clone()], vec![attributes.clone()], vec![deep.clone()]]
        {
            let bytes = archive(&bomb.iter().map(String::as_str).collect::<Vec<_>>()).expect("lines");
            refused(&target.store, &mut &bytes[..], &limits);
        }
        for compression in [Compression::Gzip, Compression::Zstd] {
            let packed = compressed(compression, 8 << 20);
            let expansion = Expansion { ratio_free_bytes: 1 << 20, ..Expansion::default() };
            let mut bomb = Decompress::new(&packed[..], compression, expansion, "bomb").expect("a decompressor");
            refused(&target.store, &mut bomb, &Limits::default());
            assert!(bomb.plain_bytes() <= 2 << 20, "{compression:?}: {} bytes came out", bomb.plain_bytes());
        }
    });
}

/// CVE-2017-14992: data after the end of the archive was kept in memory.
#[test]
fn padding_without_end_is_given_up() {
    on_each_target(|target| {
        let end = archive(&["f a \"x\""]).expect("lines");
        refused(&target.store, &mut end.chain(std::io::repeat(0)), &Limits::default());
        refused(&target.store, &mut end.chain(std::io::repeat(b'x')), &Limits::default());
    });
}

/// Returns a compressed layer with one file of `count` equal bytes. The bytes are no zeros, which become a hole.
fn compressed(compression: Compression, count: usize) -> Vec<u8> {
    let mut plain = archive(&[&format!("f a \"\" size={count}")]).expect("lines");
    plain.truncate(512);
    plain.resize(512 + count, b'x');
    plain.resize(512 + count + 1024, 0);
    let mut compress = BlobWriter::new(Vec::new(), compression).expect("a compressor");
    std::io::Write::write_all(&mut compress, &plain).expect("memory");
    compress.finish().expect("memory").0
}

fn refused(store: &Store, archive: &mut dyn Read, limits: &Limits) {
    store.prepare("bomb", "", &Labels::new()).expect("prepare");
    let error: Error = apply_within(store, "bomb", archive, limits).expect_err("a bomb");
    assert_eq!(error.kind(), ErrorKind::ResourceExhausted, "{}", error.chain());
    store.remove("bomb").expect("remove");
}

/// CVE-2024-3727: a digest becomes a file name, so it is checked first.
#[test]
fn a_digest_is_no_path() {
    let hex = "a".repeat(64);
    for text in [
        "sha256:../../../etc/passwd",
        "sha256:",
        "../../etc/passwd",
        &format!("sha256:/{}", &hex[1..]),
        &format!("sha256:{}\0", &hex[1..]),
        &format!("sha256:{}", hex.to_uppercase()),
        &format!("sha256:{hex}/.."),
        &format!("../sha256:{hex}"),
    ] {
        assert_eq!(text.parse::<Digest>().expect_err(text).kind(), ErrorKind::InvalidArgument, "{text:?}");
    }
    assert_eq!(format!("sha256:{hex}").parse::<Digest>().expect("a digest").to_string(), format!("sha256:{hex}"));
}

/// Checks that valid layers still work, so that the tests above do not pass for a trivial reason.
#[test]
fn a_layer_of_a_friend_is_taken() {
    on_each_target(|target| {
        for applied in target.attack(&[&lines(&["d usr", "l lib -> usr"]), &lines(&["f lib/a \"x\"", "h b -> lib/a"])])
        {
            let expected = tree(&["f b \"x\"", "l lib -> usr", "d usr", "h usr/a -> b"]).expect("lines");
            assert_eq!(text::print(&applied.expect("a layer")), text::print(&expected));
        }
    });
}
