//! The state of the evaluation of a stage, and the instructions that change the image's config only.

use serde_json::json;

use super::environment::Environment;
use super::limits::{Budget, check_entries};
use super::parse::{Position, What};
use super::settings::{self, Shells};
use super::words::{self, Values, Variables};
use crate::error::Result;
use crate::oci::config::Settings;

/// A stage that is being evaluated.
pub(super) struct Evaluation {
    /// The settings of a container, except the environment, which is in `env`.
    pub(super) settings: Settings,
    pub(super) env: Environment,
    pub(super) shells: Shells,
    /// The declared arguments that have a value.
    pub(super) arguments: Variables,
    pub(super) author: Option<String>,
    pub(super) escape: char,
    pub(super) budget: Budget,
}

/// If an `ARG` and an `ENV` have the same name, the later instruction counts, because `ENV` removes the argument.
impl Values for Evaluation {
    fn value(&self, name: &str) -> Option<&str> {
        self.arguments.value(name).or_else(|| self.env.value(name))
    }

    fn matched(&self, bytes: usize) -> std::result::Result<(), String> {
        self.budget.matched(bytes)
    }
}

impl Evaluation {
    pub(super) fn expand(&self, at: &Position, text: &str) -> Result<String> {
        let expanded = words::expand(text, self.escape, self).map_err(|wrong| at.wrong(wrong))?;
        self.budget.take(at, expanded.len())?;
        Ok(expanded)
    }

    /// Returns the text of a here-document with its variables replaced.
    pub(super) fn document(&self, at: &Position, text: &str) -> Result<String> {
        let expanded = words::expand_document(text, self).map_err(|wrong| at.wrong(wrong))?;
        self.budget.take(at, expanded.len())?;
        Ok(expanded)
    }

    /// Returns the names and values of an `ENV` or `LABEL`, expanded.
    pub(super) fn pairs(&self, at: &Position, text: &str) -> Result<Vec<(String, String)>> {
        let pairs = words::assignments(text, self.escape).map_err(|wrong| at.wrong(wrong))?;
        pairs.into_iter().map(|(name, value)| Ok((self.expand(at, &name)?, self.expand(at, &value)?))).collect()
    }

    /// Returns `path` as an absolute path; a relative `path` begins at the working directory.
    pub(super) fn absolute(&self, path: &str) -> String {
        settings::join(&self.settings.working_dir, path)
    }

    /// Applies an instruction that changes the image's config only; ignores the others.
    pub(super) fn set(&mut self, at: &Position, what: &What) -> Result<()> {
        match what {
            What::Env(text) => {
                for (name, value) in self.pairs(at, text)? {
                    self.env.set(&name, &value);
                    self.arguments.remove(&name);
                }
                check_entries(at, "variables", self.env.list().len())?;
            }
            What::Label(text) => {
                let pairs = self.pairs(at, text)?;
                self.settings.labels.extend(pairs);
                check_entries(at, "labels", self.settings.labels.len())?;
            }
            What::User(user) => self.settings.user = self.expand(at, user)?,
            What::Stopsignal(signal) => {
                let signal = self.expand(at, signal)?;
                settings::check_signal(at, &signal)?;
                self.settings.stop_signal = signal;
            }
            What::Expose(ports) => {
                for port in ports {
                    let port = self.expand(at, port)?;
                    for port in words::split(&port, self.escape) {
                        let ports = settings::ports(at, &port)?;
                        self.settings.exposed_ports.extend(ports.into_iter().map(|port| (port, json!({}))));
                    }
                }
                check_entries(at, "ports", self.settings.exposed_ports.len())?;
            }
            What::Volume(paths) => {
                for path in paths {
                    let path = self.expand(at, path)?;
                    if path.trim().is_empty() {
                        return Err(at.wrong("VOLUME needs a path"));
                    }
                    self.settings.volumes.insert(path, json!({}));
                }
                check_entries(at, "volumes", self.settings.volumes.len())?;
            }
            What::Cmd(command) => self.shells.set_cmd(&mut self.settings, command),
            What::Entrypoint(command) => self.shells.set_entrypoint(&mut self.settings, command),
            What::Shell(words) => self.shells.set(&mut self.settings, words),
            What::Healthcheck { options, test } => {
                self.settings.healthcheck = Some(settings::healthcheck(at, options, test.as_ref())?);
            }
            What::Onbuild(text) => self.settings.on_build.push(text.clone()),
            What::Maintainer(name) => self.author = Some(name.clone()),
            What::Add(_) | What::Arg(_) | What::Copy(_) | What::Run(_) | What::Workdir(_) => {}
        }
        Ok(())
    }
}
