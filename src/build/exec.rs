//! Executes a plan: each step that can change files gets a snapshot, which becomes a layer if files did change.

use std::collections::BTreeMap;
use std::time::Instant;

use nix::sys::signal::Signal;
use serde_json::json;

use super::config::{self, LayerDescriptor};
use super::context::Origin;
use super::copy::Copying;
use super::layer;
use super::lend::Lender;
use super::plan::{Action, Base, BaseImage, CopyAction, From, Plan, PlannedStage, RunAction, Step};
use super::remote::{Fetched, Remote};
use super::target::ImagePath;
use super::{Options, Outcome, Progress, place};
use crate::changeset::apply::Applied;
use crate::changeset::{Change, Sink};
use crate::container::{self, Control, Exit, Process, Spec, Streams, find_user};
use crate::error::{Error, ErrorKind, Result};
use crate::id::Digest;
use crate::id::unique_key;
use crate::mount::Access;
use crate::oci::config::{Config, HistoryEntry};
use crate::snapshotter::Snapshotter as _;
use crate::store::{self, Store};
use crate::task::Cancel;
use crate::tree::resolve::Resolver;
use crate::tree::{Dir, Meta, Timestamp};

/// Limits of the output of a failed command that the error repeats, in lines and in bytes.
const TAIL_LINES: usize = 10;
const TAIL_BYTES: usize = 2048;

/// The host name of all containers of builds: constant, because commands write it into files of layers.
const HOSTNAME: &str = "build";

/// The number of changed paths that `--explain` shows of a step.
const EXPLAINED: usize = 10;

/// The result of a stage.
#[derive(Clone, Debug, Default)]
pub(super) struct StageDone {
    pub(super) top: Option<String>,
    pub(super) config: Config,
    pub(super) layers: Vec<LayerDescriptor>,
    /// The number of history entries of the base image.
    pub(super) inherited: usize,
    /// The time when the last layer on top of the base image was made.
    made: Option<String>,
}

/// A build under way.
pub(super) struct Builder<'a> {
    pub(super) store: &'a Store,
    pub(super) options: &'a Options<'a>,
    pub(super) context: Option<&'a Origin>,
    pub(super) progress: &'a dyn Progress,
    /// The latest time of files, in seconds since 1970.
    pub(super) epoch: Option<i64>,
    /// The time of the image and its history, if the caller gave one.
    pub(super) created: Option<String>,
}

