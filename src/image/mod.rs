//! Import and export of images, and questions about the images of a store.
//!
//! An image lies in a *layout*: a directory or an archive that holds its documents and one blob for each layer, put
//! together by OCI's rules or by docker's. [`import`] finds an image in a layout, makes a committed snapshot named by
//! the ChainID of each layer that the store does not have, and records the image. [`export`] writes one image into a
//! layout. [`summaries`], [`history`] and [`remove`] deal with images of the store.
//!
//! # Invariants
//! - A layer is visible only after the size and digest of its blob and the DiffID of the stream in the blob are
//!   verified. The name of the image appears last, in one durable transaction, after one sync of all layers.
//! - A failed or cancelled import leaves nothing but finished layers, which the next import finds or `gc` frees.
//! - Config and manifest are kept byte for byte. An export has the same config, and layers with the DiffIDs in it. An
//!   output appears whole or not at all.
//!
//! # References
//! OCI image specification: `image-layout.md`, `image-index.md`, `manifest.md`, `config.md`; docker's image
//! specification v1.2, "Combined Image JSON + Filesystem Changeset Format".

mod budget;
mod docker;
mod export;
mod files;
mod find;
mod import;
mod inventory;
mod layout;
mod legacy;
mod name;
mod output;
#[cfg(feature = "registry")]
pub mod registry;
mod resolve;
mod source;

pub use crate::door::ingest::INCOMPLETE;
pub use crate::oci::{BlobDigest, Platform};
pub use export::{Destination, ExportOptions, Exported, export};
pub use files::SPOOL_BYTES_MAX;
pub use import::{Imported, Losses, import};
pub use inventory::{Made, Summary, history, remove, summaries};
pub use name::check_name;

use std::ffi::OsStr;
use std::fmt;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::door::IngestOptions;
use crate::error::{Error, ErrorKind};
use crate::id::{ChainId, DiffId};

/// The place of an image to import.
#[derive(Debug)]
pub struct Source {
    /// The layout.
    pub place: Place,
    /// The image to import, if the layout has several: a name, or the digest of a manifest or config.
    pub reference: Option<String>,
}

/// The place of a layout. The kind of the layout is detected by its content, not by its name.
#[derive(Debug)]
pub enum Place {
    /// A directory, or an archive, plain or compressed.
    Path(PathBuf),
    /// An open archive. A file is read in place; a pipe is first copied into the store.
    Open(File),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => path.display().fmt(f),
            Self::Open(_) => f.write_str("the given archive"),
        }
    }
}

/// The form of an image, for a directory or archive that has both forms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// OCI's image layout.
    Oci,
    /// An archive as `docker save` writes it.
    Docker,
}

/// Prefixes by which users name the form of a layout. Without a prefix the form is detected.
const FORMS: [(&str, Form); 3] = [("oci:", Form::Oci), ("oci-archive:", Form::Oci), ("docker-archive:", Form::Docker)];

/// A source as a user wrote it, split into its parts.
#[derive(Debug, PartialEq, Eq)]
pub struct Written {
    /// The form, if the text has a prefix.
    pub form: Option<Form>,
    /// The directory or archive, or `-`.
    pub path: PathBuf,
    /// The image, if the text names one.
    pub reference: Option<String>,
}

/// Splits `[FORM:]SRC[:REF]` at the colon that leaves the longest existing path. If a path exists that begins with a
/// prefix such as `oci:`, the prefix is a part of the path. If no path exists, the whole text is the path, so that the
/// error shows all of it. The path `-` counts as existing.
pub fn split_reference(text: &OsStr) -> Written {
    let bytes = text.as_bytes();
    let bare = FORMS.iter().find_map(|(form, is)| Some((bytes.strip_prefix(form.as_bytes())?, Some(*is))));
    let split = |(bytes, form)| split_existing(bytes).map(|(path, reference)| Written { form, path, reference });
    let missing = || Written { form: None, path: PathBuf::from(text), reference: None };
    [Some((bytes, None)), bare].into_iter().flatten().find_map(split).unwrap_or_else(missing)
}

fn split_existing(bytes: &[u8]) -> Option<(PathBuf, Option<String>)> {
    let existing = |path: &[u8]| {
        let path = Path::new(OsStr::from_bytes(path));
        (path == Path::new("-") || path.exists()).then(|| path.to_owned())
    };
    if let Some(path) = existing(bytes) {
        return Some((path, None));
    }
    let colons = (1..bytes.len()).rev().filter(|at| bytes[*at] == b':');
    colons.into_iter().find_map(|at| {
        let reference = str::from_utf8(&bytes[at + 1..]).ok()?;
        Some((existing(&bytes[..at])?, Some(reference.to_owned())))
    })
}

