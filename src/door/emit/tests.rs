use std::io;
use std::sync::atomic::Ordering;

use tempfile::TempDir;

use super::*;
use crate::backend::StrategyOptions;
use crate::backend::faulty::{Fault, Faulty};
use crate::backends::COPY;
use crate::door::{Expected, IngestOptions, Record, ingest};
use crate::id::Digest;
use crate::snapshotter::{Labels, Snapshotter as _};
use crate::store::{Database, Durability, Judged, LOCAL};

fn archive() -> Vec<u8> {
    let mut builder = ::tar::Builder::new(Vec::new());
    let mut header = ::tar::Header::new_gnu();
    header.set_size(4);
    header.set_mode(0o644);
    builder.append_data(&mut header, "file", &b"text"[..]).expect("append");
    builder.into_inner().expect("finish")
}

/// A tree is mounted once, whether the layer is computed or written as it was; the strategy is asked once for a hint.
#[test]
fn each_tree_is_mounted_once() {
    let root = TempDir::new().expect("a directory");
    let database = Database::create(root.path(), Durability::None).expect("the database");
    let backend = (COPY.open)(database.root(), &StrategyOptions::default()).expect("the strategy");
    let faulty = Faulty::new(backend, Fault::NONE);
    let calls = faulty.calls();
    let store = Store::new(database, Box::new(faulty), LOCAL).expect("the store");
    let (none, options) = (Labels::new(), IngestOptions::default());
    store.prepare("making", "", &none).expect("prepare");
    store.commit("base", "making", &none).expect("commit");
    store.prepare("top", "base", &none).expect("prepare");
    let layer = archive();
    let open = || options.detect(&layer[..], "layer".to_owned());
    ingest::fill(&store, "top", open, &Expected::default(), Record::TarSplit, &options).expect("fill");

    let counted = |key: &str, options: &EmitOptions<'_>| {
        let before = calls.load(Ordering::SeqCst);
        let blob = emit(&store, key, options, &mut io::sink()).expect("emit");
        (blob, calls.load(Ordering::SeqCst) - before)
    };
    let (computed, mounts_and_hint) = counted("top", &EmitOptions::default());
    assert_eq!(mounts_and_hint, 3);
    assert_eq!(counted("top", &EmitOptions { base: Some(""), ..EmitOptions::default() }).1, 1);
    let judge = |layer, _: Option<&str>| Ok(Judged { layer, unverified: false });
    store.commit_judged("layer", "top", &none, &judge).expect("commit");
    let (original, mounts) = counted("layer", &EmitOptions::default());
    assert_eq!((original.diff_id, mounts), (Digest::of(&layer), 1));
    let canonical = EmitOptions { encoding: Encoding::Canonical(MtimePrecision::Nanoseconds), ..Default::default() };
    assert_eq!(counted("layer", &canonical), (computed, 3));
}
