//! The image of a comparison: generated or the user's, also written to disk for other tools.

use std::ffi::OsStr;
use std::path::Path;
use std::sync::Arc;

use serde_json::Value;

use super::place::MeasuredDir;
use crate::backends::{self, Config};
use crate::build;
use crate::changeset::Sink;
use crate::compare::image::Image;
use crate::compare::tool::Archive;
use crate::door::IngestOptions;
use crate::error::{Context, Error, Result};
use crate::image::{self, Destination, ExportOptions, Options, Place, Source, Written};
use crate::mount::scratch::FsType;
use crate::snapshotter::{Labels, Snapshotter};
use crate::store::{Durability, Store};
use crate::task::Cancel;

/// Name of the image for tools that need one.
const NAME: &str = "strata-compare";

/// A store in memory for preparing the image; it is not measured.
#[derive(Debug)]
pub(super) struct ImageStore {
    store: Arc<Store>,
    /// Declared last, so that the store is closed before its file system goes.
    measured_dir: MeasuredDir,
}

impl ImageStore {
    /// Creates an empty one.
    ///
    /// # Errors
    /// Errors of creating the file system and the store.
    pub fn new() -> Result<Self> {
        let measured_dir = MeasuredDir::fresh(FsType::Tmpfs)?;
        let config = Config { durability: Durability::None, ..Config::new(measured_dir.path().join("store")) };
        Ok(Self { store: Arc::new(backends::open(&config)?), measured_dir })
    }

    /// Returns the directory of the store.
    pub fn measured_dir(&self) -> &MeasuredDir {
        &self.measured_dir
    }

    /// Reads the image that `source` names, as `strata import` does, with its layers merged. The changes that workloads
    /// make to it follow from `seed`.
    ///
    /// # Errors
    /// The reason why the image cannot be read.
    pub fn image(&self, source: &OsStr, seed: u64, cancel: &Cancel) -> Result<Image> {
        let Written { form, path, reference } = image::split_reference(source);
        path.metadata().at("open the image", &path)?;
        let ingest = IngestOptions { cancel: cancel.clone(), ..IngestOptions::default() };
        let options = Options { form, ingest, ..Options::default() };
        let source = Source { place: Place::Path(path), reference };
        let imported = image::import(&self.store, &source, &options, &())?;
        let top = imported.top.ok_or_else(|| Error::invalid(format!("{:?} has no layer to unpack", imported.name)))?;
        let store = Arc::clone(&self.store);
        Image::read(Arc::new(move |sink: &mut dyn Sink| store.changes(&top, Some(""), sink)), seed)
    }

    /// Writes `image` in the forms that tools read.
    ///
    /// # Errors
    /// Errors of the store and the file system.
    pub fn archive(&self, image: &Image, cancel: &Cancel) -> Result<Archive> {
        self.store.prepare(NAME, "", &Labels::new())?;
        self.store.apply(NAME, &mut |sink| image.produce(sink))?;
        build::commit_image(&self.store, NAME, NAME, None, cancel)?;
        let options = ExportOptions { cancel: cancel.clone(), ..ExportOptions::default() };
        let layout = self.measured_dir.path().join("layout");
        let exported =
            image::export(&self.store, NAME, &Destination::Oci { path: layout.clone(), tag: None }, &options, &())?;
        let file = self.measured_dir.path().join("archive.tar");
        image::export(&self.store, NAME, &Destination::OciArchive { path: file.clone(), tag: None }, &options, &())?;
        let missing = |what| Error::data_loss(format!("the image that was written has no {what}"));
        let blob = |hex: &str| layout.join("blobs/sha256").join(hex);
        let manifest = exported.manifest.ok_or_else(|| missing("manifest"))?;
        let layer = blob(&only_layer(&blob(&manifest.hex()))?);
        let chain = self.store.image(NAME)?.top.ok_or_else(|| missing("layer"))?;
        Ok(Archive { layout, file, layer, name: NAME.to_owned(), id: exported.id.hex(), chain })
    }
}

/// Returns the digest of the only layer in the manifest, in hexadecimal.
fn only_layer(manifest: &Path) -> Result<String> {
    let bytes = std::fs::read(manifest).at("read", manifest)?;
    let parsed: Value = serde_json::from_slice(&bytes)
        .map_err(|error| Error::data_loss("the manifest that was written is no JSON").with_source(error))?;
    let digest = parsed["layers"][0]["digest"].as_str().and_then(|digest| digest.strip_prefix("sha256:"));
    digest.map(str::to_owned).ok_or_else(|| Error::data_loss("the manifest that was written has no layer"))
}
