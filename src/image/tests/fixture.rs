//! Small images in every form, and a store of copies to import them into.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};

pub(super) use crate::backends::{self, COPY, Config};
use crate::door::{EmitOptions, emit};
use crate::error::Result;
use crate::id::Digest;
use crate::image::*;
use crate::mount::scratch::{FsType, Scratch};
use crate::snapshotter::{Kind, Snapshotter};
use crate::store::{Durability, Store};
use crate::testing;

/// The files of a layout.
pub(super) type Content = BTreeMap<String, Vec<u8>>;

pub(super) const OCI: &str = "application/vnd.oci.image";

pub(super) fn digest(bytes: &[u8]) -> String {
    Digest::of(bytes).to_string()
}

pub(super) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).expect("gzip");
    encoder.finish().expect("gzip")
}

pub(super) fn zstd(bytes: &[u8]) -> Vec<u8> {
    ::zstd::encode_all(bytes, 1).expect("zstd")
}

pub(super) fn plain(bytes: &[u8]) -> Vec<u8> {
    bytes.to_vec()
}

pub(super) type Compress = fn(&[u8]) -> Vec<u8>;

/// The compressions of a layer: the ending of its media type, and the function that compresses.
pub(super) const COMPRESSIONS: [(&str, Compress); 3] = [("", plain), ("+gzip", gzip), ("+zstd", zstd)];

pub(super) fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = ::tar::Builder::new(Vec::new());
    for (path, bytes) in files {
        let mut header = ::tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(bytes.len() as u64);
        builder.append_data(&mut header, path, *bytes).expect("tar");
    }
    builder.into_inner().expect("tar")
}

/// The streams of the layers of the image that most tests import; the second one deletes a file of the first.
pub(super) fn layers() -> [Vec<u8>; 3] {
    [
        tar(&[("etc/one", b"1"), ("etc/gone", b"g")]),
        tar(&[("etc/.wh.gone", b""), ("etc/two", b"22")]),
        tar(&[("etc/one", &[b'3'; 300_000])]),
    ]
}

pub(super) fn config_of(layers: &[Vec<u8>]) -> Value {
    let mut steps: Vec<Value> = layers.iter().map(|_| json!({"created_by": "test"})).collect();
    steps.push(json!({"empty_layer": true}));
    json!({
        "architecture": Platform::host().architecture, "os": "linux",
        "config": {"Healthcheck": {"Test": ["CMD", "true"]}, "Cmd": ["/bin/sh"]},
        "rootfs": {"type": "layers", "diff_ids": layers.iter().map(|layer| digest(layer)).collect::<Vec<_>>()},
        "history": steps,
        "made.by.a.stranger": {"kept": [1, null, 1.50]},
    })
}

/// An OCI layout that is being put together.
#[derive(Clone, Default)]
pub(super) struct Oci {
    pub(super) content: Content,
    pub(super) index: Vec<Value>,
}

impl Oci {
    pub(super) fn blob(&mut self, media_type: &str, bytes: &[u8]) -> Value {
        let digest = digest(bytes);
        self.content.insert(digest.replace("sha256:", "blobs/sha256/"), bytes.to_vec());
        json!({"mediaType": media_type, "digest": digest, "size": bytes.len()})
    }

    pub(super) fn document(&mut self, media_type: &str, document: &Value) -> Value {
        self.blob(media_type, document.to_string().as_bytes())
    }

    /// An image of `layers`, each in another compression. Returns the descriptor of the manifest.
    pub(super) fn image(&mut self, config: &Value, layers: &[Vec<u8>]) -> Value {
        let config = self.document(&format!("{OCI}.config.v1+json"), config);
        let blobs: Vec<Value> = layers
            .iter()
            .zip(COMPRESSIONS.iter().cycle())
            .map(|(layer, (ending, compress))| self.blob(&format!("{OCI}.layer.v1.tar{ending}"), &compress(layer)))
            .collect();
        let manifest = json!({"schemaVersion": 2, "config": config, "layers": blobs});
        self.document(&format!("{OCI}.manifest.v1+json"), &manifest)
    }

    /// The document that `entry` describes.
    pub(super) fn parse(&self, entry: &Value) -> Value {
        let path = entry["digest"].as_str().expect("digest").replace("sha256:", "blobs/sha256/");
        serde_json::from_slice(&self.content[&path]).expect("document")
    }

    pub(super) fn name(mut entry: Value, key: &str, name: &str) -> Value {
        entry["annotations"][key] = name.into();
        entry
    }

    pub(super) fn add(&mut self, entry: Value) {
        self.index.push(entry);
    }

