//! The command line, and the only module that prints.
//!
//! Arguments are lowered in two steps: clap fills plain structs (`Arguments` and one for each command), and
//! `Session` turns the global ones into what commands work with: the store, the output, the logs. A command is a
//! struct of its arguments with a method `run`.
//!
//! # What a caller can rely on
//! - Standard output carries the answer and nothing else; with `--json` it is exactly one document.
//! - A command that succeeds writes nothing to standard error off a terminal, unless `-v` or `STRATA_LOG` asks for it;
//!   but `build` tells there what it does and what its commands write, unless `-q` or `--json` asks it not to.
//! - The exit status is 0 (done), 1 (failed) or 2 (usage); that of `run` is its container's, or docker's for one that
//!   could not be started: 125, 126, 127.
//!   A failure is one line on standard error, with `--json` one object. A reader that closes standard output early has
//!   seen enough: that is success.

mod build;
mod check;
mod compare;
mod conformance;
mod container;
mod doctor;
mod image;
mod images;
mod interrupt;
mod layer;
mod limits;
mod listing;
mod manual;
mod mounting;
mod names;
mod output;
mod registry;
#[cfg(feature = "containerd")]
mod serve;
mod session;
mod snapshot;
mod trees;

use std::ffi::OsString;
use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Arg, ArgAction, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use crate::backend::{StrategyOption, StrategyOptions};
use crate::backends::Strategies;
use crate::error::Error;
use crate::store::Durability;
use output::Output;
use session::Session;

/// Exit status: the command could not do what it was asked to.
const FAILED: u8 = 1;

/// How long a command frees space in passing before it leaves the rest to the next one, to `gc` or to a daemon.
const FREE_LIMIT: Duration = Duration::from_secs(1);

/// Where the store is if nobody says.
const ROOT: &str = "/var/lib/strata";

/// The variable that says where it is.
const ROOT_VARIABLE: &str = "STRATA_ROOT";

/// Exit status: the command was not understood.
const USAGE: u8 = 2;

