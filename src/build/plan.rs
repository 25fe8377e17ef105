//! The plan of a build, which is complete before any step is done.
//!
//! Everything in a Dockerfile but the commands of `RUN` can be evaluated up front: variables come from the arguments,
//! the Dockerfile and the configs of base images. So a mistake is an error before any step runs, unless it depends on
//! the files of a stage or an image. Stages that the target does not need are left out.
//!
//! # References
//! Dockerfile reference.

mod copy;
mod mounts;
mod reach;
mod run;

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::rc::Rc;
use std::sync::Arc;

use super::config::LayerDescriptor;
use super::context::{Origin, Selected};
use super::environment::Environment;
use super::evaluate::Evaluation;
use super::ignored::Ignored;
use super::limits::{Budget, Limits};
use super::mode::Chmod;
use super::mounts::{MountFrom, RunMount};
use super::parse::{self, Dockerfile, Instruction, Position, Stage, What};
use super::remote::Remote;
use super::settings::Shells;
use super::words::{self, Over, Values, Variables};
use crate::container::{DEFAULT_PATH, Network};
use crate::error::{Error, ErrorKind, Result};
use crate::oci::config::{Config, Settings};

/// The name of the empty base.
const SCRATCH: &str = "scratch";

/// An image of the store: the base of a stage, or a source of files.
#[derive(Clone, Debug)]
pub(super) struct BaseImage {
    /// The length of the config and the manifest, in bytes.
    pub(super) bytes: usize,
    pub(super) top: Option<String>,
    pub(super) config: Config,
    pub(super) layers: Vec<LayerDescriptor>,
}

/// The base of a stage.
#[derive(Debug)]
pub(super) enum Base {
    Image(Rc<BaseImage>),
    /// The stage of this number.
    Stage(usize),
}

/// A stage, evaluated.
#[derive(Debug)]
pub(super) struct PlannedStage {
    /// The name of the stage, or its number.
    pub(super) name: String,
    pub(super) base: Base,
    pub(super) steps: Vec<Step>,
    /// The settings of a container of the stage.
    pub(super) settings: Settings,
    /// The declared `ARG`s; a stage with this one as its base inherits them.
    arguments: Variables,
    pub(super) author: Option<String>,
    /// The length of the history in bytes, with the history of the base: a stage with this one as its base copies both.
    history_bytes: usize,
}

/// One instruction, evaluated.
#[derive(Debug)]
pub(super) struct Step {
    pub(super) at: Position,
    /// The text of the step in the history of the image.
    pub(super) text: String,
    pub(super) action: Action,
}

/// The effect of an instruction on the file system.
#[derive(Debug)]
pub(super) enum Action {
    /// No effect: the instruction changes the config of the image only.
    Settings,
    /// Makes a directory that belongs to `user`; an empty `user` is root.
    Dir {
        path: String,
        user: String,
    },
    Run(RunAction),
    Copy(CopyAction),
}

/// A command to run.
#[derive(Clone, Debug)]
pub(super) struct RunAction {
    pub(super) args: Vec<String>,
    pub(super) env: Vec<String>,
    pub(super) dir: String,
    pub(super) user: String,
    pub(super) script: Option<String>,
    pub(super) network: Network,
    pub(super) mounts: Vec<RunMount>,
    /// Names of the variables that are no part of the cache key.
    pub(super) uncached: Vec<String>,
}

/// Files to copy.
#[derive(Debug)]
pub(super) struct CopyAction {
    pub(super) from: From,
    /// Paths and patterns.
    pub(super) sources: Vec<String>,
    /// The selected files of the build context. Files of a stage or an image are selected when the step runs.
    pub(super) selected: Vec<Selected>,
    pub(super) texts: Vec<(String, String)>,
    /// Sources that are URLs.
    pub(super) remotes: Vec<Remote>,
    /// An absolute path; a slash at its end means a directory.
    pub(super) target: String,
    pub(super) chown: Option<String>,
    pub(super) chmod: Option<Chmod>,
    pub(super) unpacks: bool,
    /// Whether archives among `remotes` are unpacked.
    pub(super) unpacks_remotes: bool,
    /// `--link`: the copy does not depend on the files of the layers below, and follows no link in them.
    pub(super) link: bool,
    /// `--parents`: the directories above a source are copied, too.
    pub(super) parents: bool,
    /// The patterns of `--exclude`; `excluded` has them compiled.
    pub(super) excludes: Vec<String>,
    pub(super) excluded: Arc<Ignored>,
}

/// The source tree of a copy.
#[derive(Debug)]
pub(super) enum From {
    Context,
    Stage(usize),
    Image(Rc<BaseImage>),
}

