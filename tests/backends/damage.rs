//! Blobs truncated or damaged at every offset: the error must say where, and the store must be unchanged.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write as _};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use strata::changeset::Change;
use strata::changeset::apply::Applier;
use strata::changeset::blob::{BlobWriter, Compression};
use strata::changeset::tar::{Limits, decode};
use strata::conformance::layers::notation::archive;
use strata::id::Digest;
use strata::image::{self, Options, Place, Source};
use strata::mount::scratch::FsType;
use strata::snapshotter::Snapshotter;
use strata::store::{Durability, Store};
use strata::tree::Dir;
use strata::tree::memory::Tree;
use strata::tree::text;
use strata::{Error, ErrorKind};

use crate::{Bench, settings, support};

/// A layer with every kind of entry, and every encoding of values that do not fit in a header.
const LAYER: [&str; 12] = [
    "d d 755 1:2 @5",
    "f d/a \"content\" 4755 @5.5 user.a=b",
    "l d/l -> a",
    "h d/h -> d/a",
    "c c dev=1:3",
    "b b dev=7:0",
    "p p",
    "f d/{n*120} \"y\" gnu",
    "f .wh.gone \"\"",
    "f old/.wh..wh..opq \"\"",
    "=g g \"9\\x20path=z\\x0a\"",
    "f s \"AB\" pax:GNU.sparse.size=4 pax:GNU.sparse.map=1,1,3,1",
];

/// Step between tested offsets of the uncompressed layer in whole imports; the decoder alone is tested at all offsets.
const PLAIN_STEP: usize = 97;

/// Step between tested offsets of damage that the digest detects: the same check finds all of them.
const DAMAGE_STEP: usize = 7;

/// Step between offsets of the uncompressed layer at which a tree is also written.
const APPLY_STEP: usize = 61;

fn layer() -> Vec<u8> {
    archive(&LAYER).expect("lines")
}

fn compress(bytes: &[u8], compression: Compression) -> Vec<u8> {
    let mut compress = BlobWriter::new(Vec::new(), compression).expect("a compressor");
    compress.write_all(bytes).expect("memory");
    compress.finish().expect("memory").0
}

/// A blob, and the blob that its descriptor describes.
struct Upper<'a> {
    blob: &'a [u8],
    described: &'a [u8],
    /// End of its media type.
    ending: &'static str,
}