/// How to import.
#[derive(Clone, Debug)]
pub struct Options {
    /// The image's name in the store ([`check_name`]); otherwise its name in the layout, otherwise its ID.
    pub name: Option<String>,
    /// The form to read; `None` for the form that the files have. If the files have both forms, these must agree.
    pub form: Option<Form>,
    /// The platform to choose. With `None`, if there is a choice, the platform of this machine is chosen.
    pub platform: Option<Platform>,
    /// Limits of the layers. The `cancel` of these options stops the import.
    pub ingest: IngestOptions,
    /// Maximum length of an archive that has to be spooled.
    pub spool_bytes_max: u64,
}

impl Default for Options {
    fn default() -> Self {
        let ingest = IngestOptions::default();
        Self { name: None, form: None, platform: None, ingest, spool_bytes_max: SPOOL_BYTES_MAX }
    }
}

/// One layer of an image that is imported or exported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// The number of the layer, from 1 at the bottom.
    pub number: usize,
    /// How many layers the image has.
    pub total: usize,
    /// The digest of the layer's blob. In an export, which does not know that digest yet, the DiffID.
    pub digest: BlobDigest,
    /// The length of the layer's blob. In an export, the length of the blob in the stored manifest.
    pub size_bytes: u64,
    /// The digest of the stream in the blob.
    pub diff_id: DiffId,
    /// The name of the layer's snapshot.
    pub chain_id: ChainId,
    /// The path of the layer's blob in the layout that is imported.
    path: String,
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "layer {} of {} ({})", self.number, self.total, self.digest)
    }
}

/// Receives the progress of an import or export. Each layer is either present or started. Calls of `read` or `written`
/// follow for a started layer, until the layer is done. Calls come from one thread at a time.
pub trait Progress: Sync {
    /// The store has the layer already.
    fn present(&self, layer: &Layer) {
        let _ = layer;
    }

    /// The layer will be unpacked, or written, now.
    fn started(&self, layer: &Layer) {
        let _ = layer;
    }

    /// `bytes` more bytes of the layer's blob were read.
    fn read(&self, layer: &Layer, bytes: u64) {
        let _ = (layer, bytes);
    }

    /// `bytes` more bytes of the layer's blob were written.
    fn written(&self, layer: &Layer, bytes: u64) {
        let _ = (layer, bytes);
    }

    /// The layer is verified and committed, or written.
    fn done(&self, layer: &Layer) {
        let _ = layer;
    }
}

/// Ignores all progress.
impl Progress for () {}

/// One image of a layout, as it was found.
#[derive(Debug)]
struct Found {
    /// The name of the image in the layout.
    name: Option<String>,
    config: Vec<u8>,
    manifest: Vec<u8>,
    layers: Vec<Layer>,
    /// The platform of the image, if its index or its config names one.
    platform: Option<Platform>,
}

impl Found {
    fn is_for_host(&self) -> bool {
        self.platform.as_ref().is_none_or(|platform| platform.suits(&Platform::host()))
    }

    /// Checks that the image is for the platform `wanted`, and not for Windows.
    fn check_platform(&self, wanted: Option<&Platform>) -> Result<(), Error> {
        if let Some(windows) = self.platform.as_ref().filter(|platform| platform.os == "windows") {
            let message = format!("the image is for {windows}: layers of Windows hold a registry and no plain files");
            return Err(Error::unsupported(message));
        }
        match (wanted, &self.platform) {
            (Some(wanted), Some(have)) if !have.suits(wanted) => {
                Err(Error::not_found(format!("there is no image for {wanted}: the one found is for {have}")))
            }
            _ => Ok(()),
        }
    }
}

/// Refuses an image of more layers than `options` allow. The limit is checked early: a layer can cost as much as all
/// layers below it, and some layers are read to compute their digests.
fn check_layers(layers: usize, options: &IngestOptions) -> Result<(), Error> {
    let layers_max = options.limits.layers;
    if layers <= layers_max {
        return Ok(());
    }
    let message = format!("the image has {layers} layers: the limit is {layers_max} (--limit layers=NUMBER)");
    Err(Error::new(ErrorKind::ResourceExhausted, message))
}

/// Returns the number in a reference `@NUMBER`: a place in the list of images, as in skopeo's names.
fn nth(reference: &str) -> Option<usize> {
    reference.strip_prefix('@')?.parse().ok()
}

/// Returns the error that asks the user to choose one of `names`.
fn ask(names: &[String]) -> Error {
    let names = names.join(", ");
    Error::new(ErrorKind::InvalidArgument, format!("there are several images; choose one with SRC:REF: {names}"))
}

/// Returns the error for a `reference` that names no image.
fn unknown(reference: &str, names: &[String]) -> Error {
    let names = if names.is_empty() { "none at all".to_owned() } else { names.join(", ") };
    Error::not_found(format!("there is no image {reference:?}; there is {names}"))
}

#[cfg(test)]
mod tests;
