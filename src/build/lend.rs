//! Mounts that a command of a build gets only while it runs: caches, other trees, secrets, agents.

use std::path::PathBuf;

use serde_json::json;

use super::Options;
use super::caches::{Cache, Seed};
use super::context::{Origin, Selected};
use super::copy::Copying;
use super::mounts::{CacheMount, MountFrom, Ownership, RunMount};
use crate::changeset::Sink;
use crate::container::{Agent, Bind, Secret, Tmpfs, TreeMount};
use crate::error::{Error, Result};
use crate::id::unique_key;
use crate::mount::Access;
use crate::snapshotter::Snapshotter as _;
use crate::store::{Claim, Store};
use crate::tree::Dir;

/// The modes of a secret and of an agent's socket without the option `mode`.
const SECRET_MODE: u32 = 0o400;
const AGENT_MODE: u32 = 0o600;

/// The variable with the path of the agent's socket, which programs read.
const AGENT_VARIABLE: &str = "SSH_AUTH_SOCK";

/// The store, the options and the build context, from which the mounts of a command are made.
pub(super) struct Lender<'a> {
    pub(super) store: &'a Store,
    pub(super) options: &'a Options<'a>,
    pub(super) context: Option<&'a Origin>,
    /// Returns the topmost layer of a stage.
    pub(super) top: &'a dyn Fn(usize) -> Option<String>,
}

/// The mounts of one command.
#[derive(Default)]
pub(super) struct Lent<'a> {
    pub(super) volumes: Vec<Bind>,
    pub(super) tmpfs: Vec<Tmpfs>,
    pub(super) secrets: Vec<Secret>,
    pub(super) agents: Vec<Agent>,
    /// Variables with the secrets that have `env`, and with the path of the first agent's socket.
    pub(super) env: Vec<String>,
    caches: Vec<Cache>,
    trees: Vec<LentTree<'a>>,
}

/// A temporary snapshot, of which a command sees a part. Dropping the value removes the snapshot.
struct LentTree<'a> {
    store: &'a Store,
    key: String,
    claim: Option<Claim<'a>>,
    source: PathBuf,
    is_file: bool,
    target: String,
    access: Access,
}

impl Drop for LentTree<'_> {
    fn drop(&mut self) {
        drop(self.claim.take());
        // If the removal fails, gc removes the snapshot.
        let _ = self.store.take_back(&self.key);
    }
}

impl Lent<'_> {
    /// Returns the trees as mounts of a container.
    pub(super) fn trees(&self) -> Vec<TreeMount<'_>> {
        self.trees.iter().filter_map(|lent| Some(lent.tree(lent.claim.as_ref()?))).collect()
    }
}

impl LentTree<'_> {
    fn tree<'b>(&'b self, claim: &'b Claim<'_>) -> TreeMount<'b> {
        let Self { source, is_file, target, access, .. } = self;
        let (source, target) = (source.clone(), target.clone());
        TreeMount { mounts: claim.mounts(), source, is_file: *is_file, target, access: *access }
    }
}

fn access(read_only: bool) -> Access {
    if read_only { Access::ReadOnly } else { Access::ReadWrite }
}

fn owner(owner: &Ownership) -> (u32, u32) {
    (owner.uid.unwrap_or_default(), owner.gid.unwrap_or_default())
}

impl<'a> Lender<'a> {
    /// Returns the part of a mount that goes into the cache key, because the result of the command depends on it. The
    /// content of a cache and the value of a secret stay out.
    ///
    /// # Errors
    /// Errors of reading the build context.
    pub(super) fn key(&self, mount: &RunMount) -> Result<serde_json::Value> {
        let content = |selected: &Selected| match self.context {
            Some(origin) => {
                let selected = std::slice::from_ref(selected);
                Copying { selected, ..Copying::nothing(origin) }.digest().map(|digest| json!(digest))
            }
            None => Ok(json!(null)),
        };
        let from = |from: &MountFrom| self.top_of(from);
        Ok(match mount {
            RunMount::Tmpfs { target, size_bytes, read_only } => json!(["tmpfs", target, size_bytes, read_only]),
            RunMount::Cache { cache, target, read_only } => {
                let CacheMount { id, owner, from: first, source, .. } = cache;
                json!(["cache", id, owner, first.as_ref().map(from), source, target, read_only])
            }
            RunMount::Context { selected, bind } => json!(["bind", bind.target(), content(selected)?]),
            RunMount::ContextCopy { selected, target } => json!(["copy", target, content(selected)?]),
            RunMount::Tree { from: tree, source, target, read_only } => {
                json!(["tree", from(tree), source, target, read_only])
            }
            RunMount::Secret { id, target, env, owner } => json!(["secret", id, target, env, owner]),
            RunMount::Ssh { id, target, owner } => json!(["ssh", id, target, owner]),
        })
    }