/// Writes an image into a directory: a good layer, and above it `upper`, which should contain [`layer`].
fn layout(dir: &Path, below: &[u8], upper: Option<&Upper<'_>>) {
    const VENDOR: &str = "application/vnd.oci.image";
    let blobs = dir.join("blobs/sha256");
    fs::create_dir_all(&blobs).expect("mkdir");
    let keep = |described: &[u8], blob: &[u8], media_type: &str| -> Value {
        let digest = Digest::of(described);
        fs::write(blobs.join(digest.hex()), blob).expect("write");
        json!({"mediaType": format!("{VENDOR}.{media_type}"), "digest": digest.to_string(), "size": described.len()})
    };
    let mut layers = vec![keep(below, below, "layer.v1.tar")];
    let mut diff_ids = vec![Digest::of(below).to_string()];
    if let Some(Upper { blob, described, ending }) = upper {
        layers.push(keep(described, blob, &format!("layer.v1.tar{ending}")));
        diff_ids.push(Digest::of(&layer()).to_string());
    }
    let config = json!({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": diff_ids}});
    let config = config.to_string().into_bytes();
    let config = keep(&config, &config, "config.v1+json");
    let manifest = json!({"schemaVersion": 2, "config": config, "layers": layers}).to_string().into_bytes();
    let mut image = keep(&manifest, &manifest, "manifest.v1+json");
    let name = if upper.is_some() { "bad" } else { "good" };
    image["annotations"] = json!({"org.opencontainers.image.ref.name": name});
    fs::write(dir.join("index.json"), json!({"schemaVersion": 2, "manifests": [image]}).to_string()).expect("write");
    fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).expect("write");
}

/// Returns the whole state of a store: snapshots with their parents and trees, and images.
fn state(store: &Store) -> BTreeMap<String, String> {
    let mut state = BTreeMap::new();
    let mut note = |info: &strata::snapshotter::Info| {
        let tree = Tree::read(&store.open_tree(&info.name)?)?;
        state.insert(info.name.clone(), format!("{} {} {}", info.kind, info.parent, text::digest(&tree)));
        Ok(())
    };
    store.walk(&[], &mut note).expect("walk");
    state.insert("images".into(), format!("{:?}", store.images().expect("images")));
    state
}

/// A store with an image whose only layer is the lower layer of every damaged image.
struct Victim {
    store: Store,
    dir: PathBuf,
    below: Vec<u8>,
    before: BTreeMap<String, String>,
}

impl Victim {
    fn new(bench: &Bench) -> Self {
        let store = bench.store_with("damage", Durability::None, |backend| backend).expect("a store");
        let below = archive(&["f gone \"x\"", "d old", "f old/x \"x\"", "f kept \"x\""]).expect("lines");
        let dir = bench.root("image");
        layout(&dir, &below, None);
        import(&store, &dir).expect("the good image");
        let before = state(&store);
        Self { store, dir, below, before }
    }

    /// Imports an image with `upper`, which must fail, and returns the error.
    fn refuses(&self, upper: &Upper<'_>, what: &str) -> Error {
        fs::remove_dir_all(&self.dir).expect("remove");
        layout(&self.dir, &self.below, Some(upper));
        let error = import(&self.store, &self.dir).expect_err(what);
        assert!(error.chain().contains("layer 2 of 2"), "{what}: {}", error.chain());
        assert_eq!(state(&self.store), self.before, "{what}");
        error
    }
}

fn import(store: &Store, dir: &Path) -> strata::Result<()> {
    let source = Source { place: Place::Path(dir.to_owned()), reference: None };
    let options = Options { platform: Some("linux/amd64".parse()?), ..Options::default() };
    image::import(store, &source, &options, &()).map(drop)
}

/// Runs `case` on the first strategy that this machine supports, because the tested code does not depend on the
/// strategy.
fn on_one(case: impl Fn(&Victim)) {
    if let Some(bench) = settings().into_iter().find_map(Bench::new) {
        case(&Victim::new(&bench));
    }
}

const COMPRESSIONS: [(&str, Compression, usize); 3] =
    [("", Compression::None, PLAIN_STEP), ("+gzip", Compression::Gzip, 1), ("+zstd", Compression::Zstd, 1)];

/// The descriptor describes the truncated blob, as in an attack, so only the content shows the damage.
#[test]
fn a_blob_that_is_cut_anywhere_is_refused_and_leaves_nothing() {
    on_one(|victim| {
        for (ending, compression, step) in COMPRESSIONS {
            let whole = compress(&layer(), compression);
            for length in (0..whole.len()).step_by(step) {
                let blob = &whole[..length];
                let error =
                    victim.refuses(&Upper { blob, described: blob, ending }, &format!("{length} bytes{ending}"));
                assert_eq!(error.kind(), ErrorKind::DataLoss, "{length}{ending}: {}", error.chain());
            }
        }
    });
}

/// The descriptor describes the whole blob, as after an accident.
#[test]
fn a_blob_that_is_damaged_anywhere_is_refused_and_leaves_nothing() {
    on_one(|victim| {
        for (ending, compression, step) in COMPRESSIONS {
            let described = compress(&layer(), compression);
            for at in (0..described.len()).step_by(step.max(DAMAGE_STEP)) {
                let mut blob = described.clone();
                blob[at] ^= 0x55;
                let error =
                    victim.refuses(&Upper { blob: &blob, described: &described, ending }, &format!("{at}{ending}"));
                let kinds = [ErrorKind::DataLoss, ErrorKind::Unsupported, ErrorKind::ResourceExhausted];
                assert!(kinds.contains(&error.kind()), "{at}{ending}: {}", error.chain());
            }
            let cut = &described[..described.len() - 1];
            let error = victim.refuses(&Upper { blob: cut, described: &described, ending }, "a byte too short");
            assert!(error.chain().contains(&format!("has {} bytes", cut.len())), "{}", error.chain());
        }
    });
}

/// The media type and the format of the blob differ.
#[test]
fn a_compression_that_is_not_known_is_refused_and_leaves_nothing() {
    on_one(|victim| {
        for (what, magic) in [("xz", &b"\xfd7zXZ\0"[..]), ("bzip2", b"BZh91AY&SY")] {
            let blob = [magic, &[0; 1024]].concat();
            let error = victim.refuses(&Upper { blob: &blob, described: &blob, ending: "" }, what);
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{what}: {}", error.chain());
            assert!(error.chain().contains(what), "{}", error.chain());
        }
    });
}

/// For every byte of the uncompressed stream, the error of the decoder or the applier names the entry or the offset.
#[test]
fn a_stream_that_is_cut_or_damaged_anywhere_says_where() {
    let Some(scratch) = support::scratch(FsType::Tmpfs) else { return };
    let whole = layer();
    // Losing the end loses no content: the zero blocks, and the padding before them.
    let content = whole.len() - 1024 - 510;
    for at in 0..content {
        let root = at.is_multiple_of(APPLY_STEP).then(|| scratch.path().join(at.to_string()));
        if let Err(error) = read(root.as_deref(), &whole[..at]) {
            let chain = error.chain();
            assert!(chain.contains("at byte") || chain.contains("empty stream"), "cut at {at}: {chain}");
        } else {
            // Truncation between two entries does not show here; the digest detects it.
            assert!(whole[at..at.next_multiple_of(512)].iter().all(|byte| *byte == 0), "cut at {at}");
        }
        let mut damaged = whole.clone();
        damaged[at] ^= 0x55;
        if let Err(error) = read(root.as_deref(), &damaged) {
            let chain = error.chain();
            assert!(
                chain.contains("at byte") || error.kind() == ErrorKind::InvalidArgument,
                "damaged at {at}: {chain}"
            );
        }
    }
}

/// Decodes a layer, into a tree if `root` is given.
fn read(root: Option<&Path>, mut layer: &[u8]) -> strata::Result<()> {
    let Some(root) = root else {
        let mut nobody = |_: &Change, _: &mut dyn Read| Ok(());
        return decode(&mut layer, &Limits::default(), &mut nobody).map(drop);
    };
    fs::create_dir(root).expect("mkdir");
    let mut applier = Applier::new(Dir::open(root)?);
    let decoded = decode(&mut layer, &Limits::default(), &mut applier);
    let applied = decoded.and_then(|_| applier.finish().map(drop));
    fs::remove_dir_all(root).expect("remove");
    applied
}
