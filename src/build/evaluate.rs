//! What is known while the instructions of a stage are evaluated, and those that only say what a container starts with.

use serde_json::json;

use super::config::Settings;
use super::parse::{Position, What};
use super::settings::{self, Shells};
use super::words::{self, Variables};
use crate::error::Result;

/// A stage that is being evaluated.
pub(super) struct Evaluation {
    pub(super) settings: Settings,
    pub(super) shells: Shells,
    /// The declared arguments that have a value.
    pub(super) arguments: Variables,
    pub(super) author: Option<String>,
    pub(super) escape: char,
}

impl Evaluation {
    pub(super) fn variables(&self) -> Variables {
        let mut variables = self.arguments.clone();
        let env = self.settings.env.iter().filter_map(|variable| variable.split_once('='));
        variables.extend(env.map(|(name, value)| (name.to_owned(), value.to_owned())));
        variables
    }

    pub(super) fn expand(&self, at: &Position, text: &str) -> Result<String> {
        words::expand(text, self.escape, &self.variables()).map_err(|wrong| at.wrong(wrong))
    }

    /// Pairs of an `ENV` or `LABEL`, evaluated.
    pub(super) fn pairs(&self, at: &Position, text: &str) -> Result<Vec<(String, String)>> {
        let pairs = words::assignments(text, self.escape).map_err(|wrong| at.wrong(wrong))?;
        pairs.into_iter().map(|(name, value)| Ok((self.expand(at, &name)?, self.expand(at, &value)?))).collect()
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