    /// Makes the mounts of a command, which last as long as the returned value.
    ///
    /// # Errors
    /// `NotFound` for a source that is not there; errors of the store and the file system.
    pub(super) fn lend(&self, mounts: Vec<RunMount>) -> Result<Lent<'a>> {
        let mut lent = Lent::default();
        for mount in mounts {
            match mount {
                RunMount::Tmpfs { target, size_bytes, read_only } => {
                    lent.tmpfs.push(Tmpfs { target, size_bytes, access: access(read_only) });
                }
                RunMount::Cache { cache, target, read_only } => {
                    let cache = self.cache(&cache, &lent.caches)?;
                    lent.volumes.push(cache.bind(target, read_only)?);
                    lent.caches.push(cache);
                }
                RunMount::Context { bind, .. } => lent.volumes.push(bind),
                RunMount::ContextCopy { selected, target } => lent.trees.push(self.copied(&selected, target)?),
                RunMount::Tree { from, source, target, read_only } => {
                    lent.trees.push(self.tree(&from, &source, target, access(read_only))?);
                }
                RunMount::Secret { id, target, env, owner: whose } => {
                    let content = self.options.secrets.get(&id).cloned().unwrap_or_default();
                    if let Some(name) = env {
                        lent.env.push(variable(&id, &name, &content)?);
                    }
                    let mode = whose.mode.unwrap_or(SECRET_MODE);
                    lent.secrets.extend(target.map(|target| Secret { target, content, owner: owner(&whose), mode }));
                }
                RunMount::Ssh { id, target, owner: whose } => {
                    let socket = self.options.agents.get(&id).cloned().unwrap_or_default();
                    if lent.agents.is_empty() {
                        lent.env.push(format!("{AGENT_VARIABLE}={target}"));
                    }
                    let mode = whose.mode.unwrap_or(AGENT_MODE);
                    lent.agents.push(Agent { socket, target, owner: owner(&whose), mode });
                }
            }
        }
        Ok(lent)
    }

    fn cache(&self, mount: &CacheMount, held: &[Cache]) -> Result<Cache> {
        let cancelled = || self.options.ingest.cancel.check();
        let Some(from) = &mount.from else { return Cache::open(self.store, mount, None, held, &cancelled) };
        let Some(top) = self.top_of(from) else { return Cache::open(self.store, mount, None, held, &cancelled) };
        let tree = self.store.open_tree(&top)?;
        let source = selected(&tree, &mount.source)?;
        if !source.is_dir() {
            return Err(Error::invalid(format!("a cache cannot begin with {:?}, which is no directory", mount.source)));
        }
        let dir = tree.open_beneath(&source.path)?;
        Cache::open(self.store, mount, Some(&Seed { name: top, dir: &dir }), held, &cancelled)
    }

    fn top_of(&self, from: &MountFrom) -> Option<String> {
        match from {
            MountFrom::Stage(stage) => (self.top)(*stage),
            MountFrom::Image(top) => top.clone(),
        }
    }

    /// Mounts a part of a stage or image. Files that the command writes there go into the temporary snapshot.
    fn tree(&self, from: &MountFrom, source: &str, target: String, access: Access) -> Result<LentTree<'a>> {
        let top = self.top_of(from);
        let found = match &top {
            Some(top) => Some(selected(&self.store.open_tree(top)?, source)?),
            None if source == "/" => None,
            None => return Err(Error::not_found(format!("{source:?} is not there: the stage or image is empty"))),
        };
        let is_file = found.as_ref().is_some_and(|found| !found.is_dir());
        let source = found.map(|found| found.path).unwrap_or_default();
        self.snapshot(top.as_deref(), |_| Ok(()), (source, is_file), target, access)
    }

    /// Mounts a copy of a file or directory of the build context.
    fn copied(&self, found: &Selected, target: String) -> Result<LentTree<'a>> {
        let origin = self.context.ok_or_else(|| Error::not_found("there is no build context to mount from"))?;
        let copying = Copying { selected: std::slice::from_ref(found), ..Copying::nothing(origin) };
        let options = &self.options.ingest;
        let fill = |key: &str| {
            let mut write = |sink: &mut dyn Sink| copying.write(None, options, sink);
            self.store.apply(key, &mut write).map(drop)
        };
        let source = if found.is_dir() { PathBuf::new() } else { PathBuf::from(&found.name) };
        self.snapshot(None, fill, (source, !found.is_dir()), target, Access::ReadWrite)
    }

    fn snapshot(
        &self,
        parent: Option<&str>,
        fill: impl Fn(&str) -> Result<()>,
        (source, is_file): (PathBuf, bool),
        target: String,
        access: Access,
    ) -> Result<LentTree<'a>> {
        let key = unique_key("build");
        self.store.prepare_layer(&key, parent.unwrap_or(""))?;
        let mut lent = LentTree { store: self.store, key, claim: None, source, is_file, target, access };
        fill(&lent.key)?;
        lent.claim = Some(self.store.claim(&lent.key, "cannot mount it")?);
        Ok(lent)
    }
}

/// Selects the only file or directory at `source` of a tree.
fn selected(tree: &Dir, source: &str) -> Result<Selected> {
    let found = Origin::image(tree.try_clone()?)?.select(source)?;
    let one = <[Selected; 1]>::try_from(found);
    one.map(|[found]| found).map_err(|_| Error::invalid(format!("{source:?} is not one thing")))
}

/// The variable `name` with a secret as its value.
fn variable(id: &str, name: &str, content: &[u8]) -> Result<String> {
    match std::str::from_utf8(content) {
        Ok(text) if !text.contains('\0') => Ok(format!("{name}={text}")),
        _ => Err(Error::invalid(format!("the secret {id} is no text, and cannot be the value of {name}"))),
    }
}

impl std::fmt::Debug for Lent<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lent").field("volumes", &self.volumes).finish_non_exhaustive()
    }
}
