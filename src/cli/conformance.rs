//! The command `conformance`: checks the strategies on this kernel and these file systems.

mod junit;
mod report;
mod tap;
mod target;

use std::path::PathBuf;
use std::time::Instant;

use clap::ValueEnum;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use globset::{GlobBuilder, GlobMatcher};
use indicatif::{ProgressBar, ProgressStyle};

use super::Done;
use super::interrupt::Interrupt;
use super::output::{Output, table};
use super::session::Session;
use crate::backends::{Setting, Strategies};
use crate::conformance::random;
use crate::conformance::suite::{self, Case, Subject};
use crate::error::{Context as _, Error, Result};
use crate::mount::scratch::FsType;
use crate::tree::Dir;
use report::{Judged, Report, Result as Tried, Word};
use target::{Absent, OpenTarget, Target};

/// Environment variable with a comma-separated list of strategies and file systems that must be available.
const REQUIRE_VARIABLE: &str = "STRATA_REQUIRE";

/// Check the strategies on this machine
///
/// Every case runs on every strategy, on new file systems in memory that no other process sees, or in a directory, or
/// on a snapshotter of containerd. With --durability none the run takes a fraction of the time. The store of --root is
/// not used, and nothing is left behind. Needs root.
///
/// A case passes, is skipped with a reason, deviates in a known way, or fails. The exit status is 1 if a case failed or
/// none ran. Strategies and file systems that STRATA_REQUIRE names (overlay,ext4) must be available: their skips count
/// as failures. With --format tap each result is printed when its case ends, otherwise all results at the end.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  strata conformance --strategy overlay --fs ext4,xfs
  strata conformance --on /srv/test --case 'content/*'
  strata conformance --containerd /run/containerd/containerd.sock --snapshotter overlayfs
  strata conformance --case 'random/*' --seed 7 --scripts 1000
  strata conformance --format junit > results.xml")]
pub(super) struct Conformance {
    /// Strategies to check [default: all]
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    strategy: Vec<String>,
    /// Check in this directory, on its file system
    #[arg(long, value_name = "DIR", conflicts_with = "fs")]
    on: Option<PathBuf>,
    /// Types of the new file systems [default: ext4,xfs,btrfs,tmpfs]
    #[arg(long, value_name = "TYPE", value_delimiter = ',', value_parser = file_system())]
    fs: Vec<FsType>,
    /// Check a snapshotter behind this socket, of containerd or of a proxy plugin
    #[cfg(feature = "containerd")]
    #[arg(long, value_name = "SOCKET", conflicts_with_all = ["strategy", "on", "fs"])]
    containerd: Option<PathBuf>,
    /// Name of containerd's snapshotter; without it the socket is that of a proxy plugin
    #[cfg(feature = "containerd")]
    #[arg(long, value_name = "NAME", requires = "containerd")]
    snapshotter: Option<String>,
    /// Run only these cases; wildcards are allowed, --list shows the names
    #[arg(long, value_name = "GLOB", value_parser = glob)]
    case: Vec<GlobMatcher>,
    /// Seed of the random scripts: the same seed gives the same scripts
    #[arg(long, value_name = "N", default_value = "1")]
    seed: u64,
    /// Number of random scripts
    #[arg(long, value_name = "N", default_value = "10")]
    scripts: u64,
    /// Run only this script: the printed lines of a failed one
    #[arg(long, value_name = "FILE", conflicts_with = "case")]
    replay: Option<PathBuf>,
    /// Format of the output
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    format: Format,
    /// List the cases without running them
    #[arg(long)]
    list: bool,
}

/// Format of the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Text for people
    Text,
    /// The Test Anything Protocol, version 14
    Tap,
    /// JUnit XML
    Junit,
    /// One JSON document
    Json,
}

fn file_system() -> impl TypedValueParser<Value = FsType> {
    PossibleValuesParser::new(FsType::ALL.map(FsType::as_str))
        .map(|name| FsType::ALL.into_iter().find(|fs| fs.as_str() == name).unwrap_or(FsType::Tmpfs))
}

fn glob(text: &str) -> std::result::Result<GlobMatcher, globset::Error> {
    GlobBuilder::new(text).literal_separator(false).build().map(|glob| glob.compile_matcher())
}

impl Conformance {
    pub fn run(&self, session: &Session) -> Done {
        let cases = self.cases()?;
        if cases.is_empty() {
            return Err(Error::not_found("no case has such a name: strata conformance --list tells them").into());
        }
        if self.list {
            return self.tell(session, &cases);
        }
        super::session::check_privilege()?;
        if let Some(dir) = &self.on {
            // Fails early: without the directory no strategy can be checked.
            Dir::open(dir)?;
        }
        let interrupt = Interrupt::watch(session)?;
        let required = std::env::var(REQUIRE_VARIABLE).unwrap_or_default();
        let required: Vec<&str> = required.split(',').map(str::trim).collect();
        let wanted = self.wanted(session.strategies());
        let bar = bar(session, (wanted.len() * cases.len()) as u64)?;
        let tap = (self.format == Format::Tap && !session.output.is_json()).then_some(&session.output);
        let mut judge = Judge { cases: &cases, required: &required, interrupt: &interrupt, bar, tap, told: 0 };
        let mut report = Report::new();
        judge.tell(tap::VERSION)?;
        for wanted in &wanted {
            if !interrupt.asked() {
                judge.bar.set_message(format!("setting up {wanted}"));
                let stage = OpenTarget::new(wanted, session.config().durability);
                report.judged.push(judge.judge(wanted, stage)?);
            }
        }
        judge.bar.finish_and_clear();
        report.interrupted = interrupt.asked();
        self.print(session, &report)?;
        interrupt.check()?;
        match report.count(Word::Failed) {
            0 if report.tried() == 0 => Err(Error::precondition("no case was tried, for the reasons above").into()),
            0 => Ok(()),
            failed => Err(Error::data_loss(format!("{failed} of {} cases failed", report.tried())).into()),
        }
    }

