//! `RUN`, evaluated.

use super::{PREDEFINED, Planner, RunAction};
use crate::build::evaluate::Evaluation;
use crate::build::parse::{self, Position};
use crate::container::Network;
use crate::error::{ErrorKind, Result};
use crate::oci::config::Settings;

impl Planner<'_, '_> {
    pub(super) fn run(&mut self, at: &Position, run: &parse::Run, evaluation: &Evaluation) -> Result<RunAction> {
        let network = self.network(run)?;
        check_security(run)?;
        let mut mounts = Vec::new();
        for (number, (at, mount)) in run.mounts.iter().enumerate() {
            mounts.extend(self.mount(at, mount, number, evaluation)?);
        }
        let args = match &run.script {
            Some(_) => vec![format!("{}/0", crate::container::SCRIPTS)],
            None => evaluation.shells.args(&run.command),
        };
        let (env, uncached) = self.environment(evaluation);
        evaluation.budget.take(at, env.iter().map(String::len).sum())?;
        let Settings { working_dir, user, .. } = &evaluation.settings;
        let dir = crate::build::settings::join("/", working_dir);
        Ok(RunAction { args, env, dir, user: user.clone(), script: run.script.clone(), network, mounts, uncached })
    }

    fn network(&self, run: &parse::Run) -> Result<Network> {
        match run.network.as_ref().map(|(at, network)| (at, network.as_str())) {
            None | Some((_, "default")) => Ok(self.around.network),
            Some((_, "none")) => Ok(Network::None),
            // Only the caller can give the machine's network to a build, because the Dockerfile may be a stranger's.
            Some((_, "host")) if self.around.network == Network::Host => Ok(Network::Host),
            Some((at, "host")) => Err(at.wrong("--network=host is for builds with --network host only")),
            Some((at, other)) => Err(at.wrong(format!("--network={other}: there is default, none and host"))),
        }
    }

    /// Returns the variables of a command, and the names of the variables that are no part of the cache key.
    fn environment(&self, evaluation: &Evaluation) -> (Vec<String>, Vec<String>) {
        let arguments = &evaluation.arguments;
        let given = |name: &&str| self.around.arguments.contains_key(*name) && !arguments.contains_key(*name);
        let proxies: Vec<&str> = PREDEFINED.into_iter().filter(given).collect();
        let mut env: Vec<String> = arguments.iter().map(|(name, value)| format!("{name}={value}")).collect();
        env.extend(proxies.iter().map(|name| format!("{name}={}", self.around.arguments[*name])));
        let is_hidden =
            |variable: &&String| variable.split('=').next().is_some_and(|name| arguments.contains_key(name));
        env.extend(evaluation.env.list().iter().filter(|variable| !is_hidden(variable)).cloned());
        (env, proxies.into_iter().map(str::to_owned).collect())
    }
}

fn check_security(run: &parse::Run) -> Result<()> {
    match run.security.as_ref().map(|(at, security)| (at, security.as_str())) {
        None | Some((_, "sandbox")) => Ok(()),
        Some((at, "insecure")) => {
            let what = "--security=insecure is not supported: no container of strata has the machine's privileges";
            Err(at.error(ErrorKind::Unsupported, what))
        }
        Some((at, other)) => Err(at.wrong(format!("--security={other}: there is sandbox"))),
    }
}
