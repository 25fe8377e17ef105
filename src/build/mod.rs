//! Builds images from Dockerfiles, runs containers, and makes images of containers.
//!
//! # How a build goes
//! The Dockerfile is read (`parse.rs`) and evaluated (`plan.rs`) before anything runs. Then each step that can change
//! files gets an active snapshot on top of the last layer. `RUN` runs a container in the snapshot, `COPY` applies a
//! stream of changes to it. The changes against the parent become a layer: a committed snapshot named by its ChainID. A
//! step without changes makes no layer: its entry in the image's history is marked as empty. The image is named last,
//! in one durable transaction.
//!
//! # Invariants
//! - A step that failed, or was stopped, leaves nothing. The steps before it stay in the cache, and no image is named.
//! - The key of the cache is made of everything that the result depends on: the parent's ChainID, the evaluated
//!   instruction, and the copied files without their times. A step that changes nothing is in the cache, too. A step
//!   that is taken from the cache mounts nothing.
//! - A build whose steps are all in the cache gives an image of the same ID: the history has the times when the layers
//!   were made, not the time of the build.
//! - Directories that strata makes for `WORKDIR` and `COPY` have time 0, and mode 0755 unless `--chmod` says otherwise.
//!   So the same instructions on the same files make the same layer on every strategy.
//!
//! # References
//! Dockerfile reference; OCI image specification, `config.md` ("history", "empty_layer"); `SOURCE_DATE_EPOCH` (the
//! reproducible builds project).

mod archive;
mod arguments;
mod caches;
mod config;
mod context;
mod copy;
mod environment;
mod evaluate;
mod exec;
mod flags;
mod head;
mod heredoc;
mod ignored;
mod input;
mod json;
mod layer;
mod lend;
mod limits;
mod lines;
mod mode;
mod mounts;
mod parse;
mod patterns;
mod plan;
mod position;
mod remote;
mod run;
mod settings;
mod target;
mod volumes;
mod words;

#[cfg(test)]
mod growth;
#[cfg(test)]
mod strangers;

pub use caches::free_caches;
pub use input::{SECRET_BYTES_MAX, read_bounded, read_secret};
pub use limits::Limits;
pub use run::{RunOptions, Started, commit_image, start};
pub use volumes::{ParsedMount, parse_mount, parse_tmpfs, parse_volume};

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use self::context::Origin;
use self::exec::Builder;
use self::ignored::Ignored;
use self::plan::{BaseImage, Surroundings};
use crate::container::{Network, Runtime};
use crate::door::IngestOptions;
use crate::error::{Error, Result};
use crate::id::{DiffId, Digest};
use crate::image::{Platform, check_name};
use crate::oci::config::Config;
use crate::store::{NewImage, Store};
use crate::store_files;
use crate::tree::Dir;

/// Maximum length of a Dockerfile and of an ignore file, in bytes.
pub const DOCKERFILE_BYTES_MAX: usize = 1 << 20;

/// Brings the image of a name into the store, if the store lacks it.
pub type Pull<'a> = &'a dyn Fn(&str) -> Result<()>;

