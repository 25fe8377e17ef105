//! `RUN --mount`, evaluated.

use super::Planner;
use crate::build::context::Selected;
use crate::build::evaluate::Evaluation;
use crate::build::mounts::{CacheMount, MountFrom, MountOptions, RunMount};
use crate::build::parse::Position;
use crate::build::settings::join;
use crate::container::Bind;
use crate::error::Result;
use crate::mount::Access;

/// The default directory of secrets in the container.
const SECRETS: &str = "/run/secrets";

/// The default path of an agent's socket in the container, without the number of the mount.
const AGENT: &str = "/run/buildkit/ssh_agent";

/// The id of the agent, if a mount gives none.
const DEFAULT_AGENT: &str = "default";

impl Planner<'_, '_> {
    /// Evaluates mount `number` of a command; `None` for a secret or an agent that is neither given nor required.
    pub(super) fn mount(
        &mut self,
        at: &Position,
        text: &str,
        number: usize,
        evaluation: &Evaluation,
    ) -> Result<Option<RunMount>> {
        let options = MountOptions::read(at, text, |value| evaluation.expand(at, value))?;
        let target = options.value("target").map(|target| evaluation.absolute(target));
        if target.as_deref() == Some("/") {
            return Err(options.wrong("its target is not /"));
        }
        match options.kind {
            "secret" => self.secret(&options, target),
            "ssh" => self.ssh(&options, target.unwrap_or_else(|| format!("{AGENT}.{number}"))),
            _ => {
                let target = target.ok_or_else(|| options.wrong("it needs a target"))?;
                self.directory(at, &options, target).map(Some)
            }
        }
    }

    fn directory(&mut self, at: &Position, options: &MountOptions<'_>, target: String) -> Result<RunMount> {
        if options.kind == "tmpfs" {
            let (size_bytes, read_only) = (options.size()?, options.read_only(false)?);
            return Ok(RunMount::Tmpfs { target, size_bytes, read_only });
        }
        let source = join("/", options.value("source").unwrap_or_default());
        let from = options.value("from").map(|from| self.mount_from(at, from)).transpose()?;
        if options.kind == "cache" {
            let id = options.value("id").filter(|id| !id.is_empty()).map_or_else(|| target.clone(), str::to_owned);
            let (sharing, owner) = (options.sharing()?, options.ownership()?);
            let cache = CacheMount { id, sharing, owner, from, source };
            return Ok(RunMount::Cache { cache, target, read_only: options.read_only(false)? });
        }
        self.budget.bind(at)?;
        let read_only = options.read_only(true)?;
        match from {
            Some(from) => Ok(RunMount::Tree { from, source, target, read_only }),
            None => self.context_bind(at, options.value("source").unwrap_or_default(), target, read_only),
        }
    }

    fn mount_from(&mut self, at: &Position, name: &str) -> Result<MountFrom> {
        match self.stage_of(name).or_else(|| name.parse().ok().map(|number| self.needs(number))) {
            Some(number) if number < self.stages.len() => Ok(MountFrom::Stage(number)),
            Some(_) => Err(at.wrong(format!("there is no earlier stage {name}"))),
            None => Ok(MountFrom::Image(self.image(at, name)?.top.clone())),
        }
    }

    fn context_bind(&mut self, at: &Position, source: &str, target: String, read_only: bool) -> Result<RunMount> {
        let Some(context) = self.around.context.as_deref_mut() else {
            return Err(at.wrong("there is no build context to mount from"));
        };
        let selected = context.select(source).map_err(|error| at.error(error.kind(), error.chain()))?;
        let Ok([selected]) = <[Selected; 1]>::try_from(selected) else {
            return Err(at.wrong(format!("--mount: {source:?} is not one thing")));
        };
        if !read_only {
            return Ok(RunMount::ContextCopy { selected: Box::new(selected), target });
        }
        // The file is opened now: a change of names in the context has no effect on the mount later.
        let (opened, shown) = context.open(&selected)?;
        let bind = Bind::new(opened, &shown, target, Access::ReadOnly)?;
        Ok(RunMount::Context { selected: Box::new(selected), bind })
    }

    fn secret(&mut self, options: &MountOptions<'_>, target: Option<String>) -> Result<Option<RunMount>> {
        let base = |path: &str| path.rsplit('/').next().unwrap_or_default().to_owned();
        let named = options.value("id").or(options.value("source")).filter(|id| !id.is_empty()).map(str::to_owned);
        let id = named.or_else(|| target.as_deref().map(base)).filter(|id| !id.is_empty());
        let id = id.ok_or_else(|| options.wrong("it needs an id, or a target"))?;
        let env = options.value("env").map(str::to_owned);
        let target = if env.is_some() { target } else { Some(target.unwrap_or(format!("{SECRETS}/{}", base(&id)))) };
        let owner = options.ownership()?;
        match (self.around.secrets.contains(&id), options.flag("required")?.unwrap_or_default()) {
            (true, _) => Ok(Some(RunMount::Secret { id, target, env, owner })),
            (false, false) => Ok(None),
            (false, true) => Err(options.wrong(format!("the secret {id} is not given: --secret id={id},src=FILE"))),
        }
    }

    fn ssh(&mut self, options: &MountOptions<'_>, target: String) -> Result<Option<RunMount>> {
        let id = options.value("id").filter(|id| !id.is_empty()).unwrap_or(DEFAULT_AGENT).to_owned();
        let owner = options.ownership()?;
        match (self.around.agents.contains(&id), options.flag("required")?.unwrap_or_default()) {
            (true, _) => Ok(Some(RunMount::Ssh { id, target, owner })),
            (false, false) => Ok(None),
            (false, true) => Err(options.wrong(format!("no SSH agent {id} is given: --ssh {id}"))),
        }
    }
}
