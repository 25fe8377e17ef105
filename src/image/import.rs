//! From a layout into the store: find the image, unpack the layers that are missing, name the image.

use std::io::{self, Read};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::files::{Files, Spool, Stoppable, check_cancelled};
use super::{Found, Layer, Options, Progress, Source, check_name, docker, layout};
use crate::changeset::Sink;
use crate::changeset::apply::Applied;
use crate::changeset::pipeline::{self, Stream, may_be_damage};
use crate::changeset::tar::decode;
use crate::error::{Error, ErrorKind, Result};
use crate::id::{Digest, check_key};
use crate::snapshotter::{Labels, Snapshotter};
use crate::store::{Flush, Held, NewImage, Origin, Store, Terms};

/// How long another process may take to commit the layer that this one has unpacked as well, to a fresh id. What it has
/// left to do then is a walk of the layer at most.
const RIVAL_WAIT: Duration = Duration::from_secs(120);

/// How often it is asked.
const RIVAL_POLL: Duration = Duration::from_millis(20);

/// The label of a snapshot that lacks what its layer has; its value says what.
pub const INCOMPLETE: &str = "strata/incomplete";

/// An image that is in the store now.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Imported {
    /// Its name.
    pub name: String,
    /// The digest of its config: the image ID.
    pub id: Digest,
    /// The digest of its manifest.
    pub manifest: Digest,
    /// The committed snapshot of its topmost layer; `None` if it has no layer.
    pub top: Option<String>,
    /// How many layers it has.
    pub layers: usize,
    /// How many of them were unpacked now; the store had the others.
    pub unpacked: usize,
    /// What could not be kept of those.
    #[serde(flatten)]
    pub losses: Losses,
}

/// What the machine, or the caller's rights on it, could not take of an image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Losses {
    /// Devices that the caller may not make. Snapshots that lack one have the label [`INCOMPLETE`].
    pub skipped_devices: u64,
    /// Times that the file system cannot hold.
    pub clamped_times: u64,
    /// Extended attributes that cannot be where a layer has them.
    pub dropped_xattrs: u64,
}

impl Losses {
    fn add(&mut self, applied: &Applied) {
        self.skipped_devices += applied.skipped_devices;
        self.clamped_times += applied.clamped_times;
        self.dropped_xattrs += applied.dropped_xattrs;
    }
}

/// Imports one image of `source`. An image that had the name before loses it.
///
/// It is durable when the call returns. Layers are named by their ChainIDs; one that the store has already is not read.
///
/// # Errors
/// `NotFound` if there is no such source, image or platform; `InvalidArgument` if there are several images and none is
/// named, or the name is none for an image; `DataLoss` for what is damaged, missing, cut short or has another digest,
/// naming it; `Unsupported` for media types and compressions that are not known; `ResourceExhausted` for a full disk,
/// or beyond a limit of `options`; `AlreadyExists` if the name of a layer belongs to another snapshot; `Cancelled`;
/// what the store reports.
pub fn import(store: &Store, source: &Source, options: &Options<'_>, progress: &dyn Progress) -> Result<Imported> {
    options.name.as_deref().map_or(Ok(()), check_name)?;
    let dir = store.root().join("run");
    let spool = Spool { dir: &dir, bytes_max: options.spool_bytes_max, cancel: options.cancel };
    let files = Files::open(&source.place, spool)?;
    let found = find(&files, source, options).map_err(|error| error.context(format!("importing {}", source.place)))?;
    let id = Digest::of(&found.config);
    let name = options.name.clone().or_else(|| found.name.clone()).unwrap_or_else(|| id.to_string());
    check_key(&name).map_err(|error| error.context("the image's name"))?;
    let importer = Importer { store, files: &files, options, progress };
    let top = found.layers.last().map(|layer| layer.chain_id.to_string());
    let image = NewImage { name: &name, config: &found.config, manifest: &found.manifest, top: top.as_deref() };
    let layers = importer.layers(&found.layers).map_err(|error| error.context(format!("importing {name:?}")));
    let imported = layers.and_then(|layers| store.set_image(&image).map(|()| layers));
    let (unpacked, losses) = imported.inspect_err(|_| store.settle())?;
    Ok(Imported { name, id, manifest: Digest::of(&found.manifest), top, layers: found.layers.len(), unpacked, losses })
}

