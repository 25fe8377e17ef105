//! A whole image of a distribution, on every strategy, against what umoci makes of it.
//!
//! The image is made once from the distribution's own packages by `support/real-image.sh`, which also says what is in
//! its layers; umoci, the reference of the image specification's authors, unpacks each of its four states as a judge.
//! Its trees and ours are equal, without an exception.

#[path = "support/settings.rs"]
mod settings;
mod support;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use strata::backends::{self, Config, OVERLAY, Setting};
use strata::changeset::blob::Compression;
use strata::door::{EmitOptions, emit};
use strata::id::Digest;
use strata::image::{Imported, Losses, Options, Place, Source, import};
use strata::mount::scratch::Scratch;
use strata::snapshotter::{Kind, Labels, Snapshotter};
use strata::store::{Durability, Store};
use strata::tree::memory::Tree;
use strata::tree::{Dir, text};

/// The states of the image that umoci unpacked, one layer each.
const TAGS: [&str; 4] = ["layer1", "layer2", "layer3", "layer4"];

/// Room for four copies of the image and what else is made of them; only what is written takes memory.
const COPIES_BYTES: u64 = 3 << 30;

/// The directory with the image, or `None` where it cannot be made.
fn real_image() -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let output = Command::new(root.join("tests/support/real-image.sh")).arg(root.join("target/real-image")).output();
    let output = output.expect("run real-image.sh");
    let said = String::from_utf8_lossy(&output.stderr);
    let last = said.lines().last().unwrap_or("failed without a word").to_owned();
    let made = if output.status.success() { Ok(()) } else { Err(last) };
    if !support::require("real-image", made) {
        return None;
    }
    let path = String::from_utf8(output.stdout).expect("a path");
    Some(PathBuf::from(path.trim_end()))
}

fn store(scratch: &Scratch, setting: Setting) -> Option<Store> {
    let config = Config { durability: Durability::None, ..setting.config(scratch.path().join("store")) };
    support::gate(setting.strategy.name, backends::open(&config))
}

fn import_from(store: &Store, layout: PathBuf, tag: Option<&str>, name: &str) -> Imported {
    let source = Source { place: Place::Path(layout), reference: tag.map(str::to_owned) };
    let options = Options { name: Some(name.to_owned()), ..Options::default() };
    let imported = import(store, &source, &options, &()).unwrap_or_else(|error| panic!("{}", error.chain()));
    assert_eq!(imported.losses, Losses::default(), "root can keep everything");
    imported
}

fn read(store: &Store, name: &str) -> Tree {
    Tree::read(&store.open_tree(name).expect("open the tree")).expect("read the tree")
}

fn judged(image: &Path) -> Vec<Tree> {
    let dirs = TAGS.map(|tag| Dir::open(image.join("rootfs").join(tag)).expect("what umoci made"));
    dirs.iter().map(|dir| Tree::read(dir).expect("read what umoci made")).collect()
}

/// Fails with what tells the trees apart.
fn assert_equal(what: &str, ours: &Tree, theirs: &Tree) {
    let differences: Vec<String> = ours.differences(theirs).iter().map(ToString::to_string).collect();
    assert!(differences.is_empty(), "{what}: {} differences:\n{}", differences.len(), differences.join("\n"));
}

/// Writes each layer as it came: the store compares its digest. Tells what keeping their encoding costs.
fn write_again(store: &Store, what: &str, layers: &[(String, Tree)]) {
    let written = layers.iter().map(|(top, _)| {
        let options = EmitOptions { compression: Compression::Gzip, ..EmitOptions::default() };
        let written = emit(store, top, &options, &mut std::io::sink());
        written.unwrap_or_else(|error| panic!("{what}: {}", error.chain()))
    });
    let (plain, gzip) = written.fold((0, 0), |(plain, gzip), blob| (plain + blob.plain_bytes, gzip + blob.size_bytes));
    store.drain(None, None).expect("drain");
    let streams = std::fs::read_dir(store.root().join("streams")).expect("streams");
    let kept: u64 = streams.map(|stream| stream.expect("entry").metadata().expect("stat").len()).sum();
    support::say(&format!(
        "{what}: {kept} bytes of streams for layers of {plain} bytes, {gzip} as gzip: {:.2} % and {:.2} %",
        kept as f64 / plain as f64 * 100.0,
        kept as f64 / gzip as f64 * 100.0
    ));
}

/// Puts each layer together a second time from what `changes` says about it.
fn apply_again(store: &Store, what: &str, layers: &[(String, Tree)]) {
    let mut below = String::new();
    for (tag, (top, tree)) in TAGS.iter().zip(layers) {
        let (key, name) = (format!("again-{tag}"), format!("{tag} again"));
        store.prepare(&key, &below, &Labels::new()).expect("prepare");
        store.apply(&key, &mut |sink| store.changes(top, None, sink)).expect("apply what changed");
        store.commit(&name, &key, &Labels::new()).expect("commit");
        assert_equal(&format!("{what}, {tag} applied again"), tree, &read(store, &name));
        below = name;
    }
}

#[test]
fn every_strategy_agrees_with_umoci_and_the_others() {
    let Some(image) = real_image() else { return };
    let umocis = judged(&image);
    let mut agreed: BTreeMap<&str, (String, Digest)> = BTreeMap::new();
    for setting in settings::settings() {
        let Some(scratch) = support::gate(setting.fs.as_str(), Scratch::new(setting.fs, COPIES_BYTES)) else {
            continue;
        };
        let Some(store) = store(&scratch, setting) else { continue };
        let what = setting.name();
        let mut layers = Vec::new();
        for (at, (tag, umoci)) in TAGS.iter().zip(&umocis).enumerate() {
            let imported = import_from(&store, image.join("oci"), Some(tag), tag);
            assert_eq!((imported.layers, imported.unpacked), (at + 1, 1), "{what}, {tag}: one layer is new");
            let top = imported.top.expect("it has layers");
            let tree = read(&store, &top);
            assert_equal(&format!("{what}, {tag}, and umoci's"), &tree, umoci);
            let digest = text::digest(&tree);
            let (first, others) = agreed.entry(tag).or_insert_with(|| (what.clone(), digest));
            assert_eq!(digest, *others, "{tag}: {what} and {first} differ");
            layers.push((top, tree));
        }
        write_again(&store, &what, &layers);
        apply_again(&store, &what, &layers);
    }
}

#[test]
fn every_form_of_it_is_the_same_image() {
    let Some(image) = real_image() else { return };
    let mut first: Option<(Imported, Digest)> = None;
    let forms = [("oci", Some("layer4")), ("oci-zstd", None), ("oci-archive.tar", None), ("docker-archive.tar", None)];
    for (form, tag) in forms {
        let setting = settings::settings().into_iter().find(|setting| setting.strategy == OVERLAY).expect("overlay");
        let Some(scratch) = support::scratch(setting.fs) else { return };
        let Some(store) = store(&scratch, setting) else { return };
        let imported = import_from(&store, image.join(form), tag, "app:1");
        assert_eq!((imported.layers, imported.unpacked), (4, 4), "{form}");
        let tree = text::digest(&read(&store, imported.top.as_deref().expect("it has layers")));
        let (same, same_tree) = first.get_or_insert_with(|| (imported.clone(), tree));
        assert_eq!((&imported.top, tree), (&same.top, *same_tree), "{form}");
        store
            .walk(&[], &mut |info| {
                assert_eq!(info.kind, Kind::Committed, "{form}: nothing is left of the import");
                Ok(())
            })
            .expect("walk");
    }
}
