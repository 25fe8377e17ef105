//! The image that is compared with: a made-up one or the user's, and the same one lying ready for other tools.

use std::ffi::OsStr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use serde_json::Value;

use super::stage::Ground;
use crate::backends::{self, Config};
use crate::build;
use crate::changeset::Sink;
use crate::compare::image::Image;
use crate::compare::peer::Archive;
use crate::error::{Context, Error, Result};
use crate::image::{self, Destination, ExportOptions, Options, Place, Source};
use crate::mount::scratch::FsType;
use crate::snapshotter::{Labels, Snapshotter};
use crate::store::{Durability, Store};

/// What the image is called by the tools that need a name.
const NAME: &str = "strata-compare";

/// A store in memory, for what nobody measures.
#[derive(Debug)]
pub(super) struct Depot {
    store: Arc<Store>,
    /// Last: the store is closed first.
    ground: Ground,
}

impl Depot {
    /// An empty one.
    ///
    /// # Errors
    /// What making it reports.
    pub fn new() -> Result<Self> {
        let ground = Ground::fresh(FsType::Tmpfs)?;
        let config = Config { durability: Durability::None, ..Config::new(ground.path().join("store")) };
        Ok(Self { store: Arc::new(backends::open(&config)?), ground })
    }

    /// Where it lies.
    pub fn ground(&self) -> &Ground {
        &self.ground
    }

    /// The image that `source` names, as `strata import` reads it, with its layers merged. What workloads change in it
    /// follows from `seed`.
    ///
    /// # Errors
    /// Why it cannot be read.
    pub fn image(&self, source: &OsStr, seed: u64, cancel: &AtomicBool) -> Result<Image> {
        let (path, reference) = image::split_reference(source);
        path.metadata().at("open the image", &path)?;
        let options = Options { cancel: Some(cancel), ..Options::default() };
        let source = Source { place: Place::Path(path), reference };
        let imported = image::import(&self.store, &source, &options, &())?;
        let top = imported.top.ok_or_else(|| Error::invalid(format!("{:?} has no layer to unpack", imported.name)))?;
        let store = Arc::clone(&self.store);
        Image::read(Arc::new(move |sink: &mut dyn Sink| store.changes(&top, Some(""), sink)), seed)
    }

    /// Writes `image` in the forms that tools read.
    ///
    /// # Errors
    /// What the store and the file system report.
    pub fn archive(&self, image: &Image, cancel: &AtomicBool) -> Result<Archive> {
        self.store.prepare(NAME, "", &Labels::new())?;
        self.store.apply(NAME, &mut |sink| image.produce(sink))?;
        build::commit_image(&self.store, NAME, NAME, None, cancel)?;
        let options = ExportOptions { cancel: Some(cancel), ..ExportOptions::default() };
        let layout = self.ground.path().join("layout");
        let exported =
            image::export(&self.store, NAME, &Destination::Oci { path: layout.clone(), tag: None }, &options, &())?;
        let file = self.ground.path().join("archive.tar");
        image::export(&self.store, NAME, &Destination::OciArchive { path: file.clone(), tag: None }, &options, &())?;
        let missing = |what| Error::data_loss(format!("the image that was written has no {what}"));
        let blob = |hex: &str| layout.join("blobs/sha256").join(hex);
        let manifest = exported.manifest.ok_or_else(|| missing("manifest"))?;
        let layer = blob(&only_layer(&blob(&manifest.hex()))?);
        let chain = self.store.image(NAME)?.top.ok_or_else(|| missing("layer"))?;
        Ok(Archive { layout, file, layer, name: NAME.to_owned(), id: exported.id.hex(), chain })
    }
}

/// The digest of the one layer that the manifest names, in hexadecimal.
fn only_layer(manifest: &Path) -> Result<String> {
    let bytes = std::fs::read(manifest).at("read", manifest)?;
    let parsed: Value = serde_json::from_slice(&bytes)
        .map_err(|error| Error::data_loss("the manifest that was written is no JSON").with_source(error))?;
    let digest = parsed["layers"][0]["digest"].as_str().and_then(|digest| digest.strip_prefix("sha256:"));
    digest.map(str::to_owned).ok_or_else(|| Error::data_loss("the manifest that was written has no layer"))
}