/// Snapshots for container images: layers below, a writable top, by overlayfs, btrfs or copying.
#[derive(Debug, Parser)]
#[command(name = "strata", version, after_help = EXAMPLE, max_term_width = 120)]
struct Arguments {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

const EXAMPLE: &str = "Example:
  strata import alpine.tar --name alpine   # layers become snapshots
  strata images                            # what is there
  strata prepare work alpine               # a writable snapshot on top of its layers
  strata mount work /mnt                   # use it; then strata umount /mnt
  strata diff work                         # what changed
  strata commit edited work                # a layer of its own";

/// Options of every command, before or after its name.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Global options")]
struct Global {
    #[arg(long, global = true, value_name = "DIR", help = root_help())]
    root: Option<PathBuf>,
    /// Strategy of a store that is yet to be made: auto is the first that works there, in the order of this list
    /// [default: auto]
    #[arg(long, global = true, value_name = "NAME")]
    backend: Option<String>,
    /// Values of the strategies' own options, which [`command`] adds.
    #[arg(skip)]
    options: StrategyOptions,
    /// When a store that is yet to be made answers: once the change is on disk, or at once [default: commit]
    #[arg(long, global = true, value_name = "WHEN", value_parser = durability())]
    durability: Option<Durability>,
    /// Print one JSON document
    #[arg(long, global = true)]
    json: bool,
    /// No progress, no warnings
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    quiet: bool,
    /// Log what is done; twice for more
    #[arg(short, long, global = true, action = ArgAction::Count)]
    verbose: u8,
}

impl Global {
    /// Where the store is, if an option or the variable says.
    fn root(&self) -> Option<PathBuf> {
        self.root.clone().or_else(root_of_variable)
    }
}

/// The root that the environment names. It is read here because clap shows an argument that it takes from the
/// environment as required in usage lines.
fn root_of_variable() -> Option<PathBuf> {
    std::env::var_os(ROOT_VARIABLE).filter(|dir| !dir.is_empty()).map(PathBuf::from)
}

fn root_help() -> String {
    let default = root_of_variable().unwrap_or_else(|| ROOT.into());
    format!("The store's directory, instead of that in {ROOT_VARIABLE} [default: {}]", default.display())
}

/// Returns the command line for a program that knows `strategies`: clap's derived one, with what depends on the table.
fn command(strategies: &Strategies) -> clap::Command {
    let variants = || PossibleValuesParser::new(strategies.variants().into_iter().map(|(_, variant)| variant.name));
    let with_variants = |command: clap::Command| command.mut_arg("strategy", |arg| arg.value_parser(variants()));
    Arguments::command()
        .mut_arg("backend", |arg| arg.value_parser(PossibleValuesParser::new(strategies.names())))
        .args(strategies.options().iter().map(argument_of))
        .mut_subcommand("compare", with_variants)
        .mut_subcommand("conformance", with_variants)
}

/// Returns the argument by which the command line takes `option`.
fn argument_of(option: &StrategyOption) -> Arg {
    Arg::new(option.name)
        .long(option.name)
        .help(option.help)
        .value_name("HOW")
        .value_parser(PossibleValuesParser::new(option.values))
        .default_value(option.values.first().copied().unwrap_or_default())
        .global(true)
        .help_heading("Global options")
}

/// Parses the command line `arguments`.
fn parse(arguments: &[OsString], strategies: &Strategies) -> Result<Arguments, clap::Error> {
    let mut matches = command(strategies).try_get_matches_from(arguments)?;
    let mut parsed = Arguments::from_arg_matches_mut(&mut matches.clone())?;
    for option in strategies.options() {
        if let Some(value) = matches.remove_one::<String>(option.name) {
            parsed.global.options = std::mem::take(&mut parsed.global.options).with(option.name, &value);
        }
    }
    Ok(parsed)
}

fn durability() -> impl TypedValueParser<Value = Durability> {
    PossibleValuesParser::new([Durability::Commit, Durability::None].map(Durability::as_str))
        .map(|name| if name == Durability::None.as_str() { Durability::None } else { Durability::Commit })
}

#[derive(Debug, Subcommand)]
enum Command {
    Prepare(snapshot::Prepare),
    View(snapshot::View),
    Commit(snapshot::Commit),
    Rm(snapshot::Rm),
    Ls(listing::Ls),
    Info(listing::Info),
    Usage(listing::Usage),
    Label(snapshot::Label),
    Mounts(mounting::Mounts),
    Mount(mounting::Mount),
    Umount(mounting::Umount),
    Tree(layer::Tree),
    Diff(layer::Diff),
    Apply(layer::Apply),
    Import(image::Import),
    Pull(registry::Pull),
    Push(registry::Push),
    Login(registry::Login),
    Logout(registry::Logout),
    Images(images::Images),
    History(images::History),
    Export(image::Export),
    Rmi(images::Rmi),
    Build(build::Build),
    Run(container::Run),
    CommitImage(container::CommitImage),
    Doctor(doctor::Doctor),
    Check(check::Check),
    Gc(snapshot::Gc),
    Compare(compare::Compare),
    Conformance(conformance::Conformance),
    #[cfg(feature = "containerd")]
    Serve(serve::Serve),
    Man(manual::Man),
    Completions(manual::Completions),
}

impl Command {
    /// How much is logged, and in which form, where neither an option nor a variable says.
    fn log(&self) -> session::Log {
        match self {
            #[cfg(feature = "containerd")]
            Self::Serve(command) => session::Log::of_daemon(command.log_format() == serve::LogFormat::Json),
            _ => session::Log::of_command(),
        }
    }