/// Options of a build.
pub struct Options<'a> {
    /// The image's name in the store. Another image of that name loses the name.
    pub name: &'a str,
    /// The text of the Dockerfile.
    pub dockerfile: &'a str,
    /// The Dockerfile's path, for errors.
    pub file: &'a Path,
    /// The directory that `COPY` and `ADD` take from. The path is absolute, because the runtime has another working
    /// directory.
    pub context: Option<PathBuf>,
    /// Values for `ARG`s.
    pub arguments: BTreeMap<String, String>,
    /// The stage to build, instead of the last.
    pub target: Option<String>,
    /// If true, no step is taken from the cache.
    pub no_cache: bool,
    /// If true, [`Outcome::explained`] lists the first changed paths of each step.
    pub explain: bool,
    /// Returns the runtime for commands. The function is called when the first command has to run.
    pub runtime: &'a dyn Fn() -> Result<Runtime>,
    /// The network of commands without `--network`.
    pub network: Network,
    /// Maximum number of processes of a command; `None` for no limit.
    pub pids_max: Option<u32>,
    /// Latest time of a file in a layer, and the time of the image, in seconds since 1970.
    pub epoch: Option<i64>,
    /// Secrets for `RUN --mount=type=secret`, by id.
    pub secrets: &'a BTreeMap<String, Vec<u8>>,
    /// The sockets of the agents that `RUN --mount=type=ssh` may ask, by their id.
    pub agents: &'a BTreeMap<String, PathBuf>,
    /// Limits of the Dockerfile and the ignore file.
    pub limits: Limits,
    /// Called with the name of each image that the Dockerfile names, before the image is looked up in the store. The
    /// function may bring the image into the store.
    pub pull: Option<Pull<'a>>,
    /// Limits of archives that `ADD` unpacks. Its `cancel` stops the build.
    pub ingest: IngestOptions,
}

impl std::fmt::Debug for Options<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options").field("name", &self.name).field("file", &self.file).finish_non_exhaustive()
    }
}

/// The result of a step.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// True if the step can change files.
    pub writes: bool,
    /// True if the result was in the cache.
    pub cached: bool,
    /// The committed snapshot of the step's layer; `None` if the step changed nothing.
    pub layer: Option<String>,
    /// The first paths that the step changed, with `A`, `M` or `D`; empty unless [`Options::explain`] is set.
    pub explained: Vec<(char, PathBuf)>,
    /// The duration of the step.
    pub took: Duration,
}

/// Receives the progress of a build. Calls come from one thread.
pub trait Progress {
    /// Called with a warning: the Dockerfile or the build probably has a mistake.
    fn warn(&self, warning: &str) {
        let _ = warning;
    }

    /// Called when step `number` of `total` begins, in the stage `stage`.
    fn started(&self, number: usize, total: usize, stage: &str, text: &str) {
        let _ = (number, total, stage, text);
    }

    /// Called with output of the step's command.
    fn output(&self, bytes: &[u8]) {
        let _ = bytes;
    }

    /// Called when step `number` is done.
    fn done(&self, number: usize, outcome: &Outcome) {
        let _ = (number, outcome);
    }
}

/// Ignores the progress.
impl Progress for () {}

/// An image that was built.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Built {
    /// The name of the image.
    pub name: String,
    /// The digest of the config: the image ID.
    pub id: Digest,
    /// The digest of the manifest.
    pub manifest: Digest,
    /// The committed snapshot of the topmost layer; `None` if the image has no layer.
    pub top: Option<String>,
    /// The DiffIDs of the layers, the lowest first.
    pub layers: Vec<DiffId>,
}

/// Builds the image that `options` describe, and names it. The image is durable when the function returns.
///
/// # Errors
/// `InvalidArgument`, `NotFound` or `Unsupported`, with file, line and column, for a Dockerfile that cannot be built:
/// before anything runs. `FailedPrecondition` if a command fails, with the step, the status and the end of its output.
/// `Cancelled`; errors of the store and of the runtime.
pub fn build(store: &Store, options: &Options<'_>, progress: &dyn Progress) -> Result<Built> {
    check_name(options.name)?;
    if options.dockerfile.len() > DOCKERFILE_BYTES_MAX {
        let file = options.file.display();
        return Err(Error::invalid(format!("{file} is longer than {DOCKERFILE_BYTES_MAX} bytes")));
    }
    check_arguments(&options.arguments)?;
    let epoch = epoch(options)?;
    let created = exec::moment_of(epoch)?;
    let file = parse::parse(&options.file.display().to_string(), options.dockerfile)?;
    let mut context = options.context.as_deref().map(|path| open_context(path, options)).transpose()?;
    let host = Platform::host();
    let plan = plan::plan(
        &file,
        Surroundings {
            arguments: &options.arguments,
            target: options.target.as_deref(),
            network: options.network,
            limits: options.limits,
            secrets: &options.secrets.keys().cloned().collect(),
            agents: &options.agents.keys().cloned().collect(),
            context: context.as_mut(),
            image: &mut |name| {
                options.pull.map_or(Ok(()), |pull| pull(name))?;
                base_image(store, name)
            },
            platform: (&host.os, &host.architecture),
        },
    )?;
    plan.warnings.iter().for_each(|warning| progress.warn(warning));
    let builder = Builder { store, options, context: context.as_ref(), progress, epoch, created };
    let built = builder.build(&plan).and_then(|mut done| {
        options.ingest.cancel.check()?;
        config::date(&mut done.config, done.inherited);
        name_image(store, options.name, done.top, &done.config, &done.layers)
    });
    built.inspect_err(|_| store.settle())
}