/// A whole build.
#[derive(Debug)]
pub(super) struct Plan {
    /// All stages up to the target.
    pub(super) stages: Vec<PlannedStage>,
    /// The numbers of the stages to build, in order; the last one is the target.
    pub(super) needed: Vec<usize>,
    /// Probable mistakes that are no errors.
    pub(super) warnings: Vec<String>,
}

/// Input of the evaluation besides the Dockerfile.
pub(super) struct Surroundings<'a> {
    pub(super) arguments: &'a BTreeMap<String, String>,
    pub(super) target: Option<&'a str>,
    pub(super) network: Network,
    pub(super) limits: Limits,
    /// The ids of the secrets and of the SSH agents that the caller gave.
    pub(super) secrets: &'a BTreeSet<String>,
    pub(super) agents: &'a BTreeSet<String>,
    pub(super) context: Option<&'a mut Origin>,
    /// Finds an image of the store.
    pub(super) image: &'a mut dyn FnMut(&str) -> Result<BaseImage>,
    /// The operating system and the architecture of this machine.
    pub(super) platform: (&'a str, &'a str),
}

/// Build arguments that need no `ARG`: proxies, which do not change the result of a build.
const PREDEFINED: [&str; 10] = [
    "HTTP_PROXY",
    "http_proxy",
    "HTTPS_PROXY",
    "https_proxy",
    "FTP_PROXY",
    "ftp_proxy",
    "NO_PROXY",
    "no_proxy",
    "ALL_PROXY",
    "all_proxy",
];

/// The build argument that also sets the time of the image.
pub(super) const EPOCH: &str = "SOURCE_DATE_EPOCH";

/// The prefix of build arguments that configure BuildKit.
const SETTINGS: &str = "BUILDKIT_";

/// Evaluates `file`.
///
/// # Errors
/// `InvalidArgument`, `NotFound` or `Unsupported`, with the position of the mistake.
pub(super) fn plan(file: &Dockerfile, mut around: Surroundings<'_>) -> Result<Plan> {
    let target = target(file, around.target)?;
    around.limits.check_stages(&file.stages)?;
    let mut evaluated = BTreeSet::new();
    reach::reach(file, target, &mut evaluated);
    let (stages, mut warnings, used) = loop {
        let mut planner = Planner::new(file, &mut around, evaluated.clone())?;
        let result = planner.stages(target);
        match planner.missing.get() {
            Some(missing) => reach::reach(file, missing, &mut evaluated),
            None => break result.map(|()| (planner.stages, planner.warnings, planner.used))?,
        }
    };
    let is_known = |name: &str| PREDEFINED.contains(&name) || name == EPOCH || name.starts_with(SETTINGS);
    let is_unused = |name: &&String| !used.contains(*name) && !is_known(name);
    let unused: Vec<&str> = around.arguments.keys().filter(is_unused).map(String::as_str).collect();
    if !unused.is_empty() {
        warnings.push(format!("no ARG declares the build argument {}", unused.join(", ")));
    }
    let mut needed = BTreeSet::new();
    need(&stages, target, &mut needed);
    Ok(Plan { stages, needed: needed.into_iter().collect(), warnings })
}

/// Returns the number of the stage to build: the one with the name or number `wanted`, or the last.
fn target(file: &Dockerfile, wanted: Option<&str>) -> Result<usize> {
    let last = file.stages.len() - 1;
    let Some(wanted) = wanted else { return Ok(last) };
    let name = wanted.to_lowercase();
    let named = file.stages.iter().position(|stage| stage.name.as_ref() == Some(&name));
    named.or_else(|| wanted.parse().ok().filter(|number| *number <= last)).ok_or_else(|| {
        let names: Vec<&str> = file.stages.iter().filter_map(|stage| stage.name.as_deref()).collect();
        let named =
            if names.is_empty() { "none has a name".to_owned() } else { format!("it has {}", names.join(", ")) };
        Error::not_found(format!(
            "the Dockerfile has no stage {wanted:?}: {named}, and they are numbered from 0 to {last}"
        ))
    })
}

/// Adds `stage` and all stages that it needs. The recursion ends, because a stage only needs earlier stages.
fn need(stages: &[PlannedStage], stage: usize, needed: &mut BTreeSet<usize>) {
    if !needed.insert(stage) {
        return;
    }
    let planned = &stages[stage];
    if let Base::Stage(base) = planned.base {
        need(stages, base, needed);
    }
    for step in &planned.steps {
        match &step.action {
            Action::Copy(CopyAction { from: From::Stage(from), .. }) => need(stages, *from, needed),
            Action::Run(run) => {
                for mount in &run.mounts {
                    if let Some(MountFrom::Stage(from)) = mount.from() {
                        need(stages, *from, needed);
                    }
                }
            }
            _ => {}
        }
    }
}