fn find(files: &Files, source: &Source, options: &Options<'_>) -> Result<Found> {
    let (reference, platform) = (source.reference.as_deref(), options.platform.as_ref());
    let found = if files.find(layout::MARKER)?.is_some() {
        layout::find(files, reference, platform)?
    } else if files.find(docker::MANIFEST)?.is_some() {
        docker::find(files, reference, options.cancel)?
    } else {
        let (oci, docker) = (layout::MARKER, docker::MANIFEST);
        return Err(Error::invalid(format!("it is no image: neither {oci} (OCI) nor {docker} (docker) is in it")));
    };
    found.check_platform(platform)?;
    Ok(found)
}

/// An import under way.
struct Importer<'a> {
    store: &'a Store,
    files: &'a Files,
    options: &'a Options<'a>,
    progress: &'a dyn Progress,
}

impl Importer<'_> {
    /// Brings the layers in, the lowest first; answers how many of them the store did not have.
    fn layers(&self, layers: &[Layer]) -> Result<(usize, Losses)> {
        let mut missing = Vec::new();
        let mut losses = Losses::default();
        for layer in layers {
            if self.is_there(layer)? {
                self.progress.present(layer);
            } else {
                self.check_blob(layer)?;
                missing.push(layer);
            }
        }
        if missing.is_empty() {
            return Ok((0, losses));
        }
        let (files, cancel) = (self.files, self.options.cancel);
        let blobs = missing.iter().map(|layer| open(files, layer, self.options).map_err(|error| error.context(layer)));
        let mut unpack = |stream: &mut Stream<'_>, written: &dyn Fn(u64)| {
            for layer in &missing {
                check_cancelled(cancel)?;
                let below = layer.number.checked_sub(2).map(|below| layers[below].chain_id.to_string());
                self.progress.started(layer);
                let below = below.as_deref().unwrap_or("");
                let applied = self.layer(layer, below, stream, written).map_err(|error| error.context(layer))?;
                losses.add(&applied);
                self.progress.done(layer);
            }
            Ok(())
        };
        self.store.writing_back(|written| pipeline::ahead(blobs, |stream| unpack(stream, written)))?;
        Ok((missing.len(), losses))
    }

    /// Whether the layer is in the store, and not something else under its name.
    fn is_there(&self, layer: &Layer) -> Result<bool> {
        let name = layer.chain_id.to_string();
        if self.store.hold_layer(&name)? != Held::Committed {
            return Ok(false);
        }
        if self.store.diff_id(&name)? == Some(layer.diff_id) {
            return Ok(true);
        }
        Err(Error::already_exists(format!("the snapshot {name} was not made from {layer}: remove it first")))
    }

    /// What can be said before anything is unpacked.
    fn check_blob(&self, layer: &Layer) -> Result<()> {
        let size = self.files.blob(&layer.path).map_err(|error| error.context(layer))?.size();
        if size == layer.size_bytes {
            return Ok(());
        }
        let said = layer.size_bytes;
        Err(Error::data_loss(format!("{layer} is damaged: its blob has {size} bytes, the manifest says {said}")))
    }

    /// Unpacks one layer on top of the snapshot `below` and commits it.
    fn layer(&self, layer: &Layer, below: &str, stream: &mut Stream<'_>, written: &dyn Fn(u64)) -> Result<Applied> {
        let key = extraction_key(layer);
        self.store.prepare_layer(&key, below)?;
        let done = self.unpack(layer, &key, stream, written).and_then(|applied| {
            if !self.commit(layer, &key, &applied)? {
                self.store.remove(&key)?;
            }
            Ok(applied)
        });
        done.inspect_err(|_| {
            // The first error is the one to report. If this fails too, gc removes the snapshot.
            let _ = self.store.remove(&key);
        })
    }

    fn unpack(&self, layer: &Layer, key: &str, stream: &mut Stream<'_>, written: &dyn Fn(u64)) -> Result<Applied> {
        let (progress, cancel) = (self.progress, self.options.cancel);
        let mut plain = Watched { stream, layer, progress, cancel, told: 0, written };
        let mut produce = |sink: &mut dyn Sink| decode(&mut plain, &self.options.limits, sink).map(drop);
        let applied = self.store.apply_layer(key, &mut produce);
        // A damaged blob mostly shows as nonsense inside: then say that it is damaged.
        if applied.as_ref().is_err_and(|error| !may_be_damage(error)) {
            return applied;
        }
        let end = stream.finish()?;
        if end.blob != Some(layer.digest) {
            return Err(damaged(end.blob, applied.err()));
        }
        let applied = applied?;
        if end.diff_id == layer.diff_id {
            return Ok(applied);
        }
        let (found, said) = (end.diff_id, layer.diff_id);
        Err(Error::data_loss(format!("its content has the DiffID {found}, the config says {said}")))
    }

    /// Commits what was unpacked; answers whether it was needed: another process may have done the same.
    fn commit(&self, layer: &Layer, key: &str, applied: &Applied) -> Result<bool> {
        let mut labels = Labels::new();
        if applied.skipped_devices > 0 {
            labels.insert(INCOMPLETE.to_owned(), format!("{} devices were left out", applied.skipped_devices));
        }
        let terms = Terms { flush: Flush::Later, origin: Origin::Image, diff_id: Some(layer.diff_id) };
        let name = layer.chain_id.to_string();
        let started = Instant::now();
        loop {
            match self.store.commit_with(&name, key, &labels, terms) {
                Ok(()) => return Ok(true),
                Err(error) if error.kind() == ErrorKind::AlreadyExists && started.elapsed() < RIVAL_WAIT => {}
                Err(error) => return Err(error),
            }
            if self.is_there(layer)? {
                return Ok(false);
            }
            check_cancelled(self.options.cancel)?;
            thread::sleep(RIVAL_POLL);
        }
    }
}