    pub(super) fn finish(&self) -> Content {
        let mut content = self.content.clone();
        content.insert("oci-layout".into(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec());
        let index = json!({"schemaVersion": 2, "manifests": self.index});
        content.insert("index.json".into(), index.to_string().into_bytes());
        content
    }
}

/// The layout of one image, called `name`.
pub(super) fn oci(name: &str) -> Content {
    let (mut oci, layers) = (Oci::default(), layers());
    let image = oci.image(&config_of(&layers), &layers);
    oci.add(Oci::name(image, "org.opencontainers.image.ref.name", name));
    oci.finish()
}

/// The same image as `docker save` wrote it before Docker knew OCI layouts.
pub(super) fn docker(tags: &[&str]) -> Content {
    let layers = layers();
    let config = config_of(&layers).to_string().into_bytes();
    let config_path = format!("{}.json", Digest::of(&config).hex());
    let mut content = Content::from([(config_path.clone(), config)]);
    let paths: Vec<String> = (0..layers.len()).map(|at| format!("{at:064}/layer.tar")).collect();
    content.extend(paths.iter().cloned().zip(layers));
    let list = json!([{"Config": config_path, "RepoTags": tags, "Layers": paths}]);
    content.insert("manifest.json".into(), list.to_string().into_bytes());
    content
}

/// The archive of a layout, with directories and `./` in front as `tar -C DIR .` writes it, and the documents last.
pub(super) fn archive(content: &Content) -> Vec<u8> {
    let mut builder = ::tar::Builder::new(Vec::new());
    let mut header = ::tar::Header::new_ustar();
    header.set_entry_type(::tar::EntryType::Directory);
    header.set_size(0);
    builder.append_data(&mut header, "./", &b""[..]).expect("tar");
    for (path, bytes) in content {
        let mut header = ::tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        // Some of these paths are longer than the field of the header.
        let path = format!("./{}{path}", "./".repeat(40));
        builder.append_data(&mut header, path, &bytes[..]).expect("tar");
    }
    builder.into_inner().expect("tar")
}

/// A file system with a store on it, and room for layouts.
pub(super) struct Fixture {
    pub(super) scratch: Scratch,
    pub(super) layouts: AtomicU64,
}

impl Fixture {
    pub(super) fn new() -> Option<Self> {
        Some(Self { scratch: testing::scratch(FsType::Tmpfs)?, layouts: AtomicU64::new(0) })
    }

    pub(super) fn store(&self) -> Store {
        let config = Config {
            backend: Some(COPY),
            durability: Durability::None,
            ..Config::new(self.scratch.path().join("store"))
        };
        backends::open(&config).expect("store")
    }

    /// Removes the store.
    pub(super) fn clear(&self) {
        fs::remove_dir_all(self.scratch.path().join("store")).expect("remove the store");
    }

    pub(super) fn path(&self) -> PathBuf {
        self.scratch.path().join(format!("layout-{}", self.layouts.fetch_add(1, Ordering::Relaxed)))
    }

    pub(super) fn dir(&self, content: &Content) -> Source {
        let dir = self.path();
        for (path, bytes) in content {
            let path = dir.join(path);
            fs::create_dir_all(path.parent().expect("below")).expect("mkdir");
            fs::write(path, bytes).expect("write");
        }
        source(Place::Path(dir))
    }

    pub(super) fn file(&self, bytes: &[u8]) -> Source {
        let path = self.path();
        fs::write(&path, bytes).expect("write");
        source(Place::Path(path))
    }
}

pub(super) fn source(place: Place) -> Source {
    Source { place, reference: None }
}

pub(super) fn pipe(bytes: Vec<u8>) -> Source {
    let (reader, mut writer) = std::io::pipe().expect("pipe");
    std::thread::spawn(move || writer.write_all(&bytes));
    source(Place::Open(File::from(OwnedFd::from(reader))))
}

pub(super) fn run(store: &Store, source: &Source) -> Result<Imported> {
    import(store, source, &Options::default(), &())
}

/// The files of a snapshot.
pub(super) fn tree(store: &Store, name: &str) -> BTreeMap<String, Vec<u8>> {
    let dir = store.open_tree(name).expect("tree");
    let etc = dir.open_dir("etc").expect("etc");
    let names = etc.names().expect("names");
    names
        .iter()
        .map(|name| {
            let mut bytes = Vec::new();
            etc.open_file(name).expect("open").read_to_end(&mut bytes).expect("read");
            (name.to_string_lossy().into_owned(), bytes)
        })
        .collect()
}

pub(super) fn snapshots(store: &Store) -> Vec<(Kind, String)> {
    let mut found = Vec::new();
    store
        .walk(&[], &mut |info| {
            found.push((info.kind, info.name.clone()));
            Ok(())
        })
        .expect("walk");
    found
}

/// Checks that the store has the whole image of [`layers`].
pub(super) fn check(store: &Store, imported: &Imported) {
    let layers = layers();
    let chain: Vec<String> =
        ChainId::all(&layers.each_ref().map(|layer| Digest::of(layer))).iter().map(ToString::to_string).collect();
    assert_eq!(imported.top.as_ref(), chain.last());
    assert_eq!(imported.layers, layers.len());
    let mut expected: Vec<_> = chain.iter().map(|name| (Kind::Committed, name.clone())).collect();
    expected.sort_by(|a, b| a.1.cmp(&b.1));
    assert_eq!(snapshots(store), expected);
    for (name, layer) in chain.iter().zip(&layers) {
        let mut bytes = Vec::new();
        let written = emit(store, name, &EmitOptions::default(), &mut bytes).expect("write the layer");
        assert!(written.diff_id == Digest::of(layer) && bytes == *layer, "{name} comes out as it went in");
    }
    assert_eq!(tree(store, &chain[0]), BTreeMap::from([("one".into(), b"1".to_vec()), ("gone".into(), b"g".to_vec())]));
    let top = BTreeMap::from([("one".into(), vec![b'3'; 300_000]), ("two".into(), b"22".to_vec())]);
    assert_eq!(tree(store, &chain[2]), top);
    assert_eq!(store.stat(&chain[1]).expect("stat").parent, chain[0]);
    let image = store.image(&imported.name).expect("image");
    assert_eq!((image.config, image.manifest, &image.top), (imported.id, imported.manifest, &imported.top));
    let config = store.document(image.config).expect("config");
    assert_eq!(config, config_of(&layers).to_string().into_bytes(), "byte for byte, what it does not know included");
    assert!(!store.document(image.manifest).expect("manifest").is_empty());
}
