//! Commands that bring images in and give them back, and how far they are.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use clap::builder::{OsStringValueParser, TypedValueParser as _};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::interrupt::Interrupt;
use super::layer::{compression, tell_losses};
use super::limits::LayerLimits;
use super::names;
use super::output::shown;
use super::session::Session;
use super::{Done, FREE_LIMIT};
use crate::changeset::blob::Compression;
use crate::error::{Context, Result};
use crate::image::{
    self, Destination, ExportOptions, Form, Layer, Options, Place, Platform, Progress, Source, Written,
};

/// How much of a digest a table or a bar shows.
const SHORT_DIGEST_CHARS: usize = "sha256:".len() + 12;

/// Bring an image into the store
///
/// SRC is an OCI layout (a directory or an archive) or a docker archive, - standard input. oci:, oci-archive: or
/// docker-archive: in front of it chooses the form of an archive that has both. Each layer becomes a committed snapshot
/// named by its ChainID; layers that the store has already are not read again. Prints the image's name and ID.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  strata import layout:1.0 --name example/app:1.0")]
pub(super) struct Import {
    /// The image; REF chooses one of several: by name, by digest, or by place with @0, @1, ...
    #[arg(value_name = "SRC[:REF]")]
    source: OsString,
    /// Its name in the store, instead of the one that it brings
    #[arg(long)]
    name: Option<String>,
    /// Which one of an image for several platforms, instead of this machine's: linux/arm64
    #[arg(long, value_name = "OS/ARCH[/VARIANT]", value_parser = platform)]
    platform: Option<Platform>,
    #[command(flatten)]
    limits: LayerLimits,
}

/// Write an image into a layout
///
/// The image leaves with the config and the layers that it came with, so its ID stays. DEST appears when it is
/// complete. Layers compressed by zstd are smaller and made faster; readers from before 2020 do not know them.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  strata export alpine oci-archive:alpine.tar --compress zstd")]
pub(super) struct Export {
    /// The image's name, or the beginning of its ID
    image: String,
    /// oci:DIR[:TAG], oci-archive:FILE[:TAG] or docker-archive:FILE; TAG is what the layout calls it, instead of its
    /// name
    #[arg(value_name = "DEST", value_parser = OsStringValueParser::new().try_map(|text| Destination::parse(&text)))]
    destination: Destination,
    /// Compress the layers
    #[arg(long, value_name = "HOW", default_value = "gzip", value_parser = compression())]
    compress: Compression,
}

pub(super) fn platform(text: &str) -> Result<Platform> {
    text.parse()
}

impl Import {
    pub fn run(&self, session: &Session) -> Done {
        let interrupt = Interrupt::watch(session)?;
        let (source, form) = self.source()?;
        // Before a store is made for nothing.
        if let Place::Path(path) = &source.place {
            path.metadata().at("open the image", path)?;
        }
        let store = session.make_store()?;
        let options = Options {
            name: self.name.clone(),
            form,
            platform: self.platform.clone(),
            ingest: self.limits.options(interrupt.cancel()),
            ..Options::default()
        };
        let progress = progress(session, "unpacking");
        let imported = image::import(&store, &source, &options, progress.as_ref()).inspect_err(|_| {
            // The layer that it was at takes space still. Who is to stop leaves that to the next rm or gc: it may be
            // large.
            let _ = store.drain(Some(FREE_LIMIT), Some(interrupt.cancel()));
        })?;
        drop(progress);
        tell_losses(session, &imported.name, imported.losses);
        Ok(session.output.either(&imported, || format!("{} {}\n", shown(&imported.name), imported.id))?)
    }

    fn source(&self) -> Result<(Source, Option<Form>)> {
        let Written { form, path, reference } = image::split_reference(&self.source);
        let place = if path == Path::new("-") {
            let stdin = io::stdin().as_fd().try_clone_to_owned().at("read", "standard input")?;
            Place::Open(File::from(stdin))
        } else {
            Place::Path(path)
        };
        Ok((Source { place, reference }, form))
    }
}

impl Export {
    pub fn run(&self, session: &Session) -> Done {
        let interrupt = Interrupt::watch(session)?;
        let store = session.store()?;
        let options = ExportOptions { compression: self.compress, cancel: interrupt.cancel().clone() };
        let name = names::image(&store, &self.image)?;
        let progress = progress(session, "writing");
        let exported = image::export(&store, &name, &self.destination, &options, progress.as_ref())?;
        drop(progress);
        Ok(session.output.either(&exported, || format!("{} {}\n", shown(&exported.name), exported.id))?)
    }
}

/// Receives the progress of an import or export, which the text `doing` names.
pub(super) fn progress(session: &Session, doing: &'static str) -> Box<dyn Progress> {
    if session.draws() {
        Box::new(Bars::default())
    } else if session.tells() {
        Box::new(Lines { doing })
    } else {
        Box::new(())
    }
}

/// The first digits of a digest, for people.
pub(super) fn short(digest: &str) -> String {
    digest.chars().take(SHORT_DIGEST_CHARS).collect()
}

/// One line when a layer begins and one when it ends: for logs.
#[derive(Debug)]
struct Lines {
    doing: &'static str,
}

impl Lines {
    fn tell(layer: &Layer, what: &str) {
        // Progress that cannot be told is no reason to stop.
        let _ = writeln!(io::stderr(), "{layer}: {what}");
    }
}

impl Progress for Lines {
    fn present(&self, layer: &Layer) {
        Self::tell(layer, "already there");
    }

    fn started(&self, layer: &Layer) {
        Self::tell(layer, self.doing);
    }

    fn done(&self, layer: &Layer) {
        Self::tell(layer, "done");
    }
}

/// A bar for each layer that is being unpacked: for people. They are gone when the import is.
#[derive(Debug, Default)]
struct Bars {
    all: MultiProgress,
    by_number: Mutex<BTreeMap<usize, ProgressBar>>,
}

impl Bars {
    fn by_number(&self) -> MutexGuard<'_, BTreeMap<usize, ProgressBar>> {
        self.by_number.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Progress for Bars {
    fn started(&self, layer: &Layer) {
        let bar = ProgressBar::new(layer.size_bytes);
        if let Ok(style) = ProgressStyle::with_template("{prefix} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec}") {
            bar.set_style(style);
        }
        bar.set_prefix(format!("{}/{} {}", layer.number, layer.total, short(&layer.digest.to_string())));
        self.by_number().insert(layer.number, self.all.add(bar));
    }

    fn read(&self, layer: &Layer, bytes: u64) {
        if let Some(bar) = self.by_number().get(&layer.number) {
            bar.inc(bytes);
        }
    }

    fn written(&self, layer: &Layer, bytes: u64) {
        self.read(layer, bytes);
    }

    fn done(&self, layer: &Layer) {
        if let Some(bar) = self.by_number().remove(&layer.number) {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Bars {
    fn drop(&mut self) {
        for bar in std::mem::take(&mut *self.by_number()).into_values() {
            bar.finish_and_clear();
        }
    }
}
