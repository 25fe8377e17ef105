//! Commands on images: bringing them in, listing them.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde::Serialize;

use super::interrupt::Interrupt;
use super::layer::warn_of_losses;
use super::limits::LayerLimits;
use super::output::{shown, table, time, time_short};
use super::session::Session;
use super::{Done, FREE_LIMIT};
use crate::error::{Context, Result};
use crate::id::Digest;
use crate::image::{self, Layer, Losses, Options, Place, Platform, Progress, Source};
use crate::store;

/// How much of a digest a table or a bar shows.
const SHORT_DIGEST_CHARS: usize = "sha256:".len() + 12;

/// Bring an image into the store
///
/// SRC is an OCI layout (a directory or an archive) or a docker archive, - standard input. Each layer becomes a committed
/// snapshot named by its ChainID; layers that the store has already are not read again. Prints the image's name and ID.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  strata import layout:1.0 --name example/app:1.0")]
pub(super) struct Import {
    /// The image; REF chooses one of several, by name or digest
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

/// List images
///
/// The last column is the snapshot of an image's topmost layer: what prepare and view take.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  strata images --json | jq -r '.[].top'")]
pub(super) struct Images {}

fn platform(text: &str) -> Result<Platform> {
    text.parse()
}

impl Import {
    pub fn run(&self, session: &Session) -> Done {
        let interrupt = Interrupt::watch(session)?;
        let source = self.source()?;
        // Before a store is made for nothing.
        if let Place::Path(path) = &source.place {
            path.metadata().at("open the image", path)?;
        }
        let store = session.make_store()?;
        let options = Options {
            name: self.name.clone(),
            platform: self.platform.clone(),
            cancel: Some(interrupt.flag()),
            limits: self.limits.limits(),
            expansion: self.limits.expansion(),
            ..Options::default()
        };
        let progress: Box<dyn Progress> = if session.draws() {
            Box::new(Bars::default())
        } else if session.tells() {
            Box::new(Lines)
        } else {
            Box::new(())
        };
        let imported = image::import(&store, &source, &options, progress.as_ref()).inspect_err(|_| {
            // The layer that it was at takes space still; what is left now, the next one frees.
            let _ = store.drain(Some(FREE_LIMIT));
        })?;
        drop(progress);
        let Losses { skipped_devices, clamped_times, dropped_xattrs } = imported.losses;
        warn_of_losses(&imported.name, skipped_devices, clamped_times, dropped_xattrs);
        Ok(session.output.either(&imported, || format!("{} {}\n", shown(&imported.name), imported.id))?)
    }

    fn source(&self) -> Result<Source> {
        let (path, reference) = image::split_reference(&self.source);
        let place = if path == Path::new("-") {
            let stdin = io::stdin().as_fd().try_clone_to_owned().at("read", "standard input")?;
            Place::Open(File::from(stdin))
        } else {
            Place::Path(path)
        };
        Ok(Source { place, reference })
    }
}

fn short(digest: &str) -> String {
    digest.chars().take(SHORT_DIGEST_CHARS).collect()
}

/// One line when a layer begins and one when it ends: for logs.
#[derive(Debug)]
struct Lines;

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
        Self::tell(layer, &format!("unpacking {} bytes", layer.size_bytes));
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

/// An image as JSON has it.
#[derive(Debug, Serialize)]
struct Listed<'a> {
    name: &'a str,
    id: Digest,
    manifest: Digest,
    top: Option<&'a str>,
    created: String,
}

fn describe(image: &store::Image) -> Listed<'_> {
    let store::Image { name, config, manifest, top, created } = image;
    Listed { name, id: *config, manifest: *manifest, top: top.as_deref(), created: time(*created) }
}

impl Images {
    pub fn run(&self, session: &Session) -> Done {
        let images = session.find_store()?.map_or_else(|| Ok(Vec::new()), |store| store.images())?;
        let listed: Vec<_> = images.iter().map(describe).collect();
        Ok(session.output.either(&listed, || {
            let row = |image: &store::Image| {
                let top = image.top.clone().unwrap_or_default();
                vec![image.name.clone(), short(&image.config.to_string()), time_short(image.created), top]
            };
            table(&["NAME", "IMAGE ID", "CREATED", "TOPMOST LAYER"], images.iter().map(row).collect())
        })?)
    }
}
