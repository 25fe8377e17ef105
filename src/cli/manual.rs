//! Manual pages and completions for shells, made from the command line itself, for packages to install.

use std::path::PathBuf;

use super::session::Session;
use super::{Done, command};
use crate::error::Context as _;

/// Write the manual pages: strata.1, and one for each command
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  strata man /usr/share/man/man1")]
pub(super) struct Man {
    /// The directory to write them to
    dir: PathBuf,
}

impl Man {
    pub fn run(&self, session: &Session) -> Done {
        clap_mangen::generate_to(command(session.strategies()), &self.dir).at("write manual pages to", &self.dir)?;
        Ok(())
    }
}

/// Print what a shell needs to complete strata's commands
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  strata completions bash > /usr/share/bash-completion/completions/strata")]
pub(super) struct Completions {
    /// For which shell
    shell: clap_complete::Shell,
}

impl Completions {
    pub fn run(&self, session: &Session) -> Done {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut command(session.strategies()), "strata", &mut script);
        Ok(session.output.bytes(&script)?)
    }
}