struct Planner<'a, 'b> {
    file: &'a Dockerfile,
    around: &'a mut Surroundings<'b>,
    /// The `ARG`s before the first stage.
    globals: Variables,
    stages: Vec<PlannedStage>,
    /// The number of the last stage of each name.
    numbers: HashMap<&'a str, usize>,
    /// The numbers of the stages to evaluate; `stages` has placeholders for the others.
    evaluated: BTreeSet<usize>,
    /// The number of a stage that turned out to be needed, and is not in `evaluated`.
    missing: Cell<Option<usize>>,
    /// The images that were looked up so far, by name.
    images: HashMap<String, Rc<BaseImage>>,
    warnings: Vec<String>,
    /// The names of the build arguments that an `ARG` declares.
    used: BTreeSet<String>,
    budget: Budget,
}

impl<'a, 'b> Planner<'a, 'b> {
    fn new(file: &'a Dockerfile, around: &'a mut Surroundings<'b>, evaluated: BTreeSet<usize>) -> Result<Self> {
        let (os, architecture) = around.platform;
        let mut globals = Variables::new();
        for side in ["TARGET", "BUILD"] {
            globals.insert(format!("{side}PLATFORM"), format!("{os}/{architecture}"));
            globals.insert(format!("{side}OS"), os.to_owned());
            globals.insert(format!("{side}ARCH"), architecture.to_owned());
            globals.insert(format!("{side}VARIANT"), String::new());
        }
        globals.insert("TARGETSTAGE".to_owned(), around.target.unwrap_or("default").to_owned());
        let (stages, warnings, used, budget) = (Vec::new(), Vec::new(), BTreeSet::new(), Budget::new(around.limits));
        let (numbers, images) = (HashMap::new(), HashMap::new());
        let mut planner = Self {
            file,
            around,
            globals,
            stages,
            numbers,
            evaluated,
            missing: Cell::new(None),
            images,
            warnings,
            used,
            budget,
        };
        for instruction in &file.globals {
            planner.budget.instruction(&instruction.at)?;
            if let What::Arg(text) = &instruction.what {
                let (declared, used) = planner.arguments(&instruction.at, text, &planner.globals, None)?;
                planner.globals.extend(declared);
                planner.used.extend(used);
            }
        }
        Ok(planner)
    }

    /// Returns the arguments of an `ARG` that have a value, and the names of the arguments that the caller gave.
    /// `inherited` has values for the arguments without a default.
    fn arguments(
        &self,
        at: &Position,
        text: &str,
        known: &dyn Values,
        inherited: Option<&Variables>,
    ) -> Result<(Variables, Vec<String>)> {
        let (mut declared, mut used) = (Variables::new(), Vec::new());
        for word in words::split(text, self.file.escape) {
            let (name, default) = match word.split_once('=') {
                Some((name, default)) => (name.to_owned(), Some(default.to_owned())),
                None => (word, None),
            };
            let known = Over(&declared, known);
            let default = default
                .map(|default| words::expand(&default, self.file.escape, &known).map_err(|wrong| at.wrong(wrong)))
                .transpose()?;
            let given = self.around.arguments.get(&name).cloned();
            used.extend(given.is_some().then(|| name.clone()));
            if let Some(value) = given.or(default).or_else(|| inherited?.get(&name).cloned()) {
                self.budget.take(at, value.len())?;
                declared.insert(name, value);
            }
        }
        Ok((declared, used))
    }

    fn stage(&mut self, stage: &Stage) -> Result<PlannedStage> {
        let expand =
            |text: &str| words::expand(text, self.file.escape, &self.globals).map_err(|wrong| stage.at.wrong(wrong));
        let name = expand(&stage.from)?;
        let platform = stage.platform.as_deref().map(expand).transpose()?;
        if name.is_empty() {
            return Err(stage.at.wrong(format!("FROM {} names no image: a variable is empty", stage.from)));
        }
        let base = self.base(&stage.at, &name)?;
        let mut settings = match &base {
            Base::Image(image) => image.config.config.clone(),
            Base::Stage(number) => self.stages[*number].settings.clone(),
        };
        if let Base::Image(image) = &base {
            self.check_platform(&stage.at, &name, image, platform.as_deref());
        }
        let shells = Shells::new(&settings);
        let (escape, budget) = (self.file.escape, self.budget.clone());
        let (inherited, arguments) = match &base {
            Base::Image(image) => (image.bytes, Variables::new()),
            Base::Stage(number) => (self.stages[*number].history_bytes, self.stages[*number].arguments.clone()),
        };
        // Each stage copies the history, the settings and the arguments of its base.
        let size = arguments.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>();
        budget.take(&stage.at, inherited + settings.size_bytes() + size)?;
        let mut env = Environment::new(std::mem::take(&mut settings.env));
        if let (false, Some((name, path))) = (env.has("PATH"), DEFAULT_PATH.split_once('=')) {
            env.set(name, path);
        }
        let mut evaluation = Evaluation { settings, env, shells, arguments, author: None, escape, budget };
        let mut steps = Vec::new();
        for instruction in self.triggers(&name, &mut evaluation)?.iter().chain(&stage.steps) {
            steps.extend(self.step(instruction, &mut evaluation)?);
        }
        let shown = stage.name.clone().unwrap_or_else(|| self.stages.len().to_string());
        let Evaluation { mut settings, env, arguments, author, .. } = evaluation;
        settings.env = env.into_list();
        let history_bytes = inherited + steps.iter().map(|step| step.text.len()).sum::<usize>();
        Ok(PlannedStage { name: shown, base, steps, settings, arguments, author, history_bytes })
    }

