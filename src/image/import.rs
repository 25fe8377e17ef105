//! From a layout into the store: find the image, unpack the missing layers, record the image.

use super::files::{Files, Spool};
use super::find::find;
use super::source::ImageSource;
use super::{Found, Layer, Options, Progress, Source, check_layers, check_name};
use crate::changeset::apply::Applied;
use crate::door::{Intake, LayerName, ingest, is_present};
use crate::error::Result;
use crate::id::{Digest, check_key};
use crate::store::{NewImage, Store};
use crate::store_files;

/// An image that was imported.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Imported {
    /// The name of the image in the store.
    pub name: String,
    /// The digest of the config: the image ID.
    pub id: Digest,
    /// The digest of the manifest.
    pub manifest: Digest,
    /// The committed snapshot of the topmost layer; `None` if the image has no layer.
    pub top: Option<String>,
    /// How many layers the image has.
    pub layers: usize,
    /// How many layers were unpacked now. The store had the others.
    pub unpacked: usize,
    /// Parts of the layers that could not be kept.
    #[serde(flatten)]
    pub losses: Losses,
}

/// Parts of an image that could not be written: the file system cannot hold them, or the caller may not make them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Losses {
    /// Devices that the caller may not make. Snapshots that lack one have the label
    /// [`INCOMPLETE`](crate::door::ingest::INCOMPLETE).
    pub skipped_devices: u64,
    /// Times that the file system cannot hold.
    pub clamped_times: u64,
    /// Extended attributes that cannot be set on the file that has them in the layer.
    pub dropped_xattrs: u64,
}

impl Losses {
    fn add(&mut self, applied: &Applied) {
        self.skipped_devices += applied.skipped_devices;
        self.clamped_times += applied.clamped_times;
        self.dropped_xattrs += applied.dropped_xattrs;
    }
}

/// Imports one image of `source`. An image of the same name is replaced.
///
/// The image is durable when the call returns. Layers are named by their ChainIDs. A layer that the store already has
/// is not read.
///
/// # Errors
/// `NotFound` if there is no such source, image or platform; `InvalidArgument` if there are several images and none is
/// named, or the name is not valid; `DataLoss` with the name of a document or layer that is damaged, missing, cut short
/// or has another digest; `Unsupported` for unknown media types and compressions; `ResourceExhausted` for a full disk,
/// or beyond a limit of `options`; `AlreadyExists` if the name of a layer belongs to another snapshot; `Cancelled`;
/// errors of the store.
pub fn import(store: &Store, source: &Source, options: &Options, progress: &dyn Progress) -> Result<Imported> {
    options.name.as_deref().map_or(Ok(()), check_name)?;
    let dir = store_files::run(store.root());
    let spool = Spool { dir: &dir, bytes_max: options.spool_bytes_max, cancel: &options.ingest.cancel };
    let files = Files::open(&source.place, spool)?;
    let found = find(&files, source.reference.as_deref(), options)
        .map_err(|error| error.context(format!("importing {}", source.place)))?;
    import_found(store, &found, &files, options, progress)
}

/// Imports the image `found`.
pub(super) fn import_found(
    store: &Store,
    found: &Found,
    source: &dyn ImageSource,
    options: &Options,
    progress: &dyn Progress,
) -> Result<Imported> {
    let id = Digest::of(&found.config);
    // A name in the layout that is no valid key is ignored: the image then gets its ID as name.
    let own = || found.name.clone().filter(|name| check_key(name).is_ok());
    let name = options.name.clone().or_else(own).unwrap_or_else(|| id.to_string());
    let importer = Importer { store, source, options, progress };
    let top = found.layers.last().map(|layer| layer.chain_id.to_string());
    let image = NewImage { name: &name, config: &found.config, manifest: &found.manifest, top: top.as_deref() };
    let layers = importer.layers(&found.layers).map_err(|error| error.context(format!("importing {name:?}")));
    let imported = layers.and_then(|layers| store.set_image(&image).map(|()| layers));
    let (unpacked, losses) = imported.inspect_err(|_| store.settle())?;
    Ok(Imported { name, id, manifest: Digest::of(&found.manifest), top, layers: found.layers.len(), unpacked, losses })
}

/// An import under way.
struct Importer<'a> {
    store: &'a Store,
    source: &'a dyn ImageSource,
    options: &'a Options,
    progress: &'a dyn Progress,
}

impl Importer<'_> {
    /// Unpacks the layers that the store does not have, the lowest first. Returns their number.
    fn layers(&self, layers: &[Layer]) -> Result<(usize, Losses)> {
        check_layers(layers.len(), &self.options.ingest)?;
        let (mut missing, mut names) = (Vec::new(), Vec::new());
        let mut losses = Losses::default();
        let mut parent = None;
        for layer in layers {
            let name = LayerName { parent, diff_id: layer.diff_id };
            parent = Some(name.chain_id());
            if is_present(self.store, &name)? {
                self.progress.present(layer);
            } else {
                missing.push(layer);
                names.push(name);
            }
        }
        if missing.is_empty() {
            return Ok((0, losses));
        }
        self.source.prepare(&missing)?;
        let (source, options) = (self.source, &self.options.ingest);
        let blobs = missing.iter().map(|layer| source.open(layer, self.options).map_err(|error| error.context(layer)));
        ingest::layers(self.store, blobs, options, |intake| {
            for (layer, name) in missing.iter().zip(&names) {
                options.cancel.check()?;
                let applied = self.layer(layer, name, intake).map_err(|error| error.context(layer))?;
                losses.add(&applied);
            }
            Ok(())
        })?;
        Ok((missing.len(), losses))
    }

    /// Unpacks and commits one layer.
    fn layer(&self, layer: &Layer, name: &LayerName, intake: &mut Intake<'_, '_>) -> Result<Applied> {
        self.progress.started(layer);
        let applied = intake.commit(name, layer.digest.sha256(), &|bytes| self.progress.read(layer, bytes))?;
        self.progress.done(layer);
        Ok(applied)
    }
}
