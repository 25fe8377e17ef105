//! Images for tests, written as OCI archives entry by entry.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use strata::id::Digest;
use tar::{Builder, EntryType, Header};

/// The architecture in the words of images.
const ARCHITECTURE: &str = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };

/// A layer under construction.
pub(crate) struct Layer(Builder<Vec<u8>>);

impl Layer {
    pub(crate) fn new() -> Self {
        Self(Builder::new(Vec::new()))
    }

    fn entry(mut self, path: &str, entry: EntryType, mode: u32, owner: (u64, u64), link: &str, bytes: &[u8]) -> Self {
        let mut header = Header::new_ustar();
        header.set_entry_type(entry);
        header.set_mode(mode);
        header.set_uid(owner.0);
        header.set_gid(owner.1);
        header.set_mtime(1_700_000_000);
        header.set_size(bytes.len() as u64);
        if link.is_empty() {
            self.0.append_data(&mut header, path, bytes).expect("append");
        } else {
            self.0.append_link(&mut header, path, link).expect("append");
        }
        self
    }

    pub(crate) fn dir(self, path: &str, mode: u32, owner: (u64, u64)) -> Self {
        self.entry(path, EntryType::Directory, mode, owner, "", b"")
    }

    pub(crate) fn file(self, path: &str, bytes: &[u8]) -> Self {
        self.entry(path, EntryType::Regular, 0o755, (0, 0), "", bytes)
    }

    pub(crate) fn owned(self, path: &str, bytes: &[u8], mode: u32, owner: (u64, u64)) -> Self {
        self.entry(path, EntryType::Regular, mode, owner, "", bytes)
    }

    pub(crate) fn symlink(self, path: &str, target: &str) -> Self {
        self.entry(path, EntryType::Symlink, 0o777, (0, 0), target, b"")
    }

    pub(crate) fn link(self, path: &str, target: &str) -> Self {
        self.entry(path, EntryType::Link, 0o755, (0, 0), target, b"")
    }

    pub(crate) fn finish(self) -> Vec<u8> {
        self.0.into_inner().expect("finish")
    }
}

/// A layer with a shell and what it is linked with.
pub(crate) fn shell() -> Vec<u8> {
    let listed = Command::new("ldd").arg("/bin/sh").output().expect("run ldd");
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    let libraries = listed.split_whitespace().filter(|word| word.starts_with('/') && word.contains("lib"));
    let layer = ["bin", "etc", "tmp", "lib"].iter().fold(Layer::new(), |layer, dir| layer.dir(dir, 0o755, (0, 0)));
    let layer = layer.file("bin/sh", &fs::read("/bin/sh").expect("a shell"));
    libraries.fold(layer, |layer, path| layer.file(&path[1..], &fs::read(path).expect(path))).finish()
}

/// An image: its name and its layers, bottom first. A layer may be compressed by gzip.
pub(crate) struct Image {
    pub(crate) name: &'static str,
    pub(crate) layers: Vec<Vec<u8>>,
}

/// The decompressed layer.
fn plain(layer: &[u8]) -> Vec<u8> {
    use std::io::Read as _;
    if !layer.starts_with(&[0x1f, 0x8b]) {
        return layer.to_vec();
    }
    let mut bytes = Vec::new();
    flate2::read::MultiGzDecoder::new(layer).read_to_end(&mut bytes).expect("gunzip");
    bytes
}

impl Image {
    /// Writes it as an OCI archive.
    pub(crate) fn write(&self, path: &Path) {
        let mut archive = Builder::new(fs::File::create(path).expect("create"));
        let mut put = |name: &str, bytes: &[u8]| {
            let mut header = Header::new_ustar();
            header.set_mode(0o644);
            header.set_size(bytes.len() as u64);
            archive.append_data(&mut header, name, bytes).expect("append");
        };
        let mut blob = |media_type: &str, bytes: &[u8]| -> Value {
            let digest = Digest::of(bytes);
            put(&format!("blobs/sha256/{}", digest.hex()), bytes);
            json!({"mediaType": media_type, "digest": digest.to_string(), "size": bytes.len()})
        };
        let diff_ids: Vec<_> = self.layers.iter().map(|layer| Digest::of(&plain(layer)).to_string()).collect();
        let layers: Vec<_> = self.layers.iter().map(|layer| blob(media_type(layer), layer)).collect();
        let config = json!({
            "architecture": ARCHITECTURE, "os": "linux", "config": {"Env": ["PATH=/bin"]},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        let config = blob("application/vnd.oci.image.config.v1+json", &bytes(&config));
        let manifest_type = "application/vnd.oci.image.manifest.v1+json";
        let manifest = json!({"schemaVersion": 2, "mediaType": manifest_type, "config": config, "layers": layers});
        let mut described = blob(manifest_type, &bytes(&manifest));
        described["annotations"] =
            json!({"io.containerd.image.name": self.name, "org.opencontainers.image.ref.name": self.name});
        put("index.json", &bytes(&json!({"schemaVersion": 2, "manifests": [described]})));
        put("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#);
        archive.into_inner().expect("finish").flush().expect("flush");
    }
}

fn media_type(layer: &[u8]) -> &'static str {
    if layer.starts_with(&[0x1f, 0x8b]) {
        "application/vnd.oci.image.layer.v1.tar+gzip"
    } else {
        "application/vnd.oci.image.layer.v1.tar"
    }
}

fn bytes(value: &Value) -> Vec<u8> {
    serde_json::to_vec(value).expect("JSON")
}