    fn run(&self, session: &Session) -> Done {
        match self {
            Self::Prepare(command) => command.run(session),
            Self::View(command) => command.run(session),
            Self::Commit(command) => command.run(session),
            Self::Rm(command) => command.run(session),
            Self::Ls(command) => command.run(session),
            Self::Info(command) => command.run(session),
            Self::Usage(command) => command.run(session),
            Self::Label(command) => command.run(session),
            Self::Mounts(command) => command.run(session),
            Self::Mount(command) => command.run(session),
            Self::Umount(command) => command.run(session),
            Self::Tree(command) => command.run(session),
            Self::Diff(command) => command.run(session),
            Self::Apply(command) => command.run(session),
            Self::Import(command) => command.run(session),
            Self::Pull(command) => command.run(session),
            Self::Push(command) => command.run(session),
            Self::Login(command) => command.run(session),
            Self::Logout(command) => command.run(session),
            Self::Images(command) => command.run(session),
            Self::History(command) => command.run(session),
            Self::Export(command) => command.run(session),
            Self::Rmi(command) => command.run(session),
            Self::Build(command) => command.run(session),
            Self::Run(command) => command.run(session),
            Self::CommitImage(command) => command.run(session),
            Self::Doctor(command) => command.run(session),
            Self::Check(command) => command.run(session),
            Self::Gc(command) => command.run(session),
            Self::Compare(command) => command.run(session),
            Self::Conformance(command) => command.run(session),
            #[cfg(feature = "containerd")]
            Self::Serve(command) => command.run(session),
            Self::Man(command) => command.run(session),
            Self::Completions(command) => command.run(session),
        }
    }
}

/// The answer of a command: done, or each thing that failed.
type Done = Result<(), Failures>;

/// Why a command failed; several where it goes on after the first.
#[derive(Debug)]
struct Failures(Vec<Error>);

impl From<Error> for Failures {
    fn from(error: Error) -> Self {
        Self(vec![error])
    }
}

/// Runs the command line `arguments`, the program's name first, and returns its exit status. The program knows
/// `strategies`.
pub fn run<T: Into<OsString> + Clone>(arguments: impl IntoIterator<Item = T>, strategies: Strategies) -> ExitCode {
    let arguments: Vec<OsString> = arguments.into_iter().map(Into::into).collect();
    let parsed = match parse(&arguments, &strategies) {
        Ok(parsed) => parsed,
        Err(error) => return explain(&error, arguments.iter().any(|argument| argument == "--json")),
    };
    let output = Output::new(parsed.global.json);
    let verbose = parsed.global.verbose > 0;
    let session = match session::start_logging(&parsed.global, parsed.command.log())
        .and_then(|()| Session::new(parsed.global, output, strategies))
    {
        Ok(session) => session,
        Err(error) => return output::report(&[error], false, verbose),
    };
    let done = parsed.command.run(&session);
    if session.output.was_closed() {
        return ExitCode::SUCCESS;
    }
    match done {
        Ok(()) => ExitCode::from(session.status.get()),
        Err(Failures(errors)) => {
            let status = output::report(&errors, session.output.is_json(), verbose);
            session.failure.get().map_or(status, ExitCode::from)
        }
    }
}

/// Help and version go to standard output, mistakes to standard error.
fn explain(error: &clap::Error, json: bool) -> ExitCode {
    if error.use_stderr() && json {
        output::report_usage(&one_line(&error.to_string()));
        return ExitCode::from(USAGE);
    }
    match (error.print(), error.use_stderr()) {
        (_, true) => ExitCode::from(USAGE),
        (Ok(()), false) => ExitCode::SUCCESS,
        (Err(failed), false) if failed.kind() == std::io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        (Err(_), false) => ExitCode::from(FAILED),
    }
}

/// The message of clap about a mistake, without the usage, as one line.
fn one_line(message: &str) -> String {
    let is_general = |part: &&str| part.starts_with("Usage: ") || part.starts_with("For more information");
    let parts = message.strip_prefix("error: ").unwrap_or(message).split("\n\n").filter(|part| !is_general(part));
    let words = |part: &str| part.split_whitespace().collect::<Vec<_>>().join(" ");
    parts.map(words).collect::<Vec<_>>().join("; ")
}

fn stderr_is_terminal() -> bool {
    std::io::stderr().is_terminal()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Arguments, clap::Error> {
        let arguments: Vec<OsString> = line.split(' ').map(OsString::from).collect();
        parse(&arguments, &Strategies::default())
    }

    #[test]
    fn the_command_line_is_sound() {
        command(&Strategies::default()).debug_assert();
    }

    #[test]
    fn mistakes_are_told_in_one_line() {
        let told = |line: &str| {
            let error = parsed(line).expect_err(line);
            one_line(&error.to_string())
        };
        let missing = "the following required arguments were not provided:";
        assert_eq!(told("strata umount"), format!("{missing} <DIR>"));
        assert_eq!(told("strata label"), format!("{missing} <KEY> <K=V>..."));
        let similar = told("strata ls --tre");
        assert_eq!(similar, "unexpected argument '--tre' found; tip: a similar argument exists: '--tree'");
    }

    #[test]
    fn every_command_has_an_example() {
        for command in command(&Strategies::default()).get_subcommands() {
            let name = command.get_name();
            let help = command.clone().render_long_help().to_string();
            assert!(help.contains("Example") && help.contains(&format!("strata {name}")), "{name}:\n{help}");
        }
    }

    #[test]
    fn global_options_stand_anywhere() {
        for line in ["strata --root /x --backend copy info k", "strata info k --root /x --backend copy"] {
            let Global { root, backend, .. } = parsed(line).expect(line).global;
            assert_eq!((root, backend.as_deref()), (Some(PathBuf::from("/x")), Some("copy")), "{line}");
        }
    }
}