impl Builder<'_> {
    /// Builds the stages of `plan.needed`; returns the last one, the target.
    pub(super) fn build(&self, plan: &Plan) -> Result<StageDone> {
        let total = plan.needed.iter().map(|stage| plan.stages[*stage].steps.len()).sum();
        let mut number = 0;
        let mut done: BTreeMap<usize, StageDone> = BTreeMap::new();
        let mut last = StageDone::default();
        for stage in &plan.needed {
            last = self.stage(&plan.stages[*stage], &done, (&mut number, total))?;
            done.insert(*stage, last.clone());
        }
        Ok(last)
    }

    fn stage(
        &self,
        stage: &PlannedStage,
        done: &BTreeMap<usize, StageDone>,
        (number, total): (&mut usize, usize),
    ) -> Result<StageDone> {
        let mut state = match &stage.base {
            Base::Image(image) => {
                let BaseImage { top, config, layers, .. } = image.as_ref().clone();
                let inherited = config.history.len();
                StageDone { top, config, layers, inherited, made: None }
            }
            Base::Stage(base) => done.get(base).cloned().unwrap_or_default(),
        };
        for step in &stage.steps {
            *number += 1;
            self.options.ingest.cancel.check()?;
            self.progress.started(*number, total, &stage.name, &step.text);
            let started = Instant::now();
            let outcome = self.step(step, &mut state, done, started)?;
            self.progress.done(*number, &outcome);
        }
        state.config.config = stage.settings.clone();
        state.config.author = stage.author.clone().or(state.config.author);
        Ok(state)
    }

    /// Executes one step, or takes its result from the cache.
    fn step(
        &self,
        step: &Step,
        state: &mut StageDone,
        done: &BTreeMap<usize, StageDone>,
        started: Instant,
    ) -> Result<Outcome> {
        let (result, cached) = match &step.action {
            Action::Settings => (store::CachedStep { top: state.top.clone(), layer: None }, false),
            action => self.cached(step, action, state, done)?,
        };
        if let (Some(_), Some(top)) = (result.layer, &result.top) {
            state.made = Some(moment(self.store.stat(top)?.created)?);
        }
        let created = self.created.clone().or_else(|| state.made.clone());
        state.config.history.push(HistoryEntry::new(created, step.text.clone(), result.layer.is_none()));
        if let Some((diff_id, bytes)) = result.layer {
            state.config.rootfs.push(diff_id);
            state.layers.push(config::layer(diff_id, bytes));
        }
        state.top.clone_from(&result.top);
        let explained = match (&result.top, result.layer, self.options.explain) {
            (Some(top), Some(_), true) => layer::first_changes(self.store, top, EXPLAINED)?,
            _ => Vec::new(),
        };
        let writes = !matches!(step.action, Action::Settings);
        let layer = result.layer.and(result.top);
        Ok(Outcome { writes, cached, layer, explained, took: started.elapsed() })
    }

    fn cached(
        &self,
        step: &Step,
        action: &Action,
        state: &StageDone,
        done: &BTreeMap<usize, StageDone>,
    ) -> Result<(store::CachedStep, bool)> {
        let below = state.top.as_deref();
        let remotes = if let Action::Copy(copy) = action { &copy.remotes[..] } else { &[] };
        let is_needed = |remote: &&Remote| remote.checksum.is_none();
        let fetch = |remote: &Remote| remote.fetch(self.store, self.options);
        let mut fetched = remotes.iter().filter(is_needed).map(fetch).collect::<Result<Vec<_>>>()?;
        let digest = self.digest(action, &fetched, below, done)?;
        if !self.options.no_cache
            && let Some(known) = self.store.step(digest)?
        {
            return Ok((known, true));
        }
        if fetched.len() < remotes.len() {
            fetched = remotes.iter().map(fetch).collect::<Result<_>>()?;
        }
        let key = unique_key("build");
        self.store.prepare_layer(&key, below.unwrap_or(""))?;
        let wrote = self.write((step, action, &fetched), &key, below, done).and_then(|()| match self.epoch {
            Some(epoch) => layer::clamp(self.store, &key, epoch),
            None => Ok(()),
        });
        let result = wrote.and_then(|()| layer::commit(self.store, &key, below, &self.options.ingest.cancel));
        let result = result.inspect_err(|_| {
            // The first error is the one to report. If the removal fails, too, gc removes the snapshot.
            let _ = self.store.take_back(&key);
        })?;
        self.store.note_step(digest, &result)?;
        Ok((result, false))
    }

    /// Returns the cache key of a step: a digest of everything that the result depends on.
    fn digest(
        &self,
        action: &Action,
        fetched: &[Fetched],
        below: Option<&str>,
        done: &BTreeMap<usize, StageDone>,
    ) -> Result<Digest> {
        let what = match action {
            Action::Settings => json!(null),
            Action::Dir { path, user } => json!(["dir", path, user]),
            Action::Run(run) => {
                let RunAction { args, env, dir, user, script, network, mounts, uncached } = run;
                let counts =
                    |variable: &&String| !uncached.iter().any(|name| variable.split('=').next() == Some(name.as_str()));
                let env: Vec<&String> = env.iter().filter(counts).collect();
                let top = |stage: usize| done.get(&stage).and_then(|done| done.top.clone());
                let lender = self.lender(&top);
                let mounts = mounts.iter().map(|mount| lender.key(mount)).collect::<Result<Vec<_>>>()?;
                json!(["run", args, env, dir, user, script, format!("{network:?}"), mounts])
            }
            Action::Copy(copy) => {
                let CopyAction { from, sources, selected, texts, target, chown, chmod, .. } = copy;
                let CopyAction { unpacks, link, parents, excludes, remotes, unpacks_remotes, .. } = copy;
                let digests =
                    remotes.iter().filter_map(|remote| remote.checksum).chain(fetched.iter().map(|file| file.digest));
                let names: Vec<&String> = remotes.iter().map(|remote| &remote.name).collect();
                let urls = json!([names, digests.collect::<Vec<_>>(), unpacks_remotes]);
                let content = match (from, self.context) {
                    (From::Context, Some(origin)) => {
                        json!(self.copying(copy, origin, selected, None).digest()?)
                    }
                    (From::Context, None) => json!(texts),
                    // The ChainID of the topmost layer stands for all files of the stage or image.
                    (From::Stage(stage), _) => json!([done.get(stage).and_then(|done| done.top.as_ref()), sources]),
                    (From::Image(image), _) => json!([image.top, sources]),
                };
                json!([
                    "copy",
                    content,
                    texts,
                    target,
                    chown,
                    format!("{chmod:?}"),
                    unpacks,
                    link,
                    parents,
                    excludes,
                    urls
                ])
            }
        };
        Ok(Digest::of(json!(["strata build step, version 2", below, self.epoch, what]).to_string().as_bytes()))
    }

    fn lender<'b>(&'b self, top: &'b dyn Fn(usize) -> Option<String>) -> Lender<'b> {
        Lender { store: self.store, options: self.options, context: self.context, top }
    }

    fn copying<'a>(
        &self,
        copy: &'a CopyAction,
        origin: &'a Origin,
        selected: &'a [super::context::Selected],
        owner: Option<(u32, u32)>,
    ) -> Copying<'a> {
        let CopyAction { texts, target, chmod, unpacks, .. } = copy;
        let epoch = self.epoch;
        let chmod = chmod.as_ref();
        let nothing = Copying { unpacks_fetched: copy.unpacks_remotes, ..Copying::nothing(origin) };
        Copying { selected, texts, target, owner, chmod, unpacks: *unpacks, epoch, ..nothing }
    }

    /// Executes a step in the active snapshot `key`.
    fn write(
        &self,
        (step, action, fetched): (&Step, &Action, &[Fetched]),
        key: &str,
        below: Option<&str>,
        done: &BTreeMap<usize, StageDone>,
    ) -> Result<()> {
        let wrong = |error: Error| error.context(format!("{}: {}", step.at, step.text));
        match action {
            Action::Settings => Ok(()),
            Action::Dir { path, user } => self.make_dir(key, path, user).map_err(wrong),
            Action::Copy(copy) => {
                let applied = self.copy(copy, fetched, key, below, done).map_err(wrong)?;
                if applied.skipped_devices > 0 {
                    let (at, count) = (&step.at, applied.skipped_devices);
                    self.progress.warn(&format!("{at}: devices left out, which a user namespace cannot make: {count}"));
                }
                Ok(())
            }
            Action::Run(run) => self.run(step, run, key, done),
        }
    }

    /// Makes the directory `path` and its parents, as far as they are missing, with `user` as their owner.
    fn make_dir(&self, key: &str, path: &str, user: &str) -> Result<()> {
        let tree = self.store.open_tree(key)?;
        let mut resolver = Resolver::new(tree.try_clone()?);
        let place = ImagePath::find(path, Some(&mut resolver))?;
        let missing = place.target(path, 1, true)?.missing;
        if missing.is_empty() {
            return Ok(());
        }
        let (uid, gid) = if user.is_empty() { (0, 0) } else { owner(&tree, user)? };
        drop((resolver, tree));
        let meta = Meta { uid, gid, ..Meta::implied_dir() };
        let mut put = |sink: &mut dyn Sink| {
            missing.iter().try_for_each(|path| {
                let change = Change::Put { path: path.clone(), existed: false, meta: meta.clone() };
                sink.change(&change, &mut std::io::empty())
            })
        };
        self.store.apply(key, &mut put).map(drop)
    }

    fn copy(
        &self,
        copy: &CopyAction,
        fetched: &[Fetched],
        key: &str,
        below: Option<&str>,
        done: &BTreeMap<usize, StageDone>,
    ) -> Result<Applied> {
        // The tree of the parent, which stays unchanged; without a parent, the new snapshot, which is empty.
        let tree = self.store.open_tree(below.unwrap_or(key))?;
        let owner = copy.chown.as_deref().map(|chown| owner(&tree, chown)).transpose()?;
        let top = match &copy.from {
            From::Context => None,
            From::Stage(stage) => done.get(stage).and_then(|done| done.top.clone()),
            From::Image(image) => image.top.clone(),
        };
        let mut other = top.map(|top| Origin::image(self.store.open_tree(&top)?)).transpose()?;
        let mut selected = copy.selected.clone();
        if let Some(other) = &mut other {
            for source in &copy.sources {
                selected.extend(other.pick(source, copy.parents, &copy.excluded)?);
            }
        }
        let Some(origin) = other.as_ref().or(self.context) else {
            return Err(Error::not_found("there is nothing to copy from: the stage or image is empty"));
        };
        let copying = Copying { fetched, ..self.copying(copy, origin, &selected, owner) };
        let below = (!copy.link).then_some(&tree);
        let options = &self.options.ingest;
        self.store.apply(key, &mut |sink: &mut dyn Sink| copying.write(below, options, sink))
    }

    fn run(&self, step: &Step, run: &RunAction, key: &str, done: &BTreeMap<usize, StageDone>) -> Result<()> {
        let wrong = |error: Error| error.context(format!("{}: {}", step.at, step.text));
        let runtime = (self.options.runtime)()?;
        let claim = self.store.claim(key, &format!("cannot run in {key:?}"))?;
        let RunAction { args, mut env, dir, user, script, network, mounts, .. } = run.clone();
        let top = |stage: usize| done.get(&stage).and_then(|done| done.top.clone());
        let mut lent = self.lender(&top).lend(mounts).map_err(wrong)?;
        env.retain(|variable| !lent.env.iter().any(|new| name_of(new) == name_of(variable)));
        env.append(&mut lent.env);
        let spec = Spec {
            mounts: claim.mounts(),
            // A power cut may lose the writes: the store brings the layers to disk before it names the image.
            volatile: true,
            process: Process { args, env, dir, user, terminal: false, no_new_privs: false },
            volumes: std::mem::take(&mut lent.volumes),
            tmpfs: std::mem::take(&mut lent.tmpfs),
            trees: lent.trees(),
            secrets: lent.secrets.clone(),
            agents: lent.agents.clone(),
            access: Access::ReadWrite,
            scripts: script.into_iter().collect(),
            network,
            pids_max: self.options.pids_max,
            hostname: HOSTNAME.to_owned(),
            streams: Streams::Captured,
        };
        let mut listener = Listener::new(self.progress, &self.options.ingest.cancel);
        let place = place(self.store);
        // The mount points need no note, because a crash removes the whole snapshot.
        let ended = container::run(&runtime, &place, &spec, &|_| Ok(()), &mut listener);
        drop(spec);
        drop(lent);
        self.options.ingest.cancel.check()?;
        let Exit(status) = ended.map_err(wrong)?;
        if status == 0 {
            return Ok(());
        }
        let message = format!("{}: {}: exit status {status}", step.at, step.text);
        Err(Error::new(ErrorKind::FailedPrecondition, message).with_source(listener.tail()))
    }
}

