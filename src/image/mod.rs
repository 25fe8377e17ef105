//! Images on their way into a store and out of it, and what the store knows of them.
//!
//! An image lies in a *layout*: a directory or an archive that holds its documents and one blob for each layer, put
//! together by OCI's rules or by docker's. [`import`] finds the image in it, turns each layer that the store does not
//! have yet into a committed snapshot named by its ChainID, and names the topmost one. [`export`] puts one image into a
//! layout; [`summaries`], [`history`] and [`remove`] are about the images that are there.
//!
//! # Invariants
//! - Nothing is visible before it is verified: the size and digest of each blob that is read, and the DiffID of the
//!   stream in it. The image's name appears last, in one durable transaction, after one sync of everything.
//! - A failed or cancelled import leaves nothing but finished layers, which the next import finds or `gc` frees.
//! - Config and manifest are kept as the bytes that they came as. An image leaves with the config that it has, and with
//!   layers of the DiffIDs in it; an output appears whole or not at all.
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

/// Where an image comes from.
#[derive(Debug)]
pub struct Source {
    /// The layout.
    pub place: Place,
    /// Which of its images, if there are several: a name, or the digest of a manifest or config.
    pub reference: Option<String>,
}

/// Where a layout is. What kind of layout it is shows in its content, not in its name.
#[derive(Debug)]
pub enum Place {
    /// A directory, or an archive, plain or compressed.
    Path(PathBuf),
    /// An open archive: a file is read where it lies, what can be read only once (a pipe) is spooled in the store.
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

/// Which of its forms an image has, where a directory or archive could have both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// OCI's image layout.
    Oci,
    /// An archive as `docker save` writes it.
    Docker,
}

/// How users say which form a layout has; reading needs nobody to say it.
const FORMS: [(&str, Form); 3] = [("oci:", Form::Oci), ("oci-archive:", Form::Oci), ("docker-archive:", Form::Docker)];

/// A source as users write it.
#[derive(Debug, PartialEq, Eq)]
pub struct Written {
    /// The form that stands in front, if one does.
    pub form: Option<Form>,
    /// The directory or archive, or `-`.
    pub path: PathBuf,
    /// Which of its images.
    pub reference: Option<String>,
}

/// Splits `[FORM:]SRC[:REF]` at the colon that leaves the longest path that exists. A path that exists with the form in
/// its name is that path. What is not there in any way is taken for a path, for the error that names all of it; `-`
/// stands for itself.
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
    /// The image's name in the store ([`check_name`]); otherwise that which its layout gives it, otherwise its ID.
    pub name: Option<String>,
    /// The form to read; otherwise the one that is there. Where both are, they must agree.
    pub form: Option<Form>,
    /// The platform to choose; `None` for the one of this machine, where there is a choice.
    pub platform: Option<Platform>,
    /// Limits of the layers. Its `cancel` stops the import.
    pub ingest: IngestOptions,
    /// How long an archive may be that has to be spooled.
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
    /// Its number, from 1 at the bottom.
    pub number: usize,
    /// How many layers the image has.
    pub total: usize,
    /// The digest of its blob; in an export, where it is not known yet, the DiffID.
    pub digest: BlobDigest,
    /// The length of its blob; in an export, of that which it came from.
    pub size_bytes: u64,
    /// The digest of the stream in the blob.
    pub diff_id: DiffId,
    /// The name of its snapshot.
    pub chain_id: ChainId,
    /// Its blob in the layout that it comes from.
    path: String,
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "layer {} of {} ({})", self.number, self.total, self.digest)
    }
}

/// Receives the progress of an import or export. Each layer is started, or is there already. Of a started layer, bytes
/// are read, or written, until the layer is done. Calls come from one thread at a time.
pub trait Progress: Sync {
    /// The store has the layer already.
    fn present(&self, layer: &Layer) {
        let _ = layer;
    }

    /// The layer will be unpacked, or written, now.
    fn started(&self, layer: &Layer) {
        let _ = layer;
    }

    /// So many more bytes of its blob were read.
    fn read(&self, layer: &Layer, bytes: u64) {
        let _ = (layer, bytes);
    }

    /// So many more bytes of its blob were written.
    fn written(&self, layer: &Layer, bytes: u64) {
        let _ = (layer, bytes);
    }

    /// The layer is verified and committed, or written.
    fn done(&self, layer: &Layer) {
        let _ = layer;
    }
}

/// Nobody wants to know.
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

    /// Checks that it is for the platform that the user asked for.
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

/// Refuses an image of more layers than `options` allow. A layer can cost as much as all below it, and some layers are
/// read to know what they are.
fn check_layers(layers: usize, options: &IngestOptions) -> Result<(), Error> {
    let layers_max = options.limits.layers;
    if layers <= layers_max {
        return Ok(());
    }
    let message = format!("the image has {layers} layers: the limit is {layers_max} (--limit layers=NUMBER)");
    Err(Error::new(ErrorKind::ResourceExhausted, message))
}

/// The place in the list that `@NUMBER` names, as in skopeo's names of archives.
fn nth(reference: &str) -> Option<usize> {
    reference.strip_prefix('@')?.parse().ok()
}

/// The error for a choice that the user has to make: `names` are what can be chosen.
fn ask(names: &[String]) -> Error {
    let names = names.join(", ");
    Error::new(ErrorKind::InvalidArgument, format!("there are several images; choose one with SRC:REF: {names}"))
}

/// The error for a name that is not there.
fn unknown(reference: &str, names: &[String]) -> Error {
    let names = if names.is_empty() { "none at all".to_owned() } else { names.join(", ") };
    Error::not_found(format!("there is no image {reference:?}; there is {names}"))
}

#[cfg(test)]
mod tests;