    fn cases(&self) -> Result<Vec<Case>> {
        if let Some(file) = &self.replay {
            let text = std::fs::read_to_string(file).at("read", file)?;
            let script =
                random::parse(&text).map_err(|error| error.context(format!("{} is no script", file.display())))?;
            return Ok(vec![suite::replay(script)]);
        }
        let mut cases = suite::cases(self.seed, self.scripts);
        cases.retain(|case| self.case.is_empty() || self.case.iter().any(|glob| glob.is_match(&case.name)));
        Ok(cases)
    }

    /// Returns the snapshotters to check.
    fn wanted(&self, table: &Strategies) -> Vec<Target> {
        #[cfg(feature = "containerd")]
        if let Some(socket) = &self.containerd {
            return vec![Target::Served { socket: socket.clone(), name: self.snapshotter.clone() }];
        }
        let is_named = |name: &str| self.strategy.is_empty() || self.strategy.iter().any(|named| named == name);
        let strategies = table.variants().into_iter().filter(|(_, variant)| is_named(variant.name));
        if let Some(dir) = &self.on {
            let in_dir = |(strategy, variant)| Target::In { strategy, variant, dir: dir.clone() };
            return strategies.map(in_dir).collect();
        }
        let systems = if self.fs.is_empty() { FsType::ALL.to_vec() } else { self.fs.clone() };
        let on_each =
            |(strategy, variant)| systems.iter().map(move |fs| Target::Fresh(Setting { strategy, variant, fs: *fs }));
        strategies.flat_map(on_each).collect()
    }

    fn tell(&self, session: &Session, cases: &[Case]) -> Done {
        let document: Vec<_> = cases.iter().map(report::described).collect();
        if self.format == Format::Json {
            return Ok(session.output.document(&document)?);
        }
        let row = |case: &Case| vec![case.name.clone(), case.source.to_owned(), case.meaning.to_owned()];
        let text = || table(&["CASE", "SOURCE", "IF IT FAILS"], cases.iter().map(row).collect());
        Ok(session.output.either(&document, text)?)
    }

    fn print(&self, session: &Session, report: &Report) -> Result<()> {
        match self.format {
            _ if session.output.is_json() => session.output.document(report),
            Format::Json => session.output.document(report),
            Format::Text => session.output.text(&report.text()),
            Format::Tap if report.interrupted => session.output.text(tap::INTERRUPTED),
            Format::Tap => session.output.text(&tap::plan(report.results().count())),
            Format::Junit => session.output.bytes(&junit::print(report)?),
        }
    }
}

/// Runs the cases.
struct Judge<'a> {
    cases: &'a [Case],
    required: &'a [&'a str],
    interrupt: &'a Interrupt,
    bar: ProgressBar,
    /// Output for results that are printed at once.
    tap: Option<&'a Output>,
    /// Number of results printed so far.
    told: usize,
}

impl Judge<'_> {
    /// Runs every case on one target.
    fn judge(&mut self, wanted: &Target, stage: std::result::Result<OpenTarget, Absent>) -> Result<Judged> {
        let mut judged = Judged::of(wanted);
        let stage = match stage {
            Ok(stage) => stage,
            Err(absent) => {
                self.bar.inc(self.cases.len() as u64);
                self.note(&mut judged, Tried::absent(absent, wanted.is_required(self.required)))?;
                return Ok(judged);
            }
        };
        let tried = match stage.subject() {
            Err(error) => self.note(&mut judged, Tried::setup(Word::Failed, error.chain())),
            Ok(subject) => self.try_all(&subject, &mut judged),
        };
        let cleared = match stage.clear() {
            Ok(()) => Ok(()),
            Err(error) => {
                let left = format!("something is left: {}", error.chain());
                self.note(&mut judged, Tried::setup(Word::Failed, left))
            }
        };
        tried.and(cleared).map(|()| judged)
    }

    fn try_all(&mut self, subject: &Subject<'_>, judged: &mut Judged) -> Result<()> {
        for case in self.cases {
            if self.interrupt.asked() {
                break;
            }
            self.bar.set_message(format!("{}: {}", judged.name, case.name));
            tracing::info!(subject = judged.name, case = case.name, "trying");
            let began = Instant::now();
            let outcome = case.run(subject);
            self.note(judged, Tried::new(case, outcome, began.elapsed()))?;
            self.bar.inc(1);
        }
        Ok(())
    }

    fn note(&mut self, judged: &mut Judged, result: Tried) -> Result<()> {
        self.told += 1;
        let told = self.tell(&tap::line(self.told, &judged.name, &result));
        judged.results.push(result);
        told
    }

    /// Prints text at once, without disturbing the progress bar.
    fn tell(&self, text: &str) -> Result<()> {
        self.tap.map_or(Ok(()), |output| self.bar.suspend(|| output.text(text)))
    }
}

fn bar(session: &Session, total: u64) -> Result<ProgressBar> {
    if !session.draws() {
        return Ok(ProgressBar::hidden());
    }
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {msg}")
        .map_err(|error| Error::invalid("the form of the progress bar").with_source(error))?;
    Ok(ProgressBar::new(total).with_style(style))
}
