//! What is known while the instructions of a stage are evaluated, and those that only say what a container starts with.

use std::cell::Cell;
use std::rc::Rc;

use serde_json::json;

use super::config::Settings;
use super::parse::{Position, What};
use super::settings::{self, Shells};
use super::words::{self, Variables};
use crate::error::Result;

/// The most bytes that the expanded texts of a build may have together, with the environments of its commands.
const EXPANDED_BYTES_MAX: usize = 64 << 20;

/// What a build may still expand. All stages share one budget: each value may be small, and the values many.
#[derive(Clone, Debug)]
pub(super) struct Budget(Rc<Cell<usize>>);

impl Budget {
    pub(super) fn new() -> Self {
        Self(Rc::new(Cell::new(EXPANDED_BYTES_MAX)))
    }

    /// Takes `bytes` for what stands at `at`.
    ///
    /// # Errors
    /// `InvalidArgument` if the build has no more.
    pub(super) fn take(&self, at: &Position, bytes: usize) -> Result<()> {
        let rest = self.0.get().checked_sub(bytes);
        let over = || at.wrong(format!("the build's expanded texts are longer than {EXPANDED_BYTES_MAX} bytes"));
        self.0.set(rest.ok_or_else(over)?);
        Ok(())
    }
}

/// A stage that is being evaluated.
pub(super) struct Evaluation {
    pub(super) settings: Settings,
    pub(super) shells: Shells,
    /// The declared arguments that have a value.
    pub(super) arguments: Variables,
    pub(super) author: Option<String>,
    pub(super) escape: char,
    pub(super) budget: Budget,
}

impl Evaluation {
    pub(super) fn variables(&self) -> Variables {
        let mut variables = self.arguments.clone();
        let env = self.settings.env.iter().filter_map(|variable| variable.split_once('='));
        variables.extend(env.map(|(name, value)| (name.to_owned(), value.to_owned())));
        variables
    }

    pub(super) fn expand(&self, at: &Position, text: &str) -> Result<String> {
        self.expand_with(at, text, &self.variables())
    }

    fn expand_with(&self, at: &Position, text: &str, variables: &Variables) -> Result<String> {
        let expanded = words::expand(text, self.escape, variables).map_err(|wrong| at.wrong(wrong))?;
        self.budget.take(at, expanded.len())?;
        Ok(expanded)
    }

    /// The lines of a here-document, evaluated.
    pub(super) fn document(&self, at: &Position, text: &str) -> Result<String> {
        let expanded = words::expand_document(text, &self.variables()).map_err(|wrong| at.wrong(wrong))?;
        self.budget.take(at, expanded.len())?;
        Ok(expanded)
    }

    /// Pairs of an `ENV` or `LABEL`, evaluated.
    pub(super) fn pairs(&self, at: &Position, text: &str) -> Result<Vec<(String, String)>> {
        let pairs = words::assignments(text, self.escape).map_err(|wrong| at.wrong(wrong))?;
        // One copy for all pairs: a copy for each makes an instruction of many pairs quadratic.
        let variables = self.variables();
        let expand = |text: &str| self.expand_with(at, text, &variables);
        pairs.into_iter().map(|(name, value)| Ok((expand(&name)?, expand(&value)?))).collect()
    }

    /// `path` as seen from the working directory.
    pub(super) fn absolute(&self, path: &str) -> String {
        settings::join(&self.settings.working_dir, path)
    }

    /// Takes an instruction that only says what containers start with.
    pub(super) fn set(&mut self, at: &Position, what: &What) -> Result<()> {
        match what {
            What::Env(text) => {
                for (name, value) in self.pairs(at, text)? {
                    settings::set_variable(&mut self.settings.env, &name, &value);
                }
            }
            What::Label(text) => {
                let pairs = self.pairs(at, text)?;
                self.settings.labels.extend(pairs);
            }
            What::User(user) => self.settings.user = self.expand(at, user)?,
            What::Stopsignal(signal) => self.settings.stop_signal = self.expand(at, signal)?,
            What::Expose(ports) => {
                for port in ports {
                    let port = self.expand(at, port)?;
                    for port in words::split(&port, self.escape) {
                        self.settings.exposed_ports.insert(settings::port(at, &port)?, json!({}));
                    }
                }
            }
            What::Volume(paths) => {
                for path in paths {
                    let path = self.expand(at, path)?;
                    if path.trim().is_empty() {
                        return Err(at.wrong("VOLUME needs a path"));
                    }
                    self.settings.volumes.insert(path, json!({}));
                }
            }
            What::Cmd(command) => self.shells.set_cmd(&mut self.settings, command),
            What::Entrypoint(command) => self.shells.set_entrypoint(&mut self.settings, command),
            What::Shell(words) => self.shells.set(&mut self.settings, words),
            What::Healthcheck { options, test } => {
                self.settings.healthcheck = Some(settings::healthcheck(at, options, test.as_ref(), &self.shells)?);
            }
            What::Onbuild(text) => self.settings.on_build.push(text.clone()),
            What::Maintainer(name) => self.author = Some(name.clone()),
            What::Add(_) | What::Arg(_) | What::Copy(_) | What::Run(_) | What::Workdir(_) => {}
        }
        Ok(())
    }
}
