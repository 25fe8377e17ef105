//! Runs containers of images, and makes images of containers.

use super::environment::Environment;
use super::settings::join;
use super::{BaseImage, Built, base_image, config, exec, layer, name_image, place};
use crate::container::{self, Bind, Control, Exit, Network, Process, Runtime, Spec, Streams, Tmpfs, Volume};
use crate::error::{Error, Result};
use crate::id::unique_key;
use crate::image::check_name;
use crate::mount::Access;
use crate::oci::config::{Config, HistoryEntry};
use crate::snapshotter::{Labels, Snapshotter as _};
use crate::store::Store;
use crate::task::Cancel;

/// The label of a container's snapshot with the ID of its image.
const IMAGE: &str = "strata/image";

/// The label of a container's snapshot with the command that ran.
const COMMAND: &str = "strata/command";

/// The options of a container.
#[derive(Debug)]
pub struct RunOptions {
    /// The image's name.
    pub image: String,
    /// The command, instead of the image's.
    pub command: Vec<String>,
    /// The key of the container's snapshot; `None` for a new, unique key.
    pub name: Option<String>,
    /// Whether the snapshot is removed when the container ends.
    pub remove: bool,
    /// Variables besides the image's, `NAME=VALUE`.
    pub env: Vec<String>,
    /// Files and directories of the machine that the container sees.
    pub volumes: Vec<Volume>,
    /// Directories in memory.
    pub tmpfs: Vec<Tmpfs>,
    /// Whether the container's root is read-only.
    pub read_only: bool,
    /// The entry point, instead of the image's, with `command` as its arguments. If it is empty, `command` runs alone.
    pub entrypoint: Option<Vec<String>>,
    /// The working directory, instead of the image's.
    pub dir: Option<String>,
    /// The user, instead of the image's.
    pub user: Option<String>,
    /// Whether the container reads the caller's standard input.
    pub stdin: bool,
    /// Whether the container has a terminal.
    pub terminal: bool,
    /// Whether set-user-ID bits and file capabilities have no effect in the container.
    pub no_new_privs: bool,
    /// The network of the container.
    pub network: Network,
    /// Maximum number of processes in the container; `None` for no limit.
    pub pids_max: Option<u32>,
}

/// A container that ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Started {
    /// The key of the snapshot; `None` if the snapshot was removed.
    pub key: Option<String>,
    /// The exit status.
    pub exit: Exit,
}

/// Runs a container over a new snapshot of an image, until it ends.
///
/// Afterwards the snapshot is active, with the files that the container changed. If `options.remove` is set, or if the
/// function fails, the snapshot is removed. A crash of the caller ends the container. Recovery then removes the mount
/// points that were made in the snapshot.
///
/// # Errors
/// `NotFound` if there is no such image, user or volume; `AlreadyExists` if the name is taken; `InvalidArgument` if
/// there is no command; errors of the store and the runtime.
pub fn start(store: &Store, runtime: &Runtime, options: &RunOptions, control: &mut dyn Control) -> Result<Started> {
    let image = store.image(&options.image)?;
    let base = base_image(store, &options.image)?;
    let mut process = process(&base.config, options)?;
    container::check_process(&process)?;
    let targets = options.volumes.iter().map(|volume| &volume.target);
    container::check_targets(targets.chain(options.tmpfs.iter().map(|tmpfs| &tmpfs.target)).map(String::as_str))?;
    let volumes = options.volumes.iter().map(Bind::open).collect::<Result<Vec<_>>>()?;
    let key = options.name.clone().unwrap_or_else(|| unique_key("run"));
    // Containers have the variable `HOSTNAME`, and commands of a build do not, as with Docker.
    if !process.env.iter().any(|variable| variable.starts_with("HOSTNAME=")) {
        process.env.push(format!("HOSTNAME={}", hostname(&key)));
    }
    let parent = image.top.as_deref().unwrap_or("");
    if options.remove {
        store.prepare_layer(&key, parent)?;
    } else {
        let labels =
            Labels::from([(IMAGE.to_owned(), image.config.to_string()), (COMMAND.to_owned(), process.args.join(" "))]);
        store.prepare(&key, parent, &labels)?;
    }
    let ended = run(store, runtime, &key, (process, volumes), options, control);
    if options.remove || ended.is_err() {
        let removed = store.take_back(&key);
        let exit = ended?;
        return removed.map(|()| Started { key: None, exit });
    }
    Ok(Started { key: Some(key), exit: ended? })
}