/// Refuses a NUL byte in a build argument: the value gets into paths, labels and commands, and the kernel cuts a
/// command at a NUL byte.
fn check_arguments(arguments: &BTreeMap<String, String>) -> Result<()> {
    match arguments.iter().find(|(name, value)| name.contains('\0') || value.contains('\0')) {
        Some((name, _)) => Err(Error::invalid(format!("the build argument {name:?} holds a NUL byte"))),
        None => Ok(()),
    }
}

/// Returns the time of the image: `epoch` of the options, else the build argument `SOURCE_DATE_EPOCH`.
fn epoch(options: &Options<'_>) -> Result<Option<i64>> {
    match (options.epoch, options.arguments.get(plan::EPOCH).filter(|text| !text.is_empty())) {
        (Some(epoch), _) => Ok(Some(epoch)),
        (None, None) => Ok(None),
        (None, Some(text)) => match text.parse() {
            Ok(seconds) if seconds >= 0 => Ok(Some(seconds)),
            _ => Err(Error::invalid(format!("{}={text:?} is no number of seconds since 1970", plan::EPOCH))),
        },
    }
}

fn open_context(path: &Path, options: &Options<'_>) -> Result<Origin> {
    let text = context::ignore_file(path, Some(options.file))?;
    let ignored = Ignored::parse(&text, options.limits.patterns)?;
    Origin::context(Dir::open(path).map_err(|error| error.context("opening the build context"))?, ignored)
}

/// Returns the image `name` of the store as a base.
fn base_image(store: &Store, name: &str) -> Result<BaseImage> {
    let image = store.image(name)?;
    let (config, manifest) = (store.document(image.config)?, store.document(image.manifest)?);
    let bytes = config.len() + manifest.len();
    Ok(BaseImage { bytes, top: image.top, config: config::of_base(&config)?, layers: config::layers_of(&manifest)? })
}

fn name_image(
    store: &Store,
    name: &str,
    top: Option<String>,
    config: &Config,
    layers: &[config::LayerDescriptor],
) -> Result<Built> {
    let bytes = config.bytes()?;
    let manifest = config::manifest(&bytes, layers);
    store.set_image(&NewImage { name, config: &bytes, manifest: &manifest, top: top.as_deref() })?;
    let (id, manifest) = (Digest::of(&bytes), Digest::of(&manifest));
    Ok(Built { name: name.to_owned(), id, manifest, top, layers: config.rootfs.diff_ids().to_vec() })
}

/// Returns the directory for the workplaces of this process's containers.
fn place(store: &Store) -> PathBuf {
    store_files::containers(store.root())
}

/// Returns the text of the Dockerfile at `path`.
///
/// # Errors
/// `NotFound`; `InvalidArgument` unless `path` is a regular file of UTF-8, of at most [`DOCKERFILE_BYTES_MAX`] bytes.
/// The names `/dev/stdin`, `/dev/fd/N` and `/proc/self/fd/N` may be pipes too.
pub fn read_dockerfile(path: &Path) -> Result<String> {
    input::read_named(path)
}