/// The blob of `layer`, to be read ahead.
fn open<'a>(files: &Files, layer: &Layer, options: &Options<'a>) -> Result<pipeline::Blob<'a>> {
    let blob = files.blob(&layer.path)?;
    let compression = blob.compression()?;
    let (expansion, shown) = (options.expansion, format!("layer {}", layer.digest));
    let reader = Box::new(Stoppable { blob, cancel: options.cancel });
    Ok(pipeline::Blob { reader, compression, expansion, shown })
}

/// The error for a blob with another digest than it should have, or of which that is not known.
fn damaged(found: Option<Digest>, cause: Option<Error>) -> Error {
    match (found, cause) {
        (None, Some(cause)) => cause,
        (None, None) => Error::data_loss("the blob was not read to its end"),
        (Some(digest), cause) => {
            let damaged = Error::data_loss(format!("the blob is damaged: it has the digest {digest}"));
            cause.into_iter().fold(damaged, Error::with_source)
        }
    }
}

/// A key that no other import has: who looks at it sees what it is for.
fn extraction_key(layer: &Layer) -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let nanos = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    let (process, count) = (std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    format!("import-{nanos}-{process}-{count} {}", layer.chain_id)
}

/// The plain bytes of a layer, while somebody looks on and may call it off.
struct Watched<'a, 's> {
    stream: &'a mut Stream<'s>,
    layer: &'a Layer,
    progress: &'a dyn Progress,
    cancel: Option<&'a AtomicBool>,
    /// Of how many bytes of the blob was told.
    told: u64,
    /// Takes how many plain bytes were read, which is about what is written then.
    written: &'a dyn Fn(u64),
}

impl Read for Watched<'_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        check_cancelled(self.cancel)?;
        let count = self.stream.read(buffer)?;
        (self.written)(count as u64);
        let read = self.stream.compressed_bytes();
        if read > self.told {
            self.progress.read(self.layer, read - self.told);
            self.told = read;
            check_cancelled(self.cancel)?;
        }
        Ok(count)
    }
}