fn run(
    store: &Store,
    runtime: &Runtime,
    key: &str,
    (process, volumes): (Process, Vec<Bind>),
    options: &RunOptions,
    control: &mut dyn Control,
) -> Result<Exit> {
    let claim = store.claim(key, &format!("cannot run in {key:?}"))?;
    let spec = Spec {
        mounts: claim.mounts(),
        volatile: options.remove,
        process,
        volumes,
        tmpfs: options.tmpfs.clone(),
        trees: Vec::new(),
        secrets: Vec::new(),
        agents: Vec::new(),
        access: if options.read_only { Access::ReadOnly } else { Access::ReadWrite },
        scripts: Vec::new(),
        network: options.network,
        pids_max: options.pids_max,
        hostname: hostname(key),
        streams: Streams::Inherit { stdin: options.stdin },
    };
    let note = |points: &str| if options.remove { Ok(()) } else { claim.note(points) };
    container::run(runtime, &place(store), &spec, &note, control)
}

/// Returns the host name of a container: its key, with hyphens in place of all but letters and digits.
fn hostname(key: &str) -> String {
    let kept = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
    let name: String = key.chars().map(kept).take(63).collect();
    name.trim_matches('-').to_owned()
}

/// Returns the process of a container, by the image's config and by `options`.
fn process(config: &Config, options: &RunOptions) -> Result<Process> {
    let settings = &config.config;
    // The command of the image holds arguments for the image's entry point, and none for another one.
    let own = if options.entrypoint.is_some() { &[][..] } else { &settings.cmd };
    let command = if options.command.is_empty() { own } else { &options.command };
    let entrypoint = options.entrypoint.as_ref().unwrap_or(&settings.entrypoint);
    let args: Vec<String> = entrypoint.iter().chain(command).cloned().collect();
    if args.is_empty() {
        let image = &options.image;
        return Err(Error::invalid(format!("the image {image:?} has no command: say what to run in it")));
    }
    let mut env = Environment::new(settings.env.clone());
    for variable in &options.env {
        if let Some((name, value)) = variable.split_once('=') {
            env.set(name, value);
        }
    }
    let dir = join(&settings.working_dir, options.dir.as_deref().unwrap_or(""));
    let user = options.user.clone().unwrap_or_else(|| settings.user.clone());
    Ok(Process {
        args,
        env: env.into_list(),
        dir,
        user,
        terminal: options.terminal,
        no_new_privs: options.no_new_privs,
    })
}

/// Makes the active snapshot `key` an image: a child of the image that the snapshot was made from, with one layer more
/// if files changed. The key is free afterwards. The image is durable when the function returns.
///
/// # Errors
/// `NotFound`; `InvalidArgument` if `name` is no name of an image; `FailedPrecondition` if the snapshot is not active,
/// is mounted or in use, or if the store lacks the image that the snapshot was made from.
pub fn commit_image(store: &Store, name: &str, key: &str, epoch: Option<i64>, cancel: &Cancel) -> Result<Built> {
    check_name(name)?;
    let info = store.stat(key)?;
    // The claim refuses a snapshot that cannot be committed, before anything is written.
    drop(store.claim(key, &format!("cannot commit {key:?}"))?);
    let BaseImage { top, config: mut image_config, mut layers, .. } = base_of(store, key, &info.parent, &info.labels)?;
    if let Some(epoch) = epoch {
        layer::clamp(store, key, epoch)?;
    }
    let made = layer::commit(store, key, top.as_deref(), cancel)?;
    let created = exec::moment_of(epoch)?.unwrap_or_else(|| jiff::Timestamp::now().to_string());
    let command = info.labels.get(COMMAND).cloned().unwrap_or_else(|| "strata commit-image".to_owned());
    image_config.history.push(HistoryEntry::new(Some(created.clone()), command, made.layer.is_none()));
    image_config.created = Some(created);
    if let Some((diff_id, bytes)) = made.layer {
        image_config.rootfs.push(diff_id);
        layers.push(config::layer(diff_id, bytes));
    }
    name_image(store, name, made.top, &image_config, &layers)
}

/// Returns the image that the snapshot was made from: the one in the snapshot's label, or else the newest one whose
/// topmost layer is `parent`.
fn base_of(store: &Store, key: &str, parent: &str, labels: &Labels) -> Result<BaseImage> {
    let top = (!parent.is_empty()).then_some(parent);
    let stands_on = |image: &&crate::store::Image| image.top.as_deref() == top;
    let images = store.images()?;
    let labelled = labels.get(IMAGE);
    let is_named = |image: &&crate::store::Image| labelled.is_some_and(|id| *id == image.config.to_string());
    let found = images.iter().filter(stands_on).find(is_named);
    let found = found.or_else(|| images.iter().filter(stands_on).max_by_key(|image| image.created));
    match (found, top) {
        (Some(image), _) => base_image(store, &image.name),
        (None, None) => {
            let host = crate::image::Platform::host();
            let config = Config::empty(&host.os, &host.architecture);
            Ok(BaseImage { bytes: 0, top: None, config, layers: Vec::new() })
        }
        (None, Some(_)) => Err(Error::precondition(format!(
            "no image of the store has the parent of {key:?} as its topmost layer: import or build that image first"
        ))),
    }
}
