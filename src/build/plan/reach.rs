//! The stages that a target needs, as far as the text of the Dockerfile shows before it is evaluated.
//!
//! A stage that the target does not need is not evaluated: its base image is not looked up, and its mistakes are no
//! errors. The evaluation can find that more stages are needed, because a name may hold variables, and a base image may
//! have `ONBUILD` instructions. Then the evaluation starts again, with these stages.

use std::collections::BTreeSet;
use std::rc::Rc;

use super::{Base, BaseImage, PlannedStage, Planner};
use crate::build::parse::{Dockerfile, Stage, What};
use crate::build::words::{self, Variables};
use crate::error::Result;
use crate::oci::config::{Config, Settings};

/// Adds the stage `first` to `needed`, and all stages that the text shows it to need; these are earlier ones.
pub(super) fn reach(file: &Dockerfile, first: usize, needed: &mut BTreeSet<usize>) {
    let mut open = vec![first];
    while let Some(stage) = open.pop() {
        if needed.insert(stage) {
            let names = names_in(&file.stages[stage]);
            open.extend(names.iter().filter_map(|name| number_of(file, name, stage)));
        }
    }
}

/// The number of the last stage before `stage` that is called `name`, or has that number.
fn number_of(file: &Dockerfile, name: &str, stage: usize) -> Option<usize> {
    let lower = name.to_lowercase();
    let named = file.stages[..stage].iter().rposition(|earlier| earlier.name.as_ref() == Some(&lower));
    named.or_else(|| name.parse().ok().filter(|number| *number < stage))
}

/// Returns the names in a stage of its base and of its sources of files.
fn names_in(stage: &Stage) -> Vec<&str> {
    let mut names = vec![stage.from.as_str()];
    for step in &stage.steps {
        match &step.what {
            What::Add(copy) | What::Copy(copy) => names.extend(copy.from.as_deref()),
            What::Run(run) => {
                let options = run.mounts.iter().flat_map(|(_, mount)| mount.split(','));
                names.extend(options.filter_map(|option| option.trim().strip_prefix("from=")));
            }
            _ => {}
        }
    }
    names
}

impl Planner<'_, '_> {
    /// Evaluates all stages up to `target` that are needed.
    pub(super) fn stages(&mut self, target: usize) -> Result<()> {
        for (number, stage) in self.file.stages[..=target].iter().enumerate() {
            let planned = match self.evaluated.contains(&number) {
                true => self.stage(stage)?,
                false => self.left_out(stage),
            };
            self.numbers.extend(stage.name.as_deref().map(|name| (name, number)));
            self.stages.push(planned);
        }
        Ok(())
    }

    /// Returns a placeholder for a stage that is not needed. Its `ARG`s count as declared, so the build does not warn
    /// of build arguments with these names.
    fn left_out(&mut self, stage: &Stage) -> PlannedStage {
        for instruction in &stage.steps {
            if let What::Arg(text) = &instruction.what {
                let words = words::split(text, self.file.escape);
                self.used.extend(words.iter().filter_map(|word| word.split('=').next()).map(str::to_owned));
            }
        }
        let nothing = BaseImage { bytes: 0, top: None, config: Config::default(), layers: Vec::new() };
        PlannedStage {
            name: String::new(),
            base: Base::Image(Rc::new(nothing)),
            steps: Vec::new(),
            settings: Settings::default(),
            arguments: Variables::new(),
            author: None,
            history_bytes: 0,
        }
    }

    /// Returns the number of the last earlier stage called `name`, and notes that the stage is needed.
    pub(super) fn stage_of(&self, name: &str) -> Option<usize> {
        self.numbers.get(name.to_lowercase().as_str()).map(|number| self.needs(*number))
    }

    /// Notes that the earlier stage `number` is needed; returns `number`.
    pub(super) fn needs(&self, number: usize) -> usize {
        if !self.evaluated.contains(&number) && number < self.stages.len() {
            self.missing.set(Some(number));
        }
        number
    }
}