fn name_of(variable: &str) -> &str {
    variable.split('=').next().unwrap_or_default()
}

/// Returns the user and group numbers of `user` in the tree. A number alone is that of the user and of the group.
fn owner(tree: &Dir, user: &str) -> Result<(u32, u32)> {
    match user.parse() {
        Ok(number) => Ok((number, number)),
        Err(_) => find_user(tree, user).map(|user| (user.uid, user.gid)),
    }
}

/// Passes the output of a command to `progress`, and keeps the end of it for the error.
struct Listener<'a> {
    progress: &'a dyn Progress,
    cancel: &'a Cancel,
    killed: bool,
    end: Vec<u8>,
}

impl<'a> Listener<'a> {
    fn new(progress: &'a dyn Progress, cancel: &'a Cancel) -> Self {
        Self { progress, cancel, killed: false, end: Vec::new() }
    }

    /// Returns the last lines of output, joined to one line.
    fn tail(&self) -> String {
        let text = String::from_utf8_lossy(&self.end);
        let lines: Vec<&str> = text.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
        let last = &lines[lines.len().saturating_sub(TAIL_LINES)..];
        if last.is_empty() { "it wrote nothing".to_owned() } else { format!("its output ends: {}", last.join(" | ")) }
    }
}

impl Control for Listener<'_> {
    fn signal(&mut self) -> Option<Signal> {
        let kill = self.cancel.is_requested() && !self.killed;
        self.killed |= kill;
        kill.then_some(Signal::SIGKILL)
    }

    fn output(&mut self, bytes: &[u8]) -> Result<()> {
        self.end.extend_from_slice(bytes);
        let over = self.end.len().saturating_sub(TAIL_BYTES);
        self.end.drain(..over);
        self.progress.output(bytes);
        Ok(())
    }

    fn warn(&mut self, warning: &str) {
        self.progress.warn(warning);
    }
}

/// Returns a time as the documents of images write it.
pub(super) fn moment(Timestamp { seconds, nanos }: Timestamp) -> Result<String> {
    let moment = jiff::Timestamp::new(seconds, nanos.cast_signed());
    let moment =
        moment.map_err(|error| Error::invalid(format!("the time {seconds} is out of range")).with_source(error));
    moment.map(|moment| moment.to_string())
}

/// Returns `epoch`, in seconds since 1970, as the documents of images write it.
pub(super) fn moment_of(epoch: Option<i64>) -> Result<Option<String>> {
    epoch.map(|seconds| moment(Timestamp { seconds, nanos: 0 })).transpose()
}