    fn base(&mut self, at: &Position, name: &str) -> Result<Base> {
        if let Some(number) = self.stage_of(name) {
            return Ok(Base::Stage(number));
        }
        self.image(at, name).map(Base::Image)
    }

    fn image(&mut self, at: &Position, name: &str) -> Result<Rc<BaseImage>> {
        if let Some(known) = self.images.get(name) {
            return Ok(known.clone());
        }
        let found = Rc::new(self.find_image(at, name)?);
        self.budget.take(at, found.bytes)?;
        self.images.insert(name.to_owned(), found.clone());
        Ok(found)
    }

    fn find_image(&mut self, at: &Position, name: &str) -> Result<BaseImage> {
        if name == SCRATCH {
            let (os, architecture) = self.around.platform;
            let mut config = Config::empty(os, architecture);
            "/".clone_into(&mut config.config.working_dir);
            return Ok(BaseImage { bytes: 0, top: None, config, layers: Vec::new() });
        }
        (self.around.image)(name).map_err(|error| match error.kind() {
            ErrorKind::NotFound => at.error(
                ErrorKind::NotFound,
                format!("there is no image or earlier stage {name:?}: strata images lists the images, strata import brings one in"),
            )
            .with_source(error),
            _ => error.context(at),
        })
    }

    fn check_platform(&mut self, at: &Position, name: &str, image: &BaseImage, wanted: Option<&str>) {
        let Config { os, architecture, .. } = &image.config;
        let have = format!("{os}/{architecture}");
        let host = format!("{}/{}", self.around.platform.0, self.around.platform.1);
        let wanted = wanted.unwrap_or(&host);
        if !os.is_empty() && !wanted.starts_with(&have) {
            self.warnings
                .push(format!("{at}: the image {name} is for {have}, not for {wanted}: its commands may not run"));
        }
    }

    /// Returns the `ONBUILD` instructions of the base, and removes them from the settings.
    fn triggers(&mut self, base: &str, evaluation: &mut Evaluation) -> Result<Vec<Instruction>> {
        let mut instructions = Vec::new();
        for trigger in std::mem::take(&mut evaluation.settings.on_build) {
            instructions.push(parse::parse_trigger(&format!("ONBUILD of {base}"), &trigger)?);
        }
        Ok(instructions)
    }

    /// Evaluates an instruction. Returns `None` for `ONBUILD`, which is no step of the image's history.
    fn step(&mut self, instruction: &Instruction, evaluation: &mut Evaluation) -> Result<Option<Step>> {
        let Instruction { at, text, what } = instruction;
        self.budget.instruction(at)?;
        let action = match what {
            What::Run(run) => Action::Run(self.run(at, run, evaluation)?),
            What::Copy(copy) => Action::Copy(self.copy(at, copy, false, evaluation)?),
            What::Add(copy) => Action::Copy(self.copy(at, copy, true, evaluation)?),
            What::Workdir(dir) => {
                let given = evaluation.expand(at, dir)?;
                let dir = evaluation.absolute(&given);
                // The config keeps an absolute path as it was written, as BuildKit does.
                evaluation.settings.working_dir = if given.starts_with('/') { given } else { dir.clone() };
                let user = evaluation.settings.user.clone();
                if dir == "/" { Action::Settings } else { Action::Dir { path: dir, user } }
            }
            What::Arg(text) => {
                let (declared, used) = self.arguments(at, text, evaluation, Some(&self.globals))?;
                evaluation.arguments.extend(declared);
                self.used.extend(used);
                Action::Settings
            }
            other => {
                evaluation.set(at, other)?;
                Action::Settings
            }
        };
        let is_step = !matches!(what, What::Onbuild(_));
        Ok(is_step.then(|| Step { at: at.clone(), text: text.clone(), action }))
    }
}

#[cfg(test)]
mod tests;
